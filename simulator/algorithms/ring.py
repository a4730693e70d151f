"""Ring: every rank sends to the next, one block after the other (Thakur et al. 2005, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import ArrayLike

from . import register
from .ring_times import all_gather_time, all_reduce_time, reduce_scatter_time
from .schedule import Algorithm, Send, everyone, floats, settle

CHUNKS = 8  # parts a broadcast or reduce is pipelined in; NCCL cuts its buffers into 8 slots


@register
class Ring(Algorithm):
    """Ring of all ranks in order; broadcast and reduce stream through it in `chunks` parts."""

    name = "ring"
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "send_recv")
    symmetric = True

    def blocks(self, kind: str, n: int, chunks: int = CHUNKS, **options: Any) -> int:
        """One block per rank; `chunks` for what streams."""
        return chunks if kind in ("broadcast", "reduce") else n

    def rounds(
        self,
        kind: str,
        n: int,
        root: int = 0,
        sources: Sequence[int] | None = None,
        chunks: int = CHUNKS,
        **options: Any,
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        self.require(kind)
        if n == 1:
            return
        ranks = everyone(n, sources)
        if kind == "send_recv":
            yield [Send(i, (i + 1) % n, (i,)) for i in ranks]
            return
        if kind in ("broadcast", "reduce"):
            # Position p of the line passes chunk c on in round p + c; a reduce ends at the root.
            first = root if kind == "broadcast" else (root + 1) % n
            line = [(first + p) % n for p in range(n)]
            for step in range(n - 1 + chunks - 1):
                passing = range(max(0, step - chunks + 1), min(n - 1, step + 1))
                sends = [Send(line[p], line[p + 1], (step - p,), kind == "reduce") for p in passing]
                yield [send for send in sends if sources is None or send.source in sources]
            return
        if kind in ("all_reduce", "reduce_scatter"):
            for step in range(n - 1):
                yield [Send(i, (i + 1) % n, ((i - step - 1) % n,), True) for i in ranks]
        if kind in ("all_reduce", "all_gather"):
            for step in range(n - 1):
                yield [Send(i, (i + 1) % n, ((i - step) % n,)) for i in ranks]

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``rounds (n - 1) / n size``; all of what streams."""
        rounds = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}.get(kind)
        return (size if rounds is None else rounds * (n - 1) / n * size,)

    def time(
        self,
        kind: str,
        n: ArrayLike,
        size: ArrayLike,
        bandwidth: ArrayLike,
        latency: ArrayLike,
        base: ArrayLike = 0.0,
        chunks: int = CHUNKS,
        **options: Any,
    ) -> Any:
        """``rounds (n - 1) (latency + size / n / bandwidth)``, or a pipeline of chunks."""
        self.require(kind)
        formulas = {
            "all_reduce": all_reduce_time,
            "all_gather": all_gather_time,
            "reduce_scatter": reduce_scatter_time,
        }
        if kind in formulas:
            return formulas[kind](n, size, bandwidth, latency, base)
        ranks, whole, rate, hop = floats(n, size, bandwidth, latency)
        if kind == "send_recv":
            return settle(hop + whole / rate + 0 * ranks, ranks, base)
        return settle((ranks - 1 + chunks - 1) * (hop + whole / chunks / rate), ranks, base)

    def block_size(self, kind: str, n: int, size: float, **options: Any) -> float:
        """Bytes of one block; a send/receive's block is the whole message."""
        return size if kind == "send_recv" else super().block_size(kind, n, size, **options)


@register
class BidirectionalRing(Algorithm):
    """Two rings of opposite direction, each with half of every block; for fabrics with a link each way."""

    name = "bidirectional_ring"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")
    symmetric = True

    def blocks(self, kind: str, n: int, **options: Any) -> int:
        """Two halves of a block per rank."""
        return 2 * n

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; even blocks go up, odd ones down."""
        self.require(kind)
        ranks = everyone(n, sources)
        phases = {"all_reduce": (True, False), "reduce_scatter": (True,), "all_gather": (False,)}[kind]
        for reduces in phases:
            late = 1 if reduces else 0
            for step in range(n - 1):
                up = [Send(i, (i + 1) % n, (2 * ((i - step - late) % n),), reduces) for i in ranks]
                down = [Send(i, (i - 1) % n, (2 * ((i + step + late) % n) + 1,), reduces, 1) for i in ranks]
                yield up + down

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """Half of a ring's."""
        return ((2 if kind == "all_reduce" else 1) * (n - 1) / n * size / 2,)

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
        """Time of a ring; `bandwidth` is of a rank's two links together, each of which has half the bytes."""
        self.require(kind)
        formula = {
            "all_reduce": all_reduce_time,
            "all_gather": all_gather_time,
            "reduce_scatter": reduce_scatter_time,
        }[kind]
        return formula(n, size, bandwidth, latency, base)
