"""Which kernels to measure: shapes that fill the space that models need.

Sizes are drawn from Halton's sequence (low discrepancy, seeded) in the logarithm of each size, between the smallest
and largest that the products of the models have; every third product has the very widths of one. A kernel that would
take too long on the device is cut down in the size that has no meaning of its own (rows, keys).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.architecture import Transformer
from ...models.products import DTYPE_BYTES

DEGREES = (1, 2, 4, 8)  # of tensor parallelism, which widths are divided by
SMALLEST = 256  # width that products are drawn from at most, however wide the models
STREAMING = ("add", "activation", "norm")
# Kernels of each kind for --quick, by default, and for --full.
COUNTS: Mapping[str, tuple[int, int, int]] = {
    "gemm": (44, 120, 400),
    "streaming": (30, 60, 150),
    "attention_prefill": (16, 40, 120),
    "attention_decode": (14, 40, 120),
    "grouped_gemm": (12, 30, 90),
    "copy": (24, 40, 60),
}
LEVELS = ("quick", "default", "full")
WIDE = ("bf16", "fp16", "fp32")  # formats that attention and elementwise kernels have everywhere
# Which library does a kernel, where it is not torch alone: on a processor torch has one of each.
TOOLS: Mapping[str, Sequence[str]] = {
    "attention_prefill": ("flash",),
    "attention_decode": ("flash",),
    "grouped_gemm": ("loop",),
}
MOST_PINNED = 512 * 2**20  # bytes of a host's memory that a copy takes: a bus is at its rate long before [B]


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel to measure.

    Parameters
    ----------
    kind : str
        Of the estimators.
    shape : mapping of str to int
        Columns of that estimator.
    dtype, operation, tool : str
        Number format, what it does where a kind has several, and which library does it.
    """

    kind: str
    shape: Mapping[str, int] = field(hash=False)
    dtype: str
    operation: str = ""
    tool: str = "torch"

    @property
    def key(self) -> str:
        """Text that tells it from others."""
        shape = " ".join(f"{name}={value}" for name, value in sorted(self.shape.items()))
        return " ".join(part for part in (self.kind, self.operation, self.dtype, self.tool, shape) if part)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "kind": self.kind,
            "shape": dict(self.shape),
            "dtype": self.dtype,
            "operation": self.operation,
            "tool": self.tool,
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can be asked to do.

    Parameters
    ----------
    seconds : float
        Time of one launch at most, by the device's peaks [s].
    bytes : float
        Operands of one launch at most [B].
    flops : mapping of str to float
        Rate by number format [FLOP/s]; formats it lacks are not measured.
    bandwidth : float
        Of its memory [B/s].
    tokens : int
        Rows at most.
    tools : mapping of str to sequence of str
        Libraries that take turns, by kind of kernel.
    """

    seconds: float
    bytes: float
    flops: Mapping[str, float]
    bandwidth: float
    tokens: int = 16384
    tools: Mapping[str, Sequence[str]] = field(default_factory=lambda: TOOLS)


def design(
    models: Sequence[Transformer],
    dtypes: Sequence[str],
    limits: Limits,
    host: bool,
    level: str = "default",
    seed: int = 0,
) -> list[Case]:
    """Kernels to measure, of every kind in turn, so that a session cut short has some of each.

    Parameters
    ----------
    models : sequence of Transformer
        Whose shapes are covered.
    dtypes : sequence of str
        Number formats of products; the first of two bytes or more is that of all else, or one that the device has.
    limits : Limits
    host : bool
        Whether the device is a processor.
    level : str
        One of `LEVELS`.
    seed : int

    Returns
    -------
    list of Case
        Without repetitions.
    """
    known = [dtype for dtype in dtypes if dtype in limits.flops]
    wide = wide_of(dtypes, limits.flops)
    count = {kind: counts[LEVELS.index(level)] for kind, counts in COUNTS.items()}
    makers: list[list[Case]] = []
    for place, dtype in enumerate(known):
        # Formats after the first have fewer shapes, which are the first ones of it.
        rows = count["gemm"] if place == 0 else count["gemm"] // 3
        makers.append(list(_products(models, dtype, rows, limits, seed)))
    if wide is not None:
        makers += [
            list(_streams(models, wide, count["streaming"], limits, seed)),
            list(_prefills(models, wide, count["attention_prefill"], limits, host, seed)),
            list(_decodes(models, wide, count["attention_decode"], limits, host, seed)),
            list(_mixtures(models, wide, count["grouped_gemm"], limits, seed)),
            list(_copies(count["copy"], limits, host, seed)),
        ]
    turns: list[tuple[float, int, Case]] = []
    for number, cases in enumerate(makers):
        turns += [((place + 0.5) / len(cases), number, case) for place, case in enumerate(cases)]
    ordered = [case for _, _, case in sorted(turns, key=lambda turn: turn[:2])]
    return list({case.key: case for case in ordered}.values())


def wide_of(dtypes: Sequence[str], flops: Mapping[str, float]) -> str | None:
    """Format of attention and elementwise kernels: the first asked for that a device has, or one that it has.

    Parameters
    ----------
    dtypes : sequence of str
    flops : mapping of str to float
        Rates of the device by format.
    """
    return next((dtype for dtype in (*dtypes, *WIDE) if dtype in flops and dtype in WIDE), None)


def widths(model: Transformer) -> set[tuple[int, int]]:
    """(n, k) of the products of a layer, divided over tensor-parallel ranks."""
    fan = 2 if model.gated else 1
    value = model.v_head_dim or model.head_dim
    found = set()
    for tp in DEGREES:
        heads, kv = max(1, model.heads // tp), max(1, model.kv_heads // tp)
        found |= {(heads * model.head_dim + kv * (model.head_dim + value), model.hidden), (model.hidden, heads * value)}
        for inner in {model.ffn, model.expert_ffn} - {0}:
            found |= {(fan * max(1, inner // tp), model.hidden), (model.hidden, max(1, inner // tp))}
    return found


def _products(models: Sequence[Transformer], dtype: str, rows: int, limits: Limits, seed: int) -> Iterator[Case]:
    pairs = sorted({pair for model in models for pair in widths(model)})
    low, high = min(SMALLEST, *(min(pair) for pair in pairs)), max(max(pair) for pair in pairs)
    size = DTYPE_BYTES[dtype]
    narrow = size < 2 or dtype == "int8"
    for place, (u, v, w) in enumerate(_halton(3, rows, seed)):
        n, k = _between(low, high, v, 16), _between(low, high, w, 16)
        if place % 3 == 2:
            n, k = (-(-width // 16) * 16 for width in pairs[int(v * len(pairs))])
        most = min(limits.tokens, limits.seconds * limits.flops[dtype] / (2 * n * k), limits.bytes / (size * (n + k)))
        if size * n * k > limits.bytes or most < 1:
            continue
        m = _between(1, most, u)
        # Matrix units take narrow formats in whole vectors; torch wants more than 16 rows of int8.
        yield Case("gemm", {"m": max(32, -(-m // 16) * 16) if narrow else m, "n": n, "k": k}, dtype)


def _streams(models: Sequence[Transformer], dtype: str, rows: int, limits: Limits, seed: int) -> Iterator[Case]:
    wide = max(max(model.hidden, model.ffn) for model in models)
    low = min(SMALLEST, *(model.hidden for model in models))
    most = min(limits.bytes, limits.seconds * limits.bandwidth) / (3 * DTYPE_BYTES[dtype])
    for place, (u, v) in enumerate(_halton(2, rows, seed)):
        n = _between(low, wide, v, 16)
        m = _between(1, max(1, min(limits.tokens, most / n)), u)
        yield Case("streaming", {"m": m, "n": n}, dtype, STREAMING[place % 3])


def _prefills(
    models: Sequence[Transformer], dtype: str, rows: int, limits: Limits, host: bool, seed: int
) -> Iterator[Case]:
    forms = heads_of(models)
    for place, (u, v, w) in enumerate(_halton(3, rows, seed)):
        heads = forms[int(w * len(forms))]
        length, batch = _between(64, 8192 if host else 32768, u), _between(1, 16, v)
        per_key = 2 * heads["heads"] * heads["head_dim"]  # FLOP of a query and key it sees, halved by the mask
        # An attention kernel reaches about a quarter of the peak: shorter for the same time.
        most = 0.25 * limits.seconds * limits.flops[dtype] / (per_key * batch)
        length = int(max(16, min(length, most**0.5)))
        if not host:
            token = 2 * batch * (heads["heads"] + heads["kv_heads"]) * heads["head_dim"] * DTYPE_BYTES[dtype]
            length = int(max(16, min(length, limits.bytes / token)))
        shape = {"batch": batch, "seq_q": length, "seq_kv": length, **heads}
        yield Case("attention_prefill", shape, dtype, tool=_turn(limits, "attention_prefill", place))


def _decodes(
    models: Sequence[Transformer], dtype: str, rows: int, limits: Limits, host: bool, seed: int
) -> Iterator[Case]:
    forms = heads_of(models)
    for place, (u, v, w) in enumerate(_halton(3, rows, seed)):
        heads = forms[int(w * len(forms))]
        batch = _between(1, 64, v)
        per_key = 2 * batch * heads["kv_heads"] * heads["head_dim"] * DTYPE_BYTES[dtype]
        most = min(limits.bytes, 0.5 * limits.seconds * limits.bandwidth) / per_key
        keys = int(max(16, min(_between(64, 8192 if host else 65536, u), most)))
        shape = {"batch": batch, "seq_kv": keys, **heads}
        yield Case("attention_decode", shape, dtype, tool=_turn(limits, "attention_decode", place))


def _mixtures(models: Sequence[Transformer], dtype: str, rows: int, limits: Limits, seed: int) -> Iterator[Case]:
    """Feed-forwards of experts; of dense models as if their MLP were divided into eight."""
    forms = sorted({(model.expert_ffn or max(16, model.ffn // 8), model.hidden) for model in models})
    for place, (u, v, w) in enumerate(_halton(3, rows, seed)):
        inner, hidden = forms[place % len(forms)]
        n, k = -(-inner // (1, 2, 4)[int(3 * w)] // 16) * 16, -(-hidden // (1, 2, 4)[place % 3] // 16) * 16
        experts, top = (4, 8, 16, 32)[int(4 * v)], (1, 2, 4)[int(12 * v) % 3]
        size = DTYPE_BYTES[dtype]
        if 3 * n * k * experts * size > limits.bytes:
            experts = 4
        most = 0.5 * limits.seconds * limits.flops[dtype] / (6 * n * k * top)
        m = _between(1, max(1, min(4096, most)), u)
        shape = {"m": m, "n": n, "k": k, "topk": top, "experts": experts, "gated": 1}
        yield Case("grouped_gemm", shape, dtype, tool=_turn(limits, "grouped_gemm", place))


def _copies(rows: int, limits: Limits, host: bool, seed: int) -> Iterator[Case]:
    operations = ("copy", "sum") if host else ("copy", "sum", "to_device", "to_host")
    most = min(limits.bytes, limits.seconds * limits.bandwidth)
    for place, (u,) in enumerate(_halton(1, rows, seed)):
        operation = operations[place % len(operations)]
        size = _between(4096, most if operation in ("copy", "sum") else min(most, MOST_PINNED), u, 64)
        yield Case("copy", {"size": size}, "fp32", operation)


def heads_of(models: Sequence[Transformer]) -> list[dict[str, int]]:
    """Heads of a rank, of every model and degree."""
    found = {
        (max(1, model.heads // tp), max(1, model.kv_heads // tp), model.head_dim) for model in models for tp in DEGREES
    }
    whole = sorted(form for form in found if form[0] % form[1] == 0)
    return [{"heads": heads, "kv_heads": kv, "head_dim": width} for heads, kv, width in whole]


def _turn(limits: Limits, kind: str, place: int) -> str:
    """Library whose turn it is."""
    tools = limits.tools[kind]
    return tools[place % len(tools)]


def _halton(sizes: int, rows: int, seed: int) -> NDArray[np.float64]:
    """Points in the unit cube, of shape (rows, sizes)."""
    from scipy.stats import qmc

    return np.asarray(qmc.Halton(d=sizes, seed=seed).random(rows))


def _between(low: float, high: float, share: float, multiple: int = 1) -> int:
    """Size at a share of the way from the logarithm of one to that of the other, as a multiple."""
    size = low * np.exp(share * log(max(high, low) / low))
    return int(max(multiple, round(size / multiple) * multiple))
