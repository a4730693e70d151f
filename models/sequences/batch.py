"""The sequences of one step: what solvers plan and the engine runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...hardware.errors import InputError, nearest
from ...hardware.units import format_number

Integers = NDArray[np.int64]
Over = Literal["drop", "truncate"]

LONGEST = 10**9
"""Tokens beyond which a length is taken for a mistake; the longest published contexts are some millions."""

_ROUNDS = 1000  # of drawing, before what is asked for counts as too rare


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of one step.

    Parameters
    ----------
    lengths : ndarray of int, shape (sequences,)
        Tokens of each; read-only.
    source : str
        Where they come from.
    seed : int or None
        They were drawn with; None where they were taken as they are.
    dropped, truncated : int
        Sequences drawn that were longer than allowed and left out, or cut.
    longest_allowed : int or None
        Tokens that were allowed; what does not change from step to step has to hold so many.
    """

    lengths: Integers
    source: str
    seed: int | None = None
    dropped: int = 0
    truncated: int = 0
    longest_allowed: int | None = None

    def __post_init__(self) -> None:
        lengths = np.array(self.lengths, dtype=np.int64)
        lengths.setflags(write=False)
        object.__setattr__(self, "lengths", lengths)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.lengths)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The lengths, for planners and NumPy."""
        return np.array(self.lengths, dtype=dtype) if copy else np.asarray(self.lengths, dtype=dtype)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return int(self.lengths.sum())

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return int(self.lengths.max())

    def share_above(self, tokens: float) -> tuple[float, float]:
        """Shares of sequences and of tokens in sequences of at least so many tokens."""
        above = self.lengths >= tokens
        return float(above.mean()), float(self.lengths[above].sum() / self.tokens)

    def describe(self) -> str:
        """One line for people."""
        median, high = np.percentile(self.lengths, [50, 99])
        left = [f"{n} {what}" for n, what in ((self.dropped, "dropped"), (self.truncated, "truncated")) if n]
        drawn = "" if self.seed is None else f", seed {self.seed}"
        return (
            f"{len(self)} sequences, {format_number(self.tokens)} tokens "
            f"(median {median:.0f}, 99 % {high:.0f}, longest {self.longest}) of {self.source}{drawn}"
            + (f"; {', '.join(left)}" if left else "")
        )


def batch_of(lengths: ArrayLike | Batch, source: str = "lengths") -> Batch:
    """Batch of given lengths, checked.

    Raises
    ------
    InputError
        For lengths that are no whole numbers from 1 to `LONGEST`, or none.
    """
    if isinstance(lengths, Batch):
        return lengths
    return Batch(checked(lengths, lambda place: f"{source}[{place}]", source), source)


def checked(lengths: ArrayLike, where: Callable[[int], str], source: str) -> Integers:
    """Lengths as whole numbers; `where` names the place of an illegal one, given its position."""
    legal = f"(legal: a whole number of tokens, 1 to {LONGEST})"
    values = np.asarray(lengths)
    if values.ndim != 1 or not values.size:
        raise InputError(f"{source}: holds no list of lengths {legal}")
    try:
        given = values.astype(float)
    except (TypeError, ValueError):
        place = next(i for i, value in enumerate(values.tolist()) if not _number(value))
        raise InputError(f"{where(place)}: {values.tolist()[place]!r:.60} is not a number {legal}") from None
    with np.errstate(invalid="ignore"):
        bad = ~((given >= 1) & (given <= LONGEST) & (given == np.floor(given)))
    if bad.any():
        place = int(bad.argmax())
        raise InputError(f"{where(place)}: {given[place]:.17g} {legal}")
    return given.astype(np.int64)


def fitted(lengths: Integers, longest: int | None, over: Over, multiple: int) -> tuple[Integers, int]:
    """Lengths rounded up to a multiple, those beyond the longest dropped or cut; and how many were.

    FlexSP's published code rounds first and drops then.
    """
    lengths = -(-lengths // multiple) * multiple
    if longest is None:
        return lengths, 0
    beyond = lengths > longest
    kept = np.minimum(lengths, longest) if over == "truncate" else lengths[~beyond]
    return kept, int(beyond.sum())


def draw(
    sample: Callable[[np.random.Generator, int], Integers],
    source: str,
    *,
    count: int | None = 512,
    tokens: float | None = None,
    seed: int = 0,
    max_length: int | None = None,
    over: Over = "drop",
    multiple: int = 1,
) -> Batch:
    """Draw a batch: so many sequences, or as many as it takes for so many tokens.

    Parameters
    ----------
    sample : callable
        Draws lengths, given a generator and how many.
    source : str
    count : int, optional
        Sequences, where no `tokens` are asked for.
    tokens : float, optional
    seed : int
        Of NumPy's PCG64; the same seed gives the same batch on any machine.
    max_length : int, optional
        Most tokens of a sequence.
    over : {"drop", "truncate"}
        What becomes of longer ones; for a dropped one another is drawn.
    multiple : int
        Lengths are rounded up to it.

    Raises
    ------
    InputError
        For a value out of range, or a maximum that (almost) no sequence is within.
    """
    limits(count, tokens, max_length, over, multiple)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: {seed!r} (legal: a whole number, 0 or more)")
    generator = np.random.Generator(np.random.PCG64(seed))
    found: list[Integers] = []
    have, total, left_out = 0, 0, 0
    for _ in range(_ROUNDS):
        ahead = count if tokens is None else min(10**6, max(1, int((tokens - total) * max(have, 1) / max(total, 1))))
        assert ahead is not None
        some, beyond = fitted(sample(generator, max(ahead - have if tokens is None else ahead, 1)), max_length, over,
                              multiple)  # fmt: skip
        left_out += beyond
        if tokens is not None:  # up to the sequence that reaches them
            some = some[: int(np.searchsorted(np.cumsum(some) + total, tokens)) + 1]
        found.append(some)
        have, total = have + len(some), total + int(some.sum())
        if (tokens is None and have == count) or (tokens is not None and total >= tokens):
            lengths = np.concatenate(found)
            counts = (left_out, 0) if over == "drop" else (0, left_out)
            return Batch(lengths, source, seed, *counts, longest_allowed=max_length)
    raise InputError(f"max_length: {max_length} tokens, and {source} has next to none as short (legal: more, or none)")


def limits(count: int | None, tokens: float | None, max_length: int | None, over: str, multiple: int) -> None:
    """Raise InputError for what no batch can be drawn with."""
    if over not in get_args(Over):
        legal = ", ".join(get_args(Over))
        raise InputError(f"over: {over!r} (legal: {legal}){nearest(str(over), get_args(Over))}")
    for name, value, high in (
        ("batch", count, 10**7),
        ("tokens", tokens, 10**10),
        ("max_length", max_length, LONGEST),
        ("multiple", multiple, LONGEST),
    ):
        if value is not None and (isinstance(value, bool) or not 1 <= value <= high or value != int(value)):
            raise InputError(f"{name}: {value} (legal: a whole number, 1 to {high})")
    if max_length is not None and over == "truncate" and max_length % multiple:
        raise InputError(f"max_length: {max_length} is not a multiple of {multiple} (legal: as `multiple` divides)")
    if max_length is not None and max_length < multiple:
        raise InputError(f"max_length: {max_length} (legal: {multiple} or more, what lengths are rounded up to)")


def _number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
