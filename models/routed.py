"""A context-parallel group with every rank and every link of its own: messages contend where their ways meet.

What one rank stands for elsewhere is played here for all of them, on the resources of the cluster's fabric:
directed links, the two directions of a half-duplex one, bridges that several devices share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..hardware.errors import InputError
from ..simulator import Program
from ..simulator.algorithms.routes import TopologyRoutes
from .attention import beside
from .blocks import Attend
from .build import Builder, Handle
from .dispatch import all_to_all
from .groups import Group, Groups, communicator
from .kernels import Kernel, Kernels

if TYPE_CHECKING:
    from ..hardware import Cluster


class Routed(Builder):
    """Program of one context-parallel group, unfolded, in a node.

    Parameters
    ----------
    name : str
    cluster : Cluster
        Its first devices are the ranks.
    kernels : Kernels
    groups : Groups
        Of a plan that divides nothing but sequences.

    Raises
    ------
    InputError
        When the group does not fit in one node.
    """

    def __init__(self, name: str, cluster: Cluster, kernels: Kernels, groups: Groups):
        count = int(groups.cp.size)
        if count > cluster.devices_per_node:
            raise InputError(
                f"plan.cp: {count} ranks unfolded, {cluster.name} has {cluster.devices_per_node} devices in a node "
                f"(legal: up to {cluster.devices_per_node}, or fold: true)"
            )
        self.program = Program(name)
        self.cluster, self.kernels, self.device, self.tp = cluster, kernels, cluster.device, 1
        self.groups, self.tensor, self.ranks = groups, groups.cp, range(count)
        self.start: Handle = ()
        self.scheme: Callable[[Attend, Builder, Handle], Handle] = beside
        self.reach = all_to_all
        self._last: Handle = ()
        for rank in self.ranks:
            self.program.resource(f"sm[{rank}]", 1.0)
            self.program.resource(f"hbm[{rank}]", self.device.memory_bandwidth)
            self.program.resource(f"link[{rank}]", cluster.link.bandwidth)
        self.routes = TopologyRoutes(self.program, cluster.node_topology())

    def each(self, work: Sequence[Sequence[Kernel]], after: Handle, group: Group | None = None) -> Handle:
        """Every rank its own kernels, one after the other."""
        ends = []
        for rank in self.ranks:
            last = self.own(rank, after)
            for kernel in work[self._place(rank, group or self.context)]:
                last = (self.kernel(kernel, rank, last),)
            ends.append(last[0] if last else self._nothing(rank, last))
        self._last = tuple(ends)
        return self._last

    def shift(
        self,
        size: float | Sequence[float],
        after: Handle,
        stream: str = "cp",
        distance: int = 1,
        group: Group | None = None,
    ) -> Handle:
        """Messages from every rank to the one `distance` further round, each over the links of its way.

        A message moves when its sender and its receiver have both come to it, and a rank goes on when it has sent
        and received (grouped send and receive of NCCL).
        """
        group = group or self.context
        ends: list[list[int]] = [[] for _ in self.ranks]
        for rank in self.ranks:
            place = self._place(rank, group)
            target = rank + ((place + distance) % int(group.size) - place) * int(group.stride)
            amount = size[place] if isinstance(size, Sequence) else size
            if amount and target != rank:
                ready = self.every(self.own(rank, after), self.own(target, after))
                sent = self._message(rank, target, amount, ready, stream)
                ends[rank].append(sent)
                ends[target].append(sent)
        return tuple(self._nothing(rank, tuple(mine) or self.own(rank, after)) for rank, mine in enumerate(ends))

    @staticmethod
    def _place(rank: int, group: Group) -> int:
        """Where a rank is in its group of that kind."""
        return rank // int(group.stride) % int(group.size)

    def _message(self, source: int, target: int, amount: float, after: tuple[int, ...], stream: str) -> int:
        cost = communicator(self.cluster, 2, 1).shift(amount)
        route, latency = self.routes(source, target, 0)
        protocol = self.cluster.link.profile.bulk
        # Where a way is narrower than the device's link, as between two devices of a mesh, its payload rate is too.
        narrowest = min(self.program.resources[name].capacity for name in route)
        alone = amount / (min(self.cluster.link.bandwidth, narrowest) * protocol.efficiency)
        share = min(1.0, cost.channels / self.device.compute_units)
        demand: dict[str, float] = {name: amount for name in route}
        for rank in (source, target):
            demand[f"sm[{rank}]"] = alone * share / 2  # one kernel on each of them sends and receives
            demand[f"hbm[{rank}]"] = amount
        return self.program.add(
            "send_recv",
            kind="communication",
            rank=source,
            stream=stream,
            after=after,
            duration=alone,
            latency=protocol.base + latency + self.kernels.software.collective_overhead,
            demand=demand,
            communication="send_recv",
            communication_bytes=amount,
            memory_bytes=2 * amount,
        )

    def _nothing(self, rank: int, after: tuple[int, ...]) -> int:
        """A task that takes no time: where a rank's own tasks of one handle meet."""
        return self.program.add("join", kind="sync", rank=rank, stream="sync", after=after, duration=0.0)
