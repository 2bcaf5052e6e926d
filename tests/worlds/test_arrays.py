import re
from pathlib import Path

import numpy as np
import pytest
import torch

from leworld.errors import ConfigError, DataError
from leworld.worlds import ArraysConfig, ArraysWorld
from leworld.worlds.array_files import read_episodes
from tests.worlds.reading import generator, populated, read_one

SMALL = {"records": 6, "horizon": 4}


def arrays(worlds: int = 6, per_world: int = 2, length: int = 10) -> dict[str, np.ndarray]:
    """Episodes whose states count up: world, episode and step can be read off a state."""
    random = np.random.default_rng(0)
    count = worlds * per_world
    world = np.tile(np.arange(worlds), per_world)
    steps = np.arange(length + 1)
    states = np.zeros((count, length + 1, 3))
    states[..., 0], states[..., 1], states[..., 2] = world[:, None], np.arange(count)[:, None], steps
    characteristics = random.standard_normal((worlds, 4))[world]
    return {"states": states, "characteristics": characteristics, "actions": -states[:, :-1, 2:]}


def save(folder: Path, **changed: np.ndarray | None) -> str:
    path = folder / "data.npz"
    parts = {**arrays(), **changed}
    np.savez(path, **{name: array for name, array in parts.items() if array is not None})
    return str(path)


def raw(world: ArraysWorld, values: torch.Tensor) -> np.ndarray:
    """Undo the normalisation, by the world's own training data: states count, so spans are known."""
    source = arrays()
    inputs = np.concatenate([source["states"][:, :-1], source["actions"]], axis=-1)
    spans = _train_inputs(world, inputs)
    mean, std = spans.mean(0), spans.std(0)
    dims = values.shape[-1]
    return np.rint(values.double().numpy() * std[:dims] + mean[:dims]).astype(int)


def _train_inputs(world: ArraysWorld, inputs: np.ndarray) -> np.ndarray:
    train = np.unique(arrays()["characteristics"], axis=0, return_inverse=True)[1].reshape(-1)
    used = np.isin(train, (world.data.split == 0).nonzero().flatten().numpy())
    rows = []
    for first, second in zip(range(6), range(6, 12), strict=True):
        if used[first]:
            rows.extend([inputs[first, 6:10], inputs[second, 0:4], inputs[second, 4:8]])
    return np.concatenate(rows)


@pytest.fixture
def world(tmp_path) -> ArraysWorld:
    return ArraysWorld(ArraysConfig(save(tmp_path), **SMALL), 0)


def test_first_transitions_go_to_memory_and_the_rest_to_sequences(world):
    batch = world.batch("train", 200, generator())
    states = raw(world, batch.current)
    starts = {(int(row[0, 1] >= 6), int(row[0, 2])) for row in states}
    assert starts == {(0, 6), (1, 0), (1, 4)}
    assert (np.diff(states[..., 2], axis=1) == 1).all()
    assert (states[..., 3] == -states[..., 2]).all()
    assert (raw(world, batch.target)[..., 2] == states[..., 2] + 1).all()
    past = raw(world, batch.past)[..., 2]
    assert (past == np.maximum(states[..., 2] - 1, 0)).all()


def test_memory_holds_the_first_records_of_the_body(world):
    memory, batch = populated(world), world.batch("test", 4, generator())
    stored = world.stored(batch.world[:, 0])
    assert stored.inputs.shape == (4, 6, 4)
    states = world.data.stored_inputs[batch.world[:, 0]]
    assert (raw(world, states)[..., 2] == np.arange(6)).all()
    for table in range(3):
        start, length = int(batch.labels.start[0, 0, table]), int(batch.labels.length[0, 0, table])
        fields = world.schema.unpack(read_one(memory, start, length).reshape(2, -1))
        assert torch.equal(torch.from_numpy(fields["inputs"]).float(), stored.inputs[0, table::3])


def test_splits_are_by_world(world):
    seen = [set(world.batch(split, 100, generator()).world.flatten().tolist()) for split in ("train", "valid", "test")]
    assert [len(part) for part in seen] == [4, 1, 1]
    assert len(set.union(*seen)) == 6


def test_padding_past_the_ends_is_never_used(tmp_path):
    parts = arrays()
    parts["ends"] = np.full(12, 8)
    parts["states"][:, 9:] = np.nan
    parts["actions"][:, 8:] = np.inf
    world = ArraysWorld(ArraysConfig(save(tmp_path, **parts), records=8, horizon=4), 0)
    for split in ("train", "valid", "test"):
        batch = world.batch(split, 50, generator())
        assert batch.current.isfinite().all()
        assert batch.target.isfinite().all()


def test_without_actions_the_state_stands_alone(tmp_path):
    spec = ArraysWorld(ArraysConfig(save(tmp_path, actions=None), **SMALL), 0).spec
    assert (spec.state_dim, spec.target_dim, spec.context_dim) == (3, 3, 0)


def test_large_offsets_keep_their_precision(tmp_path):
    parts = arrays()
    plain = ArraysWorld(ArraysConfig(save(tmp_path, **parts), **SMALL), 0).batch("train", 8, generator())
    parts["states"][..., 2] += 1e9
    moved = ArraysWorld(ArraysConfig(save(tmp_path, **parts), **SMALL), 0).batch("train", 8, generator())
    assert torch.allclose(plain.current, moved.current, atol=1e-4)


