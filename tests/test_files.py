"""Files and folders that are there whole, or as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from langgraph_learnloop.files import file_sha256, whole_file, whole_folder


def test_a_file_takes_its_place_when_it_is_written(tmp_path: Path) -> None:
    """What was there is replaced, nothing is left beside; a folder that is not there is not made."""
    target = tmp_path / "b.txt"
    for text in ("one", "two"):
        with whole_file(target) as beside:
            beside.write_text(text)
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "nowhere" / "b.txt") as beside:
        beside.write_text("one")


def test_a_file_stays_as_it_was_when_writing_fails(tmp_path: Path) -> None:
    """Whatever is raised, the old file is there and nothing of the new one."""
    target = tmp_path / "b.txt"
    target.write_text("old")

    def half() -> None:
        with whole_file(target) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_its_place_whole(tmp_path: Path) -> None:
    """What was in the old one is gone; a failure leaves it."""
    target = tmp_path / "x" / "model"
    for name in ("one", "two"):
        with whole_folder(target) as beside:
            (beside / name).touch()
        assert [path.name for path in target.iterdir()] == [name]

    def half() -> None:
        with whole_folder(target) as beside:
            (beside / "three").touch()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        half()
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(target.parent.iterdir()) == [target]


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    """The SHA-256, in hex, of what is in it."""
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
