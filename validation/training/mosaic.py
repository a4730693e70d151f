"""MosaicML's MPT throughput tables: FSDP at every size, from one node to hundreds of GPUs."""

from __future__ import annotations

from collections.abc import Mapping

from . import case
from .architectures import gpt
from .case import Case, UnreadableError
from .machines import cluster_of

SOURCE = "mosaic"
# The H100 tables name no network; their cloud's nodes have eight 400 Gb/s adapters (recalled).
NETWORK = "400 Gb/s per GPU"
PURE_MESSAGE = 2.0  # bytes: FSDP's mixed precision PURE reduces gradients in bf16, DEFAULT in fp32 (Composer)


def read(row: Mapping[str, str]) -> Case:
    """A row of the tables: FULL_SHARD, prefetched gathers, gradients scattered while others are made.

    Positions are learned ones, one a token: the printed FLOP/s count them.
    """
    variant = row.get("variant") or ""
    if "offload=True" in variant:
        raise UnreadableError("activations live in host memory, which no plan key describes")
    dp = case.replicas(row)
    overlap = ["gradients", "parameters"]
    plan = case.degrees(row) | {"zero": 3, "recompute": case.recompute_of(row), "overlap": overlap}
    pure = "PURE" in variant
    scenario = {
        "model": gpt(row),
        "cluster": cluster_of(row, NETWORK),
        "workload": case.workload(row, dp, case.micro_batch(row, dp), case.dtype_of(row)),
        "plan": plan,
        "software": {"preset": "mosaic-fsdp", "message_bytes": PURE_MESSAGE} if pure else "mosaic-fsdp",
    }
    return Case(row["row_id"], SOURCE, row, scenario, case.step_time(row))
