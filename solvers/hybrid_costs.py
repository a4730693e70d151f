"""Time and memory of sequences under hybrid data parallelism, where a sequence takes as many ranks as it needs.

ByteScale (arXiv 2502.21231): every rank holds up to a capacity of C tokens in a micro-batch. A sequence of more
is divided evenly over D ranks, which pass keys and values around a ring of D steps, each as long as the slower
of its block of scores and its message; what fits one rank exchanges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isnan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..hardware.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HdpCosts:
    """What sequences cost a rank; seconds are of the forward pass and of all layers it holds.

    Parameters
    ----------
    quadratic : float
        Seconds of causal attention per squared token, on one rank.
    linear : float
        Seconds of everything else per token, on one rank.
    exchange : float
        Seconds a ring step takes to move keys and values, per token the sender holds.
    capacity : int
        Tokens a rank has memory for when nothing is offloaded (C).
    layers : int
        Layers a rank holds.
    fixed : float
        Seconds of a micro-batch whatever its tokens, forward and backward.
    activation, activation_fixed : float
        Bytes one layer keeps for the backward pass: of a token, and of a sequence.
    d2h, h2d : float
        Bytes a second of a rank to host memory and back.
    host : float
        Host memory of a rank for activations [B].
    backward_quadratic, backward_linear : float
        Backward over forward time. Attention makes five products of matrices after two (FlashAttention, arXiv
        2205.14135 algorithm 4); other layers two after one.
    backward_exchange : float
        Backward over forward bytes of a ring step. Keys and values go round again with their gradients: 2 when
        gradients are as wide as they are, 3 when they are summed in FP32 beside 16-bit keys and values.

    Raises
    ------
    InputError
        For a value out of range.
    """

    quadratic: float
    linear: float
    exchange: float
    capacity: int
    layers: int
    fixed: float = 0.0
    activation: float = 1.0
    activation_fixed: float = 0.0
    d2h: float = float("inf")
    h2d: float = float("inf")
    host: float = float("inf")
    backward_quadratic: float = 2.5
    backward_linear: float = 2.0
    backward_exchange: float = 2.0

    def __post_init__(self) -> None:
        whole = {"capacity", "layers"}
        positive = {"linear", "activation", "d2h", "h2d"}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in whole:
                bad, legal = isnan(value) or value < 1 or value != int(value), "a whole number, 1 or more"
            elif item.name in positive:
                bad, legal = isnan(value) or value <= 0, "more than 0"
            else:
                bad, legal = isnan(value) or value < 0, "0 or more"
            if bad:
                raise InputError(f"costs.{item.name}: {value!r} (legal: {legal})")

    def compute(self, lengths: ArrayLike, degree: ArrayLike = 1) -> Floats:
        """Seconds each sequence computes on `degree` ranks, forward and backward, without the fixed part."""
        s = np.asarray(lengths, dtype=float)
        attention = (1 + self.backward_quadratic) * self.quadratic * s * s
        return np.asarray((attention + (1 + self.backward_linear) * self.linear * s) / np.asarray(degree, dtype=float))

    def ring(self, squares: ArrayLike, tokens: ArrayLike, degree: ArrayLike) -> tuple[Floats, Floats]:
        """Seconds of attention of sequences divided alike over `degree` ranks, and those bound by messages.

        Each step multiplies one block of every sequence, balanced over the ranks (zigzag), and passes on all the
        tokens a rank holds; the last step has nothing to pass on.

        Parameters
        ----------
        squares, tokens : array_like
            Sums of the squared lengths and of the lengths of each group's sequences.
        degree : array_like
            Ranks of each group.
        """
        d = np.asarray(degree, dtype=float)
        block = self.quadratic * np.asarray(squares, dtype=float) / d**2
        message = self.exchange * np.asarray(tokens, dtype=float) / d
        total, bound = np.zeros_like(block), np.zeros_like(block)
        for slower, wider in ((1.0, 1.0), (self.backward_quadratic, self.backward_exchange)):
            work, sent = slower * block, wider * message
            total = total + (d - 1) * np.maximum(work, sent) + work
            bound = bound + np.where(sent > work, (d - 1) * sent, 0.0)
        return total, bound

    def group_times(self, squares: ArrayLike, tokens: ArrayLike, degree: ArrayLike) -> Floats:
        """Seconds groups take, forward and backward; arguments as for `ring`."""
        rest = (1 + self.backward_linear) * self.linear * np.asarray(tokens, dtype=float)
        return np.asarray(self.fixed + rest / np.asarray(degree, dtype=float) + self.ring(squares, tokens, degree)[0])

    def times(self, lengths: ArrayLike, degree: ArrayLike) -> Floats:
        """Seconds each sequence takes alone on so many ranks."""
        s = np.asarray(lengths, dtype=float)
        return self.group_times(s * s, s, degree)

    def time(self, lengths: ArrayLike, degree: int) -> float:
        """Seconds a group takes for these sequences, all divided over all of its ranks."""
        s = np.asarray(lengths, dtype=float)
        return float(self.group_times((s * s).sum(), s.sum(), degree))

    def kept(self, lengths: ArrayLike) -> Floats:
        """Bytes one layer of each sequence keeps for the backward pass, over all its ranks: Act(s)."""
        return self.activation * np.asarray(lengths, dtype=float) + self.activation_fixed
