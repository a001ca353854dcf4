"""Change one place of a module at a time, and count the changes that the module's own tests do not notice.

    python scripts/mutants.py [--seed 1] [--sample 30] [MODULE ...]

Of each module some changes are drawn by the seed. Each is tried in a forked child of a pytest that has imported and
collected everything, by putting its code in place: that takes as long as the tests, where mutmut and cosmic-ray begin
with a run of the whole suite or with two seconds of imports, and neither draws a sample. What stands in a class's body
or a signature has no code to be put in place, and is imported anew. A mutant that cannot be imported is not counted,
and words for people are not changed. tests/mutants.txt says of survivors why no test can tell them, or need not: they
count as survivors all the same. Returns 1 where more than a tenth of a module's mutants survive.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest
from _pytest.main import pytest_runtestloop
from hypothesis import Phase, settings

ROOT = Path(__file__).parent.parent
PACKAGE = "langgraph_learnloop"
ALLOWED = 0.1
KNOWN = ROOT / "tests" / "mutants.txt"
TESTS = {
    "evaluation/stats.py": "tests/evaluation/test_stats.py",
    "evaluation/paired.py": "tests/evaluation/test_paired.py",
    "evaluation/gates.py": "tests/evaluation/test_gates.py",
    "serving/toolcalls.py": "tests/serving/test_toolcalls.py",
    "capture/redaction.py": "tests/capture/test_redaction.py",
    "curation/split.py": "tests/curation/test_split.py",
    "records/feedback.py": "tests/test_records.py",
    "records/rollouts.py": "tests/test_records.py",
    "rolling.py": "tests/test_rolling_moves.py",
    "capture/writer.py": "tests/capture/test_writer.py",
    "capture/spool.py": "tests/capture/test_spool.py tests/capture/test_writer.py",
    "calls.py": "tests/test_calls.py tests/signals/test_explicit.py",
}
"""The test files that hold a module to its word, quickest first."""
SLOW = "keeps_its_error_rate never_ships has_power any_weather rarely covers bets slower dearer bootstrap sign_flip"
SLOW += " survives_a_kill interpreter_that_ends is_light living_process 32_threads"
"""Tests left out by words in their names: they simulate many trials, test another module, or start processes."""
LOADED = (
    "numpy scipy.special scipy.stats pydantic hypothesis pytest sqlalchemy alembic.config orjson zstandard jsonschema "
)
LOADED += "langchain_core.messages langchain_core.runnables langgraph.graph langgraph.checkpoint.memory sklearn.metrics"
UNBORN = 77

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}
_SKIPPED = {"annotation", "returns", "decorator_list", "type_params"}
_REGEX_PART = re.compile(r"(?<![\\(])[?*]|\d+(?=[,}])")


class Mutant(NamedTuple):
    """One change: what stands in `owner` at `field` (and `index`) becomes `new`."""

    line: int
    kind: str
    owner: Any
    field: str
    index: int | None
    new: Any
    quick: bool
    """It can be put in place without importing the module anew."""


def mutants(node: ast.AST, line: int = 1, quick: bool = True) -> Iterator[Mutant]:
    """Yield every change that can be made below a node."""
    line = getattr(node, "lineno", line)
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED or isinstance(node, ast.JoinedStr) or (field == "exc" and isinstance(node, ast.Raise)):
            continue
        inner = field == "body" if isinstance(node, ast.FunctionDef) else quick and not isinstance(node, ast.ClassDef)
        places = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in places:
            if not isinstance(child, ast.AST) or _is_prose(child):
                continue
            where = getattr(child, "lineno", line)
            if isinstance(node, ast.Module):  # other statements are not run again
                inner = isinstance(child, ast.Assign | ast.AnnAssign)
            for kind, new in _changes(node, field, child):
                yield Mutant(where, kind, node, field, index, new, inner)
            yield from mutants(child, where, inner)


def _is_prose(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(parent: ast.AST, field: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if type(node) in _OPERATORS:
        yield "operator", _OPERATORS[type(node)]()
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bool | int | float):
        yield from (("constant", ast.Constant(new)) for new in _other(parent, node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "operator gone", node.operand
    if isinstance(parent, ast.If | ast.While | ast.IfExp | ast.comprehension) and field in ("test", "ifs"):
        yield "negated", ast.UnaryOp(ast.Not(), node)  # type: ignore[arg-type]
    if isinstance(parent, ast.Return) and not (isinstance(node, ast.Constant) and node.value is None):
        yield "returns None", ast.Constant(None)
    plain = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    if plain or isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete | ast.Break | ast.Continue):
        yield "statement gone", ast.Pass()


def _other(parent: ast.AST, value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif not isinstance(value, str):
        yield value + 1 if isinstance(value, int) else 2 * value + 1
    elif isinstance(parent, ast.Call) and ast.unparse(parent.func) == "re.compile":
        for found in _REGEX_PART.finditer(value):
            new = {"?": "", "*": "+"}.get(found[0]) if found[0] in "?*" else str(int(found[0]) + 1)
            yield f"{value[: found.start()]}{new}{value[found.end() :]}"
    elif " " not in value.strip():
        yield f"{value}x"


class Profile:
    """Find one example that fails, the same in each run, and do not make it smaller."""

    def pytest_configure(self) -> None:
        """Set how examples are looked for."""
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
        settings.load_profile("mutants")


class Quick(Profile):
    """Collect once, then try each mutant in a child; the exit statuses go to `answers`."""

    def __init__(self, module: str, tree: ast.Module, drawn: Sequence[Mutant], answers: int) -> None:
        self.module, self.tree, self.drawn, self.answers = module, tree, drawn, answers

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what was collected once as it is, and then with each mutant in place."""
        begun = time.monotonic()
        status = in_child(lambda: _run(session), 300, quiet=False)
        limit = 5 + 4 * (time.monotonic() - begun)
        found = [status]
        for one in self.drawn if status == 0 else ():
            put = lambda code, one=one: _put_in_place(_name(self.module), code, self.tree, one)  # noqa: E731
            found.append(_tried(self.module, self.tree, one, put, lambda: _run(session), limit))
        os.write(self.answers, json.dumps([*found, limit]).encode())
        return True


