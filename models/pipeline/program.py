"""A training step as a program: one simulated rank per stage stands for all ranks of that stage.

Streams of a stage: "compute", "transfer" and "transfer back" (activations to the next, gradients to
the previous stage), "parameters" (gathers), "gradients" (reductions). Where both go on all the time
(ZeRO-3) they are in one stream: a communicator runs one collective after the other. What runs at the
same time shares the stage's SMs, memory and, per direction, its ports, so it may slow each other down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...simulator import Program
from .closed_form import joint_gain
from .emission import Emission
from .orders import SPLIT, Slot, order
from .piece import Piece, Pipeline, total


def pipeline_program(pipeline: Pipeline, resources: Mapping[str, float], name: str = "step") -> Program:
    """Emit the tasks of a step.

    Parameters
    ----------
    pipeline : Pipeline
    resources : mapping of str to float
        What one rank has of each thing a `Piece` may demand: "sm" (1.0: the whole device for a second per
        second), "hbm", "link", "nic" [B/s]; what is left out is never short.
    name : str

    Returns
    -------
    Program
        Its `critical_path_time` is the step without contention.

    Raises
    ------
    InputError
        As `orders.check`.
    """
    return _Emitter(pipeline, resources, name).emit()


def joint(forward: Piece, backward: Piece) -> Piece:
    """Forward pass of one micro-batch and backward pass of another, run as one.

    Collectives of the one run under kernels of the other, as far as both have them to offer.

    Parameters
    ----------
    forward, backward : Piece
    """
    both = total((forward, backward))
    covered = joint_gain(forward.time, forward.exposed, backward.time, backward.exposed)
    demand = dict(both.demand)
    return Piece(
        time=both.time - covered,
        demand=demand,
        compute=both.compute,
        communication=both.communication,
        exposed=max(both.exposed - covered, 0.0),
        memory_bytes=both.memory_bytes,
        sent=both.sent,
        flops=both.flops,
    )


class _Emitter:
    """Holds the state of one emission: what has been emitted, and which stages wait for what."""

    def __init__(self, pipeline: Pipeline, resources: Mapping[str, float], name: str):
        self.pipeline = pipeline
        self.emission = Emission(name, pipeline.pp, resources)
        self.history = self.emission.history
        self.pp, self.vp = pipeline.pp, pipeline.vp
        self.both_ways = pipeline.schedule == "dualpipe"
        self.depth = self.pp if self.both_ways else self.pp * self.vp  # chunks a micro-batch passes
        self.split = pipeline.schedule in SPLIT
        self.arrived: dict[tuple[str, int, int], int] = {}  # task after which a slot's input is there
        self.blocked: list[tuple[int, ...]] = [()] * self.pp  # sends the compute stream waits for
        self.scattered: list[list[int]] = [[] for _ in range(self.pp)]
        self.gathered: dict[tuple[int, int], list[int | None]] = {}  # gathers before the first pass of a chunk
        self.each_ahead = pipeline.gather_each and "parameters" in pipeline.overlap
        self.wanted: list[Iterator[Piece]] = []  # gathers of every pass to come, of each stage
        self.ahead: list[int | None] = [None] * self.pp  # gather of the next layer, asked for already
        self.made: dict[tuple[int, ...], Piece] = {}  # passes of chunks, by their pieces

    def emit(self) -> Program:
        """The whole step: gathers that need nothing, passes as their inputs arrive, what ends the step."""
        if "parameters" in self.pipeline.overlap and not self.pipeline.gather_each:
            for stage, chunks in enumerate(self.pipeline.chunks):
                for index, chunk in enumerate(chunks):
                    found = [self.emission.message("gather weights", g, stage, "parameters", ()) for g in chunk.gather]
                    self.gathered[stage, index] = found
        waiting = [deque(self._grouped(stage)) for stage in range(self.pp)]
        if self.each_ahead:
            self.wanted = [self._gathers(stage, groups) for stage, groups in enumerate(waiting)]
            for stage in range(self.pp):
                self._ask(stage)
        moved = True
        while moved:
            moved = False
            for stage, groups in enumerate(waiting):
                while groups and all(self._ready(slot, stage) for slot in groups[0]):
                    self._pass(groups.popleft(), stage)
                    moved = True
        assert not any(waiting), "a stage waits for a pass that never comes"
        self._end()
        return self.emission.program

    def _grouped(self, stage: int) -> list[list[Slot]]:
        groups: list[list[Slot]] = []
        vp = 1 if self.both_ways else self.vp
        for slot in order(self.pipeline.schedule, self.pp, vp, stage, self.pipeline.micro_batches):
            if slot.joined:
                groups[-1].append(slot)
            else:
                groups.append([slot])
        return groups

    def _gathers(self, stage: int, groups: Iterable[Sequence[Slot]]) -> Iterator[Piece]:
        """Weights in the order in which a stage needs them (ZeRO-3)."""
        slots = [slot for group in groups for slot in group]
        return (piece for slot in slots for piece in self._pieces(slot, stage)[1])

    def _ask(self, stage: int) -> None:
        """Gather the next weights when the last pass emitted so far is over: one layer ahead."""
        piece, start = next(self.wanted[stage], Piece(0.0)), self.history[stage][-1:]
        self.ahead[stage] = self.emission.message("gather weights", piece, stage, "gradients", start)

    def _number(self, chunk: int, stage: int) -> int:
        """Place of a chunk on the way of its micro-batches."""
        if self.both_ways:
            return stage if chunk == 0 else self.pp - 1 - stage
        return chunk * self.pp + stage

    def _ready(self, slot: Slot, stage: int) -> bool:
        number = self._number(slot.chunk, stage)
        if slot.kind == "W" or (slot.kind == "F" and number == 0) or (slot.kind == "B" and number == self.depth - 1):
            return True
        return (slot.kind, number, slot.micro_batch) in self.arrived

    # -- one group of slots -----------------------------------------------------------------------

    def _pass(self, slots: Sequence[Slot], stage: int) -> None:
        after = set(self.blocked[stage])
        self.blocked[stage] = ()
        for slot in slots:
            key = (slot.kind, self._number(slot.chunk, stage), slot.micro_batch)
            if key in self.arrived:
                after.add(self.arrived.pop(key))
        whole = [self._pieces(slot, stage) for slot in slots]
        if all(not gathers and not scatters for _, gathers, scatters in whole):
            task = self._compute(slots, [pieces for pieces, _, _ in whole], stage, after)
        else:
            for slot, (pieces, gathers, scatters) in zip(slots, whole, strict=True):
                task = self._layers(slot, pieces, gathers, scatters, stage, after)
                after = set()
        for slot in slots:
            self._send(slot, stage, task)

    def _pieces(self, slot: Slot, stage: int) -> tuple[tuple[Piece, ...], Sequence[Any], tuple[Piece, ...]]:
        """Pieces of a slot, what each waits for (a gather, or the task of one), and its scatters."""
        chunk = self.pipeline.chunks[stage][slot.chunk]
        pieces = {"F": chunk.forward, "B": chunk.backward, "W": chunk.weight}[slot.kind]
        gathers: Sequence[Any] = ()
        if self.pipeline.gather_each and slot.kind != "W":
            gathers = chunk.gather if slot.kind == "F" else chunk.gather[::-1]
        elif slot.kind == "F":
            gathers = self.gathered.pop((stage, slot.chunk), ())
        makes_gradients = slot.kind == ("W" if self.split and chunk.weight else "B")
        overlapped = "gradients" in self.pipeline.overlap and self._is_last(slot)
        scatters = chunk.scatter if makes_gradients and (self.pipeline.scatter_each or overlapped) else ()
        return pieces, gathers, scatters

    def _is_last(self, slot: Slot) -> bool:
        """Whether no later micro-batch adds to the gradients of the slot's chunk."""
        return slot.micro_batch + (2 if self.both_ways else 1) >= self.pipeline.micro_batches

    def _compute(self, slots: Sequence[Slot], whole: list[tuple[Piece, ...]], stage: int, after: Iterable[int]) -> int:
        """All of some slots as one task; of two directions as one, where both are among them."""
        key = tuple(map(id, whole))  # micro-batches do the same: their sum is made once
        if key not in self.made:
            pieces = tuple(map(total, whole))
            together = len(slots) > 1 and slots[0].kind == "F"
            self.made[key] = joint(pieces[0], total(pieces[1:])) if together else total(pieces)
        piece = self.made[key]
        name = " + ".join(
            f"{slot.kind}{slot.micro_batch}" + (f".{slot.chunk}" if self.vp > 1 else "") for slot in slots
        )
        return self.emission.task(name, piece, stage, after)

    def _layers(
        self,
        slot: Slot,
        pieces: tuple[Piece, ...],
        gathers: Sequence[Any],
        scatters: tuple[Piece, ...],
        stage: int,
        after: set[int],
    ) -> int:
        """A slot layer by layer, beside the messages of its weights and gradients."""
        covered = self.pipeline.overlap
        task = -1
        for index, piece in enumerate(pieces):
            waits, after = after, set()
            if gathers:
                gather = gathers[index]
                if self.each_ahead:
                    gather = self.ahead[stage]
                    self._ask(stage)
                elif isinstance(gather, Piece):
                    before = waits | set(self.history[stage][-1:])
                    gather = self.emission.message("gather weights", gather, stage, "parameters", before)
                waits |= {gather} if gather is not None else set()
            task = self.emission.task(f"{slot.kind}{slot.micro_batch} layer {index}", piece, stage, waits)
            if scatters:
                done = self.emission.message("reduce gradients", scatters[index], stage, "gradients", [task])
                if done is not None:
                    self.scattered[stage].append(done)
                    after = set() if "gradients" in covered else {done}
        self.blocked[stage] = (*self.blocked[stage], *after)
        return task

    def _send(self, slot: Slot, stage: int, task: int) -> None:
        """Hand the result of a pass to the chunk that takes it up."""
        step = {"F": 1, "B": -1}.get(slot.kind, 0)
        number = self._number(slot.chunk, stage) + step
        if not step or not 0 <= number < self.depth:
            return
        there = number if slot.chunk == 0 else self.pp - 1 - number
        target = there if self.both_ways else number % self.pp
        done = task
        piece = self.pipeline.transfer
        if target != stage and piece.time:
            ways = ("send", "transfer") if step > 0 else ("send back", "transfer back")
            done = self.emission.sent(ways[0], piece, stage, target, ways[1], (task,))
            if "pipeline" not in self.pipeline.overlap:
                self.blocked[stage] = (*self.blocked[stage], done)
        self.arrived[slot.kind, number, slot.micro_batch] = done

    # -- the end of the step ----------------------------------------------------------------------

    def _end(self) -> None:
        """Gradients not yet added up, what all stages agree on, the optimizer, weights sent out again."""
        pipeline, ended = self.pipeline, []
        for stage, chunks in enumerate(pipeline.chunks):
            last = self.history[stage][-1:]
            ended += last + self.scattered[stage]
            if not pipeline.scatter_each and "gradients" not in pipeline.overlap:
                pieces = tuple(piece for chunk in chunks for piece in chunk.scatter)
                done = (
                    self.emission.message("reduce gradients", total(pieces), stage, "gradients", last)
                    if pieces
                    else None
                )
                ended += [done] if done is not None else []
        # The norm of all gradients is known to none before it is to all.
        ready = [
            self.emission.program.add(
                "all gradients", kind="sync", rank=0, stream="sync", after=tuple(ended), duration=0.0
            )
        ]
        if pipeline.sync is not None:
            ready = [
                task
                for stage in (0, self.pp - 1)
                if (task := self.emission.message("tied embedding", pipeline.sync, stage, "gradients", ready))
                is not None
            ]
        for stage, piece in enumerate(pipeline.update):
            task = self.emission.task("optimizer", piece, stage, ready)
            if not pipeline.gather_each and "parameters" not in pipeline.overlap:
                pieces = tuple(piece for chunk in pipeline.chunks[stage] for piece in chunk.gather)
                if pieces:
                    self.emission.message("gather weights", total(pieces), stage, "parameters", [task])
