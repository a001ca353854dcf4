"""Write what the manual says about settings and commands, from the code: `make docs`, or `--check` to only look.

What is written stands between two marks in docs/settings.md and docs/cli.md; the prose around it is left alone.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from langgraph_learnloop.cli import app
from langgraph_learnloop.config import FILE_ONLY, PREFIX, LoopConfig, Price
from langgraph_learnloop.records import Recipe, Sampling

DOCS = Path(__file__).parent.parent / "docs"
COMMAND = "make docs"
PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end of generated -->)", re.DOTALL)
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "`true` or `false`"}
BOUNDS = {
    "ge": "≥\u00a0{}",
    "min": "≥\u00a0{}",
    "gt": ">\u00a0{}",
    "le": "≤\u00a0{}",
    "max": "≤\u00a0{}",
    "lt": "<\u00a0{}",
    "min_length": "{} characters or more",
}


def main(arguments: list[str]) -> int:
    """Bring the pages up to date; with --check, only say which are not, by the exit code too."""
    stale = [page for page in sorted(DOCS.glob("*.md")) if page.read_text(encoding="utf-8") != updated(page)]
    for page in stale:
        if "--check" in arguments:
            print(f"docs/{page.name} is not what the code says: run `{COMMAND}`.", file=sys.stderr)
        else:
            page.write_text(updated(page), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


def updated(page: Path) -> str:
    """Return a page's text with its generated parts written anew."""
    return PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[4]}", page.read_text(encoding="utf-8"))


def settings() -> str:
    """Draw the table of all settings, with their variables of the environment."""
    return table(LoopConfig, lambda name: "" if name in FILE_ONLY else f" Also `{PREFIX}{name.upper()}`.")


def table(record: type[BaseModel], more: Callable[[str], str] = lambda name: "") -> str:
    """Draw a record's fields as a table; `more` is what else there is to say of a name."""
    meanings = docstrings(record)
    rows = [
        (f"`{name}`", default(field), legal(field), meanings[name] + more(name))
        for name, field in record.model_fields.items()
    ]
    return markdown(("setting", "default", "may be", "meaning"), rows)


def docstrings(record: type) -> dict[str, str]:
    """Return the string under each field of a class, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def default(field: FieldInfo) -> str:
    """Show a default as learnloop.toml would write it."""
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return "none" if value is None or value in ({}, ()) else f"`{toml(value)}`"


def toml(value: Any) -> str:
    """Write a plain value as TOML does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def legal(field: FieldInfo) -> str:
    """Say which values a field takes, in words."""
    return ", ".join([kind(field.annotation), *bounds(field.metadata)])


def kind(annotation: Any) -> str:
    """Say in words what a type takes; None is left out, for the default says it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{toml(value)}`" for value in inside)
    if origin in (Union, types.UnionType):
        return kind(next(one for one in inside if one is not type(None)))
    if origin in (tuple, list):
        return f"any number of: {kind(inside[0])}"
    if hasattr(annotation, "__metadata__"):
        return ", ".join([kind(inside[0]), *bounds(annotation.__metadata__)])
    return WORDS.get(annotation, "a table")


def bounds(metadata: Iterable[Any]) -> Iterator[str]:
    """Say the bounds that pydantic and typer keep for a value."""
    for one in metadata:
        for name, words in BOUNDS.items():
            if (value := getattr(one, name, None)) is not None:
                yield words.format(f"{value:,}")
        yield from bounds(one.metadata if isinstance(one, FieldInfo) else ())


def commands() -> str:
    """Draw every command with its arguments and options."""
    parts = [part for path, command in walked("learnloop", typer.main.get_command(app)) for part in one(path, command)]
    return "\n\n".join(parts)


def walked(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with the words that call it, by the alphabet."""
    if getattr(command, "invoke_without_command", True):
        yield path, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from walked(f"{path} {name}", child)


def one(path: str, command: Any) -> Iterator[str]:
    """Yield a command's heading, what it does, how it is called, and what it takes."""
    shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
    words = [path, *(usage(param) for param in shown if param.param_type_name == "argument")]
    words += ["[OPTIONS]"] if any(param.param_type_name == "option" for param in shown) else []
    yield f"### {path}"
    yield escaped(" ".join((command.help or "").split()))
    yield f"```text\n{' '.join(words)}\n```"
    if shown:
        hints = get_type_hints(command.callback, include_extras=True)
        yield markdown(("takes", "default", "may be", "meaning"), [taken(param, hints[param.name]) for param in shown])


def usage(param: Any) -> str:
    """Return an argument as a usage line shows it."""
    return param.name.upper() if param.required else f"[{param.name.upper()}]"


def taken(param: Any, hint: Any) -> tuple[str, str, str, str]:
    """Return a parameter's row: its names, default, values and meaning."""
    names = [param.name.upper()] if param.param_type_name == "argument" else [*param.opts, *param.secondary_opts]
    meaning = escaped(getattr(param, "help", None) or "")
    variable = f" Also `{param.envvar}`." if param.envvar else ""
    return ", ".join(f"`{name}`" for name in sorted(names, key=len)), given(param), values(hint), meaning + variable


def given(param: Any) -> str:
    """Show what a parameter is when it is left out."""
    if param.required:
        return "must be given"
    return "" if param.default in (None, False, (), "") or callable(param.default) else f"`{param.default}`"


def values(hint: Any) -> str:
    """Say in words what a parameter of this type takes; a switch takes nothing."""
    inside = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return "" if inside is bool else kind(hint)


def markdown(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Draw a Markdown table."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def escaped(text: str) -> str:
    """Return a command's help, plain text but for its backticks, as Markdown."""
    return re.sub(r"(`[^`]*`)|([<>*])", lambda found: found[1] or f"\\{found[2]}", text)


PARTS = {
    "settings": settings,
    "recipe": lambda: table(Recipe),
    "sampling": lambda: table(Sampling),
    "prices": lambda: table(Price),
    "commands": commands,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
