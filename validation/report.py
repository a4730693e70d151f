"""What a validation table says, in an order that hides nothing: misses first; as blocks that any format can write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .blocks import Block, Picture, Points, Section, Table
from .executed import table, unequal
from .tables import DOUBT, grid, shown

if TYPE_CHECKING:
    import pandas as pd

MISSED = 0.15  # errors beyond this are listed even where no reason is known
CLOSE = 0.10
FEW = 3  # rows of a technique and metric that are shown one by one
NAMED = 6  # claims that a point names
KEYS = ["technique", "metric", "split"]
INTERVALS = (
    "How many left-out measurements lie inside the 90 % intervals, by kernel, fabric and software stack: "
    "python -m commlens.validation.intervals (some minutes)."
)


def sections(frame: pd.DataFrame, executed: pd.DataFrame | str | None = None) -> list[Section]:
    """Everything a page says, in its order.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of `validate`.
    executed : pandas.DataFrame or str, optional
        Of `executed.run`, or why there is nothing of it.
    """
    from .figures import pictures

    families = list(dict.fromkeys(frame["family"]))
    first: list[Block] = [counts(frame), *missed(frame), *unequal(executed), *left_out(frame)]
    return [
        Section("Missed or not predicted, and why", first),
        Section("All families", [MEANING, overview(frame)] if families else []),
        *(
            Section(title(family), [*pictures(own), *body(own)])
            for family, own in ((name, frame[frame["family"] == name]) for name in families)
        ),
        *common(frame, executed),
    ]


def text(frame: pd.DataFrame, executed: pd.DataFrame | str | None = None) -> str:
    """What is missed and why, errors, single numbers, and what intervals and references are worth, as plain text.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of `validate`.
    executed : pandas.DataFrame or str, optional
        Of `executed.run`, or why there is nothing of it.
    """
    blocks: list[Block] = [counts(frame), *missed(frame), *unequal(executed), *left_out(frame), *body(frame)]
    for section in common(frame, executed):
        blocks += [block for block in section.blocks if not isinstance(block, Picture)]
    return "\n\n".join(filter(None, map(_plain, blocks)))


def to_json(frame: pd.DataFrame, executed: pd.DataFrame | str | None = None) -> str:
    """Rows as a list; with executed references, a mapping of `rows` and `references`.

    Parameters
    ----------
    frame : pandas.DataFrame
        Of `validate`.
    executed : pandas.DataFrame or str, optional
        Of `executed.run`, or why there is nothing of it.
    """
    rows = frame.to_json(orient="records", indent=2)
    if executed is None:
        return rows
    found = json.dumps(executed) if isinstance(executed, str) else executed.to_json(orient="records", indent=2)
    return f'{{"rows": {rows},\n"references": {found}}}'


MEANING = (
    "Errors are relative and absolute; bias keeps the sign. Calibration rows are those a parameter was fitted to; held "
    "out are all others. Measurements in doubt are left out of this table. The trivial baseline is, by family, the "
    "bare wire, the nearest known run's share of peak, the datasheet or no gain at all; it is not defined for every "
    "row, and 'same rows' is the model's mean error where it is."
)


def title(family: str) -> str:
    """A family's name as a headline."""
    return family.replace("_", " ").capitalize()


def counts(frame: pd.DataFrame) -> str:
    """One line on how much was held against how much."""
    if frame.empty:
        return "Nothing was predicted."
    doubt = _doubtful(frame)
    error = frame["error"][~doubt].dropna().abs()
    near, far = int((error <= CLOSE).sum()), int((error > MISSED).sum())
    return (
        f"{len(frame)} comparisons with published numbers, {int(doubt.sum())} of them in doubt as measurements and "
        f"{int(frame['predicted'].isna().sum())} not predicted. Of the other {len(error)}, {near} are within "
        f"{CLOSE:.0%} ({near / max(1, len(error)):.0%}) and {far} off by more than {MISSED:.0%}."
    )


def missed(frame: pd.DataFrame) -> Iterator[Points]:
    """What is missed, not predicted or in doubt, by reason; then what is far off without one."""
    known, told = frame["error"].notna(), frame["reason"].fillna("") != ""
    far, doubt = frame["error"].abs() > MISSED, _doubtful(frame)
    for heading, rows in (
        ("Missed, and why:", frame[told & known & ~doubt]),
        ("Not predicted, or reported as zero, and why:", frame[~known]),
        ("Measurements in doubt, and why:", frame[told & known & doubt]),
    ):
        items = [
            (f"{family}, {technique}: {_claims(group)}", str(reason) or "no reason is given")
            for (family, technique, reason), group in rows.groupby(["family", "technique", "reason"], sort=False)
        ]
        if items:
            yield Points(heading, items)
    unexplained = frame[far & ~told]
    if len(unexplained):
        groups = unexplained.groupby(["family", "technique", "metric"], sort=False)
        items = [
            (f"{family}, {technique}: {_claims(group)}", str(metric)) for (family, technique, metric), group in groups
        ]
        yield Points(f"Off by more than {MISSED:.0%}, and no reason is known:", items)


