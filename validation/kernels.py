"""The GEMM formula against published kernel tables (not shipped; see COMMLENS_MEASURED)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..hardware import Device, load_device
from ..models.kernels import gemm_time
from .claims import MEASURED, Row, read_measured

FAMILY = "kernels"
DEVICES = {"H100-SXM": "h100-sxm", "A100-SXM": "a100-80-sxm"}
DTYPES = ("bf16", "fp16")


def measured_gemms() -> list[dict[str, str]]:
    """Rows of the table this formula speaks of; LookupError where the table is not there."""
    table = read_measured("kernels_measured")
    if table is None:
        raise LookupError(f"kernels_measured.csv: set {MEASURED} to the folder that holds it")
    return [row for row in table if row["kernel"] == "gemm" and row["gpu"] in DEVICES and row["dtype"] in DTYPES]


def gemm_seconds(device: Device, table: list[dict[str, str]]) -> np.ndarray:
    """Predicted time of every row, launch included [s]."""
    m, n, k = (np.array([float(row[key]) for row in table]) for key in ("m", "n", "k"))
    return np.asarray(device.launch_overhead + gemm_time(m, n, k, device, "bf16"))


def is_calibration(row: dict[str, str]) -> bool:
    """Rows the device efficiencies were fitted to, by their number of rows m; the others are held out."""
    return int(float(row["m"])) in (1, 64, 1024, 4096)


def rows() -> Iterator[Row]:
    """Every published GEMM time of a shipped device."""
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
                f"{row['m']} x {row['n']} x {row['k']} {row['dtype']}",
                "time [us]",
                float(row["time_us"]),
                1e6 * seconds,
                row["source"],
                1e6 * work / rate,
                "calibration" if is_calibration(row) else "held out",
            )
