"""Kernels timed on this machine: which, how, kept through interruptions, and fitted."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from typer.testing import CliRunner  # noqa: E402

from commlens.hardware.errors import InputError  # noqa: E402
from commlens.models.estimators import HOST_ESTIMATORS, KernelProfile  # noqa: E402
from commlens.models.library import load_model  # noqa: E402
from commlens.models.products import DTYPE_BYTES  # noqa: E402
from commlens.validation.measure import compute, environment, probe, shapes  # noqa: E402
from commlens.validation.measure.compute_profile import columns, fit_rows  # noqa: E402
from commlens.validation.measure.kernels import MOST_COPIES, Maker, Unsupported, bytes_of  # noqa: E402
from commlens.validation.measure.layer import LayerShape, build, predict  # noqa: E402
from commlens.validation.measure.session import Row, Session  # noqa: E402
from commlens.validation.measure.shapes import Case, Limits, design  # noqa: E402
from commlens.validation.measure.timing import REFERENCES, SETTLE, HostTimer, Timing, summary  # noqa: E402

LLAMA, MIXTRAL = load_model("llama-3.1-8b"), load_model("mixtral-8x7b")
LIMITS = Limits(0.1, 256e6, {"fp32": 8e10, "bf16": 4e10, "int8": 8e10}, 1e10, 4096)
HERE = {"device": "cpu", "name": "made up", "cores": 2, "threads": 1, "torch": "2", "date": "today"}
HOST = environment.host_device(1, {"fp32": 8e10}, 1e10, 4e-6)


def quiet(seconds, repetitions=5, reference=0.0):
    return Timing(seconds, seconds * 0.98, seconds * 1.03, seconds, repetitions, reference)


# -- which kernels ------------------------------------------------------------------------------


def test_a_design_covers_every_kind_and_repeats_itself():
    cases = design([LLAMA, MIXTRAL], ["fp32", "bf16"], LIMITS, True)
    assert cases == design([LLAMA, MIXTRAL], ["fp32", "bf16"], LIMITS, True)
    assert cases != design([LLAMA, MIXTRAL], ["fp32", "bf16"], LIMITS, True, seed=1)
    assert len({case.key for case in cases}) == len(cases)
    assert {case.kind for case in cases} == set(shapes.COUNTS)
    assert {case.kind for case in cases[:20]} == set(shapes.COUNTS)  # a session cut short has some of each
    assert {case.dtype for case in cases if case.kind == "gemm"} == {"fp32", "bf16"}


def test_a_third_of_products_has_widths_of_a_model_and_the_rest_fills_the_space():
    own = [case.shape for case in design([LLAMA], ["fp32"], LIMITS, True, "full") if case.kind == "gemm"]
    pairs = shapes.widths(LLAMA)
    real = [(shape["n"], shape["k"]) in pairs for shape in own]
    assert 0.25 < np.mean(real) < 0.45
    for name in "nk":
        logs = np.log2([shape[name] for shape, known in zip(own, real, strict=True) if not known])
        quarters, _ = np.histogram(logs, 4)
        assert quarters.min() > 0.1 * len(logs)


@settings(max_examples=25)
@given(
    seconds=st.floats(1e-3, 1.0),
    size=st.floats(1e7, 1e10),
    rate=st.floats(1e9, 1e15),
    level=st.sampled_from(shapes.LEVELS[:2]),
    seed=st.integers(0, 100),
)
def test_no_kernel_asks_for_more_than_the_limits(seconds, size, rate, level, seed):
    limits = Limits(seconds, size, {"fp32": rate, "int8": rate}, rate / 10, 4096)
    for case in design([LLAMA], ["fp32", "int8", "fp8"], limits, True, level, seed):
        assert case.dtype in limits.flops
        assert all(value >= 1 for value in case.shape.values())
        if case.kind == "gemm":
            m, n, k = (case.shape[name] for name in "mnk")
            assert DTYPE_BYTES[case.dtype] * n * k <= size
            assert m <= 32 or 2 * m * n * k <= 1.5 * seconds * rate
        elif case.kind in ("copy", "streaming"):
            assert bytes_of(case) <= 2.5 * size


# -- how they are timed -------------------------------------------------------------------------


def test_a_summary_is_the_median_and_a_spread():
    found = summary([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found.seconds, found.repetitions) == (3.0, 5)
    assert 1.0 <= found.low < found.seconds < found.high < 100.0


def test_one_thread_is_timed_by_what_it_ran_and_more_by_the_wall():
    def sleep(_):
        time.sleep(2e-3)

    waited = HostTimer(2, 0.02)(sleep)
    assert 2e-3 <= waited.seconds < 0.2
    own = HostTimer(1, 0.02)(sleep)
    assert own.seconds < 1e-3 < own.wall


def test_a_reference_runs_between_the_repetitions_and_is_not_in_their_time():
    order = []

    def kernel(_):
        order.append("kernel")
        time.sleep(4e-3)

    def reference(_):
        order.append("reference")
        time.sleep(1e-3)

    found = HostTimer(2, 0.1, reference)(kernel)
    assert 4e-3 <= found.seconds < 5e-3 + 1e-3
    assert 1e-3 <= found.reference < 4e-3
    between = "".join(name[0] for name in order).strip("k").split("k")
    runs = [part for part in between if part]
    assert len(runs) >= 2
    assert set(runs) == {"r" * (SETTLE + REFERENCES)}
    assert "" in between  # not before every repetition


def test_times_are_compared_at_one_pace():
    slow, fast = quiet(4.0, reference=2e-3), quiet(2.0, reference=1e-3)
    assert slow.at(1e-3) == fast.at(1e-3) == 2.0
    assert slow.at(0.0) == 4.0
    assert quiet(3.0).at(1e-3) == 3.0  # nobody knows its pace


# -- what they compute --------------------------------------------------------------------------


def test_kernels_compute_what_they_say():
    make = Maker("cpu", 0.0, 1e8)
    run = make(Case("gemm", {"m": 3, "n": 32, "k": 16}, "fp32"))
    assert run(0).shape == (3, 32)
    heads = {"batch": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
    assert make(Case("attention_prefill", {**heads, "seq_q": 8, "seq_kv": 8}, "fp32", tool="flash"))(0).shape == (
        2, 4, 8, 16,
    )  # fmt: skip
    assert make(Case("attention_decode", {**heads, "seq_kv": 8}, "fp32", tool="flash"))(0).shape == (2, 4, 1, 16)
    mixture = {"m": 5, "n": 32, "k": 16, "topk": 2, "experts": 4, "gated": 1}
    found = make(Case("grouped_gemm", mixture, "fp32", tool="loop"))(0)
    assert found.shape == (5, 16)
    assert (found != 0).any(dim=1).all()  # every token was at some expert
    for operation in ("add", "activation", "norm"):
        assert make(Case("streaming", {"m": 3, "n": 32}, "fp32", operation))(0).shape == (3, 32)
    assert make(Case("copy", {"size": 4096}, "fp32", "sum"))(0).shape == ()
    assert make(Case("copy", {"size": 4096}, "fp32", "copy"))(1).numel() == 1024


def test_operands_take_turns_and_outgrow_the_cache():
    make = Maker("cpu", 1e6, 1e8)
    assert make._copies(1e5) == MOST_COPIES
    assert make._copies(1e6) == 3
    assert make._copies(9e7) == 1  # the memory holds no more
    run = make(Case("streaming", {"m": 100, "n": 1000}, "fp32", "add"))
    assert not torch.equal(run(0), run(1))


@pytest.mark.parametrize(
    "case",
    [
        Case("attention_prefill", {"batch": 1, "heads": 2, "kv_heads": 2, "head_dim": 16, "seq_q": 8, "seq_kv": 8},
             "fp32", tool="cudnn"),
        Case("copy", {"size": 4096}, "fp32", "to_device"),
    ],
)  # fmt: skip
def test_what_does_not_run_is_unsupported_with_a_reason(case):
    if torch.cuda.is_available():
        pytest.skip("runs where a GPU is")
    with pytest.raises(Unsupported, match=r"\w{3,}") as problem:
        Maker("cpu", 0.0, 1e8)(case)
    assert "\n" not in str(problem.value)


def test_memory_that_does_not_suffice_is_said():
    with pytest.raises(Unsupported, match="out of memory"):
        Maker("cpu", 0.0, 1e18)(Case("streaming", {"m": 2**22, "n": 2**22}, "fp32", "add"))


# -- a session ----------------------------------------------------------------------------------


CASES = [Case("streaming", {"m": m, "n": 64}, "fp32", "add") for m in range(1, 9)]


def test_a_session_stopped_goes_on_and_measures_nothing_twice(tmp_path):
    log, seen = tmp_path / "r.jsonl", []

    def stop(run):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(run)
        return quiet(1e-3)

    first = Session.begin(log, HERE)
    first.measure(CASES, lambda case: case.key, stop)
    assert (first.interrupted, first.late, len(first.rows)) == (True, 5, 3)
    with log.open("a") as file:
        file.write('{"kind": "streaming", "sha')  # cut short
    second = Session.resume(log, {**HERE, "date": "tomorrow"})
    assert second.rows == first.rows
    second.measure(CASES, lambda case: case.key, lambda run: (seen.append(run), quiet(2e-3))[1])
    assert seen == [case.key for case in CASES]
    assert not second.interrupted
    assert [row.case for row in Session.resume(log, HERE).rows] == CASES


def test_a_new_session_moves_the_results_that_were_there(tmp_path):
    log = tmp_path / "r.jsonl"
    Session.begin(log, HERE).measure(CASES, lambda case: case.key, lambda run: quiet(1e-3))
    before = log.read_text()
    Session.begin(log, HERE)
    assert (tmp_path / "r.jsonl.old").read_text() == before
    assert log.read_text().count("\n") == 1


def test_a_disk_that_is_full_on_resuming_takes_nothing(tmp_path, monkeypatch):
    log = tmp_path / "r.jsonl"
    Session.begin(log, HERE).measure(CASES, lambda case: case.key, lambda run: quiet(1e-3))
    before = log.read_text()

    def full(self, data, mode="a"):
        with self.path.open(mode) as file:
            file.write("{")
        raise InputError("--out: cannot write: No space left on device")

    monkeypatch.setattr(Session, "_write", full)
    with pytest.raises(InputError, match="No space left"):
        Session.resume(log, HERE)
    assert log.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_session_out_of_time_says_what_is_left(tmp_path):
    session = Session.begin(tmp_path / "r.jsonl", HERE)
    session.measure(CASES, lambda case: case.key, lambda run: quiet(1.0), deadline=time.monotonic() - 1)
    assert (session.late, session.rows) == (len(CASES), [])


def test_a_kernel_that_does_not_run_is_a_row(tmp_path):
    def make(case):
        raise Unsupported("no such thing")

    session = Session.begin(tmp_path / "r.jsonl", HERE)
    session.measure(CASES[:2], make, quiet)
    again = Session.resume(tmp_path / "r.jsonl", HERE)
    assert [row.reason for row in again.rows] == ["no such thing"] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0].replace("made up", "other"), *lines[1:]], "name 'other', here 'made up'"),
        (lambda lines: [lines[0].replace('"threads": 1', '"threads": 8'), *lines[1:]], "threads 8, here 1"),
        (lambda lines: [lines[0], "{", *lines[2:]], "line 2: damaged"),
        (lambda lines: [lines[0], lines[1].replace("0.001", "-1"), *lines[2:]], "line 2: damaged"),
        (lambda lines: ["[]", *lines[1:]], "line 1: damaged"),
        (lambda lines: [], "no environment"),
    ],
)
def test_files_of_elsewhere_or_damaged_are_one_line(tmp_path, change, said):
    log = tmp_path / "r.jsonl"
    Session.begin(log, HERE).measure(CASES, lambda case: case.key, lambda run: quiet(1e-3))
    log.write_text("\n".join(change(log.read_text().splitlines())))
    with pytest.raises(InputError, match=said) as problem:
        Session.resume(log, HERE)
    assert "\n" not in str(problem.value)
    assert "legal" in str(problem.value)


# -- the device ---------------------------------------------------------------------------------


def test_a_processor_is_a_device_of_threads_and_clocks(monkeypatch):
    part = {"name": "A (TM) chip", "flags": frozenset({"avx2", "fma"}), "clock": 3e9, "cache": 1e7, "known": True}
    monkeypatch.setattr(environment, "processor", lambda: part)
    made = environment.host_device(4, {"fp32": 1e10, "bf16": 5e9}, 2e10, 3e-6)
    assert made.name == "a-tm-chip-4t"
    assert made.flops("fp32") == 4 * 3e9 * 32
    assert made.flops("bf16") == 5e9  # has no instructions of its own: what was seen
    assert environment.host_device(4, {"fp32": 1e12}, 2e10, 3e-6).flops("fp32") == 1e12  # a clock above the one stated
    assert "seen" not in made.sources
    assert made.compute_units == 4
    shapes = {"size": np.array([1e4, 1e6, 1e8]), "operation": np.array(["copy"] * 3)}
    copies = HOST_ESTIMATORS["copy"](made).fit(shapes, np.array([1e-5, 1e-4, 1e-2]))
    again = KernelProfile.from_dict(json.loads(json.dumps(KernelProfile(made, {"copy": copies}).to_dict())))
    assert again.device == made


@pytest.mark.parametrize(("name", "preset"), environment.GPUS)
def test_names_of_drivers_lead_to_presets(name, preset):
    from commlens.hardware import device_names

    assert preset in device_names()


def test_h100_and_a100_by_the_names_their_drivers_give():
    import re

    def found(name):
        return next(preset for pattern, preset in environment.GPUS if re.search(pattern, name))

    assert found("NVIDIA H100 80GB HBM3") == "h100-sxm"
    assert found("NVIDIA A100-SXM4-80GB") == "a100-80-sxm"
    assert found("NVIDIA A100-SXM4-40GB") == "a100-40-sxm"
    assert found("NVIDIA H200") == "h200-sxm"
    assert found("NVIDIA GB200") == "gb200"


# -- from rows to a profile ---------------------------------------------------------------------


def made_up_rows(noise=0.02):
    rng = np.random.default_rng(0)
    cases = design([LLAMA], ["fp32"], LIMITS, True)
    rows = []
    for kind, form in HOST_ESTIMATORS.items():
        own = [case for case in cases if case.kind == kind]
        if own:
            estimator = form(HOST)
            estimator.values_ = {name: parameter.start for name, parameter in form.parameters.items()}
            estimator.tools_ = {}
            X, _ = columns([Row(case, quiet(1.0)) for case in own])
            times = estimator.predict(X) * rng.lognormal(0, noise, len(own))
            rows += [Row(case, quiet(float(took))) for case, took in zip(own, times, strict=True)]
    return rows


@pytest.fixture(scope="module")
def rows():
    return made_up_rows()


@pytest.fixture(scope="module")
def fit(rows):
    return fit_rows(rows, HOST, HERE)


def test_a_fit_finds_the_times_it_was_not_shown(fit):
    assert set(fit.profile.estimators) == set(shapes.COUNTS)
    for kind, score in fit.profile.scores.items():
        assert score["folds"] == 5, kind
        assert score["mean"] < 0.08, kind
        assert score["mean"] < 0.5 * score["roofline"], kind
    assert fit.profile.scores["gemm"]["large_median"] < 0.05
    assert fit.notes == ()


def test_a_machine_that_others_slow_down_is_fitted_at_its_usual_pace(rows, fit):
    """Every other kernel ran at half the speed, and so did the reference beside it: all but one pace is undone."""
    paces = [2.0 if place % 2 else 1.0 for place in range(len(rows) - 1)] + [1.0]
    slowed = [
        replace(row, timing=quiet(pace * row.timing.seconds, reference=1e-3 * pace))
        for row, pace in zip(rows, paces, strict=True)
    ]
    other = fit_rows(slowed, HOST, HERE).profile
    usual = other.source["reference"]
    assert usual in (1e-3, 1.5e-3, 2e-3)
    shape = {"m": 512, "n": 1024, "k": 1024, "dtype": "fp32"}
    expected = usual / 1e-3 * fit.profile.seconds("gemm", **shape)
    assert other.seconds("gemm", **shape) == pytest.approx(expected, rel=0.02)
    assert other.scores["gemm"]["mean"] == pytest.approx(fit.profile.scores["gemm"]["mean"], abs=0.01)
    raw = [replace(row, timing=replace(row.timing, reference=0.0)) for row in slowed]
    assert fit_rows(raw, HOST, HERE).profile.scores["gemm"]["mean"] > 0.2


def test_a_profile_file_has_environment_medians_and_errors(fit, rows, tmp_path):
    fit.save(tmp_path / "my.json")
    data = json.loads((tmp_path / "my.json").read_text())
    assert data["environment"] == HERE
    assert len(data["measurements"]) == len(rows)
    assert {"seconds", "low", "high", "reference"} <= set(data["measurements"][0])
    again = KernelProfile.load(tmp_path / "my.json")
    shape = {"m": 64, "n": 1024, "k": 512, "dtype": "fp32"}
    assert again.seconds("gemm", **shape) == fit.profile.seconds("gemm", **shape)
    assert again.device == HOST


def test_kinds_of_few_rows_and_kernels_that_do_not_run_are_said(rows):
    some = [row for row in rows if row.case.kind == "gemm"] + [row for row in rows if row.case.kind == "copy"][:2]
    some += [Row(Case("gemm", {"m": 32, "n": 32, "k": 32}, "fp8"), None, "no such instruction")] * 2
    found = fit_rows(some, HOST, HERE)
    assert set(found.profile.estimators) == {"gemm"}
    assert any(note.startswith("copy: ") and "not fitted" in note for note in found.notes)
    assert "not supported here: gemm fp8 torch: no such instruction" in found.notes
    with pytest.raises(InputError, match="too few kernels"):
        fit_rows(some[-2:], HOST, HERE)


# -- a layer, predicted -------------------------------------------------------------------------


def test_products_of_a_layer_by_the_datasheet_are_six_operations_per_weight_and_token():
    shape = LayerShape(512, 8, 2048, 2, 128)
    weights = 4 * 512**2 + 3 * 512 * 2048
    whole = predict(shape, HOST)["products"]
    assert whole == pytest.approx(6 * weights * 2 * 128 / HOST.flops("fp32"), rel=0.25)
    assert predict(shape, HOST, 4)["products"] == pytest.approx(whole / 4, rel=0.3)
    assert predict(shape, HOST, turns=2.0)["other"] == pytest.approx(2 * predict(shape, HOST)["other"])


def test_a_profile_named_by_the_device_prices_the_layer(fit, tmp_path):
    fit.save(tmp_path / "my.json")
    shape = LayerShape(512, 8, 2048, 2, 128)
    fitted, sheet = predict(shape, replace(HOST, profile=str(tmp_path / "my.json"))), predict(shape, HOST)
    assert sum(fitted.values()) > 1.1 * sum(sheet.values())


def test_the_layer_runs_and_every_weight_gets_a_gradient():
    shape = LayerShape(64, 4, 128, 2, 16)
    run = build(shape)
    out = run(0)
    assert out.shape == (2, 16, 64)
    assert torch.equal(out, run(1))  # gradients of one run do not add to the next
    sums = []
    halves = build(shape, 2, lambda x: sums.append(tuple(x.shape)))
    halves(0)
    assert sums == [(2, 16, 64)] * 4


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {kind: (14, 14, 14) for kind in shapes.COUNTS})
    monkeypatch.setattr(compute, "LAUNCH_SECONDS", {"quick": 1e-3, "default": 1e-3, "full": 1e-3})
    monkeypatch.setattr(compute, "REPEAT_SECONDS", {"quick": 2e-3, "default": 2e-3, "full": 2e-3})
    monkeypatch.setattr(compute, "SIDES", {"cpu": (128,)})
    part = {**environment.processor(), "cache": 1e5}
    for place in (probe, environment):
        monkeypatch.setattr(place, "processor", lambda: part)


def app():
    import typer

    from commlens.measuring import compute as command

    made = typer.Typer()
    made.command()(command)
    return made


@pytest.mark.slow
def test_the_command_measures_fits_and_goes_on(small, tmp_path):
    out = tmp_path / "my.json"
    before = torch.get_num_threads()
    found = CliRunner().invoke(app(), ["--quick", "--threads", "1", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert torch.get_num_threads() == before
    assert "gemm" in found.output
    assert "nearest row" in found.output
    profile = KernelProfile.load(out)
    assert {"gemm", "streaming", "copy"} <= set(profile.estimators)
    assert profile.seconds("gemm", m=64, n=512, k=512, dtype="fp32") > 0
    rows = json.loads(out.read_text())["measurements"]
    again = CliRunner().invoke(app(), ["--quick", "--threads", "1", "--out", str(out), "--resume"])
    assert again.exit_code == 0
    assert json.loads(out.read_text())["measurements"] == rows  # nothing was left, so nothing was measured


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quick", "--full"], "legal: one of them"),
        (["--device", "tpu"], "--device: 'tpu' .legal: cuda, cpu"),
        (["--dtypes", "fp64"], "--dtypes: 'fp64' .legal"),
        (["--threads", "0"], "--threads: 0 .legal: 1 to 1024"),
        (["--seconds", "-1"], "--seconds: -1 .legal: a number above 0"),
        (["--out", "my.yaml"], "ends in .json"),
        (["--out", "nowhere/my.json"], "no folder nowhere"),
        (["--model", "llama-9"], "unknown model 'llama-9'"),
        (["--resume", "--out", "nothing.json"], "nothing.jsonl: No such file"),
    ],
)
def test_bad_options_are_one_line(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app(), options)
    assert isinstance(found.exception, InputError)
    with pytest.raises(InputError, match=said) as problem:
        raise found.exception
    assert "\n" not in str(problem.value)


def test_a_gpu_that_is_not_there_is_one_line():
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(InputError, match=r"torch sees no GPU .legal: cpu here"):
        environment.cuda_device()
