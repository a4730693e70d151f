"""A validation table as text: errors by metric and split, then what is missed and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Techniques whose paper reports single numbers rather than tables.
ONE_BY_ONE = ("t3", "c4", "tokenring", "lasp2", "flexsp", "bytescale")


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows, mean, median and 90th percentile of the absolute relative error, by technique, metric and split."""
    known = frame[frame["error"].notna()]
    groups = known.assign(absolute=known["error"].abs(), naive=known["trivial_error"].abs()).groupby(
        ["technique", "metric", "split"], sort=True
    )
    table = groups["absolute"].agg(rows="size", mean="mean", median="median", p90=lambda e: e.quantile(0.9))
    table["bias"] = groups["error"].mean()
    table["trivial"] = groups["naive"].mean()
    return table.reset_index()


def text(frame: pd.DataFrame) -> str:
    """Summary table, then claims of a single number each, then misses with their reason."""
    table = summary(frame)
    parts = ["Error of predictions (absolute, relative), and of a trivial baseline:", ""]
    many = table[table["rows"] > 1]
    percent = {c: "{:.1%}".format for c in ("mean", "median", "p90", "trivial")} | {"bias": "{:+.1%}".format}
    if len(many):
        parts.append(many.to_string(index=False, formatters=percent, na_rep="-"))
    alone = table[table["rows"] == 1][["technique", "metric", "split"]]
    single = frame.merge(alone, on=["technique", "metric", "split"])
    single = single[single["error"].notna()] if len(single) else single
    claims = frame[frame["technique"].isin(ONE_BY_ONE) & frame["error"].notna()]
    shown = claims if len(claims) else single
    if len(shown):
        parts += [
            "",
            "Claims of one number each:",
            "",
            shown[["claim", "metric", "reported", "predicted", "error"]].to_string(
                index=False,
                formatters={
                    "error": "{:+.1%}".format,
                    "predicted": "{:.3g}".format,
                    "reported": "{:.3g}".format,
                },
            ),
        ]
    missed = frame[(frame["reason"] != "") & frame["reason"].notna()]
    if len(missed):
        parts += ["", "Missed or not predicted, and why:", ""]
        for reason, rows in missed.groupby("reason", sort=False):
            names = ", ".join(rows["claim"].iloc[:6]) + (f" and {len(rows) - 6} more" if len(rows) > 6 else "")
            parts.append(f"  {names}:\n    {reason}")
    if (frame["family"] == "training").any():
        from .training.summary import text as training

        parts += ["", training(frame)]
    for name in frame.attrs.get("skipped", []):
        parts += ["", f"Skipped: {name}"]
    return "\n".join(parts)
