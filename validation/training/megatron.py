"""Megatron-LM's own tables, 2020 to 2024: GPT by tensor, pipeline and data parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import case
from .architectures import VOCAB, gpt
from .case import Case, UnreadableError
from .machines import cluster_of

SELENE = "8x HDR200 per node"  # DGX A100; the DGX-2 rows have their own adapters by preset


def read(row: Mapping[str, str]) -> Case:
    """A row, by the release it was measured with."""
    release = row.get("system_release") or ""
    if "single layer" in release:
        raise UnreadableError("times one layer forward and backward, not a step")
    if not (row.get("tp") or "").strip():
        raise UnreadableError("the table leaves out how the model is divided")
    if "Core" in release:
        return _core(row)
    if "Korthikanti" in release:
        return _korthikanti(row)
    if "ZeRO" in (row.get("sharding") or ""):
        return _zero3(row)
    if "Table 2" in release:
        return _classic(row, "megatron-table-2")
    return _classic(row, "megatron-2020" if "2020" in release else "megatron-2021")


def _classic(row: Mapping[str, str], source: str) -> Case:
    """2020 and 2021: everything recomputed, blocking messages, gradients reduced after the last backward.

    The rows with a pipeline are interleaved, by a degree that is not given: the smallest is assumed.
    """
    layers = case.whole(row, "layers")
    plan = {"vp": case.interleaving(row, layers), "recompute": case.recompute_of(row, "full")}
    flops = case.hardware_flops(row, layers, case.whole(row, "vocab", VOCAB))
    return _case(row, source, plan, "megatron-2021", case.step_time(row, flops), dtype="fp16")


def _zero3(row: Mapping[str, str]) -> Case:
    """The comparison with ZeRO-3 of arXiv 2104.04473, table 2: no model parallelism, weights gathered per layer."""
    layers = case.whole(row, "layers")
    plan = {"zero": 3, "recompute": case.recompute_of(row, "full"), "overlap": ["gradients", "parameters"]}
    flops = case.hardware_flops(row, layers, case.whole(row, "vocab", VOCAB))
    return _case(row, "megatron-table-2", plan, "megatron-2021", case.step_time(row, flops), dtype="fp16")


def _korthikanti(row: Mapping[str, str]) -> Case:
    """Korthikanti et al., arXiv 2205.05198, table 5: full recomputation, or selective with sequence parallelism."""
    recompute = case.recompute_of(row)
    plan = {
        "vp": case.whole(row, "vpp", 1),
        "recompute": recompute,
        "sequence_parallel": recompute == "selective" or "+ SP" in (row.get("activation_ckpt") or ""),
    }
    return _case(row, "korthikanti", plan, "megatron-2021", case.step_time(row), dtype="fp16")


def _core(row: Mapping[str, str]) -> Case:
    """Megatron-Core 0.8 on H100, all communication overlapped.

    Micro-batch, interleaving and recomputation are not stated. Assumed: four sequences where the model
    fits without a pipeline, else one; the smallest interleaving; nothing recomputed. The sizes of the
    table are met with an output projection of its own.
    """
    layers, pipelined = case.whole(row, "layers"), case.whole(row, "pp", 1) > 1
    plan = {
        "vp": case.interleaving(row, layers),
        "recompute": case.recompute_of(row),
        "sequence_parallel": case.whole(row, "tp") > 1,
        "zero": 1,
        "overlap": ["gradients", "parameters", "pipeline"],
    }
    flops = case.hardware_flops(row, layers, case.whole(row, "vocab", VOCAB), full=False)
    time = case.step_time(row, flops)
    return _case(row, "megatron-h100", plan, "megatron-core", time, micro=1 if pipelined else 4, tied=False)


def _case(
    row: Mapping[str, str],
    source: str,
    plan: Mapping[str, Any],
    software: str,
    time: float | None,
    dtype: str = "bf16",
    micro: int | None = None,
    tied: bool = True,
) -> Case:
    dp = case.replicas(row)
    # Before 2022 there was no accumulation in the weak-scaling rows: a replica's share in one piece.
    share = case.whole(row, "global_batch_seqs") // dp
    size = case.micro_batch(row, dp, micro or share)
    merged = {"overlap": [], **case.degrees(row), **plan}
    scenario = {
        "model": gpt(row, tied=tied),
        "cluster": cluster_of(row, SELENE if "A100" in row["gpu"] else None),
        "workload": case.workload(row, dp, size, case.dtype_of(row, dtype)),
        "plan": merged,
        "software": software,
    }
    if source == "megatron-h100" and merged["tp"] > 1:
        scenario["techniques"] = ["async_tp"]
    return Case(row["row_id"], source, row, scenario, time)
