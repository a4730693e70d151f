"""Collectives of several jobs on one fabric: the flows they make, and what each gets.

A ring collective between nodes is a set of connections from each member of the ring to the next, and
each connection has a few queue pairs (QPs), which are what a switch sees as flows. Their rates are
max-min fair; the slowest connection sets the pace of its job. Which paths they take is `placement`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..hardware.errors import InputError
from .flows import fair_rates

if TYPE_CHECKING:
    from ..hardware.topology import Topology


@dataclass(frozen=True, slots=True)
class RingJob:
    """A job that reduces over rings of ranks, all of them at once.

    Parameters
    ----------
    name : str
    rings : sequence of sequence of int
        Ranks in ring order, such as one ring per adapter of the nodes; each ring carries an equal part.
    """

    name: str
    rings: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        if not self.rings or any(len(ring) < 2 or len(set(ring)) < len(ring) for ring in self.rings):
            raise InputError(f"job {self.name}: rings {self.rings!r:.60} (legal: one or more, each of 2 or more ranks)")


@dataclass(frozen=True, slots=True, eq=False)
class Connections:
    """Flows of all jobs, in the order job, ring, member, QP.

    Parameters
    ----------
    source, target : ndarray of int, shape (flows,)
        Ranks.
    job : ndarray of int, shape (flows,)
        Which job a flow belongs to.
    connection : ndarray of int, shape (flows,)
        Which connection; the QPs of one have the same number.
    names : tuple of str
        Of the jobs.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    job: NDArray[np.int64]
    connection: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrafficReport:
    """What concurrent collectives get.

    Parameters
    ----------
    bus_bandwidth : ndarray, shape (jobs,)
        Rate of each job's slowest connection, which all of its rings go at [bytes/s]. A collective on
        one ring of n ranks takes ``2 (n - 1) / n size / bus_bandwidth`` for an all-reduce, half of it for
        an all-gather or reduce-scatter.
    rates : ndarray, shape (flows,)
        Max-min fair rate of each flow [bytes/s].
    load : ndarray, shape (resources,)
        What each resource would carry if every flow went at full speed, over its capacity: above 1 is
        a collision.
    """

    bus_bandwidth: NDArray[np.float64]
    rates: NDArray[np.float64]
    load: NDArray[np.float64]


def ring_connections(jobs: Sequence[RingJob], qps: int = 2) -> Connections:
    """Flows of ring collectives that run at the same time.

    Parameters
    ----------
    jobs : sequence of RingJob
    qps : int, default 2
        Queue pairs per connection, 1 or more; each carries an equal part.
    """
    if qps < 1:
        raise InputError(f"qps: {qps!r} (legal: 1 or more)")
    rows = [
        (rank, after, number)
        for number, job in enumerate(jobs)
        for ring in job.rings
        for rank, after in zip(ring, [*ring[1:], ring[0]], strict=True)
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3).repeat(qps, axis=0)
    connection = np.arange(len(rows)).repeat(qps)
    return Connections(table[:, 0], table[:, 1], table[:, 2], connection, tuple(job.name for job in jobs))


def measure(
    topology: Topology,
    flows: Connections,
    paths: NDArray[np.int64],
    ceiling: float,
    adaptive: bool = False,
) -> TrafficReport:
    """Rates of flows on their paths, and what they make of the jobs.

    Parameters
    ----------
    topology : Topology
    flows : Connections
    paths : ndarray of int, shape (flows, hops)
    ceiling : float
        Most a rank sends, and most it receives, measured on an idle fabric [bytes/s].
    adaptive : bool, default False
        Whether a connection moves its bytes by whichever QP has room, as C4P does, so that its rate is
        the sum of theirs; otherwise each QP carries an equal part and the slowest decides.
    """
    if not 0 < ceiling < np.inf:
        raise InputError(f"ceiling: {ceiling!r} bytes/s (legal: above 0)")
    resources = len(topology.capacity)
    # A rank's own limit is one more thing its flows share, on the way out and on the way in.
    table = np.concatenate(
        [
            topology.resources(paths),
            resources + flows.source[:, None],
            resources + topology.ranks + flows.target[:, None],
        ],
        axis=1,
    )
    capacity = np.concatenate([topology.capacity, np.full(2 * topology.ranks, ceiling)])
    rates = fair_rates(table, capacity, np.ones(len(table)))
    count = int(flows.connection.max(initial=-1)) + 1
    number = np.bincount(flows.connection, minlength=count)
    if adaptive:
        total = np.bincount(flows.connection, weights=rates, minlength=count)
    else:
        slowest = np.full(count, np.inf)
        np.minimum.at(slowest, flows.connection, rates)
        total = slowest * number
    bus = np.full(len(flows.names), np.inf)
    np.minimum.at(bus, flows.job, total[flows.connection])
    return TrafficReport(bus, rates, link_loads(topology, flows, paths, ceiling))


def link_loads(topology: Topology, flows: Connections, paths: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    """Load of each resource over its capacity when every connection moves `rate` [bytes/s], shape (resources,)."""
    table = topology.resources(paths)
    capacity = topology.capacity
    amount = np.repeat(demands(flows, rate), table.shape[1])
    load = np.bincount(np.where(table < 0, len(capacity), table).ravel(), weights=amount, minlength=len(capacity) + 1)
    return np.asarray(load[:-1] / capacity)


def demands(flows: Connections, rate: float) -> NDArray[np.float64]:
    """What each flow moves when every connection moves `rate`, divided evenly over its QPs [bytes/s]."""
    number = np.bincount(flows.connection)
    return rate / number[flows.connection]
