"""Two levels: inside the nodes first, across them per rail, and inside again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...hardware.errors import InputError
from . import register
from .schedule import PHASES, Algorithm, Send


def _nodes(n: int, local: int) -> int:
    if local < 1 or n % local:
        raise InputError(f"hierarchical: {n} ranks in nodes of {local} (legal: a number of ranks the nodes divide)")
    return n // local


def _outer(
    rate: Any, hop: Any, outer_bandwidth: Any = None, outer_latency: Any = None, **options: Any
) -> tuple[Any, Any]:
    """Rate and hop between the nodes; those inside where nothing else is said."""
    return rate if outer_bandwidth is None else outer_bandwidth, hop if outer_latency is None else outer_latency


@register
class Hierarchical(Algorithm):
    """Ring reduce-scatter inside, ring all-reduce across with 1 / local of the data, ring all-gather inside.

    Its times take `outer_bandwidth` and `outer_latency` of the adapters beside those inside; both
    default to the inner ones.
    """

    name = "hierarchical"
    kinds = ("all_reduce", "all_gather", "reduce_scatter")

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, local: int = 1, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round; block ``j + local k`` of the data ends with rank j of node k."""
        nodes = _nodes(n, local)
        places = [(node, place) for node in range(nodes) for place in range(local)]

        def rail(place: int) -> tuple[int, ...]:
            return tuple(place + local * node for node in range(nodes))

        def inside(node: int, place: int) -> int:
            return node * local + place % local

        def across(node: int, place: int) -> int:
            return node % nodes * local + place

        reduces = kind in ("all_reduce", "reduce_scatter")
        if reduces:
            for step in range(local - 1):
                yield [Send(inside(k, j), inside(k, j + 1), rail((j - step - 1) % local), True) for k, j in places]
            for step in range(nodes - 1):
                yield [
                    Send(across(k, j), across(k + 1, j), (j + local * ((k - step - 1) % nodes),), True, 1)
                    for k, j in places
                ]
        if kind in ("all_reduce", "all_gather"):
            for step in range(nodes - 1):
                yield [
                    Send(across(k, j), across(k + 1, j), (j + local * ((k - step) % nodes),), False, 1)
                    for k, j in places
                ]
            for step in range(local - 1):
                yield [Send(inside(k, j), inside(k, j + 1), rail((j - step) % local)) for k, j in places]

    def link_bytes(self, kind: str, n: int, size: float, local: int = 1, **options: Any) -> tuple[float, ...]:
        """Of a port inside, and of an adapter."""
        nodes, phases = _nodes(n, local), 2 if kind == "all_reduce" else 1
        return phases * (local - 1) / local * size, phases * (nodes - 1) / nodes * size / local

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, local: int = 1, **options: Any) -> Any:
        """Sum of a ring inside and a ring of ``n / local`` across with ``size / local``."""
        outer_rate, outer_hop = _outer(rate, hop, **options)
        within = (local - 1) * (hop + size / local / rate)
        across = (n / local - 1) * (outer_hop + size / n / outer_rate)
        return PHASES[kind] * (within + across)


@register
class HierarchicalAllToAll(Algorithm):
    """All-to-all in two steps: inside the node to the rank of the right rail, then along the rail."""

    name = "hierarchical_all_to_all"
    kinds = ("all_to_all",)

    def plan(
        self, kind: str, n: int, ranks: Sequence[int], root: int, local: int = 1, **options: Any
    ) -> Iterator[list[Send]]:
        """Yield the sends of each round."""
        nodes = _nodes(n, local)
        places = [(node, place) for node in range(nodes) for place in range(local)]
        for distance in range(1, local):
            sends = []
            for k, j in places:
                peer = (j + distance) % local
                blocks = tuple((k * local + j) * n + node * local + peer for node in range(nodes))
                sends.append(Send(k * local + j, k * local + peer, blocks))
            yield sends
        for distance in range(1, nodes):
            sends = []
            for k, j in places:
                peer = (k + distance) % nodes
                blocks = tuple((k * local + place) * n + peer * local + j for place in range(local))
                sends.append(Send(k * local + j, peer * local + j, blocks, False, 1))
            yield sends

    def link_bytes(self, kind: str, n: int, size: float, local: int = 1, **options: Any) -> tuple[float, ...]:
        """Of a port inside, and of an adapter."""
        nodes = _nodes(n, local)
        return (local - 1) / local * size, (nodes - 1) / nodes * size

    def cost(self, kind: str, n: Any, size: Any, rate: Any, hop: Any, local: int = 1, **options: Any) -> Any:
        """``(l - 1) (hop + size / l / rate) + (m - 1) (outer hop + size / m / outer rate)``, m nodes of l ranks."""
        outer_rate, outer_hop = _outer(rate, hop, **options)
        nodes = n / local
        return (local - 1) * (hop + size / local / rate) + (nodes - 1) * (outer_hop + size / nodes / outer_rate)
