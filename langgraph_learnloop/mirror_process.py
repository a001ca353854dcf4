"""Tell a mirror from a process of its own, so that the agent's has the interpreter to itself.

Of many processes that run the agent one has such a process beside it; when that one ends, another takes over.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
import time

from langgraph_learnloop.errors import LearnLoopError
from langgraph_learnloop.mirroring import LEASE, holder_of
from langgraph_learnloop.mirrors import Mirror
from langgraph_learnloop.store.opened import Store

_PROGRAM = """
import os, sys
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.errors import LearnLoopError

try:
    with LearnLoop(os.environ["LEARNLOOP_STORE"]) as loop:
        mirroring = loop.mirroring(holder=sys.argv[1])
        mirroring.start()
        sys.stdin.read()
        mirroring.stop()
except LearnLoopError as error:
    sys.exit(f"learnloop: {error}")
"""
"""What the process runs: no more than the mirror needs, for the command line may not be installed."""
_LOOK = 5.0
"""Seconds between two looks at the process, or for a mirror that nobody tells."""
_log = logging.getLogger(__name__)


class MirrorProcess:
    """Keep a process that tells a mirror beside this one while it lives, unless another process has one."""

    def __init__(self, store: Store, mirror: Mirror, spec: str, agent: str) -> None:
        """Tell the mirror that `spec` names, as "module:attribute", of what is stored from now on."""
        self._store = store
        self._name = mirror.name
        self._holder = holder_of()
        self._environ = {"LEARNLOOP_STORE": store.url, "LEARNLOOP_MIRROR": spec, "LEARNLOOP_AGENT": agent}
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        store.outbox.register(mirror.name, mirror.kinds)
        self._thread = threading.Thread(target=self._work, name="learnloop-mirror", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Let the process tell what is left and end; nobody waits for it."""
        atexit.unregister(self.stop)
        self._stopped.set()
        self._thread.join(1.0)
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _work(self) -> None:
        while True:
            try:
                self._look()
            except (LearnLoopError, OSError) as error:
                _log.warning("No process tells the mirror %r: %s", self._name, error)
            if self._stopped.wait(_LOOK):
                return

    def _look(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None and self._process.returncode:
            _log.warning("What tells the mirror %r ended with %d.", self._name, self._process.returncode)
        self._process = None
        if self._store.outbox.hold(self._name, self._holder, time.time(), LEASE):
            # Its input ends when this process does, however it ends. A ctrl-C at the terminal is for the agent alone.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, self._holder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **self._environ},
                start_new_session=True,
            )
