"""All references: which technique, on what, by which code; and what has none, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from .catalogue_mixtures import mixtures
from .catalogue_sequences import sequences
from .reference import Reference
from .shapes import Network

REASONS: Mapping[str, str] = {
    "no_communication": "a bound: partial sums are never added, so there is no layer whose result it could equal",
    "no_all_to_all": "a bound: tokens reach their experts without a message, which no process can do",
}
"""Why a technique has no reference."""

ROWS = "a row that several copies share has no place of its own at any expert, dropped or filled"
OPTIONS: Mapping[tuple[str, str], str] = {
    ("async_tp", "engine: copy"): "what moves the chunks, which are the same",
    ("deepep", "tokens: auto"): "one of the two formats, by that of the products",
    ("deepep", "routing.capacity"): ROWS,
    ("exflow", "routing.capacity"): "a residual stream that finds no room at its expert has nowhere to go on",
    ("hierarchical_all_to_all", "once: yes with routing.capacity"): ROWS,
    (
        "hierarchical_all_to_all",
        "plan.etp",
    ): "levels are those of whole experts, gathers behind them those of flat ways",
    ("ring_attention", "a window with layout: zigzag"): "parts that a window ends in are runs of tokens",
    ("t3", "arbitration: mca"): "the order in which a memory serves the same accesses",
    ("t3", "arbitration: ideal"): "a bound: sums are under way before the product that they add up",
    ("t3", "arbitration: ideal_nmc"): "a bound: sums are under way before the product that they add up",
}
"""Why a technique has no reference for a value of its option, whose bytes are those of others, or for a setting."""

TILES = "tiles of a chunk travel one by one, in the program a chunk at once"


def catalogue() -> list[Reference]:
    """Every reference, in order of families."""
    return [*_tensor_parallel(), *sequences(), *mixtures()]


def _tensor_parallel() -> Iterator[Reference]:
    network = Network(batch=2, tokens=24, layers=2, hidden=24, heads=12, ffn=36)
    tall = replace(network, tokens=384, layers=1, chunks=4)  # a chunk is at least a tile of the product high
    for ranks in (2, 3, 4):
        for name in ("baseline", "ladder_residual", "parallel_attention"):
            yield Reference({"name": name}, f"tensor_parallel:{name}", ranks, network, "two layers")
        yield Reference({"name": "async_tp", "chunks": 4}, "tensor_parallel:async_tp", ranks, tall, "four chunks")
        yield Reference({"name": "t3"}, "tensor_parallel:t3", ranks, network, "tiles", messages=False, reason=TILES)
        yield from _scattered(ranks, replace(network, sequence_parallel=True), replace(tall, sequence_parallel=True))


def _scattered(ranks: int, network: Network, tall: Network) -> Iterator[Reference]:
    """The same with the residual stream divided by tokens."""
    yield Reference({"name": "megatron_sp"}, "tensor_parallel:baseline", ranks, network, "two layers")
    what = "two layers, sequence parallel"
    for name in ("baseline", "ladder_residual", "parallel_attention"):
        yield Reference({"name": name}, f"tensor_parallel:{name}", ranks, network, what)
    call, what = {"name": "async_tp", "chunks": 4}, "four chunks, sequence parallel"
    yield Reference(call, "tensor_parallel:async_tp", ranks, tall, what)
    what = "tiles, sequence parallel"
    yield Reference({"name": "t3"}, "tensor_parallel:t3", ranks, network, what, messages=False, reason=TILES)
