"""Few lengths instead of many: sequences rounded up to the longest of their bucket.

A planner that counts sequences of a bucket instead of naming them is small; what it loses are the tokens
that rounding adds. `buckets` adds as few as there can be; `doubling` and `equal_widths` do without a search.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Buckets(NamedTuple):
    """Longest length of each bucket, ascending, and the bucket of each sequence, in the order given."""

    upper: NDArray[np.int64]
    of: NDArray[np.int64]

    @property
    def rounded(self) -> NDArray[np.int64]:
        """Length that stands for each sequence."""
        return self.upper[self.of]


def buckets(lengths: ArrayLike, count: int = 16) -> Buckets:
    """Divide sequences into `count` buckets such that rounding up adds the fewest tokens.

    Dynamic programming over the u different lengths, O(u^2 count) in NumPy (FlexSP, arXiv 2412.01523,
    equations 15 and 16); exact, since equal lengths need not be separated.
    """
    upper, of, number = np.unique(np.asarray(lengths, dtype=np.int64), return_inverse=True, return_counts=True)
    if len(upper) <= count:
        return Buckets(upper, of)
    below = np.concatenate([[0], np.cumsum(number)])
    tokens = np.concatenate([[0], np.cumsum(number * upper)])
    # added[j, k]: tokens that rounding different lengths j .. k up to length k adds.
    added = upper[None, :] * (below[1:] - below[:-1, None]) - (tokens[1:] - tokens[:-1, None])
    added = np.where(np.tri(len(upper), dtype=bool).T, added, np.iinfo(np.int64).max // 4)
    least, begins = added[0], []
    for _ in range(count - 1):
        # The last bucket begins at j, and the ones before it end at j - 1.
        table = least[:-1, None] + added[1:]
        begins.append(table.argmin(axis=0) + 1)
        least = np.minimum(added[0], table.min(axis=0))
    ends, last = [], len(upper) - 1
    for begin in reversed(begins):
        ends.append(last)
        if begin[last] > last or last == 0:
            break
        last = int(begin[last]) - 1
    else:
        ends.append(last)
    end = np.array(sorted(set(ends)))
    return Buckets(upper[end], np.searchsorted(end, of))


def equal_widths(lengths: ArrayLike, count: int = 16) -> Buckets:
    """Buckets of equal width between nothing and the longest sequence, each named by its longest member."""
    given = np.asarray(lengths, dtype=np.int64)
    edges = np.linspace(0, given.max(), count + 1)[1:]
    return _named(given, np.searchsorted(edges, given))


def doubling(lengths: ArrayLike) -> Buckets:
    """Buckets of 1, 2, 3 to 4, 5 to 8, ... tokens, each named by its longest member."""
    given = np.asarray(lengths, dtype=np.int64)
    return _named(given, np.ceil(np.log2(given)).astype(np.int64))


def rounding(lengths: ArrayLike, found: Buckets) -> float:
    """Tokens that rounding adds, over those there are."""
    real = np.asarray(lengths, dtype=np.int64)
    return float((found.rounded - real).sum() / real.sum())


def _named(lengths: NDArray[np.int64], bucket: NDArray[np.int64]) -> Buckets:
    _, of = np.unique(bucket, return_inverse=True)
    upper = np.zeros(of.max() + 1, dtype=np.int64)
    np.maximum.at(upper, of, lengths)
    return Buckets(upper, of)
