"""One session of measuring: every result is on disk as soon as it is there, and a session that was cut short goes on.

The file is JSON lines: the environment first, then a row per kernel, as measured or as unsupported with the reason.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...hardware.errors import InputError
from .environment import differences
from .kernels import Broken, Unsupported, reason
from .shapes import Case
from .timing import Run, Timing

FORMAT = 1
Report = Callable[[int, int, str], None]
"""Takes kernels done, kernels in all, and what is measured now."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came out of a kernel.

    Parameters
    ----------
    case : Case
    timing : Timing or None
        None where it does not run here.
    reason : str
        Why it does not.
    """

    case: Case
    timing: Timing | None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        said = {"unsupported": self.reason} if self.timing is None else {**asdict(self.timing)}
        return {**self.case.to_dict(), **said}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row that `to_dict` wrote."""
        case = Case(*(data[name] for name in ("kind", "shape", "dtype", "operation", "tool")))
        if "unsupported" in data:
            return cls(case, None, str(data["unsupported"]))
        names = ("seconds", "low", "high", "wall", "repetitions", "reference")
        timing = Timing(*(data[name] for name in names))
        if not 0 < timing.seconds < float("inf"):
            raise ValueError(f"seconds {timing.seconds}")
        return cls(case, timing)


@dataclass
class Session:
    """Results beside a file that they are appended to.

    Parameters
    ----------
    path : Path
    environment : mapping
        Of this machine, and what was measured of it before all else.
    rows : list of Row
    interrupted : bool
        Whether somebody stopped it.
    late : int
        Kernels that the time did not suffice for.
    failure : str
        Why the device runs nothing any more, where that ended it.
    """

    path: Path
    environment: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)
    interrupted: bool = False
    late: int = 0
    failure: str = ""

    @classmethod
    def begin(cls, path: Path, environment: Mapping[str, Any]) -> Session:
        """A new session; results that the file held are moved beside it, to the same name with .old.

        Raises
        ------
        InputError
            For a file that cannot be written.
        """
        made = cls(path, environment)
        try:
            if path.exists():
                path.replace(path.with_name(f"{path.name}.old"))
        except OSError as problem:
            raise InputError(f"--out: cannot write {path}: {problem.strerror or problem}") from None
        made._write({"format": FORMAT, "environment": environment})
        return made

    @classmethod
    def resume(cls, path: Path, environment: Mapping[str, Any]) -> Session:
        """The session that a file holds.

        Raises
        ------
        InputError
            For a file that is not there, of another machine, or damaged other than in a last line cut short.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            why = getattr(problem, "strerror", None) or "is not UTF-8 text"
            raise InputError(f"--resume: {path}: {why} (legal: results that were measured here)") from None
        rows: list[Row] = []
        head: Mapping[str, Any] = {}
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
                if number == 1:
                    head = data["environment"] if data["format"] == FORMAT else data["format not known"]
                else:
                    rows.append(Row.from_dict(data))
            except (ValueError, KeyError, TypeError):
                if 1 < number == len(lines):
                    break  # cut short while it was written
                raise InputError(f"{path}: line {number}: damaged (legal: what calibrate compute writes)") from None
        if not isinstance(head, Mapping) or not head:
            raise InputError(f"{path}: line 1: no environment (legal: what calibrate compute writes)")
        other = differences(environment, head)
        if other:
            said = "; ".join(other)
            raise InputError(f"--resume: {path}: measured elsewhere: {said} (legal: a file of this machine)")
        made = cls(path, head, list({row.case.key: row for row in rows}.values()))  # the last of each
        # Without a line cut short; written beside it, so that a full disk takes nothing.
        beside = replace(made, path=path.with_name(f"{path.name}.new"))
        try:
            beside._write({"format": FORMAT, "environment": head}, "w")
            for row in made.rows:
                beside._write(row.to_dict())
            beside.path.replace(path)
        except OSError as problem:
            raise InputError(f"--resume: cannot write {path}: {problem.strerror or problem}") from None
        finally:
            beside.path.unlink(missing_ok=True)
        return made

    def measure(
        self,
        cases: Sequence[Case],
        make: Callable[[Case], Run],
        timer: Callable[[Run], Timing],
        report: Report | None = None,
        deadline: float = float("inf"),
    ) -> None:
        """Measure what is not there yet; an interrupt ends it, and so does a broken device: what is there is kept.

        Parameters
        ----------
        cases : sequence of Case
        make : callable
            Makes a kernel or raises `Unsupported`.
        timer : callable
        report : callable, optional
            Is told of the progress.
        deadline : float
            On the clock of `time.monotonic` [s]; kernels after it are counted in `late`.
        """
        done = {row.case.key for row in self.rows}
        left, number = [case for case in cases if case.key not in done], 0
        try:
            for number, case in enumerate(left):
                if time.monotonic() > deadline:
                    self.late = len(left) - number
                    return
                if report is not None:
                    report(len(cases) - len(left) + number, len(cases), case.key)
                try:
                    row = _measured(case, make, timer)
                except Broken as problem:
                    self.failure, row = str(problem), Row(case, None, str(problem))
                self.rows.append(row)
                self._write(row.to_dict())
                if self.failure:
                    self.late = len(left) - number - 1
                    return
        except KeyboardInterrupt:
            self.interrupted, self.late = True, len(left) - number
        if report is not None and not self.interrupted:
            report(len(cases), len(cases), "")

    def _write(self, data: Mapping[str, Any], mode: str = "a") -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(data) + "\n")
        except OSError as problem:
            raise InputError(f"--out: cannot write {self.path}: {problem.strerror or problem}") from None


def _measured(case: Case, make: Callable[[Case], Run], timer: Callable[[Run], Timing]) -> Row:
    try:
        return Row(case, timer(make(case)))
    except Unsupported as problem:
        return Row(case, None, str(problem))
    except (RuntimeError, MemoryError) as problem:  # ran once, and not again
        return Row(case, None, reason(problem))
