"""C4's test bed as a fabric, the jobs that ran on it, and what they get by hash and planned.

Sixteen nodes of eight two-port adapters in two leaf groups (arXiv 2406.04594; the numbers are recalled).
How a connection uses its queue pairs is not known and decides much: it is carried in two variants.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hardware.fabrics import leaf_spine
from ..hardware.topology import Topology
from ..simulator.placement import divided_bandwidth, ecmp_paths, planned_paths, rehashed_paths
from ..simulator.traffic import Connections, RingJob, measure, ring_connections

GBIT = 1e9 / 8
# Sixteen nodes of eight adapters of two ports in two leaf groups, eight uplinks a leaf [recalled].
NODES, NICS, GROUPS, SPINES = 16, 8, 2, 8
# Measured ceiling of an all-reduce per adapter of 2 x 200 Gb/s [recalled]; taken for what is left of every
# link's bandwidth for data, so a 200 Gb/s port or uplink carries half of it.
CEILING = 362 * GBIT
HOP = 1e-6  # latency of a link; it plays no part in bandwidths [s]
SEEDS = 20  # draws of the hash; medians are reported


class Variant(NamedTuple):
    """How a connection uses its queue pairs, which the paper does not give."""

    name: str
    qps: int
    adaptive: bool


VARIANTS = (
    # The least that uses both ports; parts are even, as with a library that knows nothing of paths.
    Variant("2 QPs a connection, even parts", 2, False),
    # One for each uplink; bytes go by whichever has room.
    Variant("8 QPs a connection, whichever has room", 8, True),
)


@cache
def fabric(spines: int = SPINES) -> Topology:
    """Two leaf groups of eight nodes: a leaf for each port of each of a node's adapters, joined by spines."""
    return leaf_spine(
        NODES, NODES // GROUPS, spines, CEILING / 2, HOP, nics=NICS,
        oversubscription=SPINES / spines, device_bandwidth=CEILING, device_latency=HOP,
    )  # fmt: skip


def pairs() -> list[RingJob]:
    """Eight jobs of two nodes, one in each leaf group, a ring per adapter."""
    half = NODES // 2
    return [RingJob(f"job{j}", [[j * NICS + nic, (j + half) * NICS + nic] for nic in range(NICS)]) for j in range(half)]


def whole() -> list[RingJob]:
    """One job on all nodes, in order."""
    return [RingJob("job", [[node * NICS + nic for node in range(NODES)] for nic in range(NICS)])]


@cache
def hashed(jobs: Callable[[], list[RingJob]], spines: int, variant: Variant) -> NDArray[np.float64]:
    """Bus bandwidth under ECMP, shape (seeds, jobs) [bytes/s]."""
    topology, flows = fabric(spines), ring_connections(jobs(), variant.qps)
    return np.array(
        [
            measure(topology, flows, ecmp_paths(topology, flows, seed), CEILING, variant.adaptive).bus_bandwidth
            for seed in range(SEEDS)
        ]
    )


@cache
def planned(
    jobs: Callable[[], list[RingJob]], spines: int, variant: Variant
) -> tuple[Connections, NDArray[np.int64], NDArray[np.float64]]:
    """Connections, planned paths, and bus bandwidth, shape (jobs,) [bytes/s]."""
    topology, flows = fabric(spines), ring_connections(jobs(), variant.qps)
    paths, _ = planned_paths(topology, flows, CEILING)
    return flows, paths, measure(topology, flows, paths, CEILING, variant.adaptive).bus_bandwidth


def gain(jobs: Callable[[], list[RingJob]], spines: int, variant: Variant) -> float:
    """Mean bus bandwidth with planned paths over that under ECMP, of the median draw."""
    return float(planned(jobs, spines, variant)[2].mean() / np.median(hashed(jobs, spines, variant).mean(axis=1)))


def ports(topology: Topology) -> list[tuple[int, int]]:
    """Links of the first and the second port of each adapter, out and in."""
    adapters = [vertex for vertex, kind in enumerate(topology.kinds) if kind == "nic"]
    pairs: list[tuple[int, int]] = []
    for near, far in ((topology.source, topology.target), (topology.target, topology.source)):
        for adapter in adapters:
            first, second = np.flatnonzero((near == adapter) & (far >= topology.ranks)).tolist()
            pairs.append((first, second))
    return pairs


def cable(topology: Topology, leaf: str, spine: str) -> list[int]:
    """Both directions of an uplink."""
    return [topology.link(leaf, spine), topology.link(spine, leaf)]


@cache
def after_failure(variant: Variant) -> tuple[float, float]:
    """Slowest job with one of eight uplinks gone: hashed anew (median of seeds), and divided afresh [bytes/s]."""
    topology = fabric()
    flows, paths, _ = planned(pairs, SPINES, variant)
    failed = cable(topology, "leaf0.0.0", "spine0")
    static = [
        measure(
            topology, flows, rehashed_paths(topology, flows, paths, failed, seed), CEILING, variant.adaptive
        ).bus_bandwidth.min()
        for seed in range(SEEDS)
    ]
    dynamic = divided_bandwidth(topology, flows, CEILING, failed=failed, ports=ports(topology))
    return float(np.median(static)), dynamic
