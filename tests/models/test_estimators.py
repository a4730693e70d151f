"""One suite that every kernel estimator passes, and the profile that holds them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import load_device
from commlens.hardware.errors import InputError
from commlens.models.estimators import ESTIMATORS as ON_GPUS
from commlens.models.estimators import HOST_ESTIMATORS, KernelProfile, NotFittedError, cross_validate
from commlens.models.estimators.crossval import fold_of

HOST = {f"host {kind}": made for kind, made in HOST_ESTIMATORS.items() if made.form == "host"}
ESTIMATORS = {**ON_GPUS, **HOST}
KINDS = sorted(ESTIMATORS)
H100 = load_device("h100-sxm")
SIZES = {
    "gemm": ("m", "n", "k"),
    "grouped_gemm": ("m", "n", "topk"),
    "attention_prefill": ("batch", "seq_q", "heads"),
    "attention_decode": ("seq_kv", "heads", "kv_heads"),
    "streaming": ("m", "n"),
    "copy": ("size",),
    "collective": ("size", "ranks"),
}
"""Columns in which a time may only grow."""
TRUE = {
    "gemm": {"launch": 4e-6, "matrix": 0.7, "memory": 0.8, "split": 3e-6, "droop": 0.05, "quantise": 7e-6},
    "grouped_gemm": {"launch": 20e-6, "matrix": 0.5, "unit": 1.5, "row_passes": 5.0, "expert": 0.2e-6},
    "attention_prefill": {"launch": 7e-6, "matrix": 0.5, "longest": 0.8, "key_passes": 2.0},
    "attention_decode": {"launch": 6e-6, "memory": 0.7, "cached": 2.0, "item": 2e-6},
    "streaming": {"launch": 2.5e-6, "row": 0.8, "activation": 0.8, "add": 0.7},
    "copy": {"launch": 4e-6, "cached": 3.0, "copy": 0.7, "sum": 0.9, "to_host": 0.01},
    "collective": {"all_reduce": 200e-6, "all_gather_rate": 0.2, "send_recv_rate": 0.05, "outside": 4.0, "hop": 50e-6},
    "host gemm": {"launch": 8e-6, "matrix": 0.6, "packing": 3.0, "stores": 4.0},
    "host grouped_gemm": {"launch": 30e-6, "matrix": 0.5, "packing": 4.0, "expert": 10e-6},
    "host attention_prefill": {"launch": 20e-6, "matrix": 0.5, "score": 20.0},
    "host attention_decode": {"launch": 20e-6, "memory": 0.5, "item": 4e3},
    "host streaming": {"launch": 8e-6, "cached": 3.0, "add": 0.6, "activation": 6.0},
}


def name_of(made):
    """Name of an estimator here."""
    return f"host {made.kind}" if made.form == "host" else made.kind


def shapes(kind, rows=160, seed=0):
    """Random shapes of a kind."""
    kind = kind.removeprefix("host ")
    rng = np.random.default_rng(seed)

    def pick(*values):
        return rng.choice(np.array(values), rows)

    width = pick(512, 768, 1024, 2048, 4096, 8192)
    if kind == "gemm":
        dtype, n = pick("bf16", "fp16", "fp8"), pick(128, 1024, 4096, 11008, 16384)
        return {"m": pick(1, 8, 64, 300, 1024, 4096), "n": n, "k": width, "dtype": dtype}
    if kind == "collective":
        operation = pick("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")
        return {"size": pick(1024, 2**14, 2**18, 2**22, 2**26), "ranks": pick(2, 3, 4, 200), "operation": operation}
    if kind == "copy":
        operation = pick("copy", "sum", "to_device", "to_host")
        return {"size": pick(4096, 2**15, 2**18, 2**20, 2**22, 2**24, 2**26, 2**28), "operation": operation}
    if kind == "grouped_gemm":
        parts = {"topk": pick(2, 6, 8), "experts": pick(64, 128, 256), "tp": pick(1, 2, 8), "ep": pick(1, 4, 16)}
        loads = {"exponent": pick(0.0, 1.01, 1.2), "gated": pick(0.0, 1.0)}
        return {"m": pick(1, 16, 128, 1024), "n": pick(768, 1536, 2048), "k": width, **parts, **loads}
    if kind == "streaming":
        return {"m": pick(1, 64, 512, 4096), "n": width, "operation": pick("add", "activation", "norm")}
    heads = {"heads": pick(8, 32, 64), "kv_heads": pick(1, 8), "batch": pick(1, 4, 16, 200)}
    if kind == "attention_decode":
        return {"seq_kv": pick(2, 100, 500, 4000, 16000), **heads}
    return {"seq_q": pick(128, 500, 1024, 4096), **heads}


def true_times(kind, X, **more):
    """Times of an estimator with known numbers."""
    start = {name: parameter.start for name, parameter in ESTIMATORS[kind].parameters.items()}
    made = ESTIMATORS[kind](H100)
    made.values_, made.tools_ = {**start, **TRUE[kind], **more}, {}
    return made.predict(X)


@pytest.fixture(scope="module", params=KINDS)
def fitted(request):
    X = shapes(request.param)
    return ESTIMATORS[request.param](H100).fit(X, true_times(request.param, X))


@pytest.mark.parametrize("kind", KINDS)
def test_init_only_stores_and_predict_needs_a_fit(kind):
    made = ESTIMATORS[kind](H100, softness=0.2)
    assert made.get_params()["device"] is H100
    assert made.get_params()["softness"] == 0.2
    assert not [name for name in vars(made) if name.endswith("_")]
    for call in (lambda: made.predict(shapes(kind)), made.to_dict, lambda: made.for_device(H100)):
        with pytest.raises(NotFittedError, match="fit first"):
            call()


def test_fit_sets_only_underscored_attributes(fitted):
    made = type(fitted)(**fitted.get_params())
    before, X = dict(vars(made)), shapes(name_of(fitted))
    assert made.fit(X, true_times(name_of(fitted), X)) is made
    assert {name: value for name, value in vars(made).items() if not name.endswith("_")} == before


def test_a_fit_is_repeatable(fitted):
    X = shapes(name_of(fitted))
    again = type(fitted)(**fitted.get_params()).fit(X, true_times(name_of(fitted), X))
    assert again.values_ == fitted.values_
    assert again.to_dict() == fitted.to_dict()


def test_known_times_of_other_shapes_are_found(fitted):
    X = shapes(name_of(fitted), seed=1)
    error = np.abs(fitted.predict(X) / true_times(name_of(fitted), X) - 1)
    assert error.mean() < 0.02
    assert set(fitted.values_) == set(fitted.parameters)
    for name, parameter in fitted.parameters.items():
        assert parameter.low <= fitted.values_[name] <= parameter.high


def test_outliers_are_named_and_do_not_move_the_fit(fitted):
    X = shapes(name_of(fitted))
    times = true_times(name_of(fitted), X)
    wrong = np.arange(0, len(times), 20)
    times[wrong] *= 4
    made = type(fitted)(H100).fit(X, times)
    assert set(wrong) <= set(made.outliers_)
    others = np.setdiff1d(np.arange(len(times)), wrong)
    assert np.median(np.abs(made.predict(X) / times - 1)[others]) < 0.03


def test_a_tool_has_a_factor_of_its_own(fitted):
    X = {**shapes(name_of(fitted)), "tool": np.where(np.arange(160) % 3 == 0, "slow", "main")}
    times = true_times(name_of(fitted), X) * np.where(X["tool"] == "slow", 1.3, 1.0)
    made = type(fitted)(H100).fit(X, times)
    assert made.tools_ == {"slow": pytest.approx(1.3, rel=0.03)}
    bare = {name: column for name, column in X.items() if name != "tool"}
    assert made.predict(bare) == pytest.approx(made.predict({**bare, "tool": "main"}))
    assert made.predict({**bare, "tool": "unknown"}) == pytest.approx(made.predict(bare))
    assert made.predict({**bare, "tool": "slow"}) == pytest.approx(made.tools_["slow"] * made.predict(bare))


def test_json_round_trip(fitted):
    data = json.loads(json.dumps(fitted.to_dict()))
    again = type(fitted).from_dict(data, H100)
    X = shapes(name_of(fitted), seed=2)
    assert (again.predict(X) == fitted.predict(X)).all()
    assert again.to_dict() == fitted.to_dict()


def test_damaged_json_is_one_line(fitted):
    name = next(iter(fitted.parameters))
    for change, said in (
        (lambda values: values.pop(name), f"{name}: missing"),
        (lambda values: values.update(nonsense=values[name]), "nonsense: unknown"),
        (lambda values: values[name].update(value=1e9), f"{name}: 1000000000.0 .legal"),
        (lambda values: values[name].update(value=float("nan")), f"{name}: nan .legal"),
    ):
        data = json.loads(json.dumps(fitted.to_dict()))
        change(data["values"])
        with pytest.raises(InputError, match=said):
            type(fitted).from_dict(data, H100)


@settings(max_examples=40)
@given(data=st.data())
def test_times_grow_with_size(fitted, data):
    rows = shapes(name_of(fitted), rows=8, seed=data.draw(st.integers(0, 10_000)))
    column = data.draw(st.sampled_from(SIZES[fitted.kind]))
    factor = data.draw(st.integers(1, 9))
    rows = {name: np.asarray(value) for name, value in rows.items()}
    if fitted.kind == "grouped_gemm":
        rows["exponent"] = np.zeros(8)  # draws of a power law are not the same draws for another size
    larger = {**rows, column: rows[column] + (factor if column == "topk" else factor * rows[column] // 3)}
    assert (fitted.predict(larger) >= fitted.predict(rows) * (1 - 1e-9)).all()


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_rates_and_times_scale_together(fitted, factor):
    """A device faster in everything by a factor, latencies too, is faster by that factor."""
    faster = load_device(
        {
            "preset": "h100-sxm",
            "peak_flops": {dtype: rate * factor for dtype, rate in H100.peak_flops.items()},
            "clock": H100.clock * factor,
            "memory_bandwidth": H100.memory_bandwidth * factor,
        }
    )
    other = fitted.for_device(faster)
    for name, parameter in fitted.parameters.items():
        if parameter.meaning.endswith("[s]"):
            other.values_[name] /= factor
    if "droop" in other.values_:
        fitted, other = fitted.for_device(H100), other.for_device(faster)
        fitted.values_["droop"] = other.values_["droop"] = 0.0  # the clock knows true seconds
    X = shapes(name_of(fitted), seed=3)
    assert other.predict(X) * factor == pytest.approx(fitted.predict(X), rel=1e-9)
    assert other.roofline(X) * factor == pytest.approx(fitted.roofline(X), rel=1e-9)


def test_bad_shapes_are_one_line(fitted):
    X, kind = shapes(name_of(fitted)), fitted.kind
    name = next(name for name in X if name in fitted.columns)
    for bad, said in (
        ({key: value for key, value in X.items() if key != name}, f"{kind}: no column {name}"),
        ({**X, name: np.where(np.arange(160) == 7, 0, X[name])}, rf"{kind}.{name}\[7\]: 0 .legal: 1 or more"),
        ({**X, name: "many"}, f"{kind}.{name}: 'many' .legal: numbers"),
        ({**X, name: X[name][:3]}, "unlike lengths"),
        ({**X, "dtype": "bf17"}, "bf17"),
        ({**X, "dtype": "fp64"}, "fp64"),
        ({**X, "dtype": "fp4"}, "has no fp4 rate"),
    ):
        with pytest.raises(InputError, match=said) as error:
            fitted.predict(bad)
        assert "\n" not in str(error.value)
        assert "legal" in str(error.value)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_times_are_one_line(fitted, bad):
    X = shapes(name_of(fitted))
    times = true_times(name_of(fitted), X)
    times[5] = bad
    with pytest.raises(InputError, match=r"y\[5\].*legal: above 0"):
        type(fitted)(H100).fit(X, times)
    with pytest.raises(InputError, match="one time per row"):
        type(fitted)(H100).fit(X, times[:-1])


def test_numbers_that_no_row_shows_stay_and_are_not_listed():
    X = {**shapes("gemm"), "dtype": "bf16"}
    made = ESTIMATORS["gemm"](H100).fit(X, true_times("gemm", X))
    assert not {"quantise", "quantise_bytes"} & set(made.fitted_)
    assert made.values_["quantise"] == made.parameters["quantise"].start


def test_cross_validation_keeps_equal_shapes_together_and_beats_the_baselines(fitted):
    X = shapes(name_of(fitted))
    times = true_times(name_of(fitted), X) * np.random.default_rng(4).lognormal(0, 0.05, 160)
    fold = fold_of(fitted, X)
    seen = {}
    for held, *shape in zip(fold, *(np.asarray(X[name]) for name in fitted.columns if name in X), strict=True):
        assert seen.setdefault(tuple(shape), held) == held
    assert len(set(fold.tolist())) == 5
    score, predicted = cross_validate(fitted, X, times)
    assert score.mean == pytest.approx(np.abs(predicted / times - 1).mean())
    assert 0.02 < score.mean < 0.09
    assert score.mean < min(score.roofline, score.nearest)
    assert score.fitted <= score.mean * 1.05


def test_one_shape_alone_can_be_scored():
    X = {"m": np.full(9, 64), "n": np.full(9, 4096), "k": np.full(9, 4096)}
    score, _ = cross_validate(ESTIMATORS["gemm"](H100), X, np.full(9, 2e-5))
    assert score.mean < 0.05


@pytest.fixture(scope="module")
def profile():
    X = {kind: shapes(kind) for kind in ("gemm", "streaming")}
    made = {kind: ESTIMATORS[kind](H100).fit(rows, true_times(kind, rows)) for kind, rows in X.items()}
    return KernelProfile(H100, made, {"gemm": {"mean": 0.05}}, {"table": "made up"})


def test_profile_predicts_one_or_many(profile):
    one = profile.seconds("gemm", m=64, n=4096, k=4096)
    assert isinstance(one, float)
    many = profile.seconds("gemm", m=np.array([64, 128]), n=4096, k=4096)
    assert many.shape == (2,)
    assert many[0] == one
    alone = profile.seconds("gemm", m=64, n=4096, k=4096, dtype="fp8", quantise=0)
    assert alone < one < profile.seconds("gemm", m=64, n=4096, k=4096, dtype="fp8")


def test_profile_file_round_trip(profile, tmp_path):
    profile.save(tmp_path / "p.json")
    again = KernelProfile.load(tmp_path / "p.json")
    assert again.to_dict() == profile.to_dict()
    assert again.seconds("gemm", m=7, n=8, k=9) == profile.seconds("gemm", m=7, n=8, k=9)


def test_profile_moves_to_another_device(profile):
    moved = profile.for_device("h200-sxm")
    shape = {"m": 8192, "n": 8192, "operation": "add"}
    fixed = profile.estimators["streaming"].values_["launch"] * 3
    before, after = profile.seconds("streaming", **shape), moved.seconds("streaming", **shape)
    assert after < before
    assert after == pytest.approx(before * 3.35 / 4.8, abs=fixed)
    assert moved.device.name == "h200-sxm"
    assert moved.scores == {}
    assert profile.device.name == "h100-sxm"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.seconds("softmax", m=1), "kind: 'softmax' has no fit on h100-sxm .legal: gemm, streaming"),
        (lambda p: p.seconds("gemm", m=1, n=1), "gemm: no column k"),
        (lambda p: p.seconds("gemm", m=1, n=1, k=1, batch=2), "gemm.batch: unknown"),
        (lambda p: p.seconds("streaming", m=1, n=1, operation="sort"), "operation: 'sort' .legal: add"),
        (lambda p: p.for_device("h1000"), "h1000"),
        (lambda p: KernelProfile.load("kernels-h1000"), "legal: a JSON file, kernels-a100, kernels-h100"),
        (lambda p: KernelProfile.load("nowhere.json"), "nowhere.json: cannot be read: No such file"),
        (lambda p: KernelProfile.from_dict({**p.to_dict(), "format": 9}), "legal: a mapping with format 1"),
        (lambda p: KernelProfile.from_dict({**p.to_dict(), "device": "zx"}), "zx"),
        (lambda p: KernelProfile.from_dict({**p.to_dict(), "kernels": {"fft": {}}}), "kernels.fft: unknown"),
        (lambda p: KernelProfile.from_dict({**p.to_dict(), "kernels": {"gemm": {}}}), "gemm.values"),
        (lambda p: KernelProfile.from_dict({**p.to_dict(), "kernels": 3}), "legal: what KernelProfile.save writes"),
    ],
)
def test_bad_use_of_a_profile_is_one_line(profile, call, said):
    with pytest.raises(InputError, match=said) as error:
        call(profile)
    assert "\n" not in str(error.value)


def test_files_that_hold_no_profile_are_one_line(tmp_path):
    for name, content in (("a.json", b"{"), ("b.json", b"[]"), ("c.json", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name) as error:
            KernelProfile.load(tmp_path / name)
        assert "\n" not in str(error.value)
