"""What `learnloop` and `python -m langgraph_learnloop` call: the command line, or one sentence on what it lacks."""

from __future__ import annotations

import sys
from typing import NoReturn

from langgraph_learnloop.errors import MissingExtraError


def main() -> NoReturn:
    """Run the command line; without the libraries it is made of, say so and exit with code 2."""
    try:
        from langgraph_learnloop import cli
    except MissingExtraError as error:
        sys.stderr.write(f"learnloop: {error}\n")
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
