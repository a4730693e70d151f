"""Pairwise: an all-to-all in n - 1 steps, in each of which every rank sends to one and hears from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import register
from .schedule import Algorithm, Send


@register
class Pairwise(Algorithm):
    """In step d every rank sends to the one d further (Thakur et al. 2005, section 3.4)."""

    name = "pairwise"
    kinds = ("all_to_all",)
    symmetric = True
    chained = False

    def plan(self, kind: str, n: int, ranks: Sequence[int], root: int, **options: Any) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        for distance in range(1, n):
            yield [Send(i, (i + distance) % n, (i * n + (i + distance) % n,)) for i in ranks]

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, **options: Any) -> Any:
        """``(n - 1) (hop + size / n / rate)``."""
        return (n - 1) * (hop + size / n / rate)

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``(n - 1) / n size``."""
        return ((n - 1) / n * size,)
