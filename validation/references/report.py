"""References run and held against their programs: a table with a row for each technique and setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...models.techniques import parse_technique, registry
from .catalogue import OPTIONS, REASONS, catalogue
from .harness import Found, run
from .predicted import Counts, predicted
from .reference import Reference

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "technique",
    "what",
    "ranks",
    "output_error",
    "gradient_error",
    "executed_bytes",
    "predicted_bytes",
    "status",
    "reason",
)


def references(only: Sequence[str] | None = None, backend: str = "gloo", timeout: float = 300.0) -> pd.DataFrame:
    """Run every technique's mechanism on real processes and hold it against the undivided layer and its program.

    Parameters
    ----------
    only : sequence of str, optional
        Names of techniques; default all.
    backend : str
        gloo, on processors, or nccl, with a GPU for every rank.
    timeout : float
        Seconds for all.

    Returns
    -------
    pandas.DataFrame
        technique, what, ranks, largest relative differences of output and gradients, bytes by kind that all ranks
        together (or the busiest, where `reason` says so) sent and are predicted to send, forward and backward [B],
        status and reason. Status is "equal" where differences are within rounding and every rank sends what it
        should, in each direction, by kind; "differs", with what does; or "none" for a technique, or an
        option of it, that cannot have a reference.

    Raises
    ------
    RankFailed
        When a rank ends early or the time is up.
    InputError
        For unknown techniques or backends.
    """
    import pandas as pd

    names = list(registry()) if only is None else [parse_technique(name).technique.name for name in only]
    chosen = [reference for reference in catalogue() if reference.technique["name"] in names]
    rows = held(chosen, backend, timeout)
    rows += [
        {"technique": name, "status": "none", "reason": REASONS.get(name, "none is written")}
        for name in names
        if not any(reference.technique["name"] == name for reference in chosen)
    ]
    rows += [
        {"technique": name, "what": what, "status": "none", "reason": reason}
        for (name, what), reason in OPTIONS.items()
        if name in names
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["ranks"] = frame["ranks"].astype("Int64")
    for name in ("output_error", "gradient_error"):
        frame[name] = frame[name].astype(float)
    return frame


def held(chosen: Sequence[Reference], backend: str = "gloo", timeout: float = 300.0) -> list[dict[str, Any]]:
    """Run some references on one pool; a row for each, as `references` has them.

    Parameters
    ----------
    chosen : sequence of Reference
    backend : str
    timeout : float
        Seconds for all.
    """
    if not chosen:
        return []
    found = run([reference.task() for reference in chosen], backend=backend, timeout=timeout)
    return [compared(reference, [one[reference.name] for one in found[: reference.ranks]]) for reference in chosen]


def compared(reference: Reference, found: Sequence[Found]) -> dict[str, Any]:
    """Row of one reference.

    Parameters
    ----------
    reference : Reference
    found : sequence of dict
        What each rank found.
    """
    said = predicted(reference.shape, parse_technique(reference.technique, "references"), reference.ranks)
    sent, messages = ([one[what] for one in found] for what in ("sent", "messages"))
    errors = {what: max(one[what] for one in found) if what in found[0] else None for what in ("output", "gradient")}
    wrong = [f"{what} by {error:.1e}" for what, error in errors.items() if error and error > reference.tolerance]
    by: dict[str, Callable[[Sequence[Counts]], object]] = {"each": list, "mean": _total, "busiest": _busiest}
    shown = _busiest if reference.among == "busiest" else _total
    if by[reference.among](sent) != by[reference.among](said.sent):
        wrong.append("bytes")
    if reference.messages and _busiest(messages) != _busiest(said.messages):
        wrong.append("number of messages")
    return {
        "technique": reference.technique["name"],
        "what": reference.what,
        "ranks": reference.ranks,
        "output_error": errors["output"],
        "gradient_error": errors["gradient"],
        "executed_bytes": _summed(shown(sent)),
        "predicted_bytes": _summed(shown(said.sent)),
        "status": f"differs: {', '.join(wrong)}" if wrong else "equal",
        "reason": reference.reason,
    }


def _busiest(counts: Sequence[Counts]) -> Counts:
    """The most that any rank has, by direction and kind."""
    most: Counts = {}
    for one in counts:
        for direction, kinds in one.items():
            mine = most.setdefault(direction, {})
            for kind, count in kinds.items():
                mine[kind] = max(mine.get(kind, 0), count)
    return most


def _total(counts: Sequence[Counts]) -> Counts:
    """What all ranks have, by direction and kind."""
    total: Counts = {}
    for one in counts:
        for direction, kinds in one.items():
            mine = total.setdefault(direction, {})
            for kind, count in kinds.items():
                mine[kind] = mine.get(kind, 0) + count
    return total


def _summed(counts: Counts) -> dict[str, float]:
    """Both directions together, by kind."""
    total: dict[str, float] = {}
    for kinds in counts.values():
        for kind, count in kinds.items():
            total[kind] = total.get(kind, 0) + count
    return dict(sorted(total.items()))
