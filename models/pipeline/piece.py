"""What a pipeline is made of: pieces of composed work, chunks of layers, and the pipeline of chunks.

A layer is composed once, kernel by kernel. Here only its outcome counts: how long it takes alone
and what it asks of the things its rank shares with the traffic of other layers and stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Piece:
    """Composed work of one rank, such as the forward pass of some layers, or one collective.

    Parameters
    ----------
    time : float
        How long it takes when nothing else runs [s].
    demand : mapping of str to float
        What it consumes in all: ``sm`` [s of the whole device, at most `time`], ``hbm`` (memory traffic),
        ``link`` and ``nic`` (sent inside and out of the node) [B]. It is spread evenly over the piece when it is
        played.
    compute : float
        Seconds inside it in which kernels run [s].
    communication : float
        Seconds inside it in which collectives run [s].
    exposed : float
        Seconds of these collectives with no kernel beside them [s].
    memory_bytes : float
        Memory traffic, for reports [B].
    sent : mapping of str to float
        Bytes sent, by kind of collective [B].
    flops : float
        Arithmetic, for reports [FLOP].
    """

    time: float
    demand: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    compute: float = 0.0
    communication: float = 0.0
    exposed: float = 0.0
    memory_bytes: float = 0.0
    sent: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    flops: float = 0.0

    def __add__(self, other: Piece) -> Piece:
        """Return this piece followed by another."""
        return total((self, other))


def total(pieces: tuple[Piece, ...]) -> Piece:
    """Return pieces one after another as one; nothing at all for none of them."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        time=sum(piece.time for piece in pieces),
        demand=_added([piece.demand for piece in pieces]),
        compute=sum(piece.compute for piece in pieces),
        communication=sum(piece.communication for piece in pieces),
        exposed=sum(piece.exposed for piece in pieces),
        memory_bytes=sum(piece.memory_bytes for piece in pieces),
        sent=_added([piece.sent for piece in pieces]),
        flops=sum(piece.flops for piece in pieces),
    )


def _added(parts: list[Mapping[str, float]]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for key, amount in part.items():
            found[key] = found.get(key, 0.0) + amount
    return found


@dataclass(frozen=True, slots=True)
class Chunk:
    """One virtual stage of one pipeline rank, for one micro-batch.

    Every tuple holds one piece per group of layers, in the order they run: `forward` and `gather`
    from the first layer to the last, `backward`, `weight` and `scatter` from the last to the first.
    What comes before the first layer and after the last (embedding, head and loss) is part of the
    first and last pieces.

    Parameters
    ----------
    forward : tuple of Piece
    backward : tuple of Piece
        The whole backward pass, or, where the schedule splits it, the gradient of the input only.
    weight : tuple of Piece
        Gradient of the weights where the schedule splits it off (zero-bubble, dualpipe), else ().
    gather : tuple of Piece
        All-gather of each group's parameters, () for none.
    scatter : tuple of Piece
        Reduction of each group's gradients over the data-parallel ranks, () for none.
    """

    forward: tuple[Piece, ...]
    backward: tuple[Piece, ...]
    weight: tuple[Piece, ...] = ()
    gather: tuple[Piece, ...] = ()
    scatter: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A training step: chunks on stages, micro-batches through them, and what ends the step.

    Parameters
    ----------
    chunks : tuple of tuple of Chunk
        By stage and virtual chunk. Chunk `v` of stage `s` is number ``v * pp + s`` on the way
        through the model; with dualpipe, chunk 0 of stage `s` is number `s` and chunk 1 is number
        ``pp - 1 - s``, which the opposite stage holds too.
    micro_batches : int
        Of one step.
    schedule : str
        One of `orders.SCHEDULES`.
    transfer : Piece
        Activation, or gradient of it, sent to a neighbouring stage.
    update : tuple of Piece
        The optimizer's step of each stage.
    sync : Piece, optional
        Collective between all gradients and the update (norm of the gradient).
    gather_each : bool
        Parameters are gathered for every pass of every micro-batch and freed after it (ZeRO-3).
    scatter_each : bool
        Gradients are reduced after the backward pass of every micro-batch (ZeRO-2 and 3).
    overlap : frozenset of str
        Which of gradients, parameters, pipeline run beside the compute of a stage.
    """

    chunks: tuple[tuple[Chunk, ...], ...]
    micro_batches: int
    schedule: str
    transfer: Piece
    update: tuple[Piece, ...]
    sync: Piece | None = None
    gather_each: bool = False
    scatter_each: bool = False
    overlap: frozenset[str] = frozenset()

    @property
    def pp(self) -> int:
        """Number of stages."""
        return len(self.chunks)

    @property
    def vp(self) -> int:
        """Chunks on a stage."""
        return len(self.chunks[0])
