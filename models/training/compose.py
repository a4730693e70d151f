"""A layer of each kind, arranged by a technique and timed once; a model's step is made of these.

Layers of one kind cost the same, and a technique may let neighbours overlap. So one and three of them
are arranged: half of what the two more add is the cost of a layer among its like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...hardware import Cluster
from ...simulator import Program, Trace
from ..architecture import Transformer
from ..blocks import Tokens, Work
from ..build import Builder
from ..clock import Clock
from ..groups import Groups
from ..kernels import Kernels
from ..layers import Layers
from ..plan import Plan
from ..routing.known import Routing
from ..step import Step, backward_step, forward_step
from ..techniques import TechniqueCall
from .cost import Cost

Play = Callable[[Program], Trace]
MakeClock = Callable[[Cluster, Kernels, Groups], Clock]

ALIKE = 3  # layers arranged together


@dataclass(frozen=True, slots=True)
class Passes:
    """Costs of one micro-batch going through something.

    Parameters
    ----------
    forward, backward : Cost
        The backward pass without weight gradients where those are scheduled apart.
    weight : Cost
        Weight gradients scheduled apart; nothing where the backward pass holds them.
    """

    forward: Cost
    backward: Cost
    weight: Cost


@dataclass(frozen=True, slots=True)
class Composer:
    """Composes parts of a model for one plan, or for arrays of plans.

    Parameters
    ----------
    model : Transformer
    cluster : Cluster
    kernels : Kernels
    groups : Groups
    plan : Plan
    tokens : Tokens
        Of one micro-batch, on one rank.
    technique : TechniqueCall
    routing : Routing
    play : callable, optional
        Plays a program of tasks; None takes the closed form.
    known : dict
        What was composed before; may be shared by composers that differ in recomputation and schedule alone.
    clock : callable
        Makes the closed form's `Clock`, of cluster, kernels and groups.
    """

    model: Transformer
    cluster: Cluster
    kernels: Kernels
    groups: Groups
    plan: Plan
    tokens: Tokens
    technique: TechniqueCall
    routing: Routing
    play: Play | None = None
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    clock: MakeClock = Clock

    @property
    def layers(self) -> Layers:
        """Blocks of the model as the plan divides it."""
        return Layers(self.model, self.kernels, self.plan.division, training=True, routing=self.routing)

    def layer(self, which: int, recompute: str, split: bool) -> Passes:
        """One layer among others of its kind.

        Parameters
        ----------
        which : int
            A layer of that kind.
        recompute : str
            none | selective | full.
        split : bool
            Whether weight gradients are scheduled apart.
        """
        one, three = self._once(("forward", which), lambda: self._both(self._forward(which)))
        one_back, three_back = self._once(
            ("backward", which, recompute, split), lambda: self._both(self._backward(which, recompute, split))
        )
        weight = self._once(("weight", which), lambda: self._weight(which)) if split else Cost()
        return Passes((three - one) * 0.5, (three_back - one_back) * 0.5, weight)

    def _forward(self, which: int) -> Step:
        """Three layers of a kind, forward."""

        def made() -> Step:
            step = forward_step("forward", self.layers, self.tokens, (which,) * ALIKE)
            each = len(step.blocks) // ALIKE  # numbered from 0, so that equal layers are told apart
            blocks = (replace(block, layer=index // each) for index, block in enumerate(step.blocks))
            return replace(step, exit=(), blocks=tuple(blocks))

        found: Step = self._once(("forward step", which), made)
        return found

    def _backward(self, which: int, recompute: str, split: bool) -> Step:
        """The same, backward; without weight gradients where those are scheduled apart."""
        found: Step = self._once(
            ("backward step", which, recompute), lambda: backward_step(self.layers, self._forward(which), recompute)
        )
        if not split:
            return found
        return replace(found, blocks=tuple(replace(block, deferred=()) for block in found.blocks))

    def _weight(self, which: int) -> Cost:
        """Weight gradients of one layer."""
        blocks = _single(self._backward(which, "none", split=False)).blocks
        return self.straight(kernel for block in blocks for kernel in block.deferred)

    def _both(self, step: Step) -> tuple[Cost, Cost]:
        """Costs of one and of three layers."""
        return self.arranged(_single(step)), self.arranged(step)

    def embedding(self) -> Passes:
        """Token embedding."""
        found: Passes = self._once(("embedding",), lambda: self._end(self.layers.embedding(self.tokens)))
        return found

    def head(self) -> Passes:
        """Output projection and loss; its weight gradients are not worth scheduling apart."""
        found: Passes = self._once(("head",), lambda: self._end(self.layers.head(self.tokens, True)))
        return found

    def _end(self, work: tuple[Work, ...]) -> Passes:
        return Passes(self.straight(work), self.straight(self.layers.backward_kernels(work)), Cost())

    def straight(self, work: Iterable[Work]) -> Cost:
        """Kernels and collectives one after the other, whatever the technique."""
        return self._cost(lambda build: build.compute(tuple(work), after=build.start))

    def arranged(self, step: Step) -> Cost:
        """A pass as the technique arranges it."""
        return self._cost(lambda build: self.technique.emit(step, build))

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _cost(self, emit: Callable[[Builder], Any]) -> Cost:
        if self.play is None:
            clock = self.clock(self.cluster, self.kernels, self.groups)
            emit(clock)
            return clock.cost()
        build = Builder("part", self.cluster, self.kernels, self.plan.tp, groups=self.groups)
        emit(build)
        return _played(self.play(build.program))


def _single(step: Step) -> Step:
    """One layer of some."""
    return replace(step, blocks=tuple(block for block in step.blocks if block.layer == 0))


def _played(trace: Trace) -> Cost:
    """What a played program cost its first rank."""
    totals: dict[str, float] = {}
    sent: dict[str, float] = {}
    memory = launches = 0.0
    for task in trace.program.tasks:
        if task.rank:
            continue
        for resource, amount in task.demand.items():
            totals[resource] = totals.get(resource, 0.0) + amount
        memory += float(task.info.get("memory_bytes", 0.0))
        launches += task.kind in ("compute", "communication")
        if "communication" in task.info:
            kind = str(task.info["communication"])
            sent[kind] = sent.get(kind, 0.0) + float(task.info["communication_bytes"])
    return Cost(
        time=trace.makespan,
        compute=trace.busy("compute"),
        communication=trace.busy("communication"),
        memory_bytes=memory,
        link_bytes=totals.get("link[0]", 0.0),
        nic_bytes=totals.get("nic[0]", 0.0),
        sm_time=np.minimum(totals.get("sm[0]", 0.0), trace.makespan),
        launches=launches,
        sent=sent,
    )
