"""Faults of a long job: the drawn process against its closed form, limits, and what must be monotone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens import InputError
from commlens.simulator.durations import KINDS, Duration
from commlens.simulator.fault_months import simulate_faults
from commlens.simulator.reliability import (
    CAUSES,
    DAY,
    HOUR,
    MINUTE,
    Fault,
    LongJob,
    expected,
    young_interval,
)


def job(**changes) -> LongJob:  # type: ignore[no-untyped-def]
    """Two kinds of crash and one of slow node on 1,000 devices: about two faults a day."""
    faults = (
        Fault("gpu", 1 / (1000 * 20 * HOUR), Duration(10 * MINUTE), Duration(5 * MINUTE), Duration(3 * HOUR), 0.9),
        Fault("network", 1 / (1000 * 60 * HOUR), Duration(HOUR, "exponential"), Duration(5 * MINUTE),
              Duration(8 * HOUR, "lognormal", 0.8), 0.3),
        Fault("slow", 1 / (1000 * 50 * HOUR), Duration(6 * HOUR, "weibull", 0.5), Duration(5 * MINUTE),
              Duration(2 * HOUR), 0.5, slowdown=0.25),
    )  # fmt: skip
    return LongJob(**{"devices": 1000, "faults": faults, "interval": HOUR, "checkpoint": 2 * MINUTE,
                      "reinitialisation": Duration(8 * MINUTE), **changes})  # fmt: skip


@pytest.mark.parametrize(("uptime", "spread"), [("exponential", 1.0), ("weibull", 1.5), ("lognormal", 0.7)])
def test_the_drawn_months_agree_with_the_closed_form(uptime: str, spread: float) -> None:
    case = job(uptime=uptime, uptime_spread=spread)
    drawn, exact = simulate_faults(case, months=600, seed=4), expected(case)
    # 2.6 half widths are about five standard errors.
    assert abs(drawn.mean.goodput - exact.goodput) < 2.6 * drawn.half_width["goodput"]
    for cause in CAUSES:
        assert abs(drawn.mean.shares[cause] - exact.shares[cause]) < 2.6 * drawn.half_width[cause], cause
    assert drawn.mean.faults == pytest.approx(exact.faults, rel=0.03)
    assert 0 < drawn.half_width["goodput"] < 0.01
    assert drawn.half_width["slow"] > 0


def test_the_interval_covers_as_often_as_it_says() -> None:
    exact = expected(job()).goodput
    runs = [simulate_faults(job(), months=60, seed=seed) for seed in range(100)]
    inside = sum(abs(run.mean.goodput - exact) <= run.half_width["goodput"] for run in runs)
    assert 86 <= inside <= 100


def test_shares_of_every_month_add_up() -> None:
    drawn = simulate_faults(job(), months=40, seed=1)
    np.testing.assert_allclose(drawn.months.sum(axis=1), 1.0, rtol=1e-9)
    assert (drawn.months >= -1e-12).all()
    assert drawn.faults.shape == (40,)
    exact = expected(job())
    assert exact.goodput + sum(exact.shares.values()) == pytest.approx(1.0, rel=1e-12)
    assert set(exact.shares) == set(CAUSES)


def test_same_seed_same_months() -> None:
    first, second, other = (simulate_faults(job(), months=5, seed=seed).months for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_without_faults_only_checkpoints_cost() -> None:
    for case in (job(faults=()), job(faults=(Fault("none", 0.0, Duration(1), Duration(1), Duration(1)),))):
        assert expected(case).goodput == pytest.approx(60 / 62)
        assert expected(case).downtime == 0
        drawn = simulate_faults(case, months=3)
        assert drawn.mean == expected(case)
        assert not drawn.faults.any()


def test_worked_out_by_hand() -> None:
    # Runs of exactly 10 h; a checkpoint every 3 h costs nothing: 9 h last, 1 h is lost, then 0.5 + 2 + 0.25 h.
    fault = Fault("crash", 1 / (10 * HOUR), Duration(0.5 * HOUR), Duration(HOUR), Duration(3 * HOUR), 0.5)
    case = LongJob(1, (fault,), 3 * HOUR, Duration(0.25 * HOUR), uptime="fixed")
    answer = expected(case)
    cycle = 10 + 0.5 + 2 + 0.25
    assert answer.goodput == pytest.approx(9 / cycle)
    assert answer.shares["post_checkpoint"] == pytest.approx(1 / cycle)
    assert answer.shares["detection"] == pytest.approx(0.5 / cycle)
    assert answer.shares["diagnosis"] == pytest.approx(2 / cycle)
    assert answer.shares["reinitialisation"] == pytest.approx(0.25 / cycle)
    assert answer.faults == pytest.approx(1 / (cycle * HOUR))
    assert answer.downtime == pytest.approx(3.75 / cycle)


def test_a_slow_node_costs_its_slowdown_until_it_is_noticed() -> None:
    # 10 h at full speed, 4 h at 1 / 1.25 of it, a checkpoint of 0.1 h, an hour to isolate.
    fault = Fault("slow", 1 / (10 * HOUR), Duration(4 * HOUR), Duration(HOUR), Duration(HOUR), slowdown=0.25)
    case = LongJob(1, (fault,), 100 * HOUR, Duration(0.0), checkpoint=0.1 * HOUR, uptime="fixed")
    answer = expected(case)
    cycle = 10 + 4 + 0.1 + 1
    assert answer.goodput == pytest.approx((10 + 3.2) / cycle)
    assert answer.shares["slow"] == pytest.approx(0.8 / cycle)
    assert answer.shares["checkpoint"] == pytest.approx(0.1 / cycle)
    assert answer.shares["post_checkpoint"] == 0
    drawn = simulate_faults(case, month=cycle * HOUR, months=5)
    assert drawn.mean.goodput == pytest.approx(answer.goodput)
    assert drawn.faults.tolist() == [1] * 5


def test_small_rates_give_half_an_interval_lost() -> None:
    # rate (interval / 2 + repair): the first order of any such model.
    fault = Fault("crash", 1 / (10_000 * HOUR), Duration(60.0), Duration(0.0), Duration(0.0))
    answer = expected(LongJob(1, (fault,), HOUR, Duration(0.0)))
    assert answer.shares["post_checkpoint"] == pytest.approx(0.5 / 10_000, rel=1e-3)
    assert answer.shares["detection"] == pytest.approx(1 / 60 / 10_000, rel=1e-3)


@settings(max_examples=40)
@given(
    st.floats(0.1, 3.0), st.floats(1.1, 3.0),
    st.sampled_from(["rate", "detection", "manual", "isolation", "reinitialisation", "local"]),
)  # fmt: skip
def test_worse_faults_never_help(rate: float, factor: float, what: str) -> None:
    base = Fault("crash", rate / DAY, Duration(HOUR), Duration(60.0), Duration(4 * HOUR), 0.6)
    case = LongJob(1, (base,), HOUR, Duration(600.0), checkpoint=60.0)
    if what == "reinitialisation":
        worse = replace(case, reinitialisation=Duration(600.0 * factor))
    else:
        value = getattr(base, what)
        changed = {"rate": base.rate * factor, "local": 0.6 / factor}.get(what) or Duration(value.mean * factor)
        worse = replace(case, faults=(replace(base, **{what: changed}),))
    assert expected(worse).goodput < expected(case).goodput


def test_devices_multiply_the_rate() -> None:
    fault = Fault("crash", 1e-7, Duration(60.0), Duration(60.0), Duration(60.0))
    many = LongJob(64, (fault,), HOUR, Duration(60.0))
    one = LongJob(1, (replace(fault, rate=64e-7),), HOUR, Duration(60.0))
    assert expected(many) == expected(one)


def test_youngs_interval_is_next_to_the_best() -> None:
    case = job()
    young = young_interval(case.checkpoint, case.rate)
    assert young == pytest.approx((2 * 120 / case.rate) ** 0.5)
    grid = np.geomspace(young / 5, young * 5, 400)
    best = max(expected(replace(case, interval=float(t))).goodput for t in grid)
    assert best - expected(replace(case, interval=young)).goodput < 5e-4
    assert best - expected(replace(case, interval=5 * young)).goodput > 5e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
def test_durations_have_their_mean_and_spread(kind: str, spread: float) -> None:
    duration = Duration(7.0, kind, spread)
    drawn = duration.draw(np.random.default_rng(3), 400_000)
    true = {"fixed": 0.0, "exponential": 1.0}.get(kind, spread)
    assert drawn.mean() == pytest.approx(7.0, rel=0.02)
    assert drawn.std() / 7.0 == pytest.approx(true, rel=0.1, abs=1e-12)
    for time in (0.5, 3.0, 10.0):
        assert (drawn >= time).mean() == pytest.approx(float(duration.survival(np.array([time]))[0]), abs=0.004)
    assert np.floor(drawn / 2.0).mean() == pytest.approx(duration.whole_multiples(2.0), rel=0.03)


def test_nonsense_is_refused_in_one_line() -> None:
    minute = Duration(60.0)
    for make, said in [
        (lambda: Duration(-1.0), "mean"),
        (lambda: Duration(1.0, "gamma"), "lognormal"),
        (lambda: Duration(1.0, "weibull", 0.0), "spread"),
        (lambda: Fault("x", -1.0, minute, minute, minute), "rate"),
        (lambda: Fault("x", 1.0, minute, minute, minute, 1.5), "0 to 1"),
        (lambda: Fault("x", 1.0, minute, minute, minute, slowdown=0.0), "slowdown"),
        (lambda: job(devices=0), "devices"),
        (lambda: job(interval=0.0), "interval"),
        (lambda: job(checkpoint=-1.0), "checkpoint"),
        (lambda: job(uptime="normal"), "kind"),
        (lambda: simulate_faults(job(), months=1), "months"),
        (lambda: young_interval(0.0, 1.0), "legal"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            make()  # type: ignore[no-untyped-call]
        assert "\n" not in str(caught.value)
