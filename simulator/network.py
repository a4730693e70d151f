"""What a network between adapters leaves of their bandwidth when all of them send at once.

Two ways to spread messages over equal paths: evenly, as adaptive routing does, where only what leaves a
part of the network over what its links carry counts; or by hash, queue pair by queue pair, where some
links get more than others and the busiest decides.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..hardware.topology import Topology

# Beyond this many messages an all-to-all is hashed for a sample of the distances between members.
_MOST_MESSAGES = 2_000_000


def share(
    topology: Topology,
    bandwidth: float,
    local: int,
    members: int,
    everyone: bool,
    queue_pairs: int | None = None,
    seed: int = 0,
) -> float:
    """Part of an adapter's bandwidth each member has when all send at once.

    Parameters
    ----------
    topology : Topology
        Its ranks are the adapters, node by node.
    bandwidth : float
        Of an adapter, per direction [B/s].
    local : int
        Adapters per node.
    members : int
        The first adapters take part.
    everyone : bool
        Whether each sends to the adapters of all other nodes in equal parts; else to the same adapter of
        the next node, as rings over rails do.
    queue_pairs : int, optional
        Flows per connection, each hashed onto one of the equal paths; without, all paths carry the same.
    seed : int
        Of the hash.

    Returns
    -------
    float
        At most 1.
    """
    if members <= local:
        return 1.0
    if queue_pairs is None:
        return _even(topology, bandwidth, local, members, everyone)
    return _hashed(topology, bandwidth, local, members, everyone, queue_pairs, seed)


def mean_latency(topology: Topology, local: int, members: int, everyone: bool) -> float:
    """Mean latency of the ways of `share`'s messages [s]; of an all-to-all those of the first node's."""
    if members <= local:
        return 0.0
    if everyone:
        source, target = (a.ravel() for a in np.meshgrid(np.arange(local), np.arange(local, members), indexing="ij"))
    else:
        source, target = np.arange(members), _next(members, local)
    return float(topology.path_latency(topology.paths(source, target)).mean())


def _even(topology: Topology, bandwidth: float, local: int, members: int, everyone: bool) -> float:
    """By cuts: around every adapter, every switch and what hangs on it, and every pod."""
    node = np.arange(members) // local
    nodes = int(node[-1]) + 1
    capacity = topology.capacity
    carries = np.where(topology.failed, 0.0, topology.bandwidth)
    ports = [
        np.bincount(ends, carries, len(topology.vertices))[:members] for ends in (topology.source, topology.target)
    ]
    best = min(1.0, float(np.min(ports)) / bandwidth)
    for vertices in _parts(topology):
        inside = np.zeros(len(topology.vertices), bool)
        inside[vertices] = True
        mine = inside[:members]
        if not mine.any() or mine.all():
            continue
        if everyone:
            # Each member sends 1 / (members outside its node) to each of those.
            there = np.bincount(node[~mine], minlength=nodes)
            outside_node = members - np.bincount(node, minlength=nodes)
            crossing = float((((~mine).sum() - there[node[mine]]) / outside_node[node[mine]]).sum())
        else:
            crossing = float((mine & ~mine[_next(members, local)]).sum())
        # Both patterns bring in what they send out.
        for near, far in ((topology.source, topology.target), (topology.target, topology.source)):
            over = inside[near] & ~inside[far] & ~topology.failed
            room = float(capacity[np.unique(topology.resource[over])].sum())
            if crossing:
                best = min(best, room / (crossing * bandwidth))
    return best


def _parts(topology: Topology) -> list[list[int]]:
    """Every switch with the ranks that hang on it, and every pod of them."""
    hanging = defaultdict(list)
    for source, target in zip(topology.source.tolist(), topology.target.tolist(), strict=True):
        if source < topology.ranks and topology.kinds[target] != "device":
            hanging[target].append(source)
    parts = [[switch, *ranks] for switch, ranks in hanging.items()]
    pods: dict[int, list[int]] = defaultdict(list)
    above = {
        int(leaf): topology.attributes[spine].get("pod")
        for leaf, spine in zip(topology.source, topology.target, strict=True)
        if int(leaf) in hanging and "pod" in topology.attributes[spine]
    }
    for leaf, pod in above.items():
        pods[pod] += [leaf, *hanging[leaf]]
    for pod, members in pods.items():
        spines = [v for v, known in enumerate(topology.attributes) if known.get("pod") == pod and v not in members]
        parts.append([*members, *spines])
    return parts


def _next(members: int, local: int) -> np.ndarray:
    """For every member the same adapter of the next node that has it, round to the first."""
    following = np.arange(members) + local
    return np.where(following < members, following, np.arange(members) % local)


def _hashed(
    topology: Topology, bandwidth: float, local: int, members: int, everyone: bool, queue_pairs: int, seed: int
) -> float:
    """By routing every flow and looking at the busiest link."""
    rank = np.arange(members)
    if everyone and members * members * queue_pairs <= _MOST_MESSAGES:
        source, target = (a.ravel() for a in np.meshgrid(rank, rank, indexing="ij"))
        away = source // local != target // local
        source, target = source[away], target[away]
        amount = 1.0 / np.bincount(source, minlength=members)[source]
    elif everyone:
        # Everybody sends as far as everybody else, so that no port has more than its part.
        count = max(1, _MOST_MESSAGES // (members * queue_pairs))
        distances = np.unique(np.linspace(local, members - local, count).astype(np.int64))
        source, distance = (a.ravel() for a in np.meshgrid(rank, distances, indexing="ij"))
        target = (source + distance) % members
        amount = np.full(len(source), 1.0 / len(distances))
    else:
        source, target = rank, _next(members, local)
        amount = np.ones(members)
    flow = np.tile(np.arange(queue_pairs), len(source)) + 1_000_003 * seed
    source, target, amount = (np.repeat(a, queue_pairs) for a in (source, target, amount / queue_pairs))
    load = topology.loads(topology.paths(source, target, flow), amount)
    busiest = float((load * bandwidth / topology.capacity).max(initial=0.0))
    return min(1.0, 1.0 / busiest) if busiest else 1.0
