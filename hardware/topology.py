"""A network as arrays: vertices, directed links, and what each link loads.

Devices come first among the vertices, so that a rank is its vertex number. A link is one direction; the
two directions of a half-duplex link name one *resource* and share its capacity. Everything that costs
time with the number of messages (routes, latencies) is done for all of them at once; `Topology.graph`
gives the same network as a networkx graph, to read, draw and check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError, nearest
from .routing import reachable

if TYPE_CHECKING:
    import networkx

Integers: TypeAlias = NDArray[np.int64]
Router: TypeAlias = "Callable[[Topology, Integers, Integers, Integers], Integers]"


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Devices, switches and adapters, joined by directed links. Built by `wiring.Wiring`.

    Parameters
    ----------
    name : str
    ranks : int
        Devices; they are the vertices 0 to ranks - 1.
    vertices : tuple of str
        Names: "gpu0", ..., then those of switches and adapters.
    kinds : tuple of str
        Of each vertex: "device", "switch", "nic", "host", ...
    attributes : tuple of mapping
        Of each vertex, what else is known of it: `device` (a device's model), `island`, `rail`, ...
    transit : ndarray of bool, shape (vertices,)
        Whether a vertex passes on what is not meant for it. Devices in a ring or torus do; those that
        hang on a switch do not.
    source, target : ndarray of int, shape (links,)
        Vertices each link leaves and enters.
    bandwidth : ndarray, shape (links,)
        Bytes/s.
    latency : ndarray, shape (links,)
        Seconds.
    resource : ndarray of int, shape (links,)
        Which capacity each link loads.
    cost : ndarray of int, shape (links,)
        What routing counts for each link, 1 or more: 1 makes it count hops.
    port : ndarray of int, shape (links,)
        1 for links that leave a host by a port of an adapter, -1 for those that enter by one, else 0. No
        message that comes in by a port goes straight out by another: adapters are not switches.
    failed : ndarray of bool, shape (links,)
        Links that carry nothing. They keep their numbers, so that loads compare before and after.
    router : callable
        ``router(topology, source, target, flow)`` gives the paths of messages; see `routing`.
    """

    name: str
    ranks: int
    vertices: tuple[str, ...] = field(repr=False)
    kinds: tuple[str, ...] = field(repr=False)
    attributes: tuple[Mapping[str, Any], ...] = field(repr=False)
    transit: NDArray[np.bool_] = field(repr=False)
    source: Integers = field(repr=False)
    target: Integers = field(repr=False)
    bandwidth: NDArray[np.float64] = field(repr=False)
    latency: NDArray[np.float64] = field(repr=False)
    resource: Integers = field(repr=False)
    cost: Integers = field(repr=False)
    port: NDArray[np.int8] = field(repr=False)
    failed: NDArray[np.bool_] = field(repr=False)
    router: Router

    @property
    def links(self) -> int:
        """Directed links, failed ones included."""
        return len(self.source)

    @property
    def capacity(self) -> NDArray[np.float64]:
        """Bytes/s each resource can carry, shape (resources,)."""
        capacity = np.zeros(int(self.resource.max(initial=-1)) + 1)
        capacity[self.resource] = self.bandwidth
        return capacity

    @property
    def resource_names(self) -> tuple[str, ...]:
        """Name of each resource: "gpu0->leaf0", or "gpu0-switch0" where both directions share it."""
        names: dict[int, str] = {}
        for link, number in enumerate(self.resource.tolist()):
            # The second link of a resource is the way back over a half-duplex cable.
            names[number] = names[number].replace("->", "-") if number in names else self.link_name(link)
        seen: dict[str, int] = {}
        for number, name in sorted(names.items()):
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:  # a further cable between the same two
                names[number] = f"{name}#{seen[name]}"
        return tuple(names[number] for number in range(len(names)))

    def link_name(self, link: int) -> str:
        """What a link joins, as "gpu0->leaf0"."""
        return f"{self.vertices[self.source[link]]}->{self.vertices[self.target[link]]}"

    def index(self, name: str) -> int:
        """Vertex of a name.

        Raises
        ------
        InputError
            When there is none.
        """
        try:
            return self.vertices.index(name)
        except ValueError:
            raise InputError(f"{self.name}: no vertex {name!r}{nearest(name, self.vertices)}") from None

    def between(self, a: str, b: str) -> Integers:
        """Numbers of the links from one vertex to another, by name, shape (cables,).

        Raises
        ------
        InputError
            When none leads there.
        """
        found = np.flatnonzero((self.source == self.index(a)) & (self.target == self.index(b)))
        if not len(found):
            raise InputError(f"{self.name}: no link leads from {a} to {b}")
        return found

    def link(self, a: str, b: str) -> int:
        """Number of the first link from one vertex to another; names and errors as of `between`."""
        return int(self.between(a, b)[0])

    def paths(self, source: ArrayLike, target: ArrayLike, flow: ArrayLike = 0) -> Integers:
        """Links on the path of each message.

        Parameters
        ----------
        source, target : array_like of int, shape (messages,) or scalar
            Ranks.
        flow : array_like of int, shape (messages,) or scalar, default 0
            What tells flows between the same two ranks apart, as a port number does. Where paths are
            equally short, routers choose by it.

        Returns
        -------
        ndarray of int, shape (messages, hops)
            Link numbers, padded with -1. From a rank to itself the path is empty.

        Raises
        ------
        ValueError
            A rank that does not exist.
        InputError
            Ranks that no path joins.
        """
        start, end, label = np.broadcast_arrays(
            np.atleast_1d(np.asarray(source, dtype=np.int64)),
            np.asarray(target, dtype=np.int64),
            np.asarray(flow, dtype=np.int64),
        )
        for ranks in (start, end):
            if ranks.ndim != 1 or ranks.min(initial=0) < 0 or ranks.max(initial=-1) >= self.ranks:
                raise ValueError(f"{self.name}: ranks must be a list within 0 and {self.ranks - 1}")
        if not len(start):
            return np.full((0, 0), -1, dtype=np.int64)
        return self.router(self, start, end, label)

    def resources(self, paths: ArrayLike) -> Integers:
        """Resources that paths load, in the shape of `paths`; -1 stays -1."""
        found: Integers = np.append(self.resource, -1)[np.asarray(paths, dtype=np.int64)]
        return found

    def loads(self, paths: ArrayLike, amount: ArrayLike = 1.0) -> NDArray[np.float64]:
        """What messages put on each resource.

        Parameters
        ----------
        paths : array_like of int, shape (messages, hops)
        amount : array_like, shape (messages,) or scalar, default 1
            Of each message, such as its bytes.

        Returns
        -------
        ndarray, shape (resources,)
        """
        table = self.resources(paths)
        weight = np.broadcast_to(np.asarray(amount, dtype=float).reshape(-1, 1), table.shape)
        return np.bincount(table[table >= 0], weight[table >= 0], len(self.capacity)).astype(float)

    def path_latency(self, paths: ArrayLike) -> NDArray[np.float64]:
        """Sum of the latencies along each path [s], shape (messages,)."""
        found: NDArray[np.float64] = np.append(self.latency, 0.0)[np.asarray(paths, dtype=np.int64)].sum(axis=-1)
        return found

    def routed(self, router: Router) -> Topology:
        """Copy whose messages another router sends on their way."""
        return replace(self, router=router)

    def without(self, links: Iterable[int | tuple[str, str]]) -> Topology:
        """Copy in which links have failed; routes go around them.

        Parameters
        ----------
        links : iterable
            Link numbers (one direction each), or pairs of vertex names (all cables between the two, in
            both directions).

        Raises
        ------
        InputError
            A link that does not exist, or ranks that are cut off.
        """
        failed = self.failed.copy()
        for link in links:
            if isinstance(link, tuple):
                for a, b in (link, link[::-1]):
                    failed[self.between(a, b)] = True
            elif 0 <= link < self.links:
                failed[link] = True
            else:
                raise InputError(f"{self.name}: link {link} does not exist (legal: 0 to {self.links - 1})")
        rest = replace(self, failed=failed)
        lost = rest.cut_off()
        if lost is not None:
            raise InputError(f"{self.name}: without these links nothing leads from gpu{lost[0]} to gpu{lost[1]}")
        return rest

    def cut_off(self) -> tuple[int, int] | None:
        """Two ranks of which the first cannot reach the second; None when all reach all."""
        # Mostly there is a switch that all reach and that reaches all, which settles it. Where devices
        # hang on networks that do not meet, such as two planes, each has to be asked.
        degree = np.bincount(self.source[~self.failed], minlength=len(self.vertices))
        passes = self.transit.copy()
        passes[self.source[self.port > 0]] = False  # adapters do not
        hubs = np.flatnonzero(passes)
        for hub in hubs[np.argsort(-degree[hubs], kind="stable")][:8].tolist():
            if reachable(self, hub)[: self.ranks].all() and reachable(self, hub, backward=True)[: self.ranks].all():
                return None
        for rank in range(self.ranks):
            lost = np.flatnonzero(~reachable(self, rank)[: self.ranks])
            if len(lost):
                return rank, int(lost[0])
        return None

    def graph(self) -> networkx.DiGraph[str]:
        """Directed graph of what works, by vertex name.

        Vertices carry `kind`, `rank` (of devices) and their attributes. Edges carry `bandwidth` [B/s],
        `latency` [s], `cost`, `resource` (the name of what they load) and `links` (their numbers);
        cables in parallel are one edge with the sum of their bandwidths and the least of their costs,
        named after the first.
        """
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph()
        for number, (name, kind, known) in enumerate(zip(self.vertices, self.kinds, self.attributes, strict=True)):
            graph.add_node(name, **{**known, "kind": kind, **({"rank": number} if number < self.ranks else {})})
        names = self.resource_names
        for link in np.flatnonzero(~self.failed).tolist():
            a, b = self.vertices[self.source[link]], self.vertices[self.target[link]]
            if graph.has_edge(a, b):
                graph.edges[a, b]["bandwidth"] += float(self.bandwidth[link])
                graph.edges[a, b]["links"] += (link,)
                graph.edges[a, b]["cost"] = min(graph.edges[a, b]["cost"], int(self.cost[link]))
            else:
                graph.add_edge(
                    a,
                    b,
                    bandwidth=float(self.bandwidth[link]),
                    latency=float(self.latency[link]),
                    cost=int(self.cost[link]),
                    resource=names[self.resource[link]],
                    links=(link,),
                )
        return graph
