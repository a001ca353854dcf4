"""Decide on proposals: by their checks, or by a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from langgraph_learnloop.calls import misfit, read_message
from langgraph_learnloop.curation.texts import request
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Message, Proposal, Verdict
from langgraph_learnloop.texts import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_ACTIONS: dict[str, Literal["approve", "edit", "reject"]] = {"a": "approve", "e": "edit", "r": "reject"}
_KEYS = "a approve, e edit, r reject, s leave it for later, q leave all the rest"


class ApproveChecked:
    """Approve what passed the checks and reject the rest, with the checks' reasons."""

    def review(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """Return one verdict for each proposal."""
        return [
            Verdict(
                proposal_id=proposal.proposal_id,
                action="reject" if proposal.problems else "approve",
                by="checks",
                because=" ".join(proposal.problems) or "The checks found nothing against it.",
            )
            for proposal in proposals
        ]


class TerminalReviewer:
    """Ask a person at a terminal; what they leave for later gets no verdict and stays pending."""

    def __init__(self, console: Console, by: str, ask: Callable[[str], str] | None = None) -> None:
        """Show proposals on `console`, decide under the name `by`, and read answers with `ask` (console.input)."""
        self.console = console
        self.by = by
        self.ask = ask or (lambda prompt: console.input(prompt, markup=False))

    def review(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """Return a verdict for each proposal that was decided before the person left."""
        verdicts: list[Verdict] = []
        for number, proposal in enumerate(proposals, 1):
            self.console.print(_card(proposal, f"{number} of {len(proposals)}"))
            key = self._key()
            if key == "q":
                break
            if verdict := self._decide(proposal, key):
                verdicts.append(verdict)
        return verdicts

    def _key(self) -> str:
        while True:
            try:
                answer = self.ask(f"{_KEYS}: ").strip().lower()[:1]
            except EOFError:
                return "q"
            if answer in {*_ACTIONS, "s", "q"}:
                return answer
            self.console.print(f"Please answer with one letter: {_KEYS}.", markup=False)

    def _decide(self, proposal: Proposal, key: str) -> Verdict | None:
        chosen = self._edited(proposal) if key == "e" else None
        if key == "s" or (key == "e" and chosen is None):
            return None
        return Verdict(proposal_id=proposal.proposal_id, action=_ACTIONS[key], by=self.by, chosen=chosen)

    def _edited(self, proposal: Proposal) -> Message | None:
        """Ask for the right answer until it can be used; an empty line leaves the proposal for later."""
        while True:
            try:
                line = self.ask('The right answer, as text or {"tool": ..., "args": {...}} (empty: later): ').strip()
            except EOFError:
                return None
            if not line:
                return None
            try:
                return _usable(line, proposal)
            except DataError as error:
                self.console.print(visible(f"That cannot be used: {error}"), markup=False, highlight=False)


def _usable(line: str, proposal: Proposal) -> Message:
    try:
        value = json.loads(line) if line.startswith(("{", "[")) else line
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is no JSON ({error}); write text, or one JSON object.") from error
    message = read_message(value)
    if problem := misfit(message, proposal.example.tools):
        raise DataError(problem)
    return message


def _card(proposal: Proposal, title: str) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    example = proposal.example
    table = Table.grid(padding=(0, 2))
    rows = [("request", request(example)), ("the agent said", _words(example.rejected))]
    rows += [("the correction", _words(example.chosen)), ("by", example.by or "somebody without a name")]
    rows += [("problem", problem) for problem in proposal.problems]
    for name, text in rows:
        # Text holds what it is given as it is: markup inside a request stays letters.
        table.add_row(Text(name, style="bold"), Text(visible(text), style="red" if name == "problem" else ""))
    return Panel(table, title=Text(title), title_align="left")


def _words(message: Message | None) -> str:
    if message is None:
        return "(nothing)"
    calls = (f"{call.name} {json.dumps(call.args, ensure_ascii=False)}" for call in message.tool_calls)
    return "\n".join([*([message.content] if message.content else []), *calls])
