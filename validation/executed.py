"""Executed references in a report: techniques run on real processes, beside what their programs say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .blocks import Block, Points, Table

if TYPE_CHECKING:
    import pandas as pd


def run(family: str | None = None) -> pd.DataFrame | str:
    """Executed references of a family's techniques, or of all; why there are none where a rank fails.

    Parameters
    ----------
    family : str, optional

    Raises
    ------
    InputError
        Where torch is not installed.
    """
    from importlib.util import find_spec

    from ..hardware.errors import InputError
    from ..models.techniques import registry

    if find_spec("torch") is None:
        raise InputError("--references: torch is not installed (legal: with pip install 'commlens[torch]')")
    from .references import RankFailed, references

    try:
        return references([name for name, one in registry().items() if family in (None, one.family)])
    except RankFailed as failure:
        return str(failure)


def unequal(executed: pd.DataFrame | str | None) -> Iterator[Points]:
    """Executed references that failed or differ from their programs."""
    if isinstance(executed, str):
        yield Points("Executed references:", [("failed", executed)])
    elif executed is not None:
        wrong = executed[executed["status"].str.startswith("differs")]
        if len(wrong):
            items = zip(wrong["technique"] + ", " + wrong["what"], wrong["status"], strict=True)
            yield Points("Executed references that differ:", [(str(name), str(status)) for name, status in items])


def table(executed: pd.DataFrame | str | None) -> Block:
    """All of them, or how to get them.

    Parameters
    ----------
    executed : pandas.DataFrame or str, optional
        Of `run`.
    """
    if executed is None:
        return (
            "Executed references (techniques run on real processes; outputs, gradients and bytes compared) take "
            "minutes and were not run: commlens validate --references."
        )
    if isinstance(executed, str):
        return f"Executed references failed: {executed}"
    said = executed.copy()
    for column in ("executed_bytes", "predicted_bytes"):
        said[column] = [
            ", ".join(f"{kind} {count:,}" for kind, count in sent.items()) if isinstance(sent, Mapping) else ""
            for sent in said[column]
        ]
    wrong = int(said["status"].str.startswith("differs").sum())
    return Table(f"Techniques run on real processes, bytes of all ranks; {wrong} of {len(said)} differ:", said)
