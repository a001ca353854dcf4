"""Find every message of the error tree in the source: `python -m tests.messages` writes tests/messages.txt anew.

A message is listed as a template: what is put into it at run time stands in braces, as it stands in the source. What a
variable, a parameter, a constant or a small function of ours puts in is followed where that is a text of the source.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "messages.txt"
COMMAND = "python -m tests.messages"
HEAD = f"""\
# Every message that a user can meet, by the class of the error. `{COMMAND}` writes this file anew from the
# source; tests/test_errors.py holds the two against each other. What stands in braces is put in at run time.
"""
MOST_FORMS = 12
"""A part that can be written in more ways than this stands in braces."""

BRACES = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Source:
    """A file of ours, with what is needed to follow a name in it."""

    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """Return what the file says, each node knowing its parent."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        for parent in ast.walk(tree):
            for child in ast.iter_child_nodes(parent):
                child.parent = parent  # type: ignore[attr-defined]
        return tree

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Return the functions and methods by name."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, Function)}

    @cached_property
    def calls(self) -> dict[str, list[ast.Call]]:
        """Return the calls by the name of what is called."""
        found: dict[str, list[ast.Call]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                found.setdefault(called(node), []).append(node)
        return found


@dataclass
class House:
    """All the files whose errors a user can meet."""

    sources: list[Source] = field(default_factory=list)

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """Return the classes of the tree with their bases, wherever they are defined."""
        defined = {
            node.name: [ast.unparse(base) for base in node.bases]
            for source in self.sources
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ClassDef)
        }
        known = {"LearnLoopError"}
        while more := {name for name, bases in defined.items() if known & set(bases)} - known:
            known |= more
        return {name: defined[name] for name in sorted(known)}

    @cached_property
    def shared(self) -> dict[str, tuple[Source, Function]]:
        """Return the functions whose name is given once, by name; `one_line` only cuts what others said."""
        found: dict[str, list[tuple[Source, Function]]] = {}
        for source in self.sources:
            for name, function in source.functions.items():
                found.setdefault(name, []).append((source, function))
        return {name: them[0] for name, them in found.items() if len(them) == 1 and name != "one_line"}

    def messages(self) -> dict[str, set[str]]:
        """Return the templates of the messages by the class of the error."""
        said: dict[str, set[str]] = {}
        for source in self.sources:
            reader = Reader(self, source)
            for call in (node for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
                if (name := kind(call, self.classes)) and (text := message_of(call, name)) is not None:
                    said.setdefault(name, set()).update(reader.forms(text))
        return said


def kind(call: ast.Call, classes: dict[str, list[str]]) -> str | None:
    """Return under which name a call is listed, None for a call that says nothing to a user."""
    name = called(call)
    if name in classes or name in ("Refusal", "UsageError", "_stop"):
        return name
    if name in ("warning", "error") and ast.unparse(call.func).startswith("_log."):
        return "log"
    if name == "ValueError" and isinstance(getattr(call, "parent", None), ast.Raise):
        return name
    return None


def message_of(call: ast.Call, name: str) -> ast.expr | None:
    """Return which argument of a call is the message."""
    at = 1 if name == "Refusal" else 0
    for keyword in call.keywords:
        if keyword.arg in ("message", "sentence"):
            return keyword.value
    return call.args[at] if len(call.args) > at and not isinstance(call.args[at], ast.Starred) else None


def called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@dataclass
class Reader:
    """Read an expression of a file as the texts that it can be."""

    house: House
    source: Source
    deep: int = 0

    def forms(self, node: ast.expr) -> list[str]:
        """Return the templates that an expression can be; one in braces when it is made at run time."""
        found = self.texts(node)
        return [" ".join(text.split()) for text in found] if found and has_words(found) else [in_braces(node)]

    def texts(self, node: ast.expr) -> list[str] | None:
        """Return the same, or None when nothing of it stands in the source."""
        if self.deep > 6:
            return None
        reader = {
            ast.Constant: self._constant,
            ast.JoinedStr: self._joined,
            ast.BinOp: self._sum,
            ast.IfExp: self._either,
            ast.BoolOp: self._either,
            ast.Name: self._name,
            ast.Call: self._call,
        }.get(type(node))
        return reader(node) if reader else None  # type: ignore[operator]

    def _constant(self, node: ast.Constant) -> list[str] | None:
        return [node.value] if isinstance(node.value, str) else None

    def _joined(self, node: ast.JoinedStr) -> list[str]:
        return self._product([self._part(value) for value in node.values])

    def _part(self, node: ast.expr) -> list[str]:
        inner = node.value if isinstance(node, ast.FormattedValue) else node
        found = self.texts(inner)
        useful = found and (inner is node or (len(found) <= MOST_FORMS and has_words(found)))
        return found if found and useful else [in_braces(inner)]

    def _sum(self, node: ast.BinOp) -> list[str] | None:
        if not isinstance(node.op, ast.Add):
            return None
        both = [self.texts(node.left), self.texts(node.right)]
        if not any(both):
            return None
        return self._product(
            [found or [in_braces(side)] for found, side in zip(both, (node.left, node.right), strict=True)]
        )

    def _product(self, parts: list[list[str]]) -> list[str]:
        return list(dict.fromkeys("".join(one) for one in itertools.product(*parts)))

    def _either(self, node: ast.IfExp | ast.BoolOp) -> list[str] | None:
        ways = [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values
        return self._all(ways)

    def _all(self, ways: list[ast.expr]) -> list[str] | None:
        ways = [way for way in ways if not (isinstance(way, ast.Constant) and way.value is None)]
        found = [self.texts(way) for way in ways]
        if not any(found):
            return None
        return list(
            dict.fromkeys(text for way, texts in zip(ways, found, strict=True) for text in texts or [in_braces(way)])
        )

    def _name(self, node: ast.Name) -> list[str] | None:
        function = around(node)
        scope: ast.AST = function or self.source.tree
        if function and node.id in parameters(function):
            return self._deeper()._given(function, node.id)
        found = assigned(scope, node.id) or assigned(self.source.tree, node.id, top=True)
        return self._deeper()._all(found) if found else None

    def _given(self, function: Function, name: str) -> list[str] | None:
        """Return what the callers in this file give for a parameter."""
        given = [argument(call, function, name) for call in self.source.calls.get(function.name, [])]
        return self._all([one for one in given if one is not None])

    def _call(self, node: ast.Call) -> list[str] | None:
        name = called(node)
        if name in self.source.functions:
            return self._deeper()._returned(self.source.functions[name])
        if name in self.house.shared and isinstance(node.func, ast.Name):
            source, function = self.house.shared[name]
            return Reader(self.house, source, self.deep + 1)._returned(function)
        return None

    def _returned(self, function: Function) -> list[str] | None:
        ends = [node for node in ast.walk(function) if isinstance(node, ast.Return) and around(node) is function]
        return self._all([end.value for end in ends if end.value is not None])

    def _deeper(self) -> Reader:
        return Reader(self.house, self.source, self.deep + 1)


def has_words(forms: list[str]) -> bool:
    """Return whether any of the texts says more than what is put into it; what merely shortens a text does not."""
    return any(re.search("[a-z0-9]", BRACES.sub("", form), re.IGNORECASE) for form in forms)


def in_braces(node: ast.expr) -> str:
    """Return how an expression stands in a template."""
    return "{" + ast.unparse(node) + "}"


def around(node: ast.AST) -> Function | None:
    """Return the function that a node stands in."""
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        if isinstance(node, Function):
            return node
    return None


def parameters(function: Function) -> list[str]:
    """Return the names of a function's parameters, in order."""
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def argument(call: ast.Call, function: Function, name: str) -> ast.expr | None:
    """Return what a call gives for a parameter."""
    names = parameters(function)
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    at = names.index(name) if name in names else len(call.args)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    return given.get(name) or (call.args[at] if at < len(call.args) else None)


def assigned(scope: ast.AST, name: str, *, top: bool = False) -> list[ast.expr]:
    """Return what is given to a name in a function, or at the top of a file."""
    nodes = ast.iter_child_nodes(scope) if top else ast.walk(scope)
    return [value for node in nodes for value in _values(node, name)]


def _values(node: ast.AST, name: str) -> Iterator[ast.expr]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    value = getattr(node, "value", None)
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and value is not None:
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield value
            elif isinstance(target, ast.Tuple):
                yield from _unpacked(target, value, name)


def _unpacked(target: ast.Tuple, value: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(value, ast.IfExp):
        yield from _unpacked(target, value.body, name)
        yield from _unpacked(target, value.orelse, name)
    elif isinstance(value, ast.Tuple):
        yield from (
            v for t, v in zip(target.elts, value.elts, strict=False) if isinstance(t, ast.Name) and t.id == name
        )


@cache
def house() -> House:
    """Return the files of the package and of its integrations."""
    package, integrations = ROOT / "langgraph_learnloop", ROOT / "integrations"
    files = [path for path in package.rglob("*.py") if package / "integrations" not in path.parents]
    return House([Source(path) for path in sorted(files) + sorted(integrations.rglob("*.py"))])


def written() -> str:
    """Return the listed file as the source of today makes it."""
    found = house().messages()
    groups = (f"\n[{name}]\n" + "".join(f"{text}\n" for text in sorted(found[name])) for name in sorted(found))
    return HEAD + "".join(groups)


def listed() -> dict[str, list[str]]:
    """Return the messages as they are listed, by class."""
    found: dict[str, list[str]] = {}
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]") and " " not in line:
            found[line[1:-1]] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


if __name__ == "__main__":
    GOLDEN.write_text(written(), encoding="utf-8")
