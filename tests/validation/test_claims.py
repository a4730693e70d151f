"""The issue of trust: published results, predicted without having been fitted to them."""

import pytest

from commlens import InputError, validate
from commlens.validation import fit_ladder, ladder, t3
from commlens.validation.claims import MEASURED, read_claims
from commlens.validation.report import text


@pytest.fixture(scope="module")
def table():
    return validate("tensor_parallel")


def test_contract_columns(table):
    assert list(table.columns[:8]) == [
        "technique",
        "claim",
        "metric",
        "reported",
        "predicted",
        "error",
        "source",
        "reason",
    ]
    known = table[table["predicted"].notna()]
    assert (known["error"] - (known["predicted"] / known["reported"] - 1)).abs().max() < 1e-12
    assert (table[table["predicted"].isna()]["reason"] != "").all()


def test_every_shipped_claim_is_answered(table):
    claims = {row["claim_id"] for name in ("ladder_residual", "t3") for row in read_claims(name)}
    assert claims == set(table["claim"])


def test_ladder_speedups_and_throughput(table):
    speedups = table[table["metric"].isin(["speed-up over baseline", "throughput speedup"])]
    throughput = table[table["metric"] == "end-to-end throughput"]
    assert len(speedups) == 38
    assert len(throughput) == 50
    assert speedups["error"].abs().mean() <= 0.04
    assert throughput["error"].abs().mean() <= 0.10
    assert speedups["error"].abs().mean() < 0.3 * speedups["trivial_error"].abs().mean()
    assert throughput["error"].abs().mean() < 0.3 * throughput["trivial_error"].abs().mean()


def test_nothing_of_the_techniques_is_fitted(table):
    fitted = table[table["split"] == "calibration"]
    assert set(fitted["technique"]) == {"baseline", "no_communication"}
    assert not fitted["setting"].str.contains("405").any()
    assert len(fit_ladder.FREE) <= 5


T3 = {
    "T3-S1": (1.50, 0.05),
    "T3-S2": (1.35, 0.05),
    "T3-S4": (1.20, 0.05),
    "T3-S5": (1.47, 0.05),
    "T3-S6": (1.30, 0.05),
    "T3-D1": (36, 4),
    "T3-D2": (22, 4),
    "T3-D3": (2.5, 0.05),
    "T3-D4": (2.2, 0.05),
    "T3-S7": (1.07, 0.01),
    "T3-S8": (1.03, 0.01),
    "T3-L2": (29, 5),
}


@pytest.mark.parametrize("claim", T3)
def test_t3_on_its_own_machine(table, claim):
    reported, tolerance = T3[claim]
    row = table[table["claim"] == claim].iloc[0]
    assert row["reported"] == pytest.approx(reported)
    assert row["predicted"] == pytest.approx(reported, abs=tolerance)


@pytest.mark.parametrize("claim", ["T3-S3", "T3-L1"])
def test_claims_that_are_missed_say_so(table, claim):
    row = table[table["claim"] == claim].iloc[0]
    assert abs(row["error"]) > 0.05
    assert row["reason"]


def test_t3_traffic_is_the_closed_form():
    # arXiv 2401.16677 section 6.2: reads (2N - 1) c against (N - 2) c, writes 2 S against 2 S (1 - 1 / N)
    for tp in (8, 16):
        assert t3.reduce_scatter_reads(tp) == pytest.approx((2 * tp - 1) / (tp - 2))
        case = ("mega-gpt-2", tp, "FC-2")
        ratio = t3.sub_layer(*case, "t3", "mca")["writes"] / t3.sub_layer(*case, "baseline")["writes"]
        assert ratio == pytest.approx(1 - 1 / tp)


def test_near_memory_gain_is_the_closed_form():
    # 3 B / (W (N - 1)) of the transfer, less the latency's share
    for tp in (8, 16):
        assert t3.near_memory_gain(tp) == pytest.approx(1 + 3 * 150e9 / (1e12 * (tp - 1)), abs=2e-3)


def test_misses_carry_a_reason(table):
    missed = table[table["error"].abs() > 0.15]
    assert (missed["reason"] != "").all(), missed[missed["reason"] == ""][["claim", "metric", "error"]]


def test_unknown_family_is_one_line():
    with pytest.raises(InputError, match="tensor_parallel"):
        validate("tensor_paralel")


def test_report_reads_as_text(table):
    shown = text(table)
    assert "speed-up over baseline" in shown
    assert "T3-S4" in shown
    assert "why" in shown


def test_tables_that_are_not_shipped_are_skipped_with_a_reason(monkeypatch):
    monkeypatch.delenv(MEASURED, raising=False)
    frame = validate("kernels")
    assert len(frame) == 0
    assert MEASURED in frame.attrs["skipped"][0]
    assert "Skipped" in text(frame)


def test_settings_parse():
    row = {
        "setting": "TP16 batch 8 P2P off; ladder",
        "model": "llama-3.1-405b",
        "metric": "decode latency of 511 tokens",
    }
    assert ladder.parse(row) == {
        "model": "ladder-405b",
        "tp": 16,
        "batch": 8,
        "p2p": False,
        "technique": "ladder_residual",
        "prompt": 1024,
        "new": 512,
    }
    assert ladder.parse({"setting": "TP8 P2P on", "model": "70B", "metric": ""}) is None


def test_the_interval_is_the_error_on_rows_not_fitted(table):
    from commlens.models.software import load_software

    held = table[(table["metric"] == "end-to-end throughput") & (table["split"] == "held out")]
    assert load_software("torch-compile").error == pytest.approx(held["error"].abs().quantile(0.9), abs=2e-3)


@pytest.mark.slow
def test_the_committed_profile_is_what_the_fit_gives():
    from commlens.models.software import load_software

    values, errors = fit_ladder.fit()
    profile = load_software("torch-compile")
    for name, value in values.items():
        assert getattr(profile, name) == pytest.approx(value, rel=0.02), name
    assert abs(errors).mean() < 0.05
