"""Progressive filling of array-described links: each link that fills up settles all its flows at once.

The rule is that of `sharing`: all flows rise together at one level, and who meets a full resource stops.
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# When a sum shrank to less than this part of itself, it is added up afresh: subtracting lost digits.
_SHRUNK = 1e-6
# Above so many times the number of resources, counting per resource beats adding one by one.
_DENSE = 0.25


class Filling:
    """Progressive filling on one set of flows, of which any part may be active.

    Parameters
    ----------
    paths : ndarray of int, shape (flows, hops)
        Resources each flow loads, padded with -1; one named twice is loaded twice.
    capacity : ndarray, shape (resources,)
        Units each serves per second.
    weight : ndarray, shape (flows,)
        Rate of a flow per unit of level, above 0.
    count : ndarray, shape (flows,), optional
        How many equal flows each row stands for, by default one.
    """

    def __init__(
        self,
        paths: NDArray[np.int64],
        capacity: NDArray[np.float64],
        weight: NDArray[np.float64],
        count: NDArray[np.float64] | None = None,
    ) -> None:
        resources = len(capacity)
        small = resources < 2**15
        # Padding becomes a resource of its own that never fills.
        self.paths: NDArray[Any] = np.where(paths < 0, resources, paths).astype(np.int16 if small else np.int64)
        self.capacity = np.append(capacity, np.inf)
        self.weight = weight
        self.together = weight if count is None else weight * count
        hops = self.paths.shape[1]
        listed = self.paths
        for hop in range(1, hops):
            twice = (self.paths[:, :hop] == self.paths[:, hop, None]).any(axis=1) & (self.paths[:, hop] < resources)
            if twice.any():
                listed = listed.copy() if listed is self.paths else listed
                listed[twice, hop] = resources
        # 16-bit numbers are sorted by radix: a tenth of the time.
        order = np.argsort(listed.ravel(), kind="stable")
        self.users = order // hops if hops else order
        self.offset = np.zeros(resources + 2, dtype=np.int64)
        np.cumsum(np.bincount(listed.ravel(), minlength=resources + 1), out=self.offset[1:])

    def sums(self, amount: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up a number of each flow by resource, shape (resources + 1,)."""
        total = np.zeros(len(self.capacity))
        for column in self.paths.T:
            total += np.bincount(column, weights=amount, minlength=len(total))
        return total

    def rates(self, active: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Rate of each flow, shape (flows,); 0 for those that are not active, infinite without a path."""
        resources = len(self.capacity) - 1
        running = active.copy()
        rates = np.where(active, np.inf, 0.0)
        total = self.sums(np.where(active, self.together, 0.0))
        rest = self.capacity.copy()
        total[resources] = 0.0
        whole = total.copy()
        busy = np.flatnonzero(total)
        heap = list(zip((rest[busy] / total[busy]).tolist(), busy.tolist(), strict=True))
        heapify(heap)
        while heap:
            bound, r = heap[0]
            users = self.users[self.offset[r] : self.offset[r + 1]]
            if total[r] < whole[r] * _SHRUNK:
                users = users[running[users]]
                if not len(users):
                    heappop(heap)
                    continue
                times = (self.paths[users] == r).sum(axis=1)
                whole[r] = total[r] = float((self.together[users] * times).sum())
            reached = max(float(rest[r] / total[r]), 0.0)
            if reached > bound:
                # A resource's level only rises as flows settle elsewhere, so old entries are lower bounds.
                heapreplace(heap, (reached, r))
                if heap[0][1] != r:
                    continue
            heappop(heap)
            users = users[running[users]]
            running[users] = False
            rates[users] = reached * self.weight[users]
            used, amount = self.paths[users], self.together[users]
            if used.size > _DENSE * resources:
                share = np.zeros(resources + 1)
                for column in used.T:
                    share += np.bincount(column, weights=amount, minlength=resources + 1)
                total -= share
                share *= reached
                rest -= share
            else:
                spread = np.repeat(amount, used.shape[1])
                flat = used.ravel()
                np.subtract.at(total, flat, spread)
                np.subtract.at(rest, flat, reached * spread)
            rest[resources] = np.inf
        return rates
