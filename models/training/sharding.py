"""Passes of a layer with the messages of every micro-batch: divided weights and gradients (ZeRO-2 and 3).

Divided weights are gathered for each pass, one layer ahead, and freed after it (ZeRO-3, arXiv 1910.02054).
Divided gradients are scattered as they are made, beside the next layer. One communicator runs one of these
after the other, so a layer takes at least what runs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..plan import Plan
from .cost import Cost, Ports
from .overlap import covered, unwaited
from .parts import SPLIT

Triple = tuple[Cost, Cost, Cost]  # forward, backward, weight gradients


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where one pass ends and the next begins; numbers or arrays with one entry per plan.

    Parameters
    ----------
    last : float
        Share of layers that end a pass: one of those of a chunk.
    turns : float
        Share of forward passes that follow a backward pass.
    """

    last: Any
    turns: Any

    @classmethod
    def of(cls, plan: Plan, layers: int, batches: Any) -> Boundary:
        """Boundary of a plan, or of many.

        Parameters
        ----------
        plan : Plan
        layers : int
            Of the model.
        batches : int
            Micro-batches of a step.
        """
        last = 1.0 / np.maximum(1.0, layers / (plan.pp * plan.vp))
        if plan.schedule == "gpipe":
            return cls(last, 0.0)
        # Passes before the first backward one, as a mean over the stages.
        warm = np.where(np.equal(plan.vp, 1), 0.5 * (plan.pp - 1), plan.pp * plan.vp - 1)
        return cls(last, np.maximum(0.0, 1.0 - (warm + 1) / (batches * plan.vp)))


def sharded(
    passes: Triple, gather: Cost, reduce: Cost, plan: Plan, ports: Ports, boundary: Boundary
) -> tuple[Triple, Triple]:
    """Passes of a layer on a busy stage, and on one that waits for its input before each.

    A stage that waits has gathered the first weights of the pass meanwhile. Where only gradients are divided
    (ZeRO-2) and scattered beside the passes, no pass waits for it, and it is not added here.

    Parameters
    ----------
    passes : tuple of Cost
        Forward, backward and weight gradients of one layer.
    gather, reduce : Cost
        Of its weights, and of their gradients.
    plan : Plan
    ports : Ports
    boundary : Boundary
    """
    forward, backward, weight = passes
    behind = "gradients" in plan.overlap
    sooner: Any = 0.0
    if plan.zero >= 2 and not behind:
        if plan.schedule in SPLIT:  # gradients of weights come with their own passes
            weight = weight + reduce
        else:
            backward = backward + reduce
            sooner = reduce.time * boundary.last  # the next stage has its input before the last of them
    if plan.zero != 3 or "parameters" not in plan.overlap:
        if plan.zero == 3:
            forward, backward = forward + gather, backward + gather
            backward = covered(backward, reduce, ports) if behind else backward
        return (forward, backward, weight), (forward, replace(backward, time=backward.time - sooner), weight)
    # What a layer makes is scattered beside the next one: after the last of a pass, beside the next pass.
    first = boundary.last * boundary.turns if behind else 0.0
    nothing, both = Cost(), gather + reduce
    makes_gradients = weight if plan.schedule in SPLIT else backward
    busy, rested = [], []
    for own, beside, more, share in (
        (forward, gather, both, first),
        (backward, gather, both, 1.0 - first if makes_gradients is backward and behind else 0.0),
        (weight, nothing, reduce, 1.0 - first if makes_gradients is weight and behind else 0.0),
    ):
        one, other = covered(own, beside, ports), covered(own, more, ports)
        found = one * (1.0 - share) + other * share
        sooner = unwaited(own, beside, ports) * (1.0 - share) + unwaited(own, more, ports) * share
        busy.append(found)
        rested.append(replace(found, time=found.time * (1.0 - boundary.last) + sooner * boundary.last))
    return (busy[0], busy[1], busy[2]), (rested[0], rested[1], rested[2])
