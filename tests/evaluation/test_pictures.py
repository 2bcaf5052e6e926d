import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from leworld.errors import DataError
from leworld.evaluation.pictures import _gate_bars, _positions, _running_mean, draw_gate, draw_losses
from leworld.evaluation.rollout_picture import draw_rollouts

GATE = {
    "world": "rules hard",
    "leworld": 0.012,
    "floor": 0.01,
    "oracle": 0.0104,
    "baselines": {"copy_last": 0.1, "mlp": 0.09, "oracle": 0.0104, "knn": None},
    "controls": {"zeroed": 0.094, "random_addresses": 0.2},
}


def _is_picture(path: Path) -> bool:
    pixels = matplotlib.image.imread(path)
    return pixels.shape[0] > 100 and pixels.std() > 0.01


def test_bars_are_sorted_and_unknown_ones_left_out() -> None:
    names = [bar.name for bar in _gate_bars(GATE)]
    assert names == ["LeWorld", "mlp", "memory zeroed", "copy last", "memory random addresses"]


def test_a_rewritten_memory_has_a_bar_of_its_own() -> None:
    assert [bar.name for bar in _gate_bars({**GATE, "rewritten": 0.013})][:2] == ["LeWorld", "LeWorld, rewritten"]


def test_the_worst_is_what_is_no_number() -> None:
    bars = _gate_bars({**GATE, "leworld": math.nan, "controls": {}})
    assert [bar.name for bar in bars] == ["mlp", "copy last", "LeWorld"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"floor": None, "oracle": None, "controls": {}, "baselines": {}},
        {"leworld": math.inf, "controls": {"zeroed": 0.0}},
        {"leworld": 0.01, "floor": 0.01, "oracle": 0.01, "baselines": {}, "controls": {}},
    ],
)
def test_gate_is_drawn(tmp_path: Path, changes: dict) -> None:
    draw_gate({**GATE, **changes}, tmp_path / "gate.png")
    assert _is_picture(tmp_path / "gate.png")


def test_gate_without_errors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no error above 0"):
        draw_gate({"world": "rules", "leworld": None, "baselines": {}, "controls": {}}, tmp_path / "gate.png")


def test_phases_follow_each_other_also_where_steps_begin_anew() -> None:
    steps = [("joint", 0), ("joint", 5), ("refine", 0), ("refine", 5)]
    positions, borders = _positions([{"phase": phase, "step": step} for phase, step in steps])
    assert positions.tolist() == [0, 5, 6, 11]
    assert borders == [(0, "joint"), (6, "refine")]
    positions, _ = _positions([{"phase": phase, "step": 10 * place} for place, (phase, _) in enumerate(steps)])
    assert positions.tolist() == [0, 10, 20, 30]


def test_running_mean_keeps_a_line_and_the_length() -> None:
    line = [0.5 * value for value in range(600)]
    assert _running_mean(np.array(line))[100:500].tolist() == pytest.approx(line[100:500])
    assert _running_mean(np.array([3.0])).tolist() == [3.0]


@pytest.mark.parametrize("num_records", [1, 2, 130])
def test_losses_are_drawn(tmp_path: Path, num_records: int) -> None:
    records = [
        {"phase": "pretrain" if step < 60 else "joint", "step": step, "slm_loss": 9 - step / 20, "hit_top1": step / 130}
        for step in range(num_records)
    ]
    records.append({"phase": "refine", "step": 0, "loss": -1.0, "mask_accuracy": None, "name": "x"})
    draw_losses(records, tmp_path / "losses.png")
    assert _is_picture(tmp_path / "losses.png")


def test_records_without_a_curve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 1 training records"):
        draw_losses([{"phase": "joint", "step": 0, "lr": 0.1}], tmp_path / "losses.png")


ROLLOUT = {
    "leworld": {"teacher_forced": [0.01, 0.01, 0.02], "free_running": [0.01, 0.05, 0.2]},
    "linear": {"teacher_forced": [0.1, 0.1, 0.1], "free_running": [0.1, 9.0, None]},
    "copy_last": {"teacher_forced": [0.0, 0.0, 0.0], "free_running": [0.0, math.inf, math.nan]},
}


@pytest.mark.parametrize("floor", [None, 0.0, 0.01])
@pytest.mark.parametrize("names", [["leworld"], ["linear"], list(ROLLOUT)])
def test_rollouts_are_drawn(tmp_path: Path, floor: float | None, names: list[str]) -> None:
    rollout = {name: ROLLOUT[name] for name in names}
    draw_rollouts({"world": "rules", "floor": floor, "rollout": rollout}, tmp_path / "rollouts.png")
    assert _is_picture(tmp_path / "rollouts.png")


@pytest.mark.parametrize("rollout", [None, {}, {"copy_last": ROLLOUT["copy_last"]}])
def test_rollouts_without_errors_are_refused(tmp_path: Path, rollout: dict | None) -> None:
    with pytest.raises(DataError, match="no rollout with an error above 0"):
        draw_rollouts({"world": "rules", "rollout": rollout}, tmp_path / "rollouts.png")
