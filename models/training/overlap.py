"""Sums of costs, and what happens when two pieces of work run at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .cost import Cost, Ports


def added(counts: Sequence[Any], costs: Sequence[Cost]) -> Cost:
    """Sum of costs, each as often as counted."""
    found = Cost()
    for count, cost in zip(counts, costs, strict=True):
        found = found + cost * count
    return found


def covered(compute: Cost, beside: Cost, ports: Ports) -> Cost:
    """Both at once: communication keeps its speed, and kernels go on at what it leaves them.

    It takes its share of the compute units, and room on the ports from messages among the kernels.

    Parameters
    ----------
    compute, beside : Cost
    ports : Ports
    """
    busy = np.where(np.greater(beside.time, 0), beside.time, 1.0)
    speed = 1 - np.divide(beside.sm_time, busy)
    work = np.where(np.greater(compute.time, 0), compute.time, 1.0)
    for port, taken, asked in (
        (ports.link, beside.link_bytes, compute.link_bytes),
        (ports.nic, beside.nic_bytes, compute.nic_bytes),
    ):
        if port and np.any(asked):
            room = np.maximum(1 - np.divide(taken, busy * port), 1e-3)
            speed = np.minimum(speed, room / np.maximum(np.divide(asked, work * port), room))
    time = np.maximum(compute.time + (1 - speed) * beside.time, beside.time)
    return replace(compute + beside, time=time, compute=np.minimum(time, compute.compute + time - compute.time))


def at_once(one: Cost, other: Cost, ports: Ports) -> Cost:
    """Messages on two streams: each takes its own time, both together what their bytes take of the ports."""
    time = np.maximum(np.maximum(one.time, other.time), ports.least(one, other))
    return replace(one + other, time=time)


def heaviest(costs: Sequence[Cost]) -> Cost:
    """The cost that takes longest; of each plan its own."""
    found = costs[0]
    for cost in costs[1:]:
        longer = np.greater(cost.time, found.time)
        found = cost * np.where(longer, 1.0, 0.0) + found * np.where(longer, 0.0, 1.0)
    return found
