"""Where a loop is shown: mirrors such as Langfuse, told from a thread of this process or from one beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.config import LoopConfig, made, named
from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.mirrors import Mirror, Witness
from langgraph_learnloop.records import Case, Scorecard
from langgraph_learnloop.store.opened import Store

if TYPE_CHECKING:
    from langgraph_learnloop.mirror_process import MirrorProcess
    from langgraph_learnloop.mirroring import Mirroring


class Showing:
    """Hold the mirrors of one loop."""

    def __init__(
        self,
        store: Store,
        config: LoopConfig,
        agent: str,
        asked: Callable[[Scorecard], Sequence[Case]],
        recorders: Callable[[], Sequence[Recorder]],
    ) -> None:
        """Show an open store; `asked` returns what an examination asked, `recorders` who records here."""
        self._store = store
        self._spec = config.mirror
        self._agent = agent
        self._asked = asked
        self._recorders = recorders
        self._told: list[Mirroring] = []
        self._beside: MirrorProcess | None = None

    def begin(self) -> None:
        """Begin to tell the mirror of the settings, if there is one: in processes that run the agent."""
        if self._spec is None or self._beside is not None:
            return
        from langgraph_learnloop.mirror_process import MirrorProcess

        self._ask(self._configured)
        self._beside = MirrorProcess(self._store, self._configured, self._spec, self._agent)

    def add(self, mirror: Mirror, everything: bool) -> Mirroring:
        """Tell a mirror from a thread of this process from now on."""
        mirroring = self.mirroring(mirror, everything=everything)
        self._told.append(mirroring)
        self._ask(mirror)
        mirroring.start()
        return mirroring

    def mirroring(
        self, mirror: Mirror | None = None, *, everything: bool = False, holder: str | None = None
    ) -> Mirroring:
        """Return what tells a mirror (default: that of the settings) what is stored."""
        from langgraph_learnloop.mirroring import Mirroring

        told = mirror or self._configured
        return Mirroring(self._store, told, self._agent, self._asked, everything=everything, holder=holder)

    @property
    def mirror(self) -> Mirror:
        """Return the mirror that people look at; raise ConfigError when there is none."""
        return self._told[0].mirror if self._told else self._configured

    def stop(self) -> None:
        """Let them be told what is left, for a moment, and end."""
        for mirroring in self._told:
            mirroring.stop()
        if self._beside is not None:
            self._beside.stop()

    def _ask(self, mirror: Mirror) -> None:
        """Have the recorders ask a mirror which runs another tracer keeps a trace of, if it knows."""
        if isinstance(mirror, Witness):
            for recorder in self._recorders():
                recorder.witness = mirror

    @cached_property
    def _configured(self) -> Mirror:
        if self._spec is None:
            raise ConfigError("There is no mirror: call loop.mirror(...), or name one as `mirror` in learnloop.toml.")
        found: Mirror = made(named(self._spec, "The mirror"), "send")
        return found
