"""In the switch: ranks send up once, the switch adds or copies, and sends down once (NVLS, SHARP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import register
from .schedule import Algorithm, Send

CHUNKS = 8  # parts that follow one another up and down

WHOLE = ("all_reduce", "broadcast", "reduce")  # kinds of which both ways carry all of the data


@register
class InSwitch(Algorithm):
    """Chunks go up while earlier ones come down; each port carries the data once per direction."""

    name = "in_switch"
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")

    def blocks(self, kind: str, n: int, chunks: int = CHUNKS, **options: Any) -> int:
        """`chunks` of the whole, or of each rank's part."""
        return n * chunks if kind in ("all_gather", "reduce_scatter") else chunks

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, chunks: int = CHUNKS, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; rank n is the switch, a channel each way."""
        for step in range(chunks + 1):
            sends = []
            if step < chunks:
                for rank in range(n) if kind != "broadcast" else (root,):
                    # A rank sends its part of a gather, of a scatter what everybody is to have.
                    up = [step] if kind in WHOLE else [
                        part * chunks + step for part in ([rank] if kind == "all_gather" else range(n))
                    ]  # fmt: skip
                    sends.append(Send(rank, n, tuple(up), kind in ("all_reduce", "reduce_scatter", "reduce")))
            if step:
                for rank in range(n) if kind != "reduce" else (root,):
                    down = [step - 1] if kind in WHOLE else [
                        part * chunks + step - 1 for part in ([rank] if kind == "reduce_scatter" else range(n))
                    ]  # fmt: skip
                    sends.append(Send(n, rank, tuple(down), False, rank))
            yield sends

    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """The whole, up or down."""
        return (size,)

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, chunks: int = CHUNKS, **options: Any) -> Any:
        """``(chunks + 1) (hop + size / chunks / rate)``; one way of a gather or scatter is n times shorter."""
        full = hop + size / chunks / rate
        short = full if kind in WHOLE else hop + size / n / chunks / rate
        return chunks * full + short
