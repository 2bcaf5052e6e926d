"""Where it is played: processes that are started, killed and paused, links that are cut, and a log of all that."""

from __future__ import annotations

import ctypes
import faulthandler
import heapq
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np

from . import proxy

FORKS = multiprocessing.get_context("fork")
_DIE_WITH_PARENT = 1
TRY_AGAIN = 3
"""Exit code of who is to be started again, as nothing is wrong with it."""


@dataclass
class Actor:
    """A process that is started again whenever it has ended."""

    target: Callable[..., None]
    given: Callable[[], tuple[Any, ...]]
    process: ForkProcess | None = None
    paused: bool = False
    due: float = 0.0


@dataclass
class Stage:
    """All of one run.

    Attributes:
        root: a directory of its own.
        counts: of kills, pauses and cuts.
        log: what was done when, in nanoseconds of the monotonic clock.
    """

    root: Path
    random: np.random.Generator
    counts: Counter[str] = field(default_factory=Counter)
    log: list[tuple[int, str]] = field(default_factory=list)
    actors: dict[str, Actor] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    _commands: Any = None
    _proxy: ForkProcess | None = None
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: int = 0
    _rests: bool = False

    def add(
        self, name: str, target: Callable[..., None], given: Callable[[], tuple[Any, ...]], after_s: float = 0.0
    ) -> None:
        """Name a process, which starts in a while; ``given`` is asked for its arguments at each start."""
        self.actors[name] = Actor(target, given, due=time.monotonic() + after_s)

    def start(self, name: str) -> None:
        """Start a process."""
        actor = self.actors[name]
        given = (self.root / "errors.txt", name, actor.target, *actor.given())
        actor.process = FORKS.Process(target=_run, args=given, name=name, daemon=True)
        actor.process.start()
        actor.paused = False

    def link(self, names: Sequence[str]) -> None:
        """Make links, each to the port that is in the file of its name; before anything else is started."""
        sockets = proxy.listening(names)
        self.ports = {name: sockets[name].getsockname()[1] for name in names}
        there, self._commands = FORKS.Pipe(duplex=False)
        given = (self.root / "errors.txt", "proxy", proxy.serve, sockets, {n: self.target(n) for n in names}, there)
        self._proxy = FORKS.Process(target=_run, args=given, daemon=True)
        self._proxy.start()
        for each in sockets.values():
            each.close()

    def target(self, link: str) -> Path:
        """The file with the port to which a link leads: that of its server, which is what is before "/" in its name."""
        return self.root / (link.split("/")[0] + ".port")

    def address(self, link: str) -> str:
        """Where a link begins."""
        return f"tcp://127.0.0.1:{self.ports[link]}"

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a while."""
        self._number += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._number, act))

    def turn(self) -> None:
        """Do what is due, and start those that have ended."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()
        for name, actor in self.actors.items():
            if actor.process is not None and actor.process.exitcode is not None:
                if actor.process.exitcode != -signal.SIGKILL:
                    count = "" if actor.process.exitcode == TRY_AGAIN else "ended"
                    self.note(count, f"{name} ended by itself with exit code {actor.process.exitcode}")
                    actor.due = time.monotonic() + 0.2
                actor.process.join()
                actor.process = None
            if actor.process is None and actor.due <= time.monotonic():
                self.start(name)

    def kill(self, name: str, seconds: float = 0.0) -> None:
        """Kill a process; it starts again after a while."""
        actor = self.actors[name]
        if actor.process is not None:
            self.note("kills", f"kill {name} for {seconds:.3f} s")
            actor.process.kill()
            actor.process.join()
            actor.process, actor.due = None, time.monotonic() + seconds

    def pause(self, name: str, seconds: float) -> None:
        """Stop a process for a while."""
        actor = self.actors[name]
        process = actor.process
        if process is None or actor.paused:
            return
        self.note("pauses", f"pause {name} for {seconds:.3f} s")
        self._signal(process, signal.SIGSTOP)
        actor.paused = True

        def wake() -> None:
            if actor.process is process:
                self._signal(process, signal.SIGCONT)
                self.note("", f"{name} goes on")
                actor.paused = False

        if seconds < 0.01:
            # Too short to come back to it.
            time.sleep(seconds)
            wake()
        else:
            self.later(seconds, wake)

    def cut(self, links: Sequence[str], what: str, seconds: float = 0.0) -> None:
        """Do to links what ``proxy.Link`` can do, and let them go on after a while; what was held may be lost."""
        lost = bool(self.random.random() < 0.5)
        self.note("cuts", f"{what}: {', '.join(links)} for {seconds:.3f} s{', and lost' if lost else ''}")
        for link in links:
            self._commands.send((link, what))
        self.later(seconds, lambda: self.heal(links, lost=lost))

    def heal(self, links: Sequence[str], *, lost: bool = False) -> None:
        """Let links go on, maybe as new connections."""
        for link in links:
            if lost:
                self._commands.send((link, "drop"))
            self._commands.send((link, "go on"))

    def touch(self, path: Path, seconds: float, what: str) -> None:
        """Have a file for a while."""
        if self._rests:
            return
        self.note("cuts", f"{what} for {seconds:.3f} s")
        path.touch()
        self.later(seconds, lambda: path.unlink(missing_ok=True))

    def note(self, count: str, what: str) -> None:
        """Log what is done, and count it."""
        if count:
            self.counts[count] += 1
        self.log.append((time.monotonic_ns(), what))

    def stacks(self) -> str:
        """Where everyone is just now."""
        for actor in self.actors.values():
            if actor.process is not None and not actor.paused:
                self._signal(actor.process, signal.SIGUSR1)
        time.sleep(0.5)
        return "\n".join(f"--- {path.stem}\n{path.read_text()}" for path in sorted(self.root.glob("*.stacks")))

    def rest(self) -> None:
        """Undo all that is to be undone, and start those that were killed; nothing happens any more."""
        self._rests = True
        for _, _, act in sorted(self._later, key=lambda each: each[:2]):
            act()
        self._later.clear()
        for actor in self.actors.values():
            actor.due = 0.0
        self.turn()

    def close(self) -> None:
        """End all processes."""
        for actor in self.actors.values():
            if actor.process is not None:
                actor.process.kill()
                actor.process.join()
        if self._proxy is not None:
            self._commands.close()
            self._proxy.kill()
            self._proxy.join()

    def wait_for(self, names: Sequence[str], seconds: float) -> None:
        """Let processes end by themselves; kill those that do not in time."""
        end = time.monotonic() + seconds
        for name in names:
            process = self.actors[name].process
            if process is not None:
                process.join(max(0.0, end - time.monotonic()))
                if process.exitcode is None:
                    self.note("ended", f"{name} did not end")
                    process.kill()
                    process.join()
                elif process.exitcode:
                    self.note("ended", f"{name} ended by itself with exit code {process.exitcode}")
                self.actors[name].process = None

    @staticmethod
    def _signal(process: ForkProcess, number: int) -> None:
        assert process.pid is not None
        os.kill(process.pid, number)


def _run(errors: Path, name: str, target: Callable[..., None], *given: Any) -> None:
    """A process's main function; what goes wrong is told in a file."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    faulthandler.register(signal.SIGUSR1, errors.with_name(f"{name}.stacks").open("w"))
    file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    try:
        target(*given)
    except BaseException:
        print(f"--- {name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
