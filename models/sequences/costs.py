"""What sequences cost on the ranks of a scenario: the numbers planners take, from the model that predicts steps.

Forward and backward passes of one sequence are composed at several lengths, on one rank that divides nothing;
what grows with the square is attention, what grows in proportion everything else, and what is left does not
depend on tokens. Exchanges come from the same collectives, memory from the same footprint as in a training step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError
from ...hardware.units import format_size
from ...solvers.hybrid_costs import HdpCosts
from ...solvers.sequences import SequenceCosts
from ..blocks import Attend
from ..groups import Group, communicator
from ..scenario import Scenario
from ..techniques import combined
from ..techniques.sequence_parallel.ulysses import widths
from ..training.cost import Cost
from ..training.memory import training_memory
from ..training.overlap import added
from ..training.parts import Parts
from ..training.predict import training_parts

Floats = NDArray[np.float64]

# Tokens at which passes are composed. Shorter ones would show kernels that wait for their launch, which the
# sequences of a full micro-batch share.
_COMPOSED = tuple(4096 * 2**i for i in range(7))
_MEMORY_AT = (4096, 8192)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights and gradients on their way, for all layers of a rank.

    Parameters
    ----------
    first, beside, last : float
        Seconds for every micro-batch: before it, while it computes, and after it (ZeRO-3).
    link_bytes, nic_bytes : float
        What a rank sends meanwhile, inside and out of its node [B].
    once : float
        Seconds after all micro-batches: gradients added up, weights updated and gathered.
    """

    first: float = 0.0
    beside: float = 0.0
    last: float = 0.0
    link_bytes: float = 0.0
    nic_bytes: float = 0.0
    once: float = 0.0


