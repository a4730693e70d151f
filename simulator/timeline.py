"""Drawing a trace: a row per stream, a colour per kind of task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Distinct for colour-blind readers too: P. Tol's "bright" scheme (SRON technical note, 2021).
_COLOURS = {
    "compute": "#4477AA",
    "communication": "#EE6677",
    "memory": "#CCBB44",
    "sync": "#BBBBBB",
}
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
# A name is written on a bar only when the picture has few bars and the name fits.
_MOST_NAMES = 400


def plot(trace: Trace, ax: Axes | None = None, window: tuple[float, float] | None = None) -> Axes:
    """Draw when each task ran.

    Parameters
    ----------
    trace : Trace
        A run.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure of fitting height.
    window : tuple of float, optional
        Start and end of the part to draw [s]; by default all of it.

    Returns
    -------
    matplotlib.axes.Axes
        The drawing; its x axis is in the unit its label names.
    """
    import matplotlib.pyplot as plt

    shown = {(task.rank, task.stream) for task in trace.program.tasks if task.kind != "sync"}
    # Stable within a rank; a stream of joins only has nothing to see.
    rows = sorted((place for place in trace.program.streams if place in shown), key=lambda place: place[0])
    if ax is None:
        height = min(1.2 + 0.34 * max(len(rows), 2), 40.0)
        _, ax = plt.subplots(figsize=(11, height), layout="constrained")
    begin, end = window if window is not None else (0.0, trace.makespan)
    if not end > begin:
        end = begin + 1.0
    scale, unit = next((s, u) for s, u in _UNITS if end >= s or u == "ns")
    ax.set_xlim(begin / scale, end / scale)
    _bars(trace, ax, rows, scale)
    ranks = {rank for rank, _ in rows}
    ax.set_yticks(
        range(len(rows)),
        [stream if len(ranks) == 1 else f"rank {rank}  {stream}" for rank, stream in rows],
    )
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for place in range(1, len(rows)):
        if rows[place][0] != rows[place - 1][0]:
            ax.axhline(place - 0.5, color="0.85", linewidth=0.8, zorder=0)
    ax.set_xlabel(f"time [{unit}]")
    ax.set_title(trace.program.name, loc="left", fontsize="medium")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.92", zorder=0)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if ax.collections:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, frameon=False, fontsize="small")
    return ax


def _bars(trace: Trace, ax: Axes, rows: list[tuple[int, str]], scale: float) -> None:
    row = {place: number for number, place in enumerate(rows)}
    tasks = trace.program.tasks
    rows_of = np.array([row.get((task.rank, task.stream), -1) for task in tasks], dtype=int)
    start, length = trace.start / scale, (trace.end - trace.start) / scale
    left, right = ax.get_xlim()
    seen = (rows_of >= 0) & (length > 0) & (start < right) & (start + length > left)
    # Many thin bars: an edge would hide them, so they get none.
    few = int(seen.sum()) <= _MOST_NAMES
    edge = {"edgecolor": "white", "linewidth": 0.5} if few else {"linewidth": 0}
    for kind, colour in _COLOURS.items():
        label: str | None = kind
        chosen = (trace.kinds == kind) & seen
        for number in np.unique(rows_of[chosen]):
            here = np.flatnonzero(chosen & (rows_of == number))
            ax.broken_barh(
                np.stack([start[here], length[here]], axis=1).tolist(),
                (number - 0.36, 0.72),
                facecolors=colour,
                label=label,
                **edge,
            )
            label = None
    if few:
        _write_names(trace, ax, rows_of, np.clip(start, left, right), np.clip(start + length, left, right))


def _write_names(trace: Trace, ax: Axes, rows_of: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    left, right = ax.get_xlim()
    width = ax.get_window_extent().width / ax.figure.dpi * 72  # points
    size = 7.0
    for task in trace.program.tasks:
        if rows_of[task.id] < 0:
            continue
        room = (end[task.id] - start[task.id]) / (right - left) * width
        if room > size * 0.62 * len(task.name) + 4:
            ax.text(
                (start[task.id] + end[task.id]) / 2,
                rows_of[task.id],
                task.name,
                ha="center",
                va="center",
                fontsize=size,
                color="white" if task.kind == "compute" else "0.1",
                clip_on=True,
            )