class Loader(SourceFileLoader):
    """Find and load a module from code in place of its file."""

    code: CodeType

    def get_code(self, fullname: str) -> CodeType:
        """Return the code."""
        return self.code

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the module's place, if it is the one."""
        return importlib.util.spec_from_loader(name, self) if name == self.name else None


def examine(module: str, seed: int, sample: int) -> tuple[int, list[str]]:
    """Return how many mutants of a module were run, and those that survived, in words."""
    text = (ROOT / PACKAGE / module).read_text(encoding="utf-8")
    tree = ast.parse(text)
    every = list(mutants(tree))
    drawn = random.Random(f"{seed} {module}").sample(every, min(sample, len(every)))
    quick = [one for one in drawn if one.quick]
    reading, writing = os.pipe()
    in_child(lambda: _pytest(module, Quick(module, tree, quick, writing)), 3_600, quiet=False)
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        status, *found, limit = json.loads(stream.read() or "[null, 0]")
    if status != 0:
        raise SystemExit(f"The tests of {module} must pass before it is mutated; pytest ended with {status}.")
    slow = [one for one in drawn if not one.quick]
    put = lambda code: _import(_name(module), code)  # noqa: E731
    found += [_tried(module, tree, one, put, lambda: _pytest(module, Profile()), limit + 30) for one in slow]
    ran = [(one, status) for one, status in zip(quick + slow, found, strict=True) if status != UNBORN]
    lines = text.splitlines()
    lived = [one for one, status in ran if status == 0]
    return len(ran), [f"{module}:{one.line}: {lines[one.line - 1].strip()}  [{_shown(one)}]" for one in lived]


