"""A cluster: nodes of one kind of device, joined by links, switches and network adapters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .device import Device
from .errors import InputError
from .link import Link, SwitchReduction

if TYPE_CHECKING:
    import networkx

    from .topology import Topology


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
        switches, those joined by the host); or "described", where `node` says.
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
    node : Mapping or None
        A node's fabric as a kind of `hardware.fabrics` and its options, such as what a machine printed.
    network : Mapping or None
        The same of the network between all adapters; None for one switch that never blocks.
    pin : Mapping
        Algorithm of each kind of collective that is not left to the library.
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
    node: Mapping[str, Any] | None = field(default=None, hash=False)
    network: Mapping[str, Any] | None = field(default=None, hash=False)
    pin: Mapping[str, str] = field(default_factory=dict, hash=False)
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
                _FABRICS[self.fabric if self.node is None else "switch"](self, graph, node, list(ranks))
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
        if ranks < 2 or not self.p2p or (self.node is None and self.fabric == "switch" and self.link.duplex == "full"):
            return 1.0
        pairs = self.ring(range(ranks))
        if everyone or self.fabric == "mesh":
            pairs = [(a, b) for a in range(ranks) for b in range(ranks) if a != b]
        load: dict[str, float] = {}
        bandwidth: dict[str, float] = {}
        for path in self._ways(pairs):
            for edge in path:
                load[edge["resource"]] = load.get(edge["resource"], 0.0) + ranks / len(pairs)
                bandwidth[edge["resource"]] = edge["bandwidth"]
        return min(1.0, *(bandwidth[key] / load[key] / self.link.bandwidth for key in load))

    def _ways(self, pairs: Sequence[tuple[int, int]]) -> Iterator[list[dict[str, Any]]]:
        """Edges between pairs of devices of one node."""
        if self.node is None:
            import networkx

            graph = self._graph([0])
            for source, target in pairs:
                path = networkx.shortest_path(graph, f"gpu{source}", f"gpu{target}")
                yield [graph.edges[hop] for hop in itertools.pairwise(path)]
            return
        inside = self.node_topology()
        capacity = inside.capacity
        ends = ([a for a, _ in pairs], [b for _, b in pairs])
        for way in inside.resources(inside.paths(*ends)).tolist():
            yield [{"resource": number, "bandwidth": float(capacity[number])} for number in way if number >= 0]

    def node_topology(self) -> Topology:
        """Fabric inside a node as a `Topology`.

        Raises
        ------
        InputError
            When `node` describes another number of devices.
        """
        from .fabrics import build_topology, full_mesh, pcie_tree, ring, switch

        n, link = self.devices_per_node, self.link
        if self.node is not None:
            options = {key: value for key, value in self.node.items() if key != "kind"}
            found = build_topology(self.node.get("kind", ""), options, f"{self.name}: fabric")
            if found.ranks != n:
                raise InputError(f"{self.name}: fabric: {found.ranks} devices (legal: devices_per_node, {n})")
            return found
        if self.fabric == "mesh":
            return full_mesh(n, link.bandwidth / max(n - 1, 1), link.latency)
        if self.fabric == "ring":
            return ring(n, link.bandwidth, link.latency)
        if self.fabric == "pcie":
            behind = self.devices_per_switch or -(-n // 2)
            return pcie_tree(
                n, link.bandwidth, link.latency / 4, sockets=1, switches=-(-n // behind),
                duplex="half" if link.duplex == "half" else "full", uplink=self.uplink,
            )  # fmt: skip
        return switch(n, link.bandwidth, link.latency / 2)

    def network_topology(self) -> Topology:
        """Network between all adapters, one for each device, as a `Topology`; its ranks are the adapters.

        Raises
        ------
        InputError
            When there is no adapter, or `network` describes another number of them.
        """
        from .fabrics import build_topology, switch

        if self.nic is None:
            raise InputError(f"{self.name}: nic: missing (legal: an adapter, to join nodes)")
        if self.network is None:
            return switch(self.size, self.nic.bandwidth, self.nic.latency / 2)
        options = {key: value for key, value in self.network.items() if key not in ("kind", "queue_pairs", "seed")}
        kind = self.network.get("kind", "")
        # What the cluster knows already needs no saying again.
        for key, value in (("ranks", self.size), ("bandwidth", self.nic.bandwidth), ("latency", 0.0)):
            if key in parameters(kind):
                options.setdefault(key, value)
        found = build_topology(kind, options, f"{self.name}: network")
        if found.ranks != self.size:
            raise InputError(f"{self.name}: network: {found.ranks} adapters (legal: one a device, {self.size})")
        return found

    def topology(self) -> Topology:
        """All nodes and the network between them as one `Topology`, each device with its adapter."""
        from .fabrics import compose

        if self.nodes == 1:
            return self.node_topology()
        return compose([self.node_topology()] * self.nodes, self.network_topology(), nics=self.devices_per_node)

    def ring(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        """(sender, receiver) pairs of a ring through the ranks in the given order."""
        if len(ranks) < 2:
            return []
        return [(rank, ranks[(i + 1) % len(ranks)]) for i, rank in enumerate(ranks)]


def parameters(kind: str) -> set[str]:
    """Options of a kind of fabric; none of an unknown one."""
    from .fabrics.schemas import SCHEMAS

    return set(SCHEMAS[kind].model_fields) if kind in SCHEMAS else set()


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
