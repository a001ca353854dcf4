"""The command line: begin, look at what happened, decide, walk the loop, take it back.

Commands that only look need a store; `cycle` needs your agent as well, named as "module:attribute" of a LearnLoop.
Refusals are one sentence on standard error and exit code 2. What a command needs it imports when it is called, so that
`learnloop --help` is there at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

from langgraph_learnloop.cli.app import app, runs_app
from langgraph_learnloop.cli.terminal import refuse, stop
from langgraph_learnloop.errors import LearnLoopError

app.add_typer(runs_app, name="runs")
# The commands are added by these, in the order in which the help lists them.
for _part in ("beginning", "looking", "learning", "serving", "importing"):
    import_module(f"langgraph_learnloop.cli.{_part}")

__all__ = ["app", "main"]

_INTERRUPTED = 130
"""The shell's exit code for ctrl-C, which typer turns the interrupt into."""


def main() -> NoReturn:
    """Run the command line; refusals become one sentence and exit code 2."""
    try:
        code = app(standalone_mode=False)  # an exit code where typer ended it, else None
        if code == _INTERRUPTED:
            stop("Stopped. Run the same command again to go on where it was.", _INTERRUPTED)
        sys.exit(code or 0)
    except LearnLoopError as error:
        refuse(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        refuse(f"The file system refused{where}: {error.strerror or error}. Mend that and run the command again.")
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):  # a usage error: both bring their own kinds
            say = getattr(error, "format_message", None)
            refuse(say() if say else str(error))
        raise
