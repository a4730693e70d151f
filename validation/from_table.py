"""Profiles of kernels from a published table of their times.

``COMMLENS_MEASURED=<folder> python -m commlens.validation.from_table`` fits every shipped profile anew; with
``--table`` and ``--device``, one of any table with the same columns.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware import Device, load_device
from ..hardware.errors import InputError
from ..models.estimators.crossval import cross_validate
from ..models.estimators.profile import ESTIMATORS, MEASURED, KernelProfile
from .claims import MEASURED as MEASURED_FOLDER

TABLE = "kernels_measured.csv"
SHIPPED = {"a100-80-sxm": "kernels-a100.json", "h100-sxm": "kernels-h100.json"}
COLUMNS = (
    "kernel", "gpu", "dtype", "m", "n", "k", "batch", "seq_q", "seq_kv", "heads", "kv_heads", "head_dim",
    "extra", "time_us", "tool", "source",
)  # fmt: skip
# Names of parts in tables where a preset has another one.
GPUS = {
    "a100-sxm": "a100-80-sxm", "a100-80gb-sxm": "a100-80-sxm", "a100-pcie": "a100-80-pcie", "h100": "h100-sxm",
    "h200": "h200-sxm", "h20": "h20-sxm", "gh200-sxm": "gh200", "b200-sxm": "b200", "b300-sxm": "b300",
}  # fmt: skip
# What tables call kernels: kind, and operation where a kind has several.
KERNELS = {
    "gemm": ("gemm", ""),
    "moe grouped gemm": ("grouped_gemm", ""),
    "attention prefill causal fwd": ("attention_prefill", ""),
    "attention decode": ("attention_decode", ""),
    "add": ("streaming", "add"),
    "mlp_act": ("streaming", "activation"),
    "input_layernorm": ("streaming", "norm"),
    "post_attention_layernorm": ("streaming", "norm"),
}
EXTRAS = {"topk": "topk", "experts": "experts", "moe_tp": "tp", "moe_ep": "ep"}
POWER_LAW = "power_law_"
MOST = 1e12  # of any number of a row
FAR = 3.0  # times farther from the best fit, in the middle, are not of this device, or not in microseconds


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind: shapes, times and where they stand.

    Parameters
    ----------
    shapes : mapping of str to array, of shape (rows,)
    seconds : array of float, of shape (rows,)
    lines : tuple of int
        Lines of the table.
    """

    shapes: Mapping[str, NDArray[Any]]
    seconds: NDArray[np.float64]
    lines: tuple[int, ...]


def device_of(gpu: str) -> str:
    """Preset name of what a table calls a part."""
    name = gpu.lower().strip().removeprefix("nvidia ").replace(" ", "-")
    return GPUS.get(name, name)


def read_table(path: str | Path, device: str) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Rows of a device by kind, and where they come from.

    Parameters
    ----------
    path : str or Path
        CSV with the columns of `COLUMNS`; those of a kernel's shape are filled, others empty.
    device : str
        Preset name.

    Raises
    ------
    InputError
        For a file that cannot be read, columns that are missing, a device without rows, and a row whose time or
        shape is no number above zero (its line is named).
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                raise InputError(f"{path}: no column {', '.join(missing)} (legal: {', '.join(COLUMNS)})")
            table = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {why} (legal: a CSV file of kernel times)") from None
    own = [(line, row) for line, row in table if row["gpu"] and device_of(row["gpu"]) == device]
    used = [(line, row) for line, row in own if row["kernel"] in KERNELS]
    for line, row in used:
        if None in row or None in row.values():
            raise InputError(f"{path}:{line}: not as many fields as names (legal: {len(names)})")
    if not used:
        there = sorted({device_of(row["gpu"]) for _, row in table if row["gpu"] and row["kernel"] in KERNELS})
        raise InputError(f"{path}: no rows of {device} (legal: {', '.join(there) or 'none in this table'})")
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for line, row in used:
        kind, operation = KERNELS[row["kernel"]]
        found.setdefault(kind, []).append((line, _shape(f"{path}:{line}", row, kind, operation)))
    source = {
        "table": Path(path).name,
        "sources": dict(sorted(Counter(row["source"] for _, row in used).items())),
        "tools": dict(sorted(Counter(row["tool"] for _, row in used).items())),
        "kernels_not_fitted": dict(sorted(Counter(r["kernel"] for _, r in own if r["kernel"] not in KERNELS).items())),
    }
    return {kind: _columns(found[kind]) for kind in ESTIMATORS if kind in found}, source


def fit_table(path: str | Path, device: str | Device) -> KernelProfile:
    """Profile of a device from a table, every kind of kernel with enough shapes fitted and cross-validated.

    A kind with fewer shapes than its estimator has numbers is left out, and the profile's source says so.

    Parameters
    ----------
    path : str or Path
    device : str or Device
        Preset name, as rows of the table are looked up by it.

    Raises
    ------
    InputError
        As `read_table`; for a device that is not shipped, where no kind has enough shapes, and for times that no kernel
        of the device takes, as in other units.
    """
    preset = load_device(device)
    rows, source = read_table(path, preset.name)
    counts = {kind: _shapes(own) for kind, own in rows.items()}
    few = {kind: count for kind, count in counts.items() if count < len(ESTIMATORS[kind].parameters)}
    if len(few) == len(rows):
        needs = ", ".join(f"{kind} {len(ESTIMATORS[kind].parameters)}" for kind in few)
        raise InputError(f"{path}: too few shapes of {preset.name} to fit (legal: at least {needs})")
    estimators, scores = {}, {}
    for kind, own in rows.items():
        if kind in few:
            continue
        for line, dtype in zip(own.lines, own.shapes["dtype"].tolist(), strict=True):
            if dtype not in preset.peak_flops:
                raise InputError(f"{path}:{line}: dtype {dtype!r} (legal: {', '.join(sorted(preset.peak_flops))})")
        estimator = ESTIMATORS[kind](preset)
        try:
            estimators[kind] = estimator.fit(own.shapes, own.seconds)
            score, seconds = cross_validate(estimator, own.shapes, own.seconds)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        off = float(np.exp(np.median(np.log(own.seconds / seconds))))
        if not 1 / FAR < off < FAR:
            legal = f"legal: microseconds on {preset.name}"
            raise InputError(f"{path}: {kind}: times are {off:.3g} times those of the best fit ({legal})")
        scores[kind] = score.to_dict()
    return KernelProfile(preset, estimators, scores, {**source, "too_few_rows": few})


