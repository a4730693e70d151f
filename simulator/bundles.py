"""Following flows to their end, those that behave alike as one.

Two flows over the same resources, of the same size, weight and start, stay alike to the end. And where
a resource is far from full it holds nobody back: as long as that is so, flows that differ in nothing
else are alike too. Such resources are watched; if one would be overloaded, flows are told apart again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .filling import Filling

# Few flows are followed one by one; bundling them costs more than it saves.
_FEW = 2_000
# A resource below this part of its capacity is taken for one that will hold nobody back.
_FAR_FROM_FULL = 0.6
# Bundling pays when it leaves less than this part.
_WORTH = 0.25
# Rounding: ends this close are one event, and an overload this small is none.
_SAME = 1e-12
_OVERLOAD = 1e-9


@dataclass(slots=True)
class _Flows:
    """Flows under way; each row stands for `count` of them."""

    paths: NDArray[np.int64]
    weight: NDArray[np.float64]
    count: NDArray[np.float64]
    remaining: NDArray[np.float64]
    start: NDArray[np.float64]
    finish: NDArray[np.float64]  # infinite until it ended


def drain(
    paths: NDArray[np.int64],
    capacity: NDArray[np.float64],
    weight: NDArray[np.float64],
    size: NDArray[np.float64],
    start: NDArray[np.float64],
    tolerance: float,
) -> tuple[NDArray[np.float64], int]:
    """Finish times of flows, and the number of times rates were found; arguments as `flow_times`."""
    count = len(paths)
    flows = _Flows(paths, weight, np.ones(count), size.copy(), start, np.full(count, np.inf))
    through = (size == 0) | (paths < 0).all(axis=1)
    flows.finish[through] = start[through]
    merged = _bundle(flows, np.ones(len(capacity), dtype=bool)) if count >= _FEW else None
    if merged is None:
        return flows.finish, _advance(flows, 0.0, capacity, tolerance)[1]
    group, bundled = merged
    _, events = _advance(bundled, 0.0, capacity, tolerance)
    alive = group >= 0
    flows.finish[alive] = bundled.finish[group[alive]]
    return flows.finish, events


def _advance(
    flows: _Flows,
    now: float,
    capacity: NDArray[np.float64],
    tolerance: float,
    watched: tuple[Any, NDArray[np.float64]] | None = None,
) -> tuple[float, int]:
    """Run flows until all have ended, or until a watched resource would be overloaded.

    `watched` is a matrix, rows of `flows` to loads, and the capacities. Returns the time reached and
    the number of times rates were found.
    """
    filling = Filling(flows.paths, capacity, flows.weight, flows.count)
    events, patience, waited = 0, 1, 0
    while True:
        open_ = ~np.isfinite(flows.finish)
        if not open_.any():
            return now, events
        active = open_ & (flows.start <= now)
        if not active.any():
            now = float(flows.start[open_].min())
            continue
        rates = filling.rates(active)
        events += 1
        if watched is not None and (watched[0] @ rates > watched[1] * (1 + _OVERLOAD)).any():
            return now, events
        rows = np.flatnonzero(active)
        need = flows.remaining[rows] / rates[rows]
        step = float(need.min())
        step += tolerance * (now + step)
        later = flows.start[open_ & ~active]
        if len(later):
            step = min(step, float(later.min()) - now)
        ended = need <= step * (1 + _SAME)
        flows.finish[rows[ended]] = now + need[ended]
        flows.remaining[rows] = np.where(ended, 0.0, flows.remaining[rows] - rates[rows] * step)
        now = now + step if not len(later) or now + step < later.min() else float(later.min())
        waited += 1
        if watched is None and waited >= patience and open_.sum() >= _FEW:
            kept = _binding(flows, capacity, filling, rates)
            if kept is not None:
                now, more = _in_bundles(flows, now, capacity, tolerance, kept)
                events += more
                # Where bundles do not last, they are tried ever less often.
                patience, waited = 2 * patience, 0


def _binding(
    flows: _Flows, capacity: NDArray[np.float64], filling: Filling, rates: NDArray[np.float64]
) -> NDArray[np.bool_] | None:
    """Resources that are not far from full, when there are others and each flow has one of them; else None."""
    open_ = ~np.isfinite(flows.finish)
    load = filling.sums(np.where(open_, rates, 0.0) * flows.count)[:-1]
    kept = np.append(load >= _FAR_FROM_FULL * capacity, False)
    held = np.zeros(len(flows.paths), dtype=bool)
    for column in flows.paths.T:
        held |= kept[column]
    return None if kept[:-1].all() or not held[open_].all() else kept[:-1]


def _in_bundles(
    flows: _Flows, now: float, capacity: NDArray[np.float64], tolerance: float, kept: NDArray[np.bool_]
) -> tuple[float, int]:
    """Go on with only some resources kept, as long as the others are not overloaded."""
    from scipy.sparse import csr_matrix

    open_ = ~np.isfinite(flows.finish)
    merged = _bundle(flows, kept)
    if merged is None:
        return now, 0
    group, bundled = merged
    rows = np.flatnonzero(open_)
    dropped = np.where(np.append(kept, True)[flows.paths[rows]], -1, flows.paths[rows])
    used = dropped >= 0
    who = np.broadcast_to(group[rows][:, None], dropped.shape)[used]
    number = np.broadcast_to(flows.count[rows][:, None], dropped.shape)[used]
    matrix = csr_matrix((number, (dropped[used], who)), shape=(len(capacity), len(bundled.paths)))
    now, events = _advance(bundled, now, capacity, tolerance, (matrix, capacity))
    flows.finish[rows] = bundled.finish[group[rows]]
    flows.remaining[rows] = bundled.remaining[group[rows]]
    return now, events


def _bundle(flows: _Flows, kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], _Flows] | None:
    """Merge flows that have not ended and differ in nothing but resources that are not kept.

    Returns the bundle of each flow (-1 for those that ended) and the bundles, or None where hardly any merge.
    """
    rows = np.flatnonzero(~np.isfinite(flows.finish))
    if not len(rows):
        return None
    paths = np.where(np.append(kept, False)[flows.paths[rows]], flows.paths[rows], -1)
    scale = flows.remaining[rows].max(initial=0.0)
    # Sizes that came about by the same steps in another order differ in the last digits.
    size = np.round(flows.remaining[rows] * (2.0**40 / scale if scale else 1.0))
    columns = [*paths.T, size, flows.weight[rows], flows.start[rows]]
    columns = [np.ascontiguousarray(column) for column in columns if column.min() < column.max()]
    key = np.zeros(len(rows), dtype=np.uint64)
    for column in columns:
        key = _mixed(key * np.uint64(0x9E3779B97F4A7C15) + column.view(np.uint64))
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    if len(first) > _WORTH * len(rows) or any((column != column[first][which]).any() for column in columns):
        # Not worth it; or two different flows with one key, which was never seen.
        return None
    group = np.full(len(flows.paths), -1, dtype=np.int64)
    group[rows] = which
    one = rows[first]
    number = np.bincount(which, weights=flows.count[rows], minlength=len(first)).astype(float)
    return group, _Flows(
        paths[first], flows.weight[one], number, flows.remaining[one], flows.start[one], np.full(len(one), np.inf)
    )


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits so that each depends on all [splitmix64, G. Steele et al., OOPSLA 2014]."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
