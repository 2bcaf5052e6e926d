"""Processes that ``leworld memory bench`` works with: they take their turns as lines and answer in lines of JSON.

They end when their standard input closes, whatever happens to their parent process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster.memory.speed.turns import Sample, Turn, turn_of
from leworld.errors import StoreError

_LONGEST_END_S = 10.0


class Child:
    """A process that does ``what``, one of ``_ROLES``, from ``__init__`` to ``close``."""

    def __init__(self, what: str, *arguments: object) -> None:
        """Start it; ``ready`` waits for it."""
        self._what = what
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        # Ctrl-C in a terminal must not reach it: its parent process ends it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, what, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked, self._said = self._process.stdin, self._process.stdout

    def answer(self) -> Any:
        """Return the next line of its output.

        Raises:
            StoreError: it has died.
        """
        line = self._said.readline()
        if not line:
            raise StoreError(f"the process that should {self._what} has died: what it said stands above; try again")
        return json.loads(line)

    def ask(self, seconds: float) -> None:
        """Have it take a turn."""
        # ``answer`` says that it has died.
        with suppress(BrokenPipeError):
            print(seconds, file=self._asked, flush=True)

    def close(self) -> None:
        """End it."""
        with suppress(BrokenPipeError):
            self._asked.close()
        try:
            self._process.wait(_LONGEST_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._said.close()


def turn_of_children(children: list[Child]) -> Turn:
    """Turns of processes at once; their rates are added up."""

    def turn(seconds: float) -> Sample:
        for child in children:
            child.ask(seconds)
        said = [child.answer() for child in children]
        return Sample([sum(each["rate"] for each in said)], [took for each in said for took in each["times"]])

    return turn


def read_mapped(root: str, plan: str) -> None:
    """Read the ranges of a plan, in turns."""
    from cluster.memory.speed.workloads import Plan, reads
    from leworld.store.mapped_memory import MappedMemory

    _take_turns(turn_of(reads(MappedMemory(root), Plan.of_text(plan), warm=True)))


def serve(root: str, policy: str) -> None:
    """Serve a memory; the address is the first line."""
    from actors.memory.server import MemoryServer
    from leworld.store.durable_store import DurableStore, StoreConfig

    store = DurableStore(root, StoreConfig(policy=policy))
    server = MemoryServer(store).start()
    _say(server.address)
    sys.stdin.read()
    server.stop()
    store.abandon()


def open_memory(root: str, plan: str, writable: str) -> None:
    """Open a memory and read the first ranges of a plan: seconds of that, of which the imports are no part."""
    from cluster.memory.speed.workloads import Plan, reads
    from leworld.store.durable_store import DurableStore
    from leworld.store.mapped_memory import MappedMemory

    ranges = Plan.of_text(plan)
    begin = time.perf_counter()
    memory = DurableStore(root) if writable == "yes" else MappedMemory(root)
    reads(memory, ranges)()
    _say(time.perf_counter() - begin)
    if isinstance(memory, DurableStore):
        memory.close()


def _take_turns(turn: Turn) -> None:
    _say("ready")
    for line in sys.stdin:
        sample = turn(float(line))
        _say({"rate": sample.rate, "times": sample.times})


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)


_ROLES: dict[str, Callable[..., None]] = {
    "read a memory": read_mapped,
    "serve a memory": serve,
    "open a memory": open_memory,
}


def main() -> None:
    """Run the role that the arguments name."""
    _ROLES[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
