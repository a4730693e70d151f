"""The one rule of contention: weighted max-min sharing in priority classes.

An activity runs at a speed between 0 and 1 of its isolated speed and, at full speed, uses a
fraction of each resource. Within a class the *dominant share* of each activity (speed times its
largest fraction, over its weight) is max-min fair: a flow that wants 18 % of a pool of SMs keeps
it, and the kernel that wants all of it gets the other 82 %. A later class shares what the earlier
ones leave.

This is dominant resource fairness (A. Ghodsi et al., NSDI 2011) with a ceiling on each activity. It
is found by progressive filling (D. Bertsekas, R. Gallager, "Data Networks", 1992, section 6.5.2):
all rise together at one *level*, and whoever meets a full resource, or its own full speed, stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# When a sum shrank to less than this part of itself, it is added up afresh: subtracting lost digits.
_SHRUNK = 1e-6
# Capacity left by earlier classes below this is rounding, not capacity.
_NOTHING_LEFT = 1e-12


class Use(NamedTuple):
    """How a task loads resources; tasks with the same use share one of these.

    Attributes
    ----------
    key : int
        Number of this use in its program.
    parts : tuple of (int, float, float)
        For each resource its number, the fraction of it used at full speed, and the fraction used
        per unit of level.
    slopes : tuple of (int, float)
        The first and the last of these.
    share : float
        Speed per unit of level: weight over the largest fraction.
    ceiling : float
        Level at which the task runs at full speed.
    priority : int
        Class in which it is served.
    """

    key: int
    parts: tuple[tuple[int, float, float], ...]
    slopes: tuple[tuple[int, float], ...]
    share: float
    ceiling: float
    priority: int

    @classmethod
    def of(cls, key: int, fractions: Sequence[tuple[int, float]], priority: int, weight: float) -> Use:
        """Build a use from its fractions of resources."""
        dominant = max((fraction for _, fraction in fractions), default=weight)
        share = weight / dominant
        parts = tuple((number, fraction, fraction * share) for number, fraction in fractions)
        slopes = tuple((number, slope) for number, _, slope in parts)
        return cls(key, parts, slopes, share, 1 / share, priority)


def fill(
    resources: Sequence[int],
    users: Sequence[Mapping[int, float]] | Mapping[int, Mapping[int, float]],
    uses: Sequence[Use],
    rest: MutableSequence[float],
    total: MutableSequence[float],
    speeds: dict[int, float],
) -> None:
    """Raise the level of a class of activities until each is held back by something.

    Parameters
    ----------
    resources : sequence of int
        Resources that may bind.
    users : sequence or mapping
        For each of these resources, its users in the class and their fraction per unit of level.
    uses : sequence of Use
        By activity.
    rest : sequence of float
        By resource, the fraction that is left; what the class takes is subtracted.
    total : sequence of float
        By resource, the sum over its users of their fraction per unit of level; used up.
    speeds : dict
        By activity, the fraction of its isolated speed; those that a resource or their own ceiling
        holds back are added. Whoever is missing afterwards meets no resource that binds.
    """
    # Levels at which a resource would be full if nobody stopped before. A resource's own level only
    # rises as activities stop, so an old entry is a lower bound and is renewed when it comes up.
    heap = [(rest[r] / total[r], r, total[r]) for r in resources]
    heapify(heap)
    while heap:
        bound, r, whole = heap[0]
        height = total[r]
        if height < whole * _SHRUNK:
            height = sum([slope for i, slope in users[r].items() if i not in speeds])
            if height <= 0:
                heappop(heap)
                continue
        reached = rest[r] / height
        if reached > bound:
            heapreplace(heap, (reached, r, whole))
            if heap[0][1] != r:
                continue
        held = [(i, uses[i]) for i in users[r] if i not in speeds]
        at_ceiling = [each for each in held if each[1].ceiling <= reached]
        if at_ceiling:
            for i, use in at_ceiling:
                speeds[i] = 1.0
                for q, slope in use.slopes:
                    rest[q] -= slope * use.ceiling
                    total[q] -= slope
            continue
        heappop(heap)
        if reached < 0:
            reached = 0.0
        for i, use in held:
            speeds[i] = reached * use.share
            for q, slope in use.slopes:
                rest[q] -= slope * reached
                total[q] -= slope


def fill_classes(
    activities: Iterable[int],
    resources: Sequence[int],
    users: Sequence[Mapping[int, float]],
    uses: Sequence[Use],
    rest: MutableSequence[float],
    total: MutableSequence[float],
) -> dict[int, float]:
    """Fill one priority class after the other and return the speeds; arguments as in `fill`."""
    speeds: dict[int, float] = {}
    for number in sorted({uses[i].priority for i in activities}):
        own = {r: {i: slope for i, slope in users[r].items() if uses[i].priority == number} for r in resources}
        for r in resources:
            total[r] = sum(own[r].values())
        fill([r for r in resources if own[r]], own, uses, rest, total, speeds)
        for i in activities:
            # Those that nothing held back still take their part from the classes to come.
            if i not in speeds and uses[i].priority == number:
                speeds[i] = 1.0
                for r, fraction, _ in uses[i].parts:
                    rest[r] -= fraction
        for r in resources:
            if rest[r] < _NOTHING_LEFT:
                rest[r] = 0.0
    return speeds


def max_min(usage: ArrayLike, weight: ArrayLike | None = None, priority: ArrayLike | None = None) -> np.ndarray:
    """Return the speeds at which activities share resources.

    Parameters
    ----------
    usage : array_like, shape (activities, resources)
        Fraction of each resource's capacity that each activity uses at full speed, 0 to 1.
    weight : array_like, shape (activities,), optional
        Weights above 0, by default all 1.
    priority : array_like of int, shape (activities,), optional
        Classes, lower numbers first, by default all 0.

    Returns
    -------
    numpy.ndarray, shape (activities,)
        Speeds, as fractions of the isolated speed. Activities that use nothing run at 1.

    Raises
    ------
    ValueError
        A fraction outside [0, 1] or a weight that is not above 0.

    Examples
    --------
    >>> max_min([[0.18], [1.0]]).round(2).tolist()
    [1.0, 0.82]
    """
    fractions = np.asarray(usage, dtype=float)
    count, width = fractions.shape
    weights = np.ones(count) if weight is None else np.asarray(weight, dtype=float)
    classes = np.zeros(count, dtype=int) if priority is None else np.asarray(priority, dtype=int)
    if not ((fractions >= 0) & (fractions <= 1)).all() or not (weights > 0).all():
        raise ValueError("usage must be within 0 and 1, weights above 0")
    uses = [
        Use.of(i, [(int(r), float(row[r])) for r in np.flatnonzero(row)], int(rank), float(w))
        for i, (row, w, rank) in enumerate(zip(fractions, weights, classes, strict=True))
    ]
    users: list[dict[int, float]] = [{} for _ in range(width)]
    for i, use in enumerate(uses):
        for r, slope in use.slopes:
            users[r][i] = slope
    speeds = fill_classes(range(count), range(width), users, uses, [1.0] * width, [0.0] * width)
    return np.array([speeds[i] for i in range(count)])
