"""What a search may try: all that is legal for a scenario, or what a user restricts or widens it to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ...hardware.errors import InputError
from ...hardware.files import check
from ...hardware.units import parse_size
from ..pipeline.orders import SEARCHED
from ..predict import technique_of
from ..schemas import PlanFile, WorkloadFile
from .enumerate import Choice, Space, choices_of

if TYPE_CHECKING:
    from ..scenario import Scenario

MOST_DEVICES = 1_000_000
# Bounds of what is tried unless asked for: beyond them nothing published has gone.
MOST_TP = MOST_CP = MOST_MICRO_BATCH = 64


def device_counts(devices: Any, cluster_size: int) -> tuple[int, ...]:
    """Numbers of devices to search.

    Parameters
    ----------
    devices : int, (int, int), sequence of int or None
        One number; a pair (low, high) for low, twice low, and so on up to high; a list for exactly
        those; None for the whole cluster.
    cluster_size : int

    Raises
    ------
    InputError
        What is no number of devices.
    """
    asked: Iterable[Any]
    if devices is None:
        asked = [cluster_size]
    elif isinstance(devices, tuple) and len(devices) == 2 and all(_count(n) for n in devices):
        low, high = devices
        if low > high:
            raise InputError(f"devices: {devices!r} (legal: the lower number first)")
        asked = [low << step for step in range((high // low).bit_length())]
    elif isinstance(devices, Sequence | range) and not isinstance(devices, str) and len(devices):
        asked = devices
    else:
        asked = [devices]
    if wrong := [n for n in asked if not _count(n)]:
        raise InputError(f"devices: {wrong[0]!r} (legal: a whole number from 1 to {MOST_DEVICES})")
    return tuple(sorted(set(asked)))


def _count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MOST_DEVICES


def space_of(scenario: Scenario, devices: tuple[int, ...], asked: Mapping[str, Any] | None = None) -> Space:
    """All legal values, or those that are asked for.

    Parameters
    ----------
    scenario : Scenario
        Of training. What its plan says of overlap, bucket and placement holds for every plan.
    devices : tuple of int
    asked : mapping, optional
        Keys of a plan, or micro_batch, to a value or a list of values.

    Raises
    ------
    InputError
        Unknown keys, and values that are not legal.
    """
    model, work, plan = scenario.model, scenario.workload, scenario.plan
    most, node = max(devices), scenario.cluster.devices_per_node
    values: dict[str, tuple[Any, ...]] = {
        # A group that neither divides a node nor fills nodes would lie across their edges.
        "tp": tuple(n for n in divisors(model.heads, min(MOST_TP, most)) if node % n == 0 or n % node == 0),
        "pp": tuple(range(1, min(model.layers, most) + 1)),
        # Of a causal sequence every rank takes an early and a late part, which balances the work.
        "cp": (1, *(n for n in divisors(work.sequence_length // 2, min(MOST_CP, most)) if n > 1)),
        "dp": divisors(work.global_batch, most),
        "ep": divisors(max(model.experts or 1, 1), most),
        "etp": (),
        "vp": tuple(range(1, model.layers + 1)),
        "micro_batch": divisors(work.global_batch, MOST_MICRO_BATCH),
        "schedule": SEARCHED,
        "sequence_parallel": (False, True),
        "zero": (0, 1, 2, 3),
        "recompute": ("none", "selective", "full"),
        "offload": ("none", "optimizer"),
        "recompute_layers": (None,),
        "shard_group": (None,),
        "overlap": (plan.overlap,),
        "bucket": (plan.bucket,),
        "placement": (plan.placement,),
    }
    for key, some in (asked or {}).items():
        if key not in values:
            raise InputError(f"space: {key!r} is no key of a plan (legal: {', '.join(values)})")
        values[key] = _legal(key, some)
    values["etp"] = values["etp"] or tuple({1, *values["tp"]})
    sizes = [n for n in values["micro_batch"] if not _refused(scenario, n)]
    if not sizes:
        raise InputError(f"space: micro_batch: {_refused(scenario, max(values['micro_batch']))}")
    values["micro_batch"] = tuple(sizes)
    choices = choices_of({field.name: values[field.name] for field in fields(Choice)})
    degrees = {key: some for key, some in values.items() if key not in Choice.__dataclass_fields__}
    return Space(
        degrees,
        choices,
        devices,
        model.heads,
        model.layers,
        model.experts or 0,
        work.global_batch,
        technique_of(scenario).shares,
    )


def _refused(scenario: Scenario, micro_batch: int) -> str:
    """Why a technique of the scenario cannot work on so many sequences at a time; empty where all can."""
    model, work, plan = scenario.model, replace(scenario.workload, micro_batch=micro_batch), scenario.plan
    asked = ((call.technique.name, call.technique.unfit) for call in scenario.techniques if call.technique.unfit)
    return next((f"{micro_batch}: {name} {why}" for name, unfit in asked if (why := unfit(model, work, plan))), "")


def divisors(number: int, most: int) -> tuple[int, ...]:
    """Divisors of a number up to a bound, in order."""
    return tuple(n for n in range(1, min(number, most) + 1) if number % n == 0)


def _legal(key: str, asked: Any) -> tuple[Any, ...]:
    """Values a user wants, each checked as a scenario would."""
    single = isinstance(asked, str) or not isinstance(asked, Sequence | range)
    if key == "overlap":
        single = not isinstance(asked, Sequence) or all(isinstance(name, str) for name in asked)
    some = [asked] if single else list(asked)
    if not some:
        raise InputError(f"space: {key}: no values (legal: one or more)")
    found = []
    for value in some:
        if key == "micro_batch":
            file: Any = check(WorkloadFile, {"phase": "training", key: value}, "space")
        else:
            file = check(PlanFile, {key: list(value) if key == "overlap" else value}, "space")
        legal = getattr(file, key)
        if key == "placement" and sorted(legal.split("-")) != ["cp", "dp", "pp", "tp"]:
            raise InputError(f"space: placement: {legal!r} (legal: tp, cp, dp and pp in any order, as in tp-cp-dp-pp)")
        if key == "bucket":
            legal = parse_size(legal, "space: bucket")
        found.append(tuple(dict.fromkeys(legal)) if key == "overlap" else legal)
    return tuple(dict.fromkeys(found))