def in_child(work: Callable[[], int], limit: float, quiet: bool = True) -> int | None:
    """Return what `work` returns in a forked child; None where the time did not suffice."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2) if quiet else (0,):
                os.dup2(nowhere, stream)
            status = int(work())
        finally:
            os._exit(status)
    deadline = time.monotonic() + limit
    done, found = 0, 0
    while not done and time.monotonic() < deadline:
        done, found = os.waitpid(child, os.WNOHANG)
        time.sleep(0 if done else 0.01)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if not done:
        os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(found) if done else None


def _tried(
    module: str,
    tree: ast.Module,
    one: Mutant,
    put: Callable[[CodeType], None],
    test: Callable[[], int],
    limit: float,
) -> int | None:
    def work() -> int:
        try:
            put(code)
        except BaseException:  # noqa: BLE001 - whatever stops it, no test had to
            return UNBORN
        return test()

    with _changed(one):
        try:
            code = compile(ast.fix_missing_locations(tree), str(ROOT / PACKAGE / module), "exec")
        except SyntaxError:
            return UNBORN
        return in_child(work, limit)


def _run(session: pytest.Session) -> int:
    with contextlib.suppress(session.Failed, session.Interrupted):
        pytest_runtestloop(session)
    return int(bool(session.testsfailed))


def _pytest(module: str, plugin: Profile) -> int:
    asked = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", "--capture=no"]
    return int(
        pytest.main(
            [*asked, "-m", "not slow", "-k", f"not ({' or '.join(SLOW.split())})", *TESTS[module].split()],
            plugins=[plugin],
        )
    )


def _name(module: str) -> str:
    return f"{PACKAGE}.{module.removesuffix('.py').replace('/', '.')}"


def _import(name: str, code: CodeType) -> None:
    loader = Loader(name, str(ROOT / PACKAGE / "mutant.py"))
    loader.code = code
    sys.meta_path.insert(0, loader)  # type: ignore[arg-type]
    importlib.import_module(name)


def _put_in_place(name: str, code: CodeType, tree: ast.Module, one: Mutant) -> None:
    """Give every function of a module its new code, and the module its new values, wherever they were imported."""
    new = {(inner.co_qualname, inner.co_firstlineno): inner for inner in _inner(code)}
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__module__ == name:
            key = (function.__code__.co_qualname, function.__code__.co_firstlineno)
            function.__code__ = new.get(key, function.__code__)
    values = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    start = next((i for i, node in enumerate(values) if any(inner is one.owner for inner in ast.walk(node))), None)
    if start is None:
        return
    here = vars(sys.modules[name])
    before = dict(here)
    exec(compile(ast.Module(values[start:], []), name, "exec"), here)  # noqa: S102
    for there in [vars(module) for key, module in sys.modules.items() if key.startswith((PACKAGE, "tests"))]:
        there.update({key: here[key] for key in before if key in there and there[key] is before[key]})


def _inner(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner(constant)


@contextlib.contextmanager
def _changed(one: Mutant) -> Iterator[None]:
    holder = getattr(one.owner, one.field)
    old = holder if one.index is None else holder[one.index]
    _set(one, ast.copy_location(one.new, old) if hasattr(old, "lineno") else one.new)
    try:
        yield
    finally:
        _set(one, old)


def _set(one: Mutant, node: ast.AST) -> None:
    if one.index is None:
        setattr(one.owner, one.field, node)
    else:
        getattr(one.owner, one.field)[one.index] = node


def _shown(one: Mutant) -> str:
    holder = getattr(one.owner, one.field)
    old = holder if one.index is None else holder[one.index]
    before, after = (ast.unparse(node) or type(node).__name__ for node in (old, one.new))
    at = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), 0)
    from_ = max(0, at - 20) if len(before) > 60 else 0
    return f"{one.kind}: {before[from_ : from_ + 60]} -> {after[from_ : from_ + 60]}"


def _unnumbered(survivor: str) -> str:
    return re.sub(r"^([\w/.]+):\d+:", r"\1:", survivor)


def main() -> int:
    """Mutate the modules and print the table; return 1 where too many survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, default=30)
    parser.add_argument("modules", nargs="*")
    asked = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in LOADED.split():
        importlib.import_module(name)
    pairs = (line.rsplit(" -- ", 1) for line in KNOWN.read_text(encoding="utf-8").splitlines() if " -- " in line)
    reasons = {_unnumbered(one): reason for one, reason in pairs}
    rows = []
    for module in asked.modules or TESTS:
        ran, survived = examine(module, asked.seed, asked.sample)
        rows.append((module, ran, len(survived)))
        for one in survived:
            print(one, f"\n    {reasons.get(_unnumbered(one), 'NO REASON is known')}", flush=True)
    print(f"{'module':24}{'mutants':>8}{'killed':>8}{'survived':>9}{'share':>7}   (seed {asked.seed})")
    for module, ran, lived in rows:
        print(f"{module:24}{ran:8}{ran - lived:8}{lived:9}{lived / max(ran, 1):7.1%}")
    return int(any(lived > ALLOWED * ran for _, ran, lived in rows))


if __name__ == "__main__":
    sys.exit(main())
