"""Kernels of a processor: the same kinds as a GPU's, by what libraries do on cores.

A product packs its operands into blocks that the caches hold and multiplies these, or, with few rows, streams the
weights once per row. Attention goes through the heads one by one, query heads that share keys each on their own.
Elementwise kernels run from the last-level cache or from memory. Rates are shares of what the device states, whose
compute units are the threads; times of small steps are in clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .attention import DecodeEstimator, PrefillEstimator
from .base import Column, Parameter, Shapes, Values, element_bytes
from .gemm import GemmEstimator
from .grouped import GroupedGemmEstimator
from .streaming import PASSES, StreamingEstimator

FRESH = 2.0**25  # outputs from which the C library takes new pages every time (glibc: mmap(2) above 32 MiB) [B]
PAGE = 4096.0  # [B]
FAULT = Parameter(1e-6, 0.0, 20e-6, "first use of a page of an output of 32 MiB and more [s]")
LAUNCH = Parameter(5e-6, 0.1e-6, 200e-6, "fixed time of a kernel [s]")
MATRIX = Parameter(0.8, 0.02, 1.0, "share of the peak that packed blocks reach")
MEMORY = Parameter(0.8, 0.05, 4.0, "rate of streamed weights over the memory bandwidth")
PACKING = Parameter(6.0, 0.0, 60.0, "passes over the operands for packing, at the memory bandwidth")
FAR = Parameter(1.0, 0.0, 10.0, "share of packing more where an operand has many rows, each on a page of its own")
PRODUCT = {"launch": LAUNCH, "matrix": MATRIX, "memory": MEMORY, "packing": PACKING, "far": FAR}
PAGES = 2048.0  # that a core finds without walking its tables: entries of its second TLB (Zen 3, Golden Cove)
# Queries that a block of PyTorch's fused attention takes, by their number (its cpu/FlashAttentionKernel.cpp; recalled).
QUERY_BLOCKS = ((768, 256.0), (192, 64.0), (0, 32.0))


class HostGemmEstimator(GemmEstimator):
    """(m x k) @ (k x n) by packed blocks, or as products of a matrix and a vector; columns of `GemmEstimator`."""

    form = "host"
    columns: ClassVar[Mapping[str, Column]] = {**GemmEstimator.columns, "quantise": Column(0, 0)}  # is timed alone
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **PRODUCT,
        "stores": Parameter(1.0, 0.0, 60.0, "passes over the output, at the memory bandwidth"),
        "fault": FAULT,
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        m, n, k, size = shapes["m"], shapes["n"], shapes["k"], element_bytes(shapes)
        bandwidth = self.device.memory_bandwidth
        stores = values["stores"] * size * m * n / bandwidth
        rate = self._peak(shapes) * values["matrix"]
        time = values["launch"] + _product(m, n, k, size, rate, bandwidth, values) + stores
        return np.asarray(time + values["fault"] * new_pages(size * m * n))


class HostGroupedGemmEstimator(GroupedGemmEstimator):
    """The products of experts one by one, as `HostGemmEstimator` has them; columns of `GroupedGemmEstimator`."""

    form = "host"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        **PRODUCT,
        "row_passes": Parameter(6.0, 0.0, 30.0, "passes over the rows of the rank beside the products"),
        "expert": Parameter(20e-6, 0.0, 100e-6, "fixed time of an expert in use [s]"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        size, hidden, width = element_bytes(shapes), shapes["k"], shapes["n"] / shapes["tp"]
        used, rows = np.maximum(shapes["experts in use"], 1e-9), shapes["rows"]
        each, bandwidth = np.maximum(1.0, rows / used), self.device.memory_bandwidth
        rate = self._peak(shapes) * values["matrix"]
        time: Any = values["launch"] + values["expert"] * used
        for n, k in ((width * np.where(shapes["gated"] > 0, 2, 1), hidden), (hidden, width)):
            time = time + used * _product(each, n, k, size, rate, bandwidth, values)
        moved = size * values["row_passes"] * rows * (hidden + width)
        return np.asarray(time + moved / bandwidth)


class HostPrefillEstimator(PrefillEstimator):
    """Causal attention in blocks of queries, each over the keys it sees; columns of `PrefillEstimator`."""

    form = "host"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": LAUNCH,
        "matrix": MATRIX,
        "score": Parameter(10.0, 0.0, 500.0, "clocks of a score beside the products, exponential among them"),
        "block": Parameter(5e3, 0.0, 1e6, "clocks of a block of queries"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        query, clock = shapes["seq_q"], self.device.clock * self.device.compute_units
        tile = np.select([query >= least for least, _ in QUERY_BLOCKS], [size for _, size in QUERY_BLOCKS])
        count = shapes["batch"] * shapes["heads"]
        # A block computes up to its last query's keys: half of itself too much.
        scores = count * query * (self._keys(shapes) - query / 2 + np.minimum(tile, query) / 2)
        per_score = 4 * shapes["head_dim"] / (self._peak(shapes) * values["matrix"]) + values["score"] / clock
        return np.asarray(
            values["launch"] + scores * per_score + values["block"] * count * np.maximum(1.0, query / tile) / clock
        )


class HostDecodeEstimator(DecodeEstimator):
    """One new token per sequence: every query head streams its keys and values; columns of `DecodeEstimator`."""

    form = "host"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": LAUNCH,
        "memory": Parameter(0.8, 0.02, 4.0, "rate of keys and values, once per query head, over the memory bandwidth"),
        "item": Parameter(2e3, 0.0, 1e6, "clocks of a query head of a sequence"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        count = shapes["batch"] * shapes["heads"]
        keys = 2 * shapes["seq_kv"] * shapes["head_dim"] * element_bytes(shapes)
        clock = self.device.clock * self.device.compute_units
        stream = keys / (self.device.memory_bandwidth * values["memory"])
        return np.asarray(values["launch"] + count * (stream + values["item"] / clock))


class HostStreamingEstimator(StreamingEstimator):
    """Kernels that only stream, from the caches while these hold them; columns of `StreamingEstimator`.

    Additions do nothing else. A gated activation computes on every element besides, exponentials above all; a norm is
    several kernels, whose inner results stream too.
    """

    form = "host"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": LAUNCH,
        "reduce": Parameter(20e-6, 0.0, 200e-6, "fixed time more of a norm [s]"),
        "cached": Parameter(4.0, 1.0, 20.0, "rate from the caches over that from memory"),
        "part": Parameter(0.05, 0.001, 1.0, "share of the last-level cache at whose size half comes from memory"),
        "add": Parameter(0.8, 0.05, 2.0, "share of the memory bandwidth"),
        "activation": Parameter(3.0, 0.0, 100.0, "clocks that a gated activation computes on an element"),
        "norm": Parameter(2.0, 0.3, 20.0, "traffic of a norm over that of an addition"),
        "fault": FAULT,
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        operation, elements = shapes["operation"], shapes["m"] * shapes["n"]
        traffic = PASSES * elements * element_bytes(shapes)
        outside = traffic / (traffic + values["part"] * self.device.cache_capacity)
        slow = outside + (1 - outside) / values["cached"]
        computed = np.where(operation == "activation", values["activation"], 0.0)
        fixed = values["launch"] + np.where(operation == "norm", values["reduce"], 0.0)
        clock = self.device.clock * self.device.compute_units
        streamed = np.where(operation == "norm", values["norm"], 1.0) * traffic * slow
        streamed = streamed / (self.device.memory_bandwidth * values["add"])
        # An activation's inner half is an output too.
        outputs = np.where(operation == "activation", 2, 1) * new_pages(elements * element_bytes(shapes))
        return np.asarray(fixed + elements * computed / clock + streamed + values["fault"] * outputs)


def new_pages(output: Any) -> Any:
    """Pages of an output [B] that its kernel is the first to touch."""
    return np.where(output >= FRESH, output / PAGE, 0.0)


def _product(m: Any, n: Any, k: Any, size: Any, rate: Any, bandwidth: float, values: Values) -> Any:
    """Packed blocks, or one stream of the larger operand for every row of the smaller; whichever is quicker [s]."""
    far = 1 + values["far"] * n / (n + PAGES)
    packed = 2 * m * n * k / rate + values["packing"] * size * (m * k + far * n * k) / bandwidth
    streamed = np.minimum(m, n) * size * k * np.maximum(m, n) / (bandwidth * values["memory"])
    return np.minimum(packed, streamed)
