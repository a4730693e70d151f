"""What an algorithm sends, as data, and playing it symbolically to see that it is right.

A collective's data is cut into blocks. Sends of one round need nothing of one another; a send waits
for whatever last wrote its blocks at its source, so pipelines come out of the data and not of
barriers. A switch that reduces or multicasts takes part as rank n.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ...hardware.errors import InputError

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "send_recv")
"""Kinds of collective; sizes follow nccl-tests (all-to-all: what a rank sends, its own part included)."""

PHASES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
"""How often all but a rank's own part of the data has to pass its port."""


class Send(NamedTuple):
    """One message.

    Attributes
    ----------
    source, target : int
        Ranks; n is a switch that takes part.
    blocks : tuple of int
        Which blocks of the data.
    reduce : bool
        Added to what the target holds, else in its place.
    channel : int
        Sends of one source on one channel go in order; different channels go side by side.
    """

    source: int
    target: int
    blocks: tuple[int, ...]
    reduce: bool = False
    channel: int = 0


class Algorithm(ABC):
    """One way of doing some kinds of collective.

    Attributes
    ----------
    name : str
    kinds : tuple of str
        Those of `KINDS` it can do.
    symmetric : bool
        Whether all ranks do the same shifted (rank i what rank 0 does, every target plus i), so that
        one of them can be played for all.
    chained : bool
        Whether each round sends what the round before brought.
    rendezvous : bool
        Whether a message waits until both its ends are through with the last round they were part of.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    symmetric: ClassVar[bool] = False
    chained: ClassVar[bool] = True
    rendezvous: ClassVar[bool] = False

    def blocks(self, kind: str, n: int, **options: Any) -> int:
        """Into how many equal parts the data is cut: one per rank, or per pair of ranks."""
        return n * n if kind == "all_to_all" else n

    @abstractmethod
    def plan(self, kind: str, n: int, ranks: Sequence[int], root: int, **options: Any) -> Iterator[list[Send]]:
        """Yield the sends of each round among 2 ranks or more; those of `ranks` will do."""

    @abstractmethod
    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, **options: Any) -> Any:
        """Time on an idle fabric in closed form, for arrays that broadcast; arguments as of `time` [s]."""

    @abstractmethod
    def link_bytes(self, kind: str, n: int, size: float, **options: Any) -> tuple[float, ...]:
        """Most bytes over one link, per direction: of a rank's port, or of each level that has links of its own."""

    def block_size(self, kind: str, n: int, size: float, **options: Any) -> float:
        """Bytes of one block; of an all-to-all `size` is what one rank sends."""
        return size / n if kind == "all_to_all" else size / self.blocks(kind, n, **options)

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round, all or those of some sources.

        Raises
        ------
        InputError
            For a kind it does not do, or options that do not fit.
        """
        self.require(kind)
        if n == 1:
            return
        for sends in self.plan(kind, n, range(n) if sources is None else sources, root, **options):
            yield sends if sources is None else [send for send in sends if send.source in sources]

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
        """Time on an idle fabric [s], broadcast over all arguments; a float for floats.

        Parameters
        ----------
        kind : str
        n : array_like of int
            Ranks; 1 takes no time.
        size : array_like of float
            Bytes, by the convention of nccl-tests.
        bandwidth : array_like of float
            Of all of a rank's ports together, per direction [B/s]; of a torus, of one link.
        latency : array_like of float
            Of one message [s].
        base : array_like of float
            Of the whole call [s].
        **options
            Of the algorithm.

        Raises
        ------
        InputError
            As of `rounds`.
        """
        self.require(kind)
        ranks, whole, rate, hop = (np.asarray(value, float) for value in (n, size, bandwidth, latency))
        time = self.cost(kind, ranks, whole, rate, hop, **options)
        found = np.where(ranks > 1, time + np.asarray(base, float), 0.0)
        return found.item() if found.ndim == 0 else found

    def require(self, kind: str) -> None:
        """Raise InputError for a kind the algorithm does not do."""
        if kind not in self.kinds:
            raise InputError(f"{self.name}: {kind!r} (legal: {', '.join(self.kinds)})")


Holding = dict[int, Counter[int]]  # block -> whose contributions, how often


def start(kind: str, n: int, blocks: int, root: int = 0) -> list[Holding]:
    """What each rank (and a switch, last) holds before a collective."""
    held: list[Holding] = [{} for _ in range(n + 1)]
    for rank in range(n):
        if kind in ("all_reduce", "reduce_scatter", "reduce"):
            held[rank] = {block: Counter([rank]) for block in range(blocks)}
        elif kind in ("all_gather", "send_recv"):
            held[rank] = {b: Counter([rank]) for b in range(blocks) if b * n // blocks == rank}
        elif kind == "all_to_all":
            held[rank] = {rank * n + target: Counter([rank]) for target in range(n)}
        elif rank == root:
            held[rank] = {block: Counter([root]) for block in range(blocks)}
    return held


def goal(kind: str, n: int, blocks: int, rank: int, root: int = 0) -> Holding:
    """What a rank must hold afterwards, at least."""
    whole = Counter(range(n))
    if kind == "all_reduce" or (kind == "reduce" and rank == root):
        return {block: whole for block in range(blocks)}
    if kind == "reduce":
        return {}
    if kind == "reduce_scatter":
        return {block: whole for block in range(blocks) if block * n // blocks == rank}
    if kind == "all_gather":
        return {block: Counter([block * n // blocks]) for block in range(blocks)}
    if kind == "send_recv":
        return {b: Counter([(rank - 1) % n]) for b in range(blocks) if b * n // blocks == (rank - 1) % n}
    if kind == "all_to_all":
        return {source * n + rank: Counter([source]) for source in range(n)}
    return {block: Counter([root]) for block in range(blocks)}


def execute(algorithm: Algorithm, kind: str, n: int, root: int = 0, **options: Any) -> list[Holding]:
    """Play the sends on sets of contributions.

    Returns
    -------
    list of dict
        For each rank, and the switch last, whose contributions each block holds and how often.

    Raises
    ------
    ValueError
        When a rank sends what it does not hold.
    """
    held = start(kind, n, algorithm.blocks(kind, n, **options), root)
    for sends in algorithm.rounds(kind, n, root, **options):
        moving = []
        for send in sends:
            if not set(send.blocks) <= held[send.source].keys():
                raise ValueError(f"{algorithm.name} {kind} of {n}: {send} before it is there")
            moving.append((send, {block: Counter(held[send.source][block]) for block in send.blocks}))
        for send, data in moving:
            for block, content in data.items():
                there = held[send.target].get(block) if send.reduce else None
                held[send.target][block] = content if there is None else there + content
    return held
