"""Whether a history is linearizable: as if each operation were done at one moment between its begin and its end.

A history is linearizable if that of each register is (P-compositionality), so that registers are looked at one by one.
Where each write to a register has a value of its own, the operations of a value stand together, and pairs of values
tell all (``zones``). Else all orders are searched (``search``). A write that was not answered may take effect at any
later moment or never: it ends ``NEVER``.

Sources:
    zones: Gibbons, Korach, Testing shared memories, SIAM J. Comput. 26(4), 1997.
    search: Wing, Gong, Testing and verifying concurrent objects, JPDC 17, 1993; Lowe, Testing for linearizability,
    CCPE 29(4), 2017; Horn, Kroening, Faster linearizability checking via P-compositionality, FORTE 2015; as in
    Porcupine, https://github.com/anishathalye/porcupine.

Shapes:
    N: operations.  V: values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max
BEFORE = np.iinfo(np.int64).min
INITIAL, TORN = 0, -1
"""Values: what a register holds at first, which nobody writes; and what no single write wrote."""
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class History:
    """Operations, in any order; all attributes are (N,).

    Attributes:
        key: of the register.
        write: whether it is a write; else it is a read that was answered.
        value: that was written or read.
        begin: when it was asked for; ``end``: when it was answered, or NEVER.
    """

    key: Ints
    write: NDArray[np.bool_]
    value: Ints
    begin: Ints
    end: Ints

    def take(self, rows: Ints) -> History:
        """Some of the operations."""
        return History(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Violation:
    """Why a register's history is not linearizable; ``rows`` of the history are not linearizable by themselves."""

    key: int
    reason: str
    rows: tuple[int, ...]


def check(history: History) -> list[Violation]:
    """All that is wrong with a history; nothing, where it is linearizable."""
    found = []
    order = np.argsort(history.key, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(history.key[order])) + 1):
        if not len(rows):
            continue
        one, key = history.take(rows), int(history.key[rows[0]])
        written = one.value[one.write]
        if len(np.unique(written)) == len(written) and not (written == INITIAL).any():
            wrong = zones(one)
        else:
            wrong = [] if search(one) else [("no order explains them", np.arange(len(rows)))]
        found.extend(Violation(key, reason, tuple(rows[each].tolist())) for reason, each in wrong)
    return found


def zones(one: History) -> list[tuple[str, Ints]]:
    """What is wrong with the history of a register in which no two writes have the same value.

    All operations of a value come before all those of another one, or after them. The first is impossible where one
    value's last begin is later than the other's first end; where both are, there is no order. Values whose first end is
    before their last begin hold the register in between; such stretches must not overlap, nor contain another value.
    """
    wrong = [("half of a write was read", np.array([row])) for row in np.flatnonzero(one.value == TORN)]
    values, index = np.unique(one.value, return_inverse=True)
    first_end, last_begin = np.full(len(values), NEVER), np.full(len(values), BEFORE)
    np.minimum.at(first_end, index, one.end)
    np.maximum.at(last_begin, index, one.begin)
    first_end[values == INITIAL] = BEFORE
    written = np.full(len(values), NEVER)
    written[index[one.write]] = one.begin[one.write]
    written[values == INITIAL] = BEFORE
    reads = np.flatnonzero(~one.write & (one.value != TORN) & (one.end < written[index]))
    for row in reads.tolist():
        known = one.write & (one.value == one.value[row])
        reason = "a value was read before it was written" if known.any() else "a value was read that nobody wrote"
        wrong.append((reason, np.append(np.flatnonzero(known), row)))
    usable = (values != TORN) & (written < NEVER)
    for a, b in _conflicts(np.where(usable, first_end, NEVER), np.where(usable, last_begin, BEFORE)):
        wrong.append(("two values were each there before the other", _witness(one, index, (a, b))))
    return wrong


def _conflicts(first_end: Ints, last_begin: Ints) -> list[tuple[int, int]]:
    """Pairs of values of which neither can come first: some of them, if there are any."""
    holding = np.flatnonzero(first_end < last_begin)
    holding = holding[np.argsort(first_end[holding], kind="stable")]
    begins, ends = first_end[holding], last_begin[holding]
    late = np.flatnonzero(ends[:-1] > begins[1:])
    found = list(zip(holding[late].tolist(), holding[late + 1].tolist(), strict=True))
    if len(holding):
        # The last stretch that begins before a value does; those before it end before it begins.
        short = np.flatnonzero((first_end >= last_begin) & (last_begin > begins[0]))
        before = np.searchsorted(begins, last_begin[short]) - 1
        inside = ends[before] > first_end[short]
        found += list(zip(holding[before[inside]].tolist(), short[inside].tolist(), strict=True))
    return found


def _witness(one: History, index: Ints, values: tuple[int, ...]) -> Ints:
    """The few operations of some values that contradict each other."""
    found = []
    for value in values:
        rows = np.flatnonzero(index == value)
        found += [*rows[one.write[rows]], rows[one.end[rows].argmin()], rows[one.begin[rows].argmax()]]
    return np.unique(np.array(found, np.int64))


def search(one: History) -> bool:
    """Whether some order of a register's operations explains them; values may come many times."""
    count = len(one.key)
    seen = set(one.value[~one.write].tolist())
    kept = [i for i in range(count) if one.end[i] != NEVER or int(one.value[i]) in seen]
    # A begin at the same moment as an end comes first, so that the two may be in any order.
    events = sorted([(int(one.begin[i]), 0, i) for i in kept] + [(int(one.end[i]), 1, i) for i in kept])
    following, before = [*range(1, len(events) + 1), 0], [len(events), *range(len(events))]
    place = {(kind, i): at for at, (_, kind, i) in enumerate(events)}
    head, state, done = len(events), INITIAL, 0
    known: set[tuple[int, int]] = {(0, INITIAL)}
    taken: list[tuple[int, int]] = []

    def unlink(at: int) -> None:
        following[before[at]], before[following[at]] = following[at], before[at]

    def relink(at: int) -> None:
        following[before[at]] = before[following[at]] = at

    at = following[head]
    while at != head:
        moment, kind, i = events[at]
        if kind == 0:
            value = int(one.value[i])
            new = (done | 1 << i, value)
            if (one.write[i] or value == state) and new not in known:
                known.add(new)
                taken.append((i, state))
                done, state = new
                unlink(at)
                unlink(place[1, i])
                at = following[head]
            else:
                at = following[at]
        elif moment == NEVER:
            # All that were answered have their place; the others need none.
            return True
        elif not taken:
            return False
        else:
            i, state = taken.pop()
            done ^= 1 << i
            relink(place[1, i])
            relink(place[0, i])
            at = following[place[0, i]]
    return True
