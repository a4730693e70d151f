"""ByteScale's case study and ablation: what is met, and that what is missed says why."""

import pytest

from commlens.validation import bytescale
from commlens.validation.bytescale import LONGEST
from commlens.validation.claims import read_claims


@pytest.fixture(scope="module")
def found():
    return list(bytescale.rows())


def predicted(rows, claim, step=False):  # type: ignore[no-untyped-def]
    return next(row for row in rows if row.claim == claim and row.metric.startswith("factor of") == step)


@pytest.mark.slow
def test_every_claim_is_answered_and_misses_carry_a_reason(found):
    assert {row.claim for row in found} == {claim["claim_id"] for claim in read_claims("bytescale")}
    for row in found:
        assert row.predicted is not None or row.reason, row.claim
        assert row.error is None or abs(row.error) <= 0.15 or row.reason, row.claim


@pytest.mark.slow
@pytest.mark.parametrize(
    "claim",
    [
        "bs_case_base",
        "bs_case_naive",
        "bs_case_bal",
        "bs_case_commshare",
        "bs_case_attn256",
        "bs_case_attn39",
        "bs_abl_dynamic",
        "bs_dbl_naive",
        "bs_off_0.5_m",
        "bs_off_recompute_m",
    ],
)
def test_within_15_percent(found, claim):
    assert abs(predicted(found, claim).error) <= 0.15


@pytest.mark.slow
def test_the_ablation_keeps_its_order_and_all_steps_but_offload_their_size(found):
    totals = [predicted(found, name).predicted for name in ("bs_abl_dynamic", "bs_abl_balance", "bs_abl_load")]
    assert totals == sorted(totals)
    for name in ("bs_abl_dynamic", "bs_abl_balance", "bs_abl_load"):
        assert abs(predicted(found, name, step=True).error) <= 0.05
    assert predicted(found, "bs_abl_off", step=True).error < -0.15  # told as missed


def test_context_doubles_and_the_baseline_halves():
    short, long = bytescale.study("GitHub", LONGEST // 8), bytescale.study("GitHub")
    assert (long.baseline / short.baseline) ** (1 / 3) == pytest.approx(2, rel=0.10)
    # what the plan avoids: growth of the balanced step is less than half of that
    assert (long.balanced / short.balanced) ** (1 / 3) < 1.3


@pytest.mark.slow
def test_pipelines_gain_less_than_data_parallelism_alone():
    alone, piped = bytescale.study("GitHub"), bytescale.study("GitHub", pp=2)
    assert alone.baseline / alone.balanced > 1.15 * piped.baseline / piped.balanced


def test_the_knee_is_where_it_is_put():
    rates = bytescale.costs(copy=bytescale.knee_rate())
    assert float(bytescale.hidden_ratio(bytescale.KNEE_LENGTH, rates)) == pytest.approx(bytescale.KNEE)


def test_what_is_fitted_is_two_choices_by_one_row():
    assert bytescale.fitted() == (2, True)
    assert sum(row.split == "calibration" for row in bytescale.rows()) == len(bytescale.CALIBRATION)
