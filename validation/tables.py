"""Tables for people: what each column's numbers look like, and columns that stand under each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

DOUBT = ", doubtful rows"
"""How the metric of rows ends whose measured value is in doubt."""

PERCENT, SIGNED = "{:.1%}".format, "{:+.1%}".format
FORMATS: Mapping[str, Callable[[float], str]] = {
    **dict.fromkeys(("mean", "median", "p90", "worst", "trivial", "cost", "within 10 %", "same rows"), PERCENT),
    **dict.fromkeys(("half width", "inside", "inside, width from the other half"), PERCENT),
    **dict.fromkeys(("cross-validated", "fitted", "nearest row", "datasheet"), PERCENT),
    **dict.fromkeys(("1 MiB and more", "below 1 MiB"), PERCENT),
    **dict.fromkeys(("bias", "error"), SIGNED),
    **dict.fromkeys(("output_error", "gradient_error"), "{:.0e}".format),
    "ratio": "{:.1f}".format,
    "spearman": "{:.2f}".format,
}
"""How columns are written; other numbers have four digits."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A table as text.

    Parameters
    ----------
    names : sequence of str
    rows : sequence of sequence of str
    numeric : sequence of bool
        Columns that are aligned to the right.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]


def shown(frame: pd.DataFrame) -> Cells:
    """Every value as people read it; nothing where there is none."""
    columns = [[cell(name, value) for value in frame[name].tolist()] for name in frame.columns]
    numeric = [frame[name].dtype.kind in "iufb" for name in frame.columns]
    return Cells([str(name).replace("_", " ") for name in frame.columns], list(zip(*columns, strict=True)), numeric)


def cell(name: str, value: Any) -> str:
    """One value of a column."""
    if isinstance(value, float):
        return "-" if isnan(value) else FORMATS.get(name, "{:.4g}".format)(value)
    return "-" if value is None or str(value) == "<NA>" else " ".join(str(value).split())


def grid(cells: Cells) -> str:
    """A table as lines of text, numbers to the right, words to the left."""
    widths = [max(len(row[i]) for row in [cells.names, *cells.rows]) for i in range(len(cells.names))]
    lines = []
    for row in [cells.names, *cells.rows]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, cells.numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
