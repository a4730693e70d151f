"""Direct: everybody sends to everybody at once, as behind a switch that never blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import register
from .schedule import PHASES, Algorithm, Send


@register
class Direct(Algorithm):
    """One step per phase; the messages of a rank share its port."""

    name = "direct"
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce")
    symmetric = True

    def plan(self, kind: str, n: int, ranks: Sequence[int], root: int, **options: Any) -> Iterator[list[Send]]:
        """Yield the sends of each round; the channel is the distance."""
        whole = tuple(range(self.blocks(kind, n)))
        if kind == "broadcast":
            yield [Send(root, (root + d) % n, whole, False, d) for d in range(1, n)]
        if kind == "reduce":
            yield [Send(i, root, whole, True) for i in ranks if i != root]
        if kind == "all_to_all":
            yield [Send(i, (i + d) % n, (i * n + (i + d) % n,), False, d) for i in ranks for d in range(1, n)]
        if kind in ("all_reduce", "reduce_scatter"):
            yield [Send(i, (i + d) % n, ((i + d) % n,), True, d) for i in ranks for d in range(1, n)]
        if kind in ("all_reduce", "all_gather"):
            yield [Send(i, (i + d) % n, (i,), False, d) for i in ranks for d in range(1, n)]

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, **options: Any) -> Any:
        """``phases (hop + (n - 1) / n size / rate)``; one port carries all of a broadcast or reduce."""
        if kind in PHASES:
            return PHASES[kind] * (hop + (n - 1) / n * size / rate)
        return hop + (n - 1) * size / rate

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``phases (n - 1) / n size``; a root sends or hears all n - 1 copies."""
        return (PHASES[kind] * (n - 1) / n * size if kind in PHASES else (n - 1) * size,)
