"""Which way messages go: shortest paths, and among equal ones the choice of a hash.

A router is called with a topology and arrays of source, target and flow and returns each message's
links. The general one finds, per distinct target, how far every vertex is from it, and then lets all
messages take one hop at a time together. A million messages on a thousand devices take a fraction of a
second, so that fabrics need no arithmetic of their own, and routes around failed links cost no code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

if TYPE_CHECKING:
    from .topology import Topology

Integers: TypeAlias = NDArray[np.int64]

_FAR = np.iinfo(np.int64).max // 2
# Links times goals looked at together: some tens of megabytes.
_TABLE = 1 << 23


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter the bits of 64-bit numbers, in place, and return them.

    One step of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number
    generators", OOPSLA 2014; the constants are recalled). Integers only: the same on every machine.
    """
    value += np.uint64(0x9E3779B97F4A7C15)
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value


def flow_hash(seed: int, *parts: Integers) -> NDArray[np.uint64]:
    """Hash of rows of integers, one array per column, as 64-bit numbers."""
    value = np.full(len(parts[0]), seed % 2**64, dtype=np.uint64)
    for part in parts:
        value ^= part.astype(np.uint64)
        mix(value)
    return value


def below(draw: NDArray[np.uint64], count: Integers | int) -> Integers:
    """Whole numbers from 0 to below `count` out of hashes, evenly."""
    # The high half times the count over 2^32: no less even than a remainder for counts of links.
    return ((draw >> np.uint64(32)) * np.asarray(count).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


class Hops(NamedTuple):
    """Where messages may go next, for some goals.

    Attributes
    ----------
    first, width : ndarray of int, shape (goals * vertices,)
        At goal * vertices + vertex: where in `links` the choices start, and how many there are.
    links : ndarray of int
        Links on cheapest ways, in order of number.
    distance : ndarray of int, shape (goals, vertices)
        Cost of the way from each vertex to each goal.
    """

    first: Integers
    width: Integers
    links: Integers
    distance: Integers


def distances(topology: Topology, goals: Sequence[Integers]) -> Integers:
    """Cost of the cheapest way from every vertex to each goal.

    Parameters
    ----------
    topology : Topology
    goals : sequence of arrays of int
        Vertices; any one of a goal's will do.

    Returns
    -------
    ndarray of int, shape (goals, vertices)
        A number beyond any cost where no way leads.
    """
    size = len(topology.vertices)
    first, links = _grouped(topology, topology.target)
    fan = np.diff(first)
    distance = np.full(len(goals) * size, _FAR, dtype=np.int64)
    start = np.concatenate([number * size + goal for number, goal in enumerate(goals)])
    distance[start] = 0
    # Whether the way from a place goes on inside a host, so that what comes in by a port may take it.
    inside = np.zeros(len(distance), dtype=bool)
    inside[start] = True
    slot = np.empty(len(distance), dtype=np.int64)
    # Dial's algorithm for all goals at once: costs are whole numbers, so equal distances come together.
    waiting: dict[int, list[Integers]] = {0: [start]}
    while waiting:
        level = min(waiting)
        places = np.concatenate(waiting.pop(level))
        places = places[distance[places] == level]
        slot[places] = np.arange(len(places))
        places = places[slot[places] == np.arange(len(places))]  # each once
        if level > 0:
            places = places[topology.transit[places % size]]
        vertex = places % size
        many = fan[vertex]
        into = links[np.repeat(first[vertex] - np.cumsum(many) + many, many) + np.arange(many.sum())]
        before = np.repeat(places - vertex, many) + topology.source[into]
        passes = np.repeat(inside[places], many) | (topology.port[into] >= 0)
        into, before = into[passes], before[passes]
        cost, stays = topology.cost[into], topology.port[into] <= 0
        for step in np.unique(cost).tolist():
            reached = before[cost == step]
            better = reached[distance[reached] > level + step]
            if len(better):
                distance[better] = level + step
                inside[better] = False
                waiting.setdefault(level + step, []).append(better)
            inside[reached[stays[cost == step] & (distance[reached] == level + step)]] = True
    return distance.reshape(len(goals), size)


def next_hops(topology: Topology, goals: Sequence[Integers]) -> Hops:
    """All links on cheapest ways to each goal; parameters as in `distances`."""
    size = len(topology.vertices)
    distance = distances(topology, goals)
    _, links = _grouped(topology, topology.source)
    tail, head = topology.source[links], topology.target[links]
    ahead = distance[:, head]
    good = ahead + topology.cost[links] == distance[:, tail]
    good &= topology.transit[head] | (ahead == 0)
    goal, column = np.nonzero(good)
    if topology.port.any():
        port, before, after = topology.port[links[column]], goal * size + tail[column], goal * size + head[column]
        inside = distance.ravel() == 0
        inside[before[port <= 0]] = True
        passes = (port >= 0) | inside[after]
        goal, column = goal[passes], column[passes]
    count = np.bincount(goal * size + tail[column], minlength=len(goals) * size)
    return Hops(np.cumsum(count) - count, count, links[column], distance)


def reachable(topology: Topology, vertex: int, backward: bool = False) -> NDArray[np.bool_]:
    """Vertices that messages from one vertex can reach, or that can reach it; shape (vertices,)."""
    working = np.flatnonzero(~topology.failed)
    tail, head, port = topology.source[working], topology.target[working], topology.port[working]
    if backward:
        tail, head, port = head, tail, -port
    # Vertices, and once more what was entered by a port and may not be left by one.
    size = len(topology.vertices)
    found = np.zeros(2 * size, dtype=bool)
    found[vertex] = True
    edge = found.copy()
    while edge.any():
        taken = edge[tail] | (edge[size + tail] & (port <= 0))
        reached = np.zeros_like(found)
        reached[np.where(port < 0, size + head, head)[taken]] = True
        reached &= ~found
        found |= reached
        edge = reached & np.tile(topology.transit, 2)
    return found[:size] | found[size:]


def _grouped(topology: Topology, ends: Integers) -> tuple[Integers, Integers]:
    """Where the links of each vertex begin among the working ones in order of one of their ends, and these."""
    working = np.flatnonzero(~topology.failed)
    links = working[np.argsort(ends[working], kind="stable")]
    count = np.bincount(ends[links], minlength=len(topology.vertices))
    return np.concatenate([[0], np.cumsum(count)]), links


def walk(
    topology: Topology, start: Integers, goals: Sequence[Integers], goal: Integers, key: NDArray[np.uint64] | None
) -> tuple[Integers, Integers]:
    """Let messages walk to their goals by cheapest ways.

    Parameters
    ----------
    topology : Topology
    start : ndarray of int, shape (messages,)
        Vertices.
    goals : sequence of arrays of int
        As in `distances`.
    goal : ndarray of int, shape (messages,)
        Which of the goals each has.
    key : ndarray of uint64, shape (messages,), or None
        Hash by which each chooses among equal ways, at every vertex anew; None takes the first.

    Returns
    -------
    paths : ndarray of int, shape (messages, hops)
        Links, padded with -1.
    end : ndarray of int, shape (messages,)
        Vertices they came to.

    Raises
    ------
    InputError
        Where no way leads.
    """
    paths = np.full((len(start), 0), -1, dtype=np.int64)
    end = start.copy()
    for begin, stop, rows in _parts(topology, len(goals), goal):
        hops = next_hops(topology, goals[begin:stop])
        found, end[rows] = _walk(topology, start[rows], hops, goal[rows] - begin, None if key is None else key[rows])
        if len(found) == len(paths):
            return found, end
        paths = widened(paths, found.shape[1])
        paths[rows, : found.shape[1]] = found
    return paths, end


def _parts(topology: Topology, goals: int, goal: Integers) -> Iterator[tuple[int, int, Integers]]:
    """First and last of goals to look at together, and the messages that have them."""
    together = max(1, _TABLE // max(topology.links, len(topology.vertices)))
    if goals <= together:
        yield 0, goals, np.arange(len(goal))
        return
    order = np.argsort(goal, kind="stable")
    bounds = np.searchsorted(goal[order], np.arange(0, goals + together, together))
    for number in range(len(bounds) - 1):
        yield number * together, (number + 1) * together, order[bounds[number] : bounds[number + 1]]


def _walk(
    topology: Topology, start: Integers, hops: Hops, goal: Integers, key: NDArray[np.uint64] | None
) -> tuple[Integers, Integers]:
    """`walk` where the choices are known."""
    distance = hops.distance.ravel()
    end = start.copy()
    base = goal * len(topology.vertices)
    active = np.flatnonzero(distance[base + end] != 0)
    columns: list[Integers] = []
    while len(active):
        vertex = end[active]
        place = base[active] + vertex
        count = hops.width[place]
        if not count.all():
            raise InputError(
                f"{topology.name}: nothing leads from {topology.vertices[vertex[np.argmin(count)]]} to where it sends"
            )
        slot = hops.first[place]
        if key is not None:
            several = np.flatnonzero(count > 1)
            slot[several] += below(mix(key[active[several]] ^ vertex[several].astype(np.uint64)), count[several])
        link = hops.links[slot]
        end[active] = topology.target[link]
        column = np.full(len(start), -1, dtype=np.int64)
        column[active] = link
        columns.append(column)
        active = active[distance[base[active] + end[active]] != 0]
    return np.stack(columns, axis=1) if columns else np.full((len(start), 0), -1, dtype=np.int64), end


def widened(paths: Integers, hops: int) -> Integers:
    """Paths with room for at least so many hops."""
    missing = max(hops - paths.shape[1], 0)
    return np.pad(paths, ((0, 0), (0, missing)), constant_values=-1) if missing else paths


def joined(first: Integers, then: Integers) -> Integers:
    """Paths of messages that take one path and then another, both padded with -1 at the end."""
    length = (first >= 0).sum(axis=1)
    more = then >= 0
    paths = widened(first, int((length + more.sum(axis=1)).max(initial=0)))
    for hop in range(then.shape[1]):
        rows = np.flatnonzero(more[:, hop])
        paths[rows, length[rows] + hop] = then[rows, hop]
    return paths


def cheapest(topology: Topology, source: Integers, target: Integers, key: NDArray[np.uint64] | None) -> Integers:
    """Cheapest paths between vertices, shape (messages, hops); `key` as in `walk`."""
    # A target with one link into it needs no distances of its own: whoever comes to the vertex before
    # it is there but for that link. On a fat tree this leaves one goal per leaf instead of per device.
    size = len(topology.vertices)
    working = np.flatnonzero(~topology.failed)
    last = np.full(size, -1, dtype=np.int64)
    last[topology.target[working]] = working
    single = np.bincount(topology.target[working], minlength=size) == 1
    last[~(single & topology.transit[np.append(topology.source, 0)[last]])] = -1
    final = np.where(source != target, last[target], -1)
    gate = np.where(final >= 0, np.append(topology.source, 0)[final], target)
    wanted = np.zeros(size, dtype=bool)
    wanted[gate] = True
    goal = (np.cumsum(wanted) - 1)[gate]
    paths, _ = walk(topology, source, list(np.flatnonzero(wanted)[:, None]), goal, key)
    return joined(paths, final[:, None])


@dataclass(frozen=True, slots=True)
class ShortestPath:
    """The cheapest path; among equal ones that of the lowest link numbers, whatever the flow."""

    def __call__(self, topology: Topology, source: Integers, target: Integers, flow: Integers) -> Integers:
        """Paths of messages, see `Topology.paths`."""
        return cheapest(topology, source, target, None)


@dataclass(frozen=True, slots=True)
class Ecmp:
    """Equal-cost multipath: at every vertex a hash picks the next hop among the equally cheap ones.

    The hash takes flow, source, target and vertex: a flow keeps its path, and switches choose
    independently of each other.

    Parameters
    ----------
    seed : int, default 0
        Another seed, other collisions.
    """

    seed: int = 0

    def __call__(self, topology: Topology, source: Integers, target: Integers, flow: Integers) -> Integers:
        """Paths of messages, see `Topology.paths`."""
        return cheapest(topology, source, target, flow_hash(self.seed, flow, source, target))


def all_shortest(topology: Topology, source: int, target: int, limit: int = 1024) -> Integers:
    """All cheapest paths from one vertex to another, as a planner may choose among.

    Parameters
    ----------
    topology : Topology
    source, target : int
    limit : int, default 1024
        Paths to stop at.

    Returns
    -------
    ndarray of int, shape (paths, hops)
        Links, padded with -1, in order of link numbers.

    Raises
    ------
    InputError
        Where no way leads.
    """
    hops = next_hops(topology, [np.array([target])])
    if hops.distance[0, source] >= _FAR:
        ends = topology.vertices[source], topology.vertices[target]
        raise InputError(f"{topology.name}: nothing leads from {ends[0]} to {ends[1]}")
    found: list[tuple[int, ...]] = []
    open_: list[tuple[int, tuple[int, ...]]] = [(source, ())]
    while open_ and len(found) < limit:
        vertex, taken = open_.pop()
        if vertex == target:
            found.append(taken)
            continue
        choices = hops.links[hops.first[vertex] : hops.first[vertex] + hops.width[vertex]]
        open_ += [(int(topology.target[link]), (*taken, int(link))) for link in choices[::-1]]
    paths = np.full((len(found), max(map(len, found))), -1, dtype=np.int64)
    for row, taken in enumerate(found):
        paths[row, : len(taken)] = taken
    return paths
