"""How much of a sequence's activations may go to host memory unseen, and how few ranks then hold it.

Equation 3 of ByteScale (arXiv 2502.21231 section 5.2). Of l layers the first and the last keep theirs; a part r
of what the others keep leaves while the layer computes, so r Act(s) / B must not take longer than its forward
pass T(s). Both are of the whole sequence: D ranks divide them alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .hybrid_costs import Floats, HdpCosts

Integers = NDArray[np.int64]

# Quotients this close above a whole number are that number: 3 C / C is 3 ranks.
_SAME = 1e-9


def hidden_ratio(lengths: ArrayLike, costs: HdpCosts) -> Floats:
    """Largest part of each sequence's activations, 0 to 1, that the forward pass has time to copy out."""
    s = np.asarray(lengths, dtype=float)
    forward = (costs.quadratic * s * s + costs.linear * s) / costs.layers
    return np.asarray(np.minimum(1.0, forward * min(costs.d2h, costs.h2d) / costs.kept(s)))


def held_degree(lengths: ArrayLike, ratio: ArrayLike, costs: HdpCosts) -> Integers:
    """Ranks that hold what is left of each sequence when this part of the inner layers is offloaded: D(s)."""
    outer, inner = _layers(costs)
    left = (outer + (1 - np.asarray(ratio, dtype=float)) * inner) * costs.kept(lengths)
    ranks = np.ceil(left / (costs.layers * costs.kept(costs.capacity)) * (1 - _SAME))
    return np.asarray(ranks, dtype=np.int64)


def needed_ratio(lengths: ArrayLike, degree: ArrayLike, costs: HdpCosts) -> Floats:
    """Smallest part to offload so that each sequence fits so many ranks; more than 1 where none is enough."""
    outer, inner = _layers(costs)
    room = np.asarray(degree, dtype=float) * costs.layers * costs.kept(costs.capacity) / costs.kept(lengths)
    over = outer + inner - room
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(over <= _SAME * room, 0.0, np.where(inner > 0, over / inner, np.inf))


def smallest_degree(lengths: ArrayLike, costs: HdpCosts) -> Integers:
    """Fewest ranks each sequence fits when it offloads all it can hide, and its host has room: equation 3."""
    s = np.asarray(lengths, dtype=float)
    degree = held_degree(s, hidden_ratio(s, costs), costs)
    if np.isfinite(costs.host):  # a rank's host takes l (Act(s) / D - Act(C)) bytes
        whole = costs.layers * costs.kept(s) / (costs.host + costs.layers * costs.kept(costs.capacity))
        degree = np.maximum(degree, np.ceil(whole * (1 - _SAME)).astype(np.int64))
    return degree


def _layers(costs: HdpCosts) -> tuple[int, int]:
    """Layers that keep their activations, and layers that may offload them."""
    return min(costs.layers, 2), max(costs.layers - 2, 0)
