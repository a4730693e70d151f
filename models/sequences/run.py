"""Plan a batch of sequences with a solver, and run the plan in the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...hardware.errors import InputError, nearest
from ...simulator import run
from ...solvers.bytescale import plan_bytescale, plan_megascale
from ...solvers.flexsp import plan_flexsp
from ...solvers.sequences import SequencePlan
from ...solvers.static_sequences import plan_adaptive, plan_packed, plan_static
from ..scenario import Scenario
from .batch import Batch, batch_of
from .corpora import Corpus, corpus_names, load_corpus
from .cost_file import PublishedCosts, load_sequence_costs
from .costs import ScenarioCosts, Weights
from .lengths_file import Lengths, read_lengths
from .pieces import Ring, exchanging
from .program import lay
from .report import SequenceReport, report

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

Progress = Callable[[int, int], None]
Costs = ScenarioCosts | PublishedCosts

METHODS = {
    "flexsp": "groups of unlike degree, planned for every micro-batch (arXiv 2412.01523)",
    "bytescale": "as many ranks as each sequence needs, no micro-batch in common (arXiv 2502.21231)",
    "static": "groups of one degree that holds the longest sequence allowed",
    "adaptive": "groups of one degree, the best for the batch",
    "packed": "groups of one degree that do not wait for each other between micro-batches",
    "megascale": "packs divided over all ranks of a ring of one degree",
}
RINGS = ("bytescale", "megascale")

_HALVINGS = 6  # of the tokens a rank may take at a time, tried by methods with a ring
_FEWEST = 1024  # tokens below which kernels are assumed not to be as efficient as the costs say


def plan_sequences(
    scenario: Scenario | Mapping[str, Any] | str | Path | None,
    lengths: ArrayLike | Batch | Corpus | Lengths | str | Path,
    method: str = "flexsp",
    *,
    batch: int | None = 512,
    seed: int = 0,
    costs: str | Path | Mapping[str, Any] | Costs | None = None,
    time_limit: float = 10.0,
    progress: Progress | None = None,
    column: str | None = None,
    **drawing: Any,
) -> SequenceReport:
    """Plan the sequences of a step and run the plan in the engine.

    Parameters
    ----------
    scenario : Scenario, mapping, path or None
        Training scenario: its model, cluster, software, and of its plan tp, pp, zero and recompute count. Its cp
        is the degree of `static`, `packed` and `megascale` where it is above 1. None where `costs` say everything.
    lengths : array_like, Batch, Corpus, Lengths, str or path
        Lengths of a step; or a corpus, by name or from a file, to draw them from.
    method : str
        One of `METHODS`.
    batch : int, optional
        Sequences drawn; a file or corpus of lengths given by the user that has no more is taken whole.
    seed : int
    costs : str, path, mapping or costs, optional
        Published constants (`load_sequence_costs`) to plan with instead of the model's own.
    time_limit : float
        Of a solver that takes its time [s]; at its end the best plan known is returned, and says so.
    progress : callable, optional
        Called with (done, of).
    column : str, optional
        Of lengths in a file.
    **drawing
        `tokens`, `max_length`, `over` and `multiple`, as of `batch.draw`.

    Returns
    -------
    SequenceReport

    Raises
    ------
    InputError
        One line for bad lengths, options, or what no plan holds.
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r}{nearest(str(method), METHODS)} (legal: {', '.join(METHODS)})")
    priced = _costs(scenario, costs)
    given = batch_from(lengths, batch=batch, seed=seed, column=column, **drawing)
    return _planned(priced, given, method, time_limit, progress)


