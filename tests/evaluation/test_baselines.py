from dataclasses import replace

import pytest
import torch

from leworld.errors import ConfigError
from leworld.evaluation.baselines import BASELINES, applicable, evaluate, train_baselines
from leworld.evaluation.metrics import errors
from leworld.evaluation.predictor import Budget, Output, training_batches, valid_batch
from leworld.evaluation.simple_baselines import Linear, Neighbours, PlainDict
from leworld.types import Batch
from tests.evaluation.fakes import BODIES, STORED, TARGET, FakeWorld

SHORT = Budget(steps=40, sequences=8)


def _batch(world: FakeWorld, split: str, size: int = 32) -> Batch:
    return world.batch(split, size, torch.Generator().manual_seed(3))  # pyright: ignore[reportArgumentType]


def test_every_baseline_predicts_the_whole_batch(world: FakeWorld, held_out: Batch) -> None:
    trained = train_baselines(world, SHORT)
    assert list(trained) == list(BASELINES)
    for predictor in trained.values():
        prediction = predictor.predict(held_out)
        assert prediction.shape == held_out.target.shape
        assert prediction.isfinite().all()
        assert not prediction.requires_grad


def test_prediction_never_depends_on_the_target(world: FakeWorld, held_out: Batch) -> None:
    blind = Batch(**{**vars(held_out), "target": torch.full_like(held_out.target, float("nan"))})
    for predictor in train_baselines(world, SHORT).values():
        assert torch.equal(predictor.predict(held_out), predictor.predict(blind))


def test_same_seed_same_bits_and_the_global_generator_is_left_alone(world: FakeWorld, held_out: Batch) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = train_baselines(world, SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    two = train_baselines(world, SHORT)
    for name, predictor in one.items():
        assert torch.equal(predictor.predict(held_out), two[name].predict(held_out)), name


def test_another_seed_gives_other_weights(world: FakeWorld, held_out: Batch) -> None:
    one, two = (train_baselines(world, Budget(5, 8, seed=seed), ["gru"])["gru"] for seed in (0, 1))
    assert not torch.equal(one.predict(held_out), two.predict(held_out))


def test_all_are_trained_on_the_same_stream(world: FakeWorld) -> None:
    one, two = (list(training_batches(world, SHORT)) for _ in range(2))
    assert len(one) == SHORT.steps
    assert all(torch.equal(a.target, b.target) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].target, one[1].target)


