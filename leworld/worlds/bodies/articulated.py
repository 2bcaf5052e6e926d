"""Bodies of Gymnasium's MuJoCo environments (v5), https://gymnasium.farama.org/environments/mujoco/ .

A body's state is the environment's observation, which leaves its place out. Each episode starts in a random pose near
the environment's own, at random speeds; those that walk start close to the ground.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from leworld.errors import ConfigError, DataError
from leworld.worlds.bodies.base import Floats, log_uniform, transitions

Range = tuple[float, float]


@dataclass(frozen=True)
class Anatomy:
    """What is hidden of a body, and how its episodes start.

    Attributes:
        name: of the environment.
        factors: of each quantity of ``_QUANTITIES`` that is hidden, the range of its factors.
        pose: (nq,) range of what is added to each joint's position.
        speed: (nv,) largest speed of each joint.
        clearance: range of the gap between the lowest point and the ground; None where there is no ground.
        avoids_stops: draw an episode anew in which a joint reaches its stop. Where that happens in 1 of 100 episodes,
            the blow is most of everybody's error, and too rare to be learnt.
    """

    name: str
    factors: dict[str, Range]
    pose: tuple[Range, ...]
    speed: tuple[float, ...]
    clearance: Range | None
    avoids_stops: bool = False


STILL = (0.0, 0.0)
DRIVE = 1 / 3
"""Probability that a motor is used at a step: were all used, one step would tell the gear of every motor."""
TRIES = 100
"""Episodes drawn at most, until one avoids the stops."""

HOPPER = Anatomy(
    name="Hopper-v5",
    factors={"mass": (0.5, 2), "gravity": (0.5, 2), "damping": (0.25, 4), "gear": (0.03, 0.6)},
    pose=(STILL, STILL, (-0.05, 0.05), (-0.4, -0.2), (-0.4, -0.2), (-0.1, 0.1)),
    speed=(0.2, 0.1, 0.2, 0.5, 0.5, 0.5),
    clearance=(0.0, 0.02),
)
SWIMMER = Anatomy(
    name="Swimmer-v5",
    factors={"mass": (0.4, 2.5), "density": (0.1, 1), "gear": (0.1, 1)},
    pose=(STILL, STILL, (-0.3, 0.3), (-0.5, 0.5), (-0.5, 0.5)),
    speed=(0.3, 0.3, 0.5, 0.5, 0.5),
    clearance=None,
    avoids_stops=True,
)
HALFCHEETAH = Anatomy(
    name="HalfCheetah-v5",
    factors={"mass": (0.5, 2), "gravity": (0.5, 2), "damping": (1, 5), "gear": (0.05, 1)},
    pose=(STILL, STILL, *((-0.1, 0.1),) * 7),
    speed=(0.25, 0.25, 0.25, *(0.5,) * 6),
    clearance=(0.0, 0.02),
)


class ArticulatedBody:
    """One MuJoCo model, whose numbers are those of the body that was drawn last.

    Context: the logarithm of each factor, in the order of the anatomy's.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.env: Any = _make_environment(anatomy.name)
        self.state_dim = int(self.env.observation_space.shape[0])
        self._nominal = copy.copy(self.env.model)

    def draw(self, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        logs = []
        for name, limits in self.anatomy.factors.items():
            quantity = _QUANTITIES[name]
            factors = log_uniform(*limits, random, quantity.count(self._nominal))
            quantity.scale(self.env.model, self._nominal, factors)
            logs.append(np.log(factors))
        # What MuJoCo derives from masses once, it has to derive again.
        _mujoco().mj_setConst(self.env.model, self.env.data)
        return np.concatenate(logs)

    def episode(self, num_steps: int, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        for _ in range(TRIES):
            episode = self._run(num_steps, random)
            if episode is not None:
                return episode
        name = self.anatomy.name
        raise DataError(f"physics: {name} hit a joint's stop in each of {TRIES} episodes: use another seed.")

    def _run(self, num_steps: int, random: np.random.Generator) -> Floats | None:
        """One episode, or None where a joint reached a stop that it should not."""
        states = [self._start(random)]
        shape = (num_steps, self.env.model.nu)
        actions = random.uniform(-1, 1, size=shape) * (random.uniform(size=shape) < DRIVE)
        free = not self.anatomy.avoids_stops
        for action in actions:
            if not free and _near_stop(self.env):
                return None
            states.append(self.env.step(action)[0])
        if self.env.data.warning.number.any():
            raise DataError(f"physics: {self.anatomy.name} did not stay finite: use another seed.")
        return transitions(states, actions)

    def _start(self, random: np.random.Generator) -> Floats:
        """Put the body somewhere; its state (Y,)."""
        env, anatomy = self.env, self.anatomy
        env.reset(seed=0)
        low, high = np.array(anatomy.pose).T
        pose = env.init_qpos + random.uniform(low, high)
        speed = random.uniform(-1, 1, size=env.model.nv) * anatomy.speed
        env.set_state(pose, speed)
        if anatomy.clearance is not None:
            pose[1] += random.uniform(*anatomy.clearance) - _lowest_point(env)
            env.set_state(pose, speed)
        return env._get_obs()


@dataclass(frozen=True)
class _Quantity:
    """A quantity of a model: how many factors it takes, and how to set a model to the nominal one times factors."""

    count: Callable[[Any], int]
    scale: Callable[[Any, Any, Floats], None]


def _scale_mass(model: Any, nominal: Any, factors: Floats) -> None:
    model.body_mass[1:] = nominal.body_mass[1:] * factors
    model.body_inertia[1:] = nominal.body_inertia[1:] * factors[:, None]


def _scale_gravity(model: Any, nominal: Any, factors: Floats) -> None:
    model.opt.gravity[:] = nominal.opt.gravity * factors


def _scale_damping(model: Any, nominal: Any, factors: Floats) -> None:
    damped = nominal.dof_damping > 0
    model.dof_damping[damped] = nominal.dof_damping[damped] * factors


def _scale_gear(model: Any, nominal: Any, factors: Floats) -> None:
    model.actuator_gear[:] = nominal.actuator_gear * factors[:, None]


def _scale_density(model: Any, nominal: Any, factors: Floats) -> None:
    model.opt.density = nominal.opt.density * factors[0]


_QUANTITIES = {
    "mass": _Quantity(lambda model: model.nbody - 1, _scale_mass),
    "gravity": _Quantity(lambda model: 1, _scale_gravity),
    "damping": _Quantity(lambda model: int((model.dof_damping > 0).sum()), _scale_damping),
    "gear": _Quantity(lambda model: model.nu, _scale_gear),
    "density": _Quantity(lambda model: 1, _scale_density),
}
"""Mass and inertia of each moving part, gravity, damping of each joint, gear of each motor, density of the fluid."""


def _lowest_point(env: Any) -> float:
    """Height of the lowest point of the moving parts, which are capsules."""
    model, data = env.model, env.data
    moving = model.geom_bodyid > 0
    radius, half_length = model.geom_size[moving, :2].T
    upright = np.abs(data.geom_xmat[moving].reshape(-1, 3, 3)[:, 2, 2])
    return float((data.geom_xpos[moving, 2] - upright * half_length - radius).min())


def _near_stop(env: Any) -> bool:
    """Whether a joint is at its stop, or would be within the next step."""
    model, data = env.model, env.data
    limited = model.jnt_limited.astype(bool)
    place = data.qpos[model.jnt_qposadr[limited]]
    ahead = place + env.dt * data.qvel[model.jnt_dofadr[limited]]
    low, high = model.jnt_range[limited].T
    return bool(((np.minimum(place, ahead) <= low) | (np.maximum(place, ahead) >= high)).any())


def _make_environment(name: str) -> Any:
    """The environment without its wrappers.

    Raises:
        ConfigError: MuJoCo is not installed.
    """
    import gymnasium  # Only a process that builds such a world needs the simulator.

    try:
        mujoco = _mujoco()
        before = mujoco.get_mju_user_warning()
        # MuJoCo would write what it says of the environments' own model files into a file where the user works.
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            return gymnasium.make(name).unwrapped
        finally:
            mujoco.set_mju_user_warning(before)
    except (ImportError, gymnasium.error.DependencyNotInstalled):
        message = f"physics: {name} needs MuJoCo, which is not installed: pip install 'leworld[mujoco]'."
        raise ConfigError(message) from None


def _mujoco() -> Any:
    return importlib.import_module("mujoco")
