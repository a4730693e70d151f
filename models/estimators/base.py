"""What every kernel estimator shares: named free numbers, a robust fit to measured times, factors of tools, JSON.

An estimator is a formula of a device's datasheet with a few free numbers. ``__init__`` stores what it is given;
`fit` sets only attributes that end in an underscore; `predict` needs them. All rates are shares of datasheet numbers,
so that a fit to one device predicts another (`for_device`); only fixed latencies are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...hardware import Device
from ...hardware.errors import InputError
from ..products import DTYPE_BYTES

Shapes = Mapping[str, Any]
"""Columns of kernel shapes: numbers, and where a kernel has them the texts `dtype`, `tool` and `operation`."""
Values = Mapping[str, float]

TEXTS = {"dtype": "bf16", "tool": "", "operation": ""}
MOST_STEPS = 200  # of the least squares, per free number
FEWEST_ROWS_OF_A_TOOL = 5  # below, its factor is not fitted
OUTLIER = 3.0  # robust standard deviations of the logarithm
LEAST_OUTLIER = 0.15  # and no row within 15 % is one


@dataclass(frozen=True, slots=True)
class Column:
    """A numeric column of the shapes an estimator takes.

    Parameters
    ----------
    default : float or None
        What stands in where the column is not there; None where it must be.
    least : float
        Smallest legal value.
    """

    default: float | None = None
    least: float = 1.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """One free number of an estimator.

    Parameters
    ----------
    start, low, high : float
        Where the fit begins, and its bounds.
    meaning : str
        What it is, with its unit.
    """

    start: float
    low: float
    high: float
    meaning: str


class NotFittedError(RuntimeError):
    """`predict` before `fit`."""


class KernelEstimator:
    """Base of all estimators; a subclass names its columns and free numbers and has `_seconds` and `_ideal`.

    Parameters
    ----------
    device : Device
        Whose datasheet the rates are shares of.
    softness : float
        Relative error from which a row counts linearly and no longer as its square.
    """

    kind: ClassVar[str]
    form: ClassVar[str] = "device"
    columns: ClassVar[Mapping[str, Column]]
    parameters: ClassVar[Mapping[str, Parameter]]

    values_: dict[str, float]
    fitted_: tuple[str, ...]
    tools_: dict[str, float]
    rows_: int
    outliers_: NDArray[np.int64]

    def __init__(self, device: Device, softness: float = 0.1):
        self.device = device
        self.softness = softness

    def get_params(self) -> dict[str, Any]:
        """What the estimator was made with."""
        return {"device": self.device, "softness": self.softness}

    def fit(self, X: Shapes, y: NDArray[np.float64]) -> Self:
        """Fit the free numbers to measured times.

        Least squares on the logarithm of the times, outliers damped. A number that no row depends on keeps its
        start and is not listed in `fitted_`. With times of several tools, each but the one with most rows has a
        factor of its own.

        Parameters
        ----------
        X : mapping of str to array, of shape (rows,)
            Shapes.
        y : array of float, of shape (rows,)
            Measured times [s].

        Raises
        ------
        InputError
            For columns that are missing or hold what no kernel has, and for times that are not above zero.
        """
        from scipy.optimize import least_squares

        shapes, measured = self._shapes(X), np.asarray(y, dtype=float)
        if measured.shape != shapes["tool"].shape:
            raise InputError(f"y: shape {measured.shape} (legal: {shapes['tool'].shape}, one time per row of X)")
        if not (np.isfinite(measured) & (measured > 0)).all():
            where = int((~(np.isfinite(measured) & (measured > 0))).argmax())
            raise InputError(f"y[{where}]: {measured[where]:g} s (legal: above 0)")
        others = _other_tools(shapes["tool"])
        start = {name: parameter.start for name, parameter in self.parameters.items()}
        free = tuple(name for name in self.parameters if self._matters(name, shapes, start))
        scale = np.array([max(abs(self.parameters[name].start), 0.1 * self.parameters[name].high) for name in free])
        bounds = [
            [self.parameters[n].low for n in free] / scale,
            [self.parameters[n].high for n in free] / scale,
        ]
        logs, marks = np.log(measured), [shapes["tool"] == tool for tool in others]

        def residuals(z: NDArray[np.float64]) -> NDArray[np.float64]:
            values = {**start, **dict(zip(free, z[: len(free)] * scale, strict=True))}
            found = np.log(self._seconds(shapes, values))
            for factor, mark in zip(z[len(free) :], marks, strict=True):
                found = found + np.where(mark, factor, 0.0)
            return np.asarray(found - logs)

        found = least_squares(
            residuals,
            np.concatenate([[start[n] for n in free] / scale, np.zeros(len(others))]),
            bounds=(
                np.concatenate([bounds[0], np.full(len(others), -1.0)]),
                np.concatenate([bounds[1], np.full(len(others), 1.0)]),
            ),
            loss="soft_l1",
            f_scale=self.softness,
            diff_step=1e-3,  # tiles and waves are steps: too small a difference sees none
            max_nfev=MOST_STEPS,
        )
        best = {n: self._rounded(n, z, s) for n, z, s in zip(free, found.x[: len(free)], scale, strict=True)}
        self.values_ = {**start, **best}
        self.fitted_ = free
        self.tools_ = {t: float(f"{np.exp(f):.5g}") for t, f in zip(others, found.x[len(free) :], strict=True)}
        self.rows_ = len(measured)
        off = np.abs(residuals(found.x))
        limit = max(LEAST_OUTLIER, OUTLIER * 1.4826 * float(np.median(off)))
        self.outliers_ = np.flatnonzero(off > limit)
        return self

    def predict(self, X: Shapes) -> NDArray[np.float64]:
        """Times [s], of shape (rows,); as the tool of a row measures where it has a factor, else as the main tool."""
        self._check_fitted()
        shapes = self._shapes(X)
        factors = np.ones(shapes["tool"].shape)
        for tool, factor in self.tools_.items():
            factors = np.where(shapes["tool"] == tool, factor, factors)
        return np.asarray(self._seconds(shapes, self.values_) * factors)

    def roofline(self, X: Shapes) -> NDArray[np.float64]:
        """Times by the datasheet alone: the slower of peak arithmetic and peak bandwidth [s], of shape (rows,)."""
        shapes = self._shapes(X)
        flops, traffic = self._ideal(shapes)
        peak = self._peak(shapes)
        return np.asarray(np.maximum(flops / peak, traffic / self.device.memory_bandwidth))

    def for_device(self, device: Device) -> Self:
        """The same fit on the datasheet of another device."""
        self._check_fitted()
        other = type(self)(**{**self.get_params(), "device": device})
        other.values_, other.fitted_, other.tools_ = dict(self.values_), self.fitted_, dict(self.tools_)
        other.rows_, other.outliers_ = self.rows_, self.outliers_
        return other

    def to_dict(self) -> dict[str, Any]:
        """What was fitted, as JSON holds it; the device is named by its profile."""
        self._check_fitted()
        form = {} if self.form == KernelEstimator.form else {"form": self.form}
        return {
            **form,
            "softness": self.softness,
            "values": {n: {"value": v, "meaning": self.parameters[n].meaning} for n, v in self.values_.items()},
            "fitted": list(self.fitted_),
            "tools": dict(self.tools_),
            "rows": self.rows_,
            "outliers": [int(i) for i in self.outliers_],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], device: Device) -> Self:
        """The estimator that `to_dict` wrote.

        Raises
        ------
        InputError
            For numbers that are missing, unknown, or outside their bounds.
        """
        values = data.get("values", {})
        for name in sorted(set(values) ^ set(cls.parameters)):
            what = "missing" if name in cls.parameters else "unknown"
            raise InputError(f"{cls.kind}.values.{name}: {what} (legal: {', '.join(cls.parameters)})")
        made = cls(device, number(f"{cls.kind}.softness", data["softness"], 1e-6, 1e6))
        made.values_ = {
            name: number(f"{cls.kind}.values.{name}", values[name]["value"], parameter.low, parameter.high)
            for name, parameter in cls.parameters.items()
        }
        made.fitted_ = tuple(data["fitted"])
        made.tools_ = {
            tool: number(f"{cls.kind}.tools.{tool}", factor, 1e-3, 1e3) for tool, factor in data["tools"].items()
        }
        made.rows_ = int(data["rows"])
        made.outliers_ = np.asarray(data["outliers"], dtype=np.int64)
        return made

    def _seconds(self, shapes: Shapes, values: Values) -> NDArray[np.float64]:
        """The formula [s]."""
        raise NotImplementedError

    def _ideal(self, shapes: Shapes) -> tuple[Any, Any]:
        """Least arithmetic [FLOP] and traffic [B]."""
        raise NotImplementedError

    def _check_fitted(self) -> None:
        if not hasattr(self, "values_"):
            raise NotFittedError(f"{type(self).__name__}: call fit first")

    def _rounded(self, name: str, z: float, scale: float) -> float:
        """A number as found, in digits that mean something: six, and nothing for less than a millionth of its scale."""
        parameter = self.parameters[name]
        return min(max(float(f"{round(z, 6) * scale:.6g}"), parameter.low), parameter.high)

    def _matters(self, name: str, shapes: Shapes, start: Values) -> bool:
        """Whether any row's time depends on a number."""
        ends = (self.parameters[name].low, self.parameters[name].high)
        low, high = (self._seconds(shapes, {**start, name: end}) for end in ends)
        return bool((np.abs(high / low - 1) > 1e-9).any())

    def _shapes(self, X: Shapes) -> dict[str, NDArray[Any]]:
        """Columns as arrays of one length, checked."""
        found: dict[str, NDArray[Any]] = {}
        for name, column in self.columns.items():
            if name not in X and column.default is None:
                raise InputError(f"{self.kind}: no column {name} (legal: {', '.join(self.columns)})")
            try:
                found[name] = np.atleast_1d(np.asarray(X.get(name, column.default), dtype=float))
            except (TypeError, ValueError):
                raise InputError(f"{self.kind}.{name}: {X[name]!r} (legal: numbers)") from None
        for name, text in TEXTS.items():
            found[name] = np.atleast_1d(np.asarray(X.get(name, text), dtype=str))
        try:
            arrays = dict(zip(found, np.broadcast_arrays(*found.values()), strict=True))
        except ValueError:
            sizes = ", ".join(f"{name} {array.shape}" for name, array in found.items() if array.size > 1)
            raise InputError(f"{self.kind}: columns of unlike lengths: {sizes} (legal: one length)") from None
        for name, column in self.columns.items():
            bad = ~(np.isfinite(arrays[name]) & (arrays[name] >= column.least))
            if bad.any():
                where = int(bad.argmax())
                value = arrays[name][where]
                raise InputError(f"{self.kind}.{name}[{where}]: {value:g} (legal: {column.least:g} or more)")
        for dtype in sorted(set(arrays["dtype"].tolist())):
            if dtype not in DTYPE_BYTES:
                legal = ", ".join(sorted(set(DTYPE_BYTES) & set(self.device.peak_flops)))
                raise InputError(f"{self.kind}.dtype: {dtype!r} (legal: {legal})")
            self.device.flops(dtype)
        return arrays

    def _peak(self, shapes: Shapes) -> NDArray[np.float64]:
        """Datasheet peak of every row's dtype [FLOP/s]."""
        return np.array([self.device.flops(dtype) for dtype in shapes["dtype"].tolist()])


