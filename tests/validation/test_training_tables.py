"""Rows of training tables become scenarios that say what the row says; a row that cannot be read says why."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens import Scenario
from commlens.models.library import load_model
from commlens.validation.claims import MEASURED
from commlens.validation.training import bloom, case
from commlens.validation.training.architectures import named
from commlens.validation.training.case import UnreadableError
from commlens.validation.training.machines import adapter, cluster_of
from commlens.validation.training.tables import TABLES, cases, is_calibration, read

BASE = {
    "row_id": "row-1", "gpu": "A100-SXM-80GB", "n_gpus": "64", "tp": "8", "pp": "4", "seq_len": "2048", "layers": "24",
    "hidden": "1024", "heads": "16", "vocab": "51200", "global_batch_seqs": "64", "microbatch_per_gpu_seqs": "1",
    "step_time_s": "2.5", "interconnect": "8x HDR200 per node", "system_release": "Megatron-LM 2021 (PTD-P)",
    "activation_ckpt": "full", "precision": "fp16 mixed", "source": "a table", "model": "GPT",
}  # fmt: skip


def scenario(table: str, **changes: str) -> Scenario:
    found = read(table, BASE | changes)
    assert found.scenario is not None, found.reason
    return Scenario.from_dict(found.scenario)


@pytest.mark.parametrize(
    ("words", "per_node", "gigabits"),
    [
        ("Jean Zay: 8x A100/node NVLink3; 4x Omni-Path 100 Gb/s per node (recalled)", 8, 50),
        ("DGX A100 Selene: NVLink3/NVSwitch + 8x HDR200 IB", 8, 200),
        ("4x 100 Gb/s RoCE per node", 8, 50),
        ("RoCE 1600 Gb/s per node", 8, 200),
        ("NVLink in node; 400 Gb/s RDMA per GPU", 8, 400),
        ("NVLink3 in node, 800 Gbit/s InfiniBand per node", 8, 100),
        ("RoCE 8x200 Gb/s per node", 8, 200),
        ("4x Omni-Path 100 Gb/s", 8, 50),
        ("HDR IB", 8, None),
        ("not stated (DGX H100 class, NVLink4 + IB NDR)", 8, None),
        ("", 8, None),
    ],
)
def test_a_device_gets_its_share_of_the_adapters(words: str, per_node: int, gigabits: float | None) -> None:
    assert adapter(words, per_node) == (None if gigabits is None else gigabits * 1e9)


@pytest.mark.parametrize(
    ("gpu", "devices", "expected"),
    [
        ("DGX-GB300", 64, ("gb300", 72, 1)),
        ("DGX-GB200", 256, ("gb200", 64, 4)),
        ("DGX-B300", 64, ("b300", 8, 8)),
        ("V100-SXM3-32GB (DGX-2)", 32, ("v100-sxm", 16, 2)),
        ("A100-SXM-40GB (DGX-A100)", 1, ("a100-40-sxm", 8, 1)),
        ("A100-80GB (Ampere)", 12288, ("a100-80-sxm", 8, 1536)),
        ("H100-SXM 96GB HBM2e 2.4TB/s 500W", 512, ("h100-96-sxm", 8, 64)),
        ("H200-SXM-141GB", 32, ("h200-sxm", 8, 4)),
    ],
)
def test_devices_and_nodes(gpu: str, devices: int, expected: tuple[str, int, int]) -> None:
    row = BASE | {"gpu": gpu, "n_gpus": str(devices), "tp": "1", "pp": "1"}
    from commlens.hardware import load_cluster

    cluster = load_cluster(cluster_of(row))
    assert (cluster.device.name, cluster.devices_per_node, cluster.nodes) == expected


def test_an_unknown_device_has_a_reason() -> None:
    assert read("train_frontier_runs_recalled", BASE | {"gpu": "TPU v4"}).reason == "no preset describes TPU v4"


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("LLAMA3_70B", "llama-3.1-70b"),
        ("LLAMA3.1_405B", "llama-3.1-405b"),
        ("Qwen3_30B_a3B (tokendrop)", "qwen3-30b-a3b"),
        ("Qwen3-235B-A22B", "qwen3-235b-a22b"),
        ("GPT OSS 120B", "gpt-oss-120b"),
        ("GPT OSS 20B", "gpt-oss-20b"),
        ("DeepSeekV3", "deepseek-v3"),
        ("Kimi-K2", "kimi-k2"),
        ("Kimi K2 1T", "kimi-k2"),
        ("Nemotron4_15B", "nemotron-4-15b"),
        ("Nemotron4 340B", "nemotron-4-340b"),
        ("Mixtral 8x22B", "mixtral-8x22b"),
        ("OPT-175B", "opt-175b"),
        ("Llama-3.1-8B", "llama-3.1-8b"),
    ],
)
def test_names_of_models(name: str, preset: str) -> None:
    assert named(name) == preset


@pytest.mark.parametrize(
    "name", ["Nemotron_3_Nano", "Nemotron-H 56B", "Qwen3-Next-80B-A3B", "DeepSeekV4 Flash", "Qwen3_VL_30B", "nobody"]
)
def test_models_that_cannot_be_described_have_a_reason(name: str) -> None:
    with pytest.raises(UnreadableError, match=r"has |no preset"):
        named(name)


# Published sizes of the shapes the tables need: checkpoints exactly, papers to what they print.
SIZES = [
    ("llama-2-7b", 6_738_415_616, 0), ("llama-2-13b", 13_015_864_320, 0), ("llama-2-70b", 68_976_648_192, 0),
    ("qwen3-30b-a3b", 30_532_122_624, 0), ("gpt-oss-20b", 20_914_757_184, 0), ("mixtral-8x22b", 140_620_634_112, 0),
    ("deepseek-v2", 235.74e9, 1e-4), ("deepseek-v2-lite", 15.706e9, 1e-4), ("kimi-k2", 1.026e12, 1e-3),
    ("internlm-7b", 7.32e9, 1e-3), ("nemotron-4-15b", 15.6e9, 3e-3), ("nemotron-4-340b", 341e9, 1e-3),
    ("opt-175b", 174.6e9, 1e-3), ("gpt-neox-20b", 20.55e9, 1e-3), ("bloom-176b", 176.25e9, 1e-3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "tolerance"), SIZES)
def test_sizes_of_models(name: str, size: float, tolerance: float) -> None:
    assert load_model(name).parameters() == pytest.approx(size, rel=max(tolerance, 1e-12))


def test_megatron_2021_is_interleaved_by_the_smallest_degree_and_overlaps_nothing() -> None:
    found = scenario("train_megatron")
    assert (found.plan.dp, found.plan.vp, found.plan.schedule, found.plan.recompute) == (2, 2, "interleaved", "full")
    assert found.plan.overlap == ()
    assert found.workload.dtype == "fp16"
    assert found.cluster.nic is not None
    assert found.cluster.nic.bandwidth == 25e9
    assert scenario("train_megatron", layers="12").plan.vp == 3  # 3 layers a stage
    assert scenario("train_megatron", layers="4", tp="1", n_gpus="4", pp="4").plan.vp == 1


def test_megatron_rows_without_a_layout_are_not_guessed() -> None:
    assert "how the model is divided" in read("train_megatron", BASE | {"tp": "", "pp": ""}).reason


def test_a_rate_becomes_a_step_by_the_tables_own_formula() -> None:
    # 96 B s l h^2 (1 + s/6h + V/16lh), by hand for the 1.7B row of arXiv 2104.04473: 137 TFLOP/s on 32 devices
    row = BASE | {
        "step_time_s": "", "tflops_per_gpu_reported": "137", "hidden": "2304", "heads": "24", "n_gpus": "32",
        "tp": "1", "pp": "1", "global_batch_seqs": "512", "microbatch_per_gpu_seqs": "16",
    }  # fmt: skip
    assert read("train_megatron", row).step_time == pytest.approx(3.528, rel=1e-3)
    core = row | {"system_release": "Megatron-Core r0.8.0", "precision": "bf16", "gpu": "H100-SXM-80GB"}
    time = read("train_megatron", core).step_time
    work = 72 * 512 * 2048 * 24 * 2304**2 * (1 + 2048 / (6 * 2304) + 51200 / (12 * 24 * 2304))
    assert time == pytest.approx(work / (137e12 * 32))


def test_tokens_per_second_become_a_step() -> None:
    row = BASE | {"step_time_s": "", "tokens_per_s_per_gpu": "1024"}
    assert case.step_time(row) == 64 * 2048 / (1024 * 64)


def test_mosaic_shards_everything_and_pure_halves_the_messages() -> None:
    plain = scenario("train_mosaic_mpt", tp="1", pp="1", precision="amp_bf16", variant="mp_mode=DEFAULT")
    assert (plain.plan.zero, plain.plan.dp) == (3, 64)
    assert set(plain.plan.overlap) == {"gradients", "parameters"}
    pure = read("train_mosaic_mpt", BASE | {"tp": "1", "pp": "1", "variant": "mp_mode=PURE;act_cpu_offload=False"})
    assert pure.scenario is not None
    assert pure.scenario["software"]["message_bytes"] == 2
    assert "host memory" in read("train_mosaic_mpt", BASE | {"variant": "act_cpu_offload=True"}).reason


@pytest.mark.parametrize(("sharding", "expected"), [("ZeRO-1 group=8", 8), ("ZeRO-1 group=all DP", None)])
def test_internevo_groups(sharding: str, expected: int | None) -> None:
    row = {"params_b": "7", "sharding": sharding, "tp": "1", "pp": "1", "precision": "bf16"}
    plan = scenario("train_internevo", **row).plan
    assert (plan.zero, plan.shard_group) == (1, expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sharding": "FSDP=64"}, (3, None)),
        ({"sharding": "FSDP=16"}, (3, 16)),
        ({"sharding": "FSDP=0"}, (1, None)),
        ({"sharding": ""}, (1, None)),
    ],
)
def test_bridge_sharding(changes: dict[str, str], expected: tuple[int, int | None]) -> None:
    row = {"model": "LLAMA3_70B", "gpu": "DGX-GB200", "precision": "FP8", "tp": "1", "pp": "1", "variant": ""}
    plan = scenario("train_megatron_bridge", **row, **changes).plan
    assert (plan.zero, plan.shard_group) == expected


def test_bridge_formats_experts_and_overlap() -> None:
    row = {"gpu": "DGX-GB200", "variant": "Pre-Training", "activation_ckpt": "", "interconnect": ""}
    moe = scenario("train_megatron_bridge", **row, model="Qwen3_30B_a3B", precision="MXFP8", tp="1", pp="1", ep="8")
    assert (moe.plan.ep, moe.workload.dtype, moe.plan.sequence_parallel, moe.techniques) == (8, "fp8", False, ())
    dense = scenario("train_megatron_bridge", **row, model="LLAMA3_70B", precision="NVFP4", tp="2", pp="4", vpp="5")
    assert (dense.workload.dtype, dense.plan.sequence_parallel, dense.plan.schedule) == ("fp4", True, "interleaved")
    assert "pipeline" in dense.plan.overlap
    assert [call.technique.name for call in dense.techniques] == ["async_tp"]
    assert "not pre-training" in read("train_megatron_bridge", BASE | row | {"variant": "LoRA"}).reason


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("1F1B", ("1f1b", 1, 4)),
        ("Interleaved 1F1B", ("interleaved", 2, 2)),
        ("zero bubble (ZBV)", ("zero-bubble", 1, 4)),
        ("GPipe", ("gpipe", 1, 4)),
    ],
)
def test_torchtitan_schedules(words: str, expected: tuple[str, int, int]) -> None:
    row = {"model": "Llama-3.1-405B", "gpu": "H100-SXM-80GB", "n_gpus": "512", "tp": "8", "pp": "8", "variant": words}
    found = scenario("train_torchtitan", **row, global_batch_seqs="256", microbatch_per_gpu_seqs="32", precision="bf16")
    assert (found.plan.schedule, found.plan.vp, found.workload.micro_batch) == expected
    assert found.plan.zero == 2


def test_bloom_layers_follow_from_size_and_stages() -> None:
    # The rows' own TFLOP/s and seconds give 77.0, 81.0 and 72.0 layers by 96 B s l h^2.
    for size, stages, layers in ((191, 7, 77), (205, 9, 81), (183, 12, 72), (195, 11, 77), (200, 10, 80)):
        row = BASE | {"params_b": str(size), "pp": str(stages), "hidden": "14400"}
        assert bloom.layers_from_size(row, 51200) == layers
    assert bloom.heads_of(BASE | {"hidden": "13824"}) == 96


def test_numbers_that_do_not_fit_together_are_told() -> None:
    assert "does not divide" in read("train_megatron", BASE | {"n_gpus": "60"}).reason
    assert "not a multiple" in read("train_vtrain", BASE | {"microbatch_per_gpu_seqs": "7"}).reason
    assert read("train_vtrain", BASE | {"seq_len": ""}).reason == "the table leaves out the sequence length"
    assert read("train_vtrain", BASE | {"hidden": "wide"}).reason.startswith("the row cannot be read")
    assert read("train_vtrain", BASE | {"step_time_s": ""}).reason.startswith("the table gives neither")


KEYS = sorted({*BASE, "params_b", "cp", "ep", "vpp", "sharding", "variant", "notes", "grad_accum", "gpu_mem_gb"})
CELLS = st.one_of(st.just(""), st.integers(-2, 300).map(str), st.text(max_size=12), st.sampled_from([*BASE.values()]))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(TABLES)), st.dictionaries(st.sampled_from(KEYS), CELLS, max_size=6))
def test_no_row_ends_the_table(table: str, changes: dict[str, str]) -> None:
    found = read(table, BASE | changes)
    assert (found.scenario is None) == bool(found.reason)
    assert "\n" not in found.reason


measured = pytest.mark.skipif(not os.environ.get(MEASURED), reason=f"{MEASURED} names no folder of measured tables")


@measured
def test_every_row_is_a_scenario_or_has_a_reason() -> None:
    found = list(cases())
    assert len(found) > 900
    assert len({entry.row_id for entry in found}) == len(found)
    predictable = [entry for entry in found if entry.scenario is not None]
    assert len(predictable) > 0.9 * len(found)
    for entry in predictable[::7]:
        read_back = Scenario.from_dict(entry.scenario, entry.row_id)
        assert read_back.plan.devices == entry.devices
        assert read_back.workload.global_batch % (read_back.plan.dp * read_back.workload.micro_batch) == 0
    assert not [entry.reason for entry in found if entry.reason.startswith("the row cannot be read")]


@measured
def test_calibration_rows_are_a_third_of_every_large_source() -> None:
    shares: dict[str, list[bool]] = {}
    for entry in cases():
        if entry.scenario is not None:
            shares.setdefault(entry.source, []).append(is_calibration(entry))
    for source, marks in shares.items():
        if len(marks) > 40:
            assert 0.15 < sum(marks) / len(marks) < 0.5, source


@measured
def test_stated_flop_rates_agree_with_the_models() -> None:
    """MosaicML's 6NT + 12 L d s^2, for the shapes read from its rows: a wrong shape would show here."""
    for entry in cases():
        if entry.source != "mosaic" or entry.scenario is None:
            continue
        model, row = load_model(entry.scenario["model"]), entry.row
        length = float(row["seq_len"])
        flops = 6 * model.parameters() + 12 * model.layers * model.hidden * length
        rate = flops * float(row["tokens_per_s_per_gpu"]) / 1e12
        assert rate == pytest.approx(float(row["tflops_per_gpu_reported"]), rel=0.012), entry.row_id