def report(path: str | Path, profile: KernelProfile) -> str:
    """What a fit found: errors, free numbers, factors of tools, and the lines of the table that are outliers."""
    rows, _ = read_table(path, profile.device.name)
    lines = [f"{profile.device.name}"]
    for kind, estimator in profile.estimators.items():
        score, own = profile.scores[kind], rows[kind]
        lines.append(
            f"  {kind}: {score['rows']} rows, {score['parameters']} numbers; cross-validated mean {score['mean']:.1%}, "
            f"median {score['median']:.1%} (fitted {score['fitted']:.1%}; datasheet {score['roofline']:.1%}, "
            f"nearest row {score['nearest']:.1%})"
        )
        lines += [f"    {name}: {error:.1%}" for name, error in score["by"].items()]
        lines += [f"    {n} = {estimator.values_[n]:.4g}: {estimator.parameters[n].meaning}" for n in estimator.fitted_]
        idle = [name for name in estimator.parameters if name not in estimator.fitted_]
        lines += [f"    not seen in these rows, so as assumed: {', '.join(idle)}"] if idle else []
        lines += [f"    tool {tool}: times x {factor:.3f}" for tool, factor in estimator.tools_.items()]
        ratio = own.seconds / estimator.predict(own.shapes)
        shown = ", ".join(f"line {own.lines[i]} (x {ratio[i]:.2f})" for i in estimator.outliers_)
        lines += [f"    outliers, measured over fitted: {shown}"] if shown else []
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit profiles and write them; 0, or 2 after one line on what is wrong with the input."""
    folder = os.environ.get(MEASURED_FOLDER)
    parser = argparse.ArgumentParser(prog="python -m commlens.validation.from_table", description=fit_table.__doc__)
    parser.add_argument("--table", default=str(Path(folder) / TABLE) if folder else None, help="CSV of kernel times")
    parser.add_argument("--device", action="append", help="preset name; default every shipped profile's")
    parser.add_argument("--output", default=str(MEASURED), help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        if options.table is None:
            raise InputError(
                f"--table: none given (legal: a CSV file, or {MEASURED_FOLDER} set to the folder of {TABLE})"
            )
        for device in options.device or SHIPPED:
            profile = fit_table(options.table, device)
            name = profile.device.name
            target = Path(options.output) / SHIPPED.get(name, f"kernels-{name}.json")
            profile.save(target)
            print(report(options.table, profile))
            print(f"  written to {target}")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _shape(where: str, row: Mapping[str, str], kind: str, operation: str) -> dict[str, Any]:
    """Columns of a row as its estimator takes them, and its time."""
    shape: dict[str, Any] = {"dtype": row["dtype"], "tool": row["tool"], "operation": operation}
    shape["seconds"] = 1e-6 * _number(where, "time_us", row["time_us"])
    extras = dict(part.split("=", 1) for part in (row["extra"] or "").split(";") if "=" in part)
    given = {**row, **{ours: extras.get(theirs) for theirs, ours in EXTRAS.items()}}
    for name, column in ESTIMATORS[kind].columns.items():
        if given.get(name):
            shape[name] = _number(where, name, str(given[name]), column.least)
        elif column.default is None:
            raise InputError(f"{where}: {name} is empty (legal: a number above 0)")
        else:
            shape[name] = column.default
    if kind == "grouped_gemm":
        loads = extras.get("dist", "balanced")
        shape["exponent"] = 0.0
        if loads.startswith(POWER_LAW):
            shape["exponent"] = _number(where, "extra dist", loads.removeprefix(POWER_LAW))
        elif loads != "balanced":
            raise InputError(f"{where}: extra dist {loads!r} (legal: balanced, {POWER_LAW}<exponent>)")
        shape["gated"] = 0.0 if "nongated" in extras.get("src", "") else 1.0
    return shape


def _number(where: str, name: str, text: str, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (0 < value <= MOST and value >= least):
        legal = f"{least:g} or more" if value > 0 and least else "a number above 0"
        raise InputError(f"{where}: {name} {text!r} (legal: {legal}, at most {MOST:g})")
    return value


def _shapes(rows: Rows) -> int:
    """How many shapes there are, whatever timed them."""
    return len(set(zip(*(column.tolist() for name, column in rows.shapes.items() if name != "tool"), strict=True)))


def _columns(rows: Sequence[tuple[int, dict[str, Any]]]) -> Rows:
    """Rows of one kind as columns."""
    names = [name for name in rows[0][1] if name != "seconds"]
    shapes = {name: np.array([row[name] for _, row in rows]) for name in names}
    return Rows(shapes, np.array([row["seconds"] for _, row in rows]), tuple(line for line, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
