"""How we know: calibration, published claims, and measured tables, each prediction beside its row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from .claims import Row

COLUMNS = [
    "technique",
    "claim",
    "metric",
    "reported",
    "predicted",
    "error",
    "source",
    "reason",
    "family",
    "setting",
    "split",
    "trivial",
    "trivial_error",
]


def families() -> dict[str, tuple[Callable[[], Iterator[Row]], ...]]:
    """What each family holds its predictions against."""
    from . import (
        bigmac,
        bytescale,
        c4,
        collectives,
        exflow,
        expert_exchange,
        flexsp,
        kernels,
        ladder,
        lasp2,
        longctx,
        t3,
        tokenring,
        ulysses,
    )
    from .training import rows as training

    return {
        "tensor_parallel": (ladder.rows, t3.rows),
        "network": (collectives.rows, expert_exchange.rows, c4.rows),
        "training": (training.rows,),
        "sequence_parallel": (longctx.rows, ulysses.rows, tokenring.rows, lasp2.rows, flexsp.rows, bytescale.rows),
        "moe": (bigmac.rows, exflow.rows),
        "kernels": (kernels.rows,),
    }


def validate(family: str | None = None, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
    """Predict every published number and report both.

    Parameters
    ----------
    family : str, optional
        One family; default all of them.
    progress : callable, optional
        Called with (done, of).

    Returns
    -------
    pandas.DataFrame
        technique, claim, metric, reported, predicted, error (relative), source, reason (why it is
        missed or not predicted), then family, setting, split (calibration or held out), trivial (what
        a trivial baseline would say) and its error. ``attrs["skipped"]`` names tables that are not
        shipped and were not found.

    Raises
    ------
    InputError
        For an unknown family.
    """
    import pandas as pd

    from ..hardware.errors import InputError, nearest

    known = families()
    if family is not None and family not in known:
        raise InputError(f"family: {family!r} (legal: {', '.join(known)}){nearest(family, list(known))}")
    producers = [p for name in ([family] if family else known) for p in known[name]]
    found: list[Row] = []
    skipped: list[str] = []
    for done, producer in enumerate(producers):
        try:
            found += producer()
        except LookupError as missing:
            skipped.append(str(missing.args[0]))
        if progress:
            progress(done + 1, len(producers))
    frame = pd.DataFrame(
        [
            {
                **{name: getattr(row, name) for name in COLUMNS if name != "trivial_error"},
                "trivial_error": None if row.trivial is None or not row.reported else row.trivial / row.reported - 1,
            }
            for row in found
        ],
        columns=COLUMNS,
    )
    numbers = ["reported", "predicted", "error", "trivial", "trivial_error"]
    frame[numbers] = frame[numbers].astype(float)
    frame.attrs["skipped"] = skipped
    return frame
