"""Times of kernels against published tables of them (not shipped; see COMMLENS_MEASURED).

Three predictions stand beside a measured time, told apart by their metric: the formula for matrix products with the
preset's own numbers; the fitted profile of the device, by a fit that did not see the row's shape; and the profile of
another device moved to this one's datasheet. The trivial baseline is the median rate for the first, for the profiles
the datasheet times what the nearest known shape loses to it; of a device without a profile nothing is known but the
datasheet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..hardware import Device, load_device
from ..models.estimators.base import KernelEstimator
from ..models.estimators.crossval import cross_validate, fold_of, nearest_times
from ..models.estimators.profile import ESTIMATORS, KernelProfile
from ..models.kernels import gemm_time
from .claims import MEASURED, Row, read_measured
from .from_table import KERNELS, SHIPPED, TABLE, Rows, device_of, read_table

FAMILY = "kernels"
DEVICES = {"H100-SXM": "h100-sxm", "A100-SXM": "a100-80-sxm"}
DTYPES = ("bf16", "fp16")
BEST_SHAPE = "gemm (best shape, MAMF)"  # the fastest of thousands of shapes of a product, by device
# Whose profile predicts a device that has none: of the same compute die, else of the generation nearest to it.
RELATIVES = {
    **dict.fromkeys(("h200-sxm", "h800-sxm", "h20-sxm", "h100-96-sxm", "h100-pcie", "gh200"), "h100-sxm"),
    **dict.fromkeys(("b200", "b300", "gb200", "gb300", "rtx-pro-6000"), "h100-sxm"),
    **dict.fromkeys(("a100-40-sxm", "a100-80-pcie", "a10", "a40", "l20", "l40s"), "a100-80-sxm"),
}
MISSED = 0.15  # errors of a moved profile beyond this carry a reason


def measured_gemms() -> list[dict[str, str]]:
    """Rows of the table that the preset's formula speaks of; LookupError where the table is not there."""
    return [row for row in _table() if row["kernel"] == "gemm" and row["gpu"] in DEVICES and row["dtype"] in DTYPES]


def gemm_seconds(device: Device, table: list[dict[str, str]]) -> np.ndarray:
    """Predicted time of every row, launch included [s]."""
    m, n, k = (np.array([float(row[key]) for row in table]) for key in ("m", "n", "k"))
    return np.asarray(device.launch_overhead + gemm_time(m, n, k, device, "bf16"))


def is_calibration(row: dict[str, str]) -> bool:
    """Rows the device efficiencies were fitted to, by their number of rows m; the others are held out."""
    return int(float(row["m"])) in (1, 64, 1024, 4096)


def rows() -> Iterator[Row]:
    """Every published time of a shipped device, by each of the predictions.

    Raises
    ------
    LookupError
        Where the table is not.
    """
    table = _table()
    profiles = {device: KernelProfile.load(file.removesuffix(".json")) for device, file in SHIPPED.items()}
    yield from by_preset()
    for device, profile in profiles.items():
        known, _ = read_table(Path(os.environ[MEASURED]) / TABLE, device)
        for kind, own in known.items():
            published = [table[line - 2] for line in own.lines]  # a row is a line, after that of the names
            estimator = ESTIMATORS[kind](profile.device)
            naive = nearest_rows(estimator, own)
            seconds = cross_validate(estimator, own.shapes, own.seconds)[1]
            yield from _beside(kind, device, "by profile", published, own, seconds, naive)
            for other, theirs in profiles.items():
                if other != device and kind in theirs.estimators:
                    moved = theirs.for_device(device).estimators[kind].predict(own.shapes)
                    yield from _beside(kind, device, f"by profile of {other}", published, own, moved, naive)
    yield from of_relatives(profiles)
    yield from best_shapes(profiles)


def of_relatives(profiles: dict[str, KernelProfile]) -> Iterator[Row]:
    """Times of devices that no profile was measured on, by a relative's.

    Parameters
    ----------
    profiles : mapping of str to KernelProfile
        By the device they were measured on.
    """
    table = _table()
    there = {device_of(row["gpu"]) for row in table if row["kernel"] in KERNELS}
    for device in sorted(there & set(RELATIVES)):
        known, _ = read_table(Path(os.environ[MEASURED]) / TABLE, device)
        moved = profiles[RELATIVES[device]].for_device(device)
        for kind, own in known.items():
            if kind not in moved.estimators:
                continue
            legal = np.isin(own.shapes["dtype"], list(moved.device.peak_flops))
            shapes = {name: column[legal] for name, column in own.shapes.items()}
            lines = tuple(line for line, kept in zip(own.lines, legal, strict=True) if kept)
            if lines:
                one, mine = moved.estimators[kind], Rows(shapes, own.seconds[legal], lines)
                published = [table[line - 2] for line in lines]
                by = f"by profile of {RELATIVES[device]}"
                yield from _beside(kind, device, by, published, mine, one.predict(shapes), one.roofline(shapes))


