"""Memory-bound kernels: additions, gated activations and norms of (m, n) tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .base import Column, KernelEstimator, Parameter, Shapes, Values, blend, element_bytes

OPERATIONS = ("add", "activation", "norm")
PASSES = 3.0  # an addition and a gated activation read two tensors and write one; a norm reads its input twice
SHARPNESS = 2.0
ELEMENTS = 2048.0  # that a block of an addition handles: 256 threads of eight each (assumed)


class StreamingEstimator(KernelEstimator):
    """Kernels that only stream: columns m (rows), n (width of a row of the output) and the text `operation`.

    An addition runs over all elements alike. Activations and norms give each row to one block, which takes it
    at the rate of a single block: with few rows that, and not the bandwidth of the device, is what counts. Shares
    above 1 are of tensors that the last-level cache holds; what it does not hold comes from memory.
    """

    kind = "streaming"
    columns: ClassVar[Mapping[str, Column]] = {"m": Column(), "n": Column()}
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": Parameter(1.5e-6, 0.05e-6, 20e-6, "fixed time of a kernel of one block [s]"),
        "spread": Parameter(0.5e-6, 0.0, 10e-6, "time more where its blocks fill the device [s]"),
        "reduce": Parameter(1e-6, 0.0, 10e-6, "fixed time of a norm's sum over a row [s]"),
        "row": Parameter(0.5, 0.05, 5.0, "rate of one row's block over a unit's part of the memory bandwidth"),
        "add": Parameter(0.9, 0.1, 1.5, "share of the memory bandwidth that an addition reaches"),
        "activation": Parameter(0.6, 0.1, 1.5, "the same of a gated activation"),
        "norm": Parameter(0.6, 0.1, 1.5, "the same of a norm that reads its input twice"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        rows, operation, device = shapes["m"], shapes["operation"], self.device
        row = PASSES * shapes["n"] * element_bytes(shapes)
        blocks = np.where(operation == "add", rows * shapes["n"] / ELEMENTS, rows)
        filled = np.minimum(1.0, blocks / device.compute_units)
        share = np.select([operation == name for name in OPERATIONS], [values[name] for name in OPERATIONS])
        unit = device.memory_bandwidth / device.compute_units * values["row"]
        alone = np.where(operation == "add", 0.0, row / unit) + np.where(operation == "norm", values["reduce"], 0.0)
        block = values["launch"] + values["spread"] * filled + alone
        time = blend(SHARPNESS, block, rows * row / (device.memory_bandwidth * share))
        least = (self._ideal(shapes)[1] - device.cache_capacity) / device.memory_bandwidth
        return np.asarray(np.maximum(time, least))

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        passes = np.where(shapes["operation"] == "norm", 2.0, PASSES)
        elements = shapes["m"] * shapes["n"]
        return elements, passes * elements * element_bytes(shapes)

    def _shapes(self, X: Shapes) -> dict[str, NDArray[Any]]:
        arrays = super()._shapes(X)
        for name in sorted(set(arrays["operation"].tolist()) - set(OPERATIONS)):
            raise InputError(f"{self.kind}.operation: {name!r} (legal: {', '.join(OPERATIONS)})")
        return arrays
