"""Fit what a training step makes of device and software stack, to every third row of the training tables.

Two sorts of numbers, none of a row or a model of its own: the share of its isolated speed that a
device's matrix products sustain (one number a device, whatever runs on it), and what a software stack adds
to the counted work (memory passes, launches by the host, speed of its attention and expert kernels).
Run as a script it prints the fit and what it leaves on the other rows; ``--write`` stores it in the
presets.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..models.predict import estimate
from ..models.scenario import Scenario
from .training.case import Case
from .training.rows import parsed
from .training.tables import cases, is_calibration

ROOT = Path(__file__).resolve().parent.parent
FEWEST = 5  # rows left out that say how far a stack's predictions may be off
SOURCE = "fitted by commlens.validation.fit_training to every third row of published training runs"


@dataclass(frozen=True, slots=True)
class Free:
    """A number to fit.

    Parameters
    ----------
    what : str
        "device" or "software".
    names : tuple of str
        Presets that hold it.
    field : str
        Its field; one of a mapping as ``field[key]``.
    start, low, high : float
    """

    what: str
    names: tuple[str, ...]
    field: str
    start: float
    low: float
    high: float

    @property
    def label(self) -> str:
        """How reports call it."""
        return f"{self.names[0]} {self.field}"


def sustained(*names: str) -> Free:
    """Share of isolated speed that products sustain on some devices."""
    return Free("device", names, "sustained", 0.85, 0.3, 1.0)


def software(name: str, field: str, start: float, low: float, high: float) -> Free:
    """A number of a software profile."""
    return Free("software", (name,), field, start, low, high)


# In order: each group is fitted with the numbers of the groups before it held.
GROUPS: tuple[tuple[tuple[str, ...], tuple[Free, ...]], ...] = (
    (
        (
            "mosaic",
            "megatron-2021",
            "korthikanti",
            "internevo",
            "vtrain-single",
            "vtrain-multi",
            "megatron-h100",
            "bridge-dense",
        ),
        (
            sustained("a100-80-sxm", "a100-40-sxm"),
            sustained("h100-sxm", "h200-sxm", "h800-sxm"),
            software("megatron-2021", "passes", 1.3, 1.0, 4.0),
            software("megatron-2021", "host_per_kernel", 7e-5, 0.0, 3e-4),
            software("mosaic-fsdp", "passes", 1.9, 1.0, 4.0),
            software("mosaic-fsdp", "flash_efficiency[default]", 0.45, 0.2, 1.0),
            software("mosaic-fsdp", "flash_efficiency[h100-sxm]", 0.3, 0.15, 1.0),
            software("internevo", "passes", 3.0, 1.0, 4.0),
            software("megatron-core", "passes", 2.0, 1.0, 4.0),
            Free("software", ("megatron-bridge", "megatron-bridge-2025"), "passes", 1.2, 1.0, 4.0),
        ),
    ),
    # A compiler fuses elementwise operators: their traffic is near what is counted.
    (
        ("torchtitan",),
        (
            sustained("h100-96-sxm"),
            Free("software", ("torchtitan-compile", "torchtitan-2025"), "passes", 1.2, 1.0, 1.5),
        ),
    ),
    # Layers this wide keep the device busy for longer than the host takes to launch them: no number of its own.
    (("bloom",), (software("megatron-deepspeed", "passes", 1.5, 1.0, 4.0),)),
    (("bridge-dense",), (sustained("b200"), sustained("gb200"), sustained("gb300", "b300"))),
    (
        ("bridge-moe",),
        (
            software("megatron-bridge", "host_per_kernel", 1e-5, 0.0, 2e-4),
            software("megatron-bridge", "grouped_efficiency", 0.5, 0.1, 1.0),
            software("megatron-bridge-2025", "host_per_kernel", 3e-5, 0.0, 2e-4),
            software("megatron-bridge-2025", "grouped_efficiency", 0.5, 0.1, 1.0),
        ),
    ),
)

Known = dict[Free, float]


def adjusted(scenario: Scenario, values: Mapping[Free, float]) -> Scenario:
    """Scenario with numbers of its device and software replaced."""
    device: Any = scenario.cluster.device
    stack: Any = scenario.software
    for free, value in values.items():
        if free.what == "device" and device.name in free.names:
            device = replace(device, **{free.field: value})
        elif free.what == "software" and stack.name in free.names:
            name, _, key = free.field.partition("[")
            change = {**getattr(stack, name), key.rstrip("]"): value} if key else value
            stack = replace(stack, **{name: change})
    return replace(scenario, cluster=scenario.cluster.replace(device=device), software=stack)


def read(sources: Iterable[str]) -> list[tuple[Case, Scenario]]:
    """Cases of some sources with a measured step and a scenario."""
    wanted = set(sources)
    found = []
    for case in cases():
        if case.source in wanted and case.step_time:
            scenario = parsed(case)
            if isinstance(scenario, Scenario):
                found.append((case, scenario))
    return found


def errors(rows: list[tuple[Case, Scenario]], values: Mapping[Free, float]) -> np.ndarray:
    """Log of predicted over measured time of each row."""
    times = [estimate(adjusted(scenario, values)).time_s for _, scenario in rows]
    measured = [case.step_time or math.nan for case, _ in rows]
    found: np.ndarray = np.log(np.array(times) / np.array(measured))
    return found


def fit(progress: bool = True) -> Known:
    """Fit all groups; robust least squares, every source of a group with equal weight."""
    from scipy.optimize import least_squares

    known: Known = {}
    for sources, free in GROUPS:
        rows = [row for row in read(sources) if is_calibration(row[0])]
        names = {scenario.cluster.device.name for _, scenario in rows} | {
            scenario.software.name for _, scenario in rows
        }
        free = tuple(f for f in free if names & set(f.names))
        rows = [row for row in rows if _concerned(row[1], free)]
        counts = {source: sum(case.source == source for case, _ in rows) for source in sources}
        weight = np.array([counts[case.source] ** -0.5 for case, _ in rows])

        found = least_squares(
            partial(_loss, rows, free, weight, dict(known)),
            [f.start for f in free],
            bounds=([f.low for f in free], [f.high for f in free]),
            x_scale=[max(abs(f.start), 1e-6) for f in free],
            diff_step=0.02,
            loss="soft_l1",
            f_scale=0.03 * float(np.mean(weight)),
            max_nfev=12,
        )
        known |= dict(zip(free, map(float, found.x), strict=True))
        if progress:
            for f, value in zip(free, found.x, strict=True):
                print(f"{f.label:55s} {value:.4g}", flush=True)
    return known


def _loss(
    rows: list[tuple[Case, Scenario]], free: tuple[Free, ...], weight: np.ndarray, known: Known, x: np.ndarray
) -> Any:
    return errors(rows, {**known, **dict(zip(free, x, strict=True))}) * weight


def _concerned(scenario: Scenario, free: Iterable[Free]) -> bool:
    """Whether all that is fitted for its device is, so that a row says something about the rest."""
    return any(scenario.cluster.device.name in f.names for f in free if f.what == "device") or all(
        f.what == "software" for f in free
    )


def report(values: Mapping[Free, float]) -> Iterator[str]:
    """Mean absolute error of every source, fitted rows and others apart."""
    sources = list(dict.fromkeys(source for group, _ in GROUPS for source in group))
    rows = read(sources)
    found = np.abs(np.expm1(errors(rows, values)))
    for source in sources:
        for split in (True, False):
            mine = [
                e
                for (case, _), e in zip(rows, found, strict=True)
                if case.source == source and is_calibration(case) == split
            ]
            if mine:
                name = "fitted to" if split else "left out"
                yield f"{source:20s} {name:10s} {len(mine):4d} rows {np.mean(mine):6.1%}"


def confidence(values: Mapping[Free, float]) -> dict[str, tuple[float, list[str]]]:
    """By software profile, the 90th percentile of the error on rows left out, and the devices they ran on.

    Where fewer than `FEWEST` were left out, of those of all stacks in the same table.
    """
    sources = {source for group, _ in GROUPS for source in group}
    rows = [row for row in read(sources) if not is_calibration(row[0])]
    found = np.abs(np.expm1(errors(rows, values)))
    stacks: dict[str, list[int]] = {}
    for index, (_, scenario) in enumerate(rows):
        stacks.setdefault(scenario.software.name, []).append(index)
    known = {}
    for name, mine in stacks.items():
        tables = {rows[i][0].source for i in mine}
        near = mine if len(mine) >= FEWEST else [i for i, (case, _) in enumerate(rows) if case.source in tables]
        known[name] = (float(np.quantile(found[near], 0.9)), sorted({rows[i][1].cluster.device.name for i in mine}))
    return known


def write(values: Mapping[Free, float]) -> None:
    """Store the numbers in the presets, and for each stack how far its predictions may be off."""
    for name, (error, devices) in confidence(values).items():
        path = ROOT / "models" / "presets" / "software" / f"{name}.yaml"
        text = path.read_text(encoding="utf-8")
        for key, shown in (("error", f"{error:.3g}"), ("calibrated_on", f"[{', '.join(devices)}]")):
            text = _line(text, key, f"{key}: {shown}")
        path.write_text(text, encoding="utf-8")
    for free, value in values.items():
        shown = f"{value:.4g}" if value >= 1e-3 or not value else f"{value:.3e}"
        for name in free.names:
            if free.what == "device":
                path = ROOT / "hardware" / "presets" / "devices" / f"{name}.yaml"
                line = f'{free.field}: {{value: {shown}, source: "{SOURCE}"}}'
            else:
                path = ROOT / "models" / "presets" / "software" / f"{name}.yaml"
                line = f"{free.field}: {shown}"
            text = path.read_text(encoding="utf-8")
            key, _, entry = free.field.partition("[")
            text = _entry(text, key, entry.rstrip("]"), shown) if entry else _line(text, key, line)
            path.write_text(text, encoding="utf-8")


def _line(text: str, key: str, line: str) -> str:
    """Text of a preset with one line set: in its place, else before the sources, else at the end."""
    if re.search(rf"^{key}:", text, re.MULTILINE):
        return re.sub(rf"^{key}:.*$", line, text, flags=re.MULTILINE)
    if "\nsource:" in text:
        return text.replace("\nsource:", f"\n{line}\nsource:", 1)
    return text.rstrip("\n") + f"\n{line}\n"


def _entry(text: str, key: str, entry: str, shown: str) -> str:
    """Text of a profile with one entry of a flow mapping set."""
    found = re.search(rf"^{key}: \{{(.*)\}}$", text, re.MULTILINE)
    entries = dict(part.strip().split(": ") for part in found[1].split(",")) if found else {}
    entries[entry] = shown
    line = f"{key}: {{{', '.join(f'{k}: {v}' for k, v in entries.items())}}}"
    return text.replace(found[0], line) if found else _line(text, key, line)


def main() -> None:
    """Fit, report, and with --write store."""
    values = fit()
    for line in report(values):
        print(line)
    if "--write" in sys.argv[1:]:
        write(values)


if __name__ == "__main__":
    main()
