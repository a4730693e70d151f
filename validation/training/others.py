"""Single published runs: DeepSpeed's posts, and training reports recalled from their papers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...models.flops import model_flops
from ...models.library import load_model
from ...models.plan import Workload
from . import case
from .architectures import VOCAB, dimensions_given, gpt, named
from .case import Case, UnreadableError
from .machines import cluster_of

# What joins nodes where the row does not say (recalled).
NETWORKS = {"GPT-NeoX": "4x HDR200 per node", "OPT": "8x HDR200 per node"}


def read_deepspeed(row: Mapping[str, str]) -> Case:
    """A row of DeepSpeed's posts."""
    return _read(row, "deepspeed")


def read_recalled(row: Mapping[str, str]) -> Case:
    """A row of runs recalled from papers."""
    return _read(row, "recalled")


def _read(row: Mapping[str, str], source: str) -> Case:
    name, release = row.get("model") or "", row.get("system_release") or ""
    if release.startswith("MegaScale"):
        raise UnreadableError("parallel blocks with sliding windows of a width that is not given")
    devices = cluster_of(row, next((words for key, words in NETWORKS.items() if key in release), None))
    model = _model(row, name)
    sharding = row.get("sharding") or ""
    sharded = "FSDP" in sharding or "ZeRO-3" in sharding
    if not sharded and not ((row.get("tp") or "").strip() and (row.get("pp") or "").strip()):
        raise UnreadableError("the table leaves out how the model is divided")
    dp, stages, modern = case.replicas(row), case.whole(row, "pp", 1), _modern(row)
    share = case.whole(row, "global_batch_seqs") // dp
    stage = re.search(r"ZeRO-(\d)", sharding)
    # Full recomputation was the rule before arXiv 2205.05198; MegaScale's baseline is of 2023 (assumed).
    recompute = case.recompute_of(row, "none" if modern else "selective" if "MegaScale" in release else "full")
    plan: dict[str, Any] = {"vp": case.whole(row, "vpp", 1), **case.degrees(row)} | {
        # With a pipeline FSDP keeps gathered weights from micro-batch to micro-batch (arXiv 2407.21783, 3.3.2).
        "zero": (2 if stages > 1 else 3) if sharded else int(stage[1]) if stage else 1 if modern else 0,
        "recompute": recompute,
        "sequence_parallel": case.whole(row, "tp", 1) > 1 and recompute != "full",
        "overlap": ["gradients", "parameters", *(["pipeline"] if modern else [])] if modern or sharded else [],
    }
    if "DeepSeek" in name and stages > 1:
        plan["schedule"] = "dualpipe"
    elif "Llama" in name and stages > 1 and not case.optional(row, "vpp"):
        plan["vp"] = max(1, load_model(model).layers // stages)  # interleaved, assumed as deep as it can be
    micro = case.micro_batch(row, dp, share if sharded and stages == 1 else 1)
    scenario = {
        "model": model,
        "cluster": devices,
        "workload": case.workload(row, dp, micro, _dtype(row)),
        "plan": plan,
        "software": "megatron-core" if modern else "megatron-2021",
    }
    return Case(row["row_id"], source, row, scenario, _time(row, model))


def _modern(row: Mapping[str, str]) -> bool:
    """Whether a run is of the years of fused attention and overlapped messages: Hopper and later."""
    return re.search(r"[hb][12]00|h800|gb[23]00", row["gpu"].lower()) is not None


def _dtype(row: Mapping[str, str]) -> str:
    return case.dtype_of(row, "bf16" if _modern(row) else "fp16")


def _model(row: Mapping[str, str], name: str) -> Any:
    if re.search(r"llama|deepseek|qwen|mixtral|palm|kimi|nemotron", name, re.IGNORECASE):
        return named(name)
    if "NeoX" in name or not dimensions_given(row):
        return named(name)
    return gpt(row)


def _time(row: Mapping[str, str], model: Any) -> float | None:
    """Seconds of a step; from TFLOP/s by the hardware's formula where the table says so, else by the model's FLOPs."""
    if "HARDWARE" in (row.get("flop_convention") or "") and dimensions_given(row):
        flops = case.hardware_flops(row, case.whole(row, "layers"), case.whole(row, "vocab", VOCAB))
    else:
        work = Workload("training", case.whole(row, "seq_len"), 0, case.whole(row, "global_batch_seqs"), 1)
        flops = model_flops(load_model(model), work)
    return case.step_time(row, flops)
