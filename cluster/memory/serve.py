"""Serves a memory of a directory until it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.memory.server import MemoryServer, ServerConfig
from cluster.memory.directory_target import check_own, local, login
from cluster.memory.opening import check_address
from leworld.errors import ConfigError, StoreError
from leworld.store.durable_store import DurableStore, StoreConfig
from leworld.store.writer_lock import publish_address, withdraw_address

Outcome = dict[str, Any]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(target: str, address: str, tokens: Path | None, policy: str, show: Callable[[Outcome], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        target: directory of the memory, or of a run.
        address: to bind.
        tokens: file of tokens, see ``read_tokens``.
        policy: of the journal, see ``StoreConfig``.
        show: receives what is served and where, once it is.

    Raises:
        StoreError: another process has the memory open.
        ConfigError: the address cannot be bound, the tokens cannot be read, or there is no such policy.
    """
    check_address(address)
    known = None if tokens is None else read_tokens(tokens)
    root = local(target)
    check_own(root)
    with DurableStore(root, StoreConfig(policy=policy), writer=login()) as store:
        server = MemoryServer(store, ServerConfig(address, known))
        with _ended_by_signals(server.stop):
            try:
                publish_address(root, server.address)
                show({"path": str(root), "served_at": server.address, **store.stat()})
                server.serve()
            finally:
                server.stop()
                withdraw_address(root)


def read_tokens(file: Path) -> dict[str, str]:
    """Read token to owner from lines of the two; skip empty lines and those with #.

    Raises:
        StoreError: the file cannot be read.
        ConfigError: a line is something else, or there is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is no text; give lines of a token and a name") from None
    found: dict[str, str] = {}
    for place, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        # A token is a secret, and so is not shown.
        if len(parts) != 2:
            raise ConfigError(f"{file}, line {place}: {len(parts)} words; give a token and a name, apart by a space")
        if parts[0] in found:
            raise ConfigError(f"{file}, line {place}: {parts[1]}'s token is {found[parts[0]]}'s already; give another")
        found[parts[0]] = parts[1]
    if not found:
        raise ConfigError(f"{file}: has no tokens; give lines of a token and a name, such as: s3cret admin")
    return found


@contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    before = [signal.signal(number, lambda *_: stop()) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
