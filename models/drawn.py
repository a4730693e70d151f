"""The closed form of a prediction for many draws of errors at once: factors on times are entries of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..simulator.communicator import Collective
from .build import Builder, Handle
from .clock import Clock
from .groups import Group, Groups, process_groups
from .kernels import Kernel, Kernels
from .step import Phase, Step
from .techniques import TechniqueCall, combined
from .training.cost import Cost
from .training.parts import Parts, passes_of, ports_of, transfer_of, weights_of
from .training.predict import timing_of
from .training.stages import kinds
from .uncertainty import SAMPLES, Draws, Factors

if TYPE_CHECKING:
    from ..hardware import Cluster
    from .scenario import Scenario

ALIKE = 3  # layers that are timed together, as in training


class DrawnClock(Clock):
    """A clock in which kernels and collectives take their drawn times.

    Parameters
    ----------
    cluster, kernels, groups
        As of `Clock`.
    draws : Draws
    decoding : bool
        Whether attention is that of single tokens.
    """

    def __init__(self, cluster: Cluster, kernels: Kernels, groups: Groups, draws: Draws, decoding: bool = False):
        super().__init__(cluster, kernels, groups)
        self.draws, self.decoding = draws, decoding

    def run(self, kernel: Kernel, after: Handle) -> Handle:
        """A kernel; a gap before it that is part of its fit is off with it."""
        factors = self.draws.kernel(kernel, self.decoding)
        time: Any = kernel.time * factors
        gap: Any = kernel.overhead * factors if self.kernels.own_launch else kernel.overhead
        return super().run(replace(kernel, time=time, overhead=gap), after)

    def collective(
        self,
        cost: Collective,
        after: Handle,
        stream: str = "communication",
        units: int | None = None,
        shared: bool = True,
        group: Group | None = None,
        queued: bool = False,
    ) -> Handle:
        """A collective."""
        across = bool(np.any(np.greater((group or self.tensor).nodes(), 1)))
        time: Any = cost.time * self.draws.collective(cost.kind, cost.sent_bytes, across)
        return super().collective(replace(cost, time=time), after, stream, units, shared, group, queued)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Times of all draws, the first of each as predicted [s]; of shape (SAMPLES + 1,).

    Parameters
    ----------
    time : array
        Of the whole.
    compute, communication : array
        Of its kernels, and of its collectives.
    """

    time: Any
    compute: Any
    communication: Any


def drawn_step(scenario: Scenario, call: TechniqueCall, draws: Draws) -> Drawn:
    """A training step in closed form."""
    model, cluster, work, plan = scenario.model, scenario.cluster, scenario.workload, scenario.plan
    kernels = Kernels(cluster.device, scenario.software, work.dtype, training=True)
    passes = passes_of(model, cluster, kernels, work, plan, call, clock=partial(DrawnClock, draws=draws))
    weights: dict[str, Any] = {
        name: draws.cost(found) if isinstance(found, Cost) else tuple(map(draws.cost, found))
        for name, found in weights_of(model, cluster, kernels, plan).items()
    }
    transfer = draws.cost(transfer_of(model, cluster, kernels, work, plan))
    parts = Parts(kinds=kinds(model), **passes, **weights, transfer=transfer, ports=ports_of(cluster))
    timing = timing_of(scenario, parts)
    return Drawn(timing.time, timing.busiest.compute, timing.busiest.communication)


def drawn_phases(
    scenario: Scenario, call: TechniqueCall, kernels: Kernels, phases: Sequence[Phase], draws: Draws
) -> Drawn:
    """Phases of inference in closed form; of layers of a kind three are timed, and stand for all."""
    groups = process_groups(scenario.cluster, scenario.plan)
    total = Cost()
    for phase in phases:

        def timed(emit: Callable[[Builder], Any], decoding: bool = phase.name == "decode") -> Cost:
            clock = DrawnClock(scenario.cluster, kernels, groups, draws, decoding)
            emit(clock)
            return clock.cost()

        for step in phase.steps:
            total = total + _whole(scenario, call, step, timed) * phase.repeat
    return Drawn(total.time, total.compute, total.communication)


def _whole(
    scenario: Scenario, call: TechniqueCall, step: Step, timed: Callable[[Callable[[Builder], Any]], Cost]
) -> Cost:
    """Cost of a pass over all layers."""
    total = timed(lambda build: build.compute((*step.entry, *step.exit), after=build.start))
    for kind in kinds(scenario.model):
        own = [block for block in step.blocks if block.layer == kind.example]

        def some(count: int, own: Any = own) -> Step:
            blocks = tuple(replace(block, layer=layer) for layer in range(count) for block in own)
            return replace(step, entry=(), exit=(), blocks=blocks)

        one, three = (timed(partial(call.emit, some(count))) for count in (1, ALIKE))
        each = (three - one) * (1 / (ALIKE - 1))
        # What the first layer takes beyond the others, as where nothing runs beside it, is taken once.
        total = total + each * float(kind.members.sum()) + ((one - each) if kind.example == 0 else Cost())
    return total


def relative(drawn: Drawn) -> Factors:
    """Times of the draws over the time as predicted, of shape (SAMPLES,)."""
    return _over_first(drawn.time)


def by_shares(drawn: Drawn, compute: float, exposed: float) -> Factors:
    """The same of a technique without a closed form, from the drawn kernels and collectives of the baseline.

    Parameters
    ----------
    drawn : Drawn
        Of the baseline.
    compute, exposed : float
        Seconds in which the technique computes, and communicates with nothing computed [s].
    """
    share = compute / (compute + exposed)
    return share * _over_first(drawn.compute) + (1 - share) * _over_first(drawn.communication)


def _over_first(times: Any) -> Factors:
    times = np.broadcast_to(np.asarray(times, dtype=float), (SAMPLES + 1,))
    return times[1:] / times[0] if times[0] else np.ones(SAMPLES)


def baseline() -> TechniqueCall:
    """What a technique without a closed form is held against."""
    return combined(())
