"""The best plans so far, and those that nothing beats in both time and memory, kept while a search runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .evaluate import Costed

# What identifies a plan, beside its choice; and what is known of it.
KEYS = ("tp", "pp", "dp", "cp", "ep", "etp", "vp", "micro_batch")
USES = ("weights", "gradients", "optimizer", "activations", "kv_cache", "workspace", "total")
PARTS = ("time", "compute", "bubble", "exposed_weights", "exposed_update")


@dataclass(frozen=True)
class Ranked:
    """Some plans that fit, in order.

    Parameters
    ----------
    score : numpy.ndarray, shape (plans,)
        What they are ranked by; less is better.
    keys : numpy.ndarray of int, shape (plans, 9)
        `KEYS`, and the number of the choice.
    known : numpy.ndarray, shape (plans, 12)
        `PARTS` [s], then memory by `USES` [B].
    """

    score: np.ndarray
    keys: np.ndarray
    known: np.ndarray

    @classmethod
    def none(cls) -> Ranked:
        """No plans."""
        keys = np.zeros((0, len(KEYS) + 1), dtype=np.int64)
        return cls(np.zeros(0), keys, np.zeros((0, len(PARTS) + len(USES))))

    @property
    def time(self) -> np.ndarray:
        """Step times [s]."""
        return self.known[:, 0]

    @property
    def memory(self) -> np.ndarray:
        """Total memory of a device [B]."""
        return self.known[:, -1]

    def some(self, which: np.ndarray) -> Ranked:
        """Some of them, by mask or by place."""
        return Ranked(self.score[which], self.keys[which], self.known[which])

    def and_(self, other: Ranked) -> Ranked:
        """These and others, in no order."""
        return Ranked(
            np.concatenate([self.score, other.score]),
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.known, other.known]),
        )

    def best(self, keep: int) -> Ranked:
        """The best of them; of equal ones those that take less memory, then in the order of their keys."""
        ties = [self.keys[:, column] for column in reversed(range(self.keys.shape[1]))]
        return self.some(np.lexsort([*ties, self.memory, self.score])[:keep])

    def front(self) -> Ranked:
        """Those that no other beats in both time and memory, fastest first."""
        ties = [self.keys[:, column] for column in reversed(range(self.keys.shape[1]))]
        ordered = self.some(np.lexsort([*ties, self.memory, self.time]))
        least = np.minimum.accumulate(ordered.memory)
        return ordered.some(np.append(True, ordered.memory[1:] < least[:-1])[: len(ordered.score)])


@dataclass
class Board:
    """Standing of a search.

    Parameters
    ----------
    keep : int
        Plans to keep.
    by : str
        time | throughput | cost.
    reference : float or None
        Score; plans that beat it are counted.
    evaluated, fits, better : int
        Plans tried, those that fit, and those of them that beat the reference.
    top, front : Ranked
        The best plans, and those that none beats in both time and memory.
    """

    keep: int
    by: str
    reference: float | None = None
    evaluated: int = 0
    fits: int = 0
    better: int = 0
    top: Ranked = field(default_factory=Ranked.none)
    front: Ranked = field(default_factory=Ranked.none)

    def offer(self, tried: int, costed: Costed, choice: int) -> None:
        """Take note of plans of one choice; `tried` counts those that do not fit too."""
        self.evaluated += tried
        if costed.timing is None:
            return
        self.fits += len(costed.micro_batch)
        score = scored(self.by, costed)
        if self.reference is not None:
            self.better += int(np.count_nonzero(score < self.reference))
        full = len(self.top.score) == self.keep
        near = score <= self.top.score[-1] if full else np.ones(len(score), dtype=bool)
        if near.any():
            which = np.nonzero(near)[0]
            if len(which) > self.keep:  # only the best can stay; ties with the last of them are settled below
                bar = np.partition(score[which], self.keep - 1)[self.keep - 1]
                which = which[score[which] <= bar]
            self.top = self.top.and_(ranked(costed, score, choice, which)).best(self.keep)
        undominated = np.nonzero(self._undominated(costed))[0]
        if len(undominated):
            self.front = self.front.and_(ranked(costed, score, choice, undominated).front()).front()

    def merge(self, other: Board) -> None:
        """Take over what another part of the search found."""
        self.evaluated += other.evaluated
        self.fits += other.fits
        self.better += other.better
        self.top = self.top.and_(other.top).best(self.keep)
        self.front = self.front.and_(other.front).front()

    def _undominated(self, costed: Costed) -> np.ndarray:
        """Plans not beaten in both by the front so far."""
        assert costed.timing is not None
        time, memory = costed.timing.time, costed.memory["total"]
        if not len(self.front.score):
            return np.ones(len(time), dtype=bool)
        # The front's memory falls as its time grows: its last member that is as fast takes least.
        place = np.searchsorted(self.front.time, time, side="right")
        least = np.append(np.inf, self.front.memory)[place]
        found: np.ndarray = memory <= least  # equals are settled by their keys
        return found


def scored(by: str, costed: Costed) -> np.ndarray:
    """What plans are ranked by; less is better. A step has the same tokens in all of them."""
    assert costed.timing is not None
    found: np.ndarray = costed.timing.time * (costed.plan.devices if by == "cost" else 1.0)
    return found


def ranked(costed: Costed, score: np.ndarray, choice: int, which: np.ndarray) -> Ranked:
    """Some of the plans of a choice, with all that is kept of them."""
    timing, plan = costed.timing, costed.plan
    assert timing is not None
    count = len(costed.micro_batch)

    def picked(number: object) -> np.ndarray:
        found: np.ndarray = np.broadcast_to(np.asarray(number), (count,))[which]
        return found

    keys = [picked(costed.micro_batch if key == "micro_batch" else getattr(plan, key)) for key in KEYS]
    # An update on the host is no kernel; one on the device has its time among the kernels'.
    update = timing.update if costed.choice.offload != "none" else np.zeros(count)
    parts = (timing.time, timing.busiest.compute * costed.slow, timing.bubble, timing.weights * costed.slow, update)
    known = [*(picked(part) for part in parts), *(picked(costed.memory[use]) for use in USES)]
    numbers = np.stack([*keys, np.full(len(which), choice)], axis=-1).astype(np.int64)
    return Ranked(score[which], numbers, np.stack(known, axis=-1).astype(float))
