"""Attention kernels as serving stacks time them: causal prefill and decode of one token.

Times include what runs around the kernel in such a stack (rotating and storing the new keys and values, merging
parts of a long context), which is why a fixed latency and passes over the tensors are free numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..products import EXPONENTIALS
from .base import Column, KernelEstimator, Parameter, Shapes, Values, blend, element_bytes

# Queries of a block, and keys that it takes at a time, of FlashAttention-2 and -3 at heads of 128
# (arXiv 2307.08691, 2407.08608). Of 64, 128 and 256, 128 fits the tables of both devices best or nearly so.
TILE = 128.0
SHARPNESS = 5.0  # as of products
HEADS = {"heads": Column(), "kv_heads": Column(), "head_dim": Column(128)}


class PrefillEstimator(KernelEstimator):
    """Causal attention of `seq_q` new tokens over `seq_kv` keys, the last of which are their own.

    Columns batch, seq_q, seq_kv (0: as seq_q), heads, kv_heads, head_dim. A block of 128 queries of a head takes
    its visible keys in blocks of 128, masked ones in the last block too. Blocks differ in length: beside the mean
    load of a compute unit, a share of the longest block is waited for at the end. Keys before the new tokens are
    split among units that would idle, as in decode, and a block of fewer queries is filled with those of the heads
    that share its keys (FlashAttention-3). Exponentials are counted after the products, at the rate of the
    special-function units.
    """

    kind = "attention_prefill"
    columns: ClassVar[Mapping[str, Column]] = {"batch": Column(), "seq_q": Column(), "seq_kv": Column(0, 0), **HEADS}
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": Parameter(10e-6, 1e-6, 60e-6, "fixed time of the kernels [s]"),
        "matrix": Parameter(0.6, 0.1, 1.0, "share of the dense peak that the products reach"),
        "longest": Parameter(0.5, 0.0, 2.0, "share of the longest block waited for at the end"),
        "query_passes": Parameter(3.0, 0.0, 20.0, "passes over the queries beside the kernel's own"),
        "key_passes": Parameter(1.0, 0.0, 20.0, "passes over new keys and values beside the kernel's own"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        device, group = self.device, np.maximum(1.0, shapes["heads"] / shapes["kv_heads"])
        packed = np.minimum(group, np.ceil(group * shapes["seq_q"] / TILE))
        count = shapes["batch"] * shapes["heads"] / group * packed
        blocks, last = np.ceil(shapes["seq_q"] / TILE), np.ceil(self._keys(shapes) / TILE)
        seen = np.ceil((self._keys(shapes) - shapes["seq_q"]) / TILE)  # blocks of keys before the new tokens
        # Every block of queries sees one block of keys more than that before it, and the last one no more than all.
        scores = count * TILE**2 * ((blocks - 1) * (seen + blocks / 2) + last)
        parts = np.maximum(1.0, np.minimum(seen, device.compute_units / (count * blocks)))
        longest = TILE**2 * (seen / parts + last - seen)
        rate = self._peak(shapes) / device.compute_units * values["matrix"]
        per_score = 4 * shapes["head_dim"] / rate + 1 / (EXPONENTIALS * device.clock)
        arithmetic = (scores / device.compute_units + values["longest"] * longest) * per_score
        bandwidth = device.memory_bandwidth * device.memory_efficiency
        queries, keys, new = self._tensors(shapes)
        time = blend(SHARPNESS, arithmetic, (2 * queries + keys) / bandwidth)
        around = (values["query_passes"] * queries + values["key_passes"] * new) / bandwidth
        return np.asarray(values["launch"] + time + around)

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        query, keys = shapes["seq_q"], self._keys(shapes)
        flops = 4 * shapes["batch"] * shapes["heads"] * shapes["head_dim"] * query * (keys - query / 2)
        queries, cache, _ = self._tensors(shapes)
        return flops, 2 * queries + cache

    @staticmethod
    def _keys(shapes: Shapes) -> NDArray[np.float64]:
        return np.asarray(np.maximum(shapes["seq_kv"], shapes["seq_q"]))

    def _tensors(self, shapes: Shapes) -> tuple[Any, Any, Any]:
        """Bytes of the queries, of all keys and values, and of the new ones."""
        width = element_bytes(shapes) * shapes["batch"] * shapes["head_dim"]
        per_key = 2 * width * shapes["kv_heads"]
        queries = width * shapes["heads"] * shapes["seq_q"]
        return queries, per_key * self._keys(shapes), per_key * shapes["seq_q"]


class DecodeEstimator(KernelEstimator):
    """Attention of one new token per sequence over a cache of `seq_kv` keys and values.

    Columns batch, seq_kv, heads, kv_heads, head_dim. Key-value heads of sequences are the items that compute units
    work on; keys come in whole blocks of 128. Where items are fewer than units, contexts are split, and the parts
    merged. A cache that fits the last-level cache comes from there, since benchmarks repeat a kernel. Many query heads
    on few keys are bound by arithmetic, taken at the peak.
    """

    kind = "attention_decode"
    columns: ClassVar[Mapping[str, Column]] = {"batch": Column(), "seq_kv": Column(), **HEADS}
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "launch": Parameter(9e-6, 1e-6, 40e-6, "fixed time of the kernels [s]"),
        "memory": Parameter(0.85, 0.3, 1.0, "share of the memory bandwidth"),
        "cached": Parameter(1.5, 1.0, 5.0, "rate from the last-level cache over that from memory"),
        "item": Parameter(1e-6, 0.0, 10e-6, "fixed time of a wave of items [s]"),
        "merge": Parameter(0.5e-6, 0.0, 20e-6, "time per doubling of the parts a context is split into [s]"),
        "query_passes": Parameter(3.0, 0.0, 30.0, "passes over queries and outputs"),
    }

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        device, items = self.device, shapes["batch"] * shapes["kv_heads"]
        blocks = np.ceil(shapes["seq_kv"] / TILE)
        per_key = 2 * shapes["head_dim"] * element_bytes(shapes)
        fits = items * shapes["seq_kv"] * per_key < device.cache_capacity
        bandwidth = device.memory_bandwidth * values["memory"]
        keys = items * blocks * TILE * per_key / (bandwidth * np.where(fits, values["cached"], 1.0))
        keys = np.maximum(keys, self._ideal(shapes)[0] / self._peak(shapes))
        waves = np.ceil(items / device.compute_units)
        parts = np.maximum(1.0, np.minimum(blocks, device.compute_units / items))
        queries = 2 * shapes["batch"] * shapes["heads"] * shapes["head_dim"] * element_bytes(shapes)
        around = values["query_passes"] * queries / bandwidth + values["merge"] * np.log2(parts)
        return np.asarray(values["launch"] + values["item"] * waves + keys + around)

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        per_key = shapes["batch"] * shapes["seq_kv"] * shapes["head_dim"]
        queries = 2 * shapes["batch"] * shapes["heads"] * shapes["head_dim"] * element_bytes(shapes)
        return 4 * shapes["heads"] * per_key, 2 * shapes["kv_heads"] * per_key * element_bytes(shapes) + queries
