"""The door: what a scenario accepts, and the one line each mistake gets."""

import json

import pytest

from commlens import InputError, Scenario, compare, search, simulate, sweep

GOOD = {
    "model": "llama-3.1-8b",
    "cluster": "dgx-h100",
    "plan": {"tp": 4},
    "workload": {"phase": "prefill", "sequence_length": 1024, "global_batch": 4},
}


def change(**keys):
    from commlens.models.scenario import changed

    return changed(GOOD, {key.replace("__", "."): value for key, value in keys.items()})


BAD = {
    "unknown key": (change(modle="x"), ["modle", "model"]),
    "unknown nested key": (change(plan__tpp=2), ["plan", "tpp", "tp"]),
    "misspelt model": (change(model="lama-3.1-70b"), ["lama-3.1-70b", "llama-3.1-70b"]),
    "misspelt cluster": (change(cluster="dgx-h10"), ["dgx-h10", "dgx-h100"]),
    "misspelt technique": (
        change(techniques=["laddder_residual"]),
        ["laddder_residual", "ladder_residual"],
    ),
    "unknown option": (
        change(techniques=[{"name": "t3", "arbiter": "mca"}]),
        ["arbiter", "arbitration"],
    ),
    "illegal option": (
        change(techniques=[{"name": "t3", "arbitration": "fifo"}]),
        ["fifo", "plain, mca"],
    ),
    "illegal count": (
        change(techniques=[{"name": "async_tp", "chunks": 0}]),
        ["chunks", "1 to 4096"],
    ),
    "tp does not divide the heads": (
        change(plan__tp=3),
        ["plan.tp", "32 attention heads", "1, 2, 4, 8"],
    ),
    "more devices than there are": (change(plan__tp=32), ["needs 32 devices", "has 8"]),
    "negative": (change(workload__global_batch=-1), ["workload.global_batch", "-1"]),
    "absurd": (change(workload__sequence_length=10**15), ["workload.sequence_length"]),
    "text for a number": (change(plan__tp="four"), ["plan.tp", "four"]),
    "boolean for a number": (change(plan__tp=True), ["plan.tp"]),
    "wrong phase": (change(workload__phase="train"), ["workload.phase", "training"]),
    "generate without new tokens": (
        change(workload__phase="generate"),
        ["workload.new_tokens", "generate"],
    ),
    "new tokens elsewhere": (change(workload__new_tokens=3), ["workload.new_tokens", "generate"]),
    "batch not a multiple": (
        change(plan__dp=2, workload__global_batch=3),
        ["global_batch", "plan.dp"],
    ),
    "micro batch does not divide": (change(workload__micro_batch=3), ["micro_batch"]),
    "pipeline": (change(plan__pp=2), ["plan.pp", "legal: 1"]),
    "chunks where the schedule has none": (
        change(workload__phase="training", workload__prompt=None, workload__new_tokens=None)
        | {"plan": {"vp": 2, "schedule": "gpipe"}},
        ["plan.vp: 2", "gpipe", "combined-1f1b"],
    ),
    "format the device lacks": (change(workload__dtype="fp4"), ["fp4", "bf16"]),
    "80 GiBs": (
        change(
            cluster={
                "preset": "dgx-h100",
                "device": {"preset": "h100-sxm", "memory_capacity": "80 GiBs"},
            }
        ),
        ["80 GiBs", "GiB"],
    ),
    "unknown software": (change(software="torch-compiled"), ["torch-compiled", "torch-compile"]),
    "misspelt shape": (
        change(model={"model_type": "llama", "hiden_size": 4096}),
        ["hiden_size", "hidden_size"],
    ),
    "unknown model type": (change(model={"model_type": "mamba3"}), ["mamba3", "llama"]),
    "two of a family": (change(techniques=["t3", "ladder_residual"]), ["t3, ladder_residual"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_names_the_key(name):
    data, words = BAD[name]
    with pytest.raises(InputError) as caught:
        simulate(Scenario.from_dict(data))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


FILES = {
    "missing": None,
    "truncated": '{"model": "llama-3.1-8b", ',
    "not a mapping": "- 1\n- 2\n",
    "empty": "",
    "bomb": "a: &a [x, x]\nb: &b [*a, *a]\nmodel: *b\n",
    "huge": "x" * 10_000_001,
    "not text": b"\xff\xfe\x00\x01",
    "duplicate key": "model: a\nmodel: b\n",
    "python object": "model: !!python/object/apply:os.getcwd []\n",
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_one_line_that_names_the_file(name, tmp_path):
    path = tmp_path / "scenario.yaml"
    text = FILES[name]
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        Scenario.load(path)
    assert "\n" not in str(caught.value)
    assert "scenario.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ['{"model_type": "llama", ', "not json", "[]", '{"model_type": "rwkv"}'])
def test_bad_model_configs_name_the_file(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "scenario.yaml").write_text(json.dumps({**GOOD, "model": "./config.json"}))
    with pytest.raises(InputError, match=r"config\.json") as caught:
        Scenario.load(tmp_path / "scenario.yaml")
    assert "\n" not in str(caught.value)


def test_model_paths_are_relative_to_the_scenario_file(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "scenario.yaml").write_text(json.dumps({**GOOD, "model": "./config.json"}))
    assert Scenario.load(tmp_path / "scenario.yaml").model.hidden == 2048


def test_a_model_that_does_not_fit_is_an_answer():
    result = simulate(Scenario.from_dict(change(model="llama-3.1-405b")))
    assert result.fits is False
    assert result.memory_bytes["total"] == pytest.approx(405.85e9 * 2 / 4, rel=0.1)
    assert any("does not fit" in text for text in result.warnings)


def test_same_scenario_same_json():
    first, second = (json.dumps(simulate(Scenario.from_dict(GOOD)).to_dict()) for _ in range(2))
    assert first == second


def test_compare_has_the_fields_and_a_speedup():
    frame = compare(
        Scenario.from_dict(GOOD),
        ["ladder_residual", "baseline", {"name": "t3", "arbitration": "mca"}],
    )
    assert list(frame.index) == ["ladder_residual", "baseline", "t3 (arbitration=mca)"]
    assert frame.loc["baseline", "speedup"] == 1.0
    assert (
        frame.loc["ladder_residual", "speedup"]
        == frame.loc["baseline", "time_s"] / frame.loc["ladder_residual", "time_s"]
    )
    for column in (
        "time_s",
        "mfu",
        "exposed_communication_s",
        "memory_bytes",
        "bound",
        "interval_s",
        "warnings",
    ):
        assert column in frame


def test_sweep_keeps_illegal_points_with_their_reason():
    frame = sweep(Scenario.from_dict(GOOD), {"plan.tp": [1, 2, 3, 8], "workload.global_batch": [1, 16]})
    assert len(frame) == 8
    assert list(frame["plan.tp"]) == [1, 1, 2, 2, 3, 3, 8, 8]
    assert frame["error"].notna().sum() == 2
    assert frame[frame["plan.tp"] == 3]["error"].str.contains("does not divide").all()


def test_sweep_over_threads_equals_sweep_here():
    from concurrent.futures import ThreadPoolExecutor

    grid = {"plan.tp": [2, 8], "techniques": [["baseline"], ["ladder_residual"]]}
    with ThreadPoolExecutor(2) as pool:
        spread = sweep(Scenario.from_dict(GOOD), grid, executor=pool)
    assert spread.equals(sweep(Scenario.from_dict(GOOD), grid))


def test_search_ranks_plans_that_fit():
    frame = search(Scenario.from_dict(change(model="llama-3.1-70b", workload__global_batch=8)), devices=8)
    assert list(frame["tp"])
    assert frame["tokens_per_second"].is_monotonic_decreasing
    assert frame["fits"].all()
    assert frame.attrs["evaluated"] == 4
    assert "{'tp': 1, 'dp': 8}" in frame.attrs["rejected"]


def test_search_adds_nodes_for_more_devices():
    data = change(workload={"phase": "training", "sequence_length": 2048, "global_batch": 64, "micro_batch": 1})
    frame = search(Scenario.from_dict(data), devices=64)
    assert (frame["tp"] * frame["pp"] * frame["cp"] * frame["dp"] == 64).all()
    assert frame["time_s"].is_monotonic_increasing
    assert frame.attrs["evaluated"] > len(frame)


@pytest.mark.parametrize("devices", [0, -1, True, 2.5, 10**9])
def test_search_refuses_a_number_of_devices_that_is_none(devices):
    with pytest.raises(InputError, match="1 to 1000000"):
        search(Scenario.from_dict(GOOD), devices)


def test_training_counts_forward_backward_and_update():
    data = change(
        workload={
            "phase": "training",
            "sequence_length": 2048,
            "global_batch": 16,
            "micro_batch": 2,
        },
        plan={"tp": 4, "dp": 2},
    )
    result = simulate(Scenario.from_dict(data))
    assert result.repeats == {"training": 1}
    assert set(result.memory_bytes) == {
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "kv_cache",
        "workspace",
        "total",
    }
    assert result.memory_bytes["optimizer"] == 6 * result.memory_bytes["weights"]
    assert 0.1 < result.mfu < 0.8
    full = simulate(Scenario.from_dict({**data, "plan": {"tp": 4, "dp": 2, "recompute": "full"}}))
    assert full.time_s > 1.2 * result.time_s
    assert full.model_flops_per_device == result.model_flops_per_device
    assert full.memory_bytes["activations"] < 0.2 * result.memory_bytes["activations"]


@pytest.mark.parametrize("key", ["cluster.device", "cluster.device.profile", "cluster.link.profile", "cluster"])
def test_files_of_hardware_are_looked_for_beside_the_scenario(key, tmp_path, monkeypatch):
    import yaml

    from commlens.hardware import load_device, load_profile
    from commlens.models.estimators import KernelProfile
    from commlens.validation.profile_file import profile_text

    (tmp_path / "my").mkdir()
    KernelProfile.load("kernels-h100").save(tmp_path / "my" / "mine.json")
    text = profile_text(load_profile("nvlink4"), "mine", "measured", "nvlink4")
    (tmp_path / "my" / "link.yaml").write_text(text)
    (tmp_path / "my" / "cluster.yaml").write_text("preset: dgx-h100\nnodes: 2\n")
    device = {"preset": "h100-sxm", "profile": "mine.json"} if key == "cluster.device.profile" else "h100-sxm"
    cluster = {
        "cluster.device": {"preset": "dgx-h100", "device": "mine.json"},
        "cluster.device.profile": {"preset": "dgx-h100", "device": device},
        "cluster.link.profile": {"preset": "dgx-h100", "link": {"preset": "nvlink4", "profile": "link.yaml"}},
        "cluster": "cluster.yaml",
    }[key]
    data = {"model": "llama-3.1-8b", "cluster": cluster, "workload": {"phase": "prefill", "sequence_length": 64}}
    (tmp_path / "my" / "scenario.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.chdir(tmp_path)
    found = Scenario.load("my/scenario.yaml")
    assert (found.cluster.device.profile is not None) == ("device" in key)
    assert found.cluster.size == (16 if key == "cluster" else 8)
    assert load_device("h100-sxm").name in found.cluster.device.name
    assert Scenario.from_dict(found.data).cluster == found.cluster
