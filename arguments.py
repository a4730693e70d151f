"""What is written after a command, read: KEY=VALUE, ranges of devices, spans of time, techniques with options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .hardware.errors import InputError
from .models.scenario import Scenario

ScenarioPath = Annotated[Path, typer.Argument(help="Scenario file (YAML or JSON).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in SI units.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as in plan.tp=4; repeatable."),
]
Engine = Annotated[str, typer.Option(help="simulate (discrete-event) or estimate (closed form).")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the whole table to this file.")]


def scenario_of(path: Path, changes: list[str] | None) -> Scenario:
    """Scenario of a file, with the keys that ``--set`` changes."""
    scenario = Scenario.load(path)
    if not changes:
        return scenario
    pairs = (_pair("--set", item) for item in changes)
    return scenario.replace({key: _value("--set", key, text) for key, text in pairs})


def grid_of(option: str, items: list[str]) -> dict[str, list[Any]]:
    """Values by key, of ``KEY=V1,V2`` each."""
    pairs = (_pair(option, item) for item in items)
    return {key: [_value(option, key, part) for part in text.split(",")] for key, text in pairs}


def techniques_of(text: str) -> list[list[str | dict[str, Any]]]:
    """Techniques to compare, as in ``baseline,bigmac+exflow,t3:arbitration=mca``."""
    return [[_technique(part) for part in some.split("+")] for some in text.split(",") if some]


def devices_of(text: str | None) -> Any:
    """`1024`, `64..4096` or `512,768` as a search takes it."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    try:
        if dots:
            return int(low), int(high)
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--devices: {text!r} (legal: as in 1024, 64..4096 or 512,768)") from None
    return numbers if len(numbers) > 1 else numbers[0]


def window_of(text: str | None) -> tuple[float, float] | None:
    """A span of time, as in ``2ms,2.5ms`` [s]."""
    from .hardware.units import parse_time

    if text is None:
        return None
    start, comma, end = text.partition(",")
    if not comma:
        raise InputError(f"--window: {text!r} (legal: START,END, as in 2ms,2.5ms)")
    span = parse_time(start, "--window"), parse_time(end, "--window")
    if not 0 <= span[0] < span[1]:
        raise InputError(f"--window: {text!r} (legal: 0 <= START < END)")
    return span


def count_of(option: str, text: str) -> int:
    """A whole number of tokens or sequences, with K, M or G for thousands and Ki, Mi or Gi for powers of two."""
    scales = {"K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    number = text.strip()
    factor = next((scales[unit] for unit in ("Ki", "Mi", "Gi", "K", "M", "G") if number.endswith(unit)), 1)
    try:
        value = float(number.rstrip("KMGi")) * factor
        if value < 1 or value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(f"{option}: {text!r:.60} (legal: a whole number, 1 or more, as in 512, 32M or 2Mi)") from None
    return int(value)


def _technique(text: str) -> str | dict[str, Any]:
    """`t3` or `t3:arbitration=mca`."""
    name, colon, options = text.partition(":")
    if not colon:
        return name
    pairs = (_pair("--techniques", item) for item in options.split(":"))
    return {"name": name, **{key: _value("--techniques", key, value) for key, value in pairs}}


def _pair(option: str, item: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    if not (key and equals and text):
        raise InputError(f"{option}: {item!r} (legal: KEY=VALUE, as in plan.tp=4)")
    return key, text


def _value(option: str, key: str, text: str) -> Any:
    """A value as a scenario file would hold it."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{option} {key}: {text!r} is not a YAML value (legal: as in a scenario file)") from None
