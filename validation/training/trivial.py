"""The baseline to beat: "the same share of peak as the nearest known run"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...models.flops import model_flops
from ...models.scenario import Scenario
from .case import Case
from .tables import is_calibration

FULL_RECOMPUTATION = 4 / 3  # a second forward pass beside forward and backward


@dataclass(frozen=True)
class Known:
    """What the baseline knows of a run.

    Parameters
    ----------
    case : Case
    flops : float
        FLOPs a device does in a step, recomputed ones included, over its peak [s].
    features : tuple of float
        Logarithms of model size, devices, sequence length and peak.
    """

    case: Case
    flops: float
    features: tuple[float, ...]


def known(case: Case, scenario: Scenario) -> Known:
    """A run as the baseline sees it."""
    peak = scenario.cluster.device.flops(scenario.workload.dtype)
    repeated = FULL_RECOMPUTATION if scenario.plan.recompute == "full" else 1.0
    flops = repeated * model_flops(scenario.model, scenario.workload)
    devices = scenario.plan.devices
    numbers = (scenario.model.parameters(), devices, scenario.workload.sequence_length, peak)
    return Known(case, flops / (devices * peak), tuple(math.log(number) for number in numbers))


def baseline(target: Known, runs: Sequence[Known]) -> float | None:
    """Seconds of a step at the share of peak of the nearest calibration run; None where none is known.

    Nearest by the sum of the logarithms' distances, among runs of the same source on the same device:
    never the run itself, nor one of the same model on as many devices where there is another.
    """
    own = target.case
    others = [
        run
        for run in runs
        if run.case.source == own.source
        and run.case.row["gpu"] == own.row["gpu"]
        and run.case.row_id != own.row_id
        and is_calibration(run.case)
    ]
    unlike = [run for run in others if run.features[:2] != target.features[:2]]
    if not others:
        return None
    nearest = min(unlike or others, key=lambda run: (_distance(run, target), run.case.row_id))
    assert nearest.case.step_time is not None  # of every calibration run
    return target.flops / nearest.flops * nearest.case.step_time


def _distance(a: Known, b: Known) -> float:
    return sum(abs(x - y) for x, y in zip(a.features, b.features, strict=True))
