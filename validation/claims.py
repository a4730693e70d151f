"""Published results as data, and the row every validation produces.

A claim is never an input of the model that predicts it; the only code that may read one to set a
number is the calibration that says so (`fit_ladder`).
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "claims"
MEASURED = "COMMLENS_MEASURED"


@dataclass(frozen=True, slots=True)
class Row:
    """One reported number and what is predicted for it.

    Parameters
    ----------
    family, technique, claim, setting, metric : str
    reported : float
    predicted : float or None
        None where the model says nothing; `reason` tells why.
    trivial : float or None
        What a trivial baseline would have said.
    split : str
        "calibration" for rows a parameter was fitted to, else "held out".
    source : str
    reason : str
        Why a prediction is missed or missing; empty when it is within tolerance.
    """

    family: str
    technique: str
    claim: str
    setting: str
    metric: str
    reported: float
    predicted: float | None
    source: str
    trivial: float | None = None
    split: str = "held out"
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Relative error of the prediction."""
        return None if self.predicted is None or not self.reported else self.predicted / self.reported - 1


def read_claims(name: str) -> list[dict[str, str]]:
    """Rows of one shipped claims file: claim_id, model, hardware, setting, metric, reported, unit, source."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_measured(name: str) -> list[dict[str, str]] | None:
    """Rows of a measured table that is not shipped, from the folder `COMMLENS_MEASURED` names, or None."""
    folder = os.environ.get(MEASURED)
    path = Path(folder) / f"{name}.csv" if folder else None
    if path is None or not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
