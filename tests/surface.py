"""Write down what others may build on: `python -m tests.surface` writes tests/surface.txt anew.

Griffe reads the sources without running them. Public is what `__all__` names, what stands in the modules that are made
to be built on, and whatever else the manual and the examples import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

import langgraph_learnloop

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "surface.txt"
COMMAND = "python -m tests.surface"
HEAD = f"""\
# What others may build on, with every parameter and default. `{COMMAND}` writes this file anew from the
# source; tests/test_surface.py holds the two against each other. A line that changes or goes breaks somebody's code.
"""
WHOLE = ("config", "errors", "nodes", "ports", "records", "testing")
"""Modules of which every public name is promised."""
IMPORT = re.compile(r"^ *from (langgraph_learnloop[\w.]*) import (?:\(([^)]+)\)|([\w, ]+))", re.MULTILINE)
NAMED = re.compile(r"`(?:langgraph_learnloop\.)?((?:serving|integrations)\.\w+)[.:](\w+)")
"""How the manual names what lives in a module: `serving.local_engine.LocalEngine(...)`."""


def promised() -> Iterator[str]:
    """Yield the dotted names that users are told to import."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.py")]:
        text = page.read_text(encoding="utf-8")
        for module, many, few in IMPORT.findall(text):
            yield from (f"{module}.{name.strip()}" for name in (many or few).split(",") if name.strip())
        yield from (f"langgraph_learnloop.{module}.{name}" for module, name in NAMED.findall(text))


def surface() -> str:
    """Return the listing: one line for each name, and one for each part of a class, what it inherits from ours too."""
    package = griffe.load("langgraph_learnloop", search_paths=[ROOT])
    names = {f"langgraph_learnloop.{name}" for name in langgraph_learnloop.__all__} | {*promised()}
    for module in WHOLE:
        names |= {f"langgraph_learnloop.{module}.{name}" for name in _defined(package[module])}
    return HEAD + "".join(f"\n{line}" for line in _lines(package, names)) + "\n"


def _defined(module: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yield the public names that a module or the files of its folder define, and not those that it imports."""
    for name, one in module.members.items():
        home = one.target_path if one.is_alias else one.path
        if home.startswith(f"{module.path}.") and not name.startswith("_") and not one.is_module:
            yield name


def _lines(package: griffe.Object | griffe.Alias, names: set[str]) -> Iterator[str]:
    """Yield the lines of the names, parts indented; what has two names is written out under the shorter one."""
    written: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name.count("."), name)):
        found = package[name.removeprefix("langgraph_learnloop.")]
        one = found.final_target if found.is_alias else found
        if one.path in written:
            yield f"{name} is {written[one.path]}"
            continue
        written[one.path] = name
        yield f"{name}{_said(one)}"
        if one.is_class:
            yield from sorted(f"    {part.name}{_said(part)}" for part in _parts(one))


def _parts(one: griffe.Object | griffe.Alias) -> Iterator[griffe.Object | griffe.Alias]:
    for part in one.all_members.values():
        if part.name == "__init__" or (not part.name.startswith("_") and part.name != "model_config"):
            yield part.final_target if part.is_alias else part


def _said(one: griffe.Object | griffe.Alias) -> str:
    if one.is_class:
        return f"({', '.join(str(base) for base in one.bases)})"
    if one.is_function:
        return f"({', '.join(_parameters(one))}) -> {one.returns}"
    annotation = f": {one.annotation}" if one.annotation else ""
    return annotation + (f" = {one.value}" if one.value and "instance-attribute" not in one.labels else "")


def _parameters(function: griffe.Function) -> Iterator[str]:
    marked = False
    for one in function.parameters:
        if one.kind is griffe.ParameterKind.keyword_only and not marked:
            yield "*"
        marked = marked or one.kind in (griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional)
        star = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(one.kind, "")
        default = f" = {one.default}" if one.default is not None and not star else ""
        yield f"{star}{one.name}" + (f": {one.annotation}" if one.annotation else "") + default


if __name__ == "__main__":
    GOLDEN.write_text(surface(), encoding="utf-8")
