"""Micro-batches of sequences of like length, with as equal a number of tokens as can be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray


def chunks(lengths: ArrayLike, count: int) -> list[NDArray[np.int64]]:
    """Divide sequences, sorted by length, into `count` runs whose largest token sum is the least.

    The chunking of FlexSP (arXiv 2412.01523, appendix A) by dynamic programming over where the last run
    begins; the best place is found by bisection, for the two sums it trades rise and fall with it.

    Returns
    -------
    list of ndarray of int
        Positions in the batch, shortest sequences first; fewer than `count` when there are fewer sequences.
    """
    given = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(given, kind="stable")
    total = np.concatenate([[0], np.cumsum(given[order])])
    size = len(given)
    ends = np.arange(size + 1)
    least, begins = total.copy(), []
    for _ in range(min(count, size) - 1):
        # For each end k: the first begin j at which the runs before weigh as much as the last, or the one before it.
        low, high = np.zeros(size + 1, dtype=np.int64), ends.copy()
        while (low < high).any():
            middle = (low + high) // 2
            enough = least[middle] >= total - total[middle]
            low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
        before = np.maximum(low - 1, 0)
        after_low = np.maximum(least[low], total - total[low])
        after_before = np.maximum(least[before], total - total[before])
        begins.append(np.where(after_before <= after_low, before, low))
        least = np.minimum(after_before, after_low)
    cuts = [size]
    for begin in reversed(begins):
        cuts.append(int(begin[cuts[-1]]))
    cuts = sorted({0, *cuts})
    return [order[first:last] for first, last in pairwise(cuts)]
