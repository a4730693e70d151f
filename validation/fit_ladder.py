"""Fits the `torch-compile` software profile to Ladder residual's published phase times.

``python -m commlens.validation.fit_ladder`` prints the numbers; ``--write`` puts them into the
profile. Only rows of the 70B model without any technique (baseline) or without communication are
used; ladder residual, parallel attention, end-to-end throughput and the 405B model stay held out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..models.predict import estimate
from ..models.scenario import Scenario
from ..models.software import PRESETS, Software
from .claims import read_claims
from .ladder import is_calibration, parse, scenario_data

# name -> (start, unit, decimals written). Physics and datasheets set everything else.
FREE = {
    "kernel_overhead": (4.0, 1e-6, 3),
    "collective_overhead": (8.0, 1e-6, 3),
    "score_bytes": (40.0, 1.0, 2),
    "expanded_kv_share": (0.7, 1.0, 4),
}


@dataclass(frozen=True)
class Observation:
    """One phase time: what was run, in which phase, how long it took [s]."""

    scenario: Scenario
    phase: str
    seconds: float


def observations() -> Iterator[Observation]:
    """The calibration rows."""
    for claim in read_claims("ladder_residual"):
        config = parse(claim)
        if config is None or not is_calibration(claim, config):
            continue
        data = scenario_data(config["model"], config["tp"], config["batch"], config["p2p"], config["technique"])
        phase = "decode" if claim["metric"].startswith("decode") else "prefill"
        yield Observation(Scenario.from_dict(data), phase, float(claim["reported"]))


def predicted(observation: Observation, software: Software) -> float:
    """Phase time under a profile: two short models give the cost of a layer and of the rest exactly."""
    scenario, (few, more) = observation.scenario, (1, 2)
    times = []
    for layers in (few, more):
        short = replace(scenario, software=software, model=replace(scenario.model, layers=layers))
        result = estimate(short)
        times.append(result.trace(observation.phase).makespan * result.repeats[observation.phase])
    return times[0] + (times[1] - times[0]) * (scenario.model.layers - few)


def profile(values: Mapping[str, float], base: Software) -> Software:
    """The base profile with the free numbers replaced."""
    return replace(base, **dict[str, Any](values))


def fit(rows: list[Observation] | None = None) -> tuple[dict[str, float], np.ndarray]:
    """Least squares on the logarithm of the phase times, outliers damped.

    Returns
    -------
    dict
        The free numbers in SI units.
    numpy.ndarray
        Relative error of every calibration row.
    """
    from scipy.optimize import least_squares

    rows = list(observations()) if rows is None else rows
    base = rows[0].scenario.software
    units = np.array([unit for _, unit, _ in FREE.values()])
    start = np.array([value for value, _, _ in FREE.values()])

    def residuals(x: np.ndarray) -> np.ndarray:
        software = profile(dict(zip(FREE, x * units, strict=True)), base)
        return np.log([predicted(row, software) / row.seconds for row in rows])

    found = least_squares(
        residuals,
        start,
        bounds=(start * 0.02, start * 20),
        loss="soft_l1",
        f_scale=0.05,
        diff_step=1e-4,
        xtol=1e-6,
        ftol=1e-6,
    )
    values = {name: float(x * unit) for name, x, unit in zip(FREE, found.x, units, strict=True)}
    return values, np.expm1(residuals(found.x))


def main() -> None:
    """Print the fit; with --write, update the profile file."""
    values, errors = fit()
    for name, value in values.items():
        print(f"{name}: {value:.6g}")
    print(
        f"{len(errors)} calibration rows: mean error {np.abs(errors).mean():.1%}, "
        f"90 % within {np.quantile(np.abs(errors), 0.9):.1%}"
    )
    if "--write" in sys.argv[1:]:
        path = PRESETS / "torch-compile.yaml"
        text = path.read_text()
        for name, value in values.items():
            _, unit, decimals = FREE[name]
            shown = f"{value / unit:.{decimals}f}" + (f"e{round(np.log10(unit))}" if unit != 1 else "")
            text = re.sub(rf"^{name}: .*$", f"{name}: {shown}", text, flags=re.MULTILINE)
        path.write_text(text)


if __name__ == "__main__":
    main()
