"""Which paths the flows of a fabric take: hashed, hashed anew after a failure, or planned.

Left to itself a fabric hashes every flow onto one of the paths that are equally short (ECMP), so some
links get several flows and some none. A planner that knows all flows spreads them evenly instead; this
is C4P's idea (arXiv 2406.04594), and nothing here knows its fabric: any `Topology` with equally short
paths will do.

Paths are learned as C4P learns them, by probing which path each of many flow numbers is hashed onto.
Where an adapter has two ports, that includes the port it sends by and the port it is received at, which
the hash picks independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..solvers.paths import Allocation, allocate, allocate_fractions, balanced_limits
from .traffic import Connections, demands

if TYPE_CHECKING:
    from ..hardware.topology import Topology

# Flow numbers tried to learn the paths of a connection. With 32 paths, four ports by eight spines, one is
# missed with a probability of 32 (31/32)^512, which is 3e-6.
_PROBES = 512


def ecmp_paths(topology: Topology, flows: Connections, seed: int = 0) -> NDArray[np.int64]:
    """Paths by the fabric's hash: links, shape (flows, hops), padded with -1."""
    return topology.paths(flows.source, flows.target, _flow_numbers(len(flows.source), seed))


def rehashed_paths(
    topology: Topology, flows: Connections, paths: NDArray[np.int64], failed: Sequence[int], seed: int = 0
) -> NDArray[np.int64]:
    """Paths after links have failed and nobody plans: the fabric hashes the flows of these anew.

    Parameters
    ----------
    topology : Topology
        As it was.
    flows : Connections
    paths : ndarray of int, shape (flows, hops)
        Paths before the failure.
    failed : sequence of int
        Links that failed.
    seed : int, default 0
        Of the hash.
    """
    fresh = ecmp_paths(topology.without(failed), flows, seed)
    hops = max(paths.shape[1], fresh.shape[1])
    broken = np.asarray(np.isin(paths, failed).any(axis=1))
    return np.where(broken[:, None], _widened(fresh, hops), _widened(paths, hops))


def planned_paths(
    topology: Topology,
    flows: Connections,
    rate: float,
    *,
    start: NDArray[np.int64] | None = None,
    failed: Sequence[int] = (),
    ports: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    time_limit: float = 3.0,
) -> tuple[NDArray[np.int64], Allocation]:
    """Paths that keep the busiest link as idle as possible.

    Parameters
    ----------
    topology : Topology
    flows : Connections
    rate : float
        What each connection would move if nothing stood in its way, divided evenly over its QPs [bytes/s].
    start : ndarray of int, shape (flows, hops), optional
        Paths to improve, which the answer is never worse than; by default those of `ecmp_paths`. Flows
        whose path has failed are placed afresh, the others move only where that helps.
    failed : sequence of int
        Links nothing may use.
    ports : sequence of (int, int)
        Pairs of links to keep balanced, such as the two ports of an adapter: as far as whole QPs allow.
    seed : int, default 0
        Of the probes and of the search.
    time_limit : float, default 3
        For the integer program, see `commlens.solvers.paths.allocate` [s].

    Returns
    -------
    paths : ndarray of int, shape (flows, hops)
    allocation : Allocation
        Utilisation, bound and gap of the resources.
    """
    before = ecmp_paths(topology, flows, seed) if start is None else start
    links, offered, chosen = _candidates(topology, flows, before, failed, seed)
    demand = demands(flows, rate)
    allocation = allocate(
        demand, topology.resources(links), topology.capacity,
        offered=offered, start=chosen, seed=seed, time_limit=time_limit,
        limits=_port_limits(topology, links, demand, ports, float(demand.max(initial=0.0))),
    )  # fmt: skip
    return links[np.arange(len(links)), allocation.choice], allocation


def divided_bandwidth(
    topology: Topology,
    flows: Connections,
    rate: float,
    *,
    failed: Sequence[int] = (),
    ports: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> float:
    """Bus bandwidth of every job when each connection divides its bytes over all paths as is best [bytes/s].

    The linear program of `allocate_fractions`: what planning with many QPs, re-planned as conditions
    change, can reach and nothing can pass as long as all jobs are to get the same. Parameters as in
    `planned_paths`; the ports are balanced exactly.
    """
    links, offered, _ = _candidates(topology, flows, ecmp_paths(topology, flows, seed), failed, seed)
    first = np.unique(flows.connection, return_index=True)[1]
    links, offered, demand = links[first], offered[first], np.full(len(first), rate)
    answer = allocate_fractions(
        demand, topology.resources(links), topology.capacity,
        offered=offered, limits=_port_limits(topology, links, demand, ports, 0.0),
    )  # fmt: skip
    return rate / max(answer.utilisation, 1.0)


def _flow_numbers(count: int, seed: int) -> NDArray[np.int64]:
    """Numbers the fabric hashes, as source ports are: drawn at random, the same for a seed."""
    return np.random.default_rng(seed).integers(0, 2**62, count)


def _widened(paths: NDArray[np.int64], hops: int) -> NDArray[np.int64]:
    return np.pad(paths, [(0, 0)] * (paths.ndim - 1) + [(0, hops - paths.shape[-1])], constant_values=-1)


def _port_limits(
    topology: Topology,
    links: NDArray[np.int64],
    demand: NDArray[np.float64],
    ports: Sequence[tuple[int, int]],
    slack: float,
) -> NDArray[np.float64]:
    """Limits that balance pairs of links, given the paths each flow may take, shape (flows, paths, hops).

    What both carry together is fixed when all paths of a flow use one of them or none does.
    """
    pairs = topology.resource[np.asarray(ports, dtype=np.int64).reshape(-1, 2)]
    total = [float(demand[np.isin(links, pair).any(axis=(1, 2))].sum()) for pair in ports]
    return balanced_limits(len(topology.capacity), pairs, total, slack)


def _candidates(
    topology: Topology, flows: Connections, before: NDArray[np.int64], failed: Sequence[int], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Paths each flow may take, shape (flows, paths, hops); which places hold one; and where `before` is, or -1.

    The path a flow has is always among them as long as its links are there.
    """
    left = topology.without(failed) if len(failed) else topology
    pairs, pair = np.unique(np.stack([flows.source, flows.target], axis=1), axis=0, return_inverse=True)
    pair = pair.ravel()
    ids = np.broadcast_to(_flow_numbers(_PROBES, seed), (len(pairs), _PROBES))
    probed = left.paths(pairs[:, 0].repeat(_PROBES), pairs[:, 1].repeat(_PROBES), ids.ravel())
    hops = max(probed.shape[1], before.shape[1])
    probed = _widened(probed, hops).reshape(len(pairs), _PROBES, hops)
    before = _widened(before, hops)
    usable = ~np.isin(before, failed).any(axis=1)
    found = [np.unique(np.concatenate([probed[p], before[(pair == p) & usable]]), axis=0) for p in range(len(pairs))]
    width = max((len(paths) for paths in found), default=0)
    table = np.full((len(pairs), width, hops), -1, dtype=np.int64)
    offered = np.zeros((len(pairs), width), dtype=bool)
    for p, paths in enumerate(found):
        table[p, : len(paths)], offered[p, : len(paths)] = paths, True
    same = (table[pair] == before[:, None, :]).all(axis=2) & offered[pair]
    chosen = np.where(same.any(axis=1) & usable, same.argmax(axis=1), -1)
    return table[pair], offered[pair], chosen
