"""LASP-2's published runs: gaps, indifference, the limit of memory, and claims that contradict each other."""

import pytest

from commlens.validation import lasp2
from commlens.validation.claims import read_claims


@pytest.fixture(scope="module")
def rows():
    return {row.claim: row for row in lasp2.rows()}


def test_every_claim_is_answered_or_says_why_not(rows):
    assert set(rows) == {claim["claim_id"] for claim in read_claims("lasp2")} | {"l2_t6_limit"}
    assert all(row.reason for row in rows.values() if row.predicted is None)


@pytest.mark.parametrize("name", ["l2_512k_lasp1", "l2_2048k_lasp1"])
def test_gap_to_lasp_within_three_points(rows, name):
    assert rows[name].predicted == pytest.approx(rows[name].reported, abs=3.0)
    assert rows[name].split == "held out"


def test_gap_grows_with_length(rows):
    lengths = (2**18, 2**19, 2**20, 2**21)
    gaps = [lasp2.gain_over_lasp(64, length) for length in lengths]
    assert gaps == sorted(gaps)
    assert gaps[0] > 0


def test_indifferent_to_splitting_the_gather():
    times = [lasp2.step_time("lasp2", 64, 2**20, pieces) for pieces in (1, 4, 16, 64)]
    assert max(times) / min(times) - 1 < lasp2.INDIFFERENT


def test_limit_of_memory(rows):
    assert rows["l2_t6_limit"].predicted == rows["l2_t6_limit"].reported == 24
    for devices in (16, 32, 64, 128):
        # 16K tokens a device fit, 32K do not.
        assert lasp2.predicted("lasp2", devices, 16_384 * devices).fits
        assert not lasp2.predicted("lasp2", devices, 32_768 * devices).fits


def test_memory_by_tokens_of_a_device(rows):
    memory = [row for row in rows.values() if row.metric.startswith("memory")]
    assert sum(abs(row.error) for row in memory) / len(memory) < 0.05
    assert max(abs(row.error) for row in memory) < 0.08
    assert {row.split for row in memory} == {"held out"}


def test_two_inputs_of_the_host_and_better_than_the_mean(rows):
    every_step, every_token = lasp2.host()
    assert 1.4 < every_step < 2.0
    assert 0.2e-6 < every_token < 1.2e-6
    held = [
        r
        for r in rows.values()
        if "Table 6" in r.source and r.metric.startswith("throughput") and r.split != "calibration"
    ]
    ours, trivial = (
        sum(abs(value(row) / row.reported - 1) for row in held) / len(held)
        for value in (lambda row: row.predicted, lambda row: row.trivial)
    )
    assert len(held) == 15
    assert ours < 0.06 < trivial
    assert len(lasp2.calibration()) == 9


def test_hybrid_over_pure(rows):
    for kind in ("lightning", "retention", "based", "rebased"):
        assert rows[f"l2_t2_{kind}_ratio"].error == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("name", ["l2_t5_state", "l2_2048k_ring", "l2_2048k_lasp1", "l2_t5_split16"])
def test_contradictions_are_flagged(rows, name):
    assert rows[name].reason
    assert "table" in rows[name].reason or "contradicts" in rows[name].reason
