"""From a schedule to a program: one task per message, on the links of its path."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..program import Program
from .routes import Routes, TopologyRoutes, demand_of
from .schedule import Algorithm, Send


class _Call(NamedTuple):
    """What all messages of a collective have in common, where they go, and what each costs besides its way."""

    program: Program
    kind: str
    stream: str
    bandwidth: float | None
    latency: float
    base: float
    priority: int

    def duration(self, amount: float, demand: Mapping[str, float]) -> float | None:
        """Time of a message's bytes alone where the protocol is slower than the way; else None [s]."""
        if self.bandwidth is None:
            return None
        needed = (load / self.program.resources[key].capacity for key, load in demand.items())
        return max(amount / self.bandwidth, *needed, 0.0)

    def send(
        self,
        rank: int,
        channel: int,
        amount: float,
        after: Iterable[int],
        demand: Mapping[str, float],
        duration: float | None,
        latency: float,
        first: bool,
    ) -> int:
        """Append a message whose way has a latency; a rank's first on a channel bears the base."""
        return self.program.add(
            self.kind,
            kind="communication",
            rank=rank,
            stream=f"{self.stream} {channel}" if channel else self.stream,
            after=after,
            demand=demand,
            duration=duration,
            latency=self.latency + latency + (self.base if first else 0.0),
            priority=self.priority,
            communication=self.kind,
            communication_bytes=amount,
        )


def lower(
    program: Program,
    algorithm: Algorithm,
    kind: str,
    n: int,
    size: float,
    routes: Routes,
    *,
    root: int = 0,
    bandwidth: float | None = None,
    latency: float = 0.0,
    base: float = 0.0,
    priority: int = 0,
    weights: np.ndarray | None = None,
    after: Sequence[Iterable[int]] = (),
    stream: str = "communication",
    folded: bool = False,
    **options: Any,
) -> list[tuple[int, ...]]:
    """Append a collective to a program.

    Parameters
    ----------
    program : Program
        It holds the resources that the routes name.
    algorithm : Algorithm
    kind : str
    n : int
        Ranks.
    size : float
        Bytes, by the convention of nccl-tests.
    routes : callable
        `TopologyRoutes`, or any function that answers the same.
    root : int
        Of a broadcast or reduce.
    bandwidth : float, optional
        What one message reaches alone, such as a protocol's payload rate; by default what its way
        allows [B/s].
    latency : float
        Of every message besides its way's [s].
    base : float
        Once, before a rank's first message [s].
    priority : int
        Class its messages are served in, as in `Task`.
    weights : numpy.ndarray, optional
        Bytes of each block instead of equal parts of `size`: of shape (n, n) for an all-to-all of
        unequal parts, from row to column.
    after : sequence of iterable of int
        For each rank the tasks its data comes from.
    stream : str
        Prefix of the streams; each channel of a rank is one.
    folded : bool
        Play rank 0 for all, its links loaded by everyone's messages of the round. Needs an algorithm
        whose ranks all do the same, and a fabric that treats them alike.
    **options
        Of the algorithm (`local`, `shape`, `chunks`).

    Returns
    -------
    list of tuple of int
        For each rank (rank 0 alone when folded), the tasks to wait for before using the result.

    Raises
    ------
    ValueError
        When an algorithm that is not symmetric is to be folded, or `after` has not one entry per rank.
    """
    algorithm.require(kind)
    call = _Call(program, kind, stream, bandwidth, latency, base, priority)
    if len(after) not in (0, 1 if folded else n):
        raise ValueError(f"{kind}: {len(after)} entries in after (legal: {1 if folded else n})")
    if n == 1:
        return [tuple(tasks) for tasks in after][:1] or [()]
    collecting = gc.isenabled()
    gc.disable()  # hundreds of thousands of small objects, and no cycles among them
    try:
        if folded:
            if not algorithm.symmetric or kind in ("broadcast", "reduce"):
                raise ValueError(f"{algorithm.name} {kind}: its ranks do different things, so none stands for all")
            return _folded(call, algorithm, n, size, routes, after, options)
        block = algorithm.block_size(kind, n, size, **options)
        sizes = None if weights is None else np.asarray(weights, float).ravel()
        return _unfolded(call, algorithm, n, block, sizes, routes, root, after, options)
    finally:
        if collecting:
            gc.enable()


