"""Pairwise: an all-to-all in n - 1 steps, in each of which every rank sends to one and hears from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import ArrayLike

from . import register
from .schedule import Algorithm, Send, everyone, floats, settle


@register
class Pairwise(Algorithm):
    """In step d every rank sends to the one d further (Thakur et al. 2005, section 3.4)."""

    name = "pairwise"
    kinds = ("all_to_all",)
    symmetric = True
    chained = False

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        self.require(kind)
        for distance in range(1, n):
            yield [Send(i, (i + distance) % n, (i * n + (i + distance) % n,)) for i in everyone(n, sources)]

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``(n - 1) / n size``."""
        return ((n - 1) / n * size,)

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
        """``(n - 1) (latency + size / n / bandwidth)``."""
        self.require(kind)
        ranks, whole, rate, hop = floats(n, size, bandwidth, latency)
        return settle((ranks - 1) * (hop + whole / ranks / rate), ranks, base)
