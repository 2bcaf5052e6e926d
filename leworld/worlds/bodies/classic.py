"""Bodies of Gymnasium's classic control, https://gymnasium.farama.org/environments/classic_control/ .

Each episode starts at random angles and speeds. Angles are observed as cosine and sine.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from leworld.worlds.bodies.base import Floats, log_uniform, transitions


class ClassicBody:
    """Base: an environment whose ``state`` can be set, and whose physics are its attributes."""

    name: ClassVar[str]
    state_dim: ClassVar[int]
    angles: ClassVar[tuple[int, ...]]
    """Which numbers of the environment's state are angles."""
    start: ClassVar[tuple[float, ...]]
    """Largest size of each number of the environment's state at the start."""

    def __init__(self) -> None:
        import gymnasium  # Only a process that builds such a world needs the simulator.

        self.env: Any = gymnasium.make(self.name).unwrapped

    def draw(self, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        raise NotImplementedError

    def episode(self, num_steps: int, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        self.env.state = random.uniform(-1, 1, size=len(self.start)) * self.start
        actions = self._actions(num_steps, random)
        states = [self._observed()]
        for action in actions:
            self._step(float(action[0]))
            states.append(self._observed())
        return transitions(states, actions)

    def _actions(self, num_steps: int, random: np.random.Generator) -> Floats:
        """(T, 1)."""
        raise NotImplementedError

    def _step(self, action: float) -> None:
        raise NotImplementedError

    def _observed(self) -> Floats:
        """(Y,)."""
        parts: list[float] = []
        for index, value in enumerate(self.env.state):
            parts += [np.cos(value), np.sin(value)] if index in self.angles else [value]
        return np.array(parts)


class Pendulum(ClassicBody):
    """Hidden: mass, length, gravity. State: cos, sin, speed; action: torque.

    Context: log m, log l, g, log 3g / (2l) and log 3 / (m l^2), by which angle and torque accelerate.
    """

    name = "Pendulum-v1"
    state_dim = 3
    angles = (0,)
    start = (np.pi, 4.0)

    def draw(self, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        mass, length = log_uniform(0.5, 2, random), log_uniform(0.5, 1.5, random)
        gravity = random.uniform(5, 15)
        self.env.m, self.env.l, self.env.g = float(mass), float(length), gravity
        pull, push = 3 * gravity / (2 * length), 3 / (mass * length**2)
        return np.array([np.log(mass), np.log(length), gravity, np.log(pull), np.log(push)])

    def _actions(self, num_steps: int, random: np.random.Generator) -> Floats:
        return random.uniform(-self.env.max_torque, self.env.max_torque, size=(num_steps, 1))

    def _step(self, action: float) -> None:
        self.env.step(np.array([action]))


class CartPole(ClassicBody):
    """Hidden: gravity, mass of cart and pole, half the pole's length, force. State: x, its speed, cos, sin, speed.

    The pole may stand or hang; the action is -1 or 1. Context: the logarithms of the five, of force / mass and of
    gravity / length, and the pole's share of the mass.
    """

    name = "CartPole-v1"
    state_dim = 5
    angles = (2,)
    start = (2.4, 2.0, np.pi, 4.0)

    def draw(self, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        env = self.env
        env.gravity, env.force_mag = 9.8 * log_uniform(0.4, 2.5, random), 10 * log_uniform(0.4, 2.5, random)
        env.masscart, env.masspole = log_uniform(0.4, 2.5, random), log_uniform(0.1, 1, random)
        env.length = 0.5 * log_uniform(0.4, 2.5, random)
        env.total_mass = env.masscart + env.masspole
        env.polemass_length = env.masspole * env.length
        plain = [env.gravity, env.force_mag, env.masscart, env.masspole, env.length]
        logs = np.log([*plain, env.force_mag / env.total_mass, env.gravity / env.length])
        return np.append(logs, env.masspole / env.total_mass)

    def _actions(self, num_steps: int, random: np.random.Generator) -> Floats:
        return random.choice([-1.0, 1.0], size=(num_steps, 1))

    def _step(self, action: float) -> None:
        # The environment warns of steps after the pole fell, but here it may fall.
        self.env.steps_beyond_terminated = None
        self.env.step(int(action > 0))


class Acrobot(ClassicBody):
    """Hidden: length and mass of both links, moment of inertia, torque. State: cos, sin of both angles, both speeds.

    It starts within a radian of hanging straight; the action is -1, 0 or 1 times the torque. Context: the logarithms of
    the six, and how the torque and the weight at a small angle of either joint accelerate both of a straight body.
    """

    name = "Acrobot-v1"
    state_dim = 6
    angles = (0, 1)
    start = (1.0, 1.0, 1.0, 1.0)

    def draw(self, random: np.random.Generator) -> Floats:
        """See ``Body``."""
        env = self.env
        length_1, length_2, mass_1, mass_2, moment = log_uniform(0.5, 2, random, 5)
        torque = log_uniform(0.5, 5, random)
        env.LINK_LENGTH_1, env.LINK_LENGTH_2 = length_1, length_2
        env.LINK_COM_POS_1, env.LINK_COM_POS_2 = length_1 / 2, length_2 / 2
        env.LINK_MASS_1, env.LINK_MASS_2, env.LINK_MOI = mass_1, mass_2, moment
        env.AVAIL_TORQUE = [-torque, 0.0, torque]
        own = mass_2 * length_2**2 / 4 + moment
        shared = own + mass_2 * length_1 * length_2 / 2
        whole = mass_1 * length_1**2 / 4 + mass_2 * length_1**2 + moment + 2 * shared - own
        weight_1, weight_2 = (mass_1 / 2 + mass_2) * length_1, mass_2 * length_2 / 2
        pushes = [[0, weight_1 + weight_2, weight_2], [torque, weight_2, weight_2]]
        accelerations = np.linalg.solve([[whole, shared], [shared, own]], pushes)
        return np.append(np.log([length_1, length_2, mass_1, mass_2, moment, torque]), accelerations)

    def _actions(self, num_steps: int, random: np.random.Generator) -> Floats:
        return random.choice([-1.0, 0.0, 1.0], size=(num_steps, 1))

    def _step(self, action: float) -> None:
        self.env.step(int(action) + 1)
