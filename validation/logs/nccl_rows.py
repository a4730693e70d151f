"""What a run of nccl-tests measured, held against itself, as samples.

Bus bandwidth follows from algorithm bandwidth by collective and ranks, and that from size and time. So
a damaged number shows, and a log that does not say which collective ran often tells all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ...hardware import InputError
from .files import number, whole
from .sample import KINDS, Sample, bus_factor

TOLERANCE = 0.05  # between bandwidths that follow from one another
ROUNDING = 0.0051  # GB/s: they are printed with two decimals
# Where the time is the CPU's, the transfer's follows from the algorithm bandwidth, if that has three digits.
PRECISE = 1.0  # GB/s
MISSING = "N/A"
REDUCING = ("all_reduce", "reduce_scatter", "reduce")
ROOTED = ("broadcast", "reduce")

Value = TypeVar("Value", int, str)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Parameters
    ----------
    where : str
        For messages.
    line : int
        Line, or result of a report, from 1.
    size : int
        Bytes.
    time : float
        Microseconds.
    algorithm_bandwidth, bus_bandwidth : float or None
        1e9 bytes/s.
    redop : str or None
        What is reduced by; "none" for what reduces nothing.
    root : int or None
        Rank it comes from or goes to; -1 for what has none.
    """

    where: str
    line: int
    size: int
    time: float
    algorithm_bandwidth: float | None
    bus_bandwidth: float | None
    redop: str | None
    root: int | None


