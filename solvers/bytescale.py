"""Hybrid data parallelism: each sequence takes the ranks it needs, and ranks go on without waiting for a step's rest.

ByteScale (arXiv 2502.21231). What fits one rank is packed and exchanges nothing; the rest is divided evenly over
any number of ranks. Without offload that is ceil(s / C). With it, equation 3 gives the fewest ranks whose memory
holds the sequence, and any number between may be taken: the plan takes the most that cost no more rank-seconds
than the cheapest does, since fewer ranks help as long as messages are what the ring waits for, and beyond that
only make the longest sequence take longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError, nearest
from .balance import Placement, Work, by_class, finish_times, in_turn, level
from .hybrid_costs import Floats, HdpCosts
from .offload import needed_ratio, smallest_degree
from .packing import best_fit
from .sequence_input import token_counts
from .sequences import SequencePlan, Share

Integers = NDArray[np.int64]
Balance = Literal["dp", "pp", "none"]
Progress = Callable[[int, int], None]

# Rank-seconds this much above the least count as equal: the last ring step, which sends nothing, is one of D.
_EQUAL = 1e-3
_CLASSES = (2, 3, 4)  # of lengths that PP-balance tries; more leave too few pipelines to each


def plan_bytescale(
    lengths: ArrayLike,
    costs: HdpCosts,
    ranks: int,
    *,
    balance: Balance = "dp",
    offload: bool = True,
    pp: int = 1,
    progress: Progress | None = None,
) -> SequencePlan:
    """Plan a batch; see the module for how many ranks a sequence takes, and `balance` for which.

    Parameters
    ----------
    lengths : array_like of int, shape (sequences,)
    costs : HdpCosts
        Of one stage of a pipeline.
    ranks : int
        Of the hybrid dimension: data times context parallelism.
    balance : {"dp", "pp", "none"}
        "none" deals out ranks in order; the others never end later than that.
    offload : bool
        Whether activations may go to host memory.
    pp : int
        Stages of each pipeline.
    progress : callable, optional
        Called with (done, of).

    Returns
    -------
    SequencePlan
        Without barrier. A sequence on several ranks is alone in its share; the part of it that is offloaded is
        the r of equation 3, of all layers but the first and the last.

    Raises
    ------
    InputError
        For lengths that no plan holds, and other values out of range.
    """
    begin = perf_counter()
    if balance not in get_args(Balance):
        legal = ", ".join(get_args(Balance))
        raise InputError(f"balance: {balance!r} (legal: {legal}){nearest(str(balance), get_args(Balance))}")
    _whole(ranks=ranks, pp=pp)
    given = token_counts(lengths)
    works = _works(given, costs, ranks, offload)
    steps: dict[str, Callable[[], Placement | None]] = {"none": lambda: in_turn(works, ranks)}
    if balance != "none":
        steps["dp"] = lambda: level(works, ranks)
    if balance == "pp":
        for count in _CLASSES:
            steps[f"pp, {count} classes"] = partial(by_class, works, ranks, pp, count)
    best: tuple[float, str, Placement] | None = None
    for number, (name, place) in enumerate(steps.items()):
        placement = place()
        if placement is not None:
            end = float(finish_times(placement, ranks, pp).max())
            if best is None or end < best[0]:
                best = (end, name, placement)
        if progress:
            progress(number + 1, len(steps))
    assert best is not None  # dealing out in turn always succeeds
    wide = sum(work.width > 1 for work in works)
    notes = [f"{wide} sequences on 2 to {max(w.width for w in works)} ranks, {len(works) - wide} packs on one"]
    if not best[1].startswith(balance):
        notes.append(f"balance {balance} ends no earlier than {best[1]}, whose placement is taken")
    return SequencePlan(
        "bytescale",
        ranks,
        waves(best[2], ranks),
        best[0],
        bound=min(best[0], _bound(given, costs, ranks, pp)),
        barrier=False,
        seconds=perf_counter() - begin,
        notes=tuple(notes),
    )


def plan_megascale(lengths: ArrayLike, costs: HdpCosts, ranks: int, cp: int, *, pp: int = 1) -> SequencePlan:
    """The baseline: data x context parallelism, every sequence of a pack divided over all `cp` ranks of a group.

    The ring passes on all tokens of the pack in each of its cp - 1 steps, whatever the sequences are.

    Raises
    ------
    InputError
        For a sequence longer than a group holds, or groups wider than the ranks there are.
    """
    begin = perf_counter()
    _whole(ranks=ranks, cp=cp, pp=pp)
    if cp > ranks:
        raise InputError(f"cp: {cp} (legal: 1 to {ranks}, the ranks there are)")
    given = token_counts(lengths)
    longest = int(given.argmax())
    if given[longest] > cp * costs.capacity:
        raise InputError(
            f"lengths[{longest}]: {given[longest]} tokens need groups of {-(-given[longest] // costs.capacity)} ranks "
            f"(legal: 1 to {cp * costs.capacity}, cp {cp} of {costs.capacity} tokens)"
        )
    packs = best_fit(given, cp * costs.capacity)
    works = _packs(given, packs, cp, costs)
    placement = in_turn(works, ranks // cp * cp)
    end = float(finish_times(placement, ranks, pp).max())
    return SequencePlan("megascale", ranks, waves(placement, ranks), end, barrier=False, seconds=perf_counter() - begin)


def played(plan: SequencePlan, costs: HdpCosts, lengths: ArrayLike, pp: int = 1) -> Floats:
    """Seconds at which each rank ends when the plan is worked off in its order; see `balance.finish_times`."""
    given = np.asarray(lengths, dtype=float)
    placement: Placement = []
    for share in (share for shares in plan.micro_batches for share in shares):
        width = len(share.ranks)
        work = Work(share.sequences, width, costs.time(given[list(share.sequences)], width))
        placement.append((work, np.array(share.ranks)))
    return finish_times(placement, plan.ranks, pp)


def waves(placement: Placement, ranks: int) -> tuple[tuple[Share, ...], ...]:
    """Micro-batches in which no rank is twice and each keeps its order."""
    begun = np.zeros(ranks, dtype=np.int64)
    found: list[list[Share]] = []
    for work, group in placement:
        number = int(begun[group].max())
        begun[group] = number + 1
        if number == len(found):
            found.append([])
        found[number].append(Share(tuple(group.tolist()), work.sequences, work.offload))
    return tuple(map(tuple, found))


def degrees(lengths: Integers, costs: HdpCosts, ranks: int, offload: bool = True) -> Integers:
    """Ranks each sequence is given.

    Raises
    ------
    InputError
        For a sequence that even all ranks do not hold.
    """
    most = -(-lengths // costs.capacity)
    least = np.minimum(most, smallest_degree(lengths, costs)) if offload else most
    worst = int(least.argmax())
    if least[worst] > ranks:
        how = "offloading what it hides" if offload else "without offload"
        raise InputError(
            f"lengths[{worst}]: {lengths[worst]} tokens need {least[worst]} ranks or more of {costs.capacity} tokens "
            f"{how}, and there are {ranks} (legal: 1 to {_longest(costs, ranks, offload)})"
        )
    most = np.minimum(most, ranks)
    taken = most.copy()
    for i in np.flatnonzero(least < most).tolist():
        choice = np.arange(least[i], most[i] + 1)
        cost = choice * costs.times(lengths[i], choice)
        taken[i] = choice[np.flatnonzero(cost <= cost.min() * (1 + _EQUAL))[-1]]
    return taken


def _longest(costs: HdpCosts, ranks: int, offload: bool) -> int:
    """Tokens that so many ranks hold."""
    low, high = ranks * costs.capacity, ranks * costs.capacity * (costs.layers if offload else 1)
    while offload and low < high:
        middle = (low + high + 1) // 2
        fits = int(smallest_degree([middle], costs)[0]) <= ranks
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _works(lengths: Integers, costs: HdpCosts, ranks: int, offload: bool) -> list[Work]:
    """Sequences of more than a rank's tokens one by one, in the order of the batch, then packs of the others."""
    long = np.flatnonzero(lengths > costs.capacity)
    taken = degrees(lengths, costs, ranks, offload)[long]
    times = costs.times(lengths[long], taken)
    ratio = needed_ratio(lengths[long], taken, costs)
    works = [
        Work((int(i),), int(width), float(time), float(part))
        for i, width, time, part in zip(long, taken, times, ratio, strict=True)
    ]
    short = np.flatnonzero(lengths <= costs.capacity)
    packs = [short[pack].tolist() for pack in best_fit(lengths[short], costs.capacity)]
    return works + _packs(lengths, packs, 1, costs)


def _packs(lengths: Integers, packs: Sequence[Sequence[int]], width: int, costs: HdpCosts) -> list[Work]:
    if not packs:
        return []
    s = lengths[np.concatenate(packs)].astype(float)
    begin = np.cumsum([0, *map(len, packs[:-1])])
    times = costs.group_times(np.add.reduceat(s * s, begin), np.add.reduceat(s, begin), width)
    return [Work(tuple(pack), width, time) for pack, time in zip(packs, times.tolist(), strict=True)]


def _bound(lengths: Integers, costs: HdpCosts, ranks: int, pp: int) -> float:
    """Seconds no plan stays under: all compute spread evenly, or the longest sequence on its best degree."""
    choice = np.arange(1, ranks + 1)
    alone = float(costs.times(int(lengths.max()), choice).min())
    return max(float(costs.compute(lengths).sum()) / ranks, pp * alone)


def _whole(**values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{name}: {value!r} (legal: a whole number, 1 or more)")
