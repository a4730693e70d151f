"""InternEvo's tables: a 7B model on A100, ZeRO-1 over eight ranks or over all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import case
from .case import Case, UnreadableError
from .machines import cluster_of

SOURCE = "internevo"
MODELS = {"7": "internlm-7b", "7.0": "internlm-7b"}


def read(row: Mapping[str, str]) -> Case:
    """A row: gradients reduced in buckets beside the backward pass, parameters broadcast after the update.

    Both are the framework's defaults (`overlap_sync_grad`; `overlap_sync_param` off; recalled).
    """
    if not (row.get("seq_len") or "").strip():
        raise UnreadableError("the table leaves out the sequence length of its memory rows")
    model = MODELS.get((row.get("params_b") or "").strip())
    if model is None:
        raise UnreadableError(f"no preset describes {row['model']}")
    dp = case.replicas(row)
    sharding = row.get("sharding") or ""
    plan = case.degrees(row) | {
        "zero": 3 if "FSDP" in sharding or "ZeRO-3" in sharding else 1,
        "recompute": case.recompute_of(row),
        "overlap": ["gradients"],
    }
    group = re.search(r"group=(\d+)", sharding)
    if group and dp % int(group[1]) == 0 and int(group[1]) < dp:
        plan["shard_group"] = int(group[1])
    scenario = {
        "model": model,
        "cluster": cluster_of(row),
        "workload": case.workload(row, dp, case.micro_batch(row, dp), case.dtype_of(row)),
        "plan": plan,
        "software": "internevo",
    }
    memory = case.optional(row, "mem_gib_per_gpu")
    return Case(row["row_id"], SOURCE, row, scenario, case.step_time(row), memory * case.GB if memory else None)
