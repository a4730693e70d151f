"""Ranked plans as tables, and a row of a table as a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..flops import model_flops
from ..scenario import Scenario
from ..training.memory import fits
from .enumerate import Choice
from .rank import KEYS, PARTS, USES, Ranked

if TYPE_CHECKING:
    import pandas as pd

PLAN_KEYS = (*(key for key in KEYS if key != "micro_batch"), *(field.name for field in fields(Choice)))


def frame_of(scenario: Scenario, choices: Sequence[Choice], ranked: Ranked, price: float | None = None) -> pd.DataFrame:
    """Table of plans.

    Parameters
    ----------
    scenario : Scenario
    choices : sequence of Choice
    ranked : Ranked
    price : float, optional
        Of a device-hour.

    Returns
    -------
    pandas.DataFrame
        In the order of `ranked`.
    """
    import pandas as pd

    model, work, device = scenario.model, scenario.workload, scenario.cluster.device
    keys = dict(zip(KEYS, ranked.keys.T, strict=False))
    parts = dict(zip(PARTS, ranked.known.T, strict=False))
    memory = dict(zip(USES, ranked.known[:, len(PARTS) :].T, strict=True))
    picked = [choices[number] for number in ranked.keys[:, -1]]
    devices = keys["tp"] * keys["pp"] * keys["dp"] * keys["cp"]
    step, tokens = parts["time"], float(work.global_batch * work.sequence_length)
    compute = np.minimum(parts["compute"], step - work.data_loading)
    bubble = np.clip(parts["bubble"], 0.0, step - work.data_loading - compute)
    columns: dict[str, Any] = {key: keys[key] for key in KEYS if key != "micro_batch"}
    for field in fields(Choice):
        # Objects, so that whole numbers beside None stay whole.
        values = np.empty(len(picked), dtype=object)
        values[:] = [getattr(choice, field.name) for choice in picked]
        columns[field.name] = values
    columns |= {
        "micro_batch": keys["micro_batch"],
        "devices": devices,
        "time_s": step,
        "tokens_per_second": tokens / step,
        "tokens_per_second_per_device": tokens / step / devices,
        "mfu": model_flops(model, work) / devices / step / device.flops(work.dtype),
        "compute_s": compute,
        "bubble_s": bubble,
        "bubble": bubble / step,
        "exposed_communication_s": step - work.data_loading - compute - bubble,
        "exposed_weights_s": parts["exposed_weights"],
        "exposed_update_s": parts["exposed_update"],
    }
    if price is not None:
        columns["cost_per_million_tokens"] = price * devices * step / 3600 / tokens * 1e6
    columns |= {("memory" if use == "total" else f"memory_{use}"): size for use, size in memory.items()}
    columns["fits"] = fits(memory, scenario.software, device.memory_capacity)
    frame = pd.DataFrame(columns)
    for name in ("sequence_parallel", "zero"):
        frame[name] = frame[name].astype(bool if name == "sequence_parallel" else np.int64)
    return frame


def front_of(
    scenario: Scenario, choices: Sequence[Choice], ranked: Ranked, price: float | None
) -> list[dict[str, Any]]:
    """Rows of plans as records, which `attrs` can hold."""
    return records(frame_of(scenario, choices, ranked, price))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as mappings."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def planned(scenario: Scenario, row: Mapping[str, Any]) -> Scenario:
    """The scenario with the plan of a row of a search's table.

    Parameters
    ----------
    scenario : Scenario
    row : mapping
        A row of the table, or plan keys and micro_batch.
    """
    plan = {key: _plain(row[key]) for key in PLAN_KEYS if key in row}
    work = scenario.data["workload"]
    devices = int(np.prod([int(row.get(axis, 1)) for axis in ("tp", "pp", "dp", "cp")]))
    changes: dict[str, Any] = {"plan": plan, "workload.global_batch": scenario.workload.global_batch}
    if scenario.workload.phase == "training":
        changes["workload.micro_batch"] = int(row.get("micro_batch", work.get("micro_batch", 1)))
    if devices > scenario.cluster.size:
        changes["cluster.nodes"] = -(-devices // scenario.cluster.devices_per_node)
    return scenario.replace(changes)


def _plain(value: Any) -> Any:
    """A value as a scenario file holds it."""
    if isinstance(value, tuple):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value
