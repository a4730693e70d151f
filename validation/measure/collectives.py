"""Collectives measured among processes of this machine, or ranks of torchrun, as samples to calibrate with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...hardware.errors import InputError
from ..logs.sample import Sample
from .environment import cores, environment
from .timing import Timing
from .worker import KINDS, PLAN, Plan, work

BACKENDS = ("gloo", "nccl")
MOST_RANKS = 64
BUDGET = 0.4  # for the repetitions of one kind and size [s]
TIMEOUT = 120.0  # without any result, after which ranks are taken to hang [s]
START = 60.0  # until the first one at least: loading torch takes long on a busy machine [s]
STOPPED = "stopped"
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Parameters
    ----------
    samples : list of Sample
    notes : list of str
        Kinds that do not run here, and why a session ended early.
    log : Path
        File of the results.
    interrupted : bool
        Whether somebody stopped it; the last note says so.
    """

    samples: list[Sample]
    notes: list[str]
    log: Path
    interrupted: bool = False


def under_torchrun() -> bool:
    """Whether this process is one of several ranks already."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def measure_collectives(
    backend: str,
    sizes: Sequence[float],
    log: Path,
    nproc: int | None = None,
    report: Report | None = None,
    timeout: float = TIMEOUT,
    kinds: Sequence[str] = KINDS,
    budget: float = BUDGET,
) -> Measured | None:
    """Measure collectives; None on every rank of torchrun but the first.

    Parameters
    ----------
    backend : str
        gloo | nccl.
    sizes : sequence of float
        Bytes, by the convention of nccl-tests.
    log : Path
        File that results are appended to as they come; what it held is gone.
    nproc : int, optional
        Ranks to start here; default two, or with nccl one per GPU. Not under torchrun, which says.
    report : callable, optional
        Is told of the progress.
    timeout : float
        Seconds without a result after which ranks are taken to hang.
    kinds : sequence of str
    budget : float
        Time for the repetitions of one kind and size [s].

    Raises
    ------
    InputError
        For a backend that is not there, ranks that do not fit, and ranks that died or hang before there was any
        result; with results the same is a note.
    """
    _check(backend, sizes, kinds)
    if under_torchrun():
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if nproc is not None and nproc != world:
            raise InputError(f"--nproc: {nproc} under torchrun with {world} ranks (legal: leave it out)")
        if world < 2:
            raise InputError("WORLD_SIZE: 1 (legal: 2 or more; one rank moves nothing)")
        threads = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", world)))
        if rank == 0:
            _begin(log, backend, world, threads)
        plan = Plan(backend, list(sizes), str(log), "", threads, budget, timeout, tuple(kinds))
        try:
            work(plan, rank, world)
        except RuntimeError as problem:
            raise InputError(f"rank {rank}: {str(problem).strip().splitlines()[0][:200]}") from None
        nodes = world // int(os.environ.get("LOCAL_WORLD_SIZE", world))
        return Measured(*read(log, nodes), log) if rank == 0 else None
    ranks = _ranks(backend, nproc)
    threads = max(1, cores() // ranks)
    _begin(log, backend, ranks, threads)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(backend, list(sizes), str(log), f"{folder}/store", threads, budget, timeout, tuple(kinds))
        ended = _supervise(plan, ranks, Path(folder), report)
    samples, notes = read(log, 1)
    if ended and not samples:
        raise InputError(f"collectives: {ended}")
    kept = [f"{ended}; {len(samples)} results are kept in {log}"] if ended else []
    return Measured(samples, notes + kept, log, ended == STOPPED)


def measure_layer(
    layer: Mapping[str, Any], ranks: int, log: Path, budget: float, timeout: float = TIMEOUT
) -> tuple[Timing, float]:
    """Time of a layer divided over ranks of this host, forward and backward, and the part its thread ran [s].

    The slowest rank's of each.

    Parameters
    ----------
    layer : mapping
        Fields of a `LayerShape`.
    ranks : int
    log : Path
        File for the result.
    budget : float
        Time for the repetitions [s].
    timeout : float

    Raises
    ------
    InputError
        For ranks that died or hang.
    """
    _check("gloo", (), ())
    threads = max(1, cores() // _ranks("gloo", ranks))
    _begin(log, "gloo", ranks, threads)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan("gloo", [1.0], str(log), f"{folder}/store", threads, budget, timeout, ("all_reduce",), dict(layer))
        ended = _supervise(plan, ranks, Path(folder), None)
    samples, notes = read(log, 1)
    if ended or not samples:
        raise InputError(f"layer on {ranks} ranks: {ended or '; '.join(notes)}")
    row = json.loads(log.read_text(encoding="utf-8").splitlines()[1])
    return Timing(*(row[field.name] for field in fields(Timing))), float(row["busy"])


def read(log: Path, nodes: int) -> tuple[list[Sample], list[str]]:
    """Samples of a file of results, and what does not run.

    Parameters
    ----------
    log : Path
    nodes : int
        Machines the ranks were on.

    Raises
    ------
    InputError
        For a file that is damaged other than in a last line cut short.
    """
    samples, notes = [], []
    lines = log.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], 2):
        try:
            row = json.loads(line)
            if "unsupported" in row:
                notes.append(f"{row['kind']}: not supported here: {row['unsupported']}")
                continue
            sample = Sample(row["kind"], row["size"], row["ranks"], nodes, row["seconds"], log.name, number)
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break  # cut short while it was written
            raise InputError(f"{log}: line {number}: damaged (legal: what calibrate collectives writes)") from None
        samples.append(sample)
    return samples, notes


def _check(backend: str, sizes: Sequence[float], kinds: Sequence[str]) -> None:
    try:
        import torch
        import torch.distributed as dist
    except ImportError:
        raise InputError("torch is not installed (legal: pip install 'commlens[torch]')") from None
    if backend not in BACKENDS:
        raise InputError(f"--backend: {backend!r} (legal: {', '.join(BACKENDS)})")
    there = dist.is_available() and (dist.is_nccl_available() if backend == "nccl" else dist.is_gloo_available())
    if not there:
        raise InputError(f"--backend: this torch has no {backend} (legal: another backend or build of torch)")
    if backend == "nccl" and not torch.cuda.is_available():
        raise InputError("--backend: nccl, but torch sees no GPU (legal: gloo here)")
    for size in sizes:
        if not 1 <= size <= 2**36:
            raise InputError(f"--sizes: {size:g} B (legal: 1 B to 64 GiB)")
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kinds: {kind!r} (legal: {', '.join(KINDS)})")


def _ranks(backend: str, nproc: int | None) -> int:
    import torch

    most = torch.cuda.device_count() if backend == "nccl" else MOST_RANKS
    ranks = nproc if nproc is not None else most if backend == "nccl" else 2
    if not 2 <= ranks <= most:
        why = "; nccl takes one GPU per rank" if backend == "nccl" else ""
        raise InputError(f"--nproc: {ranks} (legal: 2 to {most}{why})")
    return ranks


def _begin(log: Path, backend: str, ranks: int, threads: int) -> None:
    head: Mapping[str, Any] = {
        **environment("cuda" if backend == "nccl" else "cpu", threads),
        "backend": backend,
        "ranks": ranks,
    }
    try:
        log.write_text(json.dumps({"format": 1, "environment": head}) + "\n", encoding="utf-8")
    except OSError as problem:
        raise InputError(f"--out: cannot write {log}: {problem.strerror or problem}") from None


def _supervise(plan: Plan, ranks: int, folder: Path, report: Report | None) -> str:
    """Start the ranks and see them through; returns why they ended early, or nothing. None is left behind."""
    out, total = Path(plan.out), len(plan.kinds) * len(plan.sizes)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(ranks):
            own = {
                **os.environ,
                "OMP_NUM_THREADS": str(plan.threads),
                "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else os.environ.get("GLOO_SOCKET_IFNAME", "lo0"),
                PLAN: plan.to_json(),
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_RANK": str(rank),
            }
            with (folder / f"stderr-{rank}").open("wb") as errors:
                command = [sys.executable, "-m", "commlens.validation.measure.worker"]
                started.append(subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=errors))
        first, size, last = out.stat().st_size, -1, time.monotonic()
        while True:
            codes = [process.poll() for process in started]
            bad = next((rank for rank, code in enumerate(codes) if code), None)
            if bad is not None:
                return _why(bad, codes[bad] or 0, folder / f"stderr-{bad}")
            if all(code == 0 for code in codes):
                return ""
            now = out.stat().st_size
            if now != size:
                size, last = now, time.monotonic()
                if report is not None:
                    done = out.read_bytes().count(b"\n") - 1
                    report(done, total, plan.kinds[min(done // len(plan.sizes), len(plan.kinds) - 1)])
            elif time.monotonic() - last > (limit := max(plan.timeout, START) if size == first else plan.timeout):
                return f"no result for {limit:g} s: ranks hang"
            time.sleep(0.05)
    except KeyboardInterrupt:
        return STOPPED
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
        for process in started:
            process.wait()


def _why(rank: int, code: int, errors: Path) -> str:
    """What ended a rank, in a line."""
    if code < 0:
        more = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"rank {rank} was ended by {signal.Signals(-code).name}{more}"
    said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"rank {rank} failed: {said[-1][:200] if said else f'status {code}'}"