def by_preset() -> Iterator[Row]:
    """Matrix products by the formula with the numbers of the device's preset."""
    table = measured_gemms()
    for gpu, name in DEVICES.items():
        own = [row for row in table if row["gpu"] == gpu]
        device = load_device(name)
        times = gemm_seconds(device, own)
        rate = np.median([2e6 * float(r["m"]) * float(r["n"]) * float(r["k"]) / float(r["time_us"]) for r in own])
        for row, seconds in zip(own, times, strict=True):
            work = 2.0 * float(row["m"]) * float(row["n"]) * float(row["k"])
            yield Row(
                FAMILY,
                f"gemm {name}",
                row["row_id"],
                f"m {row['m']}, n {row['n']}, k {row['k']}, {row['dtype']}",
                "time by preset [us]",
                float(row["time_us"]),
                1e6 * seconds,
                row["source"],
                1e6 * work / rate,
                "calibration" if is_calibration(row) else "held out",
            )


def best_shapes(profiles: dict[str, KernelProfile]) -> Iterator[Row]:
    """The fastest product of a device among thousands of shapes, by its profile or a relative's; in no fit.

    Parameters
    ----------
    profiles : mapping of str to KernelProfile
        By the device they were measured on.
    """
    for row in (row for row in _table() if row["kernel"] == BEST_SHAPE):
        device = device_of(row["gpu"])
        base = RELATIVES.get(device, device)
        whose = "" if base == device else f" of {base}"
        seconds = naive = None
        if base in profiles:
            estimator = profiles[base].for_device(device).estimators["gemm"]
            # In narrow formats it times torch._scaled_mm, whose operands are narrow already.
            shape = {**{name: float(row[name]) for name in ("m", "n", "k")}, "dtype": row["dtype"], "quantise": 0.0}
            seconds, naive = 1e6 * float(estimator.predict(shape)[0]), 1e6 * float(estimator.roofline(shape)[0])
        yield Row(
            FAMILY,
            f"gemm {device}",
            row["row_id"],
            f"m {row['m']}, n {row['n']}, k {row['k']}, {row['dtype']}, fastest of thousands",
            f"time of the best shape by profile{whose} [us]",
            float(row["time_us"]),
            seconds,
            row["source"],
            naive,
            reason="not predicted: no preset of this part" if seconds is None else "",
        )


def nearest_rows(estimator: KernelEstimator, rows: Rows) -> NDArray[np.float64]:
    """What a trivial baseline says: the datasheet times what the nearest row of another fold loses to it.

    Parameters
    ----------
    estimator : KernelEstimator
        Whose columns are the shape, and whose datasheet counts.
    rows : Rows

    Returns
    -------
    array of float, of shape (rows,)
        [s].
    """
    fold, found = fold_of(estimator, rows.shapes), np.empty(len(rows.seconds))
    for own in (fold == number for number in np.unique(fold)):
        found[own] = nearest_times(estimator, rows.shapes, rows.seconds, ~own, own)
    return found


def _beside(
    kind: str,
    device: str,
    by: str,
    published: list[dict[str, str]],
    own: Rows,
    seconds: NDArray[np.float64],
    naive: NDArray[np.float64],
) -> Iterator[Row]:
    """Rows of a kind of kernel with one prediction each; none of them was fitted to."""
    moved = by.startswith("by profile of")
    columns = ESTIMATORS[kind].columns
    sizes = {name: own.shapes[name] for name in columns if (own.shapes[name] != columns[name].default).any()}
    for index, row in enumerate(published):
        shape = [f"{name} {values[index]:g}" for name, values in sizes.items()]
        missed = moved and abs(seconds[index] / own.seconds[index] - 1) > MISSED
        yield Row(
            FAMILY,
            f"{kind} {device}",
            row["row_id"],
            ", ".join([row["kernel"], *shape, row["dtype"], row["tool"]]),
            f"time {by} [us]",
            float(row["time_us"]),
            1e6 * float(seconds[index]),
            row["source"],
            1e6 * float(naive[index]),
            reason="missed: kernels of another generation; only shares of the datasheet move" if missed else "",
        )


def _table() -> list[dict[str, str]]:
    """Every row; LookupError where the table is not there."""
    table = read_measured("kernels_measured")
    if table is None:
        raise LookupError(f"kernels_measured.csv: set {MEASURED} to the folder that holds it")
    return table
