"""Ring collectives: their time in closed form, and the same as programs of sends.

Sizes follow nccl-tests: `size` is the full buffer, also for all-gather and reduce-scatter, so a
rank holds or ends with ``size / n``. A ring moves it in equal chunks of ``size / n``; sizes that n
does not divide are spread evenly. All-reduce takes ``2 (n - 1)`` steps, the other two ``n - 1``
(R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in
MPICH", 2005, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from .program import Program

Route = Sequence[str] | Mapping[str, float]
_ROUNDS = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}


def bytes_sent(kind: str, n: ArrayLike, size: ArrayLike) -> Any:
    """Bytes that each rank sends (and receives) in a ring collective.

    Parameters
    ----------
    kind : {"all_reduce", "reduce_scatter", "all_gather"}
        The collective.
    n : array_like of int
        Ranks.
    size : array_like of float
        Full buffer [bytes].

    Returns
    -------
    float or numpy.ndarray
        Bytes, ``rounds (n - 1) size / n``.
    """
    n = np.asarray(n, dtype=float)
    return _plain(_ROUNDS[kind] * (n - 1) * np.asarray(size, dtype=float) / n)


def _plain(value: np.ndarray) -> Any:
    return value.item() if np.ndim(value) == 0 else value


def _time(
    kind: str,
    n: ArrayLike,
    size: ArrayLike,
    bandwidth: ArrayLike,
    latency: ArrayLike,
    base: ArrayLike,
) -> Any:
    n = np.asarray(n, dtype=float)
    steps = _ROUNDS[kind] * (n - 1)
    chunk = np.asarray(size, dtype=float) / n
    time = np.asarray(base, dtype=float) + steps * (
        np.asarray(latency, dtype=float) + chunk / np.asarray(bandwidth, dtype=float)
    )
    return _plain(np.where(n > 1, time, 0.0))


def all_reduce_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring all-reduce, ``base + 2 (n - 1) (latency + size / n / bandwidth)``.

    Parameters
    ----------
    n : array_like of int
        Ranks; 1 takes no time.
    size : array_like of float
        Buffer of each rank [bytes].
    bandwidth : array_like of float
        Per direction and rank [bytes/s].
    latency : array_like of float
        Of one step [s].
    base : array_like of float, default 0
        Of the whole call [s].

    Returns
    -------
    float or numpy.ndarray
        Seconds, broadcast over all arguments [s].
    """
    return _time("all_reduce", n, size, bandwidth, latency, base)