@dataclass(slots=True)
class Run:
    """One run of a test: what its log says of it, and its measurements.

    Parameters
    ----------
    where : str
        For messages.
    kind : str or None
        Collective.
    threads : int or None
        Devices of one process.
    hosts : dict of int to list of str
        Of every rank, by group.
    rows : list of Row
    """

    where: str
    kind: str | None = None
    threads: int | None = None
    hosts: dict[int, list[str]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


def row(group: Mapping[str, str], where: str, line: int, size: int, redop: str | None, root: int | None) -> Row | None:
    """Measurement in a group of columns, by their names; None where nothing was measured or nothing moved.

    Raises
    ------
    InputError
        For a number out of range, or a wrong result.
    """
    wrong = group.get("#wrong", MISSING)
    if wrong != MISSING and whole(wrong, where, "#wrong"):
        raise InputError(f"{where}: #wrong: {wrong}: the collective gave wrong results (legal: 0 or {MISSING})")
    clock = "time" if "time" in group else "cputime"
    if size == 0 or all(group.get(name, MISSING) == MISSING for name in (clock, "algbw", "busbw")):
        return None
    time = number(group.get(clock, MISSING), where, clock, "microseconds above 0")
    algorithm, bus = (
        number(group[name], where, name, "GB/s, 0 or more", or_zero=True) if name in group else None
        for name in ("algbw", "busbw")
    )
    if clock == "cputime":
        if algorithm is None or algorithm < PRECISE:
            return None
        time = 1e-3 * size / algorithm
    return Row(where, line, size, time, algorithm, bus, redop, root)


def samples_of(run: Run, path: str, ranks: int | None, nodes: int | None, kind: str | None) -> Iterator[Sample]:
    """Samples of a run; `ranks`, `nodes` and `kind` are what the user says of it.

    Raises
    ------
    InputError
        Naming the option when neither the log nor the user says it, or they differ; naming the line
        where bandwidths do not follow from one another.
    """
    counts = sorted({len(group) for group in run.hosts.values()})
    if len(counts) > 1:
        raise InputError(f"{run.where}: groups of {' and '.join(map(str, counts))} ranks (legal: groups of one size)")
    ranks = _agree("ranks", ranks, counts[0] if counts else None, run.where)
    if ranks is None and run.threads is not None and run.threads > 1:
        ranks = run.threads
    machines = [len(set(group)) for group in run.hosts.values()]
    # A process has one machine, so without a list of devices as many ranks as it has are on one.
    known = max(machines) if machines else 1 if ranks == run.threads else None
    nodes = _agree("nodes", nodes, known, run.where)
    if ranks is None or nodes is None:
        raise InputError(
            f"{run.where}: does not say how many {'ranks' if ranks is None else 'nodes'} took part "
            f"(legal: say it with {'--ranks' if ranks is None else '--nodes'})"
        )
    kind = _agree("kind", kind, run.kind, run.where) or _guess(run, ranks)
    for measured in run.rows:
        _check(measured, kind, ranks)
        yield Sample(kind, float(measured.size), ranks, nodes, 1e-6 * measured.time, path, measured.line)


def _agree(name: str, said: Value | None, found: Value | None, where: str) -> Value | None:
    """What the user or the log says."""
    if said is not None and found is not None and said != found:
        raise InputError(f"{where}: --{name} {said}, but the log says {found} (legal: {found}, or no --{name})")
    return found if said is None else said


def _guess(run: Run, ranks: int) -> str:
    """The collective whose bandwidths, reduction and root these are."""
    may = [kind for kind in KINDS if all(_fits(measured, kind, ranks) for measured in run.rows)]
    if len(may) != 1:
        raise InputError(
            f"{run.where}: does not say which collective ran; by its bandwidths among {ranks} ranks it may be "
            f"{' or '.join(may) or 'none that is read'} (legal: say it with --kind)"
        )
    return may[0]


def _fits(measured: Row, kind: str, ranks: int) -> bool:
    if measured.redop and (measured.redop == "none") == (kind in REDUCING):
        return False
    if measured.root is not None and (measured.root >= 0) != (kind in ROOTED):
        return False
    algorithm, bus = measured.algorithm_bandwidth, measured.bus_bandwidth
    # The factors of many ranks differ by less than damage is tolerated.
    return algorithm is None or bus is None or _near(bus, algorithm, bus_factor(kind, ranks), 0.1 * TOLERANCE)


def _near(found: float, base: float, factor: float, tolerance: float) -> bool:
    return abs(found - factor * base) <= tolerance * factor * base + ROUNDING * (1 + factor)


def _check(measured: Row, kind: str, ranks: int) -> None:
    """Hold the three numbers of a measurement against one another."""
    algorithm, bus, factor = measured.algorithm_bandwidth, measured.bus_bandwidth, bus_factor(kind, ranks)
    if algorithm is None:
        return
    rate = 1e-3 * measured.size / measured.time
    if not _near(algorithm, rate, 1.0, TOLERANCE):
        raise InputError(
            f"{measured.where}: algbw: {algorithm:g} GB/s of {measured.size} bytes in {measured.time:g} us "
            f"(legal: size over time, {rate:.2f})"
        )
    if bus is not None and not _near(bus, algorithm, factor, TOLERANCE):
        raise InputError(
            f"{measured.where}: busbw: {bus:g} GB/s beside an algbw of {algorithm:g} "
            f"(legal: {factor:.4g} of it for {kind} among {ranks} ranks, {factor * algorithm:.2f})"
        )


def check_options(ranks: int | None, nodes: int | None, kind: str | None) -> None:
    """Raise InputError when what the user says of a log is out of range."""
    for name, value, least in (("ranks", ranks, 2), ("nodes", nodes, 1)):
        if value is not None and value < least:
            raise InputError(f"--{name}: {value} (legal: {least} or more)")
    if kind is not None and kind not in KINDS:
        raise InputError(f"--kind: {kind!r:.60} (legal: {', '.join(KINDS)})")


def flatten(runs: Sequence[Run], path: str, ranks: int | None, nodes: int | None, kind: str | None) -> list[Sample]:
    """Samples of all runs of a log, of which at least one must have measured something."""
    check_options(ranks, nodes, kind)
    if not any(run.rows for run in runs):
        raise InputError(f"{path}: holds no measurements (legal: output of nccl-tests with its header, or its report)")
    return [sample for run in runs if run.rows for sample in samples_of(run, path, ranks, nodes, kind)]