def compare_sequences(
    scenario: Scenario | Mapping[str, Any] | str | Path | None,
    lengths: ArrayLike | Batch | Corpus | Lengths | str | Path,
    methods: Sequence[str] | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, SequenceReport]]:
    """Plan the same batch by several methods.

    Parameters
    ----------
    scenario, lengths
        As of `plan_sequences`.
    methods : sequence of str, optional
        Default all that the costs allow.
    **options
        As of `plan_sequences`.

    Returns
    -------
    DataFrame, dict of str to SequenceReport
        Indexed by method: `SequenceReport.to_dict`, `speedup` over static, and `error` for methods that hold no plan.
    """
    import pandas as pd

    priced = _costs(scenario, options.pop("costs", None))
    drawing = {key: value for key, value in options.items() if key not in ("time_limit", "progress")}
    given = batch_from(lengths, **drawing)
    found: dict[str, SequenceReport] = {}
    rows = []
    for name in METHODS if methods is None else methods:
        if name not in METHODS:
            raise InputError(f"method: {name!r}{nearest(str(name), METHODS)} (legal: {', '.join(METHODS)})")
        try:
            found[name] = _planned(priced, given, name, options.get("time_limit", 10.0), options.get("progress"))
            rows.append({**found[name].to_dict(), "error": None})
        except InputError as problem:
            rows.append({"method": name, "error": str(problem)})
    if not found:
        raise InputError(str(rows[0]["error"]))
    frame = pd.DataFrame(rows).set_index("method")
    if "static" in found:
        frame["speedup"] = found["static"].time_s / frame["time_s"]
    return frame, found


def batch_from(
    lengths: ArrayLike | Batch | Corpus | Lengths | str | Path,
    *,
    batch: int | None = 512,
    seed: int = 0,
    column: str | None = None,
    **drawing: Any,
) -> Batch:
    """Batch of what a user hands in; arguments as of `plan_sequences`."""
    if isinstance(lengths, str | Path):
        text = str(lengths)
        if isinstance(lengths, Path) or "." in text or "/" in text or Path(text).exists():
            lengths = read_lengths(lengths, column)
        else:
            try:
                lengths = load_corpus(text)
            except InputError:
                raise InputError(
                    f"lengths: {text!r:.60} is no file and no corpus{nearest(text, corpus_names())} "
                    f"(legal: a .csv, .jsonl, .parquet or .txt file, {', '.join(corpus_names())})"
                ) from None
    if isinstance(lengths, Corpus | Lengths):
        return lengths.batch(batch, seed=seed, **drawing)
    if drawing and not isinstance(lengths, Batch):
        return Lengths("lengths", batch_of(lengths).lengths).batch(None, **drawing)
    return batch_of(lengths)


def _costs(
    scenario: Scenario | Mapping[str, Any] | str | Path | None, costs: str | Path | Mapping[str, Any] | Costs | None
) -> Costs:
    if isinstance(costs, ScenarioCosts | PublishedCosts):
        return costs
    if costs is not None:
        return load_sequence_costs(costs)
    if scenario is None:
        raise InputError("scenario: missing (legal: a training scenario, or costs)")
    if isinstance(scenario, Mapping):
        scenario = Scenario.from_dict(scenario)
    return ScenarioCosts(scenario if isinstance(scenario, Scenario) else Scenario.load(scenario))


def _planned(priced: Costs, batch: Batch, method: str, time_limit: float, progress: Progress | None) -> SequenceReport:
    try:
        plan = _plan(priced, batch, method, time_limit, progress)
    except InputError as problem:
        about = batch.source if str(problem).startswith("lengths[") and batch.source != "lengths" else ""
        raise InputError(f"{about}: {problem}" if about else str(problem)) from None
    plan.check(batch.lengths)  # type: ignore[arg-type]
    lengths = batch.lengths.astype(float)
    if isinstance(priced, PublishedCosts):
        costs = priced.sequence
        laid = lay(plan, lambda share: exchanging(costs, lengths, share, None), Weights(), costs.fixed, None)
        return report(plan, batch, laid, run(laid.program), priced.name, 1)
    case, stages = priced.scenario, priced.scenario.plan.pp
    if case.techniques:
        names = ", ".join(call.label for call in case.techniques)
        plan = replace(plan, notes=(*plan.notes, f"without {names}: the method says how ranks work together"))
    if method in RINGS:
        ring, fixed = Ring(priced, lengths), priced.hybrid.fixed
        laid = lay(plan, ring, replace(priced.weights, first=0.0, beside=0.0, last=0.0), fixed, case.cluster,
                   case.plan.tp, stages)  # fmt: skip
    else:
        costs, moved = priced.sequence, priced.weights
        fixed = costs.fixed - moved.first - moved.last
        if not plan.barrier:  # groups that do not meet cannot gather weights together
            fixed, moved = costs.fixed, Weights(once=moved.once)
        laid = lay(plan, lambda share: exchanging(costs, lengths, share, priced), moved, fixed, case.cluster,
                   case.plan.tp)  # fmt: skip
    return report(plan, batch, laid, run(laid.program), f"{case.model.name} on {case.cluster.name}", stages)


