"""What the messages of a collective load: by hand, or over the paths of a fabric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..program import Program

if TYPE_CHECKING:
    from ...hardware.topology import Topology

Route = Sequence[str] | Mapping[str, float]
Routes = Callable[[int, int, int], tuple[Route, float]]
"""``routes(source, target, channel)``: what a message loads, and the latency of its way [s]."""


def network_resources(program: Program, topology: Topology) -> tuple[str, ...]:
    """Register the resources of a fabric; their names by number."""
    names = topology.resource_names
    for name, capacity in zip(names, topology.capacity, strict=True):
        program.resource(name, float(capacity))
    return names


class TopologyRoutes:
    """Routes over a fabric whose resources a program gets.

    Parameters
    ----------
    program : Program
    topology : Topology
    ranks : sequence of int, optional
        Device of each member; default the first devices in order.
    switch : str, optional
        Name of the switch that takes part, joined to every member.
    """

    def __init__(
        self, program: Program, topology: Topology, ranks: Sequence[int] | None = None, switch: str | None = None
    ) -> None:
        self.topology = topology
        self.names = network_resources(program, topology)
        self.switch = switch
        self.ranks = None if ranks is None else np.asarray(ranks, np.int64)
        self._known: dict[tuple[int, int, int], tuple[Route, float]] = {}

    def __call__(self, source: int, target: int, channel: int) -> tuple[Route, float]:
        """What a message loads, and the latency of its way [s]."""
        key = (source, target, channel)
        if key not in self._known and self._is_switch(source, target):
            here = self._vertex(source), self._vertex(target)
            link = self.topology.link(*here)
            self._known[key] = (self.names[int(self.topology.resource[link])],), float(self.topology.latency[link])
        if key not in self._known:
            path = self._paths(np.array([source]), np.array([target]), channel)
            names = tuple(self.names[int(r)] for r in self.topology.resources(path)[0] if r >= 0)
            self._known[key] = names, float(self.topology.path_latency(path)[0])
        return self._known[key]

    def _is_switch(self, source: int, target: int) -> bool:
        members = self.topology.ranks if self.ranks is None else len(self.ranks)
        return self.switch is not None and members in (source, target)

    def _vertex(self, rank: int) -> str:
        """Name of a member's vertex, or of the switch."""
        members = range(self.topology.ranks) if self.ranks is None else self.ranks
        if rank == len(members):
            assert self.switch is not None
            return self.switch
        return self.topology.vertices[int(members[rank])]

    def loads(self, distance: int, channel: int, n: int) -> dict[str, float]:
        """How many of the messages from every rank to the one `distance` further load each resource."""
        every = np.arange(n)
        load = self.topology.loads(self._paths(every, (every + distance) % n, channel))
        return {self.names[int(r)]: float(load[r]) for r in np.flatnonzero(load)}

    def _paths(self, source: np.ndarray, target: np.ndarray, channel: int) -> np.ndarray:
        if self.ranks is not None:
            source, target = self.ranks[source], self.ranks[target]
        return self.topology.paths(source, target, channel)


def demand_of(route: Route, amount: float) -> dict[str, float]:
    """What a message of some bytes puts on the resources of its way."""
    if isinstance(route, Mapping):
        return {key: amount * share for key, share in route.items()}
    return dict.fromkeys(route, amount)
