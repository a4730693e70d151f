"""Recursive halving and doubling: partners at growing distance exchange shrinking parts.

R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH",
2005, sections 4.4 and 4.5. Where the number of ranks is no power of two, each rank beyond one hands what
it has to a partner first and gets its result from it last. Partners meet: neither sends before both are
through with the step before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import register
from .schedule import PHASES, Algorithm, Send


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
        """One per rank; of an all-reduce one per rank of the largest power of two."""
        return int(_core(n)) if kind == "all_reduce" else n

    def plan(self, kind: str, n: int, ranks: Sequence[int], root: int, **options: Any) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        core = int(_core(n))
        blocks = self.blocks(kind, n)
        beyond = range(core, n)  # rank r among them has the partner r - core
        distances = [1 << bit for bit in range(core.bit_length() - 1)]

        def owned(rank: int, distance: int) -> tuple[int, ...]:
            """Blocks of the group of `distance` ranks a rank is in, and of their partners beyond."""
            first = rank // distance * distance
            group = range(first, first + distance)
            return (*group, *(r + core for r in group if r + core < blocks))

        def others(rank: int) -> tuple[int, ...]:
            return tuple(b for b in range(blocks) if b != rank)

        if kind != "all_gather":
            if n > core:
                yield [Send(r, r - core, others(r), True) for r in beyond]
            for distance in reversed(distances):
                # What the partner's half of the ranks will own; after it, only the own half matters.
                yield [Send(i, i ^ distance, owned(i ^ distance, distance), True) for i in range(core)]
            if kind == "reduce_scatter" and n > core:
                # A rank beyond kept its own contribution to its block.
                yield [Send(r - core, r, (r,), True) for r in beyond]
        if kind != "reduce_scatter":
            if kind == "all_gather" and n > core:
                yield [Send(r, r - core, (r,)) for r in beyond]
            for distance in distances:
                yield [Send(i, i ^ distance, owned(i, distance)) for i in range(core)]
            if n > core:
                yield [Send(r - core, r, others(r)) for r in beyond]

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``phases (m - 1) / m size``, and what a rank beyond m adds to its partner's port."""
        core = int(_core(n))
        if kind == "all_reduce":
            return (2 * (core - 1) / core * size + (size if n > core else 0.0),)
        return ((float(_exchanged(n)) + (n - 1) * (n > core)) / n * size,)

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, **options: Any) -> Any:
        """``phases (log2 m hop + (m - 1) / m size / rate)``, m the power of two, and two messages for more.

        Of a gather or scatter, rank 0 also carries the blocks of the ranks beyond m.
        """
        core = _core(n)
        steps = PHASES[kind] * np.log2(core) + 2 * (core < n)
        share = 2 * (core - 1) / core + 2 * (core < n) if kind == "all_reduce" else _exchanged(n) / n + (core < n)
        return steps * hop + share * size / rate


def _exchanged(n: Any) -> Any:
    """Blocks that rank 0 sends in all doublings, or hears in all halvings."""
    ranks = np.asarray(n, float)
    core = _core(ranks)
    found = np.zeros(ranks.shape)
    for bit in range(int(np.log2(np.max(core)))):
        group = 2.0**bit
        found = found + np.where(group < core, group + np.minimum(group, ranks - core), 0.0)
    return found
