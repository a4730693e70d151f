"""Two levels: inside the nodes first, across them per rail, and inside again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import ArrayLike

from ...hardware.errors import InputError
from . import register
from .ring_times import all_gather_time, all_reduce_time, reduce_scatter_time
from .schedule import Algorithm, Send, floats, settle


def _nodes(n: int, local: int) -> int:
    if local < 1 or n % local:
        raise InputError(f"hierarchical: {n} ranks in nodes of {local} (legal: a number of ranks the nodes divide)")
    return n // local


@register
class Hierarchical(Algorithm):
    """Ring reduce-scatter inside, ring all-reduce across with 1 / local of the data, ring all-gather inside.

    Its times take `outer_bandwidth` and `outer_latency` of the adapters beside those inside; both
    default to the inner ones.
    """

    name = "hierarchical"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, local: int = 1, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; block ``j + local k`` of the data ends with rank j of node k."""
        self.require(kind)
        nodes = _nodes(n, local)
        for sends in self._all(kind, n, local, nodes):
            yield [send for send in sends if sources is None or send.source in sources]

    def _all(self, kind: str, n: int, local: int, nodes: int) -> Iterator[list[Send]]:
        ranks = [(node, place) for node in range(nodes) for place in range(local)]

        def rail(place: int) -> tuple[int, ...]:
            return tuple(place + local * node for node in range(nodes))

        def inside(node: int, place: int) -> int:
            return node * local + place % local

        def across(node: int, place: int) -> int:
            return node % nodes * local + place

        reduces = kind in ("all_reduce", "reduce_scatter")
        if reduces:
            for step in range(local - 1):
                yield [Send(inside(k, j), inside(k, j + 1), rail((j - step - 1) % local), True) for k, j in ranks]
            for step in range(nodes - 1):
                yield [
                    Send(across(k, j), across(k + 1, j), (j + local * ((k - step - 1) % nodes),), True, 1)
                    for k, j in ranks
                ]
        if kind in ("all_reduce", "all_gather"):
            for step in range(nodes - 1):
                yield [
                    Send(across(k, j), across(k + 1, j), (j + local * ((k - step) % nodes),), False, 1)
                    for k, j in ranks
                ]
            for step in range(local - 1):
                yield [Send(inside(k, j), inside(k, j + 1), rail((j - step) % local)) for k, j in ranks]

    def link_bytes(self, kind: str, n: int, size: float, local: int = 1, **options: Any) -> tuple[float, ...]:
        """Of a port inside, and of an adapter."""
        nodes, phases = _nodes(n, local), 2 if kind == "all_reduce" else 1
        return phases * (local - 1) / local * size, phases * (nodes - 1) / nodes * size / local

    def time(
        self,
        kind: str,
        n: ArrayLike,
        size: ArrayLike,
        bandwidth: ArrayLike,
        latency: ArrayLike,
        base: ArrayLike = 0.0,
        local: int = 1,
        outer_bandwidth: ArrayLike | None = None,
        outer_latency: ArrayLike | None = None,
        **options: Any,
    ) -> Any:
        """Sum of a ring inside and a ring of ``n / local`` across with ``size / local``."""
        self.require(kind)
        formula = {
            "all_reduce": all_reduce_time,
            "all_gather": all_gather_time,
            "reduce_scatter": reduce_scatter_time,
        }[kind]
        ranks, whole = floats(n, size)
        rate = bandwidth if outer_bandwidth is None else outer_bandwidth
        hop = latency if outer_latency is None else outer_latency
        within = formula(local, whole, bandwidth, latency)
        return settle(within + formula(ranks / local, whole / local, rate, hop), ranks, base)


@register
class HierarchicalAllToAll(Algorithm):
    """All-to-all in two steps: inside the node to the rank of the right rail, then along the rail."""

    name = "hierarchical_all_to_all"
    kinds = ("all_to_all",)

    def rounds(
        self, kind: str, n: int, root: int = 0, sources: Sequence[int] | None = None, local: int = 1, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        self.require(kind)
        nodes = _nodes(n, local)
        ranks = [(node, place) for node in range(nodes) for place in range(local)]

        def wanted(send: Send) -> bool:
            return sources is None or send.source in sources

        for distance in range(1, local):
            sends = []
            for k, j in ranks:
                peer = (j + distance) % local
                blocks = tuple((k * local + j) * n + node * local + peer for node in range(nodes))
                sends.append(Send(k * local + j, k * local + peer, blocks))
            yield list(filter(wanted, sends))
        for distance in range(1, nodes):
            sends = []
            for k, j in ranks:
                peer = (k + distance) % nodes
                blocks = tuple((k * local + place) * n + peer * local + j for place in range(local))
                sends.append(Send(k * local + j, peer * local + j, blocks, False, 1))
            yield list(filter(wanted, sends))

    def link_bytes(self, kind: str, n: int, size: float, local: int = 1, **options: Any) -> tuple[float, ...]:
        """Of a port inside, and of an adapter."""
        nodes = _nodes(n, local)
        return (local - 1) / local * size, (nodes - 1) / nodes * size

    def time(
        self,
        kind: str,
        n: ArrayLike,
        size: ArrayLike,
        bandwidth: ArrayLike,
        latency: ArrayLike,
        base: ArrayLike = 0.0,
        local: int = 1,
        outer_bandwidth: ArrayLike | None = None,
        outer_latency: ArrayLike | None = None,
        **options: Any,
    ) -> Any:
        """``(l - 1) (latency + size / l / bandwidth) + (m - 1) (outer latency + size / m / outer bandwidth)``."""
        self.require(kind)
        ranks, whole, rate, hop = floats(n, size, bandwidth, latency)
        outer_rate, outer_hop = floats(
            bandwidth if outer_bandwidth is None else outer_bandwidth,
            latency if outer_latency is None else outer_latency,
        )
        nodes = ranks / local
        within = (local - 1) * (hop + whole / local / rate)
        return settle(within + (nodes - 1) * (outer_hop + whole / nodes / outer_rate), ranks, base)
