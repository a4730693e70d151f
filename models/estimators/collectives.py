"""Collectives among processes of one machine: latency and rate by kind, the latter lower where caches are outgrown.

Links that have a profile of protocols (`hardware.profile`) predict what libraries do over wires. Processes of one host
pass messages through its memory, all at once and on its cores: rates are shares of its memory bandwidth, and buffers
that the caches hold move faster. Ranks beyond the cores take turns, and while one waits for a message another runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from .base import Column, KernelEstimator, Parameter, Shapes, Values, any_dtype
from .host import new_pages

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")


class CollectiveEstimator(KernelEstimator):
    """A collective of `size` bytes (as nccl-tests counts them) among `ranks`, by the text `operation`."""

    kind = "collective"
    columns: ClassVar[Mapping[str, Column]] = {"size": Column(), "ranks": Column(None, 2)}
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **{name: Parameter(100e-6, 1e-6, 50e-3, f"fixed time of {name} [s]") for name in COLLECTIVES},
        **{
            f"{name}_rate": Parameter(0.1, 1e-3, 2.0, f"rate of {name} through caches over the memory bandwidth")
            for name in COLLECTIVES
        },
        "turn": Parameter(100e-6, 0.0, 20e-3, "wait in a step for each rank more than a core has one of [s]"),
        "busy": Parameter(0.7, 0.1, 1.0, "share of a transfer in which a rank holds a core"),
        "outside": Parameter(1.5, 1.0, 20.0, "time of a byte from memory over that from caches"),
        "part": Parameter(1.0, 0.01, 8.0, "share of the last-level cache at whose size half comes from memory"),
        "fault": Parameter(1e-6, 0.0, 20e-6, "first use of a page of a gathered buffer of 32 MiB and more [s]"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        operation, ranks, device = shapes["operation"], shapes["ranks"], self.device
        chosen = [operation == name for name in COLLECTIVES]
        steps = _steps(operation, ranks)
        latency = np.select(chosen, [values[name] for name in COLLECTIVES])
        latency = latency * steps / _steps(operation, np.full_like(ranks, 2.0))
        rate = np.select(chosen, [values[f"{name}_rate"] for name in COLLECTIVES]) * device.memory_bandwidth
        turns = np.maximum(1.0, ranks / device.compute_units)
        # All ranks' buffers share the last-level cache.
        total = ranks * shapes["size"]
        slow = 1 + (values["outside"] - 1) * total / (total + values["part"] * device.cache_capacity)
        # Gloo gathers into a buffer of its own.
        pages = np.where(operation == "all_gather", new_pages(shapes["size"]), 0.0)
        moved = np.maximum(1.0, turns * values["busy"]) * (_sent(shapes) * slow / rate + values["fault"] * pages)
        return np.asarray(latency + steps * values["turn"] * (turns - 1) + moved)

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        return np.zeros_like(shapes["size"]), _sent(shapes)

    def _shapes(self, X: Shapes) -> dict[str, NDArray[Any]]:
        # Formats have no part in it: any that the device has will do.
        arrays = super()._shapes({"dtype": any_dtype(self.device), **X})
        for name in sorted(set(arrays["operation"].tolist()) - set(COLLECTIVES)):
            raise InputError(f"{self.kind}.operation: {name!r} (legal: {', '.join(COLLECTIVES)})")
        return arrays


def _steps(operation: Any, ranks: Any) -> Any:
    """Steps of a ring, twice around for an all-reduce; of a tree for a broadcast, and one for neighbours."""
    around = ranks - 1
    known = [operation == "all_reduce", operation == "broadcast", operation == "send_recv"]
    return np.select(known, [2 * around, np.ceil(np.log2(ranks)), np.ones_like(ranks)], around)


def _sent(shapes: Shapes) -> Any:
    """Bytes that pass a rank one after the other [B]: of a broadcast the whole buffer in every step of the tree."""
    operation, ranks = shapes["operation"], shapes["ranks"]
    share = (ranks - 1) / ranks
    known = [operation == "all_reduce", np.isin(operation, ("broadcast", "send_recv"))]
    return shapes["size"] * np.select(known, [2 * share, _steps(operation, ranks)], share)
