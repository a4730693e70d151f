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


@dataclass(frozen=True, slots=True)
class Attend:
    """Attention over sequences of which the context-parallel ranks hold a part each.

    How the ranks get at each other's keys and values is what sequence-parallel techniques differ in. Everything
    is of one rank, after its heads are divided over the tensor-parallel ranks; numbers may be arrays.

    Parameters
    ----------
    batch, query : float
        Sequences, and tokens of each on this rank.
    context : float
        Tokens of a whole sequence.
    heads, kv_heads : float
        Query and key/value heads.
    head_dim, value_dim : float
        Width of a query or key head, and of a value head.
    causal : bool
        Whether a token sees only those before it.
    linear : bool
        Linear attention: a state of head_dim x value_dim for every head instead of scores.
    direction : str
        forward | backward.
    """

    batch: float
    query: float
    context: float
    heads: float
    kv_heads: float
    head_dim: float
    value_dim: float
    causal: bool = True
    linear: bool = False
    direction: str = "forward"

    @property
    def shape(self) -> None:
        """It is no single product."""
        return None

    @property
    def core(self) -> bool:
        """It is between the projections, without weights."""
        return True


Work = Kernel | Exchange | Attend


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
