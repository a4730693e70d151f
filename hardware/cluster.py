"""A cluster: nodes of one kind of device, joined by links, switches and network adapters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .device import Device
from .errors import InputError
from .link import Link, SwitchReduction

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices and what joins them.

    Parameters
    ----------
    name : str
    device : Device
    devices_per_node, nodes : int
    fabric : str
        Inside a node: "switch" (all to all through one switch), "ring" (neighbours only) or "pcie"
        (two host bridges, four or so devices each, joined by the socket link).
    link : Link
        Inside a node.
    nic : Link or None
        One network adapter per device; None where nodes are not joined.
    switch_reduction : SwitchReduction or None
        Reduction inside the node's switch.
    p2p : bool
        Whether devices of a node reach each other directly; without, whatever the fabric, traffic
        takes the adapters (NCCL_P2P_DISABLE with GPUDirect RDMA) and `link` describes those.
    sources : Mapping
    """

    name: str
    device: Device
    devices_per_node: int
    nodes: int
    fabric: str
    link: Link
    nic: Link | None = None
    switch_reduction: SwitchReduction | None = None
    p2p: bool = True
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.devices_per_node * self.nodes

    def replace(self, **changes: Any) -> Cluster:
        """Copy with fields changed."""
        return replace(self, **changes)

    def graph(self) -> networkx.DiGraph[str]:
        """Directed graph of devices ("gpu0"), switches, adapters and the network ("spine").

        Edges carry `bandwidth` [B/s], `latency` [s] and `resource`, the name of what they share: the
        two directions of a half-duplex link have one.
        """
        return self._graph(range(self.nodes))

    def _graph(self, nodes: Iterable[int]) -> networkx.DiGraph[str]:
        """Part of the graph that belongs to some nodes."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        for node in nodes:
            first = node * self.devices_per_node
            ranks = range(first, first + self.devices_per_node)
            for rank in ranks:
                graph.add_node(f"gpu{rank}", kind="device", node=node, rank=rank)
            if self.p2p:
                _FABRICS[self.fabric](self, graph, node, list(ranks))
            if self.nic is not None and (self.nodes > 1 or not self.p2p):
                for rank in ranks:
                    graph.add_node(f"nic{rank}", kind="nic", node=node)
                    _join(graph, f"gpu{rank}", f"nic{rank}", self.nic, share=0.5)
                    _join(graph, f"nic{rank}", "spine", self.nic, share=0.5)
        return graph

    def route(self, source: int, target: int) -> list[dict[str, Any]]:
        """Edge attributes on a shortest path between two ranks; empty from a rank to itself.

        Raises
        ------
        InputError
            When a rank does not exist.
        """
        import networkx

        for rank in (source, target):
            if not 0 <= rank < self.size:
                raise InputError(f"{self.name}: rank {rank} does not exist (legal: 0 to {self.size - 1})")
        # A path never enters a third node, so thousands of nodes cost what two do.
        graph = self._graph(sorted({source // self.devices_per_node, target // self.devices_per_node}))
        path = networkx.shortest_path(graph, f"gpu{source}", f"gpu{target}")
        return [dict(graph.edges[a, b], source=a, target=b) for a, b in itertools.pairwise(path)]

    def ring(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """(sender, receiver) pairs of a ring through the ranks in the given order."""
        if len(ranks) < 2:
            return []
        return [(rank, ranks[(i + 1) % len(ranks)]) for i, rank in enumerate(ranks)]


def _join(graph: networkx.DiGraph[str], a: str, b: str, link: Link, share: float = 1.0) -> None:
    """Both directions of a link; `share` is the part of a hop's latency this edge has."""
    for source, target in ((a, b), (b, a)):
        pair = "-".join(sorted((a, b))) if link.duplex == "half" else f"{source}-{target}"
        graph.add_edge(
            source,
            target,
            bandwidth=link.bandwidth,
            latency=share * link.latency,
            resource=f"{link.name}:{pair}",
        )


def _switch(cluster: Cluster, graph: networkx.DiGraph[str], node: int, ranks: list[int]) -> None:
    graph.add_node(f"switch{node}", kind="switch", node=node)
    for rank in ranks:
        _join(graph, f"gpu{rank}", f"switch{node}", cluster.link, share=0.5)


def _ring(cluster: Cluster, graph: networkx.DiGraph[str], node: int, ranks: list[int]) -> None:
    for source, target in cluster.ring(ranks):
        if not graph.has_edge(f"gpu{source}", f"gpu{target}"):
            _join(graph, f"gpu{source}", f"gpu{target}", cluster.link)


def _pcie(cluster: Cluster, graph: networkx.DiGraph[str], node: int, ranks: list[int]) -> None:
    half = -(-len(ranks) // 2)
    for index, rank in enumerate(ranks):
        bridge = f"switch{node}.{index // half}"
        graph.add_node(bridge, kind="switch", node=node)
        _join(graph, f"gpu{rank}", bridge, cluster.link, share=0.5)
    if len(ranks) > half:
        _join(graph, f"switch{node}.0", f"switch{node}.1", cluster.link, share=0.5)


_FABRICS = {"switch": _switch, "ring": _ring, "pcie": _pcie}
