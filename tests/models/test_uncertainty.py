"""How sure a prediction is: spreads of errors, draws of factors, and what they make of times and speed-ups."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens import Scenario, compare, estimate, search, simulate
from commlens.models import drawn as closed_form
from commlens.models import predict
from commlens.models.spread import PRIOR, Z, spread
from commlens.models.techniques import TechniqueCall, registry
from commlens.models.uncertainty import SAMPLES, Draws, Spreads, bounds, kind_of, normal_bounds, preset, spreads_of

PROFILED = {"preset": "dgx-h100", "device": {"preset": "h100-sxm", "profile": "kernels-h100"}}
TRAINING = {"phase": "training", "sequence_length": 4096, "global_batch": 64, "micro_batch": 1}
MANY = {**PROFILED, "nodes": 4}


def scenario(**changes):
    data = {
        "model": "llama-3.1-8b",
        "cluster": "dgx-h100",
        "workload": {"phase": "generate", "prompt": 512, "new_tokens": 8, "global_batch": 4},
        "plan": {"tp": 8},
        "software": "torch-compile",
    }
    return Scenario.from_dict({**data, **changes})


def spreads(**kernels):
    return Spreads(kernels, 0.2, True, lambda size: 0.1, 0.1, 0.0, None)


# -- spreads -------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.floats(0.01, 100))
def test_a_spread_goes_with_the_scale_of_the_errors_and_not_with_their_sign_or_order(errors, scale):
    wanted = spread(errors)
    assert spread([-scale * error for error in reversed(errors)]) == pytest.approx(scale * wanted)
    assert 0 <= wanted <= max(abs(error) for error in errors) / Z * (1 + 1e-12)


def test_the_spread_of_many_normal_errors_is_their_standard_deviation():
    errors = 0.13 * np.random.default_rng(1).standard_normal(20_000)
    assert spread(errors) == pytest.approx(0.13, rel=0.03)


@pytest.mark.parametrize("rows", [9, 20, 100])
def test_nine_in_ten_new_errors_lie_inside_however_few_rows_and_whatever_their_tails(rows):
    generator = np.random.default_rng(rows)
    inside = []
    for _ in range(3000):
        errors = generator.standard_t(3, rows + 1)
        inside.append(abs(errors[-1]) <= Z * spread(errors[:-1]))
    # Of n + 1 errors that are alike, the bound is the smallest rank with 90 % of them.
    assert np.mean(inside) == pytest.approx(np.ceil(0.9 * (rows + 1)) / (rows + 1), abs=0.02)


def test_few_rows_take_after_the_others_and_many_do_not():
    others = [np.linspace(-1, 1, 50), np.linspace(-1, 1, 5)]
    narrow = np.linspace(-0.1, 0.1, 9)
    assert spread(narrow) < 0.1 / Z * 1.001
    assert spread(narrow, others) > spread(narrow)
    assert spread(np.tile(narrow, 500), others) == pytest.approx(spread(np.tile(narrow, 500)), rel=0.05)
    assert spread([], others) == pytest.approx(1 / Z)  # none of its own: all of theirs are inside
    with pytest.raises(ValueError, match="no rows"):
        spread([])
    # Every other sort counts alike, so repeating one of them changes nothing.
    assert spread(narrow, others) == spread(narrow, [np.tile(others[0], 4), others[1]])
    assert min(n for n in range(1, 30) if 0.9 * (n + 1) <= n) == PRIOR


# -- draws ---------------------------------------------------------------------------------------------


def test_one_factor_has_exactly_the_quantiles_of_its_spread():
    factors = Draws(spreads()).factors("something", 0.2)
    assert factors[0] == 1
    assert bounds(factors[1:]) == pytest.approx(normal_bounds(0.2), rel=0.01)
    assert np.log(factors[1:]).std() == pytest.approx(0.2, rel=0.02)


def test_errors_of_unlike_kernels_average_out_and_those_of_equal_ones_do_not():
    draws = Draws(spreads(gemm=0.1))
    kernels = scenario_kernels()
    unlike = sum(draws.kernel(kernels.gemm("product", 128 + i, 4096, 4096)) for i in range(16)) / 16
    equal = sum(draws.kernel(kernels.gemm(f"product {i}", 128, 4096, 4096)) for i in range(16)) / 16
    low, high = bounds(unlike[1:])
    assert np.log(high / low) == pytest.approx(2 * Z * 0.1 / 4, rel=0.25)
    assert bounds(equal[1:]) == pytest.approx(normal_bounds(0.1), rel=0.01)


def test_kinds_without_a_spread_and_kernels_measured_elsewhere_go_together():
    draws, kernels = Draws(spreads(gemm=0.1)), scenario_kernels()
    (one,), (other,) = (kernels.elementwise("norm", rows * 4096, rows, 2) for rows in (8, 16))
    assert draws.kernel(one) is draws.kernel(other)
    moved = Draws(Spreads({"gemm": 0.1}, 0.2, False, lambda size: 0.1, 0.1, 0.0, None))
    assert moved.kernel(kernels.gemm("a", 8, 8, 8)) is moved.kernel(kernels.gemm("b", 16, 8, 8))


def test_a_kernel_is_filed_as_a_profile_files_it():
    kernels = scenario_kernels()
    (attention,) = kernels.attention(1, 128, 128, 8, 8, 128, 128, True)
    (norm,) = kernels.elementwise("norm", 4096, 1, 2)
    made = kernels.gemm("a", 8, 8, 8), kernels.gemm("b", 8, 8, 8, groups=4), attention, norm
    assert [kind_of(kernel) for kernel in made] == ["gemm", "grouped_gemm", "attention_prefill", "streaming"]
    assert kind_of(attention, decoding=True) == "attention_decode"


def scenario_kernels():
    from commlens.models.kernels import Kernels
    from commlens.models.software import Software

    return Kernels(scenario(cluster=PROFILED).cluster.device, Software("plain"), "bf16")


# -- predictions ---------------------------------------------------------------------------------------

PLANS = {
    "decode": {"cluster": PROFILED},
    "unprofiled": {},
    "moved": {"cluster": {"preset": "dgx-h100", "device": {"preset": "h100-sxm", "profile": "kernels-a100"}}},
    "step": {"workload": TRAINING, "plan": {"tp": 2, "pp": 2, "dp": 8, "zero": 1}, "cluster": MANY},
    "zero 3": {"workload": TRAINING, "plan": {"dp": 32, "zero": 3, "recompute": "full"}, "cluster": MANY},
    "zero-bubble": {
        "workload": TRAINING,
        "plan": {"tp": 2, "pp": 4, "dp": 4, "zero": 2, "schedule": "zero-bubble"},
        "cluster": MANY,
    },
    "some recomputed": {
        "workload": TRAINING,
        "plan": {"pp": 4, "dp": 8, "recompute": "full", "recompute_layers": 2, "offload": "optimizer"},
        "cluster": MANY,
    },
    "ring attention": {
        "workload": {**TRAINING, "global_batch": 16},
        "plan": {"tp": 4, "cp": 4, "dp": 2, "zero": 3},
        "techniques": ["ring_attention"],
        "cluster": MANY,
    },
    "experts": {
        "model": "mixtral-8x7b",
        "workload": {"phase": "decode", "sequence_length": 1024, "global_batch": 64},
        "plan": {"tp": 1, "ep": 8, "dp": 8},
        "cluster": PROFILED,
    },
    "dense and mixed layers": {
        "model": "deepseek-v2-lite",
        "workload": {"phase": "prefill", "sequence_length": 512, "global_batch": 8},
        "plan": {"tp": 1, "ep": 8, "dp": 8},
        "cluster": PROFILED,
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_without_errors_the_closed_form_of_the_draws_is_the_estimate(name):
    case = scenario(**PLANS[name])
    draws, call = Draws(spreads_of(case)), predict.technique_of(case)
    if case.workload.phase == "training":
        found = closed_form.drawn_step(case, call, draws)
    else:
        found = closed_form.drawn_phases(case, call, *predict._phases(case, call), draws)
    assert found.time.shape == (SAMPLES + 1,)
    assert found.time[0] == pytest.approx(estimate(case).time_s, rel=1e-9)
    assert np.ptp(found.time) > 0


@pytest.mark.parametrize("name", PLANS)
def test_an_interval_lies_around_the_prediction_and_is_the_same_every_time(name):
    case = scenario(**PLANS[name])
    first, again = estimate(case), estimate(scenario(**PLANS[name]))
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    low, high = first.interval_s
    assert low < first.time_s < high


def test_simulation_and_closed_form_have_intervals_of_one_width():
    case = scenario(cluster=PROFILED, techniques=["ladder_residual"])
    played, formula = simulate(case), estimate(case)
    for ends in zip(played.interval_s, formula.interval_s, strict=True):
        assert ends[0] / played.time_s == pytest.approx(ends[1] / formula.time_s, rel=0.02)


def test_the_seed_draws_other_errors_of_the_same_size():
    one, other = (estimate(scenario(cluster=PROFILED, seed=seed)) for seed in (0, 1))
    assert one.time_s == other.time_s
    assert one.interval_s != other.interval_s
    assert one.interval_s == pytest.approx(other.interval_s, rel=0.03)


def test_a_stack_measured_with_the_presets_kernels_has_the_interval_of_its_steps():
    case = scenario()
    result = estimate(case)
    wanted = normal_bounds(case.software.spread["dense"])
    assert [end / result.time_s for end in result.interval_s] == pytest.approx(wanted)
    own = scenario(software={"name": "own", "error": 0.2, "calibrated_on": ["h100-sxm"]})
    result = estimate(own)  # an error and no spread: nine in ten rows within 20 %
    assert result.interval_s == pytest.approx((result.time_s / 1.2, result.time_s * 1.2), rel=1e-5)


def test_kernels_by_a_profile_widen_the_interval_and_those_measured_elsewhere_more():
    def width(name, **changes):
        result = estimate(scenario(**PLANS[name], **changes))
        return np.log(result.interval_s[1] / result.interval_s[0])

    assert width("unprofiled") < width("decode")
    ideal = {"software": "ideal"}
    assert width("decode", **ideal) < width("moved", **ideal)


def test_where_nothing_was_calibrated_there_is_no_interval_and_a_profile_alone_says_what_it_speaks_of():
    assert estimate(scenario(software="ideal")).interval_s is None
    elsewhere = estimate(scenario(cluster="dgx-a100"))
    assert elsewhere.interval_s is None
    assert any("no interval" in text for text in elsewhere.warnings)
    alone = estimate(scenario(cluster=PROFILED, software="ideal"))
    assert alone.interval_s is not None
    assert any("kernels and collectives alone" in text for text in alone.warnings)


def test_mixtures_have_their_own_spread():
    step = {"workload": TRAINING, "cluster": {"preset": "dgx-h100", "nodes": 4}, "software": "megatron-bridge-2025"}
    dense = spreads_of(scenario(plan={"dp": 32, "zero": 1}, **step))
    mixture = spreads_of(scenario(model="mixtral-8x7b", plan={"dp": 32, "ep": 8, "zero": 1}, **step))
    assert 0 < dense.whole < mixture.whole


def test_a_profile_of_kernels_without_spreads_takes_its_mean_error(tmp_path):
    from commlens.models.estimators import KernelProfile

    data = KernelProfile.load("kernels-h100").to_dict()
    for kernel in data["kernels"].values():
        for name in ("spread", "elsewhere"):
            kernel["cross_validation"].pop(name, None)
    (tmp_path / "own.json").write_text(json.dumps(data))
    device = {"preset": "h100-sxm", "profile": str(tmp_path / "own.json")}
    found = spreads_of(scenario(cluster={"preset": "dgx-h100", "device": device}))
    mean = data["kernels"]["gemm"]["cross_validation"]["mean"]
    assert found.kernels["gemm"] == pytest.approx(mean * np.sqrt(np.pi / 2))
    moved = spreads_of(scenario(cluster={"preset": "dgx-a100", "device": {**device, "preset": "a100-80-sxm"}}))
    assert set(moved.kernels.values()) == {preset()["elsewhere"]}


# -- speed-ups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", ["dgx-h100", PROFILED], ids=["stack", "profile"])
def test_a_speed_up_is_surer_than_the_times_it_is_of(cluster):
    names = ["baseline", "ladder_residual", "no_communication", "t3"]
    frame = compare(scenario(cluster=cluster), names, engine="estimate")
    ends = frame[["speedup_low", "speedup_high"]].to_numpy()
    assert ends[0].tolist() == [1, 1]
    assert (ends[1:, 0] < frame["speedup"].iloc[1:]).all()
    assert (ends[1:, 1] > frame["speedup"].iloc[1:]).all()
    times = np.array([np.log(high / low) for low, high in frame["interval_s"]])
    assert (np.log(ends[:, 1] / ends[:, 0]) < times).all()


def test_speed_ups_over_a_technique_and_of_equal_rows():
    frame = compare(scenario(), ["ladder_residual", "ladder_residual"], engine="estimate")
    assert (frame[["speedup", "speedup_low", "speedup_high"]] == 1).all(axis=None)


def test_speed_ups_of_nothing_calibrated_have_no_ends():
    frame = compare(scenario(software="ideal"), ["baseline", "ladder_residual"], engine="estimate")
    assert frame[["speedup_low", "speedup_high"]].isna().all(axis=None)


def test_a_technique_is_off_by_a_factor_of_its_own_and_the_baseline_by_none():
    draws = Draws(spreads())
    assert (draws.technique(TechniqueCall(registry()["baseline"])) == 1).all()
    assert bounds(draws.technique(TechniqueCall(registry()["t3"]))) == pytest.approx(
        normal_bounds(preset()["techniques"]), rel=0.01
    )


def test_without_a_closed_form_shares_of_computation_and_communication_stand_for_it():
    found = closed_form.Drawn(None, np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    found = closed_form.Drawn(None, *(np.repeat(part, [1, SAMPLES]) for part in (found.compute, found.communication)))
    assert closed_form.by_shares(found, 3.0, 1.0) == pytest.approx(0.75 * 2 + 0.25 * 3)


def test_a_search_of_training_plans_draws_nothing(monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr(predict, "drawn_step", refuse)
    case = scenario(workload=TRAINING, cluster=PROFILED, software="megatron-core")
    assert len(search(case, devices=8))
