"""A device's kernels as its fitted profile has them, in the terms that `Kernels` asks in.

A profile's times begin with a fixed one; programs count that as the gap before a kernel, where the software stack
does not say what the gap is. What a profile did not fit keeps the formulas of the device's preset, at the shares of
its peaks that the profile found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..hardware import Device
from .estimators import DecodeEstimator, KernelProfile
from .estimators.profile import written
from .estimators.streaming import PASSES

# Elementwise kernels by what they do: an operation of `StreamingEstimator`. Others stream as an addition does.
OPERATIONS = {
    "add + norm": "norm",
    "norm": "norm",
    "latent norm + rope": "norm",
    "activation": "activation",
}
SIZES = {"fp32": 4, "bf16": 2}
# Of a device, what times of kernels are shares of: with other numbers it is another device of the same name.
RATES = ("peak_flops", "compute_units", "clock", "memory_bandwidth", "cache_capacity", "gemm_tile")
# Shares of the memory bandwidth that were fitted, best known first. One above 1 is of tensors that a cache held.
BANDWIDTH = (("streaming", "add"), ("gemm", "memory"))


@dataclass(frozen=True)
class FittedTimes:
    """Times of a profile, without the fixed part.

    Parameters
    ----------
    profile : KernelProfile
        Of the device.
    measured_on : str
        Device whose kernels were measured.
    scores : mapping of str to mapping
        Errors there, by kind.
    home : bool
        Whether that is this device, as it was.
    """

    profile: KernelProfile
    measured_on: str
    scores: Mapping[str, Mapping[str, Any]]
    home: bool

    def launch(self, kind: str) -> float:
        """Fixed time of a kind of kernel [s]; that of products where the kind was not fitted."""
        fits = self.profile.estimators
        found = fits.get(kind) or fits.get("gemm")
        return 0.0 if found is None else found.values_["launch"]

    def device(self, device: Device) -> Device:
        """The device at the shares of its peaks that were fitted."""
        fits, changes = self.profile.estimators, dict[str, Any]()
        if "gemm" in fits:
            values = fits["gemm"].values_
            changes = {"gemm_efficiency": values["matrix"], "launch_overhead": values["launch"]}
        shares = [fits[kind].values_[name] for kind, name in BANDWIDTH if kind in fits]
        if shares:
            changes["memory_efficiency"] = next((share for share in shares if share <= 1), 1.0)
        return replace(device, **changes)

    def gemm(self, m: Any, n: Any, k: Any, dtype: str) -> Any:
        """A product alone [s], or None where products were not fitted."""
        shape = {"m": np.maximum(m, 1.0), "n": np.maximum(n, 1.0), "k": np.maximum(k, 1.0), "quantise": 0}
        return self._seconds("gemm", dtype=dtype, **shape)

    def attention(
        self, batch: Any, query: Any, context: Any, heads: Any, kv_heads: Any, width: Any, dtype: str, seen: Any
    ) -> Any:
        """Fused attention of which a share of the scores is seen [s], or None for what was not fitted."""
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": width, "dtype": dtype}
        if np.all(np.equal(query, 1)):
            return self._seconds("attention_decode", batch=batch, seq_kv=context, **shape)
        # As many queries that are the last of so many keys that each sees as many as here. Under a short window they
        # are those of more and shorter sequences.
        keys = context * seen
        length = np.minimum(query, np.maximum(2 * keys, 1.0))
        return self._seconds(
            "attention_prefill",
            batch=batch * query / length,
            seq_q=length,
            seq_kv=np.maximum(keys + length / 2, length),
            **shape,
        )

    def streaming(self, name: str, rows: Any, traffic: Any, size: float) -> Any:
        """A kernel of so many rows that moves so many bytes [s], or None where such were not fitted."""
        # Its passes over memory as so many more elements of a kernel with those of the estimator.
        width = np.maximum(1.0, traffic / (PASSES * size * np.maximum(rows, 1.0)))
        dtype = "fp32" if size == SIZES["fp32"] else "bf16"
        shape = {"m": np.maximum(rows, 1.0), "n": np.maximum(1.0, width * size / SIZES[dtype])}
        return self._seconds("streaming", operation=OPERATIONS.get(name, "add"), dtype=dtype, **shape)

    def _seconds(self, kind: str, **shape: Any) -> Any:
        if kind not in self.profile.estimators:
            return None
        return np.maximum(self.profile.seconds(kind, **shape) - self.launch(kind), 0.0)[()]


def fitted(device: Device) -> FittedTimes | None:
    """Times of the profile that a device names; None where it names none.

    Raises
    ------
    InputError
        For a file that is not there or holds no profile.
    """
    return None if device.profile is None else _fitted(device, device.profile, written(device.profile))


@lru_cache(maxsize=256)
def _fitted(device: Device, path: str, _written: int) -> FittedTimes:
    profile = KernelProfile.load(path)
    own = profile.device
    home = all(getattr(own, name) == getattr(device, name) for name in ("name", *RATES))
    return FittedTimes(_cold(profile if home else profile.for_device(device)), own.name, profile.scores, home)


def _cold(profile: KernelProfile) -> KernelProfile:
    """The profile as programs see it: between two steps of a layer, keys of all others have passed the cache."""
    kind = DecodeEstimator.kind
    if kind not in profile.estimators:
        return profile
    decode = profile.estimators[kind].for_device(replace(profile.device, cache_capacity=0.0))
    return replace(profile, estimators={**profile.estimators, kind: decode})
