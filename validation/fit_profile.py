"""Fits what a communication library makes of a link to measured collectives inside a node.

The model is the one that predicts (`simulator.communicator`), so a fitted profile is used as it was
fitted. What the samples cannot tell apart is not fitted: with one number of ranks a hop's latency is
part of the base, and what a rank copies is part of the rate; without all-to-all samples the exchange
is taken to cost what a ring costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol as Shape

import numpy as np

from ..hardware import Cluster, InSwitch, Profile, Protocol
from ..simulator.communicator import Communicator


class Sample(Shape):
    """What a fit needs to know of a measured collective."""

    @property
    def kind(self) -> str:
        """One of the communicator's kinds."""

    @property
    def ranks(self) -> int:
        """Ranks in the group."""

    @property
    def size(self) -> float:
        """Bytes, by the convention of nccl-tests."""

    @property
    def time(self) -> float:
        """Seconds."""


# Start, least and most of every number; times in microseconds, as of libraries whose calls take some ten.
NUMBERS = {
    "low.base": (8.0, 0.5, 200.0),
    "low.hop": (1.0, 0.02, 50.0),
    "low.efficiency": (0.4, 0.01, 1.0),
    "low.copy": (1.0, 0.0, 3.0),
    "bulk.base": (20.0, 1.0, 400.0),
    "bulk.hop": (3.0, 0.0, 100.0),
    "bulk.efficiency": (0.8, 0.02, 1.0),
    "bulk.copy": (0.5, 0.0, 2.0),
    "exchange_low.hop": (1.0, 0.0, 50.0),
    "exchange_low.efficiency": (0.15, 0.01, 1.0),
    "exchange_bulk.efficiency": (0.65, 0.02, 1.0),
    "exchange_bulk.copy": (0.3, 0.0, 2.0),
    "in_switch.base": (50.0, 1.0, 400.0),
    "in_switch.efficiency": (0.55, 0.02, 1.0),
}
CALL = 10.0  # [us]
SLOW = 10.0  # where the quickest call takes so many times as long, as among processes of a host, times scale with it
BIASES = (1.0, 1.1, 1.2, 1.35, 1.5)  # a step in the model, so tried one by one


@dataclass(frozen=True, slots=True)
class Fitted:
    """A profile and how it was found.

    Parameters
    ----------
    profile : Profile
    free : tuple of str
        Numbers that were fitted.
    cost : float
        What least squares ended at.
    """

    profile: Profile
    free: tuple[str, ...]
    cost: float


def with_profile(cluster: Cluster, profile: Profile) -> Cluster:
    """The cluster whose link, and the reduction in whose switch, are as a profile has them."""
    changed = cluster.replace(link=replace(cluster.link, profile=profile, latency=profile.low.hop))
    switch, measured = cluster.switch_reduction, profile.in_switch
    if switch is None or measured is None:
        return changed
    return changed.replace(switch_reduction=replace(switch, base=measured.base, efficiency=measured.efficiency))


