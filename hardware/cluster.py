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
        Inside a node: "switch" (all to all through one switch), "mesh" (each pair by a link of its own,
        which divide the device's bandwidth), "ring" (neighbours only) or "pcie" (devices behind
        switches, those joined by the host).
    link : Link
        Inside a node.
    nic : Link or None
        One network adapter per device; None where nodes are not joined.
    switch_reduction : SwitchReduction or None
        Reduction inside the node's switch.
    devices_per_switch : int or None
        Of a PCIe host; None for half of the devices.
    uplink : float or None
        Bandwidth from a PCIe switch to the host [B/s]; None for that of `link`.
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
    devices_per_switch: int | None = None
    uplink: float | None = None
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

    def share(self, ranks: int, everyone: bool = False) -> float:
        """Part of `link.bandwidth` each of the first `ranks` of a node can send with at once.

        Parameters
        ----------
        ranks : int
        everyone : bool
            Whether each sends to all others in equal parts; else to its next in a ring. In a mesh a
            ring is as many rings as it takes to use every pair's link.

        Returns
        -------
        float
            At most 1; less where links are half duplex, or shared on the way.
        """
        if ranks < 2 or not self.p2p or (self.fabric == "switch" and self.link.duplex == "full"):
            return 1.0
        import networkx

        graph = self._graph([0])
        pairs = self.ring(range(ranks))
        if everyone or self.fabric == "mesh":
            pairs = [(a, b) for a in range(ranks) for b in range(ranks) if a != b]
        load: dict[str, float] = {}
        bandwidth: dict[str, float] = {}
        for source, target in pairs:
            path = networkx.shortest_path(graph, f"gpu{source}", f"gpu{target}")
            for edge in (graph.edges[hop] for hop in itertools.pairwise(path)):
                load[edge["resource"]] = load.get(edge["resource"], 0.0) + ranks / len(pairs)
                bandwidth[edge["resource"]] = edge["bandwidth"]
        return min(1.0, *(bandwidth[key] / load[key] / self.link.bandwidth for key in load))

    def ring(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """(sender, receiver) pairs of a ring through the ranks in the given order."""
        if len(ranks) < 2:
            return []
        return [(rank, ranks[(i + 1) % len(ranks)]) for i, rank in enumerate(ranks)]


def _join(
    graph: networkx.DiGraph[str], a: str, b: str, link: Link, share: float = 1.0, bandwidth: float | None = None
) -> None:
    """Both directions of a link; `share` is the part of a hop's latency this edge has."""
    for source, target in ((a, b), (b, a)):
        pair = "-".join(sorted((a, b))) if link.duplex == "half" else f"{source}-{target}"
        graph.add_edge(
            source,
            target,
            bandwidth=link.bandwidth if bandwidth is None else bandwidth,
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


def _mesh(cluster: Cluster, graph: networkx.DiGraph[str], node: int, ranks: list[int]) -> None:
    part = cluster.link.bandwidth / max(len(ranks) - 1, 1)
    for a, b in itertools.combinations(ranks, 2):
        _join(graph, f"gpu{a}", f"gpu{b}", cluster.link, bandwidth=part)


def _pcie(cluster: Cluster, graph: networkx.DiGraph[str], node: int, ranks: list[int]) -> None:
    behind = cluster.devices_per_switch or -(-len(ranks) // 2)
    bridges = -(-len(ranks) // behind)
    for index, rank in enumerate(ranks):
        bridge = f"switch{node}.{index // behind}"
        graph.add_node(bridge, kind="switch", node=node)
        _join(graph, f"gpu{rank}", bridge, cluster.link, share=0.5)
    if bridges > 1:
        graph.add_node(f"host{node}", kind="switch", node=node)
        for number in range(bridges):
            _join(graph, f"switch{node}.{number}", f"host{node}", cluster.link, 0.25, cluster.uplink)


_FABRICS = {"switch": _switch, "mesh": _mesh, "ring": _ring, "pcie": _pcie}
