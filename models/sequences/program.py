"""A plan of sequences as a program of the engine: one simulated rank stands for each group.

A share of the work is cut into segments of layers. In a segment a group that exchanges heads for tokens computes,
then exchanges; one that passes keys and values around a ring does both at once, up to the last block. Groups wait
for each other at the end of a micro-batch where the plan has a barrier, else only for the ranks they need. Weights
gathered for every micro-batch (ZeRO-3) travel beside the segments and hold up whoever is ahead of them.

Messages take part of the links of the nodes their group is in. Of the nodes a group has all to itself one stands for
all, since they carry the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...hardware import Cluster
from ...simulator import Program
from ...solvers.sequences import SequencePlan, Share
from .costs import Weights

SEGMENTS = 4
"""Parts a share of the work is cut into, each of some layers."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one segment of a share takes.

    Parameters
    ----------
    beside : float
        Seconds of compute that the messages of a ring run beside.
    alone : float
        Seconds of compute after those of a ring, and before any others.
    message : float
        Seconds of messages.
    ring : bool
    link_bytes, nic_bytes : float
        A rank sends meanwhile.
    """

    beside: float
    alone: float
    message: float
    ring: bool
    link_bytes: float = 0.0
    nic_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Laid:
    """Program of a plan, and which tasks belong to which share.

    Parameters
    ----------
    program : Program
    shares : tuple of Share
        In order of the plan.
    tasks : tuple of (tuple of int, tuple of int)
        Of each share, its compute tasks and its messages.
    weights : tuple of int
        Tasks of weights and gradients that nothing runs beside.
    """

    program: Program
    shares: tuple[Share, ...]
    tasks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    weights: tuple[int, ...]


class Ports:
    """Links and adapters of the nodes that messages leave from.

    Parameters
    ----------
    program : Program
    cluster : Cluster or None
        None where messages never meet.
    tp : int
        Devices of a rank.
    """

    def __init__(self, program: Program, cluster: Cluster | None, tp: int = 1):
        self.program, self.cluster, self.tp = program, cluster, tp
        self.link = self.nic = 0.0
        if cluster is not None:
            devices = cluster.devices_per_node
            self.link = devices * cluster.link.bandwidth * cluster.share(devices, everyone=True)
            self.nic = devices * cluster.nic.bandwidth if cluster.nic is not None and cluster.nodes > 1 else 0.0

    def nodes(self, ranks: Sequence[int], first: int = 0) -> dict[int, int]:
        """Devices of a group in each node it shares with others, and in one of those it has alone.

        Parameters
        ----------
        ranks : sequence of int
        first : int
            Where they are counted from, as of a pipeline stage.
        """
        if self.cluster is None:
            return {}
        each = self.cluster.devices_per_node
        if self.tp >= each:
            return {(first + int(ranks[0])) * self.tp // each: each}
        per = (first + np.asarray(ranks, dtype=np.int64)) * self.tp // each
        which, count = np.unique(per, return_counts=True)
        whole = count * self.tp == each
        found = {int(n): int(c) * self.tp for n, c in zip(which[~whole], count[~whole], strict=True)}
        return found | {int(n): each for n in which[whole][:1]}

    def demand(self, nodes: dict[int, int], link_bytes: float, nic_bytes: float, seconds: float) -> dict[str, float]:
        """What a message of so many bytes a device asks of its nodes."""
        found = {}
        for node, devices in nodes.items():
            for name, capacity, size in (("link", self.link, link_bytes), ("nic", self.nic, nic_bytes)):
                amount = min(devices * size, seconds * capacity)
                if amount > 0:
                    found[self.program.resource(f"{name}[{node}]", capacity)] = amount
        return found


def lay(
    plan: SequencePlan,
    price: Callable[[Share], list[Piece]],
    weights: Weights,
    fixed: float,
    cluster: Cluster | None,
    tp: int = 1,
    stages: int = 1,
) -> Laid:
    """Lay out a plan.

    Parameters
    ----------
    plan : SequencePlan
    price : callable
        Segments of a share.
    weights : Weights
    fixed : float
        Seconds a micro-batch takes each group besides.
    cluster : Cluster or None
        Whose links messages share.
    tp : int
        Devices of a rank.
    stages : int
        Of a pipeline, each with as many ranks; plans without barrier alone. Forward and backward pass one as one.
    """
    program = Program(f"{plan.method} on {plan.ranks} ranks")
    ports = Ports(program, cluster, tp)
    last = np.full((stages, plan.ranks), -1, dtype=np.int64)  # task that each rank's next work waits for
    shares: list[Share] = []
    tasks: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    alone: list[int] = []
    gate: tuple[int, ...] = ()
    before = -1  # the share's previous stage
    for number, micro_batch in enumerate(plan.micro_batches):
        groups = []
        for share in micro_batch:
            pieces = price(share)
            for stage in range(stages):
                nodes = ports.nodes(share.ranks, stage * plan.ranks) if any(piece.message for piece in pieces) else {}
                groups.append(_Group(program, ports, share, pieces, nodes, stage))
        for group in groups if not plan.barrier else ():
            ranks = np.asarray(group.share.ranks, dtype=np.int64)
            waits = np.unique(np.append(last[group.stage, ranks], before if group.stage else -1))
            group.begin(fixed, tuple(waits[waits >= 0].tolist()))
            for step in range(len(group.pieces)):
                group.segment(step, ())
            last[group.stage, ranks] = before = group.done
        if plan.barrier:
            gate = (_micro_batch(program, ports, groups, weights, fixed, gate, alone, plan.ranks, number),)
        shares += [group.share for group in groups]
        tasks += [(tuple(group.compute), tuple(group.messages)) for group in groups]
    if weights.once:
        ends = gate or tuple(np.unique(last[last >= 0]).tolist())
        alone.append(program.add("update", kind="communication", rank=plan.ranks, after=ends, duration=weights.once))
    return Laid(program, tuple(shares), tuple(tasks), tuple(alone))


def _micro_batch(
    program: Program,
    ports: Ports,
    groups: list[_Group],
    weights: Weights,
    fixed: float,
    gate: tuple[int, ...],
    alone: list[int],
    ranks: int,
    number: int,
) -> int:
    """Add a micro-batch all groups begin and end together; return the task that ends it."""
    gathered = gate
    if weights.first:
        alone.append(program.add("gather", kind="communication", rank=ranks, after=gate, duration=weights.first))
        gathered = (alone[-1],)
    for group in groups:
        group.begin(fixed, gathered)
    nodes: dict[int, int] = {}
    for group in groups:
        nodes |= dict.fromkeys(group.nodes, 0)
    whole = dict.fromkeys(nodes, 0 if ports.cluster is None else ports.cluster.devices_per_node)
    seconds = weights.beside / SEGMENTS
    demand = ports.demand(whole, weights.link_bytes / SEGMENTS, weights.nic_bytes / SEGMENTS, seconds)
    travelling: tuple[int, ...] = ()
    for step in range(SEGMENTS):
        ready = travelling
        if seconds:
            # A collective begins when the last of its ranks is there.
            begun = gathered if step == 0 else (program.add(
                f"all at {number}.{step}", kind="sync", rank=ranks, stream=f"sync {number}.{step}",
                after=tuple(group.done for group in groups), duration=0.0,
            ),)  # fmt: skip
            travelling = (
                program.add("weights", kind="communication", rank=ranks, after=begun, demand=demand, duration=seconds),
            )
        for group in groups:
            group.segment(step, ready)
    ends = (*(group.done for group in groups), *travelling)
    end = program.add(f"micro-batch {number}", kind="sync", rank=ranks, stream="barrier", after=ends, duration=0.0)
    if weights.last:
        end = program.add("scatter", kind="communication", rank=ranks, after=end, duration=weights.last)
        alone.append(end)
    return end


class _Group:
    """Tasks of one share as they are added."""

    def __init__(
        self, program: Program, ports: Ports, share: Share, pieces: list[Piece], nodes: dict[int, int], stage: int
    ):
        self.program, self.ports, self.share, self.pieces = program, ports, share, pieces
        self.nodes, self.stage = nodes, stage
        # Each share has streams of its own: what its ranks did before, it waits for by name.
        self.stream = ""
        self.compute: list[int] = []
        self.messages: list[int] = []
        self.done = -1

    def _add(self, name: str, kind: str, after: tuple[int, ...], seconds: float, beside: str = "",
             demand: dict[str, float] | None = None) -> int:  # fmt: skip
        return self.program.add(
            name, kind=kind, rank=int(self.share.ranks[0]), stream=self.stream + beside, after=after, demand=demand,
            duration=seconds,
        )  # fmt: skip

    def begin(self, fixed: float, after: tuple[int, ...]) -> None:
        """The part of a micro-batch that does not depend on its tokens."""
        self.stream = str(self.program.count)
        self.done = self._add("fixed", "compute", after, fixed)
        self.compute.append(self.done)

    def segment(self, step: int, after: tuple[int, ...]) -> None:
        """Compute and messages of one segment."""
        piece, start = self.pieces[step], (self.done, *after)
        demand = self.ports.demand(self.nodes, piece.link_bytes, piece.nic_bytes, piece.message)
        if piece.ring and piece.message:
            sent = self._add("ring", "communication", start, piece.message, ".ring", demand)
            block = self._add("attention", "compute", start, piece.beside)
            self.done = self._add("compute", "compute", (block, sent), piece.alone)
            self.compute += [block, self.done]
            self.messages.append(sent)
            return
        self.done = self._add("compute", "compute", start, piece.beside + piece.alone)
        self.compute.append(self.done)
        if piece.message:
            self.done = self._add("exchange", "communication", (self.done,), piece.message, "", demand)
            self.messages.append(self.done)