def number(where: str, value: Any, low: float, high: float) -> float:
    """A number of a file, or InputError where it is none or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{where}: {value!r:.60} (legal: {low:g} to {high:g})")
    return float(value)


def element_bytes(shapes: Shapes) -> NDArray[np.float64]:
    """Bytes of an element of every row's dtype."""
    return np.array([float(DTYPE_BYTES[dtype]) for dtype in shapes["dtype"].tolist()])


def any_dtype(device: Device) -> str:
    """Some number format of a device, for kernels in which formats have no part."""
    return next(dtype for dtype in device.peak_flops if dtype in DTYPE_BYTES)


def blend(sharpness: float, *terms: Any) -> Any:
    """The largest of some times, or a little more where two are close: their norm of order `sharpness`."""
    largest = terms[0]
    for term in terms[1:]:
        largest = np.maximum(largest, term)
    if np.isinf(sharpness):
        return largest
    return largest * sum((term / largest) ** sharpness for term in terms) ** (1 / sharpness)


def _other_tools(tools: NDArray[Any]) -> list[str]:
    """Tools that have a factor: all with enough rows but the one with most."""
    names, counts = np.unique(tools, return_counts=True)
    main = names[counts.argmax()]
    return [str(n) for n, c in zip(names, counts, strict=True) if n != main and c >= FEWEST_ROWS_OF_A_TOOL]
