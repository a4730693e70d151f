"""From measured kernels to a profile, scored by cross-validation over shapes and written beside the medians."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware import Device
from ...hardware.errors import InputError
from ...models.estimators.base import KernelEstimator
from ...models.estimators.crossval import cross_validate
from ...models.estimators.profile import ESTIMATORS, HOST_ESTIMATORS, KernelProfile
from .session import Row

LARGE = 256**3  # products from which the error of products is also said


@dataclass(frozen=True)
class Fit:
    """A profile and the measurements behind it.

    Parameters
    ----------
    profile : KernelProfile
        Its scores are of rows that the fit behind them did not see.
    environment : mapping
    rows : sequence of Row
    notes : tuple of str
        What could not be fitted or measured.
    """

    profile: KernelProfile
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    notes: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write profile, environment and medians as one JSON file.

        Raises
        ------
        InputError
            For a file that cannot be written.
        """
        data = {
            **self.profile.to_dict(),
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "measurements": [row.to_dict() for row in self.rows],
        }
        try:
            path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        except OSError as problem:
            raise InputError(f"--out: cannot write {path}: {problem.strerror or problem}") from None


def fit_rows(rows: Sequence[Row], device: Device, environment: Mapping[str, Any]) -> Fit:
    """Fit every kind of kernel that has enough rows, all times at the usual pace of the session.

    Parameters
    ----------
    rows : sequence of Row
    device : Device
    environment : mapping

    Raises
    ------
    InputError
        Where no kind has enough rows.
    """
    forms = HOST_ESTIMATORS if environment["device"] == "cpu" else ESTIMATORS
    reference = usual_reference(rows)
    estimators, scores, notes = {}, {}, []
    for kind, form in forms.items():
        own = [row for row in rows if row.case.kind == kind and row.timing is not None]
        needed = len(form.parameters) + 1
        if len(own) < needed:
            if own:
                notes.append(f"{kind}: {len(own)} kernels measured, {needed} needed: not fitted")
            continue
        X, y = columns(own, reference)
        estimators[kind] = form(device).fit(X, y)
        scores[kind] = _score(estimators[kind], X, y)
    for reason, names in sorted(_unsupported(rows).items()):
        notes.append(f"not supported here: {', '.join(names)}: {reason}")
    if not estimators:
        raise InputError("too few kernels measured to fit any kind (legal: a longer session; --resume goes on)")
    source = {key: environment[key] for key in ("name", "threads", "torch", "date") if key in environment}
    if reference:
        source["reference"] = reference
    return Fit(KernelProfile(device, estimators, scores, source), environment, rows, tuple(notes))


def usual_reference(rows: Sequence[Row]) -> float:
    """Median time of the reference kernel beside the rows [s]; 0 where it did not run."""
    paces = [row.timing.reference for row in rows if row.timing is not None and row.timing.reference]
    return float(f"{np.median(paces):.6g}") if paces else 0.0


def columns(rows: Sequence[Row], reference: float = 0.0) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
    """Shapes of rows of one kind as estimators take them, and times at a pace of the reference kernel [s]."""
    X: dict[str, NDArray[Any]] = {n: np.array([row.case.shape[n] for row in rows]) for n in rows[0].case.shape}
    # Formats have no part in copies, and a device need not have a rate of theirs.
    for name in ("operation", "tool") if rows[0].case.kind == "copy" else ("dtype", "operation", "tool"):
        X[name] = np.array([getattr(row.case, name) for row in rows])
    if rows[0].case.kind == "gemm":
        X["quantise"] = np.zeros(len(rows))  # the operand of a narrow format was made before
    return X, np.array([row.timing.at(reference) for row in rows if row.timing is not None])


def _score(estimator: KernelEstimator, X: Mapping[str, Any], y: NDArray[np.float64]) -> dict[str, Any]:
    """Errors of rows left out, and the medians of large products: by the fit and by the datasheet alone."""
    score, predicted = cross_validate(estimator, X, y)
    more: dict[str, Any] = {}
    if estimator.kind == "gemm":
        large = X["m"].astype(float) * X["n"] * X["k"] >= LARGE
        if large.any():
            medians = (np.median(np.abs(found / y - 1)[large]) for found in (predicted, estimator.roofline(X)))
            names = ("large_median", "large_roofline")
            more = {"large": int(large.sum())} | {n: round(float(v), 4) for n, v in zip(names, medians, strict=True)}
    return score.to_dict() | more


def _unsupported(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Kernels that do not run, by the reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.timing is None:
            name = " ".join(part for part in (row.case.kind, row.case.dtype, row.case.tool) if part)
            names = found.setdefault(row.reason, [])
            names += [name] if name not in names else []
    return found
