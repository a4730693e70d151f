"""References of layers whose experts are divided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .reference import Reference
from .shapes import Mixture

KINDS = ((0, 0, 0), (0, 1, 0), (0, 1, 2), (0, 2, 3), (0, 1, 1), (0, 0, 2))
"""Tokens with all experts on one rank, on two, on three, in one node and in two."""
MOVES = ((1, 0, 0), (0, 2, 0), (0, 0, 1), (0, 0, 0))
"""Tokens that change rank before the first of three layers, the second, the third, and never."""
KERNELS = "one kernel crosses the network and spreads inside the node; executed are two exchanges"
MEAN = "where experts are hot the program's bytes are those of the mean rank"
NUMBERS = "numbers of the new tokens reach all; their keys and values stay where they are, to be made again"


def mixtures() -> Iterator[Reference]:
    """Every reference of the family."""
    for ranks, nodes in ((2, 1), (3, 1), (4, 1), (4, 2)):
        shape, where = _shape(ranks, nodes), f"{nodes} x {ranks // nodes} ranks"
        yield from _layers_of_experts(ranks, shape, where)
        if ranks == 4:  # tokens of the first kinds do not turn: they all go to the first ranks
            hot = replace(shape, still=2)
            for one in _layers_of_experts(ranks, hot, f"hot experts, {where}"):
                yield replace(one, among="mean", reason=f"{one.reason}; {MEAN}".removeprefix("; "))
            yield from _with_capacity(ranks, hot, where)
        yield from _inference(ranks, shape, where)
    yield from _tensor_parallel(4, replace(_shape(4, 1), tp=2))


def _shape(ranks: int, nodes: int) -> Mixture:
    return Mixture(12 * ranks, 12, 4 * ranks, 3, 10, _modulo(ranks, KINDS), nodes)


def _modulo(parts: int, offsets: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(offset % parts for offset in kind) for kind in offsets)


def _inference(ranks: int, shape: Mixture, where: str) -> Iterator[Reference]:
    """Tokens that stay where their experts are."""
    shape = replace(shape, layers=3, heads=3, trained=False)
    for publish, reason in (("cache", ""), ("tokens", NUMBERS)):
        call, what = {"name": "exflow", "publish": publish}, f"{publish} gathered, {where}"
        mechanism = "cache" if publish == "cache" else "numbers"
        yield Reference(call, f"prompts:{mechanism}", ranks, shape, f"prompts, {what}", reason=reason)
        if ranks == 2:
            continue
        moves = _modulo(ranks, MOVES)
        for top_k in (1, 2):
            # As many tokens of each kind as there are experts beside the first.
            tokens, experts = len(moves) * (2 * ranks - 1), 2 * ranks
            network = replace(shape, tokens=tokens, experts=experts, top_k=top_k, offsets=moves, context=5)
            step = f"a step of decoding, top {top_k}, {what}"
            mechanism = "exflow" if publish == "cache" else "exflow_numbers"
            yield Reference(call, f"exflow:{mechanism}", ranks, network, step, reason=reason)


def _layers_of_experts(ranks: int, shape: Mixture, where: str) -> Iterator[Reference]:
    """Every way to the experts of one layer."""

    def of(mechanism: str, what: str, shape: Mixture = shape, **call: Any) -> Reference:
        return Reference(call, f"mixture:{mechanism}", ranks, shape, f"{what}, {where}")

    yield of("flat", "all-to-all of every copy", name="baseline")
    shared = replace(shape, shared=7)
    for once, mechanism in (("no", "hierarchical_all_to_all"), ("yes", "hierarchical_once")):
        for overlap, sizes, what in (("none", shape, ""), ("shared", shared, ", shared expert beside")):
            call = {"name": "hierarchical_all_to_all", "once": once, "overlap": overlap}
            yield replace(of(mechanism, f"once: {once}{what}", sizes), technique=call)
    chunks, wide, narrow = replace(shape, degree=2), replace(shape, hidden=128), replace(shape, width=3)
    yield of("tutel", "two chunks", chunks, name="tutel", degree=2)
    yield of("tutel_flat", "two chunks, flat", chunks, name="tutel", degree=2, exchange="flat")
    for kernels in ("normal", "elastic"):
        for tokens, mechanism in (("bf16", "deepep"), ("fp8", "deepep_fp8")):
            one = of(mechanism, f"{kernels}, {tokens}", wide, name="deepep", kernels=kernels, tokens=tokens)
            yield one if shape.nodes == 1 else replace(one, messages=False, reason=KERNELS)
    beside = replace(wide, shared=7)
    one = of("deepep_fp8", "shared expert beside, fp8", beside, name="deepep", tokens="fp8", overlap="shared")
    yield one if shape.nodes == 1 else replace(one, messages=False, reason=KERNELS)
    yield of("deepep_low_latency", "low latency, fp8", wide, name="deepep", kernels="low_latency", tokens="fp8")
    yield of("bigmac", "a quarter of the width", narrow, name="bigmac", r=0.25)
    yield of("two_batch_overlap", "attention and experts", name="two_batch_overlap")


def _with_capacity(ranks: int, hot: Mixture, where: str) -> Iterator[Reference]:
    """Every expert has as many places for a rank: copies beyond are dropped, places left are filled up."""
    for capacity in (2 / 3, 4 / 3):
        shape = replace(hot, capacity=capacity)
        chunks, narrow = replace(shape, degree=2), replace(shape, width=3)
        room = f"hot experts with room for {capacity:.2f} of the mean, {where}"
        for call, mechanism, shape_ in (
            ({"name": "baseline"}, "flat", shape),
            ({"name": "hierarchical_all_to_all", "once": "no"}, "hierarchical_all_to_all", shape),
            ({"name": "tutel", "degree": 2}, "tutel", chunks),
            ({"name": "tutel", "degree": 2, "exchange": "flat"}, "tutel_flat", chunks),
            ({"name": "bigmac", "r": 0.25}, "bigmac", narrow),
            ({"name": "two_batch_overlap"}, "two_batch_overlap", chunks),
        ):
            what = f"flat, {room}" if call.get("exchange") else room
            yield Reference(call, f"mixture:{mechanism}", ranks, shape_, what)


def _tensor_parallel(ranks: int, shape: Mixture) -> Iterator[Reference]:
    """Tensor-parallel ranks that divide every expert, and such that have whole ones and tokens of their own.

    Between layers they have tokens of their own each, or all have those of all.
    """
    for etp, what in ((2, "experts divided by 2"), (1, "whole experts, attention divided by 2")):
        one = replace(shape, etp=etp, offsets=_modulo(ranks // etp, KINDS))
        chunks, wide, narrow = replace(one, degree=2), replace(one, hidden=128), replace(one, width=3)
        for call, mechanism, shape_ in (
            ({"name": "baseline"}, "flat", one),
            ({"name": "tutel", "degree": 2, "exchange": "flat"}, "tutel_flat", chunks),
            ({"name": "bigmac", "r": 0.25}, "bigmac", narrow),
            ({"name": "deepep", "kernels": "low_latency", "tokens": "fp8"}, "deepep_low_latency", wide),
        ):
            yield Reference(call, f"mixture:{mechanism}", ranks, shape_, f"{what}, tokens too")
            alike = replace(shape_, scattered=False)
            yield Reference(call, f"mixture:{mechanism}", ranks, alike, f"{what}, tokens whole")
    every = replace(shape, tp=ranks, etp=ranks, scattered=False, shared=8, ffn=12, offsets=_modulo(1, KINDS))
    what = f"every expert divided by {ranks}, a shared one too"
    yield Reference({"name": "baseline"}, "every_expert:baseline", ranks, every, what)
