"""C4's claims: every row answered, misses explained, and what the planner must reach whatever the inputs."""

import numpy as np
import pytest

from commlens.validation import c4, c4_fabric
from commlens.validation.claims import read_claims


@pytest.fixture(scope="module")
def rows():  # type: ignore[no-untyped-def]
    return list(c4.rows())


def of(rows, claim: str, metric: str = "", variant: str = ""):  # type: ignore[no-untyped-def]
    return [r for r in rows if r.claim == claim and r.metric.startswith(metric) and variant in r.setting]


def test_every_claim_is_answered(rows) -> None:  # type: ignore[no-untyped-def]
    assert {row.claim for row in rows} == {claim["claim_id"] for claim in read_claims("c4")}
    assert len(read_claims("c4")) == 20
    assert {(row.family, row.technique) for row in rows} == {("network", "c4")}
    assert all(row.source and row.setting for row in rows)


def test_misses_carry_a_reason(rows) -> None:  # type: ignore[no-untyped-def]
    for row in rows:
        assert row.predicted is not None
        assert np.isfinite(row.predicted)
        if row.error is None or abs(row.error) > c4.MISSED:
            assert row.reason, row


def test_planned_paths_reach_the_ceiling_and_seven_eighths(rows) -> None:  # type: ignore[no-untyped-def]
    ceiling = c4_fabric.CEILING / c4_fabric.GBIT
    for end in ("lowest", "highest"):
        for row in of(rows, "C4-P6", f"{end} bus bandwidth planned"):
            assert row.predicted == pytest.approx(ceiling)
    for row in of(rows, "C4-P9", "bus bandwidth dynamic"):
        assert row.predicted == pytest.approx(ceiling * 7 / 8)
        assert row.error == pytest.approx(0.05, abs=0.01)


def test_hashed_paths_lose_in_every_variant(rows) -> None:  # type: ignore[no-untyped-def]
    gains = sorted(row.predicted for row in of(rows, "C4-P7"))
    assert gains[0] > 20
    below, above = ([r.predicted for r in of(rows, "C4-P6", f"{end} bus bandwidth by hash")] for end in
                    ("lowest", "highest"))  # fmt: skip
    for low, high in zip(below, above, strict=True):
        assert 362 / 8 <= low <= high < 362
    assert of(rows, "C4-P5", "bus bandwidth by hash")[0].predicted < 240


def test_a_small_share_of_communication_gains_little(rows) -> None:  # type: ignore[no-untyped-def]
    for large, small in zip(of(rows, "C4-P1"), of(rows, "C4-P4"), strict=True):
        assert 0 < small.predicted < large.predicted / 5
    assert c4.faster(0.0, 2.0) == 1
    assert c4.faster(1.0, 2.0) == 2
    assert c4.faster(0.5, 1.0) == 1


def test_downtime_adds_up_and_falls(rows) -> None:  # type: ignore[no-untyped-def]
    before, after = (row.predicted for row in of(rows, "C4-D1"))
    assert sum(of(rows, f"C4-D{i}")[0].predicted for i in (2, 3, 4, 5)) == pytest.approx(before)
    assert sum(of(rows, f"C4-D{i}")[0].predicted for i in (6, 7, 8, 9)) == pytest.approx(after)
    assert after < before / 4
    assert [row.reported for row in of(rows, "C4-D1")] == [31.19, 1.16]


def test_the_reported_break_down_adds_up() -> None:
    reported = {claim["claim_id"]: float(claim["reported"]) for claim in read_claims("c4") if "-D" in claim["claim_id"]}
    assert sum(reported[f"C4-D{i}"] for i in (2, 3, 4, 5)) == pytest.approx(31.19)
    assert sum(reported[f"C4-D{i}"] for i in (6, 7, 8, 9)) == pytest.approx(1.16)
    assert sum(share for _, share, _ in c4.MIX) == pytest.approx(1.0)
    assert sum(share * local for _, share, local in c4.MIX) == pytest.approx(0.825, abs=1e-3)


def test_no_claim_is_an_input() -> None:
    """Predictions are the same when every reported number is another."""
    before = ("C4-E1", "C4-P2", "C4-P3")  # these say what a known figure before becomes
    claims = [
        {**claim, "reported": "1-2" if "-" in claim["reported"] else "1"} for claim in read_claims("c4")
        if claim["claim_id"] not in before
    ]  # fmt: skip
    changed = [row.predicted for row in c4.rows(claims)]
    assert changed == [row.predicted for row in c4.rows() if row.claim not in before]


def test_the_fabric_is_what_the_setting_says() -> None:
    topology = c4_fabric.fabric()
    names = topology.vertices
    leaves = [i for i, name in enumerate(names) if name.startswith("leaf")]
    spines = {i for i, name in enumerate(names) if name.startswith("spine")}
    assert topology.ranks == 128
    for leaf in leaves:
        out = topology.target[topology.source == leaf]
        assert sum(int(v) in spines for v in out) == 8  # uplinks
        assert sum(int(v) not in spines for v in out) == 8  # ports of nodes: 1:1
    pairs = c4_fabric.ports(topology)
    assert len(pairs) == 2 * 128
    for left, right in pairs:
        ends = {names[v] for link in (left, right) for v in (topology.source[link], topology.target[link])}
        (adapter,) = (name for name in ends if name.startswith("nic"))
        rail = adapter.split(".")[1]
        assert sorted(name.split(".", 1)[1] for name in ends if name != adapter) == [f"{rail}.0", f"{rail}.1"]
