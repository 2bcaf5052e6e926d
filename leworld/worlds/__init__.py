"""Worlds: where states come from, what memory is told of them, and what is known of the answer."""

from leworld.worlds.arrays import ArraysConfig as ArraysConfig
from leworld.worlds.arrays import ArraysWorld as ArraysWorld
from leworld.worlds.base import Keys as Keys
from leworld.worlds.base import Rewritable as Rewritable
from leworld.worlds.base import Stored as Stored
from leworld.worlds.base import World as World
from leworld.worlds.base import WorldSpec as WorldSpec
from leworld.worlds.physics import PhysicsConfig as PhysicsConfig
from leworld.worlds.physics import PhysicsWorld as PhysicsWorld
from leworld.worlds.pointers import PointersConfig as PointersConfig
from leworld.worlds.pointers import PointersWorld as PointersWorld
from leworld.worlds.registry import WORLDS as WORLDS
from leworld.worlds.registry import build_world as build_world
from leworld.worlds.rules import RulesConfig as RulesConfig
from leworld.worlds.rules import RulesWorld as RulesWorld
from leworld.worlds.seed import SeedConfig as SeedConfig
from leworld.worlds.seed import SeedWorld as SeedWorld
from leworld.worlds.trajectories import TrajectoryWorld as TrajectoryWorld
from leworld.worlds.trajectory_data import TrajectoryData as TrajectoryData
