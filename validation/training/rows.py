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
            yield row_of(case, metric, case.step_time, result.time_s, naive, case.doubt)
        if case.memory is not None:
            yield row_of(case, MEMORY, case.memory, result.memory_bytes["total"])


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
