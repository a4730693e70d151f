"""Many predictions as tables: compare techniques, sweep keys, search plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from itertools import product
from typing import TYPE_CHECKING, Any

from ..hardware.errors import InputError
from ..simulator.result import Result
from .predict import drawn, estimate, simulate
from .scenario import Scenario, changed
from .search.run import search as search
from .techniques import registry
from .uncertainty import bounds

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]
Named = str | Mapping[str, Any]
ENGINES: Mapping[str, Callable[[Scenario], Result]] = {"simulate": simulate, "estimate": estimate}


def compare(
    scenario: Scenario,
    techniques: Sequence[Named | Sequence[Named]],
    engine: str = "simulate",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict the scenario with each technique in turn.

    Parameters
    ----------
    scenario : Scenario
        Its own `techniques` are ignored.
    techniques : sequence
        Of names, mappings of `name` and options, or lists of these: several techniques together.
    engine : str
        "simulate" or "estimate".
    progress : callable, optional
        Called with (done, of).

    Returns
    -------
    pandas.DataFrame
        Indexed by technique (with its options); the fields of `Result`, and `speedup` over the
        first row named baseline, or over the first row where none is, with the ends of its 90 % interval
        `speedup_low` and `speedup_high` (nan where nothing was calibrated). What two rows have in common is off
        by the same factor in both, so that an interval is as wide as their difference is uncertain.
    """
    import numpy as np
    import pandas as pd

    if isinstance(techniques, str) or not techniques:
        raise InputError("techniques: expected a list of names (legal: " + ", ".join(registry()) + ")")
    cases = [scenario.with_techniques([some] if isinstance(some, str | Mapping) else some) for some in techniques]
    results = []
    for done, case in enumerate(cases):
        results.append(engine_of(engine)(case))
        if progress:
            progress(done + 1, len(cases))
    frame = pd.DataFrame([result.to_dict() for result in results]).set_index("technique")
    base = int(np.argmax(frame.index == "baseline"))  # the first row where none is
    frame["speedup"] = frame["time_s"].iloc[base] / frame["time_s"]
    draws = [drawn(case, result) for case, result in zip(cases, results, strict=True)]
    nothing = (np.nan, np.nan)
    ends = np.array([nothing if own is None else bounds(draws[base] / own) for own in draws])
    frame["speedup_low"], frame["speedup_high"] = (frame["speedup"].to_numpy()[:, None] * ends).T
    return frame


def applicable(scenario: Scenario) -> list[str]:
    """Names of the techniques that the scenario can be asked with."""
    found = []
    for name in registry():
        try:
            estimate(scenario.with_techniques([name]))  # some refuse only when they are built
        except InputError:
            continue
        found.append(name)
    return found


def sweep(
    scenario: Scenario,
    grid: Mapping[str, Sequence[Any]],
    executor: Executor | None = None,
    engine: str = "simulate",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict the scenario at every combination of the values of some keys.

    Parameters
    ----------
    scenario : Scenario
    grid : mapping
        Dotted scenario keys to values, as in ``{"plan.tp": [1, 2, 4, 8]}``.
    executor : concurrent.futures.Executor, optional
        Where to run; default here, one after the other.
    engine : str
        "simulate" or "estimate".
    progress : callable, optional
        Called with (done, of).

    Returns
    -------
    pandas.DataFrame
        One row per combination, in the order of the grid: the keys, then the fields of `Result`.
        Combinations that are not legal keep their row, with the reason in `error`.
    """
    import pandas as pd

    if not grid or any(
        isinstance(values, str) or not isinstance(values, Sequence) or not values for values in grid.values()
    ):
        raise InputError("sweep: expected keys with lists of values, as in {'plan.tp': [1, 2, 4, 8]}")
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    cases = [changed(scenario.data, point) for point in points]
    engine_of(engine)
    rows = []
    if executor is None:
        found: Iterable[dict[str, Any]] = (_point(case, engine) for case in cases)
    else:
        futures = [executor.submit(_point, case, engine) for case in cases]
        found = (future.result() for future in futures)
    for point, row in zip(points, found, strict=True):
        rows.append({**point, **row})
        if progress:
            progress(len(rows), len(points))
    if all(row["error"] for row in rows):
        raise InputError(f"sweep: no combination is legal; the first: {rows[0]['error']}")
    return pd.DataFrame(rows)


def _point(data: Mapping[str, Any], engine: str) -> dict[str, Any]:
    try:
        return {**engine_of(engine)(Scenario.from_dict(data)).to_dict(), "error": None}
    except InputError as problem:
        return {"error": str(problem)}


def techniques() -> pd.DataFrame:
    """Every technique: name, family, paper, what it needs, and its options with their defaults."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "name": t.name,
                "family": t.family,
                "paper": t.paper,
                "needs": t.needs,
                "options": ", ".join(f"{key}={p.default}" for key, p in t.options.items()),
            }
            for t in registry().values()
        ]
    )


def engine_of(name: str) -> Callable[[Scenario], Result]:
    """The predictor of that name; InputError names what there is."""
    if name not in ENGINES:
        raise InputError(f"engine: {name!r} (legal: {', '.join(ENGINES)})")
    return ENGINES[name]