@dataclass(frozen=True)
class ScenarioCosts:
    """Costs of a training scenario whose ranks divide sequences as a planner says.

    A rank is a tensor-parallel group; all those of the cluster take part, whatever dp and cp the plan has.

    Parameters
    ----------
    scenario : Scenario
        In training.
    """

    scenario: Scenario

    def __post_init__(self) -> None:
        case = self.scenario
        if case.workload.phase != "training":
            raise InputError(
                f"{case.where}: workload.phase: {case.workload.phase}, and sequences are planned for training "
                "(legal: training)"
            )
        if case.model.experts and case.plan.ep > 1:
            raise InputError(f"{case.where}: plan.ep: {case.plan.ep} where sequences are planned (legal: 1)")

    @property
    def ranks(self) -> int:
        """Ranks that divide sequences."""
        plan = self.scenario.plan
        return self.scenario.cluster.size // int(plan.tp * plan.pp)

    def _at(self, length: int) -> Scenario:
        """The scenario with one sequence on each rank."""
        plan = replace(self.scenario.plan, dp=self.ranks, cp=1)
        batch = self.ranks * plan.pp
        work = replace(self.scenario.workload, sequence_length=length, micro_batch=1, global_batch=batch)
        return replace(self.scenario, plan=plan, workload=work)

    def _parts(self, length: int) -> Parts:
        return training_parts(self._at(length), combined(()), None)

    @cached_property
    def _counts(self) -> list[float]:
        """Layers of each kind on a rank, then embedding and head."""
        plan, parts = self.scenario.plan, self._parts(_COMPOSED[0])
        return [*(float(kind.members.sum()) / plan.pp for kind in parts.kinds), 1 / plan.pp, 1 / plan.pp]

    @cached_property
    def passes(self) -> tuple[Floats, Floats, float]:
        """(seconds per squared token, per token, and of a micro-batch), forward and backward; and the fit's error.

        Returns
        -------
        ndarray, ndarray, float
            The largest relative error over the lengths composed.
        """
        from scipy.optimize import nnls

        rows = np.array([[float(s) ** 2, float(s), 1.0] for s in _COMPOSED])
        times = np.zeros((2, len(_COMPOSED)))
        for place, length in enumerate(_COMPOSED):
            parts = self._parts(length)
            every = [*parts.layers, parts.embedding, parts.head]
            times[0, place] = added(self._counts, [p.forward for p in every]).time
            times[1, place] = added(self._counts, [p.backward for p in every]).time
        found, errors = [], []
        for row in times:
            # Relative errors count; a column of ones is what every length should come to.
            solution = nnls(rows / row[:, None], np.ones(len(row)))[0]
            found.append(solution)
            errors.append(np.abs(rows @ solution / row - 1).max())
        return found[0], found[1], float(max(errors))

    @cached_property
    def weights(self) -> Weights:
        """Weights and gradients on their way."""
        plan, parts = self.scenario.plan, self._parts(_COMPOSED[0])
        layers = sum(self._counts[:-2])
        gather = added(self._counts, [*parts.gather, *parts.gather_ends])
        reduce = added(self._counts, [*parts.reduce, *parts.reduce_ends])
        update = added(self._counts, [*parts.update, *parts.update_ends])
        if plan.zero < 3:
            return Weights(once=float(gather.time + reduce.time + update.time))
        everything: Cost = gather * 2.0 + reduce  # gathered for each pass
        first = gather.time / layers if "parameters" in plan.overlap else 2 * gather.time
        last = reduce.time / layers if "gradients" in plan.overlap else reduce.time
        beside = max(0.0, float(everything.time - first - last))
        return Weights(
            float(first),
            beside,
            float(last),
            float(everything.link_bytes) * beside / float(everything.time),
            float(everything.nic_bytes) * beside / float(everything.time),
            float(update.time),
        )

    @cached_property
    def memory(self) -> tuple[float, float]:
        """Bytes a rank holds of a token over all layers, and whatever its tokens."""
        low, high = (
            float(training_memory(case.model, case.workload, case.plan, case.software)["total"])
            for case in map(self._at, _MEMORY_AT)
        )
        token = (high - low) / (_MEMORY_AT[1] - _MEMORY_AT[0])
        states = low - token * _MEMORY_AT[0]
        capacity, where = self.scenario.cluster.device.memory_capacity, self.scenario.where
        if states + token > capacity:
            raise InputError(
                f"{where}: plan: weights, gradients and optimizer of {self.scenario.model.name} take "
                f"{format_size(states)} of the {format_size(capacity)} of {self.scenario.cluster.device.name}, which "
                "leaves no memory for a token (legal: a higher zero, tp or pp, or more devices)"
            )
        return token, states

    # -- exchanges ---------------------------------------------------------------------------------------

    def _tensors(self, degree: int) -> list[float]:
        """Elements of a token in every all-to-all of a layer, forward and backward."""
        model, tp = self.scenario.model, self.scenario.plan.tp
        kv = max(1, -(-model.kv_heads // tp))
        core = Attend(1, 1, degree, model.heads // tp, kv, model.head_dim, model.v_head_dim)
        inward, outward = widths(core, degree)
        forward = [*inward, *outward]
        # Full recomputation repeats the forward exchanges, too.
        return forward * (3 if self.scenario.plan.recompute == "full" else 2)

    def _size(self) -> float:
        from ..kernels import DTYPE_BYTES, NARROW

        dtype = self.scenario.workload.dtype
        return float(DTYPE_BYTES["bf16" if dtype in NARROW else dtype])

    def group(self, degree: int) -> Group:
        """Ranks beside each other that divide a sequence."""
        return Group(self.scenario.cluster, degree, self.scenario.plan.tp)

    def exchange(self, tokens: Floats, degree: int) -> Floats:
        """Seconds of all-to-alls of groups of that degree that have so many tokens each."""
        if degree == 1:
            return np.zeros_like(np.asarray(tokens, dtype=float))
        group, rows = self.group(degree), np.asarray(tokens, dtype=float) / degree
        layers = sum(self._counts[:-2])
        amounts = self._tensors(degree)
        found = sum(
            amounts.count(width) * np.asarray(group.times("all_to_all", rows * width * self._size()))
            for width in dict.fromkeys(amounts)
        )
        return np.asarray(layers * found)

    def exchanged(self, tokens: float, degree: int) -> tuple[float, float]:
        """Bytes a rank sends in those all-to-alls, inside its node and out of it."""
        if degree == 1:
            return 0.0, 0.0
        group = self.group(degree)
        sent = sum(self._counts[:-2]) * sum(self._tensors(degree)) * self._size() * tokens / degree
        sent *= (degree - 1) / degree
        out = float(group.crossing("all_to_all", sent))
        return sent - out, out

    # -- for planners ------------------------------------------------------------------------------------

    @cached_property
    def sequence(self) -> SequenceCosts:
        """Costs of groups that exchange heads for tokens (Ulysses), degrees being powers of two."""
        if self.scenario.plan.pp > 1:
            raise InputError(
                f"{self.scenario.where}: plan.pp: {self.scenario.plan.pp} with groups that wait for each other "
                "(legal: 1, or method bytescale)"
            )
        forward, backward, _ = self.passes
        quadratic, linear, fixed = (forward + backward).tolist()
        token, states = self.memory
        capacity = self.scenario.cluster.device.memory_capacity
        heads = self.scenario.model.heads // self.scenario.plan.tp
        base = sum(self._counts[:-2]) * sum(self._tensors(1)) * self._size()
        holds = (capacity - states) / token
        bandwidth: dict[int, float] = {1: float("inf")}
        degree = 2
        while degree <= min(self.ranks, heads):
            if heads % degree == 0:
                # What a full rank's messages come to; copies of few key heads make more of them.
                bandwidth[degree] = float(base * holds / self.exchange(np.array([holds * degree]), degree)[0])
            degree *= 2
        exposed = self.weights.first + self.weights.last
        return SequenceCosts(quadratic, linear, fixed + exposed, base, bandwidth, token, states, capacity)

    def ring_seconds(self, across: bool) -> float:
        """Seconds a ring step takes for each token, all layers, while the other ranks of the nodes do the same.

        Parameters
        ----------
        across : bool
            Whether the ring leaves a node.
        """
        cluster, tp = self.scenario.cluster, self.scenario.plan.tp
        layers, tokens = sum(self._counts[:-2]), max(1, self.capacity_tokens)
        members = max(1, cluster.devices_per_node // tp) * (2 if across else 1)
        step = communicator(cluster, members, tp).shift(tokens * self.ring_bytes() / layers)
        return step.time / tokens * layers

    def ring_bytes(self) -> float:
        """Bytes of keys and values of a token, all layers."""
        model, tp = self.scenario.model, self.scenario.plan.tp
        width = max(1, -(-model.kv_heads // tp)) * (model.head_dim + model.v_head_dim)
        return float(sum(self._counts[:-2]) * width * self._size())

    @property
    def capacity_tokens(self) -> int:
        """Tokens a rank has memory for."""
        token, states = self.memory
        return int((self.scenario.cluster.device.memory_capacity - states) / token)

    @cached_property
    def hybrid(self) -> HdpCosts:
        """Costs of groups of any width that pass keys and values around a ring."""
        forward, backward, _ = self.passes
        layers = max(1, round(sum(self._counts[:-2])))
        software, cluster = self.scenario.software, self.scenario.cluster
        across = cluster.nic is not None and cluster.nodes > 1
        token, _ = self.memory
        return HdpCosts(
            quadratic=float(forward[0]),
            linear=float(forward[1]),
            exchange=self.ring_seconds(across),
            capacity=self.capacity_tokens,
            layers=layers,
            fixed=float(forward[2] + backward[2]),
            activation=token / layers,
            d2h=software.host_link,
            h2d=software.host_link,
            backward_quadratic=_ratio(backward[0], forward[0], 2.5),
            backward_linear=_ratio(backward[1], forward[1], 2.0),
        )


def _ratio(above: Any, below: Any, otherwise: float) -> float:
    return float(above / below) if below > 0 else otherwise
