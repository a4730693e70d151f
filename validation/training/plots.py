"""Plots of the training rows: predicted against measured, and the error by scale.

``python -m commlens.validation.training.plots --out DIR`` writes both as PNG files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .rows import TIME
from .summary import GROUPS
from .tables import cases

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BAND = 0.1
MARKERS = "osD^vPX*<>hpd"
# Okabe-Ito, then Tol's muted: apart for most readers, also in print.
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#332288", "#999933", "#882255", "#44AA99",
    "#117733", "#AA4499", "#000000", "#999999",
)  # fmt: skip


def _known(frame: pd.DataFrame) -> pd.DataFrame:
    known = frame[(frame["metric"] == TIME) & frame["error"].notna()].copy()
    known["group"] = known["technique"].map(GROUPS).fillna(known["technique"])
    return known


def _styles(known: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Marker and colour by group, the same in every plot; groups of many rows smaller and paler."""
    found = {}
    for index, name in enumerate(dict.fromkeys(GROUPS.values())):
        count = int((known["group"] == name).sum())
        if count:
            many = count > 100
            found[name] = {
                "marker": MARKERS[index % len(MARKERS)],
                "color": COLOURS[index % len(COLOURS)],
                "s": 9 if many else 26,
                "alpha": 0.35 if many else 0.85,
                "linewidths": 0,
                "zorder": 2 if many else 3,
                "label": f"{name} ({count})",
            }
    return found


def predicted_against_measured(frame: pd.DataFrame) -> Figure:
    """Predicted over measured step time by source, both axes logarithmic, with a band of 10 %."""
    from matplotlib.figure import Figure

    known = _known(frame)
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.subplots()
    low, high = known["reported"].min() * 0.7, known["reported"].max() * 1.4
    line = np.array([low, high])
    axes.fill_between(line, line * (1 - BAND), line * (1 + BAND), color="0.88", zorder=0, label="within 10 %")
    axes.plot(line, line, color="0.45", linewidth=0.8, zorder=1)
    for name, style in _styles(known).items():
        rows = known[known["group"] == name]
        axes.scatter(rows["reported"], rows["predicted"], **style)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="measured step [s]", ylabel="predicted step [s]")
    axes.set_ylim(min(low, known["predicted"].min() * 0.9), max(high, known["predicted"].max() * 1.1))
    axes.set_title("Training steps, predicted against measured", loc="left")
    _finish(axes)
    return figure


def error_by_scale(frame: pd.DataFrame) -> Figure:
    """Relative error over the number of devices, by source, with the mean absolute error of each scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    known = _known(frame)
    devices = {case.row_id: case.devices for case in cases()}
    known["devices"] = known["claim"].map(devices)
    known = known[known["devices"] > 0]
    figure = Figure(figsize=(8.6, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(-BAND, BAND, color="0.9", zorder=0, label="within 10 %")
    axes.axhline(0, color="0.45", linewidth=0.8, zorder=1)
    spread = np.random.default_rng(0)
    for name, style in _styles(known).items():
        rows = known[known["group"] == name]
        # Many runs share a number of devices: spread them a little, by the same amounts every time.
        axes.scatter(rows["devices"] * 2 ** spread.uniform(-0.22, 0.22, len(rows)), rows["error"], **style)
    octave = np.log2(known["devices"]).round()
    means = known["error"].abs().groupby(octave).mean()
    axes.plot(2.0**means.index, means, color="black", linewidth=1.2, zorder=4, label="mean absolute error")
    axes.set_xscale("log", base=2)
    limit = max(0.25, float(known["error"].abs().quantile(0.985)))
    beyond = int((known["error"].abs() > limit * 1.1).sum())
    axes.set_ylim(-limit * 1.1, limit * 1.1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_formatter("{x:.0f}")
    note = f" ({beyond} beyond the axis)" if beyond else ""
    axes.set(xlabel="devices", ylabel="predicted / measured - 1")
    axes.set_title(f"Error of the step time by scale{note}", loc="left")
    _finish(axes)
    return figure


def _finish(axes: Any) -> None:
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([24])
            handle.set_alpha(0.9)


def main(arguments: list[str] | None = None) -> int:
    """Predict all rows, write both plots and print the summary."""
    import argparse

    import matplotlib

    from .. import validate
    from . import summary

    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the PNG files")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    frame = validate("training")
    for name, draw in (("predicted_against_measured", predicted_against_measured), ("error_by_scale", error_by_scale)):
        draw(frame).savefig(out / f"{name}.png", dpi=150)
    print(summary.text(frame))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
