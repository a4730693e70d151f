"""The pipeline of a training scenario: its parts as pieces, chunk by chunk, for the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..pipeline.piece import Chunk, Piece, Pipeline, total
from .cost import Cost
from .overlap import added
from .parts import Parts
from .stages import chunk_layers
from .stragglers import drawn
from .timing import bucket_layers

if TYPE_CHECKING:
    from ...hardware import Cluster
    from ..plan import Plan
    from ..scenario import Scenario


def pipeline_of(scenario: Scenario, parts: Parts) -> Pipeline:
    """Chunks of every stage, with what is sent, gathered, added up and updated.

    Parameters
    ----------
    scenario : Scenario
    parts : Parts
        Of the scenario's plan.
    """
    plan, model = scenario.plan, scenario.model
    dual = plan.schedule == "dualpipe"
    slow = drawn(scenario.stragglers, plan.devices, plan.pp, scenario.seed)
    ranges = chunk_layers(model.layers, plan.pp, plan.vp)
    kind_of = {layer: index for index, kind in enumerate(parts.kinds) for layer in kind.members.nonzero()[0].tolist()}
    last = plan.pp * plan.vp - 1
    make = _Pieces(scenario.cluster, parts, kind_of, plan)
    chunks, updates = [], []
    for stage in range(plan.pp):
        numbers = [chunk * plan.pp + stage for chunk in range(plan.vp)]
        owned = list(zip(numbers, ranges[stage], strict=True))
        if dual:  # the mirror image of the stage, for micro-batches that come from the other end
            owned.append((last - stage, ranges[plan.pp - 1 - stage][0]))
        chunks.append(
            tuple(make.chunk(layers, number == 0, number == last, float(slow[stage])) for number, layers in owned)
        )
        updates.append(make.update([(layers, number == 0, number == last) for number, layers in owned]))
    sync = make.piece(parts.sync) if plan.pp > 1 and parts.sync.time else None
    batches = scenario.workload.global_batch // (plan.dp * scenario.workload.micro_batch)
    return Pipeline(
        chunks=tuple(chunks),
        micro_batches=batches,
        schedule=plan.schedule,
        transfer=make.piece(parts.transfer),
        update=tuple(updates),
        sync=sync,
        gather_each=plan.zero == 3,
        scatter_each=plan.zero >= 2,
        overlap=frozenset(plan.overlap),
    )


class _Pieces:
    """Makes pieces and chunks out of the parts of a step."""

    def __init__(self, cluster: Cluster, parts: Parts, kind_of: dict[int, int], plan: Plan):
        self.cluster, self.parts, self.kind_of, self.plan = cluster, parts, kind_of, plan
        self.repeated = plan.recompute_layers
        self.channels = min(1.0, cluster.link.channels / cluster.device.compute_units)

    def piece(self, cost: Cost, slow: float = 1.0) -> Piece:
        """A cost as a piece; no resource is asked for more than it can serve in the time."""
        time = float(cost.time) * slow
        # While messages among the kernels last, channels of other messages find units free: less is asked for.
        channels = self.channels if cost.compute else 0.0
        units = cost.sm_time + (1.0 - channels) * max(0.0, cost.time - cost.sm_time) if channels else cost.sm_time
        limits = {
            "sm": 1.0,
            "hbm": self.cluster.device.memory_bandwidth,
            "link": self.cluster.link.bandwidth,
            "nic": self.cluster.nic.bandwidth if self.cluster.nic is not None else 0.0,
        }
        asked = {"sm": units, "hbm": cost.memory_bytes, "link": cost.link_bytes, "nic": cost.nic_bytes}
        demand = {name: min(float(asked[name]), limit * time) for name, limit in limits.items()}
        compute = float(cost.compute) * slow
        return Piece(
            time,
            {name: amount for name, amount in demand.items() if amount > 0},
            compute,
            float(cost.communication),
            max(0.0, time - compute),
            float(cost.memory_bytes),
            {kind: float(size) for kind, size in cost.sent.items() if size},
        )

    def chunk(self, layers: range, first: bool, last: bool, slow: float) -> Chunk:
        """Some layers, with the embedding before the first and the head after the last of the model."""
        parts = self.parts
        each = []
        for place, layer in enumerate(layers):
            again = self.repeated is None or place < self.repeated
            each.append((parts.repeated if again else parts.layers)[self.kind_of[layer]])
        forward = [self.piece(passes.forward, slow) for passes in each]
        backward = [self.piece(passes.backward, slow) for passes in reversed(each)]
        weight = [self.piece(passes.weight, slow) for passes in reversed(each)]
        gather = [self.piece(parts.gather[self.kind_of[layer]]) for layer in layers]
        scatter = [self.piece(parts.reduce[self.kind_of[layer]]) for layer in reversed(layers)]
        if first:
            forward[0] = total((self.piece(parts.embedding.forward, slow), forward[0]))
            backward[-1] = total((backward[-1], self.piece(parts.embedding.backward, slow)))
            gather[0] = total((self.piece(parts.gather_ends[0]), gather[0]))
            scatter[-1] = total((scatter[-1], self.piece(parts.reduce_ends[0])))
        if last:
            forward[-1] = total((forward[-1], self.piece(parts.head.forward, slow)))
            backward[0] = total((self.piece(parts.head.backward, slow), backward[0]))
            gather[-1] = total((gather[-1], self.piece(parts.gather_ends[1])))
            scatter[0] = total((self.piece(parts.reduce_ends[1]), scatter[0]))
        scatter = self._bucketed(scatter, layers)
        return Chunk(
            tuple(forward),
            tuple(backward),
            tuple(weight) if any(piece.time for piece in weight) else (),
            tuple(gather) if any(piece.time for piece in gather) else (),
            tuple(scatter) if any(piece.time for piece in scatter) else (),
        )

    def _bucketed(self, scatter: list[Piece], layers: range) -> list[Piece]:
        """Gradients of some layers in one message, sent when the last of them is there."""
        whole = added([1.0] * len(layers), [self.parts.reduce[self.kind_of[layer]] for layer in layers])
        together = int(bucket_layers(whole, len(layers), self.plan))
        found = [Piece(0.0)] * len(scatter)
        for begin in range(0, len(scatter), together):
            group = scatter[begin : begin + together]
            found[begin + len(group) - 1] = total(tuple(group))
        return found

    def update(self, owned: list[tuple[range, bool, bool]]) -> Piece:
        """The optimizer's work on the chunks of a stage: (layers, whether the first, whether the last)."""
        costs = []
        for layers, first, last in owned:
            costs += [self.parts.update[self.kind_of[layer]] for layer in layers]
            costs += [self.parts.update_ends[0]] * first + [self.parts.update_ends[1]] * last
        return total(tuple(self.piece(cost) for cost in costs))
