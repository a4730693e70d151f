"""Where a given plan stands among all that fit, and what the better ones do better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ...hardware.errors import InputError
from ..scenario import Scenario
from .enumerate import Choice, Space
from .evaluate import Block
from .rank import Board, ranked, scored
from .run import grown, run
from .space import space_of
from .table import PLAN_KEYS, frame_of, planned

if TYPE_CHECKING:
    import pandas as pd

# Where a step's time goes, and what it is called.
CAUSES = {
    "compute_s": "kernels",
    "layer_communication_s": "messages inside layers",
    "bubble_s": "pipeline bubble and transfers",
    "exposed_weights_s": "gradients and weights",
    "update_s": "update",
}
# Keys of a plan that act on each, in the words of the report.
KEYS = {
    "compute_s": (
        "recompute", "recompute_layers", "tp", "cp", "etp", "micro_batch", "sequence_parallel", "zero", "schedule",
        "pp",
    ),
    "layer_communication_s": (
        "tp", "cp", "ep", "etp", "sequence_parallel", "zero", "micro_batch", "recompute", "schedule", "dp",
    ),
    "bubble_s": ("pp", "schedule", "vp", "micro_batch", "dp"),
    "exposed_weights_s": ("dp", "cp", "zero", "shard_group", "tp", "pp", "vp", "overlap"),
    "update_s": ("zero", "offload", "tp", "pp", "dp", "shard_group"),
}  # fmt: skip
SAME = 1e-9  # of the step: what counts as no difference


@dataclass(frozen=True)
class Explanation:
    """Standing of a plan.

    Parameters
    ----------
    rank : int
        1 is best; among plans that fit, whether or not the plan itself is among those searched.
    fits : int
        Plans that fit.
    frame : pandas.DataFrame
        The plan, then the best ones: its keys, step time [s], where it goes [s], and what in
        the plan each of the better ones gains most by.
    text : str
        The same in words.
    """

    rank: int
    fits: int
    frame: pd.DataFrame
    text: str

    @property
    def share(self) -> float:
        """Rank as a share of the plans that fit: 0.05 is among the best 5 %."""
        return self.rank / max(self.fits, 1)

    def __str__(self) -> str:
        return self.text


def explain(
    scenario: Scenario,
    plan: Mapping[str, Any] | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    by: str = "time",
    top: int = 5,
    executor: Any = None,
) -> Explanation:
    """Rank a plan among all that fit on as many devices, and say why better ones are better.

    Parameters
    ----------
    scenario : Scenario
        Of training.
    plan : mapping, optional
        Plan keys and micro_batch; default those of the scenario.
    space : mapping, optional
        As in `search`: keys to the only values to try.
    by : str
        time | throughput | cost.
    top : int
        Better plans to speak of.
    executor : concurrent.futures.Executor, optional

    Raises
    ------
    InputError
        When the scenario is not one of training, or the plan is not legal.
    """
    if scenario.workload.phase != "training":
        raise InputError(f"explain: phase {scenario.workload.phase} (legal: training)")
    given = scenario if plan is None else planned(scenario, plan)
    devices = int(given.plan.devices)
    given = grown(given, devices)
    mine, score = _alone(given, by)
    options = space_of(given, (devices,), space)
    board = Board(top, by, reference=score * (1 - SAME))
    run(given, options, board, executor)
    better = board.top.some(np.nonzero(board.top.score < score * (1 - SAME))[0])
    found = _parts(given, _joined(mine, frame_of(given, options.choices, better)))
    found["gains_by"] = [_gains(found.iloc[0], row) for _, row in found.iterrows()]
    return Explanation(board.better + 1, board.fits, found, _text(given, board, found))


def _alone(scenario: Scenario, by: str) -> tuple[pd.DataFrame, float]:
    """Row of a table for the scenario's own plan, from the formulas on arrays, and its score."""
    plan, work = scenario.plan, scenario.workload
    choice = Choice(**{field.name: getattr(plan, field.name) for field in fields(Choice)})
    numbers = {axis: int(getattr(plan, axis)) for axis in ("tp", "pp", "cp", "dp", "ep", "etp")}
    rows = {axis: np.array([number]) for axis, number in numbers.items()}
    rows |= {"micro_batch": np.array([work.micro_batch]), "devices": np.array([plan.devices])}
    degrees = {"vp": (int(plan.vp),)}
    model = scenario.model
    space = Space(degrees, (choice,), (plan.devices,), model.heads, model.layers, model.experts or 0, work.global_batch)
    block, place, chunks = Block(scenario, space, rows), np.array([0]), np.array([int(plan.vp)])
    memory = {use: np.broadcast_to(size, (1,)) for use, size in block.memory(choice, place, chunks).items()}
    costed = block.timed(choice, place, chunks, memory)
    score = scored(by, costed)
    return frame_of(scenario, (choice,), ranked(costed, score, 0, place)), float(score[0])


