"""How many measurements that no fit saw lie inside the 90 % intervals of predictions, and how wide these are.

``COMMLENS_MEASURED=<folder> python -m commlens.validation.intervals`` prints the table. Beside every group stands one
width for all, of the rows that the spreads of the group are from: an interval is worth having where it holds as
many rows and is narrower.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..models.predict import estimate
from ..models.scenario import Scenario
from ..models.spread import LEVEL, Z, spread
from ..models.study import compare
from ..models.uncertainty import preset
from . import fit_errors, ladder
from .claims import MEASURED, read_claims
from .fit_errors import Errors, Sort
from .training.rows import parsed
from .training.tables import cases, is_calibration

if TYPE_CHECKING:
    import pandas as pd

Setting = tuple[Any, ...]

LADDER = ("torch-compile", "dense")  # stack and sort of model of its benchmark
COLUMNS = ("of", "group", "rows", "inside", "width", "score", "inside, one width", "one width", "its score")
KERNELS, COLLECTIVES, STEPS = "kernels", "collectives", "steps"
PROFILED, RUNS, SPEEDUPS = "steps, kernels by a profile", "ladder: whole runs", "ladder: speed-ups"


@dataclass(frozen=True, slots=True)
class Held:
    """A measurement that no fit saw, beside its interval; all numbers are logarithms of times over the predicted one.

    Parameters
    ----------
    of, group : str
    error : float
        Measured.
    low, high : float
        Ends of the interval.
    pooled : float
        Half of one width for all.
    """

    of: str
    group: str
    error: float
    low: float
    high: float
    pooled: float


def kernels(folder: str) -> Iterator[Held]:
    """Kernel times in cross-validation; the spread of a fold's rows is that of the other folds."""
    errors = fit_errors.kernel_errors(fit_errors.kernel_rows(folder))
    everything = Z * spread(np.concatenate([off for off, _ in errors.values()]))
    for (device, kind), (off, fold) in errors.items():
        for held in sorted(set(fold.tolist())):
            half = Z * spread(off[fold != held])
            for error in off[fold == held].tolist():
                yield Held(KERNELS, f"{device} {kind}", error, -half, half, everything)


def collectives() -> Iterator[Held]:
    """Collective times, inside a node and between nodes."""
    seen, held = fit_errors.link_errors(), fit_errors.link_errors(calibration=False)
    everything = Z * spread(np.concatenate([*seen.values()]))
    for (name, size), spreads in ((key, fit_errors.link_spreads(seen)[key[0]]) for key in held):
        for error in held[name, size].tolist():
            half = Z * spreads[size]
            yield Held(COLLECTIVES, f"{name}, {size}", error, -half, half, everything)
    for error in fit_errors.network_errors(calibration=False).tolist():
        half = Z * preset()["links"]
        yield Held(COLLECTIVES, "between nodes", error, -half, half, everything)


def steps(seen: Mapping[Sort, Errors], profiled: bool = False) -> Iterator[Held]:
    """Training steps on rows held out, where the prediction has an interval.

    Parameters
    ----------
    seen : mapping
        Errors on calibration rows, by stack and sort of model.
    profiled : bool
        Whether kernels take the times of the device's profile instead of the preset's formulas.
    """
    everything = Z * spread(np.concatenate([errors for sort, errors in seen.items() if sort != LADDER]))
    for case in cases():
        known = parsed(case) if case.step_time and not case.doubt and not is_calibration(case) else ""
        scenario = known if isinstance(known, Scenario) else None
        if scenario is not None and profiled:
            scenario = fit_errors.by_profile(scenario)
        if scenario is None or not case.step_time:
            continue
        result = estimate(scenario)
        if result.interval_s is not None and scenario.cluster.device.name in scenario.software.calibrated_on:
            low, high = (float(np.log(end / result.time_s)) for end in result.interval_s)
            off = float(np.log(case.step_time / result.time_s))
            yield Held(PROFILED if profiled else STEPS, case.source, off, low, high, everything)


