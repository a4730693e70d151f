"""The feed-forward of a mixture of experts on one rank: two grouped products and the moves around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .base import Column, KernelEstimator, Parameter, Shapes, Values, blend, element_bytes
from .expert_loads import expert_rows

# Rows of a tile: the library picks by the load, down to what one matrix instruction takes.
TILE_ROWS = (128, 64, 32, 16)
# Columns of a tile. Of 32, 64, 128 and 256, 32 fits best: with few experts in use, more of them than whole tiles of
# 128 stream weights at once. Inferred from the fit.
TILE_COLUMNS = 32
SHARPNESS = 3.0


class GroupedGemmEstimator(KernelEstimator):
    """Up and down projection of the experts of one rank, as grouped products, with permutation and merge.

    Columns m (tokens), n (intermediate width of an expert), k (hidden width), topk, experts, tp (ranks an expert's
    width is divided among), ep (ranks that experts are divided among), exponent (of the power law of loads; 0 is
    balanced) and gated (1: two up projections). Each product takes the slowest of arithmetic in whole waves of tiles,
    memory traffic of the weights in use, and the stream of one tile's operands by a single compute unit.
    """

    kind = "grouped_gemm"
    columns: ClassVar[Mapping[str, Column]] = {
        **{name: Column() for name in ("m", "n", "k", "topk", "experts")},
        **{"tp": Column(1), "ep": Column(1), "exponent": Column(0, 0), "gated": Column(0, 0)},
    }
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": Parameter(10e-6, 1e-6, 60e-6, "fixed time of the kernels [s]"),
        "matrix": Parameter(0.6, 0.1, 1.0, "share of the dense peak that tiles of 128 rows reach"),
        "memory": Parameter(0.85, 0.3, 1.0, "share of the memory bandwidth"),
        "tile_penalty": Parameter(0.5, 0.0, 0.7, "share of the rate lost with every halving of a tile's rows"),
        "unit": Parameter(0.6, 0.1, 10.0, "rate of one tile's stream over a unit's part of the memory bandwidth"),
        "row_passes": Parameter(3.0, 0.0, 40.0, "passes over the rows of the rank before and after the products"),
        "expert": Parameter(0.1e-6, 0.0, 2e-6, "set-up of one expert of the rank [s]"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        device, size = self.device, element_bytes(shapes)
        units, hidden, width = device.compute_units, shapes["k"], shapes["n"] / shapes["tp"]
        used, rows = shapes["experts in use"], shapes["rows"]
        rate = self._peak(shapes) * values["matrix"] / units
        bandwidth = device.memory_bandwidth * values["memory"]
        stream = device.memory_bandwidth / units * values["unit"]
        products = ((width * np.where(shapes["gated"] > 0, 2, 1), hidden), (hidden, width))
        best: Any = np.inf
        for step, height in enumerate(TILE_ROWS):
            time: Any = 0.0
            for n, k in products:
                waves = np.maximum(1.0, np.ceil(shapes[f"tiles of {height}"] * np.ceil(n / TILE_COLUMNS) / units))
                arithmetic = waves * 2 * height * TILE_COLUMNS * k / (rate * (1 - values["tile_penalty"]) ** step)
                traffic = size * (used * n * k + rows * (n + k)) / bandwidth
                alone = size * (TILE_COLUMNS + height) * k / stream
                time = time + blend(SHARPNESS, arithmetic, traffic, alone)
            best = np.minimum(best, time)
        # Every token's chosen rows pass through memory once more when they are merged.
        moved = size * hidden * (values["row_passes"] * rows + shapes["m"] * shapes["topk"])
        local = np.maximum(1.0, shapes["experts"] / shapes["ep"])
        return np.asarray(values["launch"] + values["expert"] * local + best + moved / bandwidth)

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        used, rows = shapes["experts in use"], shapes["rows"]
        matrices = np.where(shapes["gated"] > 0, 3.0, 2.0)
        weights = matrices * shapes["k"] * shapes["n"] / shapes["tp"]
        return 2 * rows * weights, element_bytes(shapes) * (used * weights + 2 * rows * shapes["k"])

    def _shapes(self, X: Shapes) -> dict[str, NDArray[Any]]:
        """Columns, and what the loads of the experts make of them, as means over the draws."""
        arrays = super()._shapes(X)
        for name in ("topk", "ep"):
            over = arrays[name] > arrays["experts"]
            if over.any():
                where = int(over.argmax())
                most = f"1 to the {arrays['experts'][where]:g} experts"
                raise InputError(f"{self.kind}.{name}[{where}]: {arrays[name][where]:g} (legal: {most})")
        keys = [arrays[key].tolist() for key in ("m", "topk", "experts", "ep", "exponent")]
        found = []
        for tokens, top, experts, ranks, exponent in zip(*keys, strict=True):
            rows = expert_rows(int(tokens), int(top), int(experts), int(ranks), exponent)
            tiles = [np.ceil(rows / height).sum(axis=1).mean() for height in TILE_ROWS]
            found.append([(rows > 0).sum(axis=1).mean(), rows.sum(axis=1).mean(), *tiles])
        names = ("experts in use", "rows", *(f"tiles of {height}" for height in TILE_ROWS))
        return {**arrays, **dict(zip(names, np.array(found).T, strict=True))}
