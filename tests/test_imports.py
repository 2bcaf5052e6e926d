"""A memory shard needs no torch, which takes several times the memory of everything else in its process."""

import subprocess
import sys

import pytest

import leworld.memory


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_a_shard_does_not_import_torch_and_placement_does_when_it_is_asked_for():
    shard = loaded("import actors.memory_cluster.replica_actor")
    assert "leworld.store.durable_store" in shard
    assert "torch" not in shard
    assert "torch" in loaded("from leworld.memory import HashPlacement")


def test_names_that_do_not_exist_are_refused_as_usual():
    assert leworld.memory.AppendPlacement(8).address(1, 1).tolist() == [0]
    with pytest.raises(AttributeError, match=r"module 'leworld\.memory' has no attribute 'Placement'"):
        _ = leworld.memory.Placement
