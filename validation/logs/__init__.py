"""Logs of measured collectives: what nccl-tests prints and what the PyTorch profiler records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .files import parse_json, read_log_text
from .kineto import Event, combine, events_of, read_kineto
from .nccl_rows import check_options
from .nccl_tests import parse_nccl_tests, parse_report, read_nccl_tests
from .sample import KINDS, Sample, bus_factor

__all__ = ["KINDS", "Sample", "bus_factor", "read_kineto", "read_log", "read_nccl_tests"]


# Not the "[1,0]<stdout>:" that mpirun puts before a line.
_JSON = re.compile(r"\s*(\{|\[\s*[\]{])")


def read_log(
    paths: str | Path | Sequence[str | Path],
    *,
    ranks: int | None = None,
    nodes: int | None = None,
    kind: str | None = None,
    notes: list[str] | None = None,
) -> list[Sample]:
    """Measured collectives in logs of any format that is read, told by their content.

    Parameters
    ----------
    paths : str, Path or a sequence of them
        Profiler traces among them are taken for ranks of one run.
    ranks, nodes : int, optional
        Devices and machines, where a log does not say; `nodes` of traces too.
    kind : str, optional
        Collective, where a log of nccl-tests does not say.
    notes : list of str, optional
        What could not be used, and why, is appended.

    Returns
    -------
    list of Sample

    Raises
    ------
    InputError
        For a damaged log, naming file and line; when a log says too little.
    """
    check_options(ranks, nodes, kind)
    samples: list[Sample] = []
    events: list[Event] = []
    traced = False
    said: list[str] = [] if notes is None else notes
    for path in [paths] if isinstance(paths, str | Path) else paths:
        text = read_log_text(path)
        if _JSON.match(text) is None:
            samples += parse_nccl_tests(text, str(path), ranks=ranks, nodes=nodes, kind=kind)
            continue
        data = parse_json(text, path)
        if isinstance(data, list) or "traceEvents" in data:
            events += events_of(str(path), text, data, nodes, said)
            traced = True
        else:
            samples += parse_report(data, text, str(path), ranks=ranks, nodes=nodes, kind=kind)
    return samples + (combine(events, said) if traced else [])
