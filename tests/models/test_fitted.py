"""A device with a profile of its kernels: programs take the profile's times, not the preset's."""

import dataclasses
import json
import os

import numpy as np
import pytest

from commlens.hardware import load_device
from commlens.hardware.errors import InputError
from commlens.models.estimators import GemmEstimator, HostGemmEstimator, KernelProfile
from commlens.models.fitted import fitted
from commlens.models.kernels import Kernels
from commlens.models.predict import estimate
from commlens.models.scenario import Scenario
from commlens.models.software import load_software

PROFILE = KernelProfile.load("kernels-h100")


def kernels(device="h100-sxm", profile="kernels-h100", **software):
    device = dataclasses.replace(load_device(device), profile=profile)
    return Kernels(device, load_software({"preset": "ideal", **software}), "bf16")


def scenario(device, phase="prefill", **keys):
    return Scenario.from_dict(
        {
            "model": "llama-3.1-8b",
            "cluster": {"preset": "dgx-h100", "device": device},
            "workload": {"phase": phase, "sequence_length": 2048, "global_batch": 1},
            "plan": {"tp": 4},
            **keys,
        }
    )


def test_a_product_takes_the_time_of_the_profile_less_its_launch():
    make = kernels()
    made = make.gemm("any", 4096, 8192, 1024)
    launch = PROFILE.estimators["gemm"].values_["launch"]
    assert made.time + launch == pytest.approx(PROFILE.seconds("gemm", m=4096, n=8192, k=1024, dtype="bf16"))
    stated = kernels(kernel_overhead=7e-6)
    assert stated.gemm("any", 4096, 8192, 1024).time == made.time  # what the stack says of gaps is not the kernel's
    assert stated.gemm("any", 4096, 8192, 1024).overhead == 7e-6
    silent = Kernels(make.device, load_software({"name": "bare"}), "bf16")
    assert silent.gemm("any", 64, 64, 64).overhead == pytest.approx(launch)


def test_attention_and_streaming_too():
    make = kernels()
    (decode,) = make.attention(64, 1, 4096, 8, 1, 128, 128, True)
    whole = PROFILE.seconds("attention_decode", batch=64, seq_kv=4096, heads=8, kv_heads=1, head_dim=128, dtype="bf16")
    assert decode.time + PROFILE.estimators["attention_decode"].values_["launch"] == pytest.approx(whole)
    (norm,) = make.elementwise("norm", 4096 * 8192, 4096, 3)
    whole = PROFILE.seconds("streaming", operation="norm", m=4096, n=8192, dtype="bf16")
    assert norm.time + PROFILE.estimators["streaming"].values_["launch"] == pytest.approx(whole)


def test_attention_of_a_window_or_of_a_part_of_the_queries_takes_what_its_scores_take():
    def seconds(query, context, **more):
        (made,) = kernels().attention(4, query, context, 8, 1, 128, 128, True, **more)
        return made.time

    launch = PROFILE.estimators["attention_prefill"].values_["launch"]
    shape = {"batch": 4, "heads": 8, "kv_heads": 1, "head_dim": 128, "dtype": "bf16"}
    whole = PROFILE.seconds("attention_prefill", seq_q=8192, seq_kv=8192, **shape) - launch
    assert seconds(8192, 8192) == pytest.approx(whole)
    assert seconds(8192, 16384) == pytest.approx(2 * whole, rel=0.1)  # every second token of twice the sequence
    assert seconds(2048, 8192) == pytest.approx(whole / 4, rel=0.15)
    windows = [seconds(8192, window) for window in (128, 512, 2048, 4096, 8192)]
    assert windows == sorted(windows)
    assert windows[0] < 0.15 * whole
    assert windows[3] == pytest.approx(0.75 * whole, rel=0.1)  # half of the tokens see half of a window
    assert seconds(4096, 4096, whole=32768.0) == pytest.approx(seconds(4096, 4096) * (2 - 1 / 8), rel=0.15)


def test_a_block_without_a_mask_takes_twice_what_half_of_it_does():
    make = kernels()
    (full,), (half,) = (make.attention(4, 4096, 4096, 8, 1, 128, 128, causal) for causal in (False, True))
    assert full.time == pytest.approx(2 * half.time, rel=0.15)


