"""The command line: what a person sees, and what they see when something is wrong."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from langgraph_learnloop import cli
from langgraph_learnloop.cli import terminal
from langgraph_learnloop.curation.review import TerminalReviewer
from langgraph_learnloop.evaluation.suites import read_suite
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.records import FLAG_MOVES
from langgraph_learnloop.testing import MemoryMirror, ScriptedModel
from tests.shop import Shop

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave a folder behind with a store in which a release was promoted."""
    folder = tmp_path_factory.mktemp("promoted")
    with pytest.MonkeyPatch.context() as patch, (shop := Shop(folder / "l.db")).loop:
        patch.chdir(folder)
        shop.remember()
        shop.bad_day()
        shop.ask("a[red]b", "hello [bold]you[/bold] \x1b[31m, what are the opening hours on monday")
        shop.loop.cycle()
    return folder


@pytest.fixture
def store(promoted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a copy of that store, to be changed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(promoted, tmp_path, dirs_exist_ok=True)
    return str(tmp_path / "l.db")


def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["learnloop", *words])
    monkeypatch.setattr(terminal.console, "_width", 250)
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (["runs"], "I do not know."),
        (["flagged", "--state", "curated"], "corrected by user-"),
        (["flagged"], "No flag is open."),
        (["weaknesses"], "No flag is open."),
        (["weaknesses", "--state", "curated"], "return"),
        (["releases"], "serves"),
        (["tidy", "--gb", "1"], "Nothing was removed"),
        (["log"], "gate:passed"),
        (["review"], "Nothing waits for review."),
        (["rollback"], "New conversations get"),
    ],
)
def test_commands_show_what_happened(
    store: str, words: list[str], shows: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command reads the store and ends well."""
    code, out, err = _run(capsys, monkeypatch, *words, "--store", store)
    assert (code, err) == (0, "")
    assert shows in out


def test_a_weakness_shows_its_runs_and_a_run_those_like_it(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what went wrong to a run of it, and from there to where else that happened."""
    with LearnLoop(store, agent="shop") as loop:
        worst = loop.weaknesses("curated")[0]
    words = ["--state", "curated", "--store", store]
    _, out, _ = _run(capsys, monkeypatch, "weaknesses", "--limit", "1", *words)
    assert worst.weakness_id[:8] in out
    code, out, err = _run(capsys, monkeypatch, "weaknesses", worst.weakness_id[:8], *words)
    assert (code, err) == (0, "")
    assert worst.run_ids[0][:18] in out
    assert f"{len(worst.run_ids)} runs in {worst.threads} threads" in out
    code, out, err = _run(capsys, monkeypatch, "similar", worst.run_ids[0], "--limit", "3", "--store", store)
    assert (code, err) == (0, "")
    assert out.count("how long can I return") == 3
    code, _, err = _run(capsys, monkeypatch, "weaknesses", "zz", *words)
    assert code == 2
    assert "No weakness begins with 'zz'" in err


def test_captured_text_cannot_paint_the_terminal(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markup and control characters in a request are shown, not obeyed."""
    _, out, _ = _run(capsys, monkeypatch, "runs", "--store", store)
    assert "[bold]you[/bold]" in out
    assert "\x1b[31m" not in out


def test_training_refuses_in_a_sentence(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset or a method that is not there is named, and nothing is trained."""
    for words, sentence in (
        (["--dataset", "zz"], "There is no dataset whose version begins with 'zz'"),
        (["--method", "ppo"], "The method 'ppo' cannot be used"),
        (["--minutes", "0"], "minutes"),
    ):
        code, _, err = _run(capsys, monkeypatch, "train", "--store", store, *words)
        assert code == 2
        assert sentence in err
    for command in (["search", "--dataset", "zz"], ["search", "--trials", "0"], ["merge", "nothing", "folder"]):
        code, _, err = _run(capsys, monkeypatch, *command, "--store", store)
        assert code == 2
        assert "Traceback" not in err


def test_the_ledger_is_shown(store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each lesson that was shipped, with its shares then and now."""
    code, out, _ = _run(capsys, monkeypatch, "remembered", "--store", store)
    assert code == 0
    assert "100.0%" in out


def test_an_examination_is_planned_and_shown(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the cases could show beforehand, what they showed, and the page to send around."""
    code, out, _ = _run(capsys, monkeypatch, "evaluate", "--plan", "--store", store)
    assert code == 0
    assert "retention:answer" in out
    with LearnLoop(store) as loop:
        candidate = loop.champion.release_id
    page = tmp_path / "page.html"
    code, out, _ = _run(capsys, monkeypatch, "report", candidate[:6], "--store", store, "--html", str(page))
    assert code == 0
    assert "Ship" in out
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    code, _, err = _run(capsys, monkeypatch, "report", candidate, "--store", store, "--html", "no/such/folder/x.html")
    assert code == 2
    assert "cannot be written" in err


def test_held_out_cases_become_a_suite(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file can be read again, as the settings and pytest do."""
    code, out, _ = _run(capsys, monkeypatch, "suite", str(tmp_path / "suite.jsonl"), "--store", store)
    assert code == 0
    cases = read_suite(tmp_path / "suite.jsonl")
    assert f"{len(cases)} cases are in" in out
    assert {case.suite for case in cases} == {"target", "retention"}


def test_runs_are_replayed_and_candidates_examined_with_the_app(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The agent is the user's own, named as for `cycle`; a candidate that does not pass ends with exit code 1."""
    (tmp_path / "shop_app.py").write_text(
        f"from pathlib import Path\nfrom tests.shop import Shop\nloop = Shop(Path({store!r})).loop\n", encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with LearnLoop(store) as loop:
        run, champion = loop.store.runs.recent(1)[0].run_id, loop.champion.release_id
    code, out, _ = _run(capsys, monkeypatch, "replay", run, "--app", "shop_app:loop")
    assert code == 0
    assert "then" in out
    sys.modules.pop("shop_app")
    code, out, _ = _run(capsys, monkeypatch, "evaluate", champion, "--app", "shop_app:loop")
    assert code == 1
    assert "there is nothing to ship" in out
    sys.modules.pop("shop_app")


def test_two_releases_are_compared(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alone is held against the champion; captured words are shown, not obeyed, and a wrong id is a sentence."""
    with LearnLoop(store) as loop:
        base = loop.store.releases.history()[0].release_id
        fact = "[bold]We[/bold] open \x1b[31m at nine."
        draft = loop.draft(instructions="Be kind.", knowledge=[fact]).release_id
        champion = loop.champion.release_id
    code, out, _ = _run(capsys, monkeypatch, "diff", base[:6], champion, "--store", store)
    assert code == 0
    for shows in ("correction", "target", "not asked → passed", "recipe.rank", "served"):
        assert shows in out
    code, out, _ = _run(capsys, monkeypatch, "diff", draft, "--store", store)
    assert code == 0
    assert f"from {champion} to {draft}" in out
    assert "+Be kind." in out
    assert "+ [bold]We[/bold] open \\u001b[31m at nine." in out
    code, _, err = _run(capsys, monkeypatch, "diff", "zz", "--store", store)
    assert (code, "'zz' is not in the store" in err, "Traceback" in err) == (2, True, False)


def test_room_is_made_on_the_disk(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would go is shown first, then it goes; a budget must be said."""
    trial = Path(f"{store}.files") / "jobs" / "0123456789abcdef"
    trial.mkdir()
    (trial / "weights").write_text("x" * 1_000_000)
    assert "MB" in _run(capsys, monkeypatch, "releases", "--store", store)[1]
    code, _, err = _run(capsys, monkeypatch, "tidy", "--store", store)
    assert (code, "Say how much may stay" in err) == (2, True)
    code, out, _ = _run(capsys, monkeypatch, "tidy", "--gb", "0", "--dry-run", "--store", store)
    assert (code, trial.name in out, trial.exists()) == (0, True, True)
    code, out, _ = _run(capsys, monkeypatch, "tidy", "--gb", "0", "--store", store)
    assert (code, "No release names it." in out, trial.exists()) == (0, True, False)


def test_a_rollout_is_shown_and_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """People look at it and move it from any process; what cannot be done is a sentence."""
    store = str(tmp_path / "l.db")
    with (shop := Shop(tmp_path / "l.db")).loop:
        shop.remember()
        shop.bad_day()
        assert "There was no rollout yet" in _run(capsys, monkeypatch, "rollout", "--store", store)[2]
        dataset = shop.loop.curate()
        assert dataset is not None
        candidate = shop.loop.train(dataset)
        shop.loop.evaluate(candidate, dataset)
        shop.loop.rollout(candidate.release_id)
    for words, shows in (
        (["show"], "shadow"),
        (["step"], "asked by 0 of the 50 threads"),
        (["approve"], "1% of new threads"),
        (["approve"], "5% of new threads"),
        (["pause", "--because", "lunch"], "lunch"),
        (["resume"], "1% of new threads"),
        (["25"], "25% of new threads"),
        (["back", "--because", "it lies"], "it lies"),
        (["show"], "rolled_back"),
    ):
        code, out, err = _run(capsys, monkeypatch, "rollout", *words, "--store", store)
        assert (code, err) == (0, ""), words
        assert shows in out
    for word, sentence in (("approve", "No rollout is on its way"), ("fly", "There is no such move as 'fly'")):
        code, _, err = _run(capsys, monkeypatch, "rollout", word, "--store", store)
        assert code == 2
        assert sentence in err


def test_a_rollout_is_watched_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage is said once; who takes it back from elsewhere ends the watch."""
    store = str(tmp_path / "l.db")
    with (shop := Shop(tmp_path / "l.db")).loop as loop:
        shop.remember()
        shop.bad_day()
        dataset = loop.curate()
        assert dataset is not None
        candidate = loop.train(dataset).release_id
        loop.evaluate(loop.store.releases.get(candidate), dataset)
        loop.rollout(candidate)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            with LearnLoop(store) as elsewhere:
                elsewhere.rolling.back("It lies.", "ann")

    monkeypatch.setattr("langgraph_learnloop.cli.serving.time.sleep", sleep)
    code, out, err = _run(capsys, monkeypatch, "rollout", "watch", "--every", "5", "--store", store)
    assert (code, err) == (0, "")
    assert [line.partition(".")[0] for line in out.splitlines()[:2]] == [
        f"{candidate}: shadow",
        f"{candidate}: rolled_back",
    ]
    assert slept == [5.0, 5.0]


def test_corrections_are_decided_at_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not decided when the person leaves waits for the next time; who decided is kept."""
    with (shop := Shop(tmp_path / "l.db")).loop as loop:
        shop.remember()
        shop.bad_day()
        loop.store.cycles.start("c", NOW)
        assert loop.curate(TerminalReviewer(terminal.console, "nobody", lambda _: "q"), "c") is None
        waiting = len(loop.pending())
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nr\nq\n"))
    code, out, _ = _run(capsys, monkeypatch, "review", "--by", "ann", "--store", str(tmp_path / "l.db"))
    assert code == 0
    assert f"2 decided, {waiting - 2} left." in out
    with LearnLoop(tmp_path / "l.db") as loop:
        assert {verdict.by for _, verdict in loop.lessons.decided("c")} == {"ann"}


def test_what_the_file_system_refuses_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file, and nothing is a traceback."""
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = _run(capsys, monkeypatch, "init", str(tmp_path / "notes.txt" / "new"))
    assert code == 2
    assert f"The file system refused ({tmp_path / 'notes.txt'}" in err


def test_a_mirror_is_told_and_let_go(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is told, what was not taken is told again when that is asked for, and a run says where it is shown."""
    mirror = MemoryMirror()
    monkeypatch.setitem(sys.modules, "my_mirror", ModuleType("my_mirror"))
    monkeypatch.setattr(sys.modules["my_mirror"], "mirror", mirror, raising=False)
    Path("learnloop.toml").write_text('agent = "shop"\nmirror = "my_mirror:mirror"\n')
    run_id = _first_run(store)
    mirror.never = {run_id}
    code, out, _ = _run(capsys, monkeypatch, "mirror", "--all", "--once", "--store", store)
    assert (code, run_id in mirror.subjects("run")) == (1, False)
    assert "0 waiting, 1 not taken. The mirror 'memory' does not take" in out
    mirror.never = set()
    code, out, _ = _run(capsys, monkeypatch, "mirror", "--once", "--retry", "--store", store)
    assert (code, run_id in mirror.subjects("run")) == (0, True)
    assert f"It is shown at memory:{run_id}" in _run(capsys, monkeypatch, "runs", "show", run_id, "--store", store)[1]
    code, out, _ = _run(capsys, monkeypatch, "mirror", "--forget", "--store", store)
    assert (code, out) == (0, "memory is told nothing any more; take it out of the settings, too.\n")


def test_a_base_has_nothing_to_merge(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release without an adapter is its base already."""
    with LearnLoop(store) as loop:
        base = loop.store.releases.history()[0].release_id
    code, _, err = _run(capsys, monkeypatch, "merge", base, "folder", "--store", store)
    assert (code, "has no adapter to merge: use 'memory' as it is" in err) == (2, True)


def test_rollback_twice_says_there_is_nothing_left(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back ends at the base, with exit code 2 and nothing changed."""
    assert _run(capsys, monkeypatch, "rollback", "--store", store)[0] == 0
    code, _, err = _run(capsys, monkeypatch, "rollback", "--store", store)
    assert code == 2
    assert "nothing to roll back to" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs", "--store", "nowhere.db"], "There is no store at 'nowhere.db'"),
        (["flagged", "--state", "lost"], "There is no flag state 'lost'"),
        (["weaknesses", "--state", "lost"], "There is no flag state 'lost'"),
        (["weaknesses", "--store", "nowhere.db"], "There is no store at 'nowhere.db'"),
        (["similar", "x", "--store", "nowhere.db"], "There is no store at 'nowhere.db'"),
        (["runs", "--limit", "0"], "limit"),
        (["cycle"], 'Name your LearnLoop with --app "module:attribute"'),
        (["evaluate"], "Name the candidate"),
        (["serve"], 'Name your LearnLoop with --app "module:attribute"'),
        (["evaluate", "x"], 'Name your LearnLoop with --app "module:attribute"'),
        (["replay", "x"], 'Name your LearnLoop with --app "module:attribute"'),
        (["report", "x", "--store", "nowhere.db"], "There is no store at 'nowhere.db'"),
        (["suite", "x.jsonl", "--store", "nowhere.db"], "There is no store at 'nowhere.db'"),
        (["cycle", "--app", "no_such_module:loop"], "cannot be loaded"),
        (["cycle", "--app", "os:path"], "not a LearnLoop"),
        (["fly"], "fly"),
        (["demo", "--data", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_a_refusal_is_one_sentence_and_exit_code_2(
    tmp_path: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be done is said without a traceback."""
    monkeypatch.chdir(tmp_path)
    code, _, err = _run(capsys, monkeypatch, *words)
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err


def test_a_store_of_a_newer_version_is_left_alone(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old program does not touch a store it cannot understand."""
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE learnloop_version SET version_num = '9999'")
    code, _, err = _run(capsys, monkeypatch, "runs", "--store", store)
    assert code == 2
    assert "newer" in err


def test_a_file_that_is_no_store_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming the wrong file harms neither the file nor the user."""
    file = tmp_path / "notes.txt"
    file.write_text("dear diary, " * 100)
    code, _, err = _run(capsys, monkeypatch, "runs", "--store", str(file))
    assert code == 2
    assert "notes.txt" in err
    assert file.read_text().startswith("dear diary")


def test_a_malformed_data_file_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`demo --data` says which line of which file it cannot use."""
    monkeypatch.chdir(tmp_path)
    good = '{"text": "rate it", "tool": "rate", "args": {}, "split": "train"}\n'
    for bad, why in (("{oops\n", "is not JSON"), (good.replace('"split"', '"splat"'), "splat")):
        (tmp_path / "d.jsonl").write_text(good + bad)
        code, _, err = _run(capsys, monkeypatch, "demo", "--data", "d.jsonl")
        assert code == 2
        assert "line 2" in err
        assert why in err


def test_cycle_walks_the_app(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`learnloop cycle --app module:attribute` finds the loop in the current folder and walks it, or says why not."""
    monkeypatch.chdir(tmp_path)
    Path("my_shop.py").write_text(
        "from pathlib import Path\nfrom tests.shop import Shop\n"
        "shop = Shop(Path('l.db'))\nshop.remember()\nshop.bad_day()\nloop = shop.loop\n"
    )
    code, out, _ = _run(capsys, monkeypatch, "cycle", "--app", "my_shop:loop")
    assert code == 0
    assert "promoted:" in out
    with LearnLoop(tmp_path / "l.db") as loop:
        assert len(loop.store.releases.all()) == 2
    Path("same_shop.py").write_text(
        "from pathlib import Path\nfrom tests.shop import Shop\nloop = Shop(Path('l.db')).loop\n"
    )
    code, out, _ = _run(capsys, monkeypatch, "cycle", "--app", "same_shop:loop")
    assert (code, out.strip()) == (0, "nothing: Nothing that went wrong was corrected, so there is nothing to learn.")


def test_a_candidate_that_passes_ends_with_exit_code_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script can tell what passed from what did not."""
    monkeypatch.chdir(tmp_path)
    with (shop := Shop.after("examined", tmp_path)).loop as loop:
        champion = loop.champion.release_id
        (passed,) = [one.release_id for one in shop.loop.store.releases.all() if one.release_id != champion]
    Path("examined_shop.py").write_text(
        "from pathlib import Path\nfrom tests.shop import Shop\nloop = Shop(Path('l.db')).loop\n"
    )
    code, out, _ = _run(capsys, monkeypatch, "evaluate", passed, "--app", "examined_shop:loop")
    assert (code, "ship" in out) == (0, True)


def test_a_mirror_is_told_until_ctrl_c(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far it is is said once, and again when that has changed."""
    monkeypatch.setitem(sys.modules, "my_mirror", ModuleType("my_mirror"))
    monkeypatch.setattr(sys.modules["my_mirror"], "mirror", MemoryMirror(), raising=False)
    Path("learnloop.toml").write_text('agent = "shop"\nmirror = "my_mirror:mirror"\n')
    looks = iter(range(9))

    def pause(seconds: float) -> None:
        if next(looks) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr("langgraph_learnloop.cli.serving.time", SimpleNamespace(sleep=pause))
    code, out, _ = _run(capsys, monkeypatch, "mirror", "--all", "--store", store)
    said = out.splitlines()
    assert (code, len(said)) == (130, len(set(said)))
    assert "0 waiting, 0 not taken." in said[-1]


def _python(*words: str, cwd: Path, before: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False, **options)


def test_a_read_only_folder_is_a_sentence(tmp_path: Path) -> None:
    """The demo in a folder that cannot be written says so; root, who may write everywhere, gives that right up."""
    humbly = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    if humbly and shutil.which(humbly[0]) is None:
        pytest.skip("root may write everywhere, and setpriv is not there to change that")
    tmp_path.chmod(0o555)
    command = ("-m", "langgraph_learnloop", "demo", "--home", str(tmp_path / "demo"))
    done = _python(*command, cwd=tmp_path, before=humbly)
    assert done.returncode == 2, done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


SHORT_DAY = """
import sys
from dataclasses import replace
from langgraph_learnloop import cli
from langgraph_learnloop.demo import play
from langgraph_learnloop.testing import MemoryEngine

world = play.sample_world()
play.sample_world = lambda: replace(world, day1=world.day1[:99])
play._engine = lambda world: MemoryEngine()  # what it answers takes as much room
sys.argv = ["learnloop", "demo", "--home", "demo"]
cli.main()
"""


def test_a_full_disk_is_a_sentence_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk takes no more in the middle of the first day, the demo says so, and all that ran is there later."""
    resource = pytest.importorskip("resource")

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (450_000, 450_000))  # a write beyond it fails, as on a full disk

    full = _python("-c", SHORT_DAY, cwd=tmp_path, preexec_fn=small_disk)
    assert full.returncode == 2, full.stdout + full.stderr
    assert "disk" in full.stderr
    assert "Traceback" not in full.stderr
    store = str(tmp_path / "demo" / "learnloop.db")
    assert _run(capsys, monkeypatch, "runs", "--store", store)[0] == 0
    with LearnLoop(store) as loop:
        ScriptedModel(script=["Hi."]).invoke("Hello", {"callbacks": [loop.recorder]})
        loop.flush()
        assert len(loop.store.runs.recent(200)) == 99 + 1


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    """An interrupt ends with a sentence and exit code 130, not with a traceback."""
    code = (
        "import sys; from langgraph_learnloop import cli, loop\n"
        "def stop(*a, **k): raise KeyboardInterrupt\n"
        "loop.LearnLoop.__init__ = stop; sys.argv = ['learnloop', 'runs', '--store', sys.executable]\n"
        "cli.main()"
    )
    done = _python("-c", code, cwd=tmp_path)
    assert done.returncode == 130
    assert "Run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


def _first_run(store: str) -> str:
    with LearnLoop(store) as loop:
        return next(run.run_id for run in loop.store.runs.recent(limit=100) if run.thread_id == "a[red]b")


def test_a_run_is_drawn_as_a_tree(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Question, model call and answer are there, under the run; a part of the id is enough; nothing is obeyed."""
    run_id = _first_run(store)
    code, out, _ = _run(capsys, monkeypatch, "runs", "show", run_id[:-4], "--store", store)
    assert code == 0
    assert f"run {run_id}" in out
    assert "thread a[red]b" in out
    assert "asked: hello [bold]you[/bold]" in out
    assert "\x1b[31m" not in out
    lines = out.splitlines()
    model = next(
        line for line in lines if "model MemoryEngine" in line or "model learnloop" in line or "model " in line
    )
    assert lines.index(model) > 1
    assert "answered: We are open from nine to five." in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["runs", "show", "nothing"], "The run 'nothing' is not in the store"),
        (["runs", "show", ""], "Several runs begin with"),
        (["runs", "export"], "--jsonl FILE or --parquet FILE"),
        (["runs", "export", "--jsonl", "no/folder/x.jsonl"], "cannot be written to"),
    ],
)
def test_looking_into_runs_refuses_in_a_sentence(
    store: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is not there, an id that is too short, an export to nowhere: one sentence, exit code 2."""
    code, _, err = _run(capsys, monkeypatch, *words, "--store", store)
    assert code == 2
    assert says in err.replace("\n", " ")


def test_an_export_can_be_read_without_the_store(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each line fits the schema that the command line prints, and holds the conversation; the table holds the same."""
    import json

    import jsonschema
    import pyarrow.parquet

    _, printed, _ = _run(capsys, monkeypatch, "schema")
    code, out, _ = _run(capsys, monkeypatch, "runs", "export", "--jsonl", "runs.jsonl", "--store", store)
    assert code == 0
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert f"{len(lines)} runs are in runs.jsonl" in out
    for line in lines:
        jsonschema.validate(line, json.loads(printed))
    assert [line["started_at"] for line in lines] == sorted(line["started_at"] for line in lines)
    assert [message["role"] for message in lines[0]["messages"]] == ["user", "assistant"]
    _run(capsys, monkeypatch, "runs", "export", "--parquet", "runs.parquet", "--store", store)
    table = pyarrow.parquet.read_table(tmp_path / "runs.parquet").to_pylist()
    assert [row["run_id"] for row in table] == [line["run_id"] for line in lines]
    assert json.loads(table[0]["messages"]) == lines[0]["messages"]
    _, streamed, _ = _run(capsys, monkeypatch, "runs", "export", "--jsonl", "-", "--store", store)
    assert streamed == (tmp_path / "runs.jsonl").read_text(encoding="utf-8")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Help of commands with arguments is printed; old versions of typer could not."""
    for words in (("runs", "export"), ("runs", "show"), ("evaluate",)):
        code, out, _ = _run(capsys, monkeypatch, *words, "--help")
        assert code == 0
        assert "Usage" in out


def test_the_help_of_flagged_names_every_state(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help is written without loading the nouns, so what it says of them is held here."""
    code, out, _ = _run(capsys, monkeypatch, "flagged", "--help")
    assert code == 0
    assert f"One of {', '.join(FLAG_MOVES)}." in " ".join(out.split())
