"""What each algorithm of a communication library costs among given ranks of a cluster.

The protocols' numbers come from the link's profile (`hardware.profile`), the closed forms of rings from
`algorithms`, what several ranks leave of a shared bandwidth from the cluster and its network. All times
take one size or an array of sizes.

Among nodes a ring runs through all ranks, with as many rails as a node has adapters. A tree, or the
switches of the nodes with a tree between them, crosses the network once per node instead of once per
rank; its two levels are taken one after the other, as published runs over two and four nodes have it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import log2
from typing import TYPE_CHECKING, Any

import numpy as np

from .algorithms import algorithm

if TYPE_CHECKING:
    from ..hardware import Cluster, Protocol
    from ..hardware.topology import Topology

BULK, LOW = "bulk", "low latency"


class FabricCosts:
    """Times of algorithms and protocols among ranks 0, stride, 2 stride, ... of a cluster, filled node by node.

    The groups that start at the ranks between, `stride` in all, do the same at the same time, each rank with an
    adapter of its own. What they leave one another of a described network is that of all their ranks going round
    node by node, or, in an exchange, each to all adapters of the other nodes and not to its group's alone.

    Parameters
    ----------
    cluster : Cluster
    size : int
        Ranks in the group.
    stride : int
        From one rank of the group to the next.

    Attributes
    ----------
    local, nodes : int
        Ranks in the node that has most of them, and nodes with any.
    """

    def __init__(self, cluster: Cluster, size: int, stride: int = 1):
        self.cluster, self.size, self.stride = cluster, size, stride
        # No node has more than the first, which starts with one of the ranks.
        self.local = min(size, -(-cluster.devices_per_node // stride))
        self.nodes = min(size, (size - 1) * stride // cluster.devices_per_node + 1)
        self._shares = {everyone: cluster.share(self.local, everyone, stride) for everyone in (False, True)}
        self._networks: dict[bool, tuple[float, float]] = {}
        self._shifts: dict[int, float] = {}

    def ring_bandwidth(self, protocol: str = BULK) -> float:
        """Payload bandwidth of a ring through the group, per rank and direction [B/s]."""
        bandwidth = self.rate(self.inside(protocol))
        if self.nodes > 1 and self.cluster.nic is not None:
            rails = self.local if protocol == BULK else 1  # small messages use one channel
            bandwidth = min(bandwidth, rails * self.adapter_rate(self.across(protocol)))
        return bandwidth

    def hop_latency(self, protocol: str = BULK) -> float:
        """Mean latency of one ring hop [s]: `nodes` of the ring's `size` hops cross the network."""
        inside = self.inside(protocol).hop
        if self.nodes == 1 or self.cluster.nic is None:
            return inside
        return inside + (self.across(protocol).hop - inside) * self.nodes / self.size

    @cached_property
    def _topology(self) -> Topology:
        return self.cluster.network_topology()

    def _network(self, everyone: bool) -> tuple[float, float]:
        """Part of the adapters' bandwidth the network has room for, and what its ways take [s]."""
        if everyone not in self._networks:
            self._networks[everyone] = self._asked(everyone)
        return self._networks[everyone]

    def _asked(self, everyone: bool) -> tuple[float, float]:
        cluster = self.cluster
        if cluster.network is None or cluster.nic is None or self.nodes == 1:
            return 1.0, 0.0
        from .network import mean_latency, share

        queue_pairs, seed = cluster.network.get("queue_pairs"), cluster.network.get("seed", 0)
        topology, local = self._topology, cluster.devices_per_node
        members = min(self.size * self.stride, cluster.size)
        return (
            share(topology, cluster.nic.bandwidth, local, members, everyone, queue_pairs, seed),
            mean_latency(topology, local, members, everyone),
        )

    def adapter_rate(self, protocol: Protocol, everyone: bool = False) -> float:
        """Payload rate of an adapter [B/s]."""
        assert self.cluster.nic is not None
        return self.cluster.nic.bandwidth * protocol.efficiency * self._network(everyone)[0]

    def rate(self, inside: Protocol, everyone: bool = False) -> float:
        """Payload rate of a rank inside its node [B/s]."""
        return self.cluster.link.bandwidth * inside.efficiency * self._shares[everyone]

    def inside(self, protocol: str) -> Protocol:
        """Protocol of rings inside a node."""
        profile = self.cluster.link.profile
        return profile.bulk if protocol == BULK else profile.low

    def across(self, protocol: str) -> Protocol:
        """Protocol of rings between nodes, the network's distance in its hop."""
        assert self.cluster.nic is not None
        profile = self.cluster.nic.profile
        found = profile.bulk if protocol == BULK else profile.low
        return replace(found, hop=found.hop + self._network(False)[1])

    def ring(self, kind: str, size: Any, protocol: str) -> Any:
        """One ring through all ranks; a broadcast or reduce streams through it."""
        n, chunk = self.size, size / self.size
        inside, bandwidth = self.inside(protocol), self.ring_bandwidth(protocol)
        base = inside.base + inside.copy * chunk / self.rate(inside)
        if self.cluster.link.final_pass and kind not in ("all_gather", "broadcast"):
            device = self.cluster.device
            base = base + 3 * chunk / (device.memory_bandwidth * device.memory_efficiency)
        if kind in ("broadcast", "reduce"):  # the whole buffer streams through all ranks
            return base + (n - 1) * self.hop_latency(protocol) + size / bandwidth
        return algorithm("ring").time(kind, n, size, bandwidth, self.hop_latency(protocol), base)

    def tree(self, size: Any) -> Any:
        """Chains inside the nodes, then a double binary tree between them."""
        inside, across = self.inside(BULK), self.across(BULK)
        levels = log2(self.nodes)
        latency = 2 * ((self.local - 1) * inside.hop + levels * across.hop)
        within = 2 * size * (self.local - 1) / self.local / self.rate(inside)
        return inside.base + latency + within + self._between(size)

    def _between(self, size: Any) -> Any:
        """Time of an all-reduce's bytes on the adapters when every node is one member."""
        share = 2 * (self.nodes - 1) / self.nodes * size / self.local
        return share / self.adapter_rate(self.across(BULK))

    def switch_reduces(self) -> bool:
        """Whether the switch inside the nodes adds for a group of this size."""
        switch = self.cluster.switch_reduction
        if switch is None:
            return False
        return self.local >= (switch.min_ranks if self.cluster.p2p else switch.min_ranks_without_p2p)

    def in_switch(self, size: Any) -> Any:
        """Reduction in the switch of every node, parts exchanged over the adapters between nodes."""
        cluster, switch = self.cluster, self.cluster.switch_reduction
        assert switch is not None
        time = size / (switch.bandwidth * switch.efficiency)
        base = switch.base
        if not cluster.p2p and cluster.nic is not None:
            # Peers hand over to one another through the NIC.
            base += (self.local - 1) * self.across(BULK).hop
        if self.nodes > 1:
            base += 2 * log2(self.nodes) * self.across(BULK).hop
            time = time + self._between(size)
        return base + time

    def exchange(self, kind: str, size: Any, protocol: str) -> Any:
        """All peers at once: `size` bytes leave a rank, less its own part."""
        if kind == "send_recv":
            # One message has one way, where a ring's may be spread over several.
            rate = self.rate(self.exchanging(protocol)[0])
            pair = min(self._shares[False], self.cluster.share(2, stride=self.stride)) / self._shares[False]
            return self._message(size, protocol, rate * pair)
        chunk = size / self.size
        return self.messages((self.local - 1) * chunk, (self.size - self.local) * chunk, protocol, chunk)

    def messages(self, within: Any, beyond: Any, protocol: str, own: Any = 0.0) -> Any:
        """Messages to all peers: bytes to those of the node, to those beyond it, and a part that stays [B]."""
        inside, across = self.exchanging(protocol)
        time = (within + inside.copy * own) / self.rate(inside, everyone=True)
        base = inside.base + (self.local - 1) * inside.hop
        if across is not None and self.cluster.nic is not None:
            # Every rank has an adapter of its own, busy beside the links.
            time = np.maximum(time, beyond / self.adapter_rate(across, everyone=True))
            base = max(base, across.base + (self.size - self.local) * across.hop)
        return base + time

    def shifted(self, size: Any, protocol: str, distance: int) -> Any:
        """Every rank sends `size` bytes to the one `distance` further round, all at once."""
        rate = self.cluster.link.bandwidth * self.inside(protocol).efficiency  # as between neighbours of a ring
        return self._message(size, protocol, rate * self.shift_share(distance))

    def shift_share(self, distance: int) -> float:
        """Part of the link's bandwidth each rank of a node has while all send to the one `distance` further round."""
        cluster, n = self.cluster, self.local
        if self.nodes > 1 or not cluster.p2p or (cluster.fabric == "switch" and cluster.link.duplex == "full"):
            return 1.0
        if distance not in self._shifts:
            inside, ranks = cluster.node_topology(), np.arange(n)
            # Groups that start at the ranks between send at the same time; the last of them may have fewer here.
            begin, end = (
                (a[:, None] * self.stride + np.arange(self.stride)).ravel() for a in (ranks, (ranks + distance) % n)
            )
            here = (begin < inside.ranks) & (end < inside.ranks)
            paths = inside.paths(begin[here], end[here])
            worst = float((inside.loads(paths) * cluster.link.bandwidth / inside.capacity).max(initial=1.0))
            self._shifts[distance] = 1.0 / worst
        return self._shifts[distance]

    def _message(self, size: Any, protocol: str, rate: float) -> Any:
        """One message of every rank, inside the node at a rate, or between nodes at the adapters'."""
        inside, across = self.exchanging(protocol)
        if across is not None and self.cluster.nic is not None:
            return across.base + across.hop + size / self.adapter_rate(across)
        return inside.base + inside.hop + size / rate

    def exchanging(self, protocol: str) -> tuple[Protocol, Protocol | None]:
        """Protocols of an exchange inside and, where there are several nodes, between nodes."""
        profiles = [self.cluster.link.profile]
        if self.nodes > 1 and self.cluster.nic is not None:
            profiles.append(self.cluster.nic.profile)
        found = [profile.exchange_bulk if protocol == BULK else profile.exchange_low for profile in profiles]
        return found[0], replace(found[1], base=found[1].base + self._network(True)[1]) if len(found) > 1 else None
