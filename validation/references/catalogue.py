"""All references: which technique, on what, by which code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .order import Task
from .shapes import Attention, Mixture, Network

EXACT, FP32 = 1e-12, 1e-6
"""Differences that double precision, and single precision on the way, leave."""

REASONS: Mapping[str, str] = {
    "no_communication": "a bound: partial sums are never added, so there is no layer whose result it could equal",
    "no_all_to_all": "a bound: tokens reach their experts without a message, which no process can do",
}
"""Why a technique has no reference."""


@dataclass(frozen=True)
class Reference:
    """A technique as code that runs, and what its program is made of.

    Parameters
    ----------
    technique : mapping
        Name and options, as in a scenario.
    mechanism : str
        "module:function" of this package.
    ranks : int
    shape : Network, Attention or Mixture
    what : str
        What sets it apart from others of the technique.
    tolerance : float
        Of differences, relative.
    among : str
        Where one rank of the program stands for all: whether "each" sends as much, the "mean" of them does, or the
        "busiest".
    messages : bool
        Whether the program has a task for every message.
    reason : str
        Why `among` is not "each", or `messages` is False.
    """

    technique: Mapping[str, Any]
    mechanism: str
    ranks: int
    shape: Network | Attention | Mixture
    what: str = ""
    tolerance: float = EXACT
    among: Literal["each", "mean", "busiest"] = "each"
    messages: bool = True
    reason: str = ""

    @property
    def name(self) -> str:
        """Technique, and what sets it apart."""
        return f"{self.technique['name']}: {self.what}, {self.ranks} ranks"

    def task(self) -> Task:
        """What a pool of ranks is to run."""
        return Task(self.name, f"{__package__}.{self.mechanism}", self.ranks, self.shape, tuple(self._parts()))

    def _parts(self) -> Iterator[tuple[int, ...]]:
        """Rows and columns where the ranks are a grid: of heads, or of nodes."""
        if isinstance(self.shape, Network):
            return
        row = self.shape.degree if isinstance(self.shape, Attention) else self.ranks // self.shape.nodes
        yield from (tuple(range(first, first + row)) for first in range(0, self.ranks, row))
        yield from (tuple(range(place, self.ranks, row)) for place in range(row))


def catalogue() -> list[Reference]:
    """Every reference, in order of families."""
    return [*_tensor_parallel(), *_sequence_parallel(), *_mixtures()]


def _tensor_parallel() -> Iterator[Reference]:
    network = Network(batch=2, tokens=24, layers=2, hidden=24, heads=12, ffn=36)
    tall = replace(network, tokens=384, layers=1, chunks=4)  # a chunk is at least a tile of the product high
    tiles = "tiles of a chunk travel one by one, in the program a chunk at once"
    for ranks in (2, 3, 4):
        for name in ("baseline", "ladder_residual", "parallel_attention"):
            yield Reference({"name": name}, f"tensor_parallel:{name}", ranks, network, "two layers")
        yield Reference({"name": "async_tp", "chunks": 4}, "tensor_parallel:async_tp", ranks, tall, "four chunks")
        yield Reference({"name": "t3"}, "tensor_parallel:t3", ranks, network, "tiles", messages=False, reason=tiles)
        yield Reference({"name": "megatron_sp"}, "tensor_parallel:megatron_sp", ranks, network, "two layers")


def _sequence_parallel() -> Iterator[Reference]:
    base = Attention(batch=2, tokens=6, heads=6, kv_heads=2, head_dim=4, value_dim=6)
    for ranks in (2, 3, 4):
        for causal in (True, False):
            masked = "causal" if causal else "no mask"
            for layout in ("zigzag", "contiguous", "striped") if causal else ("zigzag",):
                shape, what = replace(base, causal=causal, layout=layout), f"{layout}, {masked}"
                call: dict[str, Any] = {"name": "ring_attention", "layout": layout}
                yield Reference(call, "sequence_parallel:ring_attention", ranks, shape, what, FP32)
                if layout != "striped":
                    call = {"name": "tokenring", "layout": layout}
                    yield Reference(call, "tokenring:tokenring", ranks, shape, what, FP32)
            shape = replace(base, causal=causal, layout="zigzag")
            yield Reference({"name": "gathered_kv"}, "sequence_parallel:gathered_kv", ranks, shape, f"zigzag, {masked}")
            yield from _by_heads(ranks, replace(base, causal=causal, heads=12), masked)
            yield from _linear(ranks, replace(base, causal=causal, linear=(True,)), masked)
    grid = replace(base, heads=4, degree=2)
    for layout in ("zigzag", "contiguous", "striped"):
        call = {"name": "usp", "degree": 2, "layout": layout}
        yield Reference(call, "sequence_parallel:usp", 4, replace(grid, layout=layout), f"2 x 2, {layout}", FP32)


def _by_heads(ranks: int, shape: Attention, masked: str) -> Iterator[Reference]:
    for keys in (12, 1) if ranks == 3 else (12, 2, 1):
        mine, what = replace(shape, kv_heads=keys), f"{keys} of 12 heads with keys, {masked}"
        yield Reference({"name": "ulysses"}, "sequence_parallel:ulysses", ranks, mine, what)
        call = {"name": "ulysses", "packed": "yes"}
        yield Reference(call, "sequence_parallel:ulysses", ranks, replace(mine, pieces=0), f"packed, {what}")


def _linear(ranks: int, shape: Attention, masked: str) -> Iterator[Reference]:
    if shape.causal:
        ends = "bytes of the busiest rank: the last of the chain sends nothing, which the program's one rank leaves out"
        yield Reference(
            {"name": "lasp"}, "linear_attention:lasp", ranks, shape, masked, FP32, among="busiest", reason=ends
        )
    yield Reference({"name": "lasp2"}, "linear_attention:lasp2", ranks, shape, masked, FP32)
    pieces = replace(shape, pieces=2)
    yield Reference(
        {"name": "lasp2", "pieces": 2}, "linear_attention:lasp2", ranks, pieces, f"two pieces, {masked}", FP32
    )
    hybrid = replace(shape, value_dim=shape.head_dim, linear=(True, False))
    yield Reference(
        {"name": "lasp2h"}, "linear_attention:lasp2h", ranks, hybrid, f"a layer of either kind, {masked}", FP32
    )


KINDS = ((0, 0, 0), (0, 1, 0), (0, 1, 2), (0, 2, 3), (0, 1, 1), (0, 0, 2))
"""Tokens with all experts on one rank, on two, on three, in one node and in two."""
MOVES = ((1, 0, 0), (0, 2, 0), (0, 0, 1), (0, 0, 0))
"""Tokens that change rank before the first of three layers, the second, the third, and never."""
KERNELS = "one kernel crosses the network and spreads inside the node; executed are two exchanges"
MEAN = "where experts are hot the program's bytes are those of the mean rank"


def _mixtures() -> Iterator[Reference]:
    for ranks, nodes in ((2, 1), (3, 1), (4, 1), (4, 2)):
        kinds = tuple(tuple(offset % ranks for offset in kind) for kind in KINDS)
        shape, where = Mixture(12 * ranks, 12, 4 * ranks, 3, 10, kinds, nodes), f"{nodes} x {ranks // nodes} ranks"
        yield from _layers_of_experts(ranks, shape, where)
        if ranks == 4:  # tokens of the first kinds do not turn: they all go to the first ranks
            for one in _layers_of_experts(ranks, replace(shape, still=2), f"hot experts, {where}"):
                yield replace(one, among="mean", reason=f"{one.reason}; {MEAN}".removeprefix("; "))
        if ranks > 2:
            moves = tuple(tuple(move % ranks for move in kind) for kind in MOVES)
            for top_k in (1, 2):
                # As many tokens of each kind as there are experts beside the first.
                tokens, experts = len(moves) * (2 * ranks - 1), 2 * ranks
                network = replace(shape, tokens=tokens, experts=experts, top_k=top_k, offsets=moves)
                network = replace(network, layers=3, heads=3, context=5)
                what = f"a step of decoding, top {top_k}, {where}"
                yield Reference({"name": "exflow"}, "exflow:exflow", ranks, network, what)


def _layers_of_experts(ranks: int, shape: Mixture, where: str) -> Iterator[Reference]:
    """Every way to the experts of one layer."""

    def of(mechanism: str, what: str, shape: Mixture = shape, **call: Any) -> Reference:
        return Reference(call, f"mixture:{mechanism}", ranks, shape, f"{what}, {where}")

    yield of("flat", "all-to-all of every copy", name="baseline")
    for once, mechanism in (("no", "hierarchical_all_to_all"), ("yes", "hierarchical_once")):
        yield of(mechanism, f"once: {once}", name="hierarchical_all_to_all", once=once)
    chunks, wide, narrow = replace(shape, degree=2), replace(shape, hidden=128), replace(shape, width=3)
    yield of("tutel", "two chunks", chunks, name="tutel", degree=2)
    yield of("tutel_flat", "two chunks, flat", chunks, name="tutel", degree=2, exchange="flat")
    for tokens, mechanism in (("bf16", "deepep"), ("fp8", "deepep_fp8")):
        one = of(mechanism, tokens, wide, name="deepep", tokens=tokens)
        yield one if shape.nodes == 1 else replace(one, messages=False, reason=KERNELS)
    yield of("deepep_low_latency", "low latency, fp8", wide, name="deepep", kernels="low_latency", tokens="fp8")
    yield of("bigmac", "a quarter of the width", narrow, name="bigmac", r=0.25)
    yield of("two_batch_overlap", "attention and experts", name="two_batch_overlap")
