"""The loop's first half: an agent is recorded, people are heard, and both are shown elsewhere too.

All of it needs nothing but the base install, and none of it is in the agent's way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from langgraph_learnloop.capture.attach import Everywhere
from langgraph_learnloop.capture.policy import Policy, policy_of
from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.capture.writer import Health, Writer
from langgraph_learnloop.config import LoopConfig, load_config, made, named
from langgraph_learnloop.errors import ConfigError, NotFoundError
from langgraph_learnloop.evaluation.recording import recordable
from langgraph_learnloop.evaluation.replaying import REPLAYING
from langgraph_learnloop.hearing import Hearing
from langgraph_learnloop.importing import Heard, Imported, Importing
from langgraph_learnloop.mirror_process import MirrorProcess
from langgraph_learnloop.mirroring import Mirroring
from langgraph_learnloop.mirrors import History, Mirror, Witness
from langgraph_learnloop.records import Case, Feedback, Flag, FlagState, Run, Scorecard
from langgraph_learnloop.store.opened import open_store


def ignore(progress: object) -> None:
    """Take progress that nobody asked for."""


class Recording:
    """Record one agent, and hear what people say of it."""

    def __init__(
        self,
        store: str | Path,
        agent: str | None,
        config: LoopConfig | None,
        policy: Policy | None,
        now: Callable[[], datetime],
    ) -> None:
        """Open the store, making it if need be; raise StoreError or ConfigError with the way out."""
        self.config = config or load_config(agent=agent)
        self.agent = agent or self.config.agent
        self.store = open_store(store, self.config.folder)
        self.policy = policy or policy_of(self.config)
        self._now = now
        self._hearing = Hearing(self.store, self.policy, self.config.flag_below, self.config.signals, now)
        self._importing = Importing(self.store, self.policy, self.agent, self._hearing)
        self._writer = Writer(
            self.store.runs,
            self.config.queue_size,
            self._hearing.notice,
            policy=self.policy,
            spill=self.store.folder / "spill",
        )
        self.recorder = Recorder(self._writer, self.agent)
        self._everywhere: Everywhere | None = None
        self._on_demand: Recorder | None = None
        self._mirrorings: list[Mirroring] = []
        self._mirror_process: MirrorProcess | None = None

    def recordable(
        self, tools: Sequence[BaseTool | Callable[..., Any]], *, pure: Collection[str] = ()
    ) -> list[BaseTool]:
        """Return tools that answer from the recording in a replay and work as ever elsewhere.

        It is for tools that nodes run by hand: those of a `ToolNode`, and so of `create_agent`, need it not. Tools
        named in `pure` act on nothing outside of the graph, and run in replays too.
        """
        return recordable(tools, pure=pure)

    def recorded_answer(self, call: Mapping[str, Any], tool: BaseTool | None = None) -> ToolMessage | None:
        """Return a tool call's recorded answer when the caller is part of a replay; None when the tool is to run."""
        replaying = REPLAYING.get()
        return None if replaying is None else replaying.recorded(call, tool)

    def capture_all(self) -> Everywhere:
        """Record every LangGraph and LangChain run of this process; call `off()` on what is returned to stop."""
        self._begin_mirror()
        if self._everywhere is None:
            self._everywhere = Everywhere(self.recorder)
        self._everywhere.on()
        return self._everywhere

    def want(self) -> Callable[[], None]:
        """Return a function that, called inside a run of any graph, has that run recorded; others are not.

        It is how a node or a middleware records the graph it is part of, from the graph's first event on.
        """
        if self._on_demand is None:
            self._on_demand = Recorder(self._writer, self.agent, only_wanted=True)
            self._on_demand.witness = self.recorder.witness
            Everywhere(self._on_demand)
        return self._on_demand.want

    def current_run(self) -> str | None:
        """Return the id of the run that the calling node or tool belongs to; None outside of a recorded run."""
        found = next((run_id for recorder in self._recorders if (run_id := recorder.current_run())), None)
        return None if found is None else str(found)

    def flag(self, reason: str) -> None:
        """Say inside a node or tool that the run it belongs to went wrong, with the reason in words."""
        if (replaying := REPLAYING.get()) is not None:
            replaying.flagged = True  # no recorder hears a replay, and the graph may ask `is_flagged`
        for recorder in self._recorders:
            recorder.flag(reason)

    def is_flagged(self) -> bool:
        """Return whether the run that the calling node belongs to was flagged by `flag`."""
        replaying = REPLAYING.get()
        told = replaying is not None and replaying.flagged
        return told or any(recorder.is_flagged() for recorder in self._recorders)

    def feedback(
        self,
        run: str | None = None,
        thread: str | None = None,
        *,
        score: float | None = None,
        text: str | None = None,
        categories: Sequence[str] = (),
        correction: object = None,
        by: str | None = None,
        step: str | None = None,
        feedback_id: str | None = None,
    ) -> Feedback:
        """Say what somebody thought of a run, or of a thread's last run; it is stored when this returns.

        `correction` is the right answer as text, or the right tool call as {"tool": name, "args": {...}} (or a list).
        Raise DataError when it cannot be used and NotFoundError when there is no such run.
        """
        about = self._run(run, thread)
        said = self._hearing.make(
            about,
            score=score,
            text=text,
            categories=categories,
            correction=correction,
            by=by,
            step_id=step,
            feedback_id=feedback_id,
        )
        self._hearing.keep(about, said)
        return said

    def import_runs(
        self,
        history: History,
        since: datetime,
        until: datetime | None = None,
        on_progress: Callable[[Imported | Heard], object] = ignore,
    ) -> Imported:
        """Store the runs that another tracer saw, from a time on, as if they had been recorded; none of them twice."""
        return self._importing.runs(history, since, until or self._now(), on_progress)

    def import_remarks(
        self, history: History, since: datetime, on_progress: Callable[[Imported | Heard], object] = ignore
    ) -> Heard:
        """Store what people said of runs in another place since a time, as feedback; nothing twice."""
        return self._importing.remarks(history, since, on_progress)

    def flagged(self, state: FlagState | None = "open") -> tuple[Flag, ...]:
        """Return what went wrong, worst first."""
        self.flush()
        return self.store.flags.list(state, self.agent)

    def runs(self, limit: int = 50) -> tuple[Run, ...]:
        """Return the latest runs, newest first."""
        self.flush()
        return self.store.runs.recent(limit, self.agent)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every ended run is stored; return False if that takes longer than `timeout` seconds."""
        return self._writer.flush(timeout)

    def health(self) -> Health:
        """Return the recorder's counters."""
        return self._writer.health()

    def mirror(self, mirror: Mirror, *, everything: bool = False) -> Mirroring:
        """Show what is stored in another place too, from now on and with `everything` all of it, in the background.

        Nothing waits for that, and nothing is lost while the other place is away. A thread of this process tells it;
        with the setting `mirror` in place of this, a process of its own does, which takes nothing from the agent's.
        """
        mirroring = self.mirroring(mirror, everything=everything)
        self._mirrorings.append(mirroring)
        self._ask_about_traces(mirror)
        mirroring.start()
        return mirroring

    def mirroring(
        self, mirror: Mirror | None = None, *, everything: bool = False, holder: str | None = None
    ) -> Mirroring:
        """Return what tells a mirror (default: that of the settings) what is stored; `step` does it once, here."""
        told = mirror or self._configured_mirror
        return Mirroring(self.store, told, self.agent, self._asked, everything=everything, holder=holder)

    def trace_url(self, run: Run | str) -> str:
        """Return the address at which a mirror shows a run; raise ConfigError when there is no mirror."""
        mirror = self._mirrorings[0].mirror if self._mirrorings else self._configured_mirror
        return mirror.where(self.store.runs.resolve(run) if isinstance(run, str) else run)

    def _begin_mirror(self) -> None:
        """Begin to tell the mirror of the settings, if there is one: in processes that run the agent."""
        if self.config.mirror is None or self._mirror_process is not None:
            return
        mirror = self._configured_mirror
        self._ask_about_traces(mirror)
        self._mirror_process = MirrorProcess(self.store, mirror, self.config.mirror, self.agent)

    def _stop_mirrors(self) -> None:
        """Let them be told what is left, for a moment, and end."""
        for mirroring in self._mirrorings:
            mirroring.stop()
        if self._mirror_process is not None:
            self._mirror_process.stop()

    def _ask_about_traces(self, mirror: Mirror) -> None:
        """Have the recorders ask a mirror which runs another tracer keeps a trace of, if it knows."""
        if isinstance(mirror, Witness):
            for recorder in self._recorders:
                recorder.witness = mirror

    @cached_property
    def _configured_mirror(self) -> Mirror:
        if self.config.mirror is None:
            raise ConfigError("There is no mirror: call loop.mirror(...), or name one as `mirror` in learnloop.toml.")
        found: Mirror = made(named(self.config.mirror, "The mirror"), "send")
        return found

    def _asked(self, card: Scorecard) -> tuple[Case, ...]:
        """Return what an examination asked, for mirrors; nothing is examined in this half."""
        return ()

    @property
    def _recorders(self) -> list[Recorder]:
        return [self.recorder, *([self._on_demand] if self._on_demand is not None else [])]

    def _run(self, run_id: str | None, thread_id: str | None) -> Run:
        if (run_id is None) == (thread_id is None):
            raise ConfigError("Feedback needs a run id or a thread id, and not both: pass run= or thread=.")

        def find() -> Run:
            return self.store.runs.last_of_thread(str(thread_id)) if run_id is None else self.store.runs.run(run_id)

        if run_id is not None:
            with suppress(NotFoundError):
                return find()
        self._writer.rescue(run_id, thread_id)
        self.flush()  # the run may have ended a moment ago
        return find()