def _plan(priced: Costs, batch: Batch, method: str, time_limit: float, progress: Progress | None) -> SequencePlan:
    ranks, lengths = priced.ranks, batch.lengths
    cp = priced.scenario.plan.cp if isinstance(priced, ScenarioCosts) else 1
    if method in RINGS:
        if isinstance(priced, PublishedCosts):
            raise InputError(f"method: {method} needs a scenario, for costs of a ring (legal: those of no ring)")
        return _ringed(priced, batch, method, cp, progress)
    costs = priced.sequence
    static = plan_static(lengths, costs, ranks, cp if cp > 1 else None, context=batch.longest_allowed)
    if method == "static":
        return static
    if method != "packed":  # static packs end at the longest sequence allowed, which may happen to balance better
        found = (
            plan_flexsp(lengths, costs, ranks, time_limit=time_limit, progress=progress)
            if method == "flexsp"
            else plan_adaptive(lengths, costs, ranks)
        )
        return found if found.time <= static.time else replace(static, method=method, bound=found.bound)
    degree = len(static.micro_batches[0][0].ranks)
    return plan_packed(lengths, costs, ranks, degree, context=batch.longest_allowed)


def _ringed(priced: ScenarioCosts, batch: Batch, method: str, cp: int, progress: Progress | None) -> SequencePlan:
    """The best plan over the tokens that a rank may take at a time: what it has memory for, or a part of that.

    Fewer of them divide sequences further and leave more micro-batches to balance; ByteScale takes them as given.
    """
    pp, ranks, best = priced.scenario.plan.pp, priced.ranks, None
    for halvings in range(_HALVINGS + 1):
        hybrid = replace(priced.hybrid, capacity=priced.hybrid.capacity >> halvings)
        if halvings and hybrid.capacity < _FEWEST:
            break
        try:
            if method == "bytescale":
                # Offloading saves ranks; where the longest sequence is what all wait for, it had better have more.
                tries = _each(plan_bytescale, batch.lengths, hybrid, ranks, balance="pp" if pp > 1 else "dp", pp=pp)
                plan = min(tries, key=lambda plan: plan.time)
            else:
                wide = max(cp, -(-(batch.longest_allowed or batch.longest) // hybrid.capacity))
                plan = plan_megascale(batch.lengths, hybrid, ranks, wide, pp=pp)
        except InputError:
            if best is None:
                raise
            break  # the longest sequence needs more ranks than there are
        if best is None or plan.time < best.time:
            notes = (*plan.notes, f"up to {hybrid.capacity} tokens a rank at a time, of {priced.hybrid.capacity}")
            best = replace(plan, notes=notes)
        if progress:
            progress(halvings + 1, _HALVINGS + 1)
    assert best is not None  # or the first has raised
    return best


def _each(planner: Callable[..., SequencePlan], *given: Any, **options: Any) -> list[SequencePlan]:
    """Plans with and without offload; without, a sequence may need more ranks than there are."""
    found = [planner(*given, **options, offload=True)]
    try:
        found.append(planner(*given, **options, offload=False))
    except InputError:
        return found
    return found
