"""Fits the cost of expert-parallel kernels to published runs.

``COMMLENS_MEASURED=<folder> python -m commlens.validation.fit_expert_exchange`` prints one line per
kind of kernel and direction; they are the `KERNELS` of `simulator.expert_exchange`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..simulator.expert_exchange import ExchangeKernel
from .claims import MEASURED, read_measured
from .expert_exchange import is_calibration, predicted, style_of

# us, ns/KB, GB/s, us, share; and us between nodes
START = {"base": 15.0, "fill": 0.1, "copy_rate": 25.0, "per_token": 0.5, "link_efficiency": 0.75, "across": 20.0}
LOW = {"base": 1.0, "fill": 0.0, "copy_rate": 5.0, "per_token": 0.0, "link_efficiency": 0.3, "across": 0.0}
HIGH = {"base": 60.0, "fill": 5.0, "copy_rate": 80.0, "per_token": 3.0, "link_efficiency": 1.0, "across": 100.0}
FREE = {
    "normal": ("base", "fill", "copy_rate", "per_token", "link_efficiency"),
    "low latency": ("base", "fill", "link_efficiency", "across"),
}


def kernel_of(style: str, values: Sequence[float]) -> ExchangeKernel:
    """Kernel with the free numbers of a style in the units of `START`."""
    given = dict(zip(FREE[style], values, strict=True))
    return ExchangeKernel(
        base=1e-6 * given["base"],
        across=1e-6 * given.get("across", 0.0),
        fill=1e-9 * given["fill"],
        copy_rate=1e9 * given.get("copy_rate", 0.0),
        per_token=1e-6 * given.get("per_token", 0.0),
        link_efficiency=given["link_efficiency"],
        deduplicated=style == "normal",
    )


def fit(style: str, table: Sequence[Mapping[str, str]]) -> ExchangeKernel:
    """Least squares on the logarithm of the times, outliers damped."""
    from scipy.optimize import least_squares

    seconds = np.array([1e-6 * float(row["latency_us"]) for row in table])

    def residuals(values: np.ndarray) -> np.ndarray:
        kernel = kernel_of(style, list(values))
        times = [cost.time for row in table if (cost := predicted(row, kernel)) is not None]
        return np.asarray(np.log(np.array(times) / seconds))

    names = FREE[style]
    found = least_squares(
        residuals,
        [START[name] for name in names],
        bounds=([LOW[name] for name in names], [HIGH[name] for name in names]),
        loss="soft_l1",
        f_scale=0.1,
        diff_step=1e-3,
    )
    return kernel_of(style, [float(value) for value in found.x])


def main() -> None:
    """Print every kernel fitted to the calibration rows."""
    table = read_measured("moe_all2all_deepep")
    if table is None:
        raise SystemExit(f"set {MEASURED} to the folder with moe_all2all_deepep.csv")
    for style in FREE:
        for phase in ("dispatch", "combine"):
            mine = [r for r in table if style_of(r) == style and r["phase"] == phase and r["latency_us"]]
            print(style, phase, fit(style, [row for row in mine if is_calibration(row)]))


if __name__ == "__main__":
    main()
