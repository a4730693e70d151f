"""References of attention over divided sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .reference import FP32, Reference
from .shapes import Attention

ONE = "the steps of a ring; in the program, one collective each way, whose kind both ways backward are counted as"
ENDS = "bytes of the busiest rank: the last of the chain sends nothing, which the program's one rank leaves out"


def sequences() -> Iterator[Reference]:
    """Every reference of the family."""
    base = Attention(batch=2, tokens=6, heads=6, kv_heads=2, head_dim=4, value_dim=6)
    for ranks in (2, 3, 4):
        for causal in (True, False):
            masked = "causal" if causal else "no mask"
            for layout in ("zigzag", "contiguous", "striped") if causal else ("zigzag",):
                yield from _rings(ranks, replace(base, causal=causal, layout=layout), f"{layout}, {masked}")
            shape, what = replace(base, causal=causal, layout="zigzag"), f"zigzag, {masked}"
            yield Reference({"name": "gathered_kv"}, "sequence_parallel:gathered_kv", ranks, shape, what)
            beside, what = "sequence_parallel:passed_beside", f"keys passed on, {what}"
            yield Reference({"name": "baseline"}, beside, ranks, shape, what, messages=False, reason=ONE)
            yield from _by_heads(ranks, replace(base, causal=causal, heads=12), masked)
            yield from _linear(ranks, replace(base, causal=causal, linear=(True,)), masked)
        for window in (4, 7, 9):
            yield from _windows(ranks, replace(base, window=window), f"window of {window} in runs of 6 tokens")
    yield from _grids(replace(base, heads=4, degree=2))


def _rings(ranks: int, shape: Attention, what: str) -> Iterator[Reference]:
    call: dict[str, Any] = {"name": "ring_attention", "layout": shape.layout}
    yield Reference(call, "sequence_parallel:ring_attention", ranks, shape, what, FP32)
    if shape.layout != "striped":
        call = {"name": "tokenring", "layout": shape.layout}
        yield Reference(call, "tokenring:tokenring", ranks, shape, what, FP32)


def _windows(ranks: int, shape: Attention, what: str) -> Iterator[Reference]:
    """A ring ends where the window does; nothing else sends less."""
    yield from _rings(ranks, shape, what)
    yield Reference({"name": "gathered_kv"}, "sequence_parallel:gathered_kv", ranks, shape, what)
    by_heads = replace(shape, heads=12, kv_heads=12)
    yield Reference({"name": "ulysses"}, "sequence_parallel:ulysses", ranks, by_heads, what)
    beside, balanced = "sequence_parallel:passed_beside", replace(shape, layout="zigzag")
    passed = f"keys passed on, zigzag, window of {shape.window}"
    yield Reference({"name": "baseline"}, beside, ranks, balanced, passed, messages=False, reason=ONE)
    hybrid = replace(shape, value_dim=shape.head_dim, linear=(True, False))
    either = f"a layer of either kind, {what}"
    yield Reference({"name": "lasp2h"}, "linear_attention:lasp2h", ranks, hybrid, either, FP32)


def _grids(shape: Attention) -> Iterator[Reference]:
    """Heads exchanged by two ranks, rings of two."""
    for layout in ("zigzag", "contiguous", "striped"):
        for packed in ("no", "yes"):
            grid = replace(shape, layout=layout, pieces=int(packed == "no"))
            what = f"2 x 2, {layout}" + ", packed" * (packed == "yes")
            call = {"name": "usp", "degree": 2, "layout": layout, "packed": packed}
            yield Reference(call, "sequence_parallel:usp", 4, grid, what, FP32)
    call = {"name": "usp", "degree": 2, "layout": "contiguous"}
    window = replace(shape, window=9)
    yield Reference(call, "sequence_parallel:usp", 4, window, "2 x 2, window of 9 in runs of 12 tokens", FP32)


def _by_heads(ranks: int, shape: Attention, masked: str) -> Iterator[Reference]:
    for keys in (12, 1) if ranks == 3 else (12, 2, 1):
        mine, what = replace(shape, kv_heads=keys), f"{keys} of 12 heads with keys, {masked}"
        yield Reference({"name": "ulysses"}, "sequence_parallel:ulysses", ranks, mine, what)
        call = {"name": "ulysses", "packed": "yes"}
        yield Reference(call, "sequence_parallel:ulysses", ranks, replace(mine, pieces=0), f"packed, {what}")


def _linear(ranks: int, shape: Attention, masked: str) -> Iterator[Reference]:
    """States instead of keys and values, and layers of either kind."""

    def of(mechanism: str, what: str = "", shape: Attention = shape, **call: Any) -> Reference:
        return Reference(call, f"linear_attention:{mechanism}", ranks, shape, f"{what}{masked}", FP32)

    if shape.causal:
        yield replace(of("lasp", name="lasp"), among="busiest", reason=ENDS)
    yield of("lasp2", name="lasp2")
    yield of("lasp2_waiting", "gathered first, ", name="lasp2", overlap="no")
    yield of("lasp2", "two pieces, ", replace(shape, pieces=2), name="lasp2", pieces=2)
    yield of("lasp2", "linear, ", name="baseline")
    hybrid = replace(shape, value_dim=shape.head_dim, linear=(True, False))
    yield of("lasp2h", "a layer of either kind, ", hybrid, name="lasp2h")
    yield of("gathered_kv", "a layer of either kind, ", hybrid, name="gathered_kv")
    if shape.causal:
        yield of("ring_attention", "a layer of either kind, ", hybrid, name="ring_attention", layout="contiguous")
    whole = replace(shape, heads=12, kv_heads=12)
    for name in ("ulysses", "usp"):
        mechanism, what = "sequence_parallel:ulysses", f"linear, {masked}"
        yield Reference({"name": name}, mechanism, ranks, whole, what)
