"""Session: one episode, or several side by side, and what the model has seen of it.

Shapes:
    B: episodes.  K: candidates.  H: steps ahead.  S: state.  A: action.  N: SLMs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from leworld.api.memory import ModelMemory
from leworld.api.results import PredictedPath, PredictedStep, Read, Reads
from leworld.api.units import Floats, UserUnits
from leworld.models.slm_health import SLMHealth
from leworld.models.system import System
from leworld.types import Query, Step


class Session:
    """Made by ``Model.session``. It keeps what was seen of the episode and the BLM's last request.

    A session of characteristics (C,) is one episode: states are (S,), actions (A,). One of (B, C) is B episodes at
    once: states are (B, S), actions (B, A), and every result has the axis B too.
    """

    def __init__(
        self, system: System, units: UserUnits, memory: ModelMemory, characteristics: ArrayLike, watch_health: bool
    ) -> None:
        self._system, self._units, self._memory = system, units, memory
        self._lead: tuple[int, ...] = np.shape(characteristics)[:1] if np.ndim(characteristics) == 2 else ()
        self._characteristics = units.characteristics(self._rows("characteristics", characteristics, units.char_dim))
        self._past: Tensor | None = None
        self._seen: Tensor | None = None
        self._request = torch.zeros(self.num_episodes, system.blm.config.query_dim)
        self._watched = watch_health
        self._memory_version = memory.version
        self._health = self._fresh_health()

    @property
    def num_episodes(self) -> int:
        """B; 1 for a single episode."""
        return self._lead[0] if self._lead else 1

    def predict(self, state: ArrayLike, action: ArrayLike | None = None) -> PredictedStep:
        """Predict the state after an action, and go on to it.

        This prediction already uses the transition from the previous call's state and action to this ``state``. Give
        every real state, one call per time step; use ``rollout`` for imagined states.

        Args:
            state: ([B,] S) the state now.
            action: ([B,] A) the action now; omit it if the world has no actions.

        Raises:
            DataError: an array does not fit the world or the session. Nothing was changed.
        """
        states = self._rows("state", state, self._units.state_dim)
        current = self._units.inputs(states, self._actions(action))
        query = self._query(current)
        seen, health = self._system.observe(query, self._seen), self._current_health()
        step = self._system.predict(query, seen=seen, health=health)
        self._past, self._seen, self._request = current, seen, step.info_query.cpu()
        whole = step.over(self._system.fleet.num_slms)
        self._health = None if health is None else health.observe(whole)
        return self._result(whole)

    def rollout(self, state: ArrayLike, actions: ArrayLike) -> PredictedPath:
        """Predict many steps ahead, each from the prediction before. The session stays as it is.

        The transition to ``state`` is used as in ``predict``; imagined transitions are not evidence of the body.

        Args:
            state: ([B,] S) the state now.
            actions: ([B,] H, A) of one path, or ([B,] K, H, A) of K candidates. A is 0 if the world has no actions.

        Raises:
            DataError: an array does not fit the world or the session.
        """
        sets = self._action_sets(actions)
        moves = self._units.model_actions(sets).reshape(-1, *sets.shape[-2:])
        first = self._units.model_state(self._rows("state", state, self._units.state_dim))
        states, mask = self._imagined(first.repeat_interleave(len(moves) // self.num_episodes, 0), moves)
        axes = sets.shape[:-1]
        return PredictedPath(self._units.user_state(states).reshape(*axes, -1), mask.reshape(*axes, -1))

    def _imagined(self, states: Tensor, moves: Tensor) -> tuple[Tensor, NDArray[np.bool_]]:
        """(R, S) states and (R, H, A) actions, R = B * K, to (R, H, S) states and (R, H, N) masks."""
        times = len(states) // self.num_episodes
        query = self._query(torch.cat([states, moves[:, 0]], dim=-1), times)
        system, health = self._system, _repeated(self._current_health(), times)
        seen = system.observe(query, None if self._seen is None else self._seen.repeat_interleave(times, 0))
        found, masks = [], []
        for t in range(moves.shape[1]):
            step = system.predict(query, seen=seen, health=health)
            found.append(step.next_state.cpu())
            masks.append(step.over(self._system.fleet.num_slms).mask.cpu().numpy() > 0.5)
            if t + 1 < moves.shape[1]:
                following = torch.cat([found[-1], moves[:, t + 1]], dim=-1)
                query = replace(query, past=query.current, current=following, info_query=step.info_query.cpu())
        return torch.stack(found, dim=1), np.stack(masks, axis=1)

    def _query(self, current: Tensor, times: int = 1) -> Query:
        """The query for this step, with each episode repeated ``times`` times."""
        characteristics, request = (x.repeat_interleave(times, 0) for x in (self._characteristics, self._request))
        past = current if self._past is None else self._past.repeat_interleave(times, 0)
        return Query(past, current, characteristics, request)

    def _rows(self, name: str, value: Any, width: int) -> Floats:
        """([B,] width) to (B, width)."""
        return self._units.array(name, value, (*self._lead, width)).reshape(-1, width)

    def _actions(self, action: Any) -> Floats:
        if action is None and self._units.action_dim == 0:
            return np.zeros((self.num_episodes, 0))
        return self._rows("action", action, self._units.action_dim)

    def _action_sets(self, actions: Any) -> Floats:
        """([B,] [K,] H, A), checked."""
        many = ("K",) if np.ndim(actions) - len(self._lead) == 3 else ()
        return self._units.array("actions", actions, (*self._lead, *many, "H", self._units.action_dim))

    def _fresh_health(self) -> SLMHealth | None:
        if not self._watched:
            return None
        return SLMHealth.fresh(self.num_episodes, self._system.fleet.num_slms, device=self._system.device)

    def _current_health(self) -> SLMHealth | None:
        """The health of the SLMs; it starts again after a write, as it concerns the words of before."""
        if self._memory_version != self._memory.version:
            self._memory_version, self._health = self._memory.version, self._fresh_health()
        return self._health

    def _result(self, step: Step) -> PredictedStep:
        states, mask = self._units.user_state(step.next_state), step.mask.cpu().numpy() > 0.5
        reads = tuple(self._reads(step, row) for row in range(len(mask)))
        if not self._lead:
            return PredictedStep(states[0], mask[0], reads[0])
        return PredictedStep(states, mask, reads)

    def _reads(self, step: Step, row: int) -> Reads:
        parts = (step.reads.start[row], step.reads.length[row], step.read_confidence[row])
        made = [
            each for each in zip(self._system.fleet.members, *(part.tolist() for part in parts), strict=True) if each[2]
        ]
        words = self._memory.read([start for _, start, _, _ in made], [length for _, _, length, _ in made])
        return tuple(
            Read(slm, start, length, confidence, own)
            for (slm, start, length, confidence), own in zip(made, words, strict=True)
        )


def _repeated(health: SLMHealth | None, times: int) -> SLMHealth | None:
    """Repeat each stream ``times`` times."""
    if health is None:
        return None
    parts = {name: getattr(health, name).repeat_interleave(times, 0) for name in ("doubt", "excluded", "wait")}
    return replace(health, **parts)
