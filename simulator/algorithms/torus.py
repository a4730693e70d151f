"""Torus: a ring along each dimension in turn, each with what the ones before left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from ...hardware.errors import InputError
from . import register
from .schedule import PHASES, Algorithm, Send


@register
class Torus(Algorithm):
    """Reduce-scatter along every dimension, then all-gather back, for a `shape` of any dimensions."""

    name = "torus"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, shape: Sequence[int] = (), **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; the last dimension of the shape varies fastest with the rank."""
        shape = _shape(n, shape)
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

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, shape: Sequence[int] = (), **options: Any) -> Any:
        """Sum over dimensions of a ring's time with the bytes the dimensions before left; one number of ranks."""
        time, left = 0.0, size
        for extent in _shape(int(n), shape):
            left = left / extent
            time = time + PHASES[kind] * (extent - 1) * (hop + left / rate)
        return time


def _shape(n: int, shape: Sequence[int]) -> tuple[int, ...]:
    found = tuple(shape) or (n,)
    if prod(found) != n or min(found) < 1:
        raise InputError(
            f"torus: shape {'x'.join(map(str, found))} for {n} ranks (legal: extents whose product is {n})"
        )
    return found
