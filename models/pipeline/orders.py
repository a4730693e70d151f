"""What each stage of a pipeline runs, in which order, and how many activations that holds.

A stage runs slots: the forward pass (F), the backward pass (B) and, where the schedule splits it
off, the gradient of the weights (W) of one micro-batch through one of its chunks.

Sources: GPipe arXiv 1811.06965; 1F1B arXiv 1806.03377; interleaved arXiv 2104.04473; ZB-H1 arXiv
2401.10241; DualPipe arXiv 2412.19437, its steps after the authors' published code (recalled); combined 1F1B as
Megatron-Core overlaps the exchanges of experts (its file of that name, recalled).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...hardware.errors import InputError

SEARCHED = ("gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe")
"""Those that a search tries where it is not told."""

SCHEDULES = (*SEARCHED, "combined-1f1b")

CHUNKED = ("1f1b", "interleaved", "combined-1f1b")
"""Schedules of one chunk a stage or several."""

JOINT = ("dualpipe", "combined-1f1b")
"""Schedules that run a forward pass and a backward pass of another micro-batch as one."""

SPLIT = frozenset({"zero-bubble", "dualpipe"})
"""Schedules that run the gradient of the weights apart from that of the input."""


class Slot(NamedTuple):
    """One pass of one micro-batch through one chunk.

    Parameters
    ----------
    kind : str
        "F", "B" or "W".
    chunk : int
        Which chunk of the stage.
    micro_batch : int
    joined : bool
        Runs as one with the slot before it: a forward and a backward pass of two micro-batches overlap, or the
        weight gradients are not taken apart after all (dualpipe).
    """

    kind: str
    chunk: int
    micro_batch: int
    joined: bool = False


def actual(schedule: str, vp: int) -> str:
    """Name of the schedule that runs: 1F1B of several chunks is the interleaved one."""
    return "interleaved" if schedule == "1f1b" and vp > 1 else schedule


def check(schedule: str, pp: int, vp: int, micro_batches: int) -> None:
    """Refuse what has no meaning.

    Parameters
    ----------
    schedule : str
    pp, vp, micro_batches : int

    Raises
    ------
    InputError
        An unknown schedule; fewer than 1 stage, chunk or micro-batch; chunks where the schedule has
        no place for them; dualpipe's halves.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"plan.schedule: {schedule!r} (legal: {', '.join(SCHEDULES)})")
    for key, value in (("pp", pp), ("vp", vp), ("micro_batches", micro_batches)):
        if value < 1:
            raise InputError(f"plan.{key}: {value} (legal: 1 or more)")
    if vp > 1 and schedule not in CHUNKED:
        raise InputError(f"plan.vp: {vp} with schedule {schedule} (legal: 1; more with {', '.join(CHUNKED)})")
    if schedule == "dualpipe":
        if pp % 2:
            raise InputError(f"plan.pp: {pp} with schedule dualpipe (legal: 2, 4, 6, ...)")
        if micro_batches % 2 or micro_batches < pp:
            raise InputError(f"micro-batches: {micro_batches} with schedule dualpipe (legal: even, {pp} or more)")


def legal(schedule: str, pp: Any, vp: Any, micro_batches: Any) -> Any:
    """Where `check` finds nothing wrong; degrees of 1 or more, which may be arrays."""
    fits = np.logical_and(np.greater_equal(pp, 1), np.greater_equal(micro_batches, 1))
    if schedule not in CHUNKED:
        fits = fits & np.equal(vp, 1)
    if schedule == "dualpipe":
        halves = np.equal(np.mod(pp, 2), 0) & np.equal(np.mod(micro_batches, 2), 0)
        fits = fits & halves & np.greater_equal(micro_batches, pp)
    return fits[()]


