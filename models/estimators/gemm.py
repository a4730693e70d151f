"""Matrix products: tiles, waves and split-K of `models.products.gemm_time`, with what measured kernels add to it.

With the added numbers at nothing (no split latency, no serial stores, no droop, a sharp maximum) this is
`gemm_time`; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...hardware import Device
from ..products import K_STEP, NARROW, SPLIT_K, tiles
from .base import Column, KernelEstimator, Parameter, Shapes, Values, blend, element_bytes

# Order of the norm that stands for the roofline's maximum: arithmetic and traffic that take equally long take 15 %
# more together. The tables of both devices put it between 4 and 5.5 when it is left free.
SHARPNESS = 5.0
# Products shorter than this run at the full clock; the board's power limit works on longer averages.
FULL_CLOCK = 0.3e-3
WIDE = 2.0  # bytes of an output element: products of narrow formats write half precision


class GemmEstimator(KernelEstimator):
    """(m x k) @ (k x n): best of the library's tiles and split-K factors.

    Columns m, n, k, and `quantise`: 0 for a product of a narrow format alone; by default its time includes turning
    the first operand from half precision into that format, as in the tables of serving stacks.
    """

    kind = "gemm"
    columns: ClassVar[Mapping[str, Column]] = {"m": Column(), "n": Column(), "k": Column(), "quantise": Column(1, 0)}
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": Parameter(3e-6, 0.1e-6, 20e-6, "fixed time of a kernel [s]"),
        "matrix": Parameter(0.8, 0.3, 1.0, "share of the dense peak that the largest tile reaches"),
        "memory": Parameter(0.85, 0.3, 1.0, "share of the memory bandwidth"),
        "tile_penalty": Parameter(0.1, 0.0, 0.6, "share of the rate lost with every halving of the tile"),
        "stores": Parameter(0.5, 0.0, 4.0, "share of the time of its stores in which a tile does not multiply"),
        "partial": Parameter(0.5, 0.0, 2.0, "share of split-K's partial sums that reaches memory"),
        "split": Parameter(1.5e-6, 0.0, 10e-6, "fixed time of adding split-K's partial sums [s]"),
        "droop": Parameter(0.02, 0.0, 0.3, "share of time added per tenfold length beyond 0.3 ms (clock)"),
        # Starts of these two are what devices without rows in narrow formats keep: the H100 fit, rounded.
        "quantise": Parameter(10e-6, 0.0, 40e-6, "fixed time of quantising the first operand [s]"),
        "quantise_bytes": Parameter(6.0, 0.0, 40.0, "traffic of quantising an element [B]"),
    }

    def __init__(self, device: Device, softness: float = 0.1, sharpness: float = SHARPNESS):
        super().__init__(device, softness)
        self.sharpness = sharpness

    def get_params(self) -> dict[str, Any]:
        """What the estimator was made with."""
        return {**super().get_params(), "sharpness": self.sharpness}

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        m, n, k = shapes["m"], shapes["n"], shapes["k"]
        size, units = element_bytes(shapes), self.device.compute_units
        rate = self._peak(shapes) * values["matrix"]
        bandwidth = self.device.memory_bandwidth * values["memory"]
        reads = size * (m * k + k * n) / bandwidth
        best: Any = np.inf
        for step, (tile_m, tile_n) in enumerate(tiles(self.device)):
            reached = rate * (1 - values["tile_penalty"]) ** step
            for split in SPLIT_K:
                count = np.ceil(m / tile_m) * np.ceil(n / tile_n) * split
                depth = np.ceil(k / split / K_STEP) * K_STEP if split > 1 else k
                arithmetic = np.ceil(count / units) * units * 2 * tile_m * tile_n * depth / reached
                arithmetic = arithmetic * (1 + values["droop"] * np.log10(np.maximum(1.0, arithmetic / FULL_CLOCK)))
                # Partial sums are written and read in fp32, most of them in the cache.
                partial = 8 * m * n * split * values["partial"] if split > 1 else 0.0
                writes = (np.maximum(size, WIDE) * m * n + partial) / bandwidth
                time = blend(self.sharpness, arithmetic + values["stores"] * writes, reads + writes)
                best = np.minimum(best, time + (values["split"] if split > 1 else 0.0))
        narrow = np.isin(shapes["dtype"], NARROW) & (shapes["quantise"] > 0)
        first = values["quantise"] + values["quantise_bytes"] * m * k / bandwidth
        return np.asarray(values["launch"] + best + np.where(narrow, first, 0.0))

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        m, n, k = shapes["m"], shapes["n"], shapes["k"]
        size = element_bytes(shapes)
        return 2 * m * n * k, size * (m * k + k * n) + np.maximum(size, WIDE) * m * n
