"""Spreads of errors, from the rows that models were fitted to, or for kernels from cross-validation.

``COMMLENS_MEASURED=<folder> python -m commlens.validation.fit_errors [--write]`` prints them; ``--write`` stores each
with what it is of: software stacks, profiles of links and of kernels, and the preset of what was not measured itself.
Rows held out from all fits are left for `commlens.validation.intervals`, which counts how many lie inside.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware import load_cluster
from ..hardware.profile import LARGE, SMALL
from ..hardware.sources import PRESETS
from ..models.estimators.crossval import cross_validate
from ..models.estimators.profile import MEASURED, KernelProfile
from ..models.predict import estimate, technique_of
from ..models.scenario import Scenario
from ..models.software import PRESETS as STACKS
from ..models.software import load_software
from ..models.spread import spread
from ..models.techniques import BASELINE
from ..models.uncertainty import PRESET, sort_of
from . import fit_ladder
from .claims import MEASURED as MEASURED_FOLDER
from .claims import read_measured
from .collectives import is_calibration as fitted_collective
from .collectives import nodes_of, predicted
from .fit_fabrics import FAMILIES, samples
from .fit_profile import predict
from .from_table import SHIPPED, TABLE, Rows, read_table
from .profile_file import SPREAD
from .sizes import size_class
from .training.rows import parsed
from .training.tables import cases, is_calibration

Errors = NDArray[np.float64]
Sort = tuple[str, str]
SORTS = ("dense", "mixture")
STACK_SOURCE = "spread of errors on the rows fitted to, by commlens.validation.fit_errors"


def stack_errors() -> dict[Sort, Errors]:
    """Log of measured over predicted time of whole steps, by software stack and sort of model, on calibration rows."""
    found: dict[Sort, list[float]] = {}
    for scenario, seconds in calibration_steps():
        off = float(np.log(seconds / estimate(scenario).time_s))
        found.setdefault((scenario.software.name, sort_of(scenario.model)), []).append(off)
    for row in fit_ladder.observations():
        off = float(np.log(row.seconds / fit_ladder.predicted(row, row.scenario.software)))
        found.setdefault((row.scenario.software.name, sort_of(row.scenario.model)), []).append(off)
    return {sort: np.array(errors) for sort, errors in found.items()}


def calibration_steps() -> Iterator[tuple[Scenario, float]]:
    """Training steps that stacks were fitted to, and their measured times [s]."""
    for case in cases():
        scenario = parsed(case) if case.step_time and is_calibration(case) else ""
        if isinstance(scenario, Scenario) and case.step_time:
            yield scenario, case.step_time


def profile_changes() -> Errors:
    """Log of a calibration row's predicted time with the kernels of its device's profile over that without."""
    pairs = [(scenario, by_profile(scenario)) for scenario, _ in calibration_steps()]
    return np.log([estimate(other).time_s / estimate(one).time_s for one, other in pairs if other is not None])


def by_profile(scenario: Scenario) -> Scenario | None:
    """The scenario with kernels by the shipped profile of its device; None where there is none."""
    device = scenario.cluster.device
    if device.name not in SHIPPED:
        return None
    device = replace(device, profile=SHIPPED[device.name].removesuffix(".json"))
    return replace(scenario, cluster=scenario.cluster.replace(device=device))


def technique_errors() -> Errors:
    """Log of measured over predicted, of times without communication over the baseline's, where peers reach each other.

    Pairs of Ladder residual's calibration rows; of others the source does not give the adapters that traffic takes.
    """
    pairs: dict[tuple[str, str], dict[str, float]] = {}
    for row in fit_ladder.observations():
        if row.scenario.cluster.p2p:
            off = float(np.log(row.seconds / fit_ladder.predicted(row, row.scenario.software)))
            setting = {key: value for key, value in row.scenario.data.items() if key != "techniques"}
            key = (json.dumps(setting, sort_keys=True), row.phase)
            pairs.setdefault(key, {})[technique_of(row.scenario).label] = off
    return np.array([pair["no_communication"] - pair[BASELINE] for pair in pairs.values() if len(pair) > 1])


def link_errors(calibration: bool = True) -> dict[Sort, Errors]:
    """The same of collectives inside a node, by profile of the link and size of the message.

    Parameters
    ----------
    calibration : bool
        Rows the profiles were fitted to, or those held out.
    """
    found: dict[Sort, list[float]] = {}
    for family, (gpu, preset) in FAMILIES.items():
        cluster = load_cluster(preset)
        rows = [row for row in samples(gpu) if row.seen == calibration]
        for row, time in zip(rows, predict(cluster.link.profile, cluster, rows), strict=True):
            found.setdefault((family, size_class(row.size)), []).append(float(np.log(row.time / time)))
    return {sort: np.array(errors) for sort, errors in found.items()}


def network_errors(calibration: bool = True) -> Errors:
    """The same of collectives between nodes."""
    from .collectives import doubt

    found = []
    for row in read_measured("collectives_measured") or ():
        if nodes_of(row) > 1 and not doubt(row) and fitted_collective(row) == calibration:
            pair = predicted(row)
            if pair is not None:
                found.append(float(np.log(1e-6 * float(row["time_us"]) / pair[0])))
    return np.array(found)


def kernel_rows(folder: str) -> dict[str, dict[str, Rows]]:
    """Measured kernels by device and kind."""
    return {device: read_table(Path(folder) / TABLE, device)[0] for device in SHIPPED}


def kernel_errors(rows: Mapping[str, Mapping[str, Rows]]) -> dict[Sort, tuple[Errors, NDArray[np.int64]]]:
    """The same of kernels by device and kind, each row predicted by a fit that never saw its shape, and its fold."""
    from ..models.estimators.crossval import fold_of

    found = {}
    for device, name in SHIPPED.items():
        for kind, estimator in KernelProfile.load(MEASURED / name).estimators.items():
            own = rows[device][kind]
            _, times = cross_validate(estimator, own.shapes, own.seconds)
            found[device, kind] = np.log(own.seconds / times), fold_of(estimator, own.shapes)
    return found


def moved_errors(rows: Mapping[str, Mapping[str, Rows]]) -> dict[Sort, Errors]:
    """The same of kernels by the profile of another device, by the device of the profile and kind."""
    profiles = {device: KernelProfile.load(MEASURED / name) for device, name in SHIPPED.items()}
    found: dict[Sort, Errors] = {}
    for home, profile in profiles.items():
        for device, kinds in rows.items():
            for kind in sorted(set(kinds) & set(profile.estimators)) if device != home else ():
                own, moved = kinds[kind], profile.for_device(profiles[device].device).estimators[kind]
                known = np.isin(own.shapes["dtype"], sorted(profile.device.peak_flops))
                # Factors of tools are of a device: what another one's tools add is part of the error.
                shapes = {name: column[known] for name, column in own.shapes.items()}
                shapes["tool"] = np.full(int(known.sum()), "")
                found[home, kind] = np.log(own.seconds[known] / moved.predict(shapes))
    return found


def pooled(errors: Mapping[Sort, Errors], sort: Sort) -> float:
    """Spread of a sort, drawn to that of the others of its second name."""
    own = errors.get(sort, np.array([]))
    return spread(own, [found for key, found in errors.items() if key != sort and key[1] == sort[1]])


def stack_spreads(errors: Mapping[Sort, Errors]) -> dict[str, dict[str, float]]:
    """Spreads of every software stack that an error is known of on some device, by sort of model."""
    names = sorted(path.stem for path in STACKS.glob("*.yaml") if load_software(path.stem).calibrated_on)
    return {name: {sort: pooled(errors, (name, sort)) for sort in SORTS} for name in names}


def link_spreads(errors: Mapping[Sort, Errors]) -> dict[str, dict[str, float]]:
    """Spreads of every fitted profile of a link, by size of message."""
    return {name: {size: pooled(errors, (name, size)) for size in (LARGE, SMALL)} for name in FAMILIES}


def general_spreads(links: Mapping[Sort, Errors], moved: Mapping[Sort, Errors]) -> dict[str, float]:
    """Spreads that are of no profile: links without one, kernels on another device than measured, and so on."""
    return {
        "links": spread(network_errors(), list(links.values())),
        "elsewhere": spread(np.concatenate([*moved.values()])),
        "profiles": spread(profile_changes()),
        "techniques": spread(technique_errors()),
    }


def with_line(text: str, key: str, line: str, above: str = "error:") -> str:
    """Text of a YAML file with one line set: where its key is, else above another, or first in it if indented."""
    if re.search(f"^{key}:", text, re.MULTILINE):
        return re.sub(f"^{key}:.*$", line, text, count=1, flags=re.MULTILINE)
    other = re.search(f"^{above}.*$", text, re.MULTILINE)
    if other is None:
        return text.rstrip("\n") + f"\n{line}\n"
    place = other.end() + 1 if line.startswith(" ") else other.start()
    return text[:place] + line + "\n" + text[place:]


def shown(values: Mapping[str, float]) -> str:
    """A flow mapping of spreads."""
    return "{" + ", ".join(f"{name}: {value:.4f}" for name, value in values.items()) + "}"


def main(arguments: Iterable[str] = ()) -> None:
    """Print all spreads; write them when asked to."""
    import os

    folder = os.environ.get(MEASURED_FOLDER)
    if not folder:
        raise SystemExit(f"set {MEASURED_FOLDER} to the folder that holds the measured tables")
    rows = kernel_rows(folder)
    stacks, links = stack_errors(), link_errors()
    kernels, moved = kernel_errors(rows), moved_errors(rows)
    texts: dict[Path, str] = {}
    for name, values in stack_spreads(stacks).items():
        counts = ", ".join(str(stacks.get((name, sort), np.array([])).size) for sort in SORTS)
        print(f"{name}: {shown(values)} ({counts} rows)")
        path = STACKS / f"{name}.yaml"
        texts[path] = with_line(path.read_text(encoding="utf-8"), "spread", f"spread: {shown(values)}")
        texts[path] = with_line(texts[path], "  spread", f"  spread: {STACK_SOURCE}", above="source:")
    for name, values in link_spreads(links).items():
        print(f"{name}: {shown(values)}")
        path = PRESETS / "profiles" / f"{name}.yaml"
        line = f'spread: {{value: {shown(values)}, source: "{SPREAD}"}}'
        texts[path] = with_line(path.read_text(encoding="utf-8"), "spread", line)
    for device, name in SHIPPED.items():
        path = MEASURED / name
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for kind, kernel in data["kernels"].items():
            found = {"spread": round(spread(kernels[device, kind][0]), 4)}
            if (device, kind) in moved:
                found["elsewhere"] = round(spread(moved[device, kind]), 4)
            print(f"{name} {kind}: {found}")
            kernel["cross_validation"] |= found
        texts[path] = json.dumps(data, indent=1) + "\n"
    general = general_spreads(links, moved)
    print(f"general: {shown(general)}")
    texts[PRESET] = preset_text(general)
    if "--write" in arguments:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")


def preset_text(values: Mapping[str, float]) -> str:
    """The preset of spreads that are of no profile."""
    sources = {
        "links": "collectives between nodes, drawn to those inside a node",
        "elsewhere": "kernels of each measured device by the other's profile",
        "profiles": "steps with kernels by a profile over those without, rows that training stacks were fitted to",
        "techniques": "times without communication over the baseline's, rows fitted to of Ladder residual's logs",
    }
    lines = [
        "# Spreads of errors (models.spread) that are of no profile: links without a fitted one, kernels by the",
        "# profile of another device, what a profile or a technique changes. Written by",
        "# `python -m commlens.validation.fit_errors`.",
    ]
    lines += [f'{name}: {{value: {value:.4f}, source: "{sources[name]}"}}' for name, value in values.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
