"""What the training rows add up to: errors by source, ranks inside tables, and the plan that would be chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import bloom
from .rows import TIME
from .tables import cases

if TYPE_CHECKING:
    import pandas as pd

# Sources that are reported together.
GROUPS = {
    "mosaic": "MosaicML",
    "megatron-2020": "Megatron 2020",
    "megatron-2021": "Megatron 2021",
    "megatron-table-2": "Megatron 2021, table 2 (recalled)",
    "megatron-h100": "Megatron H100",
    "korthikanti": "Korthikanti, table 5",
    "internevo": "InternEvo",
    "vtrain-multi": "vTrain, several nodes",
    "vtrain-single": "vTrain, one node",
    "torchtitan": "torchtitan",
    "bridge-dense": "Megatron-Bridge, dense",
    "bridge-moe": "Megatron-Bridge, mixtures",
    "bloom": "BLOOM",
    "moe-zoo": "others",
    "deepspeed": "others",
    "recalled": "others",
}
GAP = 4  # lines of the notes between two tables, at least
FEWEST = 3  # rows of a table whose ranks mean something


def by_source(frame: pd.DataFrame, metric: str = TIME, by_split: bool = False) -> pd.DataFrame:
    """Errors of a metric by source, with the baseline's beside them on the rows it has.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of `validate(family="training")`.
    metric : str
    by_split : bool
        Calibration and held-out rows apart.

    Returns
    -------
    pandas.DataFrame
        group (and split), rows, mean, median, worst, bias, trivial (mean), ratio (trivial / mean).
    """
    known = frame[(frame["metric"] == metric) & frame["error"].notna()].copy()
    known["group"] = known["technique"].map(GROUPS).fillna(known["technique"])
    known["absolute"], known["naive"] = known["error"].abs(), known["trivial_error"].abs()
    keys = ["group", "split"] if by_split else ["group"]
    grouped = known.groupby(keys, sort=False)
    table = grouped["absolute"].agg(rows="size", mean="mean", median="median", worst="max")
    table["bias"] = grouped["error"].mean()
    table["trivial"] = grouped["naive"].mean()
    table["ratio"] = table["trivial"] / table["mean"]
    order = {name: index for index, name in enumerate(dict.fromkeys(GROUPS.values()))}
    return table.reset_index().sort_values("group", key=lambda names: names.map(order).fillna(99), kind="stable")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, equal values at the mean of their ranks; nan where one of them is constant."""
    from scipy.stats import rankdata

    first, second = rankdata(a), rankdata(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def ranks(frame: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of predicted and measured times inside each table of BLOOM's notes.

    Rows that stand within a few lines of each other are one table. A table whose measured or predicted
    times are all equal, or with fewer than three rows, has no correlation.

    Returns
    -------
    pandas.DataFrame
        table (its first line), rows, spearman.
    """
    import pandas as pd

    lines = {case.row_id: bloom.line_of(case.row) for case in cases() if case.source == bloom.SOURCE}
    known = frame[(frame["technique"] == bloom.SOURCE) & (frame["metric"] == TIME) & frame["error"].notna()].copy()
    known["line"] = known["claim"].map(lines)
    known = known[known["line"].notna()].sort_values("line")
    known["table"] = (known["line"].diff() > GAP).cumsum()
    found = []
    for _, rows in known.groupby("table"):
        if len(rows) >= FEWEST:
            correlation = spearman(rows["reported"].to_numpy(), rows["predicted"].to_numpy())
            found.append({"table": int(rows["line"].iloc[0]), "rows": len(rows), "spearman": correlation})
    return pd.DataFrame(found, columns=["table", "rows", "spearman"])


def choices(frame: pd.DataFrame) -> pd.DataFrame:
    """Cost of choosing the plan predicted best among vTrain's measured ones, over several nodes.

    Returns
    -------
    pandas.DataFrame
        group, plans, chosen, best (row names), cost (measured time of the chosen over the best, - 1).
    """
    import pandas as pd

    groups: dict[str, str] = {case.row_id: _group(case.row) for case in cases() if case.source == "vtrain-multi"}
    known = frame[(frame["technique"] == "vtrain-multi") & (frame["metric"] == TIME) & frame["error"].notna()]
    members: dict[str, list[int]] = defaultdict(list)
    for index, claim in zip(known.index, known["claim"], strict=True):
        members[groups[claim]].append(index)
    found = []
    for group, indices in members.items():
        rows = known.loc[indices]
        chosen, best = rows.iloc[int(rows["predicted"].argmin())], rows.iloc[int(rows["reported"].argmin())]
        cost = float(chosen["reported"] / best["reported"] - 1)
        names = {"chosen": chosen["claim"], "best": best["claim"]}
        found.append({"group": group, "plans": len(rows), **names, "cost": cost})
    return pd.DataFrame(found, columns=["group", "plans", "chosen", "best", "cost"])


def _group(row: Mapping[str, str]) -> str:
    """Model, devices and batch: what a choice of plan leaves as it is."""
    shape = f"{row['layers']} x {row['hidden']}, {row['heads']} heads, sequence {row['seq_len']}"
    return f"{shape}, {row['n_gpus']} devices, batch {row['global_batch_seqs']}"


def text(frame: pd.DataFrame) -> str:
    """All of it as text."""
    percent = {key: "{:.1%}".format for key in ("mean", "median", "worst", "trivial", "cost")}
    percent |= {"bias": "{:+.1%}".format, "ratio": "{:.1f}".format, "spearman": "{:.2f}".format}
    parts = []
    for title, table in (
        ("Step time, by source (absolute relative error)", by_source(frame)),
        ("The same, calibration rows and held-out rows apart", by_source(frame, by_split=True)),
        ("Memory", by_source(frame, "memory [B]")),
        ("Ranks inside the tables of BLOOM's notes", ranks(frame)),
        ("Cost of the plan chosen among vTrain's", choices(frame)),
    ):
        if len(table):
            parts.append(f"{title}:\n\n" + table.to_string(index=False, formatters=percent, na_rep="-"))
    return "\n\n".join(parts)