def left_out(frame: pd.DataFrame) -> Iterator[Points]:
    """Tables that are not shipped and were not found."""
    if frame.attrs.get("skipped"):
        parts = [reason.partition(": ") for reason in frame.attrs["skipped"]]
        yield Points("Skipped, as there is no such table:", [(name, said) for name, _, said in parts])


def body(frame: pd.DataFrame) -> Iterator[Table]:
    """Errors of tables, numbers that stand alone, and what a family adds."""
    few = frame.groupby(KEYS[:2])["error"].transform("count") <= FEW
    many = summary(frame[~few])
    if len(many):
        yield Table("Errors of predictions (absolute, relative), and of a trivial baseline:", many)
    single = frame[few & frame["error"].notna()]
    if len(single):
        columns = ["technique", "claim", "metric", "reported", "predicted", "error", "split"]
        yield Table("Claims of one number each:", single[columns])
    for family in dict.fromkeys(frame["family"]):
        for caption, made in more(family):
            found = made(frame[frame["family"] == family])
            if len(found):
                yield Table(f"{caption}:", found)


def more(family: str) -> Iterable[tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]]:
    """Tables that a family has beside those of all families: captions, and what makes them."""
    from .training import summary as training

    own: Mapping[str, Sequence[tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]]] = {
        "training": (
            ("Step time by source", training.by_source),
            ("Ranks inside the tables of BLOOM's notes", training.ranks),
            ("Cost of the plan chosen among vTrain's", training.choices),
        )
    }
    return own.get(family, ())


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows, mean, median and 90th percentile of the absolute relative error, by technique, metric and split."""
    return _errors(frame, KEYS)


def overview(frame: pd.DataFrame) -> Table:
    """The same by family, measurements in doubt left out, with the share of rows that are close."""
    return Table("Errors by family:", _errors(frame[~_doubtful(frame)], ["family", "split"], sort=False, whole=True))


def common(frame: pd.DataFrame, executed: pd.DataFrame | str | None) -> Iterator[Section]:
    """What is not of one family: intervals, calibration, executed references."""
    from .calibration import calibrated

    yield Section("Intervals", [INTERVALS])
    yield Section("Calibration", list(calibrated()))
    yield Section("Executed references", [table(executed)])


def _doubtful(frame: pd.DataFrame) -> pd.Series[bool]:
    """Rows whose measured value is in doubt, as their metric says."""
    return frame["metric"].str.endswith(DOUBT)


def _errors(frame: pd.DataFrame, keys: list[str], sort: bool = True, whole: bool = False) -> pd.DataFrame:
    known = frame[frame["error"].notna()]
    known = known.assign(absolute=known["error"].abs(), naive=known["trivial_error"].abs())
    known["same"] = known["absolute"].where(known["naive"].notna())
    known["close"] = known["absolute"] <= CLOSE
    groups = known.groupby(keys, sort=sort)
    found = groups["absolute"].agg(rows="size", mean="mean", median="median", p90=lambda e: e.quantile(0.9))
    found["bias"] = groups["error"].mean()
    found["trivial"] = groups["naive"].mean()
    if whole:
        found["same rows"] = groups["same"].mean()
        found.insert(1, "within 10 %", groups["close"].mean())
    return found.reset_index()


def _claims(rows: pd.DataFrame) -> str:
    """The first claims by name, how many there are, and how far off they are."""
    names = list(dict.fromkeys(rows["claim"]))
    said = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    errors = rows["error"].dropna()
    if errors.empty:
        return said
    low, high = f"{errors.min():+.0%}", f"{errors.max():+.0%}"
    return f"{said} ({low})" if low == high else f"{said} ({low} to {high})"


def _plain(block: Block) -> str:
    """A block as text."""
    if isinstance(block, Points):
        return "\n".join([block.title, "", *(f"  {head}\n    {said}" for head, said in block.items)])
    if isinstance(block, Table):
        return f"{block.title}\n\n{grid(shown(block.rows))}"
    return block if isinstance(block, str) else ""