def test_constant_dimensions_do_not_blow_up(tmp_path):
    parts = arrays()
    parts["states"][..., 0] = 7.0
    parts["characteristics"] = np.concatenate([parts["characteristics"], np.ones((12, 1))], axis=1)
    world = ArraysWorld(ArraysConfig(save(tmp_path, **parts), **SMALL), 0)
    batch = world.batch("test", 8, generator())
    assert batch.current[..., 0].abs().max() == 0
    assert (world.spec.scale >= 1e-6).all()
    assert world.keys(8, generator()).characteristics[:, -1].abs().max() == 0


def test_one_characteristic_reaches_several_pages(tmp_path):
    values = np.linspace(0.5, 2.0, 12)[:, None]
    world = ArraysWorld(ArraysConfig(save(tmp_path, characteristics=values), records=3, horizon=4), 0)
    assert len(np.unique(world._start[:, 0] // 256)) >= 4


def _broken(name: str, at: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    parts = arrays()
    parts[name][at] = value
    return parts


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"states": None}, "array 'states' (E, L + 1, S) is missing, it holds actions or characteristics"),
        ({"action": np.zeros((12, 10, 1))}, "'action' is not known (did you mean 'actions'?)"),
        ({"states": np.zeros((12, 11))}, "'states' has shape (12, 11), not (E, L + 1, S)"),
        ({"states": np.zeros((0, 11, 3))}, "'states' has shape (0, 11, 3) and is empty"),
        ({"states": np.zeros((12, 1, 3)), "actions": None}, "needs 2 states"),
        ({"characteristics": np.zeros((11, 4))}, "shape (11, 4), which does not go with 'states' (12, 11, 3)"),
        ({"actions": np.zeros((12, 11, 1))}, "shape (12, 11, 1), which does not go with 'states' (12, 11, 3)"),
        ({"ends": np.full(12, 11)}, "'ends' is 11 at 0"),
        ({"ends": np.array([10] * 11 + [0])}, "'ends' is 0 at 11"),
        ({"ends": np.full(12, 9.5)}, "'ends' is 9.5 at 0"),
        ({"states": np.full((12, 11, 3), "x")}, "type <U1"),
        ({"states": np.full((12, 11, 3), 1j)}, "type complex128"),
        ({"states": np.full((12, 11, 3), None)}, "array 'states' cannot be read"),
        (_broken("states", (3, 4, 1), np.nan), "'states' is nan at (3, 4, 1)"),
        (_broken("actions", (2, 9, 0), -np.inf), "'actions' is -inf at (2, 9, 0)"),
        (_broken("characteristics", (5, 2), np.inf), "'characteristics' is inf at (5, 2)"),
        ({"characteristics": np.zeros((12, 4))}, "1 worlds"),
        ({"characteristics": np.repeat(np.eye(4)[:2], 6, axis=0)}, "2 worlds"),
    ],
)
def test_unusable_files_are_named_in_one_line(tmp_path, changed, named):
    path = save(tmp_path, **changed)
    with pytest.raises(DataError) as caught:
        ArraysWorld(ArraysConfig(path, **SMALL), 0)
    assert str(caught.value).startswith(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_short_worlds_say_how_much_is_needed(tmp_path):
    ends = np.full(12, 10)
    ends[[3, 9]] = 4
    with pytest.raises(
        DataError, match=re.escape("the world of episode 3 has 8 transitions in 2 episode(s)")
    ) as caught:
        ArraysWorld(ArraysConfig(save(tmp_path, ends=ends), records=6, horizon=4), 0)
    assert "need 10" in str(caught.value)


def test_three_worlds_are_enough(tmp_path):
    parts = arrays(worlds=3)
    world = ArraysWorld(ArraysConfig(save(tmp_path, **parts), **SMALL), 0)
    assert sorted(world.data.split.tolist()) == [0, 1, 2]


def test_files_that_are_no_npz(tmp_path):
    for content in (b"", b"hello", b"\x93NUMPY", b"PK\x03\x04 not a zip"):
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match="not an "):
            ArraysWorld(ArraysConfig(str(path)), 0)
    with pytest.raises(DataError, match="no such file"):
        ArraysWorld(ArraysConfig(str(tmp_path / "absent.npz")), 0)
    with pytest.raises(DataError, match="no such file"):
        ArraysWorld(ArraysConfig(str(tmp_path)), 0)


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_damaged_files_are_data_errors_or_harmless(tmp_path, save_as):
    path, parts = tmp_path / "data.npz", arrays(3, 1, 6)
    save_as(path, **parts)
    content, refused = path.read_bytes(), 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            episodes = read_episodes(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:
            # Bytes that carry no content, such as dates, may change; what is read may not.
            assert np.array_equal(episodes.states, parts["states"])
            assert np.array_equal(episodes.characteristics, parts["characteristics"])
    assert refused > len(content) / 2


def test_truncated_files_are_data_errors(tmp_path):
    path = Path(save(tmp_path))
    content = path.read_bytes()
    for keep in (1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(DataError):
            ArraysWorld(ArraysConfig(str(path), **SMALL), 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"records": 2}, "records is 2"), ({"test_fraction": 1.2}, "test_fraction is 1.2"), ({"horizon": 0}, "horizon")],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ConfigError) as caught:
        ArraysConfig("data.npz", **settings)
    assert named in str(caught.value)
