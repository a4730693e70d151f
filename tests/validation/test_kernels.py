"""Kernel times by preset, by profile and by another device's profile: all kinds, no row by a fit that saw it."""

import os
from pathlib import Path

import numpy as np
import pytest

from commlens import validate
from commlens.models.estimators.crossval import cross_validate
from commlens.models.estimators.profile import ESTIMATORS, KernelProfile
from commlens.validation.claims import MEASURED
from commlens.validation.from_table import SHIPPED, TABLE, read_table
from commlens.validation.kernels import best_shapes, nearest_rows, of_relatives

pytestmark = pytest.mark.skipif(not os.environ.get(MEASURED), reason=f"{MEASURED} names no folder of measured tables")


@pytest.fixture(scope="module")
def frame():
    return validate("kernels")


def profiles():
    return {device: KernelProfile.load(file.removesuffix(".json")) for device, file in SHIPPED.items()}


def test_every_kind_of_every_profile_is_held_to_its_table(frame):
    own = frame[frame["metric"] == "time by profile [us]"]
    for device, profile in profiles().items():
        for kind, score in profile.scores.items():
            rows = own[own["technique"] == f"{kind} {device}"]
            assert len(rows) == score["rows"]
            assert rows["error"].abs().mean() == pytest.approx(score["mean"], abs=0.003)
            assert rows["trivial_error"].abs().mean() == pytest.approx(score["nearest"], abs=0.003)
    measured = {kind for profile in profiles().values() for kind in profile.scores}  # the tables time no copies
    assert {name.split()[0] for name in own["technique"]} == measured
    assert len(measured) == 5


@pytest.mark.parametrize("kind", ["attention_prefill", "streaming"])
def test_the_trivial_baseline_is_the_one_of_the_cross_validation(kind):
    rows, _ = read_table(Path(os.environ[MEASURED]) / TABLE, "h100-sxm")
    estimator, own = ESTIMATORS[kind](profiles()["h100-sxm"].device), rows[kind]
    score, _ = cross_validate(estimator, own.shapes, own.seconds)
    assert np.abs(nearest_rows(estimator, own) / own.seconds - 1).mean() == pytest.approx(score.nearest, rel=1e-9)


def test_only_rows_by_the_preset_were_ever_fitted_to(frame):
    assert set(frame[frame["split"] == "calibration"]["metric"]) == {"time by preset [us]"}


def test_moved_profiles_are_marked_and_beat_the_trivial_baseline_or_say_why(frame):
    moved = frame[frame["metric"].str.contains("by profile of")]
    assert {"gemm h200-sxm", "gemm a100-80-sxm", "gemm h100-sxm"} <= set(moved["technique"])
    for technique, rows in moved.groupby("technique"):
        assert rows["error"].abs().mean() < rows["trivial_error"].abs().mean(), technique
    away = moved[moved["error"].abs() > 0.15]
    assert (away["reason"] != "").all()


def test_a_claim_is_the_row_it_came_from(frame):
    """The time of a claim is the time of the table's row of that name, whatever predicted it."""
    assert (frame.groupby(["claim"])["reported"].nunique() == 1).all()
    row = frame[(frame["claim"] == "kernels_measured-0002") & (frame["metric"] == "time by profile [us]")].iloc[0]
    assert row["reported"] == pytest.approx(16.544)
    assert row["setting"] == "gemm, m 8, n 4096, k 4096, bf16, trtllm torch_flow"


def test_fastest_shapes_are_predicted_by_the_profile_of_a_relative(frame):
    best = list(best_shapes(profiles()))
    assert len(best) == 7
    assert {row.technique for row in best} >= {"gemm gh200", "gemm a100-80-pcie", "gemm h200-sxm"}
    assert all(row.reason or abs(row.error) < 0.15 for row in best)


def test_devices_without_a_profile_are_predicted_from_their_datasheet(tmp_path, monkeypatch):
    """The H100's rows as if an H200, a B200 and a part of another vendor had been timed."""
    text = (Path(os.environ[MEASURED]) / TABLE).read_text(encoding="utf-8").splitlines()
    some = [line for line in text[1:] if ",H100-SXM,bf16," in line][::40]
    made = [line.replace("H100-SXM", name, 1) for name in ("H200", "B200", "MI300X") for line in some]
    (tmp_path / TABLE).write_text("\n".join([text[0], *made]) + "\n", encoding="utf-8")
    monkeypatch.setenv(MEASURED, str(tmp_path))
    rows = list(of_relatives(profiles()))
    assert {row.technique.split()[1] for row in rows} == {"h200-sxm", "b200"}
    assert len(rows) == 2 * len(some)
    at = {
        name: {row.claim: row.predicted for row in rows if row.technique.endswith(name)}
        for name in ("h200-sxm", "b200")
    }
    ratio = np.array([at["b200"][claim] / seconds for claim, seconds in at["h200-sxm"].items()])
    assert ((ratio > 0.4) & (ratio <= 1.05)).all()
    assert np.median(ratio) < 0.9
