"""Recursive halving and doubling: partners at growing distance exchange shrinking parts.

R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH",
2005, section 4.4. An all-reduce among a number of ranks that is no power of two first folds the
ranks beyond one into others and hands them the result at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...hardware.errors import InputError
from . import register
from .schedule import Algorithm, Send, floats, settle


def _core(n: Any) -> Any:
    """Largest power of two not above n."""
    return 2 ** np.floor(np.log2(np.asarray(n, float))).astype(np.int64)


@register
class HalvingDoubling(Algorithm):
    """``2 log2 n`` steps for ``2 (n - 1) / n`` of the bytes."""

    name = "halving_doubling"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")
    rendezvous = True

    def blocks(self, kind: str, n: int, **options: Any) -> int:
        """One per rank of the largest power of two."""
        return int(_core(n)) if kind == "all_reduce" else n

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        self.require(kind)
        core = int(_core(n))
        if kind != "all_reduce" and core != n:
            raise InputError(f"halving_doubling {kind}: {n} ranks (legal: a power of two)")
        for sends in self._all(kind, n, core):
            yield [send for send in sends if sources is None or send.source in sources]

    def _all(self, kind: str, n: int, core: int) -> Iterator[list[Send]]:
        whole = tuple(range(core))
        if n > core:
            yield [Send(core + i, i, whole, True) for i in range(n - core)]
        distances = [1 << bit for bit in range(core.bit_length() - 1)]
        if kind in ("all_reduce", "reduce_scatter"):
            for distance in reversed(distances):
                # What the partner's half of the ranks will own; after it, only the own half matters.
                yield [Send(i, i ^ distance, self._owned(i ^ distance, distance), True) for i in range(core)]
        if kind in ("all_reduce", "all_gather"):
            for distance in distances:
                yield [Send(i, i ^ distance, self._owned(i, distance)) for i in range(core)]
        if n > core:
            yield [Send(i, core + i, whole) for i in range(n - core)]

    @staticmethod
    def _owned(rank: int, distance: int) -> tuple[int, ...]:
        """Blocks of the group of `distance` neighbours a rank is in."""
        first = rank // distance * distance
        return tuple(range(first, first + distance))

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``phases (m - 1) / m size``, and the whole once more where a rank beyond m is served."""
        core = int(_core(n))
        return ((2 if kind == "all_reduce" else 1) * (core - 1) / core * size + (size if n > core else 0.0),)

    def time(
        self,
        kind: str,
        n: ArrayLike,
        size: ArrayLike,
        bandwidth: ArrayLike,
        latency: ArrayLike,
        base: ArrayLike = 0.0,
        **options: Any,
    ) -> Any:
        """``phases (log2 m latency + (m - 1) / m size / bandwidth)``, m the power of two; two whole sends for more."""
        self.require(kind)
        ranks, whole, rate, hop = floats(n, size, bandwidth, latency)
        core = _core(ranks)
        if kind != "all_reduce" and np.any(core != ranks):
            raise InputError(f"halving_doubling {kind}: {n} ranks (legal: powers of two)")
        phases = 2 if kind == "all_reduce" else 1
        time = phases * (np.log2(core) * hop + (core - 1) / core * whole / rate)
        return settle(time + np.where(core < ranks, 2 * (hop + whole / rate), 0.0), ranks, base)
