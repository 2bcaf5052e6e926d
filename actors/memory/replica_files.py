"""The directory of a replica and its store, which may be reopened."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from actors.memory.replica_config import ReplicaConfig
from leworld.errors import DamageError, StoreError
from leworld.store.layout import Layout
from leworld.store.replication.replica_store import ReplicaStore

LOG = logging.getLogger(__name__)


class ReplicaFiles:
    """The files of one replica.

    Attributes:
        root: its directory.
        store: the open store.
        was_replica: whether the directory held a replica before.
    """

    def __init__(self, root: Path, config: ReplicaConfig, in_sync: Sequence[str]) -> None:
        """Open the memory. Damaged files are set aside; lost files are unfinished until they are copied again.

        Raises:
            DamageError: the memory is damaged and no other replica has its content.
            StoreError: the memory is gone and no other replica has its content.
        """
        self.root, self._config = root, config
        self._unfinished = root.with_name(root.name + ".joining")
        if self.is_unfinished:
            # An unfinished replica is useless.
            shutil.rmtree(root, ignore_errors=True)
        was_here = Layout(root).identity.exists()
        self.was_replica = Layout(root).epoch.exists()
        if config.id in in_sync and not was_here and not self.is_unfinished:
            if len(in_sync) == 1:
                raise StoreError(f"{root}: {config} is not here, and it is the only one: start it where its files are")
            self._unfinished.touch()
        try:
            self.open()
        except DamageError as error:
            if not set(in_sync) - {config.id}:
                raise
            self._set_aside(error)
            self.open()

    @property
    def is_unfinished(self) -> bool:
        """Whether the files are incomplete, so that this replica must not lead."""
        return self._unfinished.exists()

    def open(self) -> None:
        """Open the store or create it."""
        # No other process may read it before this replica leads: an epoch comes with a lease.
        self.store = ReplicaStore.open_or_create(self.root, self._config.address_bits, self._config.store)

    def reopen(self) -> None:
        """Reopen the store after an interrupted write and apply that write, because other replicas may have it."""
        self.store.abandon()
        self.open()

    def clear(self) -> None:
        """Delete all files, so that they can be copied again; see ``finish``."""
        self.store.abandon()
        self._unfinished.touch()
        shutil.rmtree(self.root)

    def finish(self) -> None:
        """Mark the files as complete."""
        self._unfinished.unlink()

    def _set_aside(self, error: DamageError) -> None:
        aside = self.root.with_name(f"{self.root.name}.damaged-{time.time_ns()}")
        LOG.warning("%s: set aside as %s, and copied again from another replica", error, aside)
        self._unfinished.touch()
        self.root.rename(aside)