def test_keys_of_a_layer_come_from_memory_in_a_program_though_a_benchmark_finds_them_in_the_cache():
    shape = {"batch": 8, "seq_kv": 4096, "heads": 8, "kv_heads": 1, "head_dim": 128, "dtype": "bf16"}
    assert PROFILE.device.cache_capacity > 8 * 4096 * 512
    (decode,) = kernels().attention(8, 1, 4096, 8, 1, 128, 128, True)
    values = PROFILE.estimators["attention_decode"].values_
    streamed = 8 * 4096 * 512 / (values["memory"] * PROFILE.device.memory_bandwidth)
    slower = decode.time + values["launch"] - PROFILE.seconds("attention_decode", **shape)
    assert slower == pytest.approx(streamed * (1 - 1 / values["cached"]))


def test_what_no_fit_times_streams_no_faster_than_memory():
    assert PROFILE.estimators["streaming"].values_["add"] > 1  # of tensors that the cache held
    (update,) = kernels().streamed("update", 1e9)
    assert update.time == pytest.approx(
        1e9 / PROFILE.estimators["gemm"].values_["memory"] / PROFILE.device.memory_bandwidth
    )


def test_arrays_are_as_scalars():
    make = kernels()
    m = np.array([16.0, 512.0, 8192.0])
    alone = [make.gemm("any", one, 4096, 4096).time for one in m]
    assert make.gemm("any", m, 4096, 4096).time == pytest.approx(alone)


def test_another_device_takes_the_shares():
    h200 = fitted(dataclasses.replace(load_device("h200-sxm"), profile="kernels-h100"))
    assert h200.measured_on == "h100-sxm"
    # Decode is bound by memory, of which an H200 has more bandwidth.
    shape = (64, 1, 16384, 32, 8, 128, "bf16", True)
    own = fitted(dataclasses.replace(load_device("h100-sxm"), profile="kernels-h100"))
    ratio = own.attention(*shape) / h200.attention(*shape)
    bandwidth = load_device("h200-sxm").memory_bandwidth / load_device("h100-sxm").memory_bandwidth
    assert ratio == pytest.approx(bandwidth, rel=0.02)


def test_a_profile_that_is_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(value("matrix", 0.8))
    device = {"preset": "h100-sxm", "profile": str(path)}
    before = estimate(scenario(device))
    path.write_text(value("matrix", 0.4))
    os.utime(path, ns=(1, 1))  # files written within one tick of the clock differ too
    after = estimate(scenario(device))
    assert after.time_s > 1.2 * before.time_s
    path.write_text(changed(cross_validation={"mean": 0.1, "spread": 3.0}))
    assert estimate(scenario(device)).interval_s[1] > 1.2 * before.interval_s[1]


def test_numbers_changed_on_the_device_that_was_measured_count():
    device = {"preset": "h100-sxm", "profile": "kernels-h100"}
    faster = {**device, "memory_bandwidth": "6.7 TB/s"}
    before, after = (estimate(scenario(d, "decode")) for d in (device, faster))
    assert after.compute_s < 0.8 * before.compute_s
    assert np.ptp(after.interval_s) / after.time_s != pytest.approx(np.ptp(before.interval_s) / before.time_s)
    larger = {**device, "memory_capacity": "94 GB"}  # of which no kernel's time depends
    assert estimate(scenario(larger, "decode")).interval_s == before.interval_s


@pytest.mark.parametrize(("name", "is_one"), [("cpu-x86", "a processor"), ("mi300x", "a GPU")])
def test_kernels_of_a_gpu_and_of_a_processor_do_not_stand_for_each_other(tmp_path, name, is_one):
    cpu, path = load_device("cpu-x86"), tmp_path / "cpu.json"
    made = HostGemmEstimator(cpu)
    m = np.array([64.0, 512.0, 2048.0])
    KernelProfile(cpu, {"gemm": made.fit({"m": m, "n": 512, "k": 512}, 1e-9 * m)}).save(path)
    profile = "kernels-h100" if name == "cpu-x86" else str(path)
    with pytest.raises(InputError, match=f"{name}: kernels of .* .legal: those of {is_one}"):
        scenario({"preset": name, "profile": profile})
    KernelProfile.load(path).for_device(dataclasses.replace(cpu, name="another"))


