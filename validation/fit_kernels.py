"""Fits launch overhead, GEMM and memory efficiency of a device to published GEMM tables.

``COMMLENS_MEASURED=<folder> python -m commlens.validation.fit_kernels`` prints the three numbers per
device; they are written into the device presets by hand, with this command as their source.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..hardware import Device, load_device
from .kernels import DEVICES, gemm_seconds, is_calibration, measured_gemms

START = np.array([3.0, 0.8, 0.85])  # launch overhead [us], shares of the peaks


def with_values(device: Device, values: np.ndarray) -> Device:
    """The device with the fitted numbers replaced."""
    launch, gemm, memory = (float(value) for value in values)
    return replace(device, launch_overhead=launch * 1e-6, gemm_efficiency=gemm, memory_efficiency=memory)


def fit(device: Device, table: list[dict[str, str]]) -> np.ndarray:
    """Least squares on the logarithm of the times, outliers damped."""
    from scipy.optimize import least_squares

    seconds = np.array([1e-6 * float(row["time_us"]) for row in table])

    def residuals(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(gemm_seconds(with_values(device, values), table) / seconds))

    found = least_squares(
        residuals,
        START,
        bounds=([0.1, 0.2, 0.2], [20, 1, 1]),
        loss="soft_l1",
        f_scale=0.1,
        diff_step=1e-3,
    )
    return np.asarray(found.x)


def main() -> None:
    """Print the fit of every device in the table, with its held-out error."""
    table = measured_gemms()
    for gpu, name in DEVICES.items():
        own = [row for row in table if row["gpu"] == gpu]
        device = load_device(name)
        values = fit(device, [row for row in own if is_calibration(row)])
        held = [row for row in own if not is_calibration(row)]
        seconds = np.array([1e-6 * float(row["time_us"]) for row in held])
        error = np.abs(gemm_seconds(with_values(device, values), held) / seconds - 1)
        print(
            f"{name}: launch {values[0]:.2f} us, gemm {values[1]:.3f}, memory {values[2]:.3f}; "
            f"{len(held)} held-out rows: median error {np.median(error):.1%}, mean {error.mean():.1%}"
        )


if __name__ == "__main__":
    main()
