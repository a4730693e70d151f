"""Which ranks work on what, and when, if groups are of any width and nothing waits but a group for its ranks.

The schedules of ByteScale's Algorithm 2 (arXiv 2502.21231 section 6.2), each as the packing rule it comes to.
*DP-balance*: what takes longest first, to the ranks that lag, so that all do alike work at a time. *PP-balance*:
a pipeline should see one class of lengths, since a longer micro-batch holds up each of its stages in turn: the
work is cut into classes of equal FLOPs, and each has pipelines to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

from .hybrid_costs import Floats

_HALVINGS = 50  # of the span in which PP-balance looks for the time all classes end: to rounding


@dataclass(frozen=True, slots=True)
class Work:
    """Sequences a group of ranks of a given width takes in one micro-batch, and for how long.

    Parameters
    ----------
    sequences : tuple of int
        Positions in the batch.
    width : int
        Ranks.
    time : float
        Seconds of one stage of a pipeline.
    offload : float
        Part of the activations of inner layers kept in host memory.
    """

    sequences: tuple[int, ...]
    width: int
    time: float
    offload: float = 0.0


# Where each work goes, in an order in which its ranks can take them up.
Placement = list[tuple[Work, NDArray[np.int64]]]


def in_turn(works: Sequence[Work], ranks: int) -> Placement:
    """Deal out the ranks in order, whatever the work costs: Algorithm 1."""
    first, placed = 0, []
    for work in works:
        placed.append((work, (first + np.arange(work.width)) % ranks))
        first += work.width
    return placed


def level(works: Sequence[Work], ranks: int) -> Placement:
    """DP-balance: the longest first, to the ranks that are free first; single ranks then fill what is left idle."""
    free = np.zeros(ranks)
    begun: list[tuple[float, Work, NDArray[np.int64]]] = []
    gaps: list[tuple[float, float, int]] = []  # length (negative, for the heap), begin, rank
    for work in sorted((w for w in works if w.width > 1), key=lambda w: -w.time):
        start = float(np.partition(free, work.width - 1)[work.width - 1])
        group = _fullest(free, free <= start, work.width)
        gaps += [(t - start, t, r) for r, t in zip(group.tolist(), free[group].tolist(), strict=True) if t < start]
        free[group] = start + work.time
        begun.append((start, work, group))
    heap = [(t, rank) for rank, t in enumerate(free.tolist())]
    heapify(heap)
    heapify(gaps)
    for work in sorted((w for w in works if w.width == 1), key=lambda w: -w.time):
        if gaps and -gaps[0][0] >= work.time:
            room, begin, rank = gaps[0]
            heapreplace(gaps, (room + work.time, begin + work.time, rank))
        else:
            begin, rank = heap[0]
            heapreplace(heap, (begin + work.time, rank))
        begun.append((begin, work, np.array([rank])))
    return [(work, group) for _, work, group in sorted(begun, key=lambda item: (item[0], int(item[2][0])))]


def by_class(works: Sequence[Work], ranks: int, stages: int, classes: int) -> Placement | None:
    """PP-balance: classes of alike lengths and equal work, each levelled over pipelines of its own.

    Parameters
    ----------
    stages : int
        Of each pipeline.
    classes : int
        To divide the work into.

    Returns
    -------
    Placement or None
        None where the widest groups of all classes do not fit beside each other.
    """
    order = sorted(works, key=lambda w: -w.time)
    cost = np.array([w.width * w.time for w in order])
    number = ((np.cumsum(cost) - cost / 2) / cost.sum() * classes).astype(int)
    parts = [[w for w, n in zip(order, number, strict=True) if n == k] for k in range(classes)]
    parts = [part for part in parts if part]
    counts = _pipelines(parts, ranks, stages)
    if counts is None:
        return None
    placed: Placement = []
    first = 0
    for part, count in zip(parts, counts, strict=True):
        placed += [(work, group + first) for work, group in level(part, count)]
        first += count
    return placed


def _pipelines(parts: Sequence[Sequence[Work]], ranks: int, stages: int) -> list[int] | None:
    """Share out the ranks so that all classes end at about one time."""
    widest = np.array([max(w.width for w in part) for part in parts])
    work = np.array([sum(w.width * w.time for w in part) for part in parts])
    # Micro-batches of unlike length pass the stages in the sum of their times and (stages - 1) of the longest.
    filling = np.array([(stages - 1) * max(w.time for w in part) for part in parts])
    if widest.sum() > ranks:
        return None
    low, high = float(filling.max()), float(filling.max() + work.sum())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):
            needed = np.maximum(widest, np.ceil(work / np.maximum(middle - filling, 0.0)))
        low, high = (low, middle) if needed.sum() <= ranks else (middle, high)
    counts = np.maximum(widest, np.ceil(work / (high - filling))).astype(int).tolist()
    counts[-1] += ranks - sum(counts)
    return [int(count) for count in counts]


def _fullest(busy: Floats, allowed: NDArray[np.bool_], width: int) -> NDArray[np.int64]:
    """Return `width` of the allowed ranks, those that waste the least of their time; neighbours where equal."""
    some = np.flatnonzero(allowed)
    return np.sort(some[np.argsort(-busy[some], kind="stable")[:width]])


def finish_times(placement: Placement, ranks: int, stages: int = 1) -> Floats:
    """Seconds at which each rank is done when every group waits for all of its ranks, stage after stage.

    Forward and backward of a micro-batch pass a stage as one: how 1F1B interleaves them is left out.

    Returns
    -------
    ndarray, shape (ranks,)
    """
    free = np.zeros((stages, ranks))
    for work, group in placement:
        done = 0.0
        for row in free:
            done = max(done, float(row[group].max())) + work.time
            row[group] = done
    return np.asarray(free[-1])
