"""Reads what nccl-tests and rccl-tests print, and their JSON report.

Columns are taken from the header row (nccl-tests src/util.cu): after size, count, type and, where
there are any, redop and root, come the measurements of the run out of place, then of the one in
place. Sizes are bytes, times microseconds, bandwidths 1e9 bytes/s. Comments start with "#".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...hardware import InputError
from .files import parse_json, place_of, read_log_text, whole
from .nccl_rows import MISSING, Row, Run, flatten, row
from .sample import Sample

PROGRAMS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "sendrecv": "send_recv",
}
"""Kind of collective by the name of the program, less ``_perf``."""

LABELS = ("redop", "root")  # columns that some versions leave out, or blank
REDOPS = ("sum", "prod", "max", "min", "avg", "mulsum", "none")  # what is not a type
REPORT = {"time": "time", "cputime": "cputime", "alg_bw": "algbw", "bus_bw": "busbw", "nwrong": "#wrong"}

# mpirun --tag-output and srun --label put the rank before every line.
_PREFIX = re.compile(r"^\s*(?:\[\d+,\d+\]<std(?:out|err)>:|\d+:\s)")
_THREADS = re.compile(r"#\s*nThreads?[ :]\s*(\d+)\s+nGpus[ :]\s*(\d+)", re.IGNORECASE)
_RANK = re.compile(r"#\s*Rank\s+(\d+)\s+(?:Group\s+(\d+)\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device", re.IGNORECASE)
_NAMED = re.compile(r"#\s*Collective test (starting|concluded):\s*(\w+?)(?:_perf)?\s*$", re.IGNORECASE)
_OUTSIDE = re.compile(r"#\s*Out of bounds values\s*:\s*(\d+)", re.IGNORECASE)
_DATE = re.compile(r"\[?\d+[-:/]\d+[-:/.T\d+Z]*\]?")
_EPOCH = re.compile(r"\d{10,}(\.\d+)?")
_LIKE_A_NUMBER = re.compile(r"[-+]?\d[\w.+]*")


def read_nccl_tests(
    path: str | Path, *, ranks: int | None = None, nodes: int | None = None, kind: str | None = None
) -> list[Sample]:
    """Measurements in a log of nccl-tests or rccl-tests, or in its JSON report.

    Parameters
    ----------
    path : str or Path
        One or more runs one after another, with whatever else was printed between the lines.
    ranks, nodes : int, optional
        Devices and machines, for a log without the list of devices.
    kind : str, optional
        Collective, for a log that neither says it nor shows it by its bandwidths.

    Returns
    -------
    list of Sample
        In the order of the log; the runs out of place and in place are samples of their own.

    Raises
    ------
    InputError
        For a damaged log (``file: line 17: ...``), a wrong result, or when an option is missing.
    """
    text = read_log_text(path)
    if text.lstrip().startswith("{"):
        return parse_report(parse_json(text, path), text, str(path), ranks=ranks, nodes=nodes, kind=kind)
    return parse_nccl_tests(text, str(path), ranks=ranks, nodes=nodes, kind=kind)


def parse_nccl_tests(
    text: str, path: str, *, ranks: int | None = None, nodes: int | None = None, kind: str | None = None
) -> list[Sample]:
    """Measurements in the text of a log; see `read_nccl_tests`."""
    return flatten(list(_runs(text, path)), path, ranks, nodes, kind)


def parse_report(
    data: Any, text: str, path: str, *, ranks: int | None = None, nodes: int | None = None, kind: str | None = None
) -> list[Sample]:
    """Measurements in a JSON report; see `read_nccl_tests`. `text` is what `data` was read from."""
    try:
        return flatten([_report(data, path)], path, ranks, nodes, kind)
    except InputError as problem:
        # Where an entry stands is looked up only now: it takes reading all of it once more.
        entry = re.match(r"(result|device) (\d+)", str(problem))
        if entry is None:
            raise
        raise InputError(f"{place_of(text, path, entry[1] + 's', int(entry[2]) - 1)}: {problem}") from None


def _runs(text: str, path: str) -> Iterator[Run]:
    run, header = Run(f"{path}: run from line 1"), None
    seen: set[tuple[int, int]] = set()
    for line, raw in enumerate(text.splitlines(), 1):
        content, where = _PREFIX.sub("", raw).strip(), f"{path}: line {line}"
        if content.startswith("#"):
            if _begins(content, run, seen):
                yield run
                run, header, seen = Run(f"{path}: run from line {line}"), None, set()
            header = _header(content) or header
            _comment(content, run, seen, where)
        elif content and header is not None and _is_data(content.split(), header):
            run.rows += _rows(content.split(), header, where, line)
    yield run


def _begins(content: str, run: Run, seen: set[tuple[int, int]]) -> bool:
    """Whether a comment is the first of another run."""
    if (rank := _RANK.match(content)) is not None:
        return (int(rank[2] or 0), int(rank[1])) in seen
    if (named := _NAMED.match(content)) is not None:
        return named[1].lower() == "starting" and (run.kind is not None or bool(run.rows))
    return _THREADS.match(content) is not None and (run.threads is not None or bool(run.rows))


def _comment(content: str, run: Run, seen: set[tuple[int, int]], where: str) -> None:
    """What a comment says of the run."""
    if (threads := _THREADS.match(content)) is not None:
        run.threads = int(threads[1]) * int(threads[2])
    elif (rank := _RANK.match(content)) is not None:
        seen.add((int(rank[2] or 0), int(rank[1])))
        run.hosts.setdefault(int(rank[2] or 0), []).append(rank[3])
    elif (named := _NAMED.match(content)) is not None:
        run.kind = _program(named[2], where)
    elif (outside := _OUTSIDE.match(content)) is not None and int(outside[1]):
        raise InputError(f"{where}: {outside[1]} values out of bounds: the collective gave wrong results (legal: 0)")


def _program(name: str, where: str) -> str:
    if name not in PROGRAMS:
        raise InputError(f"{where}: test {name!r:.60} is not read (legal: {', '.join(PROGRAMS)})")
    return PROGRAMS[name]


def _header(content: str) -> list[str] | None:
    """Names of the columns when a comment is the header row, less those of time stamps."""
    words = content.lstrip("#").lower().split()
    return [word for word in words if "stamp" not in word] if words[:3] == ["size", "count", "type"] else None


def _is_data(words: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a line is a row of the table, whole or damaged, and not something else that was printed."""
    numbers = [_LIKE_A_NUMBER.fullmatch(word) is not None for word in words]
    return numbers[0] or (len(words) >= len(header) - len(LABELS) and sum(numbers) >= len(words) / 2)