def predict(profile: Profile, cluster: Cluster, samples: Sequence[Sample]) -> np.ndarray:
    """Times of the samples on a cluster whose link has a profile [s], of shape (samples,)."""
    changed = with_profile(cluster, profile)
    times = np.empty(len(samples))
    groups: dict[tuple[str, int], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault((sample.kind, sample.ranks), []).append(index)
    for (kind, ranks), members in groups.items():
        sizes = [samples[i].size for i in members]
        times[members] = Communicator(changed, ranks).times(kind, sizes)
    return times


def fit(
    samples: Sequence[Sample],
    cluster: Cluster,
    fixed: Mapping[str, float] | None = None,
    name: str = "profile",
) -> Fitted:
    """Profile that predicts the samples best, in the least squares of the logarithm of times.

    Parameters
    ----------
    samples : sequence of Sample
        Inside one node of the cluster; at least 8.
    cluster : Cluster
        Where they were measured; its link's profile is what is replaced.
    fixed : mapping of str to float, optional
        Numbers of `NUMBERS` known from elsewhere [us for times].
    name : str

    Returns
    -------
    Fitted

    Raises
    ------
    ValueError
        For too few samples.
    """
    from scipy.optimize import least_squares

    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples (legal: 8 or more)")
    known = dict(fixed or {})
    tied = _tie(samples, cluster, known)
    free = tuple(key for key in NUMBERS if key not in known and key not in tied)
    measured = np.array([sample.time for sample in samples])
    start = np.array([NUMBERS[key][0] for key in free])
    low = np.array([NUMBERS[key][1] for key in free])
    # From the data: the quickest call is near the base, the best rate near the wire's.
    quick = 1e6 * float(measured.min())
    high = np.array([NUMBERS[key][2] for key in free])
    if quick > SLOW * CALL:
        scale = np.array([quick / CALL if key.endswith((".base", ".hop")) else 1.0 for key in free])
        start, high = start * scale, high * scale
    for key, factor in (("low.base", 0.8), ("bulk.base", 2.0)):
        if key in free:
            place = free.index(key)
            start[place] = np.clip(factor * quick, low[place], high[place])
    best: Fitted | None = None
    for bias in BIASES:

        def profile(values: np.ndarray, bias: float = bias) -> Profile:
            return _profile({**known, **dict(zip(free, map(float, values), strict=True))}, bias, tied, cluster, name)

        found = least_squares(
            lambda values, make: np.log(predict(make(values), cluster, samples) / measured),
            start,
            bounds=(low, high),
            x_scale=start,
            loss="soft_l1",
            f_scale=0.1,
            max_nfev=40,
            args=(profile,),
        )
        if best is None or found.cost < best.cost * (1 - 1e-6):
            best = Fitted(profile(found.x), free, float(found.cost))
    assert best is not None
    return best


def errors(profile: Profile, cluster: Cluster, samples: Sequence[Sample]) -> np.ndarray:
    """Relative errors of the samples' times, of shape (samples,)."""
    measured = np.array([sample.time for sample in samples])
    return np.asarray(predict(profile, cluster, samples) / measured - 1)


def _tie(samples: Sequence[Sample], cluster: Cluster, known: dict[str, float]) -> set[str]:
    """Numbers the samples say nothing about; those that then are zero go into `known`."""
    tied: set[str] = set()
    rings = {sample.ranks for sample in samples if sample.kind not in ("all_to_all", "send_recv")}
    exchanges = {sample.ranks for sample in samples if sample.kind in ("all_to_all", "send_recv")}
    switch = cluster.switch_reduction
    if switch is None or not any(s.kind == "all_reduce" and s.ranks >= switch.min_ranks for s in samples):
        tied |= {"in_switch.base", "in_switch.efficiency"}
    if len(rings) < 2:
        known |= {key: 0.0 for key in ("low.hop", "bulk.hop", "low.copy", "bulk.copy") if key not in known}
    if not exchanges:
        tied |= {key for key in NUMBERS if key.startswith("exchange")}
    elif len(exchanges) < 2:
        known |= {key: 0.0 for key in ("exchange_low.hop", "exchange_bulk.copy") if key not in known}
    return tied


def _profile(values: Mapping[str, float], bias: float, tied: set[str], cluster: Cluster, name: str) -> Profile:
    def number(part: str, key: str) -> float:
        return values[f"{part}.{key}"]

    low = Protocol(
        1e-6 * number("low", "base"),
        1e-6 * number("low", "hop"),
        number("low", "efficiency"),
        number("low", "copy"),
    )
    bulk = Protocol(
        1e-6 * number("bulk", "base"),
        1e-6 * number("bulk", "hop"),
        number("bulk", "efficiency"),
        number("bulk", "copy"),
    )
    exchange_low, exchange_bulk = low, bulk
    if "exchange_low.hop" not in tied:
        # The call costs what it costs a ring; a peer more, a share of the wire and the copies are its own.
        exchange_low = Protocol(
            low.base,
            1e-6 * number("exchange_low", "hop"),
            number("exchange_low", "efficiency"),
            low.copy,
        )
        exchange_bulk = Protocol(
            bulk.base,
            0.0,
            number("exchange_bulk", "efficiency"),
            number("exchange_bulk", "copy"),
        )
    in_switch = cluster.link.profile.in_switch
    if "in_switch.base" not in tied:
        in_switch = InSwitch(1e-6 * number("in_switch", "base"), number("in_switch", "efficiency"))
    return Profile(name, low, bulk, exchange_low, exchange_bulk, bias, in_switch, cluster.link.bandwidth)
