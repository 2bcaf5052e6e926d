"""Reading a user's trajectories, and saying in one line what is wrong with them.

Shapes:
    E: episodes.  L: transitions of the longest episode.  S: state.  A: action.  C: characteristics.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leworld.errors import DataError
from leworld.worlds.config_checks import listed, nearest

LAYOUT = {"states": "(E, L + 1, S)", "characteristics": "(E, C)", "actions": "(E, L, A)", "ends": "(E,)"}
NDIM = {"states": 3, "characteristics": 2, "actions": 3, "ends": 1}
NEEDED = ("states", "characteristics")
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise, NotImplementedError among them, when a bit of the file is wrong."""


@dataclass(frozen=True)
class Episodes:
    """What an ``.npz`` holds, checked; what lies past an episode's end is 0.

    Attributes:
        states: (E, L + 1, S) float64.
        actions: (E, L, A) float64; A is 0 where there are none.
        characteristics: (E, C) float64.
        ends: (E,) int64, transitions of each episode.
    """

    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    characteristics: NDArray[np.float64]
    ends: NDArray[np.int64]


def read_episodes(path: str | Path) -> Episodes:
    """Read and check an ``.npz`` file.

    Raises:
        DataError: the file is missing or no ``.npz``, or an array is missing, misshapen, not finite or empty.
    """
    return check_episodes(_load(path), path)


def check_episodes(arrays: Mapping[str, NDArray[Any]], path: str | Path) -> Episodes:
    """Episodes from arrays in the layout of the file; errors name them by ``path``.

    Raises:
        DataError: an array is missing, not known, misshapen, not finite or empty.
    """
    for name in NEEDED:
        if name not in arrays:
            found = listed(sorted(arrays)) if arrays else "nothing"
            raise DataError(
                f"{path}: array {name!r} {LAYOUT[name]} is missing, it holds {found}: give it by that name."
            )
    for name, array in arrays.items():
        _check_array(path, name, array)
    return _assemble(path, arrays)


def _load(path: str | Path) -> dict[str, NDArray[Any]]:
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file: give the path of an .npz with arrays {listed(NEEDED)}.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an .npz file: save the arrays with numpy.savez.")
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: _load_array(path, file, name) for name in file.files}
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{path}: the file is damaged ({_one_line(error)}): save it anew with numpy.savez.") from error


def _load_array(path: str | Path, file: Any, name: str) -> NDArray[Any]:
    try:
        array = file[name]
    except ValueError as error:
        raise DataError(
            f"{path}: array {name!r} cannot be read ({_one_line(error)}): save plain numbers, not Python objects."
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name!r} is no array: save it with numpy.savez.")
    return array


def _check_array(path: str | Path, name: str, array: NDArray[Any]) -> None:
    if name not in LAYOUT:
        raise DataError(
            f"{path}: array {name!r} is not known{nearest(name, tuple(LAYOUT))}: "
            f"use {listed(tuple(LAYOUT))}, or leave it out."
        )
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: array {name!r} has type {array.dtype}, not numbers: save it as float32.")
    if array.ndim != NDIM[name]:
        raise DataError(f"{path}: array {name!r} has shape {array.shape}, not {LAYOUT[name]}: reshape it.")
    if array.size == 0:
        raise DataError(f"{path}: array {name!r} has shape {array.shape} and is empty: save at least one of each.")


def _assemble(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> Episodes:
    states, characteristics = arrays["states"], arrays["characteristics"]
    count, length = states.shape[0], states.shape[1] - 1
    if length < 1:
        raise DataError(f"{path}: array 'states' has shape {states.shape}: an episode needs 2 states or more.")
    actions = arrays.get("actions", np.zeros((count, length, 0)))
    ends = arrays.get("ends", np.full(count, length))
    wanted = {"actions": (count, length), "characteristics": (count,), "ends": (count,)}
    for name, array in (("actions", actions), ("characteristics", characteristics), ("ends", ends)):
        if array.shape[: len(wanted[name])] != wanted[name]:
            raise DataError(
                f"{path}: array {name!r} has shape {array.shape}, which does not go with 'states' {states.shape}: "
                f"use {LAYOUT[name]} beside {LAYOUT['states']}."
            )
    ends = _checked_ends(path, ends, length)
    return Episodes(
        _finite(path, "states", states, ends + 1),
        _finite(path, "actions", actions, ends),
        _finite(path, "characteristics", characteristics, np.full(count, characteristics.shape[1])),
        ends,
    )


def _checked_ends(path: str | Path, ends: NDArray[Any], length: int) -> NDArray[np.int64]:
    good = (ends == np.floor(ends)) & (ends >= 1) & (ends <= length)
    if not good.all():
        first = int((~good).argmax())
        raise DataError(
            f"{path}: array 'ends' is {ends[first]} at {first}, not a number of transitions in [1, {length}]: mend it."
        )
    return ends.astype(np.int64)


def _finite(path: str | Path, name: str, array: NDArray[Any], used: NDArray[np.int64]) -> NDArray[np.float64]:
    """``array`` with zeros past the first ``used`` (E,) entries of its second axis, if the rest is finite."""
    inside = np.arange(array.shape[1]) < used[:, None]
    values = np.where(inside.reshape(*inside.shape, *[1] * (array.ndim - 2)), array, 0.0)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        first = tuple(bad[0].tolist())
        raise DataError(f"{path}: array {name!r} is {values[first]} at {first}: mend or drop that episode.")
    return values.astype(np.float64)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
