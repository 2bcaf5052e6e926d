"""A group of learners does what one learner does, whatever their number; each has its part of the samples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leworld.training.data_parallel import ALONE, BatchPart
from tests.actors.training.systems import run, small

ROOT = Path(__file__).parents[3]


@given(st.integers(1, 200), st.integers(1, 9))
def test_parts_are_all_samples_each_once(total: int, size: int):
    parts = [BatchPart.of_team(total, rank, size) for rank in range(size)]
    assert sum(part.share for part in parts) == pytest.approx(1)
    everything = torch.arange(total)
    if total >= size:
        assert torch.equal(torch.cat([part.of(everything) for part in parts]), everything)
        assert max(part.share for part in parts) - min(part.share for part in parts) <= 1 / total + 1e-9
        assert torch.stack([part.holds(everything) for part in parts]).sum(0).eq(1).all()
    else:
        assert all(torch.equal(part.of(everything), everything) for part in parts)


def test_one_learner_alone_has_all():
    part = ALONE.part(7)
    assert (part.first, part.stop, part.share) == (0, 7, 1.0)
    value = torch.ones(3, requires_grad=True)
    assert torch.equal(ALONE.total(value), value)


def trained(size: int, folder: Path, *changes: str) -> list:
    """What each learner of a group ends with."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    out = folder / f"team-{size}"
    command = [sys.executable, "-m", "tests.actors.training.group_process"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder / f"meet-{size}"), str(out), *changes], env=environment
        )
        for rank in range(size)
    ]
    assert [process.wait(120) for process in processes] == [0] * size
    return [torch.load(f"{out}.{rank}" if rank else out, weights_only=False) for rank in range(size)]


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, ()),
        (3, ("phases.joint.samples=2", "phases.pretrain.samples=2")),
        (2, ("phases.labels=false", "phases.refine.steps=0")),
    ],
    ids=["two", "more-than-samples", "no-labels"],
)
def test_a_team_trains_as_one_learner_does(size: int, changes: tuple[str, ...], tmp_path: Path):
    metrics, alone = run(small(*changes).learner())
    (team_metrics, group), *others = trained(size, tmp_path, *changes)
    assert len(metrics) == len(team_metrics) > 20
    for one, other in zip(metrics, team_metrics, strict=True):
        for name in ("loss", "verify_loss", "gain", "grad_norm"):
            assert one.get(name, 0.0) == pytest.approx(other.get(name, 0.0), rel=1e-3, abs=1e-5), name
    for found, right in ((group.blm, alone.blm), (group.slms, alone.slms)):
        assert found.keys() == right.keys()
        for name, tensor in right.items():
            if "model." in name:
                torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    for _, blm in others:
        assert all(torch.equal(blm[name], tensor) for name, tensor in group.blm.items())
