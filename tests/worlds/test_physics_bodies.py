"""The bodies: sizes, seeds, what is hidden, and that every transition is the simulator's own."""

import importlib
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from leworld.errors import ConfigError, DataError
from leworld.worlds import PhysicsConfig, PhysicsWorld
from leworld.worlds.bodies import BODIES
from leworld.worlds.bodies.articulated import HALFCHEETAH, HOPPER, SWIMMER, ArticulatedBody
from leworld.worlds.physics import simulate

MUJOCO = {"hopper": HOPPER, "swimmer": SWIMMER, "halfcheetah": HALFCHEETAH}
TINY = {
    "address_bits": 24,
    "num_train": 4,
    "names": 1,
    "num_valid": 1,
    "num_test": 1,
    "sequences_per_body": 1,
    "records": 6,
    "horizon": 4,
}
SIZES = {
    # state with action, state, context, words of a record
    "cartpole": (6, 5, 8, 3),
    "pendulum": (4, 3, 5, 2),
    "acrobot": (7, 6, 12, 4),
    "hopper": (14, 11, 11, 7),
    "swimmer": (10, 8, 6, 5),
    "halfcheetah": (23, 17, 20, 11),
}


@pytest.fixture(scope="module", params=sorted(BODIES))
def name(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, in which simulators leave nothing."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sizes_follow_from_the_body(name):
    spec = PhysicsWorld(PhysicsConfig(body=name, **TINY), 0).spec
    assert (spec.state_dim, spec.target_dim, spec.context_dim, spec.record_words) == SIZES[name]
    assert spec.read_words == 2 * spec.record_words


def test_a_table_of_the_default_config_fits_a_page(name):
    assert SIZES[name][3] * (PhysicsConfig().records // PhysicsConfig().num_tables) <= 256


def test_same_seed_same_bits_other_seed_other_bodies(name, elsewhere):
    config = PhysicsConfig(body=name, **TINY)
    first, second, other = simulate(config, 3), simulate(config, 3), simulate(config, 4)
    for field in ("characteristics", "stored_inputs", "stored_next", "inputs", "following", "context"):
        assert torch.equal(getattr(first, field), getattr(second, field)), field
        assert not (getattr(first, field) == getattr(other, field)).all(), field
    assert not list(elsewhere.iterdir())


def test_a_body_does_not_depend_on_those_before_it_in_other_splits(name):
    few, more = (simulate(PhysicsConfig(body=name, **{**TINY, "num_train": count}), 0) for count in (1, 3))
    assert torch.equal(few.stored_next[-2:], more.stored_next[-2:])
    assert torch.equal(few.following[-2:], more.following[-2:])


def test_bodies_differ_and_their_states_stay_finite(name):
    data = simulate(PhysicsConfig(body=name, **TINY), 1)
    assert len(torch.unique(data.context, dim=0)) == 6
    assert data.following.isfinite().all()
    assert torch.equal(data.following[:, :-1], data.inputs[:, 1:, : data.following.shape[-1]])


def test_same_start_goes_elsewhere_in_another_body(name):
    body, ends = BODIES[name](), []
    for _ in range(2):
        body.draw(np.random.default_rng(len(ends)))
        ends.append(body.episode(3, np.random.default_rng(9))[:, -body.state_dim :])
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_cartpole_is_the_simulators():
    data, simulator = simulate(PhysicsConfig(body="cartpole", **TINY), 0), gymnasium.make("CartPole-v1").unwrapped
    for body in range(6):
        gravity, force, cart, pole, length, push, pull = data.context[body, :7].double().exp().tolist()
        assert force / (cart + pole) == pytest.approx(push, rel=1e-5)
        assert gravity / length == pytest.approx(pull, rel=1e-5)
        simulator.gravity, simulator.force_mag, simulator.masscart = gravity, force, cart
        simulator.masspole, simulator.length = pole, length
        simulator.total_mass, simulator.polemass_length = cart + pole, pole * length
        for before, after in _transitions(data, body):
            simulator.state = np.array([before[0], before[1], np.arctan2(before[3], before[2]), before[4]])
            simulator.steps_beyond_terminated = None
            x, speed, angle, turning = simulator.step(int(before[5] > 0))[0]
            assert np.allclose([x, speed, np.cos(angle), np.sin(angle), turning], after, atol=2e-5)


def test_acrobot_is_the_simulators():
    data, simulator = simulate(PhysicsConfig(body="acrobot", **TINY), 0), gymnasium.make("Acrobot-v1").unwrapped
    for body in range(6):
        length_1, length_2, mass_1, mass_2, moment, torque = data.context[body, :6].double().exp().tolist()
        simulator.LINK_LENGTH_1, simulator.LINK_LENGTH_2 = length_1, length_2
        simulator.LINK_COM_POS_1, simulator.LINK_COM_POS_2 = length_1 / 2, length_2 / 2
        simulator.LINK_MASS_1, simulator.LINK_MASS_2, simulator.LINK_MOI = mass_1, mass_2, moment
        simulator.AVAIL_TORQUE = [-torque, 0, torque]
        for before, after in _transitions(data, body):
            angles = np.arctan2(before[[1, 3]], before[[0, 2]])
            simulator.state = np.array([*angles, *before[4:6]])
            assert np.allclose(simulator.step(int(before[6]) + 1)[0], after, atol=1e-4)


def test_acrobots_context_is_how_it_starts_to_move():
    body = BODIES["acrobot"]()
    context = body.draw(np.random.default_rng(2))
    env, tilt = body.env, 1e-4
    for column, (state, torque) in enumerate([((0, 0), env.AVAIL_TORQUE[2]), ((tilt, 0), 0), ((0, tilt), 0)]):
        accelerations = env._dsdt(np.array([*state, 0, 0, torque]))[2:4]
        unit = 1 if column == 0 else -9.8 * tilt
        assert np.allclose(np.array(accelerations) / unit, context[6:].reshape(2, 3)[:, column], rtol=1e-4)


@pytest.mark.parametrize("name", sorted(MUJOCO))
def test_mujoco_bodies_are_the_simulators(name):
    import mujoco

    data = simulate(PhysicsConfig(body=name, **TINY), 0)
    env = BODIES[name]().env
    nominal = BODIES[name]().env.model
    hidden_positions = env.model.nq + env.model.nv - data.following.shape[-1]
    for body in range(6):
        _set_physics(env.model, nominal, name, data.context[body].double().exp().numpy())
        mujoco.mj_setConst(env.model, env.data)
        # The first of an episode: later ones start from what the solver remembers.
        for before, after in list(_transitions(data, body))[0:6:2]:
            env.reset(seed=1)
            state = np.concatenate([np.zeros(hidden_positions), before[: data.following.shape[-1]]])
            env.set_state(state[: env.model.nq], state[env.model.nq :])
            observed = env.step(before[data.following.shape[-1] :])[0]
            assert np.allclose(observed, after, atol=1e-3), body


def _set_physics(model, nominal, name: str, factors: np.ndarray) -> None:
    parts = model.nbody - 1
    model.body_mass[1:] = nominal.body_mass[1:] * factors[:parts]
    model.body_inertia[1:] = nominal.body_inertia[1:] * factors[:parts, None]
    if name == "swimmer":
        model.opt.density = nominal.opt.density * factors[parts]
    else:
        model.opt.gravity[2] = -9.81 * factors[parts]
        model.dof_damping[3:] = nominal.dof_damping[3:] * factors[parts + 1 : -model.nu]
    model.actuator_gear[:, 0] = nominal.actuator_gear[:, 0] * factors[-model.nu :]


def _transitions(data, body: int) -> zip:
    return zip(data.stored_inputs[body].double().numpy(), data.stored_next[body].double().numpy(), strict=True)


@pytest.mark.parametrize("name", ["hopper", "halfcheetah"])
def test_walkers_start_at_the_ground_and_touch_it(name):
    body, random, touched = ArticulatedBody(MUJOCO[name]), np.random.default_rng(0), 0
    for _ in range(5):
        body.draw(random)
        body._start(random)
        assert all(contact.dist > -1e-6 for contact in body.env.data.contact)
        body.episode(11, random)
        touched += body.env.data.ncon > 0
    assert touched > 0


def test_a_body_that_blows_up_is_an_error():
    body = ArticulatedBody(SWIMMER)
    body.env.model.opt.timestep = 10.0
    with pytest.raises(DataError, match="Swimmer-v5 did not stay finite"):
        body.episode(20, np.random.default_rng(0))


def test_a_body_that_always_hits_a_stop_is_an_error():
    body = ArticulatedBody(SWIMMER)
    body.env.model.jnt_range[:] = 1e-3
    with pytest.raises(DataError, match="Swimmer-v5 hit a joint's stop in each of 100 episodes"):
        body.episode(20, np.random.default_rng(0))


def test_swimmers_joints_never_reach_their_stops():
    at_ease, swift = ArticulatedBody(SWIMMER), ArticulatedBody(replace(SWIMMER, avoids_stops=False))
    stop = at_ease.env.model.jnt_range[-1, 1]
    largest = []
    for body in (at_ease, swift):
        random = np.random.default_rng(1)
        body.draw(random)
        body.env.model.actuator_gear[:] = 3 * body._nominal.actuator_gear
        largest.append(max(np.abs(body.episode(20, random)[:, -body.state_dim :][:, 1:3]).max() for _ in range(20)))
    assert largest[0] < stop <= largest[1]


@pytest.mark.parametrize("missing", ["mujoco", "imageio"])
def test_without_mujoco_one_line_says_how_to_install_it(monkeypatch, missing):
    real = importlib.import_module

    def without(module: str, package: str | None = None):
        if module == "mujoco":
            raise ImportError(module)
        return real(module, package)

    def failing(_: str):
        raise ImportError(missing)

    if missing == "mujoco":
        monkeypatch.setattr(importlib, "import_module", without)
    else:
        monkeypatch.setattr(gymnasium, "make", failing)
    with pytest.raises(ConfigError, match=r"pip install 'leworld\[mujoco\]'") as caught:
        PhysicsWorld(PhysicsConfig(body="hopper", **TINY), 0)
    assert "\n" not in str(caught.value)
