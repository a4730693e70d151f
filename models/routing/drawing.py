"""A picture of a placement: traffic between devices, in rank order and as placed, on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .report import PlacementReport

_WRITTEN = 8  # devices whose numbers are written into the map
_TICKS = 16  # devices whose numbers all stand beside it
_STAYS = "0.88"


def draw_traffic(found: PlacementReport, figure: Figure | None = None) -> Figure:
    """Draw a report.

    Rows are devices that tokens leave, columns those they go to. Tokens that stay are left out, or they would
    set the scale.

    Parameters
    ----------
    found : PlacementReport
    figure : matplotlib Figure, optional
        Default a new one.
    """
    from matplotlib.figure import Figure as NewFigure

    if figure is None:
        figure = NewFigure(figsize=(10, 5), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    maps = [found.traffic(device) for device in (found.rank_order, found.placement.device)]
    for one in maps:
        np.fill_diagonal(one, np.nan)
    most = max(float(np.nan_to_num(one).max()) for one in maps) or 1.0
    titles = ("in rank order", f"placed, {found.saved:.0%} saved")
    for ax, one, title, moves in zip(axes, maps, titles, (found.before, found.after), strict=True):
        drawn = _draw(ax, one, most)
        said = f"{moves.devices:.2f} moves a token"
        if found.placement.nodes > 1:
            _nodes(ax, found.placement.devices, found.placement.nodes)
            said += f", {moves.nodes:.2f} between nodes"
        ax.set_title(f"{title}\n{said}", loc="left", fontsize="medium")
        ax.set_xlabel("to device")
    axes[0].set_ylabel("from device")
    figure.colorbar(drawn, ax=list(axes), label="moves of a token through all layers", shrink=0.85)
    return figure


def _draw(ax: Axes, moves: np.ndarray, most: float) -> Any:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    count = len(moves)
    colours = colormaps["viridis_r"].with_extremes(bad=_STAYS)
    drawn = ax.imshow(moves, cmap=colours, vmin=0.0, vmax=most, interpolation="nearest")
    for axis in (ax.xaxis, ax.yaxis):
        if count <= _TICKS:
            axis.set_ticks(range(count))
        else:
            axis.set_major_locator(MaxNLocator(integer=True))
    if count <= _WRITTEN:
        for (row, column), value in np.ndenumerate(moves):
            if np.isfinite(value):
                shade = "white" if value > 0.55 * most else "black"
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize="small")
    return drawn


def _nodes(ax: Axes, devices: int, nodes: int) -> None:
    """Borders of nodes."""
    for edge in np.arange(1, nodes) * (devices // nodes) - 0.5:
        ax.axhline(edge, color="crimson", linewidth=0.7)
        ax.axvline(edge, color="crimson", linewidth=0.7)