@lru_cache(maxsize=1024)
def order(schedule: str, pp: int, vp: int, stage: int, micro_batches: int) -> tuple[Slot, ...]:
    """Slots of one stage, in the order they run.

    Parameters
    ----------
    schedule : str
        One of `SCHEDULES`; 1f1b with several chunks is the interleaved one.
    pp, vp : int
        Stages, and chunks of each (1 for dualpipe, whose two chunks are its two directions).
    stage : int
        From 0 to ``pp - 1``.
    micro_batches : int

    Raises
    ------
    InputError
        As `check`.
    """
    check(schedule, pp, vp, micro_batches)
    make: Callable[[int, int, int, int], Iterable[Sequence[Slot]]] = _ORDERS[actual(schedule, vp)]
    return tuple(
        slot._replace(joined=place > 0)
        for group in make(pp, vp, stage, micro_batches)
        for place, slot in enumerate(group)
    )


def _gpipe(pp: int, vp: int, stage: int, micro_batches: int) -> Iterable[Sequence[Slot]]:
    """All forward passes, then all backward passes."""
    for kind in "FB":
        for index in range(micro_batches):
            yield (Slot(kind, 0, index),)


def _interleaved(pp: int, vp: int, stage: int, micro_batches: int, combined: bool = False) -> Iterable[Sequence[Slot]]:
    """Forward and backward passes in turn after a warm-up; chunks take turns every pp micro-batches.

    One chunk is plain 1F1B. Where micro-batches do not fill the last round, its missing ones are
    left out of the order of full rounds, which cannot deadlock: it lacks slots, not dependencies. Combined, a
    forward and a backward pass are one, so the forward one has to be of a later micro-batch, one more in flight.
    """
    rounds = -(-micro_batches // pp)
    forward = [Slot("F", v, r * pp + k) for r in range(rounds) for v in range(vp) for k in range(pp)]
    backward = [Slot("B", vp - 1 - slot.chunk, slot.micro_batch) for slot in forward]
    warm = min(_warm_up(pp, vp, stage, combined), len(forward))
    pairs: Iterable[Sequence[Slot]] = zip(forward[warm:], backward, strict=False)
    turns = pairs if combined else [(slot,) for pair in pairs for slot in pair]
    first, last = ([(slot,) for slot in some] for some in (forward[:warm], backward[len(forward) - warm :]))
    for group in (*first, *turns, *last):
        there = tuple(slot for slot in group if slot.micro_batch < micro_batches)
        if there:
            yield there


def _combined(pp: int, vp: int, stage: int, micro_batches: int) -> Iterable[Sequence[Slot]]:
    return _interleaved(pp, vp, stage, micro_batches, combined=True)


def _warm_up(pp: Any, vp: Any, stage: Any, combined: bool = False) -> Any:
    """Forward passes before the first pair: a stage before the last has its round trip to fill.

    Combined, a pass is sent on when the pair is through, which takes a round more.
    """
    behind, turns = pp - 1 - stage, 2 * (pp - 1 - stage) + (np.asarray(vp) - 1) * pp
    return turns + 1 if combined else np.where(np.equal(vp, 1), behind, turns)[()]


def _zero_bubble(pp: int, vp: int, stage: int, micro_batches: int) -> Iterable[Sequence[Slot]]:
    """1F1B whose weight gradients come `stage` micro-batches late: no more is held than by stage 0."""
    done = 0
    for (slot,) in _interleaved(pp, 1, stage, micro_batches):
        yield (slot,)
        if slot.kind == "B" and slot.micro_batch >= stage:
            yield (Slot("W", 0, done),)
            done += 1
    for late in range(done, micro_batches):
        yield (Slot("W", 0, late),)


def _dualpipe(pp: int, vp: int, stage: int, micro_batches: int) -> Iterable[Sequence[Slot]]:
    """Micro-batches enter at both ends; even ones run through chunk 0, odd ones through chunk 1.

    Way 0 below is the direction that enters at the nearer end of the pipeline, way 1 the other.
    Fewer micro-batches than two per stage leave slots of the order of two per stage out.
    """
    half = pp // 2
    rank = min(stage, pp - 1 - stage)  # from the nearer end
    behind = half - 1 - rank
    flip = int(stage >= half)
    per_direction = max(micro_batches // 2, pp)
    count = {"F": [0, 0], "B": [0, 0]}
    late: list[Slot] = []
    found: list[tuple[Slot, ...]] = []

    def take(kind: str, way: int) -> Slot:
        index = count[kind][way]
        count[kind][way] += 1
        chunk = way ^ flip
        return Slot(kind, chunk, 2 * index + chunk)

    def forward(way: int) -> None:
        found.append((take("F", way),))

    def backward(way: int, apart: bool = False) -> None:
        slot = take("B", way)
        weight = Slot("W", slot.chunk, slot.micro_batch)
        found.append((slot,) if apart else (slot, weight))
        if apart:
            late.append(weight)

    def both(way: int) -> None:
        slot, other = take("F", way), take("B", 1 - way)
        found.append((slot, other, Slot("W", other.chunk, other.micro_batch)))

    def weight() -> None:
        found.append((late.pop(0),))

    for _ in range(2 * behind):
        forward(0)
    for _ in range(rank + 1):
        forward(0)
        forward(1)
    for _ in range(behind):
        backward(1, apart=True)
        weight()
        forward(1)
    for index in range(per_direction - pp + rank + 1):
        if index == 0 and behind == 0:  # the two middle ranks start apart: it shortens the bubble
            forward(0)
            backward(1)
        else:
            both(0)
        both(1)
    for _ in range(behind):
        backward(1)
        both(1)
    for index in range(rank + 1):
        middle = (rank + 1) // 2
        backward(1, apart=index > middle or (index == middle and rank % 2 == 1))
        backward(0, apart=index >= middle)
    for _ in range(behind):
        weight()
        backward(0, apart=True)
    while late:
        weight()
    for group in found:
        yield tuple(slot for slot in group if slot.micro_batch < micro_batches)


_ORDERS: dict[str, Callable[[int, int, int, int], Iterable[Sequence[Slot]]]] = {
    "gpipe": _gpipe,
    "1f1b": _interleaved,
    "interleaved": _interleaved,
    "zero-bubble": _zero_bubble,
    "dualpipe": _dualpipe,
    "combined-1f1b": _combined,
}


def in_flight(schedule: str, pp: Any, vp: Any, stage: Any, micro_batches: Any) -> Any:
    """Most activations a stage holds at once, in passes of one micro-batch through one chunk.

    Held from the start of a forward pass to the end of the last gradient that needs it.

    Parameters
    ----------
    schedule : str
    pp, vp, stage, micro_batches : int or array of int
    """
    if schedule == "gpipe":
        return micro_batches + 0 * stage
    if schedule == "zero-bubble":
        return np.minimum(micro_batches, pp) + 0 * stage
    if schedule == "dualpipe":
        nearer = np.minimum(stage, pp - 1 - stage)
        return np.minimum(np.minimum(micro_batches, pp + 1), micro_batches // 2 + 1 + nearer)
    # The first pair after the warm-up holds the most: from there one goes with every one that comes.
    begun = np.minimum(_warm_up(pp, vp, stage, schedule in JOINT) + 1, -(-micro_batches // pp) * pp * vp)
    full, short = np.divmod(micro_batches, pp)
    turns, rest = np.divmod(np.maximum(begun - full * pp * vp, 0), pp)
    return np.minimum(begun, full * pp * vp) + turns * short + np.minimum(rest, short)


def held(slots: Iterable[Slot]) -> int:
    """Most activations an order holds at once, by counting; what `in_flight` says in closed form."""
    slots = tuple(slots)
    last = "W" if any(slot.kind == "W" for slot in slots) else "B"
    most = now = 0
    for slot in slots:
        now += (slot.kind == "F") - (slot.kind == last)
        most = max(most, now)
    return most
