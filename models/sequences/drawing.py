"""A picture of a plan: ranks over time, coloured by the length of the sequences they work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .report import SequenceReport

_MOST = 20_000  # rectangles of single sequences; with more a share is one, of its longest
_OUTLINED = 500  # groups that are set off from each other
_IDLE = "0.93"


def draw_plan(found: SequenceReport, ax: Axes | None = None) -> Axes:
    """Draw a report.

    The sequences of a share run packed together; here they follow each other, longest first, as wide as they have
    tokens.

    Parameters
    ----------
    found : SequenceReport
    ax : matplotlib Axes, optional
        Default that of a new figure.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    if ax is None:
        ax = Figure(figsize=(9, 4.5), layout="constrained").add_subplot()
    lengths = found.batch.lengths.astype(float)
    single = sum(len(share.sequences) for share in found.laid.shares) <= _MOST
    corners, colours, outlines = [], [], []
    for share, (begin, end) in zip(found.laid.shares, found.spans(), strict=True):
        mine = np.sort(lengths[list(share.sequences)])[::-1]
        if not single:
            mine = mine[:1]
        edges = begin + (end - begin) * np.append(0.0, np.cumsum(mine) / mine.sum())
        for low, high in _runs(np.asarray(share.ranks)):
            outlines.append(_corners(begin, end, low, high))
            for left, right, length in zip(edges[:-1], edges[1:], mine, strict=True):
                corners.append(_corners(left, right, low, high))
                colours.append(length)
    norm = LogNorm(max(1.0, lengths.min()), max(lengths.max(), lengths.min() * 1.01))
    drawn = PolyCollection(corners, array=np.array(colours), norm=norm, cmap="viridis_r", edgecolors="face", lw=0.1)
    ax.add_collection(drawn)
    if len(outlines) <= _OUTLINED:
        ax.add_collection(PolyCollection(outlines, facecolors="none", edgecolors="white", linewidths=0.5))
    ax.set_facecolor(_IDLE)
    ax.set_xlim(0, found.time_s)
    ax.set_ylim(found.plan.ranks, 0)
    ax.set_xlabel("time [s]")
    ax.set_ylabel("rank")
    ax.set_title(f"{found.method}: {found.time_s:.3g} s, {found.idle_share:.0%} idle", loc="left")
    figure: Any = ax.figure
    figure.colorbar(drawn, ax=ax, label="sequence length [tokens]")
    return ax


def _corners(left: float, right: float, low: int, high: int) -> list[tuple[float, float]]:
    return [(left, low), (right, low), (right, high), (left, high)]


def _runs(ranks: np.ndarray) -> list[tuple[int, int]]:
    """Neighbouring ranks as (first, one after the last)."""
    ranks = np.sort(ranks)
    cuts = np.flatnonzero(np.diff(ranks) > 1)
    firsts, lasts = np.append(ranks[:1], ranks[cuts + 1]), np.append(ranks[cuts], ranks[-1:])
    return [(int(a), int(b) + 1) for a, b in zip(firsts, lasts, strict=True)]
