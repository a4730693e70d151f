"""How often the measured value lies inside the 90 % interval that a prediction carries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ..hardware import load_cluster
from ..models.software import load_software

if TYPE_CHECKING:
    import pandas as pd

NOTE = (
    "The half width is the 90th percentile of held-out errors, most of them of the rows counted here, so that nine in "
    "ten lie inside by construction. In the last column they do not: held-out rows are halved by a checksum of their "
    "names, and each half is counted against the width that the other gives."
)
FEWEST = 20  # rows of a stack that are enough to set a width by one half and count in the other
SHARE = 0.9
COLUMNS = ["software", "rows", "half width", "inside", "inside, width from the other half"]


def coverage(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of held-out rows inside the interval, by software profile.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of `validate`.

    Returns
    -------
    pandas.DataFrame
        software, rows, half width (as a share of the prediction), inside, inside with the width from the other half
        (`NOTE`; nan for fewer than 20 rows).
    """
    import numpy as np
    import pandas as pd

    held = frame[(frame["split"] == "held out") & frame["error"].notna()]
    stacks: dict[str, list[tuple[str, float]]] = {}
    for family, stacks_of in STACKS.items():
        own = held[held["family"] == family]
        if own.empty:
            continue
        for index, software in stacks_of(own):
            # The interval is one of time, relative to the prediction; a rate stands upside down in it.
            row = own.loc[index]
            ratio = row["reported"] / row["predicted"]
            off = abs((1 / ratio if "throughput" in row["metric"] else ratio) - 1)
            stacks.setdefault(software, []).append((str(row["claim"]), float(off)))
    found: list[dict[str, Any]] = []
    for software, rows in sorted(stacks.items()):
        width, off = load_software(software).error, np.array([error for _, error in rows])
        if width is None:
            continue
        half = np.array([crc32(claim.encode()) % 2 == 0 for claim, _ in rows])
        crossed = float("nan")
        if len(off) >= FEWEST and half.any() and not half.all():
            inside = [off[mine] <= np.quantile(off[~mine], SHARE) for mine in (half, ~half)]
            crossed = float(np.concatenate(inside).mean())
        values = (software, len(off), width, float((off <= width).mean()), crossed)
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(found, columns=COLUMNS)


def _training(rows: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    from .training.rows import TIME
    from .training.tables import cases

    known: dict[str, tuple[str, str]] = {}
    devices: dict[str, str] = {}
    for case in cases():
        if case.scenario is not None:
            stack, cluster = case.scenario["software"], case.scenario["cluster"]
            key = json.dumps(cluster, sort_keys=True)
            if key not in devices:
                devices[key] = load_cluster(cluster).device.name
            known[case.row_id] = (stack["preset"] if isinstance(stack, Mapping) else stack, devices[key])
    for index, claim in rows[rows["metric"] == TIME]["claim"].items():
        software, device = known[claim]
        if device in load_software(software).calibrated_on:
            yield index, software


def _tensor_parallel(rows: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    for index in rows.index[rows["metric"] == "end-to-end throughput"]:
        yield index, "torch-compile"  # the software of every scenario of `ladder`


STACKS: Mapping[str, Callable[[pd.DataFrame], Iterator[tuple[Any, str]]]] = {
    "training": _training,
    "tensor_parallel": _tensor_parallel,
}
"""By family, the rows whose predictions carry an interval, and the software profile that gives it."""
