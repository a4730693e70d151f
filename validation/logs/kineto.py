"""Reads collectives out of PyTorch profiler (Kineto) traces.

A communication kernel is an event of category "kernel" whose name starts with "nccl". What it moved
stands in its arguments; where they are missing, in the operator that launched it, which is found by
the external id, or by the correlation id of the launch (pytorch/kineto
libkineto/src/output_json.cpp, include/MetadataFieldCatalog.h).

A kernel's time includes waiting for the slowest rank. With the traces of several ranks the shortest
time of a collective is the transfer, and the rest is skew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...hardware import InputError
from .files import number, parse_json, place_of, read_log_text
from .kineto_kernels import COLLECTIVE, DTYPE, INPUT, MEMBERS, ends, sample_of
from .sample import Sample


@dataclass(frozen=True, slots=True)
class Event:
    """One communication kernel of one rank; `key` is the same on every rank of its collective."""

    key: tuple[Any, ...]
    sample: Sample


def read_kineto(
    paths: str | Path | Sequence[str | Path], *, nodes: int | None = None, notes: list[str] | None = None
) -> list[Sample]:
    """Collectives in the traces of one run.

    Parameters
    ----------
    paths : str, Path or a sequence of them
        Traces (.json or .json.gz), one for each rank that was profiled.
    nodes : int, optional
        Machines; by default the ranks of a group spread over machines of as many devices as the trace
        lists, and 1 where it lists none.
    notes : list of str, optional
        What could not be used, and why, is appended.

    Returns
    -------
    list of Sample
        One for each collective, in the order of the first trace it is in. The algorithm and protocol
        are those in the kernel's name; recent releases run several under one name [recalled].

    Raises
    ------
    InputError
        For a damaged trace, naming the line; when there is no collective of known size.
    """
    said: list[str] = [] if notes is None else notes
    events: list[Event] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        text = read_log_text(path)
        events += events_of(str(path), text, parse_json(text, path), nodes, said)
    return combine(events, said)


def combine(events: Sequence[Event], notes: list[str]) -> list[Sample]:
    """One sample for each collective that ranks have seen, of the shortest of their times."""
    if not events:
        raise InputError(
            f"{'; '.join(notes) or 'no traces'}: no collective of known size "
            "(legal: PyTorch profiler traces with NCCL kernels)"
        )
    matched: dict[tuple[Any, ...], list[Sample]] = {}
    for event in events:
        matched.setdefault(event.key, []).append(event.sample)
    alone = sum(len(samples) == 1 for samples in matched.values())
    if alone:
        notes.append(f"{alone} of {len(matched)} collectives seen on one rank only: their times include waiting")
    found = []
    for samples in matched.values():
        best = min(samples, key=lambda sample: sample.time)
        found.append(replace(best, skew=max(sample.time for sample in samples) - best.time))
    return found


def events_of(path: str, text: str, data: Any, nodes: int | None, notes: list[str]) -> list[Event]:
    """Communication kernels of a parsed trace, in the order of their start."""
    key = "traceEvents" if isinstance(data, dict) else ""
    events = data.get(key) if isinstance(data, dict) else data
    if not isinstance(events, list):
        raise InputError(f"{path}: no list of traceEvents (legal: a PyTorch profiler trace)")
    launched = _launches(events)
    local = _devices(data)
    found: list[tuple[float, int, Mapping[str, Any]]] = []
    kernels: list[Event] = []
    unknown = 0
    for index, event in enumerate(events):
        if not _is_communication(event):
            continue
        try:
            start = number(event.get("ts"), "event", "ts", "microseconds", or_zero=True)
            number(event.get("dur"), "event", "dur", "microseconds above 0")
        except InputError as problem:
            raise InputError(f"{place_of(text, path, key, index)}: {problem}") from None
        found.append((start, index, event))
    repeats: dict[tuple[Any, ...], int] = {}
    for _, index, event in sorted(found, key=lambda entry: entry[:2]):
        arguments = _arguments(event, launched)
        try:
            sample = sample_of(event, arguments, path, index + 1, local, nodes)
        except InputError as problem:
            raise InputError(f"{place_of(text, path, key, index)}: {problem}") from None
        if sample is None:
            unknown += 1
            continue
        # Of what is the same, the first on one rank belongs to the first on another.
        same = (
            str(arguments.get("Process Group Name")),
            str(arguments.get(MEMBERS)),
            str(arguments.get("Seq")),
            ends(sample.kind, arguments),
            sample.kind,
            sample.size,
            sample.ranks,
        )
        mine = (str(event.get("pid")), *same)  # a process may drive several devices
        repeats[mine] = times_seen = repeats.get(mine, 0) + 1
        kernels.append(Event((*same, times_seen), sample))
    if nodes is None and kernels:
        notes.append(f"{path}: machines are taken to have the devices it lists: {local or 'none, so one machine'}")
    if unknown or not kernels:
        why = "no collective that is fitted, no size, or uneven parts"
        notes.append(f"{path}: {unknown} of {len(found)} communication kernels left aside: {why}")
    return kernels


def _is_communication(event: Any) -> bool:
    return (
        isinstance(event, dict)
        and event.get("ph") == "X"
        and event.get("cat") == "kernel"
        and str(event.get("name", "")).lower().startswith("nccl")
    )


def _launches(events: Iterable[Any]) -> tuple[dict[Any, Mapping[str, Any]], dict[Any, Any]]:
    """(arguments of operators that communicate by external id, external id of launches by correlation)."""
    operators: dict[Any, Mapping[str, Any]] = {}
    launches: dict[Any, Any] = {}
    for event in events:
        arguments = event.get("args") if isinstance(event, dict) else None
        if not isinstance(arguments, dict) or not isinstance(arguments.get("External id"), int | str):
            continue
        if event.get("cat") == "cpu_op" and COLLECTIVE in arguments:
            operators[arguments["External id"]] = arguments
        elif event.get("cat") == "cuda_runtime" and isinstance(arguments.get("correlation"), int | str):
            launches[arguments["correlation"]] = arguments["External id"]
    return operators, launches


def _arguments(
    event: Mapping[str, Any], launched: tuple[dict[Any, Mapping[str, Any]], dict[Any, Any]]
) -> dict[str, Any]:
    """Arguments of a kernel, completed by those of the operator that launched it."""
    operators, launches = launched
    own = event.get("args")
    own = own if isinstance(own, dict) else {}
    if INPUT in own and DTYPE in own:
        return own
    correlation = own.get("correlation")
    for external in (own.get("External id"), launches.get(correlation) if isinstance(correlation, int | str) else None):
        if isinstance(external, int | str) and external in operators:
            return {**operators[external], **own}
    return own


def _devices(data: Any) -> int | None:
    """Devices of a machine, as far as the trace lists them."""
    listed = data.get("deviceProperties") if isinstance(data, dict) else None
    return len(listed) if isinstance(listed, list) and listed else None
