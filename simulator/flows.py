"""Many flows at once on links given as arrays: who gets how much, and when each is through.

The rule is that of `sharing`, without priorities: weighted max-min, found by progressive filling. What
differs is the scale. A flow here is a row of link numbers, a million of them share a fabric, and a
link that fills up settles all its flows in a few array operations.

`flow_times` lets flows run to their end. Rates change whenever a flow ends, and between a thousand
devices that happens a million times; so flows that behave alike are followed as one, links that are far
from full are only watched (`bundles`), and ends that come shortly after each other may count as one
event, where the caller allows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundles import drain
from .filling import Filling


def fair_rates(paths: ArrayLike, capacity: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return the rates at which flows share resources.

    Parameters
    ----------
    paths : array_like of int, shape (flows, hops)
        Resources each flow loads, padded with -1; one named twice is loaded twice.
    capacity : array_like, shape (resources,)
        Units each serves per second, above 0 [bytes/s].
    weights : array_like, shape (flows,), optional
        Relative rates at which flows share a resource that is full, above 0. By default the rate each
        flow has when alone, which is the engine's rule: there, fair is the same fraction of the
        isolated speed. All 1 makes rates equal instead, which differs where capacities do.

    Returns
    -------
    ndarray, shape (flows,)
        Rates [bytes/s]; infinite for flows without a path.

    Raises
    ------
    ValueError
        A resource that does not exist, or a capacity or weight that is not above 0.

    Examples
    --------
    >>> fair_rates([[0, -1], [0, 1]], [10.0, 5.0], [1.0, 1.0]).tolist()
    [5.0, 5.0]
    """
    table, room, weight = _checked(paths, capacity, weights)
    return Filling(table, room, weight).rates(np.ones(len(table), dtype=bool))


def isolated_rates(paths: ArrayLike, capacity: ArrayLike) -> NDArray[np.float64]:
    """Rate of each flow when alone: the least capacity on its path, over how often it is used.

    Parameters as in `fair_rates`; infinite for flows without a path.
    """
    table, room = np.asarray(paths, dtype=np.int64), np.append(np.asarray(capacity, dtype=float), np.inf)
    alone = np.full(len(table), np.inf)
    for hop in range(table.shape[1]):
        column = table[:, hop]
        times = np.ones(len(table))
        for other in range(table.shape[1]):
            if other != hop:
                times += (table[:, other] == column) & (column >= 0)
        np.minimum(alone, room[column] / times, out=alone)
    return alone


@dataclass(frozen=True, slots=True, eq=False)
class FlowTimes:
    """When flows were through.

    Parameters
    ----------
    finish : ndarray, shape (flows,)
        Time each ended [s].
    load : ndarray, shape (resources,)
        What each resource carried in all [bytes].
    bound : float
        The busiest resource's load over its capacity: no schedule of flows that all start at 0 is
        shorter [s].
    events : int
        Times the rates were found anew.
    """

    finish: NDArray[np.float64]
    load: NDArray[np.float64]
    bound: float
    events: int

    @property
    def makespan(self) -> float:
        """Time the last one ended [s]."""
        return float(self.finish.max(initial=0.0))


def flow_times(
    paths: ArrayLike,
    sizes: ArrayLike,
    capacity: ArrayLike,
    weights: ArrayLike | None = None,
    start: ArrayLike | float = 0.0,
    tolerance: float = 0.0,
) -> FlowTimes:
    """Let flows share resources until each has moved its size.

    Parameters
    ----------
    paths, capacity, weights
        As in `fair_rates`.
    sizes : array_like, shape (flows,) or scalar
        Bytes of each flow, 0 or more.
    start : array_like, shape (flows,) or scalar, default 0
        When each begins, such as its latency [s].
    tolerance : float, default 0
        Ends that follow another within this part of the time gone by count as one event: what these flows
        leave behind goes unused until the last of them ends. 0 is exact.

    Returns
    -------
    FlowTimes

    Raises
    ------
    ValueError
        As in `fair_rates`, or a negative size, start or tolerance.
    """
    table, room, weight = _checked(paths, capacity, weights)
    size = np.broadcast_to(np.asarray(sizes, dtype=float), len(table))
    begin = np.broadcast_to(np.asarray(start, dtype=float), len(table))
    if not ((size >= 0) & np.isfinite(size)).all() or not ((begin >= 0) & np.isfinite(begin)).all():
        raise ValueError("sizes and starts must be 0 or more and finite")
    if not tolerance >= 0:
        raise ValueError(f"tolerance {tolerance!r} (legal: 0 or more)")
    load = np.zeros(len(room) + 1)
    for hop in range(table.shape[1]):
        load += np.bincount(np.where(table[:, hop] < 0, len(room), table[:, hop]), weights=size, minlength=len(load))
    finish, events = drain(table, room, weight, size, begin, tolerance)
    return FlowTimes(finish, load[:-1], float((load[:-1] / room).max(initial=0.0)), events)


def _checked(
    paths: ArrayLike, capacity: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    table, room = np.asarray(paths, dtype=np.int64), np.asarray(capacity, dtype=float)
    if table.ndim != 2 or table.min(initial=0) < -1 or table.max(initial=-1) >= len(room):
        raise ValueError(f"paths {table.shape} do not fit {len(room)} resources")
    if not ((room > 0) & np.isfinite(room)).all():
        raise ValueError("capacities must be above 0 and finite")
    if weights is None:
        weight = isolated_rates(table, room)
        weight[~np.isfinite(weight)] = 1.0
    else:
        weight = np.array(np.broadcast_to(np.asarray(weights, dtype=float), len(table)))
    if not ((weight > 0) & np.isfinite(weight)).all():
        raise ValueError("weights must be above 0 and finite")
    # Levels near 1 whatever the unit.
    return table, room, weight / weight.max(initial=1e-300)