def test_zero_and_copy_are_what_they_say(world: FakeWorld, held_out: Batch) -> None:
    trained = train_baselines(world, SHORT, ["predict_zero", "copy_last"])
    found = {name: evaluate(predictor, [held_out], world.spec.scale) for name, predictor in trained.items()}
    assert torch.allclose(found["predict_zero"], (held_out.target / world.spec.scale).square().mean(-1))
    gains = world.gains[held_out.world] / world.spec.scale
    assert torch.allclose(found["copy_last"], gains.square().mean(-1), atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_ridge_finds_a_linear_law(residual: bool) -> None:
    world = FakeWorld(residual=residual, lawful=True)
    batch = _batch(world, "test")
    linear = train_baselines(world, SHORT, ["linear"])["linear"]
    assert float(evaluate(linear, [batch], world.spec.scale).mean()) < 1e-6


def test_ridge_agrees_with_plain_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leworld.evaluation.simple_baselines._RIDGES", (1e-12,))
    world = FakeWorld()
    batches = list(training_batches(world, SHORT))
    wanted = torch.cat([(b.target - b.current[..., :TARGET]).flatten(0, 1) for b in batches]).double()
    weight = torch.linalg.lstsq(torch.cat([_plain_rows(b) for b in batches]), wanted).solution
    batch = _batch(world, "train")
    change = train_baselines(world, SHORT, ["linear"])["linear"].predict(batch) - batch.current[..., :TARGET]
    assert torch.allclose(change.flatten(0, 1), (_plain_rows(batch) @ weight).float(), atol=1e-4)


def _plain_rows(batch: Batch) -> torch.Tensor:
    rows = torch.cat([batch.past, batch.current, batch.characteristics, torch.ones(*batch.shape, 1)], -1)
    return rows.flatten(0, 1).double()


@pytest.mark.parametrize("lawful", [True, False])
def test_the_ridge_is_the_one_that_is_best_on_the_valid_split(lawful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world = FakeWorld(lawful=lawful)
    valid = valid_batch(world, SHORT)
    chosen = float(evaluate(Linear.fit(world, SHORT), [valid], world.spec.scale).mean())
    single = []
    for ridge in (1e-6, 1.0):
        monkeypatch.setattr("leworld.evaluation.simple_baselines._RIDGES", (ridge,))
        single.append(float(evaluate(Linear.fit(world, SHORT), [valid], world.spec.scale).mean()))
    assert single[0] != single[1]
    assert chosen <= min(single)


@pytest.mark.parametrize("name", ["mlp", "gru"])
@pytest.mark.parametrize("residual", [True, False])
def test_networks_learn_the_bodies_they_trained_on(name: str, residual: bool) -> None:
    world = FakeWorld(residual=residual, lawful=True)
    batch = _batch(world, "train")
    trained = train_baselines(world, Budget(steps=150, sequences=16, lr=5e-3), [name, "copy_last"])
    found = {n: float(evaluate(predictor, [batch], world.spec.scale).mean()) for n, predictor in trained.items()}
    assert found[name] < 0.1 * found["copy_last"]


@pytest.mark.parametrize("name", ["mlp", "gru"])
@pytest.mark.parametrize("lawful", [True, False])
def test_codes_are_seen_only_where_they_carry_over(name: str, lawful: bool) -> None:
    world = FakeWorld(lawful=lawful)
    network = train_baselines(world, Budget(steps=150, sequences=16, lr=5e-3), [name])[name]
    batch = _batch(world, "test")
    other = replace(batch, characteristics=-batch.characteristics)
    assert torch.equal(network.predict(batch), network.predict(other)) == (not lawful)


def test_oracle_carries_over_to_bodies_never_seen(held_out: Batch) -> None:
    world = FakeWorld()
    trained = train_baselines(world, Budget(steps=200, sequences=16, lr=3e-3), ["oracle", "mlp"])
    oracle, mlp = (float(evaluate(trained[name], [held_out], world.spec.scale).mean()) for name in ("oracle", "mlp"))
    assert oracle < 0.5 * mlp


def test_gru_sees_the_past_and_never_the_future(world: FakeWorld, held_out: Batch) -> None:
    gru = train_baselines(world, SHORT, ["gru"])["gru"]
    current = held_out.current.clone()
    current[:, 2] += 1
    changed = gru.predict(Batch(**{**vars(held_out), "current": current})) - gru.predict(held_out)
    assert torch.equal(changed[:, :2], torch.zeros_like(changed[:, :2]))
    assert changed[:, 3].abs().max() > 0


def test_neighbours_agree_with_a_plain_search() -> None:
    world = FakeWorld()
    batch = _batch(world, "test", 5)
    std = torch.tensor([1.0, 2.0, 0.5])
    # Targets without a common change, so that it matters which neighbours are found.
    world.stored = lambda bodies: _noisy(world, bodies)  # type: ignore[method-assign]
    knn = Neighbours(world, Output.of(world.spec), std, 2)
    prediction = knn.predict(batch)
    assert batch.world is not None
    for b in range(5):
        for t in range(world.horizon):
            stored = _noisy(world, batch.world[b, t : t + 1])
            distance = (((stored.inputs[0] - batch.current[b, t]) / std) ** 2).sum(-1)
            nearest = sorted(range(STORED), key=lambda m, d=distance: float(d[m]))[:2]
            change = (stored.targets[0, nearest] - stored.inputs[0, nearest, :TARGET]).mean(0)
            assert torch.allclose(prediction[b, t], batch.current[b, t, :TARGET] + change, atol=1e-5)


def _noisy(world: FakeWorld, bodies: torch.Tensor):
    stored = FakeWorld.stored(world, bodies)
    assert stored is not None
    return type(stored)(stored.inputs, stored.targets + stored.inputs[..., 1:].sin())


def test_neighbours_are_right_on_held_out_bodies_and_k_fits_what_is_stored(world: FakeWorld, held_out: Batch) -> None:
    knn = Neighbours.fit(world, SHORT)
    assert knn.k in (1, 2, 4)
    assert float(evaluate(knn, [held_out], world.spec.scale).mean()) < 1e-9


def test_more_samples_than_one_chunk_change_nothing(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    knn, batch = Neighbours.fit(world, SHORT), _batch(world, "test", 9)
    whole = knn.predict(batch)
    monkeypatch.setattr("leworld.evaluation.simple_baselines._CHUNK", 5)
    assert torch.equal(knn.predict(batch), whole)


def test_dict_knows_the_keys_it_saw_and_copies_elsewhere(world: FakeWorld, held_out: Batch) -> None:
    known = _batch(world, "train")
    plain = PlainDict.fit(world, SHORT)
    assert len(plain.rows) == BODIES
    assert (plain.places(known) >= 0).all()
    assert (plain.places(held_out) < 0).all()
    assert torch.allclose(plain.predict(known), known.target, atol=1e-4)
    assert torch.equal(plain.predict(held_out), held_out.current[..., :TARGET])


def test_dict_of_states_averages_the_states_of_a_key() -> None:
    world = FakeWorld(residual=False)
    plain = PlainDict.fit(world, SHORT)
    batches = list(training_batches(world, SHORT))
    for body in range(BODIES):
        own = torch.cat([b.target[b.world == body] for b in batches])
        batch = _batch(world, "train")
        assert torch.allclose(plain.predict(batch)[batch.world == body], own.mean(0), atol=1e-4)


def test_errors_come_one_a_sample_over_all_batches(world: FakeWorld) -> None:
    copy = train_baselines(world, SHORT, ["copy_last"])["copy_last"]
    batches = [_batch(world, "test", size) for size in (3, 5)]
    found = evaluate(copy, batches, world.spec.scale)
    assert found.shape == (8, world.horizon)
    assert torch.equal(found[:3], errors(copy.predict(batches[0]), batches[0].target, world.spec.scale))


def test_a_world_without_truth_or_store_has_neither_oracle_nor_neighbours() -> None:
    assert applicable(FakeWorld()) == list(BASELINES)
    bare = FakeWorld(told=False, remembers=False)
    assert set(BASELINES) - set(applicable(bare)) == {"oracle", "knn", "least_squares", "gru_context"}
    for name in ("oracle", "knn", "least_squares", "gru_context"):
        with pytest.raises(ConfigError, match=f"leave the baseline {name} out"):
            train_baselines(bare, SHORT, [name])


def test_unknown_names_and_empty_budgets_are_refused(world: FakeWorld) -> None:
    with pytest.raises(ConfigError, match="did you mean linear"):
        train_baselines(world, SHORT, ["liner"])
    with pytest.raises(ConfigError, match="choose from predict_zero"):
        train_baselines(world, SHORT, ["?"])
    for wrong in ({"steps": 0}, {"sequences": 0}, {"lr": 0.0}):
        with pytest.raises(ConfigError, match="above 0"):
            Budget(**wrong)


def test_the_shortest_budget_trains(world: FakeWorld, held_out: Batch) -> None:
    for predictor in train_baselines(world, Budget(1, 1)).values():
        assert predictor.predict(held_out).isfinite().all()
