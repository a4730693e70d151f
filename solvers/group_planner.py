"""Groups of unlike degree for one micro-batch: a quick plan, and how good any could be.

The planner asks for the least makespan of groups that run beside each other (FlexSP, arXiv 2412.01523,
equations 17 to 22). `quick` aims at a makespan, packs the sequences best-fit into groups that are opened
as they are needed, and closes in on the least makespan at which that works.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .sequence_input import usable
from .sequences import SequenceCosts

_STEPS = 40  # halvings of the range in which a makespan is sought
_CLOSE = 1e-3  # relative width of that range at which packing stops


class Groups(NamedTuple):
    """Degree and sequences of each group, and the time of the slowest [s]."""

    degrees: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    time: float


class Task(NamedTuple):
    """Sequences of a micro-batch, longest first, on each degree they may take.

    Parameters
    ----------
    lengths : ndarray of int, shape (sequences,)
    degrees : ndarray of int, shape (degrees,)
    seconds : ndarray, shape (degrees, sequences)
        Infinite where a group has no memory for the sequence.
    holds : ndarray of int, shape (degrees,)
        Tokens a group has memory for.
    fixed : float
        Seconds of a micro-batch besides.
    ranks : int
    """

    lengths: NDArray[np.int64]
    degrees: NDArray[np.int64]
    seconds: NDArray[np.float64]
    holds: NDArray[np.int64]
    fixed: float
    ranks: int


def task(lengths: NDArray[np.int64], costs: SequenceCosts, ranks: int) -> Task:
    """Tabulate the time of sequences, given longest first."""
    degrees = usable(costs, ranks)
    holds = np.array([int(d * costs.tokens) for d in degrees])
    seconds = np.array([costs.compute(lengths, d) + costs.exchange(lengths, d) for d in degrees])
    seconds[lengths > holds[:, None]] = np.inf
    return Task(lengths, np.array(degrees), seconds, holds, costs.fixed, ranks)


def relaxed(work: Task) -> float:
    """Seconds, besides the fixed ones, below which no plan of one or several micro-batches gets these sequences done.

    Within T seconds a sequence can take only degrees on which it alone is that fast, and all of them
    together have no more than T seconds of each rank. The least such T is found by bisection.
    """
    spent = work.degrees[:, None] * work.seconds

    def possible(limit: float) -> bool:
        least = np.where(work.seconds <= limit, spent, np.inf).min(axis=0)
        return bool(least.sum() <= work.ranks * limit)

    low, high = 0.0, float(spent.min(axis=0).sum() + work.seconds.min(axis=0).max())
    while not possible(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return low


def quick(work: Task, until: float = float("inf")) -> Groups | None:
    """Plan by packing at a makespan aimed at; None when memory left over in pieces holds no plan.

    From the instant `until` (of `perf_counter`) on the plan at hand is good enough.
    """
    low = relaxed(work)
    best: Groups | None = None
    high = low if low else 1e-12
    for _ in range(_STEPS):
        best = _packed(work, high)
        if best is not None:
            break
        low, high = high, high * 1.2
    if best is None:
        return None
    high = min(high, best.time - work.fixed)
    while high > low * (1 + _CLOSE) and perf_counter() < until:
        middle = (low + high) / 2
        found = _packed(work, middle)
        if found is None:
            low = middle
        else:
            best = min(best, found, key=lambda groups: groups.time)
            high = min(middle, found.time - work.fixed)
    return best


def measured(work: Task, degrees: Iterable[int], members: Iterable[Iterable[int]]) -> Groups:
    """Groups with the time they take; those without sequences are left out."""
    kept = [(int(d), tuple(int(i) for i in some)) for d, some in zip(degrees, members, strict=True)]
    kept = [(d, some) for d, some in kept if some]
    row = {int(d): x for x, d in enumerate(work.degrees)}
    slowest = max(float(work.seconds[row[d], list(some)].sum()) for d, some in kept)
    return Groups(tuple(d for d, _ in kept), tuple(some for _, some in kept), work.fixed + slowest)


def _packed(work: Task, makespan: float) -> Groups | None:
    """Pack within a makespan in some way: by the smallest degree opened, and where a sequence prefers to go."""
    spent = np.where(work.seconds <= makespan, work.degrees[:, None] * work.seconds, np.inf)
    for smallest in range(len(work.degrees)):
        if not spent[smallest:].min(axis=0).sum() <= work.ranks * makespan:
            continue
        for spread in (False, True):
            found = _pack(work, makespan, smallest, spread)
            if found is not None:
                return found
    return None


def _pack(work: Task, makespan: float, smallest: int, spread: bool) -> Groups | None:
    """Best fit, longest first, into groups opened with the least degree that is fast enough; None if one has no place.

    With `spread` a new group is opened before one of a larger degree is filled; otherwise idle time of
    open groups is used up first.
    """
    count = work.ranks
    row, time, room = np.zeros(count, dtype=np.int64), np.zeros(count), np.zeros(count, dtype=np.int64)
    opened, left = 0, work.ranks
    members: list[list[int]] = []
    fast = work.seconds <= makespan
    fast[:smallest] = False
    least = fast.argmax(axis=0)
    for i, length in enumerate(work.lengths.tolist()):
        wanted = int(least[i])
        affordable = int(work.degrees[wanted]) <= left
        if opened:
            after = time[:opened] - work.seconds[row[:opened], i]
            fits = (after >= 0) & (room[:opened] >= length)
            if spread and affordable:
                fits &= row[:opened] <= wanted
            place = int(np.where(fits, after, np.inf).argmin())
            if fits[place]:
                time[place] = after[place]
                room[place] -= length
                members[place].append(i)
                continue
        if not affordable:
            return None
        row[opened], time[opened] = wanted, makespan - work.seconds[wanted, i]
        room[opened] = work.holds[wanted] - length
        left -= int(work.degrees[wanted])
        opened += 1
        members.append([i])
    return measured(work, work.degrees[row[:opened]], members)
