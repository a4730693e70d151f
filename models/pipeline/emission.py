"""Tasks of a training step: kernels and messages of a stage, as the simulator takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...simulator import Program
from .piece import Piece

_PORTS = ("link", "nic")


class Emission:
    """A program under way: a rank for each stage, what each has, and the kernels each has run.

    Parameters
    ----------
    name : str
    stages : int
    resources : mapping of str to float
        What one rank has of each thing a `Piece` may demand.
    """

    def __init__(self, name: str, stages: int, resources: Mapping[str, float]):
        self.program, self.capacity = Program(name), resources
        self.history: list[list[int]] = [[] for _ in range(stages)]  # compute tasks of each stage
        for stage in range(stages):
            for kind, capacity in resources.items():
                self.program.resource(f"{kind}[{stage}]", capacity)
                if kind in _PORTS:
                    self.program.resource(f"{kind} in[{stage}]", capacity)

    def task(self, name: str, piece: Piece, stage: int, after: Iterable[int]) -> int:
        """Kernels of a stage, with whatever their technique sends among them."""
        task = self.program.add(
            name,
            kind="compute",
            rank=stage,
            stream="compute",
            after=tuple(sorted(after)),
            duration=piece.time,
            demand=self.demand(piece, stage, stage),
            memory_bytes=piece.memory_bytes,
        )
        self.history[stage].append(task)
        return task

    def message(self, name: str, piece: Piece, stage: int, stream: str, after: Iterable[int]) -> int | None:
        """A collective of a stage's ranks; None where nothing moves."""
        if not piece.time:
            return None
        return self.sent(name, piece, stage, stage, stream, after)

    def sent(self, name: str, piece: Piece, sender: int, receiver: int, stream: str, after: Iterable[int]) -> int:
        """A message that leaves one stage and arrives at another, or at other ranks of the same."""
        kinds = dict(piece.sent)
        return self.program.add(
            name,
            kind="communication",
            rank=sender,
            stream=stream,
            after=tuple(after),
            duration=piece.time,
            demand=self.demand(piece, sender, receiver),
            communication="+".join(kinds),
            communication_bytes=sum(kinds.values()),
            memory_bytes=piece.memory_bytes,
        )

    def demand(self, piece: Piece, sender: int, receiver: int) -> dict[str, float]:
        """What a piece asks of its stage, and of the ports on which its bytes leave and arrive."""
        found: dict[str, float] = {}
        for kind, amount in piece.demand.items():
            if kind in self.capacity and amount > 0:
                amount = min(amount, self.capacity[kind] * piece.time)
                found[f"{kind}[{sender}]"] = amount
                if kind in _PORTS:
                    found[f"{kind} in[{receiver}]"] = amount
        return found
