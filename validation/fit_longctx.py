"""Fits the calibrations of `longctx`: five numbers for each device and fabric, on every third row.

``python -m commlens.validation.fit_longctx --write``
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

import numpy as np
import yaml

from .longctx import FITTED, Case, Fitted, cases, is_calibration, predicted

START = {"NVLink": (0.8, 150e-6, 0.5, 0.4, 0.011)}
PCIE = (0.8, 100e-6, 0.25, 0.15, 0.7)
LOW = (0.6, 5e-6, 0.02, 0.01, 0.01)
HIGH = (0.95, 1e-3, 0.95, 0.95, 2.0)
TIE = 0.05
SHIFTS = ((0, 0, 0, 0, 0), (0, 0.5, -0.5, -0.5, 0), (0, 0, 0.5, 0.5, 0.5), (0, -0.5, -0.7, -1, -1))


def fit(items: list[Case], start: tuple[float, ...]) -> Fitted:
    """Numbers of one fabric: the least sum of absolute log errors, softened near zero, with a weak tie to the start."""
    from scipy.optimize import least_squares

    # Behind a switch that never blocks all-to-alls do not slow down with their ranks.
    switched = start == START["NVLink"]
    low, high, origin = np.log(LOW), np.log((*HIGH[:-1], 0.012 if switched else HIGH[-1])), np.log(start)

    def residuals(x: np.ndarray) -> np.ndarray:
        numbers = Fitted(*np.exp(x))
        errors = [np.log(predicted(item, numbers) / item.time) for item in items]
        return np.array([*errors, *(TIE * (x - origin))])

    tries = [
        least_squares(
            residuals,
            np.clip(origin + np.array(shift), low + 1e-6, high - 1e-6),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=0.05,
            diff_step=0.02,
            max_nfev=40,
        )
        for shift in SHIFTS
    ]
    best = min(tries, key=lambda found: found.cost)
    return Fitted(*(float(value) for value in np.exp(best.x)))


def main() -> None:
    """Fit, print errors, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FITTED.name}")
    asked = parser.parse_args()
    every = [item for item in cases() if not item.reason]
    found = {}
    for fabric in dict.fromkeys(item.fabric for item in every):
        mine = [item for item in every if item.fabric == fabric]
        numbers = fit([item for item in mine if is_calibration(item)], START.get(fabric, PCIE))
        errors = {
            name: float(np.mean([abs(predicted(i, numbers) / i.time - 1) for i in mine if is_calibration(i) == used]))
            for name, used in (("calibration", True), ("held out", False))
        }
        print(fabric, numbers, {name: f"{error:.1%}" for name, error in errors.items()})
        values = {name: float(f"{value:.4g}") for name, value in asdict(numbers).items()}
        found[fabric] = {"fitted": values, "error": {k: round(v, 4) for k, v in errors.items()}, "rows": len(mine)}
    if asked.write:
        head = "# Fitted by python -m commlens.validation.fit_longctx; see longctx.Fitted for what they mean.\n"
        FITTED.write_text(head + yaml.safe_dump(found, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
