"""Figures of a validation report: predicted against measured by metric, errors by family, calibration by kernel.

Every figure is a small square of its own, so that a page shows one below the other on a phone and three abreast on a
desk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .blocks import Picture
from .tables import DOUBT
from .training.plots import BAND, COLOURS, MARKERS
from .training.summary import GROUPS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SIZE = (4.4, 4.4)  # inches
PANELS = 5  # metrics with a figure of their own, those with most rows; the others share one
FEWEST = 4  # rows that make a figure
MANY = 100  # rows of a technique whose marks are small and pale
FITTED, HELD, TRIVIAL = "#56B4E9", "#0072B2", "#999999"
KERNELS = {"cross-validated": HELD, "nearest row": "#E69F00", "datasheet": TRIVIAL}


def pictures(frame: pd.DataFrame) -> Iterator[Picture]:
    """Figures of one family: predicted against measured by metric, then all errors.

    Parameters
    ----------
    frame : pandas.DataFrame
        Rows of `validate` of one family.
    """
    known = frame[frame["error"].notna() & (frame["reported"] > 0) & (frame["predicted"] > 0)]
    if known.empty:
        return
    family = str(known["family"].iloc[0])
    colours = {name: index for index, name in enumerate(_labels(known).value_counts().index)}
    metric = known["metric"].str.replace(DOUBT, "", regex=False)
    # A metric whose values are all one number, as the share of right answers is, makes no figure.
    spread = known.groupby(metric)["reported"].agg(["size", "nunique"])
    own = list(spread[(spread["size"] >= FEWEST) & (spread["nunique"] > 1)].nlargest(PANELS, "size").index)
    panels = [(name, known[metric == name]) for name in own]
    rest = known[~metric.isin(own) & metric.map(spread["nunique"] > 1) | (metric.map(spread["size"]) < FEWEST)]
    if len(rest) >= FEWEST:
        panels.append(("all other metrics, each in its unit", rest))
    for number, (name, rows) in enumerate(panels):
        yield Picture(
            f"{family}-{number + 1}",
            f"{family}, {name}: predicted against measured, {len(rows)} rows",
            lambda name=name, rows=rows: predicted_against_measured(name, rows, colours),  # type: ignore[misc]
        )
    if len(known) >= FEWEST:
        yield Picture(f"{family}-errors", f"{family}: share of rows by their error", lambda: errors(frame))


def predicted_against_measured(name: str, rows: pd.DataFrame, colours: Mapping[str, int]) -> Figure:
    """Predicted over measured, both axes logarithmic, with a band of 10 %; a colour for each technique or source.

    Parameters
    ----------
    name : str
        What is measured.
    rows : pandas.DataFrame
        Rows of `validate` with values above zero.
    colours : mapping of str to int
        Number of the colour of each technique or source, the same in all figures of a family.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    values = rows[["reported", "predicted"]].to_numpy()
    line = np.array([values.min() / 1.15, values.max() * 1.15])
    axes.fill_between(line, line * (1 - BAND), line * (1 + BAND), color="0.88", zorder=0, linewidth=0)
    axes.plot(line, line, color="0.45", linewidth=0.8, zorder=1)
    label = _labels(rows)
    doubtful, fitted = rows["metric"].str.endswith(DOUBT), rows["split"] == "calibration"
    styles: dict[str, dict[str, Any]] = {
        name: {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        for name, index in colours.items()
        if (label == name).any()
    }
    for technique, own in styles.items():
        mine = label == technique
        size, alpha = (9, 0.45) if mine.sum() > MANY else (22, 0.85)
        style: dict[str, Any] = {"s": size, "alpha": alpha, "linewidths": 0.8, "zorder": 3}
        for chosen, more in (
            (mine & ~doubtful & ~fitted, {**own, "linewidths": 0}),
            (mine & ~doubtful & fitted, {"edgecolors": own["color"], "facecolors": "none", "marker": own["marker"]}),
            (mine & doubtful, {**own, "marker": "x"}),
        ):
            axes.scatter(rows["reported"][chosen], rows["predicted"][chosen], **(style | more))
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line, xlabel="measured", ylabel="predicted")
    _few_ticks(axes, line)
    axes.set_title(name, loc="left", fontsize=9, wrap=True)
    handles = [Line2D([], [], linestyle="", label=technique, **own) for technique, own in styles.items()]
    for there, marker, face, said in ((fitted, "o", "none", "fitted to"), (doubtful, "x", "0.3", "in doubt")):
        if there.any():
            handles.append(Line2D([], [], color="0.3", marker=marker, markerfacecolor=face, linestyle="", label=said))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=7.5, markerscale=0.8)
    _plain(axes)
    return figure


def errors(frame: pd.DataFrame) -> Figure:
    """Share of rows within an error: held out, fitted to, and by the trivial baseline."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    sure = frame[frame["error"].notna() & ~frame["metric"].str.endswith(DOUBT)]
    held = sure["split"] == "held out"
    for name, found, colour, dash in (
        ("held out", sure["error"][held], HELD, "-"),
        ("fitted to", sure["error"][~held], FITTED, "--"),
        ("trivial baseline", sure["trivial_error"].dropna(), TRIVIAL, ":"),
    ):
        if len(found):
            size = np.sort(found.abs().to_numpy())
            steps = np.concatenate([[0.0], np.maximum(size, 1e-3)]), np.arange(len(size) + 1) / len(size)
            axes.step(*steps, where="post", color=colour, linestyle=dash, label=f"{name} ({len(found)})")
    axes.axvline(BAND, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlim=(3e-3, 3), ylim=(0, 1), xlabel="absolute relative error", ylabel="share of rows within")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xticks([0.01, 0.03, 0.1, 0.3, 1.0])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("errors of all metrics, measurements in doubt left out", loc="left", fontsize=9)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    _plain(axes)
    return figure


def cross_validation(table: pd.DataFrame) -> Figure:
    """Mean error by device and kind of kernel: cross-validated, nearest known row, datasheet.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `calibration.kernels`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(table))[::-1]
    for name, colour in KERNELS.items():
        axes.scatter(table[name], place, color=colour, label=name, s=34, zorder=3)
    axes.hlines(place, 0, table[[*KERNELS]].max(axis=1), color="0.9", zorder=1)
    axes.set_yticks(place, [f"{kind}\n{device}" for device, kind in zip(table["device"], table["kernel"], strict=True)])
    axes.tick_params(axis="y", labelsize=7.5, length=0)
    axes.set(xlim=(0, None), xlabel="mean relative error")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=7.5)
    _plain(axes)
    return figure


def _labels(rows: pd.DataFrame) -> pd.Series[str]:
    """Technique of each row, or the source that stands for several."""
    return rows["technique"].map(GROUPS).fillna(rows["technique"])


def _few_ticks(axes: Any, line: Any) -> None:
    """Over less than a decade, logarithmic axes have no tick of their own: some round numbers."""
    from matplotlib.ticker import EngFormatter, FixedLocator, FormatStrFormatter, NullLocator

    if line[1] / line[0] >= 30:
        return
    digits = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9) if line[1] / line[0] < 4 else (1, 2, 3, 5, 7)
    marks = [mark * 10.0**power for power in range(-12, 16) for mark in digits]
    inside = [mark for mark in marks if line[0] <= mark <= line[1]]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(inside))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(EngFormatter(sep="") if line[0] >= 1e4 else FormatStrFormatter("%.4g"))


def _plain(axes: Any) -> None:
    axes.grid(True, which="major", color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
