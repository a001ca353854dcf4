"""Rows of a user's own file: what is read, and the sentence that refuses the rest."""

import json

import pytest

from langgraph_learnloop.demo import rows, toolbox
from langgraph_learnloop.errors import DataError

GOOD = {"text": "play Anna", "tool": "play", "args": {"artist": "Anna", "n": 2, "tags": ["a", "b"]}, "split": "train"}


def write(path, *lines):
    file = path / "rows.jsonl"
    file.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")
    return file


def test_good_rows_are_read(tmp_path):
    """Rows are read as they stand; a domain is welcome, an empty line is nothing."""
    file = write(tmp_path, GOOD, "\n", GOOD | {"domain": "music"})
    assert rows.read_rows(file) == [GOOD, GOOD | {"domain": "music"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json\n", "is not JSON"),
        ([1], "is a list"),
        (GOOD | {"label": 1}, "unknown column 'label'"),
        ({"text": "x", "tool": "t", "split": "test"}, "lacks 'args'"),
        (GOOD | {"text": 7}, "'text' 7"),
        (GOOD | {"tool": " "}, "'tool' ' '"),
        (GOOD | {"split": "valid"}, "split 'valid'"),
        (GOOD | {"args": ["x"]}, "'args' ['x']"),
        (GOOD | {"args": {"a": 1.5}}, "'a' with the value 1.5"),
        (GOOD | {"args": {"a": True}}, "'a' with the value True"),
        (GOOD | {"args": {"a": []}}, "'a' with the value []"),
    ],
)
def test_bad_line_is_refused(tmp_path, line, reason):
    """A bad line is refused in one sentence with the file, the line number, the reason and the format."""
    file = write(tmp_path, GOOD, line)
    with pytest.raises(DataError) as caught:
        rows.read_rows(file)
    message = str(caught.value)
    assert "rows.jsonl" in message
    assert "line 2" in message
    assert reason in message
    assert rows.FORMAT in message


def test_missing_file_is_refused(tmp_path):
    """A file that is not there is refused by name."""
    with pytest.raises(DataError, match=r"nowhere\.jsonl.*No such file"):
        rows.read_rows(tmp_path / "nowhere.jsonl")


def test_other_encoding_is_refused(tmp_path):
    """A file that is not UTF-8 is refused with the line."""
    file = tmp_path / "latin.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + '\n{"text": "caf\xe9"}'.encode("latin-1"))
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        rows.read_rows(file)


def test_empty_file_is_refused(tmp_path):
    """A file without rows is refused."""
    with pytest.raises(DataError, match="holds no rows"):
        rows.read_rows(write(tmp_path, "\n"))


def _rows(*tools):
    return [GOOD | {"tool": tool, "split": split} for tool in tools for split in ("train", "dev", "test")]


def test_tools_are_split():
    """Held-out tools are kept from the base, and both halves have training and test rows."""
    split = rows.split_tools(_rows("a", "b", "c"), {"b"})
    assert [row["tool"] for row in split.base_train] == ["a", "c"]
    assert [row["tool"] for row in split.target_test] == ["b"]
    assert split.held_out == ["b"]


def test_a_share_of_the_base_tools_is_kept_from_the_base():
    """The gate's cases and the people's requests are not what the base learned by heart, whatever the file's order."""
    some = [GOOD | {"text": str(i), "tool": tool, "split": "train"} for tool in ("a", "b") for i in range(70)]
    some += _rows("a", "b", "c")
    split = rows.split_tools(some, {"c"})
    fresh = {(row["tool"], row["text"]) for row in split.base_fresh}
    assert len(split.base_fresh) == 22
    assert not fresh & {(row["tool"], row["text"]) for row in split.base_train if row["text"] != GOOD["text"]}
    assert fresh == {(row["tool"], row["text"]) for row in rows.split_tools(some[::-1], {"c"}).base_fresh}


def test_known_tools_are_held_out_by_default():
    """Without a choice the two known tools are held out, and a file without them is refused."""
    assert rows.split_tools(_rows("a", *rows.HELD_OUT)).held_out == sorted(rows.HELD_OUT)
    with pytest.raises(DataError, match="hold_out"):
        rows.split_tools(_rows("a", "b"))


def test_unknown_or_too_many_held_out_tools_are_refused():
    """Holding out a tool the file lacks, or all of them, is refused."""
    with pytest.raises(DataError, match=r"Cannot hold out \['x'\]"):
        rows.split_tools(_rows("a", "b"), {"x"})
    with pytest.raises(DataError, match="No rows are left"):
        rows.split_tools(_rows("a", "b"), {"a", "b"})


def test_tools_for_rows_take_what_the_rows_hold():
    """Every tool of a file accepts its rows, and fewer arguments, and answers "Done."."""
    (tool,) = toolbox.tools_for_rows([GOOD])
    assert tool.invoke(GOOD["args"]) == "Done."
    assert tool.invoke({}) == "Done."
    with pytest.raises(ValueError, match="validation error"):
        tool.invoke({"artist": {"name": "Anna"}})
