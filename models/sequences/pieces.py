"""Segments of a share's work, costed: of groups that exchange heads for tokens, and of rings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...solvers.sequences import SequenceCosts, Share
from .costs import ScenarioCosts
from .program import SEGMENTS, Piece

Floats = NDArray[np.float64]


def exchanging(costs: SequenceCosts, lengths: Floats, share: Share, priced: ScenarioCosts | None) -> list[Piece]:
    """Segments of a share whose group exchanges heads for tokens.

    Parameters
    ----------
    costs : SequenceCosts
    lengths : ndarray, shape (sequences,)
        Of the batch.
    share : Share
    priced : ScenarioCosts or None
        Times exchanges at the size of the group's messages; None takes the bandwidths of `costs`.
    """
    degree, mine = len(share.ranks), lengths[list(share.sequences)]
    compute = float(costs.compute(mine, degree).sum()) / SEGMENTS
    if priced is None:
        return [Piece(0.0, compute, float(costs.exchange(mine, degree).sum()) / SEGMENTS, False)] * SEGMENTS
    tokens = float(mine.sum())
    seconds = float(priced.exchange(np.array([tokens]), degree)[0]) / SEGMENTS
    link, nic = (size / SEGMENTS for size in priced.exchanged(tokens, degree))
    return [Piece(0.0, compute, seconds, False, link, nic)] * SEGMENTS


class Ring:
    """Segments of a share whose group passes keys and values around: forward, then backward.

    Parameters
    ----------
    priced : ScenarioCosts
    lengths : ndarray, shape (sequences,)
        Of the batch.
    """

    def __init__(self, priced: ScenarioCosts, lengths: Floats):
        self.costs, self.lengths = priced.hybrid, lengths
        cluster, tp = priced.scenario.cluster, priced.scenario.plan.tp
        self.per_node = max(1, cluster.devices_per_node // tp)
        self.inside = priced.ring_seconds(False)
        self.rate = cluster.link.bandwidth, 0.0 if cluster.nic is None else cluster.nic.bandwidth
        self.width = priced.ring_bytes()

    def __call__(self, share: Share) -> list[Piece]:
        """Segments of one share."""
        costs, degree = self.costs, len(share.ranks)
        mine = self.lengths[list(share.sequences)]
        tokens, squares = float(mine.sum()), float((mine * mine).sum())
        nodes = len(np.unique(np.asarray(share.ranks) // self.per_node))
        step = (costs.exchange if nodes > 1 else self.inside) * tokens / degree
        size = self.width * tokens / degree
        block, rest = costs.quadratic * squares / degree**2, costs.linear * tokens / degree
        found = []
        for slower, wider, longer in (
            (1.0, 1.0, 1.0),
            (costs.backward_quadratic, costs.backward_exchange, costs.backward_linear),
        ):
            hops = degree - 1
            # Of the ring's hops as many leave a node as there are nodes.
            out = nodes / degree if nodes > 1 else 0.0
            sent = hops * wider * size
            found.append(
                Piece(
                    hops * slower * block,
                    slower * block + longer * rest,
                    hops * wider * step,
                    True,
                    sent * (1 - out),
                    sent * out,
                )
            )
        return found
