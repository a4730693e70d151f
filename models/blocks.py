"""What a layer is made of, as techniques see it: blocks of kernels between two reductions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernels import Kernel, larger

if TYPE_CHECKING:
    from ..simulator.communicator import Collective
    from .groups import Group
    from .routing.known import Routing


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens one rank works on: `batch` sequences of `query` new tokens seeing `context` keys."""

    batch: float
    query: float
    context: float

    @property
    def rows(self) -> float:
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
        Process group: tp | cp | ep. Collectives of one axis follow each other.
    size : float
        Bytes, by the convention of the kind [B].
    covered : int
        How many of the kernels after it it runs beside; they all wait where it is 0.
    group : Group, optional
        Who takes part, where that is a part of the axis.
    cost : Collective, optional
        What it costs, where that is not the library's choice among all ranks of the group in equal parts.
    alike : bool
        Whether each worked on a part of what all had, and all go on with the whole: backward each takes its part
        of the gradients, and those of the input are gathered.
    """

    kind: str
    axis: str
    size: float
    covered: int = 0
    group: Group | None = None
    cost: Collective | None = None
    alike: bool = False

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
        Tokens that one sees at most: those of a whole sequence, or of a sliding window.
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
    whole : float
        Tokens of a whole sequence where `context` is a window; 0 where it is not.
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
    whole: float = 0.0

    @property
    def tokens(self) -> Any:
        """Tokens of a whole sequence, whatever a window leaves of it."""
        return larger(self.context, self.whole)

    @property
    def shape(self) -> None:
        """It is no single product."""
        return None

    @property
    def core(self) -> bool:
        """It is between the projections, without weights."""
        return True


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of a layer, and one rank's tokens that go to them and come back.

    How tokens travel is what techniques of family moe differ in. Numbers may be arrays.

    Parameters
    ----------
    tokens : float
        Of this rank.
    query : float
        New tokens of each of its sequences.
    top_k, count : int
        Experts a token visits, and there are.
    width : float
        Elements of a token on its way.
    element : float
        Bytes of each of them [B].
    products : tuple of Kernel
        What the busiest rank computes once its tokens are there.
    shared : tuple of Kernel
        Experts that every token visits where it is.
    load : float
        Copies the busiest rank works on over the mean; both wait for it.
    padding : float
        Copies that travel over those routed, where every expert has room for as many (capacity factor).
    routing : Routing
        What is known of where they go.
    gathered : float
        Bytes of copies that tensor-parallel ranks gather before the products, and of sums they scatter after [B].
    direction : str
        forward | backward.
    returned : bool
        Whether results travel back; not where they are made again for a backward pass that does not read them.
    """

    tokens: Any
    query: Any
    top_k: int
    count: int
    width: Any
    element: float
    products: tuple[Kernel, ...]
    shared: tuple[Kernel, ...]
    load: Any
    padding: float
    routing: Routing
    gathered: Any = 0.0
    direction: str = "forward"
    returned: bool = True

    @property
    def copies(self) -> Any:
        """Copies of tokens that leave for experts, the rank's own among them."""
        return self.tokens * self.top_k * self.padding

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All that is computed."""
        return (*self.shared, *self.products)

    @property
    def work(self) -> tuple[Kernel | Exchange, ...]:
        """What happens where the experts are."""
        if not np.any(self.gathered):
            return self.products
        ways = [Exchange(kind, "tp", self.gathered) for kind in ("all_gather", "reduce_scatter")]
        return (ways[0], *self.products, *ways[1:] * self.returned)

    @property
    def shape(self) -> None:
        """It is no single product."""
        return None

    @property
    def core(self) -> bool:
        """It is not part of attention."""
        return False


Work = Kernel | Exchange | Attend | Experts


@dataclass(frozen=True, slots=True)
class Block:
    """Kernels between two reductions, on one rank.

    Parameters
    ----------
    name : str
    layer : int
    kernels : tuple of Work
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
