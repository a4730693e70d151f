"""From measured kernels to a profile: fit what may be seen, score what was held out, write both beside the medians."""

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
from ...models.estimators.crossval import nearest_times
from ...models.estimators.profile import ESTIMATORS, HOST_ESTIMATORS, KernelProfile
from .session import Row

LARGE = 256**3  # products from which the error of products is also said


@dataclass(frozen=True)
class Fit:
    """A profile and the measurements behind it.

    Parameters
    ----------
    profile : KernelProfile
        Its scores are of the rows held out.
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
            "measurements": [{**row.to_dict(), "held_out": row.case.held_out} for row in self.rows],
        }
        try:
            path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        except OSError as problem:
            raise InputError(f"--out: cannot write {path}: {problem.strerror or problem}") from None


def fit_rows(rows: Sequence[Row], device: Device, environment: Mapping[str, Any]) -> Fit:
    """Fit every kind of kernel that has enough rows.

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
    estimators, scores, notes = {}, {}, []
    for kind, form in forms.items():
        own = [row for row in rows if row.case.kind == kind and row.timing is not None]
        known = sum(not row.case.held_out for row in own)
        if known < len(form.parameters):
            if own:
                notes.append(f"{kind}: {known} kernels measured, {len(form.parameters)} needed: not fitted")
            continue
        X, y = columns(own)
        held = np.array([row.case.held_out for row in own])
        estimator = form(device).fit(_some(X, ~held), y[~held])
        estimators[kind] = estimator
        scores[kind] = _score(estimator, X, y, held)
    for reason, names in sorted(_unsupported(rows).items()):
        notes.append(f"not supported here: {', '.join(names)}: {reason}")
    if not estimators:
        raise InputError("too few kernels measured to fit any kind (legal: a longer session; --resume goes on)")
    source = {key: environment[key] for key in ("name", "threads", "torch", "date") if key in environment}
    return Fit(KernelProfile(device, estimators, scores, source), environment, rows, tuple(notes))


def columns(rows: Sequence[Row]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
    """Shapes of rows of one kind as estimators take them, and times [s]."""
    X: dict[str, NDArray[Any]] = {n: np.array([row.case.shape[n] for row in rows]) for n in rows[0].case.shape}
    for name in ("dtype", "operation", "tool"):
        X[name] = np.array([getattr(row.case, name) for row in rows])
    if rows[0].case.kind == "gemm":
        X["quantise"] = np.zeros(len(rows))  # the operand of a narrow format was made before
    return X, np.array([row.timing.seconds for row in rows if row.timing is not None])


def _score(estimator: Any, X: Mapping[str, Any], y: NDArray[np.float64], held: NDArray[np.bool_]) -> dict[str, Any]:
    """Errors on rows the fit saw and on those it did not, beside the datasheet's and the nearest row's."""
    found = np.abs(estimator.predict(X) / y - 1)
    roofline = np.abs(estimator.roofline(X) / y - 1)
    score: dict[str, Any] = {
        "rows": len(y),
        "held_out": int(held.sum()),
        "parameters": len(estimator.fitted_) + len(estimator.tools_),
        "fitted": _rounded(found[~held].mean()),
    }
    if held.any():
        nearest = np.abs(nearest_times(estimator, X, y, ~held, held) / y[held] - 1)
        score |= {
            "mean": _rounded(found[held].mean()),
            "median": _rounded(np.median(found[held])),
            "roofline": _rounded(roofline[held].mean()),
            "roofline_median": _rounded(np.median(roofline[held])),
            "nearest": _rounded(nearest.mean()),
        }
    if estimator.kind == "gemm":
        large = held & (X["m"].astype(float) * X["n"] * X["k"] >= LARGE)
        if large.any():
            score |= {"large": int(large.sum()), "large_median": _rounded(np.median(found[large]))}
    return score


def _unsupported(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Kernels that do not run, by the reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.timing is None:
            name = " ".join(part for part in (row.case.kind, row.case.dtype, row.case.tool) if part)
            names = found.setdefault(row.reason, [])
            names += [name] if name not in names else []
    return found


def _some(X: Mapping[str, Any], mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    return {name: column[mask] for name, column in X.items()}


def _rounded(value: Any) -> float:
    return round(float(value), 4)
