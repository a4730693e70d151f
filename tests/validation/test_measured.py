"""Formulas against measured tables of others, where the folder that holds them is named."""

import os

import pytest

from commlens import validate
from commlens.validation.claims import MEASURED

pytestmark = pytest.mark.skipif(not os.environ.get(MEASURED), reason=f"{MEASURED} names no folder of measured tables")


def test_gemm_times():
    frame = validate("kernels")
    for device, rows in frame.groupby("technique"):
        held = rows[rows["split"] == "held out"]["error"].abs()
        assert len(held) > 50
        assert held.median() < 0.10, device
        assert held.mean() < 0.5 * rows[rows["split"] == "held out"]["trivial_error"].abs().mean()


def test_collective_times_inside_a_node():
    frame = validate("network")
    large = frame[(frame["metric"] == "time, 1 MiB and more [us]") & frame["technique"].str.startswith("all_reduce")]
    assert len(large) > 20
    assert large["error"].abs().mean() < 0.20
    assert large["error"].abs().mean() < large["trivial_error"].abs().mean()
