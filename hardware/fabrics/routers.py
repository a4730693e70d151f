"""Routers for a purpose: a torus by dimension, a dragonfly by way of a third group, paths laid by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from ..routing import Ecmp, Integers, below, cheapest, flow_hash, joined, walk, widened
from ..topology import Router, Topology


@dataclass(frozen=True, slots=True)
class DimensionOrder:
    """Torus routing: the first dimension first, the shorter way round each.

    Over exactly half of a dimension the way alternates with coordinate and flow, so that both ways
    carry the same. Where links have failed, messages go as `routing.Ecmp` has them.

    Parameters
    ----------
    shape : tuple of int
        Devices along each dimension.
    links : ndarray of int, shape (ranks, dimensions, 2)
        Link from each rank up and down each dimension, -1 where there is none.
    """

    shape: tuple[int, ...]
    links: Integers = field(repr=False, compare=False)

    @classmethod
    def of(cls, shape: Sequence[int], table: Sequence[tuple[int, int, int, int]]) -> DimensionOrder:
        """Build from rows of rank, dimension, way (0 up, 1 down) and link."""
        links = np.full((int(np.prod(shape)), len(shape), 2), -1, dtype=np.int64)
        for rank, dimension, way, link in table:
            links[rank, dimension, way] = link
        return cls(tuple(shape), links)

    def __call__(self, topology: Topology, source: Integers, target: Integers, flow: Integers) -> Integers:
        """Paths of messages, see `Topology.paths`."""
        if topology.failed.any():
            return Ecmp()(topology, source, target, flow)
        here = source.copy()
        begin, end = np.unravel_index(source, self.shape), np.unravel_index(target, self.shape)
        length = np.zeros(len(source), dtype=np.int64)
        paths = np.full((len(source), sum(size // 2 for size in self.shape)), -1, dtype=np.int64)
        for dimension, size in enumerate(self.shape):
            up = (end[dimension] - begin[dimension]) % size
            way = np.where(2 * up == size, (begin[dimension] + flow) % 2, 2 * up > size)
            left = np.where(way == 1, size - up, up) % size
            active = np.flatnonzero(left > 0)
            while len(active):
                link = self.links[here[active], dimension, way[active]]
                paths[active, length[active]] = link
                here[active] = topology.target[link]
                length[active] += 1
                left[active] -= 1
                active = active[left[active] > 0]
        return paths[:, : int(length.max(initial=0))]


@dataclass(frozen=True, slots=True, eq=False)
class Valiant:
    """Dragonfly routing by way of a third group, drawn per message by a hash.

    It spreads the traffic between two groups over the links to all others, for twice the distance:
    L. Valiant, "A scheme for fast parallel communication", SIAM J. Comput. 1982, with a group in place
    of a node as J. Kim et al. have it (ISCA 2008, section 4.1; recalled). Within a group, and where
    there is no third one, messages go straight.

    Parameters
    ----------
    group : ndarray of int, shape (vertices,)
        Of each vertex.
    seed : int, default 0
    """

    group: Integers = field(repr=False)
    seed: int = 0

    def __call__(self, topology: Topology, source: Integers, target: Integers, flow: Integers) -> Integers:
        """Paths of messages, see `Topology.paths`."""
        groups = int(self.group.max()) + 1
        key = flow_hash(self.seed, flow, source, target)
        first, last = np.sort([self.group[source], self.group[target]], axis=0)
        away = (first != last) & (groups > 2)
        # One of the groups that are neither: count past the two in order of number.
        drawn = below(key, max(groups - 2, 1))
        drawn += drawn >= first
        drawn += drawn >= last
        goals = [np.flatnonzero((self.group == number) & topology.transit) for number in range(groups)]
        start = source.copy()
        paths = np.full((len(source), 0), -1, dtype=np.int64)
        rows = np.flatnonzero(away)
        if len(rows):
            found, start[rows] = walk(topology, source[rows], goals, drawn[rows], key[rows])
            paths = np.full((len(source), found.shape[1]), -1, dtype=np.int64)
            paths[rows] = found
        return joined(paths, cheapest(topology, start, target, key))


@dataclass(frozen=True, slots=True, eq=False)
class Explicit:
    """Paths given by hand; all others, and those over failed links, as another router has them.

    Built by `with_paths`.

    Parameters
    ----------
    given : mapping
        (source, target, flow), with flow None for all flows, to links.
    otherwise : callable
    """

    given: Mapping[tuple[int, int, int | None], tuple[int, ...]] = field(repr=False)
    otherwise: Router

    def __call__(self, topology: Topology, source: Integers, target: Integers, flow: Integers) -> Integers:
        """Paths of messages, see `Topology.paths`."""
        paths = self.otherwise(topology, source, target, flow)
        failed = set(np.flatnonzero(topology.failed).tolist())
        for row, (a, b, label) in enumerate(zip(source.tolist(), target.tolist(), flow.tolist(), strict=True)):
            links = self.given.get((a, b, label), self.given.get((a, b, None)))
            if links is not None and failed.isdisjoint(links):
                paths = widened(paths, len(links))
                paths[row] = -1
                paths[row, : len(links)] = links
        return paths


def with_paths(
    topology: Topology, given: Mapping[tuple[int, int] | tuple[int, int, int], Sequence[str] | Sequence[int]]
) -> Topology:
    """Lay some paths of a topology by hand.

    Parameters
    ----------
    topology : Topology
        Its router serves all others.
    given : mapping
        (source, target) or (source, target, flow) to a path: names of vertices, both ends included, or
        numbers of links. Between vertices joined by several cables, names mean the first.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        A path with a vertex or link that does not exist, that does not lead from its source to its
        target in one piece, or that comes by a vertex twice.
    """
    checked: dict[tuple[int, int, int | None], tuple[int, ...]] = {}
    for key, path in given.items():
        source, target, flow = (*key, None)[:3]
        where = f"{topology.name}: path from {source} to {target}"
        if any(isinstance(part, str) for part in path):
            names = [str(part) for part in path]
            links = [topology.link(a, b) for a, b in itertools.pairwise(names)]
        else:
            links = [int(part) for part in path]
        if not all(0 <= link < topology.links for link in links):
            raise InputError(f"{where}: link {max(links, key=abs)} does not exist (legal: 0 to {topology.links - 1})")
        stops = [source, *(int(topology.target[link]) for link in links)]
        for link, stop in zip(links, stops, strict=False):
            if topology.source[link] != stop:
                named = topology.vertices[stop] if 0 <= stop < len(topology.vertices) else f"vertex {stop}"
                raise InputError(f"{where}: link {link} ({topology.link_name(link)}) does not start at {named}")
        if stops[-1] != target or len(set(stops)) < len(stops):
            passed = " ".join(topology.vertices[stop] for stop in stops)
            raise InputError(f"{where}: it takes {passed} (legal: from source to target, no vertex twice)")
        checked[source, target, flow] = tuple(links)
    return topology.routed(Explicit(checked, topology.router))
