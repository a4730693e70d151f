"""What no algorithm can beat: the bytes that must pass a rank's port, or a cut of the fabric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .schedule import KINDS, PHASES

if TYPE_CHECKING:
    from ...hardware.topology import Topology


def wire_bound(kind: str, n: ArrayLike, size: ArrayLike, bandwidth: ArrayLike, in_switch: bool = False) -> Any:
    """Least time by what must enter or leave one rank [s].

    Parameters
    ----------
    kind : str
    n : array_like of int
        Ranks.
    size : array_like of float
        Bytes, by the convention of nccl-tests.
    bandwidth : array_like of float
        All of a rank's ports together, per direction [B/s].
    in_switch : bool
        Whether the fabric adds and copies, so that a rank sends what it has once.

    Returns
    -------
    float or numpy.ndarray
        ``2 (n - 1) / n size / bandwidth`` of an all-reduce (P. Patarasuk, X. Yuan, "Bandwidth optimal
        all-reduce algorithms for clusters of workstations", 2009), ``size / bandwidth`` where a switch
        adds; ``(n - 1) / n size / bandwidth`` of a gather, scatter or all-to-all; else the message.

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} (legal: {', '.join(KINDS)})")
    ranks, whole, rate = (np.asarray(value, float) for value in (n, size, bandwidth))
    passes = 0 if kind == "all_reduce" and in_switch else PHASES.get(kind, 0)
    share = passes * (ranks - 1) / ranks if passes else 1.0
    found = np.where(ranks > 1, share * whole / rate, 0.0)
    return found.item() if found.ndim == 0 else found


def exchange_bound(matrix: ArrayLike, bandwidth: float) -> float:
    """Least time of an all-to-all of unequal parts: the busiest port's bytes [s].

    Parameters
    ----------
    matrix : array_like, shape (n, n)
        Bytes from row to column; what a rank keeps does not count.
    bandwidth : float
        Of a rank's ports together, per direction [B/s].
    """
    parts = np.array(matrix, dtype=float)
    np.fill_diagonal(parts, 0.0)
    return float(max(parts.sum(axis=0).max(), parts.sum(axis=1).max()) / bandwidth)


def topology_bound(kind: str, size: float, topology: Topology, ranks: int | None = None) -> float:
    """Least time among the first ranks of a fabric by any rank's ports and any switch's cut [s].

    A cut is what a switch and the ranks nearest to it share with the rest: what the ranks on one side
    must hear from the other has to cross it.

    Parameters
    ----------
    kind : str
        all_reduce, all_gather, reduce_scatter or all_to_all.
    size : float
        Bytes, by the convention of nccl-tests.
    topology : Topology
        Nothing in it adds or copies.
    ranks : int, optional
        Members; default all.
    """
    n = topology.ranks if ranks is None else ranks
    if n == 1:
        return 0.0
    capacity = topology.capacity
    worst = 0.0
    sides = [[rank] for rank in range(n)]
    sides += [
        side for vertex in range(topology.ranks, len(topology.vertices)) if (side := _beside(topology, vertex, n))
    ]
    for side in sides:
        inside = np.zeros(len(topology.vertices), bool)
        inside[side] = True
        m = int(inside[:n].sum())
        if not 0 < m < n:
            continue
        # What must come out of this part, and into it: sums of one side, or parts of the other.
        rest = n - m
        crossing = {
            "all_to_all": (m * rest / n, m * rest / n),
            "all_reduce": (1.0, 1.0),
            "all_gather": (m / n, rest / n),
            "reduce_scatter": (rest / n, m / n),
        }[kind]
        for near, far, part in (
            (topology.source, topology.target, crossing[0]),
            (topology.target, topology.source, crossing[1]),
        ):
            over = np.unique(topology.resource[inside[near] & ~inside[far]])
            worst = max(worst, part * size / float(capacity[over].sum()))
    full = [float(capacity[np.unique(topology.resource[topology.source == rank])].sum()) for rank in range(n)]
    return max(worst, float(wire_bound(kind, n, size, max(full))))


def _beside(topology: Topology, vertex: int, n: int) -> list[int]:
    """A switch and the ranks that hang on it."""
    near = topology.source[topology.target == vertex]
    mine = [int(v) for v in near if v < n]
    return [vertex, *mine] if mine else []