def reduce_scatter_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring reduce-scatter, ``base + (n - 1) (latency + size / n / bandwidth)`` [s].

    Parameters and result as in `all_reduce_time`; `size` is the input of each rank [bytes].
    """
    return _time("reduce_scatter", n, size, bandwidth, latency, base)


def all_gather_time(
    n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, latency: ArrayLike, base: ArrayLike = 0.0
) -> Any:
    """Time of a ring all-gather, ``base + (n - 1) (latency + size / n / bandwidth)`` [s].

    Parameters and result as in `all_reduce_time`; `size` is the output of each rank [bytes].
    """
    return _time("all_gather", n, size, bandwidth, latency, base)


class RingOptions(TypedDict, total=False):
    """What the three ring builders accept besides their positional arguments.

    Attributes
    ----------
    bandwidth : float, optional
        What one send reaches alone [bytes/s]; by default what its resources allow.
    latency : float, default 0
        Of each step [s].
    base : float, default 0
        Once, before the first step [s].
    after : sequence of iterables of int, optional
        For each rank (one entry is enough when folded), the tasks its input comes from.
    stream : str, default "communication"
        Stream of each rank the sends go on.
    name : str, default the collective's
        Label of the tasks.
    priority : int, default 0
        As in `Task`.
    weight : float, default 1
        As in `Task`.
    folded : bool, default False
        Play the first rank only, its route loaded by the sends of all ranks; for ranks that do the
        same at the same time.
    """

    bandwidth: float | None
    latency: float
    base: float
    after: Sequence[Iterable[int]]
    stream: str
    name: str
    priority: int
    weight: float
    folded: bool


def ring_all_reduce(
    program: Program,
    ranks: Sequence[int],
    size: float,
    routes: Sequence[Route],
    **options: Unpack[RingOptions],
) -> list[tuple[int, ...]]:
    """Append a ring all-reduce to a program, one task per rank and step.

    Parameters
    ----------
    program : Program
        Where the sends go; it already holds the resources of the routes.
    ranks : sequence of int
        Ranks in ring order.
    size : float
        Buffer of each rank [bytes].
    routes : sequence
        What the send of each rank to its next loads: names of resources (one unit per byte sent),
        or a mapping of name to units per byte sent.
    **options
        See `RingOptions`.

    Returns
    -------
    list of tuple of int
        For each rank (one entry when folded), the tasks to wait for before using the result: its
        own last send and its last receive.

    Raises
    ------
    ValueError
        As many routes or entries of `after` as ranks were not given.
    """
    return _ring("all_reduce", program, ranks, size, routes, options)


def ring_reduce_scatter(
    program: Program,
    ranks: Sequence[int],
    size: float,
    routes: Sequence[Route],
    **options: Unpack[RingOptions],
) -> list[tuple[int, ...]]:
    """Append a ring reduce-scatter of `size` bytes per rank; see `ring_all_reduce`."""
    return _ring("reduce_scatter", program, ranks, size, routes, options)


def ring_all_gather(
    program: Program,
    ranks: Sequence[int],
    size: float,
    routes: Sequence[Route],
    **options: Unpack[RingOptions],
) -> list[tuple[int, ...]]:
    """Append a ring all-gather to `size` bytes on every rank; see `ring_all_reduce`."""
    return _ring("all_gather", program, ranks, size, routes, options)


def _demands(chunk: float, routes: Sequence[Route], folded: bool) -> list[dict[str, float]]:
    demands = [
        {key: chunk * amount for key, amount in route.items()}
        if isinstance(route, Mapping)
        else dict.fromkeys(route, chunk)
        for route in routes
    ]
    if not folded:
        return demands
    # Everyone sends at once, so the one rank that is played carries the load of all on its route.
    return [{key: sum(demand.get(key, 0.0) for demand in demands) for key in demands[0]}]


def _ring(
    kind: str,
    program: Program,
    ranks: Sequence[int],
    size: float,
    routes: Sequence[Route],
    options: RingOptions,
) -> list[tuple[int, ...]]:
    n = len(ranks)
    folded = options.get("folded", False)
    players = 1 if folded else n
    starts = [tuple(tasks) for tasks in options.get("after", [()] * players)]
    if len(starts) not in (players, n):
        raise ValueError(f"{kind}: {len(starts)} entries in after (legal: {players})")
    if n == 1:
        return starts[:1]
    if len(routes) != n:
        raise ValueError(f"{kind}: {len(routes)} routes (legal: {n}, one from each rank to its next)")
    chunk = size / n
    demands = _demands(chunk, routes, folded)
    durations: list[float | None] = [None] * players
    bandwidth = options.get("bandwidth")
    if bandwidth is not None:
        durations = [
            max(
                chunk / bandwidth,
                *(load / program.resources[key].capacity for key, load in d.items()),
            )
            if d
            else chunk / bandwidth
            for d in demands
        ]
    latency, base = options.get("latency", 0.0), options.get("base", 0.0)
    waits = starts[:players]
    sent: list[int] = []
    for step in range(_ROUNDS[kind] * (n - 1)):
        sent = [
            program.add(
                f"{options.get('name', kind)} {step}",
                kind="communication",
                rank=ranks[i],
                stream=options.get("stream", "communication"),
                after=waits[i],
                demand=demands[i],
                duration=durations[i],
                latency=latency + (0.0 if step else base),
                priority=options.get("priority", 0),
                weight=options.get("weight", 1.0),
                communication=kind,
                communication_bytes=chunk,
            )
            for i in range(players)
        ]
        # A rank passes on what its predecessor sent one step ago (index -1 closes the ring).
        waits = [(sent[i - 1],) for i in range(players)]
    return [(sent[0],)] if folded else [(sent[i], sent[i - 1]) for i in range(n)]
