"""What a layer is made of, as techniques see it: blocks of kernels between two reductions."""

from __future__ import annotations

from dataclasses import dataclass

from .kernels import Kernel


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens one rank works on: `batch` sequences of `query` new tokens seeing `context` keys."""

    batch: int
    query: int
    context: int

    @property
    def rows(self) -> int:
        """Rows of every activation matrix."""
        return self.batch * self.query


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective inside a block, along another axis than the sum at its end.

    Parameters
    ----------
    kind : str
        One of the simulator's kinds of collective.
    axis : str
        Process group: tp | cp | ep.
    size : float
        Bytes, by the convention of the kind [B].
    covered : bool
        Whether it runs beside the kernel that follows it; else that waits.
    """

    kind: str
    axis: str
    size: float
    covered: bool = False

    @property
    def shape(self) -> None:
        """It is no product."""
        return None


Work = Kernel | Exchange


@dataclass(frozen=True, slots=True)
class Block:
    """Kernels between two reductions, on one rank.

    Parameters
    ----------
    name : str
    layer : int
    kernels : tuple of Kernel or Exchange
        In stream order; the last product makes the partial sums.
    output_bytes : float
        Size of the activation to add up over the ranks [B]; 0 when nothing is divided.
    residual : tuple of Kernel
        The stand-alone residual addition, for techniques that cannot fuse it into the next norm.
    deferred : tuple of Kernel
        Work nothing in this pass waits for (weight gradients).
    gather_bytes : float
        Size of the input where the ranks hold a part of it each and gather it first (sequence
        parallelism) [B]; the sum at the end is scattered over the ranks then.
    again : bool
        A forward block repeated in the backward pass (recomputation).
    """

    name: str
    layer: int
    kernels: tuple[Work, ...]
    output_bytes: float
    residual: tuple[Kernel, ...] = ()
    deferred: tuple[Kernel, ...] = ()
    gather_bytes: float = 0.0
    again: bool = False
