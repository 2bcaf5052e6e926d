"""The bodies of the world ``physics``, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from leworld.worlds.bodies.articulated import HALFCHEETAH, HOPPER, SWIMMER, ArticulatedBody
from leworld.worlds.bodies.base import Body as Body
from leworld.worlds.bodies.classic import Acrobot, CartPole, Pendulum

BODIES: dict[str, Callable[[], Body]] = {
    "cartpole": CartPole,
    "pendulum": Pendulum,
    "acrobot": Acrobot,
    "hopper": partial(ArticulatedBody, HOPPER),
    "swimmer": partial(ArticulatedBody, SWIMMER),
    "halfcheetah": partial(ArticulatedBody, HALFCHEETAH),
}
"""Name to what makes the simulator; the last three need MuJoCo."""
