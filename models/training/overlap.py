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
    """Both at once, from one start to the later end, each as fast as the other lets it.

    Parameters
    ----------
    compute, beside : Cost
        Kernels, with messages that take turns with them; and communication.
    ports : Ports
    """
    ours, theirs = speeds(compute, beside, ports)
    # Whichever ends first leaves all to the other.
    first = compute.time + np.divide(1 - ours, theirs) * beside.time
    second = beside.time + np.divide(1 - theirs, ours) * compute.time
    time = np.maximum(first, second)
    return replace(compute + beside, time=time, compute=np.minimum(time, compute.compute + time - compute.time))


def unwaited(compute: Cost, beside: Cost, ports: Ports) -> Any:
    """Seconds after which the kernels are through where nothing waits for communication beside them.

    Parameters
    ----------
    compute, beside : Cost
    ports : Ports
    """
    ours, theirs = speeds(compute, beside, ports)
    return np.minimum(compute.time + np.divide(1 - ours, theirs) * beside.time, np.divide(compute.time, ours))


def speeds(compute: Cost, beside: Cost, ports: Ports) -> tuple[Any, Any]:
    """Speed of kernels and of communication while both last, as shares of their speed alone.

    The rule of the simulator for two: of what is short, they have equal dominant shares
    (`simulator.sharing`), or one has all it asks for and the other the rest.

    Parameters
    ----------
    compute, beside : Cost
    ports : Ports
    """
    work = np.where(np.greater(compute.time, 0), compute.time, 1.0)
    busy = np.where(np.greater(beside.time, 0), beside.time, 1.0)
    channels = np.divide(beside.sm_time, busy)
    # Messages among the kernels leave compute units to the channels of the others.
    asked = [(1 - channels * (1 - np.divide(compute.sm_time, work)), channels)]
    for port, own, other in (
        (ports.link, compute.link_bytes, beside.link_bytes),
        (ports.nic, compute.nic_bytes, beside.nic_bytes),
    ):
        if port and (np.any(own) or np.any(other)):
            asked.append((np.divide(own, work * port), np.divide(other, busy * port)))
    asked = [(np.minimum(own, 1.0), np.minimum(other, 1.0)) for own, other in asked]
    ours, theirs = (_most([pair[i] for pair in asked]) for i in (0, 1))
    theirs = np.where(np.greater(theirs, 0), theirs, 1.0)
    crowd = _most([np.divide(own, ours) + np.divide(other, theirs) for own, other in asked])
    left = [_most([np.divide(a[i], np.maximum(1 - a[1 - i], 1e-9)) for a in asked]) for i in (0, 1)]
    first = np.maximum(np.divide(1, crowd * ours), np.divide(1, np.maximum(left[0], 1.0)))
    second = np.maximum(np.divide(1, crowd * theirs), np.divide(1, np.maximum(left[1], 1.0)))
    return np.minimum(1.0, first), np.minimum(1.0, second)


def _most(values: Sequence[Any]) -> Any:
    found = values[0]
    for value in values[1:]:
        found = np.maximum(found, value)
    return found


def heaviest(costs: Sequence[Cost]) -> Cost:
    """The cost that takes longest; of each plan its own."""
    found = costs[0]
    for cost in costs[1:]:
        longer = np.greater(cost.time, found.time)
        found = cost * np.where(longer, 1.0, 0.0) + found * np.where(longer, 0.0, 1.0)
    return found
