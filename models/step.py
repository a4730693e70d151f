"""One pass over the model on one tensor-parallel rank, ready for a technique to arrange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .kernels import Kernel
from .layers import Block, Layers, Tokens
from .scenario import Scenario


@dataclass(frozen=True, slots=True)
class Step:
    """What a technique sees of a pass.

    Parameters
    ----------
    name : str
        forward | backward | decode.
    entry, exit : tuple of Kernel
        Before the first and after the last block (output projection, loss).
    blocks : tuple of Block
        In order; two reductions per layer.
    side_by_side : callable
        Merges the blocks of one layer into one (the PaLM arrangement).
    """

    name: str
    entry: tuple[Kernel, ...]
    blocks: tuple[Block, ...]
    exit: tuple[Kernel, ...]
    side_by_side: Callable[[tuple[Block, ...]], Block]


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps that follow each other in one program, and how often a scenario repeats them."""

    name: str
    steps: tuple[Step, ...]
    repeat: int


def phases(scenario: Scenario, layers: Layers) -> tuple[Phase, ...]:
    """Programs a scenario consists of.

    A generate run is one prefill, which yields the first token, and `new_tokens - 1` decode steps;
    the cost of a decode step is linear in the context, so one at mean context stands for all.
    """
    work = scenario.workload
    sequences = work.global_batch // scenario.plan.dp
    if work.phase == "training":
        tokens = Tokens(work.micro_batch, work.sequence_length, work.sequence_length)
        forward = _forward("forward", layers, tokens, every_token=True)
        backward = _backward(layers, forward, scenario.plan.recompute)
        return (Phase("training", (forward, backward), sequences // work.micro_batch),)
    software = scenario.software
    total = work.sequence_length + work.new_tokens
    found = []
    micro, passes = work.micro_batch, sequences // work.micro_batch
    if work.phase in ("prefill", "generate"):
        context = total if software.static_cache else work.sequence_length
        tokens = Tokens(micro, work.sequence_length, context)
        found.append(Phase("prefill", (_forward("forward", layers, tokens, software.all_logits),), passes))
    steps = work.new_tokens - 1 if work.phase == "generate" else 1
    if work.phase in ("decode", "generate") and steps:
        context = total if software.static_cache else work.sequence_length + work.new_tokens // 2
        tokens = Tokens(micro, 1, context)
        found.append(Phase("decode", (_forward("decode", layers, tokens, True),), passes * steps))
    return tuple(found)


def _forward(name: str, layers: Layers, tokens: Tokens, every_token: bool) -> Step:
    seen: dict[tuple[bool, int | None], tuple[Block, ...]] = {}
    blocks: list[Block] = []
    for layer in range(layers.model.layers):
        kind = (layers.model.is_moe(layer), layers.model.window(layer))
        if kind not in seen:
            seen[kind] = layers.forward(layer, tokens)
        blocks += [replace(block, layer=layer) for block in seen[kind]]

    def side_by_side(pair: tuple[Block, ...]) -> Block:
        return pair[0] if len(pair) == 1 else layers.side_by_side(*pair)

    return Step(name, (), tuple(blocks), layers.head(tokens, every_token), side_by_side)


def _backward(layers: Layers, forward: Step, recompute: str) -> Step:
    seen: dict[tuple[Kernel, ...], Block] = {}

    def turned(block: Block) -> Block:
        if block.kernels not in seen:
            seen[block.kernels] = layers.backward(block, recompute)
        return replace(seen[block.kernels], layer=block.layer)

    def side_by_side(pair: tuple[Block, ...]) -> Block:
        return turned(forward.side_by_side(tuple(b for b in forward.blocks if b.layer == pair[0].layer)))

    blocks = tuple(turned(block) for block in reversed(forward.blocks))
    return Step("backward", layers.backward_kernels(forward.exit), blocks, (), side_by_side)
