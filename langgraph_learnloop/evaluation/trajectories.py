"""Compare the tools that a whole run asked for with those of a run as it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.evaluation.evaluators import NOTHING_EXPECTED, comparable, right, same
from langgraph_learnloop.records import Case, Judged, Message, ToolCall, content_hash

Mode = Literal["strict", "unordered", "subset", "superset"]
"""How two runs are compared; see `Trajectory`."""
SameArgs = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
"""Says whether the arguments that a run gave (first) will do for the reference's (second)."""
OneTool = Literal["exact", "ignore"] | SameArgs
"""How the arguments of one tool are compared: in canonical form, not at all, or by a function."""
Fits = Callable[[ToolCall, ToolCall], bool]


class Trajectory:
    """Compare the calls of a run with its reference's: `case.reference`, or else the expected next message.

    Where only the next message is known, only the next message is compared. The modes:

    - strict: the same messages in the same order, each assistant message with the same calls (in any order: a model
      that asks for several at once does not order them);
    - unordered: the same calls, whatever their order;
    - subset: no call that the reference has not;
    - superset: every call that the reference has, and perhaps more.

    A call that is made twice needs two partners. Texts and tools' results are not compared.
    """

    def __init__(
        self,
        mode: Mode = "strict",
        *,
        args: Literal["exact", "ignore"] | Mapping[str, OneTool] = "exact",
        version: str = "1",
    ) -> None:
        """Compare by `mode`; `args` says how arguments are compared, for all tools or by the tool's name.

        Tools that a mapping does not name are compared exactly. Raise `version` when a function of `args` changes, so
        that old and new scores do not mix.
        """
        if mode not in get_args(Mode):
            raise ConfigError(f"A trajectory is compared by one of {', '.join(get_args(Mode))}, not by {mode!r}.")
        for way in args.values() if isinstance(args, Mapping) else [args]:
            if way not in ("exact", "ignore") and not (callable(way) and isinstance(args, Mapping)):
                raise ConfigError(
                    f'Arguments must be compared by "exact", "ignore" or a function per tool, not by {way!r}.'
                )
        self._mode = mode
        self._args = args
        self.name = f"trajectory-{mode}{_mark(args)}/{version}"
        """Name and version, with a mark of `args`; part of a result's identity."""
        self.target = "trajectory"
        """Tools and arguments right."""
        self.guard = "trajectory_tools"
        """The right tools, whatever their arguments."""
        self.whole = True
        """The whole run is looked at."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return both scores; None in both when the case knows neither a run nor a message that would be right."""
        reference = right(case, whole=True)
        if not any(comparable(message) for message in reference):
            return Judged({self.target: None, self.guard: None}, NOTHING_EXPECTED)
        run = got if case.reference else got[:1]
        fits = {self.target: self._fits, self.guard: _same_tool}
        return Judged({name: self._alike(run, reference, fit) for name, fit in fits.items()})

    def _alike(self, run: Sequence[Message], reference: Sequence[Message], fits: Fits) -> bool:
        if self._mode == "strict":
            return len(run) == len(reference) and all(
                ours.role == theirs.role and _same_calls(ours.tool_calls, theirs.tool_calls, fits)
                for ours, theirs in zip(run, reference, strict=True)
            )
        made, right = _calls(run), _calls(reference)
        if self._mode == "unordered":
            return _same_calls(made, right, fits)
        if self._mode == "subset":
            return _have_partners(made, right, fits)
        return _have_partners(right, made, lambda call, ours: fits(ours, call))

    def _fits(self, ours: ToolCall, theirs: ToolCall) -> bool:
        if not _same_tool(ours, theirs):
            return False
        way = self._args.get(theirs.name.strip(), "exact") if isinstance(self._args, Mapping) else self._args
        if way == "ignore":
            return True
        return same(ours.args, theirs.args) if isinstance(way, str) else bool(way(ours.args, theirs.args))


def _calls(messages: Sequence[Message]) -> list[ToolCall]:
    return [call for message in messages for call in message.tool_calls]


def _same_tool(ours: ToolCall, theirs: ToolCall) -> bool:
    return ours.name.strip() == theirs.name.strip()


def _same_calls(ours: Sequence[ToolCall], theirs: Sequence[ToolCall], fits: Fits) -> bool:
    return len(ours) == len(theirs) and _have_partners(ours, theirs, fits)


def _have_partners(calls: Sequence[ToolCall], others: Sequence[ToolCall], fits: Fits) -> bool:
    """Return whether every call can have a fitting partner among the others, each for itself.

    A partner that is taken is given up if its owner finds another one (maximum bipartite matching by augmenting
    paths, Kuhn 1955): the first that fits would not do where a function says what fits.
    """
    if len(calls) > len(others):
        return False
    fitting = [[number for number, other in enumerate(others) if fits(call, other)] for call in calls]
    owners: dict[int, int] = {}
    partners: dict[int, int] = {}
    return all(_find_partner(call, fitting, owners, partners) for call in range(len(calls)))


def _find_partner(
    call: int, fitting: Sequence[Sequence[int]], owners: dict[int, int], partners: dict[int, int]
) -> bool:
    """Give a call a partner, moving others on where that must be; breadth first, so that no depth is too much."""
    asked_by: dict[int, int] = {}
    asking = [call]
    for one in asking:
        for other in fitting[one]:
            if other in asked_by:
                continue
            asked_by[other] = one
            if other not in owners:
                _move_on(other, asked_by, owners, partners)
                return True
            asking.append(owners[other])
    return False


def _move_on(free: int, asked_by: Mapping[int, int], owners: dict[int, int], partners: dict[int, int]) -> None:
    """Give the free one to the call that asked for it, what that one had to the call that asked for that, and so on."""
    given: int | None = free
    while given is not None:
        owner = asked_by[given]
        left = partners.get(owner)
        owners[given], partners[owner] = owner, given
        given = left


def _mark(args: Literal["exact", "ignore"] | Mapping[str, OneTool]) -> str:
    """Return a mark of how arguments are compared, for a name; nothing for the usual way."""
    if isinstance(args, str):
        return "" if args == "exact" else f"-{args}"
    return f"-{content_hash({tool: _name(way) for tool, way in args.items()})[:8]}"


def _name(way: OneTool) -> str:
    if isinstance(way, str):
        return way
    return f"{getattr(way, '__module__', '')}.{getattr(way, '__qualname__', type(way).__qualname__)}"
