"""From measured collectives to a profile of `CollectiveEstimator`, scored on sizes that the fit never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware import Device
from ...hardware.errors import InputError
from ...models.estimators import CollectiveEstimator, KernelProfile, cross_validate
from ...models.estimators.collectives import COLLECTIVES
from ..logs.sample import Sample
from .environment import cores, cuda_device, gpu_device, host_device
from .probe import copy_rate, fastest_product, launch_seconds
from .timing import CudaTimer, HostTimer

LARGE = 2**20  # bytes from which the error is also said


def check_sizes(sizes: Sequence[float]) -> None:
    """Refuse sizes that are too few to fit to, before anything is measured.

    Raises
    ------
    InputError
        For fewer samples than numbers of the kinds.
    """
    least = _least(len(COLLECTIVES))
    if len(sizes) * len(COLLECTIVES) < least:
        raise InputError(f"--sizes: {len(sizes)} (legal: {-(-least // len(COLLECTIVES))} or more, to fit to)")


def fit_samples(samples: Sequence[Sample], device: Device) -> KernelProfile:
    """Latencies and rates by kind.

    Parameters
    ----------
    samples : sequence of Sample
    device : Device
        Host or GPU they were measured on.

    Raises
    ------
    InputError
        For fewer samples than numbers of the kinds that are there.
    """
    used = [sample for sample in samples if sample.kind in COLLECTIVES]
    least = _least(len({sample.kind for sample in used}))
    if len(used) < least:
        raise InputError(f"collectives: {len(used)} samples (legal: {least} or more of these kinds)")
    X, y = columns(used)
    estimator = CollectiveEstimator(device)
    score, predicted = cross_validate(estimator, X, y)
    large = X["size"] >= LARGE
    more: dict[str, Any] = {}
    if large.any():
        error = np.abs(predicted / y - 1)[large]
        more = {"large": int(large.sum()), "large_median": round(float(np.median(error)), 4)}
    source = {"samples": len(used), "of": sorted({sample.source for sample in used})}
    return KernelProfile(
        device, {estimator.kind: estimator.fit(X, y)}, {estimator.kind: score.to_dict() | more}, source
    )


def _least(kinds: int) -> int:
    """Samples that a fit of some kinds needs: numbers of each, and what they share."""
    return max(2 * kinds + 3, 5)


def columns(samples: Sequence[Sample]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
    """Samples as the estimator takes them, and times [s]."""
    X: dict[str, NDArray[Any]] = {
        "size": np.array([sample.size for sample in samples]),
        "ranks": np.array([float(sample.ranks) for sample in samples]),
        "operation": np.array([sample.kind for sample in samples]),
    }
    return X, np.array([sample.time for sample in samples])


def device_of(backend: str) -> Device:
    """Datasheet of what the ranks ran on: the GPU, or this host with all its cores."""
    if backend == "nccl":
        timer = CudaTimer()
        return cuda_device() or gpu_device(
            {"fp32": fastest_product("cuda", "fp32", timer, (2048,))},
            copy_rate("cuda", timer),
            launch_seconds("cuda", timer),
        )
    return host_device(cores(), {"fp32": 0.0}, copy_rate("cpu", HostTimer(cores(), 0.2)), 5e-6)


def save(profile: KernelProfile, log: Path, path: Path) -> None:
    """Write a profile, with environment and raw results of its session.

    Raises
    ------
    InputError
        For a file that cannot be written.
    """
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # cut short while it was written
    data = {**profile.to_dict(), "environment": lines[0]["environment"], "measurements": lines[1:]}
    try:
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as problem:
        raise InputError(f"--out: cannot write {path}: {problem.strerror or problem}") from None
