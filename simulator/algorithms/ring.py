"""Ring: every rank sends to the next, one block after the other (Thakur et al. 2005, section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import register
from .schedule import PHASES, Algorithm, Send

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

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, chunks: int = CHUNKS, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        if kind == "send_recv":
            yield [Send(i, (i + 1) % n, (i,)) for i in ranks]
        if kind in ("broadcast", "reduce"):
            # Position p of the line passes chunk c on in round p + c; a reduce ends at the root.
            first = root if kind == "broadcast" else (root + 1) % n
            line = [(first + p) % n for p in range(n)]
            for step in range(n - 1 + chunks - 1):
                passing = range(max(0, step - chunks + 1), min(n - 1, step + 1))
                yield [Send(line[p], line[p + 1], (step - p,), kind == "reduce") for p in passing]
        if kind in ("all_reduce", "reduce_scatter"):
            for step in range(n - 1):
                yield [Send(i, (i + 1) % n, ((i - step - 1) % n,), True) for i in ranks]
        if kind in ("all_reduce", "all_gather"):
            for step in range(n - 1):
                yield [Send(i, (i + 1) % n, ((i - step) % n,)) for i in ranks]

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, chunks: int = CHUNKS, **options: Any) -> Any:
        """``phases (n - 1) (hop + size / n / rate)``, one message, or a pipeline of chunks."""
        if kind == "send_recv":
            return hop + size / rate
        if kind in ("broadcast", "reduce"):
            return (n - 1 + chunks - 1) * (hop + size / chunks / rate)
        return PHASES[kind] * (n - 1) * (hop + size / n / rate)

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """``phases (n - 1) / n size``; all of what streams."""
        return (PHASES[kind] * (n - 1) / n * size if kind in PHASES else size,)

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

    def plan(self, kind: str, n: int, ranks: Sequence[int], root: int, **options: Any) -> Iterator[list[Send]]:
        """Yield the sends of each round; even blocks go up, odd ones down."""
        passes = {"all_reduce": (True, False), "reduce_scatter": (True,), "all_gather": (False,)}[kind]
        for reduces in passes:
            late = 1 if reduces else 0
            for step in range(n - 1):
                up = [Send(i, (i + 1) % n, (2 * ((i - step - late) % n),), reduces) for i in ranks]
                down = [Send(i, (i - 1) % n, (2 * ((i + step + late) % n) + 1,), reduces, 1) for i in ranks]
                yield up + down

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, **options: Any) -> Any:
        """Time of a ring: each of a rank's two links has half the bytes and half the rate."""
        return PHASES[kind] * (n - 1) * (hop + size / n / rate)

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """Half of a ring's."""
        return (PHASES[kind] * (n - 1) / n * size / 2,)
