"""Profiles from tables of kernel times: a made-up table, bad tables in one line, the shipped profiles."""

import csv
import json
import os

import numpy as np
import pytest

from commlens.hardware import load_device
from commlens.hardware.errors import InputError
from commlens.models.estimators import ESTIMATORS, KernelProfile, cross_validate
from commlens.validation.claims import MEASURED
from commlens.validation.from_table import COLUMNS, SHIPPED, TABLE, device_of, fit_table, main, read_table

BARS = {
    "gemm": 0.08,
    "attention_prefill": 0.10,
    "attention_decode": 0.15,
    "grouped_gemm": 0.15,
    "streaming": 0.12,
}
"""Cross-validated mean error that each kind is held to."""
NAMES = {"gemm": "gemm", "attention_decode": "attention decode", "streaming": "add"}
measured = pytest.mark.skipif(not os.environ.get(MEASURED), reason=f"{MEASURED} names no folder of measured tables")


def made_up(rows_of_a_kind=60):
    """Rows of three kinds whose times are those of the shipped profile, to within 2 %."""
    rng, profile = np.random.default_rng(0), KernelProfile.load("kernels-h100")
    rows = []
    for kind, kernel in NAMES.items():
        for _ in range(rows_of_a_kind):
            if kind == "gemm":
                shape = {name: int(rng.choice([64, 256, 1024, 4096])) for name in ("m", "n", "k")}
            elif kind == "streaming":
                shape = {"m": int(rng.choice([1, 64, 4096])), "n": int(rng.choice([1024, 4096, 8192]))}
            else:
                sizes = {"batch": [1, 16, 64], "seq_kv": [64, 1024, 9000], "heads": [8, 64], "kv_heads": [1, 8]}
                shape = {name: int(rng.choice(values)) for name, values in sizes.items()} | {"head_dim": 128}
            more = {"operation": "add"} if kind == "streaming" else {}
            time = 1e6 * profile.seconds(kind, **shape, **more) * rng.lognormal(0, 0.02)
            said = {"kernel": kernel, "gpu": "H100-SXM", "dtype": "bf16", "tool": "made up", "source": "a test"}
            rows.append(dict.fromkeys(COLUMNS, "") | said | shape | {"time_us": f"{time:.4f}"})
    return rows


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_becomes_a_profile(tmp_path, capsys):
    table = write(tmp_path / "t.csv", made_up())
    assert main(["--table", str(table), "--device", "h100-sxm", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "gemm: 60 rows" in said
    assert "cross-validated mean" in said
    profile = KernelProfile.load(tmp_path / "kernels-h100.json")
    assert set(profile.estimators) == set(NAMES)
    assert profile.source["tools"] == {"made up": 180}
    for kind, score in profile.scores.items():
        assert score["mean"] < 0.05, kind
        assert score["mean"] < min(score["nearest"], score["roofline"])
    true = KernelProfile.load("kernels-h100").seconds("gemm", m=300, n=5000, k=3000)
    assert profile.seconds("gemm", m=300, n=5000, k=3000) == pytest.approx(true, rel=0.1)


def test_the_file_holds_no_row(tmp_path):
    table = write(tmp_path / "t.csv", made_up())
    profile = fit_table(table, "h100-sxm")
    text = json.dumps(profile.to_dict())
    with table.open(newline="") as file:
        assert not [row["time_us"] for row in csv.DictReader(file) if row["time_us"] in text]
    assert fit_table(table, "h100-sxm").to_dict() == profile.to_dict()


def test_kinds_with_few_rows_are_left_out_and_said(tmp_path):
    rows = made_up(12)
    table = write(tmp_path / "t.csv", rows[:12] + rows[12:14])
    profile = fit_table(table, "h100-sxm")
    assert set(profile.estimators) == {"gemm"}
    assert profile.source["too_few_rows"] == {"attention_decode": 2}


def test_one_shape_many_times_is_one_shape(tmp_path):
    rows = made_up(12)
    table = write(tmp_path / "t.csv", rows[:12] + 20 * rows[12:13])
    profile = fit_table(table, "h100-sxm")
    assert set(profile.estimators) == {"gemm"}
    assert profile.source["too_few_rows"] == {"attention_decode": 1}


def test_more_choices_than_experts_name_the_table(tmp_path):
    said = {"kernel": "moe grouped gemm", "gpu": "H100-SXM", "dtype": "bf16", "n": 768, "k": 2048, "time_us": 20}
    extras = ["topk=9;experts=8", *8 * ["topk=2;experts=8"]]
    rows = [dict.fromkeys(COLUMNS, "") | said | {"m": m, "extra": extra} for m, extra in enumerate(extras, 1)]
    with pytest.raises(InputError, match=r"t.csv: grouped_gemm.topk\[0\]: 9 .legal: 1 to the 8 experts"):
        fit_table(write(tmp_path / "t.csv", rows), "h100-sxm")


@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e6])
def test_times_in_other_units_are_one_line(tmp_path, unit):
    rows = [row | {"time_us": unit * float(row["time_us"])} for row in made_up()]
    with pytest.raises(
        InputError, match=r"t.csv: \w+: times are .* those of the best fit .legal: microseconds on h100"
    ):
        fit_table(write(tmp_path / "t.csv", rows), "h100-sxm")


