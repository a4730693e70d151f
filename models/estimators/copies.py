"""Copies and sums: kernels that pass over bytes, in a device's memory or between it and its host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .base import Column, KernelEstimator, Parameter, Shapes, Values, any_dtype

PASSES = {"copy": 2.0, "sum": 1.0, "to_device": 1.0, "to_host": 1.0}
"""Passes over the bytes by operation; the last two cross the host's bus, once."""


class CopyEstimator(KernelEstimator):
    """Passes over `size` bytes, by the text `operation`: copy, sum, to_device or to_host.

    Copies and sums come from the last-level cache while it holds them; benchmarks that take turns over operands that
    it does not hold see less of that.
    """

    kind = "copy"
    columns: ClassVar[Mapping[str, Column]] = {"size": Column()}
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": Parameter(3e-6, 0.1e-6, 200e-6, "fixed time of a kernel [s]"),
        "cached": Parameter(2.0, 1.0, 20.0, "rate from the caches over that from memory"),
        "part": Parameter(0.05, 0.001, 1.0, "share of the last-level cache at whose size half comes from memory"),
        "copy": Parameter(0.8, 0.05, 2.0, "share of the memory bandwidth that a copy reaches, both ways counted"),
        "sum": Parameter(0.8, 0.05, 2.0, "the same of a sum"),
        "to_device": Parameter(0.015, 1e-4, 1.0, "rate from the host over the memory bandwidth"),
        "to_host": Parameter(0.015, 1e-4, 1.0, "rate to the host over the memory bandwidth"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        operation, traffic = shapes["operation"], self._traffic(shapes)
        share = np.select([operation == name for name in PASSES], [values[name] for name in PASSES])
        outside = traffic / (traffic + values["part"] * self.device.cache_capacity)
        inside = np.isin(operation, ("copy", "sum"))
        slow = np.where(inside, outside + (1 - outside) / values["cached"], 1.0)
        return np.asarray(values["launch"] + traffic * slow / (self.device.memory_bandwidth * share))

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        return np.zeros_like(shapes["size"]), self._traffic(shapes)

    @staticmethod
    def _traffic(shapes: Shapes) -> Any:
        return shapes["size"] * np.select([shapes["operation"] == name for name in PASSES], list(PASSES.values()))

    def _shapes(self, X: Shapes) -> dict[str, NDArray[Any]]:
        # Formats have no part in it: any that the device has will do.
        arrays = super()._shapes({"dtype": any_dtype(self.device), **X})
        for name in sorted(set(arrays["operation"].tolist()) - set(PASSES)):
            raise InputError(f"{self.kind}.operation: {name!r} (legal: {', '.join(PASSES)})")
        return arrays
