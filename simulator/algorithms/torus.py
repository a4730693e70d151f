"""Torus: a ring along each dimension in turn, each with what the ones before left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from numpy.typing import ArrayLike

from ...hardware.errors import InputError
from . import register
from .ring_times import all_gather_time, reduce_scatter_time
from .schedule import Algorithm, Send, floats, settle


@register
class Torus(Algorithm):
    """Reduce-scatter along every dimension, then all-gather back, for a `shape` of any dimensions."""

    name = "torus"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")

    def rounds(
        self,
        kind: str,
        n: int,
        root: int = 0,
        sources: Sequence[int] | None = None,
        shape: Sequence[int] = (),
        **options: Any,
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; the last dimension of the shape varies fastest with the rank."""
        self.require(kind)
        shape = _shape(n, shape)
        for sends in self._all(kind, n, shape):
            yield [send for send in sends if sources is None or send.source in sources]

    def _all(self, kind: str, n: int, shape: tuple[int, ...]) -> Iterator[list[Send]]:
        strides = [prod(shape[d + 1 :]) for d in range(len(shape))]

        def place(rank: int, d: int) -> int:
            return rank // strides[d] % shape[d]

        def matching(rank: int, d: int, value: int) -> tuple[int, ...]:
            """Blocks that share the rank's places before dimension d, and have `value` there."""
            return tuple(
                b for b in range(n) if place(b, d) == value and all(place(b, e) == place(rank, e) for e in range(d))
            )

        def forward(rank: int, d: int) -> int:
            return rank + ((place(rank, d) + 1) % shape[d] - place(rank, d)) * strides[d]

        if kind in ("all_reduce", "reduce_scatter"):
            for d in range(len(shape)):
                for step in range(shape[d] - 1):
                    yield [
                        Send(r, forward(r, d), matching(r, d, (place(r, d) - step - 1) % shape[d]), True, d)
                        for r in range(n)
                    ]
        if kind in ("all_reduce", "all_gather"):
            for d in reversed(range(len(shape))):
                for step in range(shape[d] - 1):
                    yield [
                        Send(r, forward(r, d), matching(r, d, (place(r, d) - step) % shape[d]), False, d)
                        for r in range(n)
                    ]

    def link_bytes(
        self, kind: str, n: int, size: float, shape: Sequence[int] = (), **options: Any
    ) -> tuple[float, ...]:
        """Of a link of each dimension."""
        found, left = [], size
        for extent in _shape(n, shape):
            found.append((2 if kind == "all_reduce" else 1) * (extent - 1) / extent * left)
            left /= extent
        return tuple(found)

    def time(
        self,
        kind: str,
        n: ArrayLike,
        size: ArrayLike,
        bandwidth: ArrayLike,
        latency: ArrayLike,
        base: ArrayLike = 0.0,
        shape: Sequence[int] = (),
        **options: Any,
    ) -> Any:
        """Sum over dimensions of a ring's time with the bytes the dimensions before left."""
        self.require(kind)
        ranks, whole = floats(n, size)
        time, left = 0.0, whole
        for extent in _shape(int(ranks), shape):
            if kind in ("all_reduce", "reduce_scatter"):
                time = time + reduce_scatter_time(extent, left, bandwidth, latency)
            if kind in ("all_reduce", "all_gather"):
                time = time + all_gather_time(extent, left, bandwidth, latency)
            left = left / extent
        return settle(time, ranks, base)


def _shape(n: int, shape: Sequence[int]) -> tuple[int, ...]:
    found = tuple(shape) or (n,)
    if prod(found) != n or min(found) < 1:
        raise InputError(
            f"torus: shape {'x'.join(map(str, found))} for {n} ranks (legal: extents whose product is {n})"
        )
    return found
