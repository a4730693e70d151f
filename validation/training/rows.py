"""Training steps predicted beside what was measured (tables not shipped; see COMMLENS_MEASURED)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from ...hardware.errors import InputError
from ...models.predict import estimate
from ...models.scenario import Scenario
from ...simulator.result import Result
from ..claims import Row
from .case import Case, one_line
from .tables import cases, is_calibration
from .trivial import Known, baseline, known

FAMILY = "training"
TIME, MEMORY = "step time [s]", "memory [B]"
MISSED = 0.15  # errors beyond this carry a reason
CAUSES = {
    "mosaic": "stands out from its neighbours in the table; memory pressure or other jobs are not in it",
    "vtrain-multi": "breaks the table's own trend, or divides tensors over two or four devices; cause not known",
    "vtrain-single": "launched by a host whose pace depends on what else it does; one number stands for all",
    "megatron-table-2": "ZeRO-3 of 2021 between nodes; how much of its gathers it covered is not known (rows recalled)",
    "bloom": "head widths that tensor cores do not like and what the network of the machine does are not modelled",
    "bridge-dense": "recipes of narrow formats (which layers stay wide) and recomputation are not in the table",
    "bridge-moe": "releases differ in how experts are dispatched, fused and launched; one profile stands for several",
    "torchtitan": "tensor parallelism's own cost in that stack, and settings the table leaves out",
}


def predicted(scenario: Scenario) -> Result | str:
    """Prediction of a scenario, or why there is none."""
    try:
        return estimate(scenario)
    except InputError as problem:
        return one_line(problem)
    except Exception as problem:  # one row must not end the table
        return f"no prediction: {type(problem).__name__} {problem}".split("\n")[0]


def parsed(case: Case) -> Scenario | str:
    """Scenario of a case, or why it has none."""
    if case.scenario is None:
        return case.reason
    try:
        return Scenario.from_dict(case.scenario, case.row_id)
    except InputError as problem:
        return one_line(problem)


def rows() -> Iterator[Row]:
    """One row for the step time of every run, and one for its memory where the table gives it.

    Raises
    ------
    LookupError
        Where no table is found.
    """
    entries = [(case, parsed(case)) for case in cases()]
    runs = {case.row_id: known(case, found) for case, found in entries if isinstance(found, Scenario)}
    near: dict[str, list[Known]] = defaultdict(list)
    for run in runs.values():
        near[run.case.source].append(run)
    for case, found in entries:
        result = predicted(found) if isinstance(found, Scenario) else found
        if isinstance(result, str):
            yield row_of(case, TIME, case.step_time, reason=result)
            continue
        if case.step_time is not None:
            naive = baseline(runs[case.row_id], near[case.source])
            metric = f"{TIME}, doubtful rows" if case.doubt else TIME
            reason = case.doubt or reason_of(case, result.time_s / case.step_time - 1)
            yield row_of(case, metric, case.step_time, result.time_s, naive, reason)
        if case.memory is not None:
            yield row_of(case, MEMORY, case.memory, result.memory_bytes["total"])


def reason_of(case: Case, error: float) -> str:
    """Why a step is missed, as far as it is known; empty within the tolerance."""
    if abs(error) <= MISSED:
        return ""
    if "rowwise" in (case.row.get("precision") or ""):
        return "missed: what scaling a product by rows costs is not modelled"
    return f"missed: {CAUSES.get(case.source, 'cause not known')}"


def row_of(
    case: Case,
    metric: str,
    reported: float | None,
    value: float | None = None,
    naive: float | None = None,
    reason: str = "",
) -> Row:
    """A row of the validation table."""
    return Row(
        FAMILY,
        case.source,
        case.row_id,
        setting(case),
        metric,
        math.nan if reported is None else reported,
        value,
        case.row.get("source") or "",
        naive,
        "calibration" if is_calibration(case) and metric == TIME else "held out",
        reason,
    )


def setting(case: Case) -> str:
    """Model, devices, plan and batch of a row, in words."""
    row = case.row
    degrees = " ".join(f"{key} {row[key]}" for key in ("tp", "pp", "cp", "ep") if row.get(key) not in (None, "", "1"))
    model = row.get("model") or f"{row.get('layers', '?')} x {row.get('hidden', '?')}"
    batch = f"batch {row.get('global_batch_seqs') or '?'} x {row.get('seq_len') or '?'}"
    devices = f"{row.get('n_gpus') or '?'} x {row.get('gpu') or '?'}"
    return ", ".join(part for part in (model, devices, degrees, batch) if part)
