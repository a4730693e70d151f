"""Runs references on processes that talk to each other, and leaves none of them behind.

A rank that raises, is killed, runs out of memory or hangs ends the run with one line that names it; what the ranks
found until then is kept in the exception.
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...hardware.errors import InputError
from .order import Order, Task

Found = dict[str, Any]
GRACE = 0.3  # seconds a rank that hangs has to say where
BACKENDS = ("gloo", "nccl")
SECONDS_TO_LOAD = 240.0  # until torch is loaded, on a busy machine


class RankFailed(InputError):
    """A rank did not come to the end.

    Parameters
    ----------
    message : str
    rank : int
        The first that failed.
    exit_code : int or None
        Of its process, negative the signal that ended it; None of one that hung.
    results : sequence of dict
        For each rank, what it had found, by name of the reference.
    """

    def __init__(self, message: str, rank: int, exit_code: int | None, results: Sequence[dict[str, Found]]):
        super().__init__(message)
        self.rank, self.exit_code, self.results = rank, exit_code, list(results)


def run(
    tasks: Sequence[Task], ranks: int | None = None, backend: str = "gloo", timeout: float = 120.0
) -> list[dict[str, Found]]:
    """Run references one after the other on one pool of ranks.

    Parameters
    ----------
    tasks : sequence of Task
        Each by another name.
    ranks : int, optional
        Of the pool; default as many as the largest task has.
    backend : str
        gloo, on processors, or nccl, with a GPU for every rank.
    timeout : float
        Seconds for all tasks, from when the ranks have started.

    Returns
    -------
    list of dict
        For each rank, what each reference returned on it, by name, and by direction and kind the bytes it ``sent``
        and in how many ``messages``.

    Raises
    ------
    RankFailed
        When a rank ends early or the time is up.
    InputError
        For a backend, a number of ranks or names that cannot be.
    """
    most = max((task.ranks for task in tasks), default=1)
    count = most if ranks is None else ranks
    _check(tasks, count, most, backend, timeout)
    with tempfile.TemporaryDirectory(prefix="commlens-") as name:
        folder = Path(name)
        pool = _Pool(Order(tuple(tasks), count, backend, timeout), folder)
        try:
            pool.watch()
        finally:
            pool.bury()
        return [pool.found(rank) for rank in range(count)]


def _check(tasks: Sequence[Task], count: int, most: int, backend: str, timeout: float) -> None:
    if backend not in BACKENDS:
        raise InputError(f"backend: {backend!r} (legal: {', '.join(BACKENDS)})")
    if not most <= count <= 64:
        raise InputError(f"ranks: {count} (legal: {most} to 64)")
    if not 0 < timeout < 86_400:
        raise InputError(f"timeout: {timeout} s (legal: above 0, below a day)")
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError("references: two of one name (legal: each by another)")
    if find_spec("torch") is None:
        raise InputError("references: torch is not installed (legal: pip install 'commlens[torch]')")
    if backend == "nccl":
        import torch

        if torch.cuda.device_count() < count:
            raise InputError(f"backend: nccl: {torch.cuda.device_count()} GPUs for {count} ranks (legal: gloo)")


@dataclass
class _Pool:
    """Processes of a run."""

    order: Order
    folder: Path
    processes: dict[int, int] = field(default_factory=dict)  # by rank
    ended: dict[int, int] = field(default_factory=dict)  # exit codes by rank

    def __post_init__(self) -> None:
        (self.folder / "order.pickle").write_bytes(pickle.dumps(self.order))
        self.said = (self.folder / "parent.err").open("w", encoding="utf-8")
        worker = f"{__package__}.worker"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.parent = subprocess.Popen(
            [sys.executable, "-m", worker, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=environment,
        )

    def watch(self) -> None:
        """Until all ranks have ended well; otherwise raise."""
        deadline = time.monotonic() + SECONDS_TO_LOAD
        while len(self.ended) < self.order.ranks:
            started = len(self.processes)
            open_ended = self._listen(deadline - time.monotonic())
            if not started and self.processes:
                deadline = time.monotonic() + self.order.timeout
            if any(self.ended.values()):
                self._listen(0.0)
                raise self._failed()
            if not open_ended and len(self.ended) < self.order.ranks:
                raise self._unborn()
            if time.monotonic() >= deadline and len(self.ended) < self.order.ranks:
                raise self._hung() if self.processes else self._unborn()

    def _listen(self, seconds: float) -> bool:
        """Take in what the parent of the ranks says within some time; False when it says no more."""
        out = self.parent.stdout
        assert out is not None
        with selectors.DefaultSelector() as ready:
            ready.register(out, selectors.EVENT_READ)
            if not ready.select(max(0.0, seconds)):
                return True
        text = os.read(out.fileno(), 65_536)
        for line in text.splitlines():  # written whole, being shorter than what a pipe keeps together
            what = json.loads(line)
            if "process" in what:
                self.processes[what["rank"]] = what["process"]
            else:
                self.ended[what["rank"]] = what["ended"]
        return bool(text)

    def bury(self) -> None:
        """End what is left, and wait for it."""
        out, orders = self.parent.stdout, self.parent.stdin
        assert out is not None
        assert orders is not None
        with suppress(OSError):
            orders.close()  # the parent of the ranks ends those it still has, and then itself
        if not self.processes:
            self.parent.kill()  # it may be loading torch still
        try:
            self.parent.wait(10.0)
        except subprocess.TimeoutExpired:
            self.parent.kill()
            self.parent.wait()
        out.close()
        self.said.close()

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """What a rank wrote down."""
        file = self.folder / f"{rank}.jsonl"
        if not file.exists():
            return []
        whole = file.read_text(encoding="utf-8").rpartition("\n")[0]  # the last line may be half a line
        return [json.loads(line) for line in whole.splitlines()]

    def found(self, rank: int) -> dict[str, Found]:
        """What a rank found, by name of the reference."""
        return {self.order.tasks[line["ends"]].name: line["found"] for line in self.lines(rank) if "ends" in line}

    def _failed(self) -> RankFailed:
        """Of ranks that ended badly, the one that is the cause: the others only lose their connections to it."""

        def when(rank: int) -> tuple[bool, float]:
            told = [line["at"] for line in self.lines(rank) if "failed" in line]
            return self.ended[rank] > 0, told[0] if told else 0.0

        rank = min((rank for rank, code in self.ended.items() if code), key=when)
        code = self.ended[rank]
        told = [line["error"] for line in self.lines(rank) if "failed" in line]
        how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", from outside or for want of memory"
        said = told[0] if told else self._last_words(f"{rank}.err")
        return self._failure(rank, code, f"{how}{': ' + said if said else ''}")

    def _hung(self) -> RankFailed:
        """Of ranks that are not at the end, the one that waits for no other; told by where each of them is."""
        alive = [rank for rank in range(self.order.ranks) if rank not in self.ended]
        for rank in alive:
            with suppress(ProcessLookupError):
                os.kill(self.processes[rank], signal.SIGUSR1)
        time.sleep(GRACE)
        places = {rank: self._innermost(rank) for rank in alive}
        rank = min(alive, key=lambda rank: ("ranks.py" in places[rank] or "distributed" in places[rank], rank))
        return self._failure(rank, None, f"not at its end after {self.order.timeout:g} s, {places[rank]}")

    def _failure(self, rank: int, code: int | None, what: str) -> RankFailed:
        begun = [line["begins"] for line in self.lines(rank) if "begins" in line]
        where = f"in {self.order.tasks[begun[-1]].name}" if begun else "before the first reference"
        results = [self.found(one) for one in range(self.order.ranks)]
        return RankFailed(f"references: rank {rank} of {self.order.ranks}, {where}: {what}", rank, code, results)

    def _unborn(self) -> RankFailed:
        said = self._last_words("parent.err") or "no word of why"
        what = "the process that starts the ranks ended" if self.processes else "no ranks could be started"
        results = [self.found(one) for one in range(self.order.ranks)]
        return RankFailed(f"references: {what}: {said}", 0, None, results)

    def _innermost(self, rank: int) -> str:
        """Innermost place in our own files of a stack that `faulthandler` wrote."""
        text = (self.folder / f"{rank}.err").read_text(encoding="utf-8", errors="replace")
        frames = [line.strip() for line in text.splitlines() if line.startswith("  File ")]
        return next((f"at {frame.removeprefix('File ')}" for frame in frames), "nobody knows where")

    def _last_words(self, name: str) -> str:
        lines = (self.folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
