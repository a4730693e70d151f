"""Sequence parallelism that adapts to the batch: groups of unlike degree beside each other (FlexSP).

A batch is cut into micro-batches of sequences of like length (`blaster`); in each, sequences are counted by
bucket (`bucketing`) and groups of any degree are formed such that the slowest is as fast as it can be
(`group_planner`, then `group_program`). Several numbers of micro-batches are tried and the best plan is
kept; it is never worse than the best plan of one degree for the whole batch (`static_sequences`).

Source: FlexSP, arXiv 2412.01523. Its published code also asks that all ranks be used and every group hold a
sequence, which only ever costs time, and charges unused groups the fixed time, which changes nothing. It
leaves out degree 1; so does a plan whose costs name no bandwidth for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError
from .blaster import chunks
from .bucketing import Buckets, buckets, rounding
from .group_planner import Groups, Task, measured, quick, relaxed, task
from .group_program import program
from .sequence_input import checked, shares
from .sequences import SequenceCosts, SequencePlan
from .static_sequences import plan_adaptive

_PROVED = 1e-4  # a smaller gap is the tolerance of the programs
_LARGEST = 30_000  # counts of sequences by group beyond which an integer program is hopeless
_SHORTEST = 0.05  # seconds below which it is not begun


@dataclass
class _Chunk:
    """A micro-batch: its sequences, longest first, the best groups known, and the time none are below."""

    order: NDArray[np.int64]
    work: Task
    groups: Groups | None
    least: float

    @property
    def time(self) -> float:
        return self.groups.time if self.groups else inf


@dataclass
class _Trial:
    """A batch cut into micro-batches."""

    chunks: list[_Chunk]

    @property
    def time(self) -> float:
        return sum(chunk.time for chunk in self.chunks)

    @property
    def least(self) -> float:
        return sum(chunk.least for chunk in self.chunks)


def plan_flexsp(
    lengths: ArrayLike,
    costs: SequenceCosts,
    ranks: int,
    *,
    buckets: int = 16,
    trials: int = 5,
    time_limit: float = 10.0,
    programs: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SequencePlan:
    """Plan a batch.

    Parameters
    ----------
    lengths : array_like of int, shape (sequences,)
        Tokens of each.
    costs : SequenceCosts
    ranks : int
    buckets : int
        Different lengths the integer program tells apart.
    trials : int
        Numbers of micro-batches tried, from the least that memory allows.
    time_limit : float
        Of all the planning [s].
    programs : bool
        Ask integer programs to improve the quick plans. Without them the answer does not depend on how
        fast the machine is, unless the time limit is reached.
    progress : callable, optional
        Called with (done, of).

    Returns
    -------
    SequencePlan
        Its bound holds for every plan of this cost model, however the batch is cut.

    Raises
    ------
    InputError
        For lengths that no plan holds, and options out of range.
    """
    begin = perf_counter()
    for name, value, smallest in (("buckets", buckets, 1), ("trials", trials, 1), ("time_limit", time_limit, 0)):
        if not value >= smallest:
            raise InputError(f"{name}: {value} (legal: {smallest} or more)")
    given = checked(lengths, costs, ranks)
    until = begin + time_limit
    best = replace(plan_adaptive(given, costs, ranks), method="flexsp")
    fewest = ceil(int(given.sum()) / (ranks * costs.tokens))
    counts = [m for m in range(fewest, fewest + trials) if m <= len(given)]
    least = relaxed(task(np.sort(given)[::-1], costs, ranks))
    late = False
    found: list[_Trial] = []
    for done, count in enumerate(counts):
        if count * costs.fixed + least >= min([best.time, *(trial.time for trial in found)]):
            break  # no plan of so many micro-batches is as fast
        if late := done > 0 and perf_counter() >= until:
            break
        found.append(_trial(given, costs, ranks, count, until))
        if progress:
            progress(done + 1, len(counts) + 1)
    late = (programs and _improve(found, buckets, until, best.time)) or late or perf_counter() >= until
    # Were they all one micro-batch, sequences could use every idle second; more of them only add their fixed time.
    bound = fewest * costs.fixed + least
    if found and len(found[0].chunks) == 1:  # one may have been bounded better; then two are the other possibility
        bound = min(found[0].least, 2 * costs.fixed + least)
    for trial in found:
        if trial.time < best.time:
            best = _written(trial, ranks, buckets)
    if progress:
        progress(len(counts) + 1, len(counts) + 1)
    bound = min(bound, best.time)
    status = "optimal" if best.time <= bound * (1 + _PROVED) else "time limit" if late else "heuristic"
    tried = ", ".join(str(len(trial.chunks)) for trial in found) or "no"
    return replace(
        best,
        bound=bound,
        status=status,
        seconds=perf_counter() - begin,
        notes=(*best.notes, f"{tried} micro-batches tried"),
    )


def _trial(lengths: NDArray[np.int64], costs: SequenceCosts, ranks: int, count: int, until: float) -> _Trial:
    """Cut the batch into so many micro-batches and plan each quickly."""
    found = []
    for part in chunks(lengths, count):
        order = part[::-1]
        work = task(lengths[order], costs, ranks)
        found.append(_Chunk(order, work, quick(work, until), work.fixed + relaxed(work)))
    return _Trial(found)


def _improve(trials: list[_Trial], count: int, until: float, known: float) -> bool:
    """Give the time left to integer programs, most promising trials first; return whether it was too short."""
    short = False
    for place, trial in enumerate(sorted(trials, key=lambda trial: (trial.time, trial.least))):
        for rest, chunk in enumerate(sorted(trial.chunks, key=lambda chunk: chunk.least - chunk.time)):
            best = min([known, *(other.time for other in trials)])
            if trial.least >= best * (1 - _PROVED) or chunk.least >= chunk.time * (1 - _PROVED):
                continue
            left = until - perf_counter()
            rounded = buckets(chunk.work.lengths, count)
            size = sum(chunk.work.ranks // int(d) for d in chunk.work.degrees) * len(rounded.upper)
            if left < _SHORTEST or size > _LARGEST:
                short = True
                continue
            # Half of what is left goes to this trial, for others may turn out better; the last has all of it.
            turns = (len(trial.chunks) - rest) * (1 if place == len(trials) - 1 else 2)
            short = not _programmed(chunk, rounded, left / turns) or short
    return short


def _programmed(chunk: _Chunk, rounded: Buckets, time_limit: float) -> bool:
    """Ask the integer program for better groups; return whether it came to an end."""
    begin = perf_counter()
    exact = bool((rounded.rounded == chunk.work.lengths).all())
    work = chunk.work if exact else _rounded(chunk.work, rounded)
    start = chunk.groups if exact else quick(work, begin + time_limit / 4)
    left = max(_SHORTEST, time_limit - (perf_counter() - begin))
    answer = program(work, rounded.of, start, work.fixed + relaxed(work), left)
    if answer.groups is not None:
        groups = measured(chunk.work, answer.groups.degrees, answer.groups.members)
        if groups.time < chunk.time:
            chunk.groups = groups
    if exact:
        chunk.least = max(chunk.least, answer.bound)
    return answer.optimal


def _rounded(work: Task, rounded: Buckets) -> Task:
    """The same sequences as long as the longest of their bucket."""
    _, first = np.unique(rounded.of, return_index=True)  # longest first, so the first of a bucket is its longest
    return work._replace(lengths=rounded.rounded, seconds=work.seconds[:, first[rounded.of]])


def _written(trial: _Trial, ranks: int, count: int) -> SequencePlan:
    """As a plan of the batch, with what is known of its quality."""
    parts, added, tokens = [], 0.0, 0
    for chunk in trial.chunks:
        assert chunk.groups is not None
        groups = zip(chunk.groups.degrees, chunk.groups.members, strict=True)
        parts.append(shares([(degree, chunk.order[list(some)].tolist()) for degree, some in groups]))
        total = int(chunk.work.lengths.sum())
        added += rounding(chunk.work.lengths, buckets(chunk.work.lengths, count)) * total
        tokens += total
    return SequencePlan(
        "flexsp",
        ranks,
        tuple(parts),
        trial.time,
        notes=(
            f"these micro-batches cannot be more than {max(0.0, 1 - trial.least / trial.time):.1%} faster",
            f"{count} buckets add {added / tokens:.1%} tokens",
        ),
    )
