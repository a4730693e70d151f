"""Plans of prefill, decode and generate: tensor- and expert-parallel degrees; the other devices are replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...hardware.errors import InputError
from ..predict import estimate
from ..scenario import Scenario
from .space import divisors

if TYPE_CHECKING:
    import pandas as pd


def tensor_degrees(
    scenario: Scenario,
    devices: tuple[int, ...],
    keep: int,
    by: str,
    price: float | None,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """Plans of tp, dp and, for a mixture of experts, ep that fit, best first.

    Parameters
    ----------
    scenario : Scenario
    devices : tuple of int
    keep : int
    by : str
        time | throughput | cost.
    price : float or None
        Of a device-hour.
    progress : callable or None

    Returns
    -------
    pandas.DataFrame
        tp, dp, ep of a mixture, devices, then the fields of `Result`; ``attrs``: `evaluated`, and `rejected`, which
        says of every plan left out why.
    """
    import pandas as pd

    heads, experts = scenario.model.heads, scenario.model.experts
    plans = [
        {"tp": tp, "dp": n // tp} | ({"ep": ep} if experts else {})
        for n in devices
        for tp in divisors(heads, n)
        if n % tp == 0
        for ep in divisors(experts or 1, n)
        if n % ep == 0
    ]
    batch = {"workload.global_batch": scenario.workload.global_batch}
    rows: list[dict[str, Any]] = []
    rejected = {}
    for done, plan in enumerate(plans):
        try:
            changes = {f"plan.{key}": value for key, value in plan.items()}
            result = estimate(scenario.replace({**batch, **changes}))
        except InputError as problem:
            rejected[str(plan)] = str(problem)
        else:
            if result.fits:
                rows.append({**plan, "devices": plan["tp"] * plan["dp"], **result.to_dict()})
            else:
                rejected[str(plan)] = "memory does not fit"
        if progress:
            progress(done + 1, len(plans))
    frame = pd.DataFrame(rows)
    if rows:
        tokens = frame["tokens_per_second"]
        if price is not None:
            frame["cost_per_million_tokens"] = price * frame["devices"] / 3600 / tokens * 1e6
        score = {"time": frame["time_s"], "throughput": -tokens, "cost": frame["devices"] / tokens}[by]
        order = score.sort_values(kind="stable").index[:keep]
        frame = frame.loc[order].reset_index(drop=True)
    frame.attrs.update(evaluated=len(plans), fits=len(rows), rejected=rejected)
    return frame
