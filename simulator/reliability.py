"""What faults cost a long job: time lost since the last checkpoint, to finding, isolating and restarting.

A job alternates between running and repair, a renewal process. While it runs it stops for a checkpoint
after every `interval` of work. A fault ends the run: what was done since the last checkpoint is lost,
the fault has to be noticed, found and isolated (by itself when it is local to a node, by people
otherwise), and the job started again. A node that is merely slow does not end the run: the job goes on
at the pace of that node until it is noticed, then saves its work and restarts without it.

`expected` is the closed form (renewal-reward theorem, S. Ross, "Stochastic Processes", 1996, section
3.6); `fault_months` draws the same process over months, which also tells how much one month differs
from the next. Rates are per device and second of running. No fault strikes during a repair, nor while a
slow node waits to be noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np

from ..hardware.errors import InputError
from .durations import Duration

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

CAUSES = ("checkpoint", "post_checkpoint", "detection", "diagnosis", "reinitialisation", "slow")
"""Where time goes that is not useful work: writing checkpoints; work lost since the last one; noticing;
finding and isolating; starting again; running at the pace of a slow node."""

DOWNTIME = ("post_checkpoint", "detection", "diagnosis", "reinitialisation")
"""The causes that count as downtime caused by errors [arXiv 2406.04594: its break-down has these four]."""

Shares: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of error.

    Parameters
    ----------
    name : str
    rate : float
        Per device and second of running [1/s].
    detection : Duration
        Until it is noticed.
    isolation : Duration
        Diagnosis and isolation by itself, when the fault is local to a node.
    manual : Duration
        Diagnosis and isolation by people otherwise.
    local : float
        Probability that it is local to a node, 0 to 1.
    slowdown : float, optional
        For a node that is slow and not broken: how much longer a step takes, above 0 (0.5: half as long again).
    """

    name: str
    rate: float
    detection: Duration
    isolation: Duration
    manual: Duration
    local: float = 1.0
    slowdown: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate < np.inf:
            raise InputError(f"fault {self.name}: rate {self.rate!r} (legal: 0 or more, finite)")
        if not 0 <= self.local <= 1:
            raise InputError(f"fault {self.name}: local {self.local!r} (legal: 0 to 1)")
        if self.slowdown is not None and not 0 < self.slowdown < np.inf:
            raise InputError(f"fault {self.name}: slowdown {self.slowdown!r} (legal: above 0, finite)")

    @property
    def repair(self) -> float:
        """Expected seconds of diagnosis and isolation."""
        return self.local * self.isolation.mean + (1 - self.local) * self.manual.mean


@dataclass(frozen=True, slots=True)
class LongJob:
    """A job that runs for weeks, and what befalls it.

    Parameters
    ----------
    devices : int
        Devices whose faults stop it, 1 or more.
    faults : sequence of Fault
    interval : float
        Work between checkpoints, above 0 [s].
    reinitialisation : Duration
        From isolation until training goes on.
    checkpoint : float, default 0
        Time a checkpoint holds the job up, 0 or more [s].
    uptime : str, default "exponential"
        Distribution of the time between faults, of mean one over the sum of the rates: any of `KINDS`
        of `Duration`.
    uptime_spread : float, default 1
        Its standard deviation over its mean, where the distribution takes one.
    """

    devices: int
    faults: Sequence[Fault]
    interval: float
    reinitialisation: Duration
    checkpoint: float = 0.0
    uptime: str = "exponential"
    uptime_spread: float = 1.0

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise InputError(f"job: devices {self.devices!r} (legal: 1 or more)")
        if not 0 < self.interval < np.inf:
            raise InputError(f"job: checkpoint interval {self.interval!r} s (legal: above 0, finite)")
        if not 0 <= self.checkpoint < np.inf:
            raise InputError(f"job: checkpoint time {self.checkpoint!r} s (legal: 0 or more, finite)")
        Duration(1.0, self.uptime, self.uptime_spread)

    @property
    def rate(self) -> float:
        """Faults per second of running, of all kinds and devices [1/s]."""
        return self.devices * sum(fault.rate for fault in self.faults)


@dataclass(frozen=True, slots=True)
class Availability:
    """What a job gets out of its time.

    Parameters
    ----------
    goodput : float
        Share of time that became work which lasts, 0 to 1.
    shares : dict of str to float
        Share of time by cause, in the order of `CAUSES`; with `goodput` they add up to 1.
    faults : float
        Faults per second of wall-clock time [1/s].
    """

    goodput: float
    shares: Shares
    faults: float

    @property
    def downtime(self) -> float:
        """Share of time lost to errors: the causes in `DOWNTIME`."""
        return sum(self.shares[cause] for cause in DOWNTIME)


def young_interval(checkpoint: float, rate: float) -> float:
    """Work between checkpoints that loses least, to first order: ``sqrt(2 checkpoint / rate)``.

    Parameters
    ----------
    checkpoint : float
        Time a checkpoint holds the job up, above 0 [s].
    rate : float
        Faults per second of running, above 0 [1/s].

    Raises
    ------
    InputError
        When either is not above 0: without a cost checkpoints never end, without faults none is needed.

    References
    ----------
    J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (1974) 530.
    """
    if not (checkpoint > 0 and rate > 0):
        raise InputError(f"checkpoint {checkpoint!r} s, rate {rate!r} per s (legal: above 0)")
    return sqrt(2 * checkpoint / rate)


def expected(job: LongJob) -> Availability:
    """Expected shares of time of a job that runs for ever; exact for the process as described.

    A run of length X holds ``N = floor(X / (interval + checkpoint))`` finished checkpoints, so N intervals
    of work last; each repair adds the means of its parts.
    """
    running = job.rate
    if not running:
        writing = job.checkpoint / (job.interval + job.checkpoint)
        return Availability(1 - writing, {**dict.fromkeys(CAUSES, 0.0), "checkpoint": writing}, 0.0)
    uptime = Duration(1 / running, job.uptime, job.uptime_spread)
    period = job.interval + job.checkpoint
    saved = uptime.whole_multiples(period)
    amount = dict.fromkeys(("useful", *CAUSES), 0.0)
    for fault in job.faults:
        part = job.devices * fault.rate / running
        noticing = fault.detection.mean
        amount["checkpoint"] += part * job.checkpoint * saved
        amount["diagnosis"] += part * fault.repair
        amount["reinitialisation"] += part * job.reinitialisation.mean
        if fault.slowdown is None:
            amount["useful"] += part * job.interval * saved
            amount["post_checkpoint"] += part * (uptime.mean - period * saved)
            amount["detection"] += part * noticing
        else:
            pace = 1 / (1 + fault.slowdown)
            amount["useful"] += part * (uptime.mean - job.checkpoint * saved + pace * noticing)
            amount["slow"] += part * (1 - pace) * noticing
            amount["checkpoint"] += part * job.checkpoint
    cycle = sum(amount.values())
    shares = {cause: amount[cause] / cycle for cause in CAUSES}
    return Availability(amount["useful"] / cycle, shares, 1 / cycle)
