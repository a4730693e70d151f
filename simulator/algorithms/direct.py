"""Direct: everybody sends to everybody at once, as behind a switch that never blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import ArrayLike

from . import register
from .schedule import Algorithm, Send, everyone, floats, settle


@register
class Direct(Algorithm):
    """One step per phase; the messages of a rank share its port."""

    name = "direct"
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce")
    symmetric = True

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; the channel is the distance."""
        self.require(kind)
        ranks = everyone(n, sources)
        whole = tuple(range(self.blocks(kind, n)))
        if n == 1:
            return
        if kind == "broadcast":
            yield [Send(root, (root + d) % n, whole, False, d) for d in range(1, n) if root in ranks]
        if kind == "reduce":
            yield [Send(i, root, whole, True) for i in ranks if i != root]
        if kind == "all_to_all":
            yield [Send(i, (i + d) % n, (i * n + (i + d) % n,), False, d) for i in ranks for d in range(1, n)]
        if kind in ("all_reduce", "reduce_scatter"):
            yield [Send(i, (i + d) % n, ((i + d) % n,), True, d) for i in ranks for d in range(1, n)]
        if kind in ("all_reduce", "all_gather"):
            yield [Send(i, (i + d) % n, (i,), False, d) for i in ranks for d in range(1, n)]

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``phases (n - 1) / n size``; a root sends or hears all n - 1 copies."""
        if kind in ("broadcast", "reduce"):
            return ((n - 1) * size,)
        return ((2 if kind == "all_reduce" else 1) * (n - 1) / n * size,)

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
        """``phases (latency + (n - 1) / n size / bandwidth)``; one port carries all of a broadcast or reduce."""
        self.require(kind)
        ranks, whole, rate, hop = floats(n, size, bandwidth, latency)
        share = (ranks - 1) * (1 if kind in ("broadcast", "reduce") else 1 / ranks)
        return settle((2 if kind == "all_reduce" else 1) * (hop + share * whole / rate), ranks, base)
