"""What became of a plan in the engine: times, shares of them, groups, and a picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.units import format_number, format_time
from ...simulator import Trace
from ...solvers.sequences import SequencePlan, Share
from .batch import Batch
from .program import Laid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STATUS = {"time limit": "the best plan when the time limit was reached", "heuristic": "not proven the best"}
_SHOWN = 12  # micro-batches a summary lists


@dataclass(frozen=True)
class SequenceReport:
    """A plan of sequences, as planned and as simulated. Shares are of all ranks' time.

    Attributes
    ----------
    method, setting : str
        How it was planned, and whose costs it was planned with.
    batch : Batch
    plan : SequencePlan
    planned_s, time_s : float
        The solver's time and the engine's [s].
    tokens_per_second : float
    compute_share, exchange_share, weights_share, idle_share : float
        Computing; exchanging activations with nothing computed beside; weights and gradients on their way with
        nothing else going on; and waiting, for other ranks or for weights that take longer than what runs beside
        them. They add up to 1.
    groups : tuple of mapping
        Of every micro-batch, how many groups there are of each degree.
    trace : Trace
    laid : Laid
    """

    method: str
    setting: str
    batch: Batch
    plan: SequencePlan
    planned_s: float
    time_s: float
    tokens_per_second: float
    compute_share: float
    exchange_share: float
    weights_share: float
    idle_share: float
    groups: tuple[dict[int, int], ...]
    trace: Trace = field(repr=False, compare=False)
    laid: Laid = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the trace, in plain JSON types."""
        names = ("method", "setting", "planned_s", "time_s", "tokens_per_second", "compute_share", "exchange_share",
                 "weights_share", "idle_share")  # fmt: skip
        plan, batch = self.plan, self.batch
        return {
            **{name: getattr(self, name) for name in names},
            "ranks": plan.ranks,
            "sequences": len(batch),
            "tokens": batch.tokens,
            "longest": batch.longest,
            "source": batch.source,
            "seed": batch.seed,
            "dropped": batch.dropped,
            "truncated": batch.truncated,
            "micro_batches": len(self.groups),
            "groups": [{str(degree): count for degree, count in some.items()} for some in self.groups],
            "bound_s": plan.bound or None,  # nothing was proven
            "gap": plan.gap if plan.bound else None,
            "status": plan.status,
            "solver_s": plan.seconds,
            "notes": list(plan.notes),
        }

    def summary(self) -> str:
        """A few lines for people."""
        plan = self.plan
        status = _STATUS.get(plan.status, plan.status)
        gap = f", of which no plan saves more than {plan.gap:.1%}" if plan.bound else ""
        rows = [
            ("method", f"{self.method}, {self.setting}, {plan.ranks} ranks"),
            ("batch", self.batch.describe()),
            (
                "planned",
                f"{format_time(self.planned_s)} ({status}{gap}; found in {format_time(plan.seconds)})",
            ),
            ("simulated", f"{format_time(self.time_s)}, {format_number(self.tokens_per_second)} tokens/s"),
            (
                "ranks",
                f"compute {self.compute_share:.1%}, exchange {self.exchange_share:.1%}, "
                f"weights {self.weights_share:.1%}, idle {self.idle_share:.1%}",
            ),
        ]
        called = "micro-batch" if plan.barrier else "turn"
        for number, some in enumerate(self.groups[:_SHOWN]):
            rows.append((f"{called} {number}", _groups(some)))
        if len(self.groups) > _SHOWN:
            rows.append(("", f"and {len(self.groups) - _SHOWN} more"))
        rows += [("note", text) for text in plan.notes]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Ranks over time, coloured by the length of the sequences they work on."""
        from .drawing import draw_plan

        return draw_plan(self, ax)

    def spans(self) -> NDArray[np.float64]:
        """Begin and end of every share in the engine, of shape (shares, 2) [s]."""
        found = [
            (self.trace.start[[*compute, *messages]].min(), self.trace.end[[*compute, *messages]].max())
            for compute, messages in self.laid.tasks
        ]
        return np.array(found, dtype=float).reshape(-1, 2)


def report(plan: SequencePlan, batch: Batch, laid: Laid, trace: Trace, setting: str, stages: int) -> SequenceReport:
    """Report of a plan that was run.

    Parameters
    ----------
    plan : SequencePlan
    batch : Batch
    laid : Laid
    trace : Trace
        Of the laid program.
    setting : str
        Whose costs they are.
    stages : int
        Pipeline stages, each with the plan's ranks.
    """
    start, end = trace.start, trace.end
    compute = exchange = 0.0
    for share, (computed, messages) in zip(laid.shares, laid.tasks, strict=True):
        own = float((end[list(computed)] - start[list(computed)]).sum())
        compute += len(share.ranks) * own
        if messages:
            exchange += len(share.ranks) * (_union(start, end, [*computed, *messages]) - own)
    weights = float((end[list(laid.weights)] - start[list(laid.weights)]).sum())
    time = trace.makespan
    whole = plan.ranks * stages * time
    shares = compute / whole, exchange / whole, weights / time
    return SequenceReport(
        plan.method,
        setting,
        batch,
        plan,
        plan.time,
        time,
        batch.tokens / time,
        *shares,
        max(0.0, 1.0 - sum(shares)),
        tuple(_degrees(some) for some in plan.micro_batches),
        trace,
        laid,
    )


def _union(start: NDArray[np.float64], end: NDArray[np.float64], tasks: list[int]) -> float:
    """Seconds in which any of the tasks runs."""
    length, reach = 0.0, -np.inf
    for begin, finish in sorted((float(start[i]), float(end[i])) for i in tasks):
        length += max(0.0, finish - max(begin, reach))
        reach = max(reach, finish)
    return length


def _degrees(some: tuple[Share, ...]) -> dict[int, int]:
    """How many groups there are of each degree, largest first."""
    return dict(sorted(Counter(len(share.ranks) for share in some).items(), reverse=True))


def _groups(some: dict[int, int]) -> str:
    shown = [f"{count} of {degree}" if count > 1 else f"one of {degree}" for degree, count in some.items()]
    more = f", and {len(shown) - _SHOWN} other degrees" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