def runs(seen: Mapping[Sort, Errors]) -> Iterator[Held]:
    """Whole runs of Ladder residual's benchmark, and speed-ups over their baselines, paired.

    Phases of the baseline and without communication were fitted to; of the other techniques nothing was. One width of
    speed-ups is that of two unpaired times.
    """
    rates: dict[Setting, dict[str, float]] = {}
    for claim in read_claims("ladder_residual"):
        config = ladder.parse(claim)
        if config and claim["metric"] == "end-to-end throughput":
            setting = tuple(config[key] for key in ("model", "tp", "batch", "p2p", "prompt", "new"))
            rates.setdefault(setting, {})[config["technique"]] = float(claim["reported"])
    one = Z * spread(seen[LADDER])
    for (model, tp, batch, p2p, prompt, new), measured in rates.items():
        data = ladder.scenario_data(model, tp, batch, p2p, "baseline", prompt, new)
        frame = compare(Scenario.from_dict(data), list(measured), engine="estimate")
        for technique, rate in measured.items():
            row = frame.loc[technique]
            low, high = (float(np.log(end / row["time_s"])) for end in row["interval_s"])
            yield Held(RUNS, technique, float(np.log(row["tokens_per_second"] / rate)), low, high, one)
            if technique != "baseline" and "baseline" in measured:
                low, high = (float(np.log(row[end] / row["speedup"])) for end in ("speedup_low", "speedup_high"))
                off = float(np.log(rate / measured["baseline"] / row["speedup"]))
                yield Held(SPEEDUPS, technique, off, low, high, float(np.sqrt(2)) * one)


def table(rows: Iterable[Held]) -> pd.DataFrame:
    """Rows inside and widths by group, and over all groups of a sort.

    Returns
    -------
    pandas.DataFrame
        of, group, rows, inside (share), width (median of high - low, as a logarithm), score (mean of the interval
        score, Gneiting and Raftery 2007: width and, of a row outside, 20 times how far; less is better), and the
        same for one width.
    """
    import pandas as pd

    found: dict[tuple[str, str], list[Held]] = {}
    for row in rows:
        for group in (row.group, "all"):
            found.setdefault((row.of, group), []).append(row)
    kinds = list(dict.fromkeys(of for of, _ in found))
    order = sorted(found, key=lambda key: (kinds.index(key[0]), key[1] == "all"))
    lines = [(*key, len(found[key]), *_summary(found[key])) for key in order]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _summary(rows: list[Held]) -> tuple[float, ...]:
    error, low, high, pooled = (
        np.array([getattr(row, name) for row in rows]) for name in ("error", "low", "high", "pooled")
    )
    return (*_counted(error, low, high), *_counted(error, -pooled, pooled))


def _counted(error: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[float, ...]:
    """Share inside, median width, mean interval score."""
    beyond = np.maximum(low - error, 0.0) + np.maximum(error - high, 0.0)
    score = high - low + 2 / (1 - LEVEL) * beyond
    return float((beyond == 0).mean()), float(np.median(high - low)), float(score.mean())


def held_rows(folder: str) -> Iterator[Held]:
    """All measurements that intervals are held against."""
    yield from kernels(folder)
    yield from collectives()
    seen = fit_errors.stack_errors()
    yield from steps(seen)
    yield from steps(seen, profiled=True)
    yield from runs(seen)


def main() -> None:
    """Print the table."""
    folder = os.environ.get(MEASURED)
    if not folder:
        raise SystemExit(f"set {MEASURED} to the folder that holds the measured tables")
    percent = {name: "{:.1%}".format for name in ("inside", "inside, one width")}
    plain = {name: "{:.3f}".format for name in ("width", "score", "one width", "its score")}
    print(table(held_rows(folder)).to_string(index=False, formatters={**percent, **plain}))


if __name__ == "__main__":
    main()
