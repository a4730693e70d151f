"""Months of a long job drawn at random: the process of `reliability`, fault by fault.

Its closed form gives the mean; drawing it gives the spread between months too, and checks the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..hardware.errors import InputError
from .durations import Duration
from .reliability import CAUSES, DAY, Availability, LongJob, Shares, expected

# Two-sided 95 % of a normal distribution.
_NORMAL_95 = 1.959964


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedMonths:
    """A job drawn over many months.

    Parameters
    ----------
    mean : Availability
        Over all of them.
    half_width : dict of str to float
        Half of the 95 % confidence interval of each mean share, and of "goodput".
    months : ndarray, shape (months, 1 + causes)
        Shares of each month: goodput, then `CAUSES`.
    faults : ndarray of int, shape (months,)
        Faults that struck in each.
    """

    mean: Availability
    half_width: Shares
    months: NDArray[np.float64]
    faults: NDArray[np.int64]


def simulate_faults(job: LongJob, month: float = 30 * DAY, months: int = 100, seed: int = 0) -> SimulatedMonths:
    """Draw a job's runs and repairs over months that follow each other.

    Parameters
    ----------
    job : LongJob
    month : float, default 30 days
        Length of one, above 0 [s].
    months : int, default 100
        How many, 2 or more.
    seed : int, default 0
        Same seed, same result.

    Returns
    -------
    SimulatedMonths
        Confidence intervals take the months as independent, which they nearly are when one holds
        several faults.

    Raises
    ------
    InputError
        A month or number of months that is not legal.
    """
    if not 0 < month < np.inf or months < 2:
        raise InputError(f"month {month!r} s, months {months!r} (legal: above 0, finite; 2 or more)")
    random = np.random.default_rng(seed)
    horizon = month * months
    if not job.rate:
        certain = expected(job)
        row = np.array([certain.goodput, *certain.shares.values()])
        return SimulatedMonths(
            certain, dict.fromkeys(("goodput", *CAUSES), 0.0), np.tile(row, (months, 1)),
            np.zeros(months, dtype=np.int64),
        )  # fmt: skip
    ends: list[NDArray[np.float64]] = []
    gains: list[NDArray[np.float64]] = []
    strikes: list[NDArray[np.float64]] = []
    now = 0.0
    batch = int(1.1 * horizon * job.rate) + 16
    while now < horizon:
        durations, gained = _cycles(job, batch, random)
        times = now + np.cumsum(durations.ravel())
        ends.append(times)
        gains.append(gained.reshape(-1, gained.shape[-1]))
        strikes.append(times.reshape(durations.shape)[:, 1])
        now = float(times[-1])
    edges = month * np.arange(months + 1)
    at = np.concatenate([[0.0], *ends])
    collected = np.cumsum(np.concatenate([np.zeros((1, 1 + len(CAUSES))), *gains]), axis=0)
    # Within a phase every account grows evenly, so a month's edge may fall anywhere in it.
    table = np.stack([np.diff(np.interp(edges, at, account)) for account in collected.T], axis=1) / month
    struck = np.histogram(np.concatenate(strikes), bins=edges)[0].astype(np.int64)
    mean = table.mean(axis=0)
    width = _NORMAL_95 * table.std(axis=0, ddof=1) / sqrt(months)
    names = ("goodput", *CAUSES)
    return SimulatedMonths(
        Availability(float(mean[0]), dict(zip(CAUSES, mean[1:].tolist(), strict=True)), float(struck.sum() / horizon)),
        dict(zip(names, width.tolist(), strict=True)),
        table,
        struck,
    )


def _cycles(job: LongJob, count: int, random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw runs with their repairs: lengths of the phases, and what each adds to goodput and `CAUSES`.

    Phases of a cycle: work up to the last checkpoint, with these; work since; noticing; diagnosis and
    isolation, before that a checkpoint where the node is only slow; restart.
    """
    goodput, written, lost, noticed, found, restarted, slowed = range(1 + len(CAUSES))
    rates = np.array([fault.rate for fault in job.faults])
    kind = random.choice(len(rates), size=count, p=rates / rates.sum())
    run = Duration(1 / job.rate, job.uptime, job.uptime_spread).draw(random, count)
    period = job.interval + job.checkpoint
    whole = np.floor(run / period)
    rest = run - whole * period
    length = np.zeros((count, 5))
    gain = np.zeros((count, 5, 1 + len(CAUSES)))
    length[:, 0] = whole * period
    gain[:, 0, goodput], gain[:, 0, written] = whole * job.interval, whole * job.checkpoint
    length[:, 1], gain[:, 1, lost] = rest, rest
    length[:, 4] = gain[:, 4, restarted] = job.reinitialisation.draw(random, count)
    for number, fault in enumerate(job.faults):
        own = np.flatnonzero(kind == number)
        noticing = fault.detection.draw(random, len(own))
        by_itself = random.random(len(own)) < fault.local
        repair = np.where(by_itself, fault.isolation.draw(random, len(own)), fault.manual.draw(random, len(own)))
        length[own, 2] = noticing
        length[own, 3] = gain[own, 3, found] = repair
        if fault.slowdown is None:
            gain[own, 2, noticed] = noticing
            continue
        pace = 1 / (1 + fault.slowdown)
        gain[own, 2, goodput], gain[own, 2, slowed] = pace * noticing, (1 - pace) * noticing
        gain[own, 1, goodput], gain[own, 1, lost] = rest[own], 0.0
        gain[own, 3, written] = job.checkpoint
        length[own, 3] += job.checkpoint
    return length, gain
