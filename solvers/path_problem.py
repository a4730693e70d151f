"""The data of a path allocation: flows, the paths offered to each, links and what they may carry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Utilisations closer than this part of themselves are the same: sums in different orders differ so much.
SAME = 1e-9
# A load over its limit weighs more than any utilisation, so it is mended first.
_OVER_LIMIT = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class PathProblem:
    """Flows, the paths offered to each and the links these use; build one with `path_problem`.

    Parameters
    ----------
    demand : ndarray, shape (flows,)
        Load a flow puts on each link of its path [any unit, that of `capacity`].
    links : ndarray of int, shape (flows, paths, hops)
        Links of each path, each named once; the padding points at one link more than there are.
    times : ndarray, shape (flows, paths, hops)
        How often the path uses that link, 0 in the padding.
    offered : ndarray of bool, shape (flows, paths)
        Which of the places hold a path the flow may take.
    capacity : ndarray, shape (links + 1,)
        Of each link; the last is that of the padding, infinite.
    limit : ndarray, shape (links + 1,)
        Most each link may carry, infinite where nothing is asked.
    """

    demand: NDArray[np.float64]
    links: NDArray[np.int64]
    times: NDArray[np.float64]
    offered: NDArray[np.bool_]
    capacity: NDArray[np.float64]
    limit: NDArray[np.float64]

    def loads(self, choice: NDArray[np.int64]) -> NDArray[np.float64]:
        """Load of each link (and of the padding) when flow i takes path ``choice[i]``."""
        own = np.arange(len(choice))
        amounts = self.times[own, choice] * self.demand[:, None]
        found = np.bincount(self.links[own, choice].ravel(), weights=amounts.ravel(), minlength=len(self.capacity))
        return found.astype(float)

    def pressure(self, load: NDArray[np.float64], link: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """Utilisation of links, raised far above any other where the limit is passed."""
        limit = self.limit[link]
        over = np.maximum(load - limit * (1 + SAME), 0.0)
        used: NDArray[np.float64] = (load + _OVER_LIMIT * over) / self.capacity[link]
        return used


def path_problem(
    demand: ArrayLike,
    candidates: ArrayLike | Sequence[Sequence[Sequence[int]]],
    capacity: ArrayLike,
    *,
    offered: ArrayLike | None = None,
    limits: ArrayLike | None = None,
    excluded: Iterable[int] = (),
) -> PathProblem:
    """Check the data of a path allocation and put it into arrays.

    Parameters
    ----------
    demand : array_like, shape (flows,)
        Load of each flow, 0 or more [unit of `capacity`].
    candidates : array_like of int, shape (flows, paths, hops), or nested sequences
        Links of each path offered to each flow, padded with -1; nested sequences may be ragged.
    capacity : array_like, shape (links,)
        Of each link, above 0.
    offered : array_like of bool, shape (flows, paths), optional
        Which places hold a path; by default all that the nested sequences have.
    limits : array_like, shape (links,), optional
        Most each link may carry; by default no limit.
    excluded : iterable of int
        Links nothing may use, such as failed ones.

    Raises
    ------
    ValueError
        Shapes or links that do not fit, a negative demand, a capacity of 0, or a flow without a path.
    """
    amounts = np.asarray(demand, dtype=float)
    room = np.asarray(capacity, dtype=float)
    if not ((amounts >= 0) & np.isfinite(amounts)).all() or not (room > 0).all():
        raise ValueError("demands must be 0 or more and finite, capacities above 0")
    count = len(amounts)
    if isinstance(candidates, np.ndarray):
        paths = candidates.astype(np.int64)
        allowed = np.ones(paths.shape[:2], dtype=bool)
    else:
        paths, allowed = _padded(candidates)  # type: ignore[arg-type]
    if offered is not None:
        allowed = allowed & np.asarray(offered, dtype=bool)
    if paths.ndim != 3 or len(paths) != count or paths.max(initial=-1) >= len(room) or paths.min(initial=0) < -1:
        raise ValueError(f"candidates {paths.shape} do not fit {count} flows and {len(room)} links")
    failed = np.zeros(len(room) + 1, dtype=bool)
    failed[list(excluded)] = True
    failed[-1] = False  # where the padding's -1 points
    allowed &= ~failed[paths].any(axis=2)
    if not allowed.any(axis=1).all():
        raise ValueError(f"flow {int(np.argmin(allowed.any(axis=1)))} has no path left")
    padding = len(room)
    same = (paths[..., :, None] == paths[..., None, :]) & (paths >= 0)[..., None]
    earlier = np.tril(same, -1).any(axis=-1)
    times = np.where((paths < 0) | earlier, 0.0, same.sum(axis=-1))
    links = np.where(times > 0, paths, padding)
    most = np.full(padding, np.inf) if limits is None else np.asarray(limits, dtype=float)
    return PathProblem(amounts, links, times, allowed, np.append(room, np.inf), np.append(most, np.inf))


def balanced_limits(links: int, pairs: ArrayLike, total: ArrayLike, slack: float = 0.0) -> NDArray[np.float64]:
    """Limits that keep the two ports of an adapter balanced: their loads differ by `slack` at most.

    Parameters
    ----------
    links : int
        Number of links.
    pairs : array_like of int, shape (pairs, 2)
        The links that are to be balanced, such as the left and the right port of an adapter.
    total : array_like, shape (pairs,)
        Load the two carry together, whatever the allocation; that it is fixed is what makes a limit
        on each the same as a bound on the difference.
    slack : float, default 0
        Largest difference allowed [unit of `total`].

    Returns
    -------
    ndarray, shape (links,)
        For `allocate`; infinite for links in no pair.
    """
    limits = np.full(links, np.inf)
    limits[np.asarray(pairs, dtype=np.int64)] = ((np.asarray(total, dtype=float) + slack) / 2)[:, None]
    return limits


def _padded(candidates: Sequence[Sequence[Sequence[int]]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Ragged nested sequences as one array, and which places are filled."""
    width = max((len(paths) for paths in candidates), default=0)
    hops = max((len(path) for paths in candidates for path in paths), default=0)
    table = np.full((len(candidates), width, hops), -1, dtype=np.int64)
    filled = np.zeros((len(candidates), width), dtype=bool)
    for i, paths in enumerate(candidates):
        for j, path in enumerate(paths):
            table[i, j, : len(path)] = path
            filled[i, j] = True
    return table, filled