@pytest.mark.parametrize("change", [lambda line: line.rsplit(",", 3)[0], lambda line: line + ",7"])
def test_lines_cut_short_or_too_long_are_named(tmp_path, change):
    table = write(tmp_path / "t.csv", made_up(12)[:12])
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:4], change(lines[4]), *lines[5:]]))
    with pytest.raises(InputError, match=r"t.csv:5: not as many fields as names .legal: 16"):
        fit_table(table, "h100-sxm")


def test_columns_of_a_grouped_row(tmp_path):
    said = {"kernel": "moe grouped gemm", "gpu": "NVIDIA H100 SXM", "dtype": "bf16", "m": 16, "n": 768, "k": 2048}
    extra = "topk=8;experts=128;moe_tp=2;moe_ep=64;dist=power_law_1.2;src=x_nongated"
    row = dict.fromkeys(COLUMNS, "") | said | {"time_us": 22.4, "extra": extra}
    rows, _ = read_table(write(tmp_path / "t.csv", [row]), "h100-sxm")
    found = {name: column.tolist()[0] for name, column in rows["grouped_gemm"].shapes.items()}
    assert (found["topk"], found["experts"]) == (8, 128)
    assert (found["tp"], found["ep"], found["exponent"], found["gated"]) == (2, 64, 1.2, 0)
    assert rows["grouped_gemm"].seconds.tolist() == [pytest.approx(22.4e-6)]


@pytest.mark.parametrize(
    ("gpu", "device"),
    [("A100-SXM", "a100-80-sxm"), ("NVIDIA H200 SXM", "h200-sxm"), ("B200", "b200"), ("MI300X", "mi300x")],
)
def test_names_of_parts(gpu, device):
    assert device_of(gpu) == device
    assert load_device(device).name == device


def without(*names):
    return tuple(column for column in COLUMNS if column not in names)


