"""Lengths of a user's corpus: CSV, Parquet, JSON lines or plain text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...hardware.errors import InputError, nearest
from .batch import LONGEST, Batch, Integers, Over, checked, draw, fitted, limits

COLUMNS = ("length", "lengths", "length_tokens", "tokens", "num_tokens", "n_tokens", "sequence_length")
"""Columns (and keys of JSON lines) taken for lengths where none is named."""

_LIMIT = 512 * 2**20  # bytes of a file; 50 million lengths
_MOST = 10**8  # sequences that counted lengths may stand for
_LEGAL = f"(legal: a whole number of tokens, 1 to {LONGEST})"


@dataclass(frozen=True, eq=False)
class Lengths:
    """Lengths in a file.

    Parameters
    ----------
    source : str
        The file.
    lengths : ndarray of int, shape (sequences,)
    """

    source: str
    lengths: Integers

    def sample(self, generator: np.random.Generator, count: int) -> Integers:
        """Draw lengths with replacement, shape (count,)."""
        return np.asarray(self.lengths[generator.integers(0, len(self.lengths), count)])

    def batch(self, count: int | None = 512, **options: Any) -> Batch:
        """All lengths where there are no more than asked for, in their order; else as many drawn.

        Options as of `batch.draw`. Without `count` or `tokens` all are taken.
        """
        tokens = options.get("tokens")
        if tokens is not None or (count is not None and len(self.lengths) > count):
            return draw(self.sample, self.source, count=count, **options)
        longest, multiple = options.get("max_length"), options.get("multiple", 1)
        over: Over = options.get("over", "drop")
        limits(count, tokens, longest, over, multiple)
        kept, beyond = fitted(self.lengths, longest, over, multiple)
        if not len(kept):
            raise InputError(f"max_length: {longest}, and {self.source} has nothing as short (legal: "
                             f"{self.lengths.min()} or more)")  # fmt: skip
        counts = (beyond, 0) if over == "drop" else (0, beyond)
        return Batch(kept, self.source, None, *counts, longest_allowed=longest)


def read_lengths(path: str | Path, column: str | None = None) -> Lengths:
    """Read a file of lengths.

    Parameters
    ----------
    path : str or Path
        .csv (a header and a column of lengths, maybe a column `count`; or lengths alone), .parquet, .jsonl
        (a length or a mapping on every line), .txt (lengths between spaces or line ends).
    column : str, optional
        Which column, or key; default the first of `COLUMNS`, or the only one there is.

    Raises
    ------
    InputError
        One line with file, line and legal range.
    """
    path = Path(path)
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".txt": _text, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: lengths of a {path.suffix or 'nameless'} file (legal: {', '.join(readers)})")
    return Lengths(str(path), readers[path.suffix.lower()](path, column))


def _read(path: Path) -> str:
    from ...hardware.files import read_text

    text = read_text(path, _LIMIT)
    if not text.strip():
        raise InputError(f"{path}: is empty (legal: one length or more)")
    return text.removeprefix("\ufeff")


def _text(path: Path, column: str | None) -> Integers:
    if column is not None:
        raise InputError(f"--column: {column!r}, and {path} is plain text (legal: a .csv, .jsonl or .parquet file)")
    lines, words = [], []
    for number, line in enumerate(_read(path).splitlines(), 1):
        for word in line.replace(",", " ").split():
            words.append(word)
            lines.append(number)
    return checked(words, lambda place: f"{path}: line {lines[place]}", str(path))


def _csv(path: Path, column: str | None) -> Integers:
    rows = list(_rows(path))
    first = rows[0][1]
    if _is_number(first[0]) and len(first) == 1 and column is None:
        which, counted, header = 0, None, 0
    else:
        which, counted, header = _column(path, first, column), None, 1
        if "count" in first and first[which] != "count":
            counted = first.index("count")
    if len(rows) == header:
        raise InputError(f"{path}: has a header alone (legal: one length or more)")
    for number, row in rows[header:]:
        if len(row) <= max(which, counted or 0):
            raise InputError(f"{path}: line {number}: {len(row)} columns (legal: {len(first)}, as in the first line)")

    def at(place: int) -> str:
        return f"{path}: line {rows[header + place][0]}"

    found = checked([row[which] for _, row in rows[header:]], at, str(path))
    if counted is None:
        return found
    counts = checked([row[counted] for _, row in rows[header:]], lambda place: f"{at(place)}: count", str(path))
    if counts.sum() > _MOST:
        raise InputError(f"{path}: count: {counts.sum()} sequences in all (legal: up to {_MOST})")
    return np.repeat(found, counts)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_read(path).splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as problem:
        raise InputError(f"{path}: line {reader.line_num}: is not CSV: {problem}") from None


def _jsonl(path: Path, column: str | None) -> Integers:
    values, lines = [], []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise InputError(f"{path}: line {number}: is not JSON: {problem}") from None
        if isinstance(value, dict):
            names = list(value)
            value = value[names[_column(f"{path}: line {number}", names, column)]]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{path}: line {number}: {value!r:.60} is not a number {_LEGAL}")
        values.append(float(value))
        lines.append(number)
    return checked(values, lambda place: f"{path}: line {lines[place]}", str(path))


def _parquet(path: Path, column: str | None) -> Integers:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise InputError(f"{path}: no Parquet reader is installed (legal: .csv, or pip install pyarrow)") from None
    except Exception as problem:  # readers have their own exceptions
        raise InputError(f"{path}: is not Parquet: {' '.join(str(problem).split())[:200]}") from None
    names = [str(name) for name in frame.columns]
    values = frame[frame.columns[_column(path, names, column)]]
    return checked(values.to_numpy(), lambda place: f"{path}: row {place + 1}", str(path))


def _column(where: str | Path, names: Sequence[str], column: str | None) -> int:
    """Place of the column of lengths."""
    if column is not None:
        if column not in names:
            raise InputError(
                f"{where}: no column {column!r:.60}{nearest(column, names)} (legal: {', '.join(names)[:200]})"
            )
        return names.index(column)
    known = [names.index(name) for name in COLUMNS if name in names]
    if known:
        return known[0]
    if len(names) == 1 and not _is_number(names[0]):
        return 0
    raise InputError(
        f"{where}: no column {' or '.join(COLUMNS)} (legal: --column with one of {', '.join(names)[:200]})"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
