"""What all tests share: one Ray cluster for those that need one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from cluster.raylink.session import prepare_environment

# Ray reads its environment when it is first imported.
prepare_environment(None)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster on this machine, started when the first test asks for it."""
    import ray

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
