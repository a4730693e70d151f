"""What solvers for sequences of unlike length are given and what they return: numbers in, an assignment out.

A sequence is worked on by a group of ranks that divide it (sequence parallelism). A rank works through
micro-batches one after another; in each it belongs to one group, and a group takes one or more sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class SequenceCosts:
    """Time and memory of sequences on a group of ranks that divide them, forward and backward together.

    The cost model of FlexSP (arXiv 2412.01523, equations 11 to 14): a group of d ranks takes
    ``fixed + sum(quadratic s^2 + linear s) / d + sum(exchanged s) / d / bandwidth[d]``, and a rank holds
    ``state_bytes + token_bytes sum(s) / d``.

    Parameters
    ----------
    quadratic, linear : float
        Seconds per squared token and per token, on one rank.
    fixed : float
        Seconds of a micro-batch, whatever its tokens.
    exchanged : float
        Bytes exchanged for every token of a sequence in a step, of all ranks of the group together.
    bandwidth : mapping of int to float
        Bytes a second of one rank, by degree; degrees not named cannot be taken. Degree 1 exchanges nothing.
    token_bytes, state_bytes : float
        Activations of one token over all layers; weights, gradients and optimizer state of a rank [B].
    capacity : float
        Memory of a rank [B].
    """

    quadratic: float
    linear: float
    fixed: float
    exchanged: float
    bandwidth: Mapping[int, float]
    token_bytes: float
    state_bytes: float
    capacity: float

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees a group may have, ascending."""
        return tuple(sorted(self.bandwidth))

    @property
    def tokens(self) -> float:
        """Tokens a rank has memory for."""
        return max(0.0, (self.capacity - self.state_bytes) / self.token_bytes)

    def compute(self, lengths: ArrayLike, degree: int = 1) -> NDArray[np.float64]:
        """Seconds each sequence computes on a group of that degree, without the fixed part."""
        s = np.asarray(lengths, dtype=float)
        return np.asarray((self.quadratic * s * s + self.linear * s) / degree)

    def exchange(self, lengths: ArrayLike, degree: int) -> NDArray[np.float64]:
        """Seconds the messages of each sequence take on a group of that degree."""
        s = np.asarray(lengths, dtype=float)
        return np.asarray(s * 0.0 if degree == 1 else s * (self.exchanged / degree / self.bandwidth[degree]))

    def time(self, lengths: ArrayLike, degree: int) -> float:
        """Seconds a group of that degree takes for these sequences, one after another or packed."""
        return self.fixed + float(np.sum(self.compute(lengths, degree) + self.exchange(lengths, degree)))

    def memory(self, lengths: ArrayLike, degree: int) -> float:
        """Bytes a rank of a group of that degree holds while it works on these sequences."""
        return self.state_bytes + self.token_bytes * float(np.sum(np.asarray(lengths, dtype=float))) / degree


@dataclass(frozen=True, slots=True)
class Share:
    """Sequences that a group of ranks works on in one micro-batch.

    Parameters
    ----------
    ranks : tuple of int
        The group.
    sequences : tuple of int
        Positions in the batch.
    offload : float
        Part of their activations kept in host memory.
    """

    ranks: tuple[int, ...]
    sequences: tuple[int, ...]
    offload: float = 0.0


@dataclass(frozen=True)
class SequencePlan:
    """What a solver found.

    Parameters
    ----------
    method : str
    ranks : int
    micro_batches : tuple of tuple of Share
        In order. With `barrier` all ranks finish one before any begins the next; without, a rank goes on when
        all the ranks of its next share are free.
    time : float
        Planned seconds of the whole batch.
    bound : float
        No plan is faster [s]; 0 where nothing was proven.
    status : str
        optimal | time limit | heuristic.
    barrier : bool
    seconds : float
        The solver took.
    notes : tuple of str
    """

    method: str
    ranks: int
    micro_batches: tuple[tuple[Share, ...], ...]
    time: float
    bound: float = 0.0
    status: str = "heuristic"
    barrier: bool = True
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def gap(self) -> float:
        """How much of the planned time a better plan could save at most."""
        return max(0.0, 1.0 - self.bound / self.time) if self.time else 0.0

    def check(self, lengths: Sequence[int]) -> None:
        """Raise ValueError unless every sequence is placed once and no rank is in two groups at a time."""
        placed = sorted(i for shares in self.micro_batches for share in shares for i in share.sequences)
        if placed != list(range(len(lengths))):
            raise ValueError(
                f"{self.method}: sequences placed {len(placed)} times for {len(lengths)}, or not once each"
            )
        for number, shares in enumerate(self.micro_batches):
            used = [rank for share in shares for rank in share.ranks]
            if len(used) != len(set(used)) or not all(0 <= rank < self.ranks for rank in used):
                raise ValueError(f"{self.method}: micro-batch {number}: a rank in two groups, or none of {self.ranks}")