def test_another_device_keeps_what_an_estimator_was_made_with():
    shape = {"m": np.array([64.0, 512.0, 4096.0]), "n": 512, "k": 512}
    sharp = GemmEstimator(PROFILE.device, sharpness=np.inf).fit(shape, np.array([4e-6, 6e-6, 9e-6]))
    assert sharp.for_device(load_device("b200")).sharpness == np.inf


def test_scenarios_take_it_and_say_where_it_was_measured():
    plain, mine = (estimate(scenario(d)) for d in ("h100-sxm", {"preset": "h100-sxm", "profile": "kernels-h100"}))
    assert mine.time_s != plain.time_s
    assert mine.time_s == pytest.approx(plain.time_s, rel=0.25)
    moved = estimate(scenario({"preset": "h200-sxm", "profile": "kernels-h100"}))
    assert any("measured on h100-sxm" in text for text in moved.warnings)
    assert not any("measured on" in text for text in mine.warnings)


def test_a_profile_stands_for_the_device_it_was_measured_on(tmp_path):
    path = tmp_path / "mine.json"
    PROFILE.save(path)
    device = load_device(str(path))
    assert (device.name, device.profile) == ("h100-sxm", str(path))
    own = dataclasses.replace(load_device("h100-sxm"), name="mine")
    dataclasses.replace(PROFILE, device=own).save(path)
    assert load_device(str(path)).name == "mine"
    assert load_device(str(path)).peak_flops == own.peak_flops
    assert estimate(scenario(str(path))).time_s == pytest.approx(
        estimate(scenario({"preset": "h100-sxm", "profile": "kernels-h100"})).time_s
    )


def changed(kind="gemm", **keys):
    """A profile with other keys of a kernel."""
    data = PROFILE.to_dict()
    return json.dumps({**data, "kernels": {**data["kernels"], kind: {**data["kernels"][kind], **keys}}})


def value(name, number):
    """A profile with another number."""
    values = PROFILE.to_dict()["kernels"]["gemm"]["values"]
    return changed(values={**values, name: {"value": number}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("[" * 100000, "recursion"),
        (value("matrix", "much"), "gemm.values.matrix: 'much' (legal: 0.3 to 1)"),
        (value("matrix", True), "gemm.values.matrix: True (legal: 0.3 to 1)"),
        (changed(tools={"mine": -3}), "gemm.tools.mine: -3"),
        (changed(cross_validation=[1]), "kernels.gemm.cross_validation: [1] (legal: a mapping)"),
        (changed(cross_validation={"rows": 9}), "cross_validation.mean: None"),
        (changed(cross_validation={"mean": "small"}), "cross_validation.mean: 'small'"),
        (changed(cross_validation={"mean": 0.1, "spread": -1}), "cross_validation.spread: -1 (legal: 0 to 10)"),
        (changed(cross_validation={"mean": 0.1, "spread": 1e6}), "cross_validation.spread: 1000000.0"),
        (changed(cross_validation={"mean": 0.1, "spread": float("nan")}), "cross_validation.spread: nan"),
        (json.dumps({**PROFILE.to_dict(), "source": "a paper"}), "KernelProfile.save"),
        (json.dumps({**PROFILE.to_dict(), "kernels": {}}), "kernels: none"),
        ("{", "KernelProfile.save"),
        ("[]", "not a profile of kernels"),
        (json.dumps({**PROFILE.to_dict(), "kernels": {"gemm": {}}}), "gemm.values"),
        (json.dumps({**PROFILE.to_dict(), "device": "abacus"}), "abacus"),
    ],
)
def test_a_profile_that_is_none_is_one_line(tmp_path, content, said):
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as refused:
        scenario({"preset": "h100-sxm", "profile": str(path)})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "cluster: device: profile" in str(refused.value)