def _joined(first: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([first, others], ignore_index=True) if len(others) else first


def _parts(scenario: Scenario, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of the report; the parts add up to the step, data loading apart."""
    inside = frame["exposed_communication_s"] - frame["exposed_weights_s"] - frame["exposed_update_s"]
    update = frame["exposed_update_s"]
    found = frame[[*PLAN_KEYS, "micro_batch", "time_s", "compute_s", "bubble_s", "exposed_weights_s"]].copy()
    found["layer_communication_s"] = inside
    found["update_s"] = update
    found["memory"] = frame["memory"]
    found["fits"] = frame["fits"]
    return found


def _gains(given: pd.Series[Any], other: pd.Series[Any]) -> str:
    """What a plan gains most by, and through which keys."""
    differences = {cause: given[cause] - other[cause] for cause in CAUSES}
    cause = max(differences, key=lambda name: differences[name])
    if differences[cause] <= SAME * given["time_s"]:
        return ""
    return f"{CAUSES[cause]}: {_changed(given, other, cause)}"


def _changed(given: pd.Series[Any], other: pd.Series[Any], cause: str) -> str:
    """Keys that differ and act on a cause."""
    found = []
    for key in KEYS[cause]:
        if given[key] == other[key] or (key == "etp" and _as_tp(given) and _as_tp(other)):
            continue
        # Of the schedules one alone changes what runs beside what inside layers, and which layers a rank holds.
        if key == "schedule" and cause != "bubble_s" and "dualpipe" not in (given[key], other[key]):
            continue
        found.append(f"{key} {_said(given[key])} -> {_said(other[key])}")
    return ", ".join(found) or "as planned"


def _as_tp(row: pd.Series[Any]) -> bool:
    """Whether experts, if any, are divided as all else."""
    return bool(row["etp"] == row["tp"])


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    return str(value.item() if isinstance(value, np.generic) else value)


def _text(scenario: Scenario, board: Board, frame: pd.DataFrame) -> str:
    given = frame.iloc[0]
    rank = board.better + 1
    lines = [
        f"{scenario.model.name} on {scenario.plan.devices} {scenario.cluster.device.name}: {_plan(given)}",
        f"rank {rank:,} of {board.fits:,} plans that fit (best {100 * rank / max(board.fits, 1):.2g} %), "
        f"{given['time_s']:.3f} s a step"
        + ("" if given["fits"] else "; the plan itself does not fit by this count of memory"),
    ]
    for _, other in frame.iloc[1:].iterrows():
        gain = given["time_s"] - other["time_s"]
        lines.append(f"- {_plan(other)}: {other['time_s']:.3f} s, {100 * gain / given['time_s']:.1f} % less")
        for cause, name in sorted(CAUSES.items(), key=lambda item: other[item[0]] - given[item[0]]):
            change = other[cause] - given[cause]
            if abs(change) >= 0.02 * abs(gain):
                keys = _changed(given, other, cause)
                lines.append(f"    {name} {change:+.3f} s ({keys})")
    return "\n".join(lines)


def _plan(row: pd.Series[Any]) -> str:
    found = [f"{axis} {row[axis]}" for axis in ("tp", "pp", "cp", "dp") if axis in ("tp", "pp", "dp") or row[axis] > 1]
    if row["ep"] > 1:
        found.append(f"ep {row['ep']} etp {row['etp']}")
    found.append(f"micro-batch {row['micro_batch']}")
    if row["pp"] > 1:
        found.append(f"{row['schedule']}" + (f" vp {row['vp']}" if row["vp"] > 1 else ""))
    if row["sequence_parallel"]:
        found.append("sequence parallel")
    if row["zero"]:
        found.append(f"zero {row['zero']}")
    found.append(f"recompute {row['recompute']}")
    if row["offload"] != "none":
        found.append("offloaded optimizer")
    return ", ".join(found)
