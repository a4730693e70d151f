"""One pass over the model on one tensor-parallel rank, ready for a technique to arrange."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from .blocks import Block, Tokens, Work
from .layers import Layers
from .scenario import Scenario


@dataclass(frozen=True, slots=True)
class Step:
    """What a technique sees of a pass.

    Parameters
    ----------
    name : str
        forward | backward | decode.
    entry, exit : tuple of Kernel or Exchange
        Before the first and after the last block (output projection, loss).
    blocks : tuple of Block
        In order; two reductions per layer.
    side_by_side : callable
        Merges the blocks of one layer into one (the PaLM arrangement).
    tokens : float
        New ones of a rank.
    cache_bytes : float
        Keys and values that the pass adds to a rank's cache [B].
    """

    name: str
    entry: tuple[Work, ...]
    blocks: tuple[Block, ...]
    exit: tuple[Work, ...]
    side_by_side: Callable[[tuple[Block, ...]], Block]
    tokens: Any = 0.0
    cache_bytes: Any = 0.0


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps that follow each other in one program, and how often a scenario repeats them."""

    name: str
    steps: tuple[Step, ...]
    repeat: int


def phases(scenario: Scenario, layers: Layers, decoding: Layers, crowd: float = 1.0) -> tuple[Phase, ...]:
    """Programs an inference scenario consists of; decoding on a rank with `crowd` times the mean of tokens.

    A generate run is one prefill, which yields the first token, and `new_tokens - 1` decode steps;
    the cost of a decode step is linear in the context, so one at mean context stands for all.
    """
    work = scenario.workload
    sequences = work.global_batch // scenario.plan.dp
    software = scenario.software
    total = work.sequence_length + work.new_tokens
    found = []
    micro, passes = work.micro_batch, sequences // work.micro_batch
    every = range(layers.model.layers)
    if work.phase in ("prefill", "generate"):
        context = total if software.static_cache else work.sequence_length
        tokens = Tokens(micro, work.sequence_length / scenario.plan.cp, context)
        found.append(Phase("prefill", (forward_step("forward", layers, tokens, every, software.all_logits),), passes))
    steps = work.new_tokens - 1 if work.phase == "generate" else 1
    if work.phase in ("decode", "generate") and steps:
        context = total if software.static_cache else work.sequence_length + work.new_tokens // 2
        tokens = Tokens(micro * crowd, 1, context)
        found.append(Phase("decode", (forward_step("decode", decoding, tokens, every, True),), passes * steps))
    return tuple(found)


def forward_step(name: str, layers: Layers, tokens: Tokens, which: Iterable[int], every_token: bool = True) -> Step:
    """Forward pass over some layers, and the output projection.

    Parameters
    ----------
    name : str
    layers : Layers
    tokens : Tokens
    which : iterable of int
        Layers, in order.
    every_token : bool
        Whether logits are computed for every token, or for the last of each sequence.
    """
    seen: dict[tuple[bool, int | None, bool], tuple[Block, ...]] = {}
    blocks: list[Block] = []
    for layer in which:
        kind = layers.model.kind(layer)
        if kind not in seen:
            seen[kind] = layers.forward(layer, tokens)
        blocks += [replace(block, layer=layer) for block in seen[kind]]

    def side_by_side(pair: tuple[Block, ...]) -> Block:
        return pair[0] if len(pair) == 1 else layers.side_by_side(*pair)

    # As much of a latent on every rank, of whole heads those of the rank.
    model = layers.model
    share = 1.0 if model.attention == "mla" else layers.kv_heads / model.kv_heads
    added = tokens.rows * model.kv_bytes_per_token(layers.kernels.size) * share
    return Step(name, (), tuple(blocks), layers.head(tokens, every_token), side_by_side, tokens.rows, added)


def backward_step(layers: Layers, forward: Step, recompute: str) -> Step:
    """Backward pass of a forward one; what `full` recomputation repeats are the forward blocks again.

    Parameters
    ----------
    layers : Layers
    forward : Step
    recompute : str
        none | selective | full.
    """
    seen: dict[int, Block] = {}

    def turned(block: Block) -> Block:
        key = id(block.kernels)
        if key not in seen:
            again = layers.repeated(block) if recompute == "selective" else ()
            seen[key] = layers.backward(block, again)
        return replace(seen[key], layer=block.layer)

    def side_by_side(pair: tuple[Block, ...]) -> Block:
        merged = forward.side_by_side(tuple(b for b in forward.blocks if b.layer == pair[0].layer))
        if not pair[0].again:
            return turned(merged)
        return layers.saved(merged) if layers.kernels.software.early_stop else merged

    blocks: list[Block] = []
    for _, group in groupby(reversed(forward.blocks), key=lambda block: block.layer):
        halves = tuple(group)
        if recompute == "full":
            *before, last = (replace(block, again=True) for block in reversed(halves))
            blocks += [*before, layers.saved(last) if layers.kernels.software.early_stop else last]
        blocks += map(turned, halves)
    return Step("backward", (), tuple(blocks), (), side_by_side)
