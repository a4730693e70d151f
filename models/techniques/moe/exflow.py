"""ExFlow: tokens stay where their experts are, and experts that follow each other are placed together.

arXiv 2401.08383: every device holds the context of all sequences, so attention of the next layer can run where the
last expert left the token. Of the two all-to-alls of a layer the way back falls away, and with experts placed by
affinity (`solvers.expert_placement`, `workload.routing.placement`) the next expert is often on the same device. The
price: keys and values of all sequences on every device, those of new tokens gathered after each iteration, and as
many tokens in all of a device's work as its experts attract.

The way back falls away for top-1 gating alone. With k experts a token stays with the first; the others' results
travel to it, so there are two exchanges again, of k - 1 copies. Prompts are processed with tokens at home.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from ....hardware import Device
from ...architecture import Transformer
from ...blocks import Exchange, Experts, Work
from ...build import Builder
from ...dispatch import EP, all_to_all, alone, group_of, scattered, spread_of
from ...kernels import Kernel
from ...plan import Plan, Workload
from ...step import Step
from .. import technique

TOKEN = 4  # bytes of a token's number
Publish = Literal["cache", "tokens"]


def unfit(model: Transformer, work: Workload, plan: Plan) -> str:
    """Reason where no context can be replicated."""
    return "" if work.phase != "training" else "is for inference (legal: workload.phase prefill, decode or generate)"


def warning(model: Transformer, plan: Plan, device: Device) -> str:
    """What it does not save with several experts a token."""
    if model.experts_per_token == 1:
        return ""
    return f"exflow: of top-{model.experts_per_token} gating all results but the first still travel back"


def replicated(memory: dict[str, float], plan: Plan) -> dict[str, float]:
    """Keys and values of all sequences of the expert-parallel group on each of its devices."""
    more = memory["kv_cache"] * (plan.ep - 1)
    return memory | {"kv_cache": memory["kv_cache"] + more, "total": memory["total"] + more}


def published(step: Step, build: Builder, *, publish: Publish = "cache") -> Iterable[Work]:
    """After a pass: what it added to the context, gathered by every device."""
    if alone(build):
        return ()
    size: Any = step.cache_bytes if publish == "cache" else step.tokens * TOKEN
    return (Exchange("all_gather", EP, size * group_of(build).size),)


@technique(
    family="moe",
    paper="ExFlow, arXiv 2401.08383",
    needs="memory for all context on every device; top-1 gating for its full gain",
    unfit=unfit,
    warns=warning,
    holds=replicated,
    finish=published,
    gathers_tokens=True,
)
def exflow(core: Experts, build: Builder, *, publish: Publish = "cache") -> Iterable[Kernel | Exchange]:
    """On to the next expert, from where the last one was.

    Parameters
    ----------
    core : Experts
    build : Builder
    publish : str
        What every device gathers of new tokens: "cache" (their keys and values in all layers) or "tokens" (their
        numbers alone).
    """
    if np.any(np.greater(core.query, 1)):
        return all_to_all(core, build)
    group, spread = group_of(build), spread_of(core, build)
    moved, left = 1 - spread.same_device, 1 - spread.same_node
    others = others_elsewhere(core, group.size, spread.same_device)
    outside = others_elsewhere(core, group.nodes(), spread.same_node)
    there = scattered(core, build, moved - left + others - outside, left + outside)
    home: tuple[Exchange, ...] = ()
    if core.top_k > 1 and core.returned:
        others, outside = (others_elsewhere(core, parts, 1.0) for parts in (group.size, group.nodes()))
        home = scattered(core, build, others - outside, outside)
    return (*core.shared, *there, *core.work, *home)


def others_elsewhere(core: Experts, parts: Any, first: Any) -> Any:
    """Of the experts of a token but the first, how many are not on a device, or node, that may have the first.

    Parameters
    ----------
    core : Experts
    parts : int
        Devices or nodes, with as many experts each.
    first : float
        Chance that the first is there; of the rest any is as likely.
    """
    here = core.count / np.asarray(parts) - first
    return (core.top_k - 1) * (1 - here / max(core.count - 1, 1))