@pytest.mark.parametrize(
    ("change", "columns", "said"),
    [
        ({}, without("time_us", "gpu"), "t.csv: no column gpu, time_us .legal: kernel, gpu"),
        ({"time_us": "0"}, COLUMNS, "t.csv:3: time_us '0' .legal: a number above 0"),
        ({"time_us": "-4"}, COLUMNS, "t.csv:3: time_us '-4'"),
        ({"time_us": "fast"}, COLUMNS, "t.csv:3: time_us 'fast'"),
        ({"time_us": ""}, COLUMNS, "t.csv:3: time_us ''"),
        ({"time_us": "inf"}, COLUMNS, "t.csv:3: time_us 'inf'"),
        ({"m": ""}, COLUMNS, "t.csv:3: m is empty"),
        ({"k": "-1"}, COLUMNS, "t.csv:3: k '-1'"),
        ({"k": "0.5"}, COLUMNS, "t.csv:3: k '0.5' .legal: 1 or more"),
        ({"k": "1e300"}, COLUMNS, "t.csv:3: k '1e300' .legal: 1 or more, at most 1e"),
        ({"dtype": "fp4"}, COLUMNS, "t.csv:3: dtype 'fp4' .legal: bf16"),
        ({"kernel": "moe grouped gemm"}, COLUMNS, "t.csv:3: topk is empty"),
        (
            {"kernel": "moe grouped gemm", "extra": "topk=1;experts=8;dist=zipf"},
            COLUMNS,
            "t.csv:3: extra dist 'zipf' .legal: balanced, power_law_",
        ),
    ],
)
def test_bad_rows_are_one_line_with_their_place(tmp_path, capsys, change, columns, said):
    rows = made_up(12)[:12]
    rows[1] |= change
    table = write(tmp_path / "t.csv", rows, columns)
    with pytest.raises(InputError, match=said) as error:
        fit_table(table, "h100-sxm")
    assert "\n" not in str(error.value)
    assert main(["--table", str(table), "--device", "h100-sxm", "--output", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1


def test_bad_tables_and_devices_are_one_line(tmp_path, monkeypatch, capsys):
    table = write(tmp_path / "t.csv", made_up(12)[:12])
    for path, device, said in (
        (tmp_path / "none.csv", "h100-sxm", "No such file"),
        (tmp_path, "h100-sxm", "legal: a CSV file"),
        (table, "h1000", "h1000"),
        (table, "a100-80-sxm", "no rows of a100-80-sxm .legal: h100-sxm"),
        (write(tmp_path / "few.csv", made_up(3)[:3]), "h100-sxm", "too few shapes of h100-sxm .* at least gemm 10"),
        (write(tmp_path / "empty.csv", []), "h100-sxm", "legal: none in this table"),
    ):
        with pytest.raises(InputError, match=said) as error:
            fit_table(path, device)
        assert "\n" not in str(error.value)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00kernel")
    with pytest.raises(InputError, match=r"binary.csv: .*legal: a CSV file"):
        fit_table(binary, "h100-sxm")
    monkeypatch.delenv(MEASURED, raising=False)
    assert main([]) == 2
    assert "--table: none given" in capsys.readouterr().err


@pytest.mark.parametrize("device", sorted(SHIPPED))
def test_shipped_profiles_hold_to_their_bars(device):
    profile = KernelProfile.load(SHIPPED[device].removesuffix(".json"))
    assert profile.device.name == device
    assert {"gemm", "attention_prefill", "streaming"} <= set(profile.estimators)
    for kind, score in profile.scores.items():
        assert score["mean"] <= BARS[kind]
        assert score["mean"] < 0.6 * min(score["nearest"], score["roofline"])
        assert score["parameters"] <= 11
    assert profile.source["sources"]


@measured
@pytest.mark.parametrize("device", sorted(SHIPPED))
def test_shipped_profiles_are_of_the_table(device):
    """Every kind, on the rows it was fitted to: error as recorded; a fit of one kind anew gives the same numbers."""
    rows, source = read_table(f"{os.environ[MEASURED]}/{TABLE}", device)
    profile = KernelProfile.load(SHIPPED[device].removesuffix(".json"))
    assert profile.source["sources"] == source["sources"]
    for kind, own in rows.items():
        error = np.abs(profile.estimators[kind].predict(own.shapes) / own.seconds - 1).mean()
        assert error == pytest.approx(profile.scores[kind]["fitted"], abs=2e-4)
    own = rows["attention_prefill"]
    made = ESTIMATORS["attention_prefill"](load_device(device))
    score, _ = cross_validate(made, own.shapes, own.seconds)
    assert score.mean == pytest.approx(profile.scores["attention_prefill"]["mean"], abs=1e-3)
    again = made.fit(own.shapes, own.seconds).values_
    assert again == pytest.approx(profile.estimators["attention_prefill"].values_, rel=0.02)


@measured
@pytest.mark.parametrize(("kind", "limit"), [("gemm", 0.12), ("attention_prefill", 0.15), ("streaming", 0.20)])
@pytest.mark.parametrize(("known", "other"), [("kernels-a100", "h100-sxm"), ("kernels-h100", "a100-80-sxm")])
def test_a_profile_predicts_a_device_of_another_generation(kind, limit, known, other):
    rows, _ = read_table(f"{os.environ[MEASURED]}/{TABLE}", other)
    moved, own = KernelProfile.load(known).for_device(other), rows[kind]
    error = np.abs(moved.estimators[kind].predict(own.shapes) / own.seconds - 1).mean()
    plain = np.abs(moved.estimators[kind].roofline(own.shapes) / own.seconds - 1).mean()
    assert error < limit
    assert error < 0.4 * plain


@measured
@pytest.mark.slow
@pytest.mark.parametrize("device", sorted(SHIPPED))
def test_fitting_anew_gives_the_shipped_errors(device):
    profile = fit_table(f"{os.environ[MEASURED]}/{TABLE}", device)
    shipped = KernelProfile.load(SHIPPED[device].removesuffix(".json"))
    for kind, score in profile.scores.items():
        assert score["mean"] == pytest.approx(shipped.scores[kind]["mean"], abs=0.003)