def _unfolded(
    call: _Call,
    algorithm: Algorithm,
    n: int,
    block: float,
    sizes: np.ndarray | None,
    routes: Routes,
    root: int,
    after: Sequence[Iterable[int]],
    options: Mapping[str, Any],
) -> list[tuple[int, ...]]:
    begun = [tuple(tasks) for tasks in after] or [()] * n
    # Which tasks a rank's copy of a block waits for: those that last wrote it; rank n is a switch.
    written: list[dict[int, tuple[int, ...]]] = [{} for _ in range(n + 1)]
    latest: list[list[int]] = [[] for _ in range(n + 1)]  # by rank, the messages of the last round it was part of
    last: list[dict[int, int]] = [{} for _ in range(n + 1)]  # by rank and channel, the last message sent
    demands: dict[tuple[tuple[int, int, int], float], tuple[dict[str, float], float | None]] = {}
    for sends in algorithm.rounds(call.kind, n, root, **options):
        done = []
        for send in sends:
            source, target, blocks, reduces, channel = send
            amount = block * len(blocks) if sizes is None else float(sizes[list(blocks)].sum())
            if sizes is not None and amount == 0:
                continue
            before = written[source]
            waits = (
                {task for b in blocks for task in before.get(b, ())} if len(blocks) > 1 else before.get(blocks[0], ())
            )
            if algorithm.rendezvous:
                waits = {*latest[source], *latest[target]}
            first = channel not in last[source]
            if first and source < n and begun[source]:
                waits = {*waits, *begun[source]}
            key = (source, target, channel)
            if (key, amount) not in demands:
                demand = demand_of(routes(*key)[0], amount)
                demands[key, amount] = demand, call.duration(amount, demand)
            demand, duration = demands[key, amount]
            task = call.send(source, channel, amount, waits, demand, duration, routes(*key)[1], first)
            last[source][channel] = task
            done.append((task, target, blocks, reduces))
        if algorithm.rendezvous:
            _meet(latest, [(task, call.program.tasks[task].rank, target) for task, target, _, _ in done])
        for task, target, blocks, reduces in done:
            mine = written[target]
            for b in blocks:
                mine[b] = (*mine.get(b, ()), task) if reduces else (task,)
    return [_ends(last[rank], written[rank], begun[rank]) for rank in range(n)]


def _meet(latest: list[list[int]], messages: Sequence[tuple[int, int, int]]) -> None:
    """Note for both ends of each message of a round that it was their last."""
    for rank in {end for _, *ends in messages for end in ends}:
        latest[rank] = []
    for task, source, target in messages:
        latest[source].append(task)
        latest[target].append(task)


def _ends(last: Mapping[int, int], written: Mapping[int, tuple[int, ...]], begun: tuple[int, ...]) -> tuple[int, ...]:
    """What a rank waits for at the end: its last messages and what last wrote its blocks."""
    found = {*last.values(), *(task for tasks in written.values() for task in tasks)}
    return tuple(sorted(found)) or begun


def _folded(
    call: _Call,
    algorithm: Algorithm,
    n: int,
    size: float,
    routes: Routes,
    after: Sequence[Iterable[int]],
    options: Mapping[str, Any],
) -> list[tuple[int, ...]]:
    block = algorithm.block_size(call.kind, n, size, **options)
    waits: tuple[int, ...] = tuple(after[0]) if after else ()
    loads: dict[tuple[tuple[int, int], ...], list[dict[str, float]]] = {}
    first = True
    for sends in algorithm.rounds(call.kind, n, 0, sources=[0], **options):
        pattern = tuple((send.target, send.channel) for send in sends)
        if pattern not in loads:
            loads[pattern] = _everyone(sends, n, routes)
        sent = []
        for send, load in zip(sends, loads[pattern], strict=True):
            amount = block * len(send.blocks)
            demand = {key: amount * share for key, share in load.items()}
            duration, delay = call.duration(amount, demand), routes(0, send.target, send.channel)[1]
            sent.append(call.send(0, send.channel, amount, waits, demand, duration, delay, first))
        # What reaches rank 0 is what others send at the same time as it does.
        waits = tuple(sent) if algorithm.chained else waits
        first = False
    return [tuple(sent)]


def _everyone(sends: Sequence[Send], n: int, routes: Routes) -> list[dict[str, float]]:
    """For each message of rank 0, what all ranks' messages of the same sort put on its way, per byte."""
    found = []
    for send in sends:
        own = demand_of(routes(0, send.target, send.channel)[0], 1.0)
        if isinstance(routes, TopologyRoutes):
            total = routes.loads(send.target, send.channel, n)
        else:
            total = {}
            for rank in range(n):
                route = routes(rank, (rank + send.target) % n, send.channel)[0]
                for key, amount in demand_of(route, 1.0).items():
                    total[key] = total.get(key, 0.0) + amount
        found.append({key: total[key] for key in own})
    return found
