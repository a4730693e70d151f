"""torchtitan's tables: Llama 3.1 by FSDP2, tensor, pipeline and context parallelism."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import case
from .architectures import named
from .case import Case
from .machines import cluster_of

SOURCE = "torchtitan"
# A scale for every row along the contracted dimension: both orientations of an operand are read for their largest
# values, read again and written (counted).
ROWWISE_BYTES = 10.0


def read(row: Mapping[str, str]) -> Case:
    """A row. Tensor parallelism comes with sequence parallelism, gathers are prefetched, gradients overlap.

    A pipeline keeps gathered weights between micro-batches, as ZeRO-2 does: torchtitan gathers again
    after the forward pass only where there is no pipeline.
    """
    dp, tp, stages = case.replicas(row), case.whole(row, "tp", 1), case.whole(row, "pp", 1)
    variant, sharding = (row.get("variant") or "").lower(), row.get("sharding") or ""
    plan: dict[str, Any] = case.degrees(row) | {
        "zero": 2 if stages > 1 else 3,
        "recompute": case.recompute_of(row, "selective"),
        "sequence_parallel": tp > 1,
        "overlap": ["gradients", "parameters"],
    }
    hybrid = re.search(r"hsdp[^\d]*(\d+)|shard\D*(\d+)", f"{sharding} {variant}", re.IGNORECASE)
    if hybrid and 1 < int(hybrid[1] or hybrid[2]) < dp and dp % int(hybrid[1] or hybrid[2]) == 0:
        plan["shard_group"] = int(hybrid[1] or hybrid[2])
    plan |= _schedule(row, variant, stages)
    share = case.whole(row, "global_batch_seqs") // dp
    micro = case.micro_batch(row, dp, share)
    if stages > 1 and micro == share:
        # The column is the batch of a replica. Unless told otherwise it is cut into as many
        # micro-batches as there are stages (`pipeline_parallel_microbatches`; recalled).
        pieces = stages * plan.get("vp", 1)
        micro = next(size for size in range(max(1, share // pieces), 0, -1) if share % size == 0)
    scenario: dict[str, Any] = {
        "model": named(row["model"]),
        "cluster": cluster_of(row),
        "workload": case.workload(row, dp, micro, case.dtype_of(row)),
        "plan": plan,
        "software": _software(row, variant),
    }
    if tp > 1 and "async" in variant:
        scenario["techniques"] = ["async_tp"]
    memory = case.optional(row, "mem_gib_per_gpu")
    return Case(row["row_id"], SOURCE, row, scenario, case.step_time(row), memory * case.GIB if memory else None)


def _software(row: Mapping[str, str], variant: str) -> str | dict[str, Any]:
    """Stack of a row. Benchmarks since 2025 compile the loss too; the date is that of the file they stand in."""
    new = re.search(r"20(2[5-9]|[3-9]\d)", row.get("source") or "")
    name = "torchtitan-eager" if "eager" in variant else "torchtitan-2025" if new else "torchtitan-compile"
    if "rowwise" in (row.get("precision") or ""):
        return {"preset": name, "quantise_bytes": ROWWISE_BYTES}
    return name


def _schedule(row: Mapping[str, str], variant: str, stages: int) -> dict[str, Any]:
    """Schedule of a pipeline by its name; two chunks a stage where interleaved and not told."""
    if stages == 1:
        return {}
    words = f"{variant} {row.get('notes') or ''}".lower()
    if re.search(r"zero[- ]?bubble|zbv|\bzb\b", words):
        return {"schedule": "zero-bubble"}
    if re.search(r"interleaved|looped", words):
        return {"schedule": "interleaved", "vp": max(2, case.whole(row, "vpp", 2))}
    if "gpipe" in words:
        return {"schedule": "gpipe"}
    return {"schedule": "1f1b"}
