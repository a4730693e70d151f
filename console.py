"""What every command does alike: bars while something runs, files that cannot be written, tables of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .hardware.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# What a table for people shows; --json and --csv have every field.
COLUMNS = [
    "time_s", "tokens_per_second", "speedup", "speedup_low", "speedup_high", "mfu", "exposed_communication_s", "fits",
]  # fmt: skip
EMPTY = ("error", "speedup_low", "speedup_high")  # not shown where no row has any


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, from the second second on and only on a terminal.

    Parameters
    ----------
    what : str
        Goes on meanwhile.

    Yields
    ------
    callable
        To be called with (done, of).
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """A file that an option names, while it is written.

    Raises
    ------
    InputError
        When that fails.
    """
    try:
        yield
    except (OSError, ValueError) as problem:
        raise InputError(f"{option}: cannot write {path}: {problem}") from None


def show(frame: pd.DataFrame, index: bool = False) -> None:
    """Print a table for people."""
    print(frame.to_string(index=index, float_format=lambda value: f"{value:.4g}"))


def table(
    frame: pd.DataFrame,
    as_json: bool,
    csv: Path | None,
    first: list[str] | None = None,
    also: list[str] | None = None,
) -> None:
    """Print predictions, and write them into a file where one is asked for.

    Parameters
    ----------
    frame : DataFrame
    as_json : bool
        Every field, in SI units.
    csv : Path or None
        File for every field.
    first, also : list of str, optional
        Columns for people to see before and after the usual ones.
    """
    named = frame.index.name is not None
    if csv:
        with writing("--csv", csv):
            frame.to_csv(csv, index=named)
    if as_json:
        print(frame.reset_index(drop=not named).to_json(orient="records", indent=2))
        return
    chosen = [c for c in [*(first or []), *COLUMNS, *(also or [])] if c in frame]
    chosen = [c for c in chosen if c not in EMPTY or not frame[c].isna().all()]
    show(frame[chosen], index=named)
