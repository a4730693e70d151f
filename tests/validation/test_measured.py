"""Formulas against measured tables of others, where the folder that holds them is named."""

import os

import pytest

from commlens import validate
from commlens.hardware import load_cluster, load_profile
from commlens.simulator.expert_exchange import KERNELS
from commlens.validation import fit_expert_exchange, fit_fabrics, fit_profile
from commlens.validation.claims import MEASURED, read_measured
from commlens.validation.expert_exchange import is_calibration, style_of

pytestmark = pytest.mark.skipif(not os.environ.get(MEASURED), reason=f"{MEASURED} names no folder of measured tables")


def test_gemm_times():
    frame = validate("kernels")
    for device, rows in frame[frame["metric"] == "time by preset [us]"].groupby("technique"):
        held = rows[rows["split"] == "held out"]["error"].abs()
        assert len(held) > 50
        assert held.median() < 0.10, device
        assert held.mean() < 0.5 * rows[rows["split"] == "held out"]["trivial_error"].abs().mean()


@pytest.fixture(scope="module")
def network():
    return validate("network")


@pytest.mark.parametrize(("size", "limit"), [("1 MiB and more", 0.10), ("below 1 MiB", 0.25)])
def test_collective_times_inside_a_node(network, size, limit):
    rows = network[network["metric"] == f"time inside a node, {size} [us]"]
    assert len(rows) > 200
    for _, part in rows.groupby("split"):
        assert part["error"].abs().mean() < limit
        assert part["error"].abs().mean() < 0.2 * part["trivial_error"].abs().mean()
    for kind, part in rows.groupby("technique"):
        assert part["error"].abs().mean() < 1.5 * limit, kind


def test_collective_times_between_nodes(network):
    rows = network[network["metric"] == "time between nodes [us]"]
    assert len(rows) > 10
    assert rows["error"].abs().mean() < 0.20


def test_expert_exchange_times(network):
    rows = network[network["technique"].str.startswith("expert")]
    assert len(rows) > 100
    for metric, part in rows.groupby("metric"):
        assert part["error"].abs().mean() < 0.15, metric


def test_doubtful_rows_say_why(network):
    doubtful = network[network["metric"].str.contains("doubtful")]
    assert len(doubtful) > 50
    assert (doubtful["reason"] != "").all()


@pytest.mark.slow
def test_shipped_profiles_are_what_the_code_fits(network):
    family = "pcie4"
    gpu, preset = fit_fabrics.FAMILIES[family]
    rows = [row for row in fit_fabrics.samples(gpu) if row.seen]
    found = fit_profile.fit(rows, load_cluster(preset), name=family).profile
    shipped = load_profile(family)
    assert found.bulk.efficiency == pytest.approx(shipped.bulk.efficiency, rel=0.02)
    assert found.low.base == pytest.approx(shipped.low.base, rel=0.02)


def test_shipped_exchange_kernels_are_what_the_code_fits(network):
    table = read_measured("moe_all2all_deepep")
    for phase in ("dispatch", "combine"):
        rows = [r for r in table if style_of(r) == "low latency" and r["phase"] == phase and r["latency_us"]]
        found = fit_expert_exchange.fit("low latency", [row for row in rows if is_calibration(row)])
        shipped = KERNELS["low latency", phase]
        assert found.base == pytest.approx(shipped.base, rel=0.02)
        assert found.link_efficiency == pytest.approx(shipped.link_efficiency, rel=0.02)
