"""vTrain's measurements: small GPTs on up to eight A100, large ones on up to 512."""

from __future__ import annotations

from collections.abc import Mapping

from . import case
from .architectures import gpt
from .case import Case
from .machines import cluster_of


def read(row: Mapping[str, str]) -> Case:
    """A row: 1F1B, full recomputation, data parallelism after the last backward, nothing overlapped."""
    dp = case.replicas(row)
    plan = case.degrees(row) | {"recompute": case.recompute_of(row, "full"), "overlap": []}
    scenario = {
        "model": gpt({**row, "model": f"GPT {row['layers']} x {row['hidden']}"}),
        "cluster": cluster_of(row),
        "workload": case.workload(row, dp, case.micro_batch(row, dp), case.dtype_of(row, "fp16")),
        "plan": plan,
        "software": "megatron-2021",
    }
    source = "vtrain-single" if "single" in row["row_id"] else "vtrain-multi"
    return Case(row["row_id"], source, row, scenario, case.step_time(row))
