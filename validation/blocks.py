"""What a report is made of, whatever format it is written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Points:
    """A list of statements.

    Parameters
    ----------
    title : str
    items : sequence of (str, str)
        What it is about, and what is said of it.
    """

    title: str
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table and its caption.

    Parameters
    ----------
    title : str
    rows : pandas.DataFrame
        Numbers as numbers; `tables.shown` makes text of them.
    """

    title: str
    rows: pd.DataFrame


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that is drawn when it is written.

    Parameters
    ----------
    name : str
        Of its file, without suffix.
    alt : str
        What it shows, in words.
    draw : callable
    """

    name: str
    alt: str
    draw: Callable[[], Figure]


Block = str | Points | Table | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """A headline and the blocks below it."""

    title: str
    blocks: Sequence[Block]
