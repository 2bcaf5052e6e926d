"""What all tests share: one Ray cluster for those that need one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.raylink.session import prepare_environment

# Ray reads its environment when it is first imported.
prepare_environment(None)
# Tiny networks run slower on several threads, above all beside other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that need Ray come first: where two processes share the tests, one has them all."""
    items.sort(key=lambda item: not needs_ray(item.path))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, as its tests share what was made for them."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if needs_ray(config.rootpath / path) else path

    return ByFile(config, log)


@cache
def needs_ray(path: Path) -> bool:
    """Whether some test of a file is marked so."""
    return "mark.ray" in path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster on this machine, started when the first test asks for it."""
    import ray

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
