"""The baseline, the sums and the plots of the training rows, on small made-up tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from commlens import Scenario
from commlens.validation import COLUMNS
from commlens.validation.training import plots, rows, summary, tables
from commlens.validation.training.case import Case
from commlens.validation.training.trivial import Known, baseline, known

HEADER = (
    "row_id,params_b,n_gpus,global_batch_seqs,microbatch_per_gpu_seqs,hidden,heads,layers,seq_len,tp,dp_or_fsdp,pp,"
    "step_time_s,gpu,gpus_per_node,interconnect,activation_ckpt,schedule,source"
)
TAIL = 'A100-SXM4-80GB,8,"NVLink3 in node, 800 Gbit/s InfiniBand per node",full (assumed),1f1b,made up'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [HEADER]
    for index, (tp, dp, time) in enumerate([(1, 16, 1.0), (2, 8, 1.2), (4, 4, 1.5), (8, 2, 2.0), (3, 5, 9.0)]):
        lines.append(f"made-multi-{index},,16,32,1,1024,16,4,1024,{tp},{dp},1,{time},{TAIL}")
    (tmp_path / "train_vtrain.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("COMMLENS_MEASURED", str(tmp_path))
    return tmp_path


def frame_of(found: list) -> pd.DataFrame:
    frame = pd.DataFrame([{name: getattr(row, name, None) for name in COLUMNS} for row in found])
    frame["trivial_error"] = frame["trivial"].astype(float) / frame["reported"].astype(float) - 1
    numbers = ["reported", "predicted", "error", "trivial", "trivial_error"]
    return frame.astype(dict.fromkeys(numbers, float))


def test_rows_are_predicted_or_say_why(folder: Path) -> None:
    found = list(rows.rows())
    assert [row.claim for row in found] == [f"made-multi-{i}" for i in range(5)]
    assert all(row.predicted and row.predicted > 0 for row in found[:4])
    for row in found[:4]:  # made up, so what is far off says so, and only that
        assert row.reason.startswith("missed") == (abs(row.error or 0.0) > rows.MISSED)
    assert found[4].predicted is None
    assert "does not divide" in found[4].reason
    assert {row.technique for row in found[:4]} == {"vtrain-multi"}


def test_without_tables_the_family_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMLENS_MEASURED", str(tmp_path))
    with pytest.raises(LookupError, match="COMMLENS_MEASURED"):
        list(rows.rows())


def test_a_prediction_that_breaks_is_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scenario: Scenario) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr(rows, "estimate", broken)
    assert all("ZeroDivisionError" in row.reason for row in list(rows.rows())[:4])


def entry(name: str, time: float, size: float, devices: float = 8.0, flops: float = 1.0) -> Known:
    case = Case(name, "made", {"gpu": "A100"}, scenario={}, step_time=time)
    return Known(case, flops, (np.log(size), np.log(devices), 0.0, 0.0))


def test_the_baseline_takes_the_nearest_other_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commlens.validation.training.trivial.is_calibration", lambda case: case.row_id != "unseen")
    target = entry("target", 7.0, 1e9, flops=3.0)
    near, far = entry("near", 2.0, 2e9, flops=2.0), entry("far", 5.0, 9e9)
    assert baseline(target, [target, near, far]) == pytest.approx(3.0 / 2.0 * 2.0)
    assert baseline(target, [target]) is None  # never itself
    assert baseline(target, [entry("unseen", 2.0, 1e9)]) is None  # never a row the fit may not see
    twin = entry("twin", 4.0, 1e9)  # the same model on as many devices, only where there is no other
    assert baseline(target, [twin, far]) == pytest.approx(3.0 * 5.0)
    assert baseline(target, [twin]) == pytest.approx(3.0 * 4.0)


def test_the_baseline_counts_recomputation(folder: Path) -> None:
    case = next(tables.cases())
    assert case.scenario is not None
    whole = Scenario.from_dict(case.scenario)
    less = whole.replace({"plan.recompute": "none"})
    assert known(case, whole).flops == pytest.approx(4 / 3 * known(case, less).flops)


def test_spearman_against_a_known_case() -> None:
    assert summary.spearman(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 40])) == pytest.approx(1)
    assert summary.spearman(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])) == pytest.approx(-1)
    # 1 - 6 sum d^2 / n (n^2 - 1) with d = (0, 1, 1, 0)
    assert summary.spearman(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(1 - 6 * 2 / 60)
    assert np.isnan(summary.spearman(np.array([1, 2]), np.array([5, 5])))


def test_the_cost_of_a_choice(folder: Path) -> None:
    frame = frame_of(list(rows.rows()))
    frame.loc[frame["claim"] == "made-multi-1", "predicted"] = 1e-6  # chosen: 1.2 s measured, the best is 1.0 s
    found = summary.choices(frame)
    assert len(found) == 1
    assert found["plans"][0] == 4
    assert (found["chosen"][0], found["best"][0]) == ("made-multi-1", "made-multi-0")
    assert found["cost"][0] == pytest.approx(0.2)


def test_errors_add_up_by_source(folder: Path) -> None:
    frame = frame_of(list(rows.rows()))
    table = summary.by_source(frame)
    own = frame["error"].dropna().abs()
    assert list(table["rows"]) == [4]
    assert table["mean"].iloc[0] == pytest.approx(own.mean())
    assert table["worst"].iloc[0] == pytest.approx(own.max())
    assert "vTrain, several nodes" in summary.text(frame)


def test_tables_of_the_notes_are_told_apart_by_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = "row_id,params_b,layers,hidden,heads,seq_len,gpu,n_gpus,tp,pp,microbatch_per_gpu_seqs,global_batch_seqs,"
    lines = [keys + "precision,activation_ckpt,sharding,interconnect,step_time_s,notes,source"]
    for line, time in ((600, 5.0), (601, 6.0), (602, 7.0), (700, 9.0), (701, 8.0), (702, 7.0)):
        shape = f"b-{line},1,8,1024,16,2048,A100-SXM-80GB,8,8,1,1,8"
        lines.append(f"{shape},bf16,full,ZeRO-1,4x Omni-Path 100 Gb/s per node,{time},line {line};,made up")
    (tmp_path / "train_bloom_prequel.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("COMMLENS_MEASURED", str(tmp_path))
    frame = frame_of(list(rows.rows()))
    frame["predicted"] = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    found = summary.ranks(frame)
    assert list(found["table"]) == [600, 700]
    assert list(found["spearman"]) == pytest.approx([1.0, -1.0])


def test_plots_hold_every_predicted_row(folder: Path) -> None:
    frame = frame_of(list(rows.rows()))
    for draw in (plots.predicted_against_measured, plots.error_by_scale):
        figure = draw(frame)
        axes = figure.axes[0]
        points = sum(len(drawn.get_offsets()) for drawn in axes.collections if len(drawn.get_offsets()) > 1)
        assert points == 4
        assert axes.get_xlabel()
        assert axes.get_ylabel()