def _rows(words: list[str], columns: list[str], where: str, line: int) -> Iterator[Row]:
    """Measurements of a data line: one for each group of columns that starts with a time."""
    while _DATE.fullmatch(words[-1]) or (len(words) > len(columns) and _EPOCH.fullmatch(words[-1])):
        words = words[:-1]
    labels = [name for name in columns if name in LABELS]
    # Blank labels are told from a damaged line by the type, which still stands where it should.
    typed = len(words) > 3 and words[2][0].isalpha() and words[2] not in REDOPS
    missing = len(columns) - len(words) if typed else 0
    if labels and missing == len(labels):
        columns = [name for name in columns if name not in LABELS]
    elif len(labels) == 2 and missing == 1 and re.fullmatch(r"-?\d+", words[3]):
        columns = [name for name in columns if name != "redop"]
    if len(words) != len(columns):
        raise InputError(f"{where}: {len(words)} columns (legal: {len(columns)}, as in the header above it)")
    size = whole(words[0], where, "size", least=0)
    whole(words[1], where, "count", least=0)
    head = dict(zip(columns, words, strict=True))
    root = whole(head["root"], where, "root", least=-1) if "root" in head else None
    starts = [index for index, name in enumerate(columns) if name in ("time", "cputime")]
    if not starts:
        raise InputError(f"{where}: no column of times (legal: a header with time or cputime)")
    for start, end in zip(starts, [*starts[1:], len(columns)], strict=True):
        group = dict(zip(columns[start:end], words[start:end], strict=True))
        if (found := row(group, where, line, size, head.get("redop"), root)) is not None:
            yield found


def _report(data: Any, path: str) -> Run:
    """The one run of a JSON report."""
    results = data.get("results") if isinstance(data, dict) else None
    devices = data.get("devices", []) if isinstance(data, dict) else None
    if not isinstance(results, list) or not isinstance(devices, list):
        raise InputError(f"{path}: no list of results (legal: a JSON report of nccl-tests, or a profiler trace)")
    run = Run(path)
    if (program := re.search(r"([A-Za-z_]+)_perf\b", str(data.get("args", "")))) is not None:
        run.kind = _program(program[1], f"{path}: args")
    for index, device in enumerate(devices):
        if not isinstance(device, dict) or not isinstance(device.get("hostname"), str):
            raise InputError(f"device {index + 1}: hostname: missing (legal: the host's name)")
        group = device.get("group", 0)
        run.hosts.setdefault(group if isinstance(group, int) else 0, []).append(device["hostname"])
    outside = data.get("out_of_bounds")
    wrong = outside.get("count") if isinstance(outside, dict) else outside
    if isinstance(wrong, int) and wrong:
        raise InputError(f"{path}: out_of_bounds: {wrong}: the collective gave wrong results (legal: 0)")
    for index, result in enumerate(results):
        run.rows += _result(result, index + 1)
    return run


def _result(result: Any, entry: int) -> Iterator[Row]:
    """Measurements of an entry of `results`."""
    where = f"result {entry}"
    if not isinstance(result, dict):
        raise InputError(f"{where}: {result!r:.60} (legal: a mapping)")
    size = whole(str(result.get("size")), where, "size", least=0)
    redop, root = result.get("redop"), result.get("root")
    for part in ("out_of_place", "in_place"):
        found = result.get(part)
        if not isinstance(found, dict):
            if found is None:
                continue
            raise InputError(f"{where}: {part}: {found!r:.60} (legal: a mapping)")
        group = {REPORT[key]: MISSING if value is None else str(value) for key, value in found.items() if key in REPORT}
        place = f"{where}: {part}"
        reduced, rooted = redop if isinstance(redop, str) else None, root if isinstance(root, int) else None
        if (measured := row(group, place, entry, size, reduced, rooted)) is not None:
            yield measured
