"""What the shipped calibrations leave: kernels by profile of a device, collectives by profile of a fabric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .blocks import Block, Picture, Table

if TYPE_CHECKING:
    import pandas as pd


def calibrated() -> Iterator[Block]:
    """Blocks of a report."""
    from .figures import cross_validation

    yield (
        "Kernel profiles are fitted to published tables of kernel times. Cross-validated: mean error on rows whose "
        "shape the fit did not see. Nearest row: the datasheet times what the nearest known shape loses to it."
    )
    table = kernels()
    yield Picture(
        "calibration-kernels",
        "Mean error of kernel profiles by device and kind: cross-validated, nearest known row, datasheet",
        lambda: cross_validation(table),
    )
    yield Table("Mean error of kernel profiles:", table)
    yield Table("Mean error of fabric profiles, on rows left out of their fit:", fabrics())


def kernels() -> pd.DataFrame:
    """A row for every kind of kernel of every shipped profile: rows, numbers fitted, errors."""
    import pandas as pd

    from ..models.estimators.profile import MEASURED, KernelProfile

    found: list[dict[str, Any]] = []
    for file in sorted(MEASURED.glob("kernels-*.json")):
        profile = KernelProfile.load(file)
        for kind, score in profile.scores.items():
            if score:
                found.append(
                    {
                        "device": profile.device.name,
                        "kernel": kind,
                        "rows": score["rows"],
                        "parameters": score["parameters"],
                        "cross-validated": score["mean"],
                        "median": score["median"],
                        "fitted": score["fitted"],
                        "nearest row": score["nearest"],
                        "datasheet": score["roofline"],
                    }
                )
    return pd.DataFrame(found)


def fabrics() -> pd.DataFrame:
    """A row for every shipped profile of a fabric, by size of the messages."""
    import pandas as pd

    from ..hardware.library import load_profile, profile_names

    found = [{"fabric": name, **load_profile(name).error} for name in profile_names()]
    return pd.DataFrame(found)
