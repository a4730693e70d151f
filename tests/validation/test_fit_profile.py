"""The fit of collective profiles: known parameters come back, and what is not told apart is not fitted."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from commlens.hardware import InSwitch, Protocol, load_cluster, load_profile
from commlens.hardware.profile import PROTOCOLS
from commlens.validation.fit_profile import errors, fit, predict, with_profile


@dataclass(frozen=True)
class Sample:
    kind: str
    ranks: int
    size: float
    time: float = 0.0


SIZES = [2.0**k for k in range(9, 31, 2)]
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
TRUTH = replace(
    load_profile("nvlink3"),
    low=Protocol(6e-6, 1.5e-6, 0.35, 0.8),
    bulk=Protocol(30e-6, 4e-6, 0.7, 0.4),
    exchange_low=Protocol(6e-6, 0.5e-6, 0.2, 0.8),
    exchange_bulk=Protocol(30e-6, 0.0, 0.6, 0.2),
    bulk_bias=1.2,
)


def measured(ranks=(2, 4, 8), kinds=KINDS, noise=0.03, seed=0, truth=TRUTH):
    cluster = load_cluster("dgx-a100")
    bare = [Sample(kind, n, size) for kind in kinds for n in ranks for size in SIZES]
    times = predict(truth, cluster, bare) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(bare)))
    return cluster, [replace(sample, time=float(time)) for sample, time in zip(bare, times, strict=True)]


def test_known_parameters_come_back():
    cluster, samples = measured()
    found = fit(samples, cluster)
    assert found.profile.low.base == pytest.approx(TRUTH.low.base, rel=0.1)
    assert found.profile.low.hop == pytest.approx(TRUTH.low.hop, rel=0.1)
    assert found.profile.bulk.efficiency == pytest.approx(TRUTH.bulk.efficiency, rel=0.05)
    assert found.profile.bulk.copy == pytest.approx(TRUTH.bulk.copy, abs=0.15)
    assert found.profile.exchange_bulk.efficiency == pytest.approx(0.6, rel=0.1)
    assert np.abs(errors(found.profile, cluster, samples)).mean() < 0.03
    fresh = measured(seed=7)[1]
    assert np.abs(errors(found.profile, cluster, fresh)).mean() < 0.04


def test_calls_of_milliseconds_come_back():
    """As among processes of one host, where a message is a matter for the kernel."""
    slow = {
        name: replace(part, base=500 * part.base, hop=500 * part.hop, efficiency=0.1 * part.efficiency)
        for name in PROTOCOLS
        for part in [getattr(TRUTH, name)]
    }
    cluster, samples = measured(truth=replace(TRUTH, **slow))
    found = fit(samples, cluster)
    assert found.profile.low.base == pytest.approx(3e-3, rel=0.15)
    assert found.profile.bulk.efficiency == pytest.approx(0.07, rel=0.1)
    assert np.abs(errors(found.profile, cluster, samples)).mean() < 0.06


def test_outliers_do_not_pull():
    cluster, samples = measured()
    spoiled = [replace(s, time=s.time * 5) if i % 17 == 0 else s for i, s in enumerate(samples)]
    found = fit(spoiled, cluster)
    assert np.median(np.abs(errors(found.profile, cluster, samples))) < 0.04


def test_one_number_of_ranks_leaves_hops_in_the_base():
    cluster, samples = measured(ranks=(4,), kinds=("all_reduce",))
    found = fit(samples, cluster)
    assert not {"low.hop", "bulk.hop", "low.copy"} & set(found.free)
    assert not any(name.startswith(("exchange", "in_switch")) for name in found.free)
    assert found.profile.low.base == pytest.approx(TRUTH.low.base + 6 * TRUTH.low.hop, rel=0.1)
    assert np.abs(errors(found.profile, cluster, samples)).mean() < 0.03


def test_a_number_held_fixed_stays():
    cluster, samples = measured()
    found = fit(samples, cluster, {"bulk.efficiency": 0.7})
    assert found.profile.bulk.efficiency == 0.7
    assert "bulk.efficiency" not in found.free


def test_too_few_samples_are_refused():
    cluster, samples = measured()
    with pytest.raises(ValueError, match="8 or more"):
        fit(samples[:7], cluster)


def test_a_cluster_takes_its_link_and_switch_from_a_profile():
    cluster, profile = load_cluster("dgx-h100"), replace(TRUTH, in_switch=InSwitch(1e-5, 0.5))
    changed = with_profile(cluster, profile)
    assert (changed.link.profile, changed.link.latency) == (profile, TRUTH.low.hop)
    assert (changed.switch_reduction.base, changed.switch_reduction.efficiency) == (1e-5, 0.5)
    assert changed.switch_reduction.bandwidth == cluster.switch_reduction.bandwidth
    assert with_profile(cluster, TRUTH).switch_reduction == cluster.switch_reduction  # it says nothing of a switch
    assert with_profile(load_cluster("dgx-a100"), profile).switch_reduction is None
