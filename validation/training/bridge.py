"""Megatron-Bridge's performance summaries and the MoE zoo's readme: Megatron-Core on Hopper and Blackwell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...models.library import load_model
from . import case
from .architectures import named
from .case import Case, UnreadableError
from .machines import cluster_of


def read(row: Mapping[str, str]) -> Case:
    """A row of the summaries.

    The tables say nothing of recomputation and overlap. Assumed from the published recipes (recalled):
    single modules at most are recomputed (norms, activations, MLA's up-projection), gradients and
    parameters overlap, point-to-point messages where the schedule is interleaved, tensor-parallel
    messages with their products in dense models; ``FSDP=N`` is ZeRO-3 over N ranks, without it ZeRO-1.
    """
    if not re.search(r"pre-?train", row.get("variant") or "pre-training", re.IGNORECASE):
        raise UnreadableError(f"{row['variant']}: not pre-training")
    name = named(row["model"])
    moe = load_model(name).experts > 0
    dp, stages = case.replicas(row), case.whole(row, "pp", 1)
    fsdp = re.search(r"FSDP=(\d+)", row.get("sharding") or "")
    shards = int(fsdp[1]) if fsdp else 0
    plan = _plan(row) | {"zero": 3 if shards > 1 else 1}
    if 1 < shards < dp * plan.get("cp", 1) and dp * plan.get("cp", 1) % shards == 0:
        plan["shard_group"] = shards
    if stages > 1 and plan["vp"] > 1:
        plan["overlap"] = [*plan["overlap"], "pipeline"]
    scenario: dict[str, Any] = {
        "model": name,
        "cluster": cluster_of(row),
        "workload": case.workload(row, dp, case.micro_batch(row, dp, 1), case.dtype_of(row)),
        "plan": plan,
        "software": _software(row),
    }
    if plan["tp"] > 1 and not moe:
        scenario["techniques"] = ["async_tp"]
    return Case(row["row_id"], "bridge-moe" if moe else "bridge-dense", row, scenario, case.step_time(row))


def _software(row: Mapping[str, str]) -> str:
    """Profile of a container: those from 26.06 on run mixtures much faster."""
    version = re.search(r"container (\d+)\.(\d+)", row.get("system_release") or "")
    return "megatron-bridge" if version and (int(version[1]), int(version[2])) >= (26, 6) else "megatron-bridge-2025"


def read_zoo(row: Mapping[str, str]) -> Case:
    """A row of the MoE zoo: step times with balanced routing, by DeepEP's kernels where it says so."""
    name = named(row["model"])
    variant = row.get("variant") or ""
    if "real routing" in variant:
        raise UnreadableError("routed by a trained router, whose imbalance is not published")
    if not ((row.get("pp") or "").strip() and (row.get("ep") or "").strip()):
        raise UnreadableError("the table leaves out how the model is divided")
    dp = case.replicas(row)
    plan = _plan(row) | {"zero": 1}
    if plan["vp"] > 1:
        plan["overlap"] = [*plan["overlap"], "pipeline"]
    if "EP overlap" in variant:
        plan["schedule"] = "combined-1f1b"
    scenario = {
        "model": name,
        "cluster": cluster_of(row),
        "workload": case.workload(row, dp, case.micro_batch(row, dp, 1), case.dtype_of(row)),
        "plan": plan,
        "software": "megatron-core",
        "techniques": ["deepep"] if "DeepEP" in variant else [],
    }
    return Case(row["row_id"], "moe-zoo", row, scenario, case.step_time(row))


def _plan(row: Mapping[str, str]) -> dict[str, Any]:
    plan = case.degrees(row)
    return plan | {
        "vp": case.whole(row, "vpp", 1),
        "recompute": case.recompute_of(row),
        "sequence_parallel": plan["tp"] > 1,
        "overlap": ["gradients", "parameters"],
    }
