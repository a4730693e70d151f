"""What the design of a session needs to know of a device, found by running a few kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...models.architecture import Transformer
from .environment import processor
from .kernels import Maker, Unsupported
from .shapes import Case, heads_of
from .timing import Run, waits

# Libraries to try: those that take turns where they run, and where none does the first of the others.
LIBRARIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "attention_prefill": (("flash", "cudnn"), ("efficient", "math")),
    "attention_decode": (("flash", "cudnn"), ("efficient", "math")),
    "grouped_gemm": (("grouped_mm",), ("loop",)),
}
PLAIN = {"attention_prefill": "math", "attention_decode": "math", "grouped_gemm": "loop"}
WRONG = 0.05  # of the largest result: formats of two bytes round to less than a hundredth


def launch_seconds(device: str, time: Callable[[Run], Any]) -> dict[str, float]:
    """Smallest kernel there is, back to back [s]: on the device, and for the host to issue.

    Parameters
    ----------
    device : str
    time : callable
        Timer.
    """
    import time as clock

    import torch

    x = torch.zeros(1, device=device)
    own = float(time(lambda i: x.add_(1)).seconds)
    if device != "cuda":
        return {"device": own, "host": own}
    torch.cuda.synchronize()
    begin, calls = clock.perf_counter(), 2000
    for _ in range(calls):
        x.add_(1)
    issued = (clock.perf_counter() - begin) / calls
    torch.cuda.synchronize()
    return {"device": own, "host": issued}


def fastest_product(device: str, dtype: str, time: Callable[[Run], Any], sides: Sequence[int]) -> float:
    """Rate of the fastest square product in a number format [FLOP/s].

    Larger squares are left out once one takes a tenth of a second.

    Raises
    ------
    Unsupported
        For a format whose products do not run.
    """
    make, best = Maker(device, 0.0, 2e9), 0.0
    for side in sides:
        took = float(time(make(Case("gemm", {"m": side, "n": side, "k": side}, dtype))).low)
        best = max(best, 2.0 * side**3 / took)
        if took > 0.1:
            break
    return best


def copy_rate(device: str, time: Callable[[Run], Any]) -> float:
    """Rate of a copy that no cache holds, reads and writes counted [B/s].

    Parameters
    ----------
    device : str
        cpu | cuda.
    time : callable
        Timer.
    """
    size = 2**30 if device == "cuda" else int(4 * processor()["cache"])
    copied = time(Maker(device, 0.0, 3.0 * size)(Case("copy", {"size": size}, "fp32", "copy")))
    return float(2 * size / copied.low)


def gpu_tools(models: Sequence[Transformer], dtype: str | None, seed: int = 0) -> dict[str, list[str]]:
    """Libraries that a GPU and its build of torch have for attention and grouped products, by kind.

    Every one ran on small operands of all the models' heads, and its results are those of plain products: a kernel
    that is quick and wrong (cuDNN's attention was, on some parts) is none.

    Parameters
    ----------
    models : sequence of Transformer
    dtype : str or None
        Format of the operands; without one nothing of the kind will be measured.
    seed : int
        Of the operands.
    """
    if dtype is None:
        return {}
    small: dict[str, list[dict[str, int]]] = {
        "attention_prefill": [{"batch": 2, "seq_q": 256, "seq_kv": 256, **heads} for heads in heads_of(models)],
        "attention_decode": [{"batch": 2, "seq_kv": 256, **heads} for heads in heads_of(models)],
        "grouped_gemm": [{"m": 64, "n": 128, "k": 128, "topk": 2, "experts": 4, "gated": 1}],
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says at length why a backend does not run
        for kind, (several, others) in LIBRARIES.items():
            cases = [Case(kind, shape, dtype) for shape in small[kind]]
            good = [tool for tool in several if all(_right(case, tool, seed) for case in cases)]
            found[kind] = good or [next((tool for tool in others if _right(cases[0], tool, seed)), others[-1])]
    return found


def _right(case: Case, tool: str, seed: int, device: str = "cuda") -> bool:
    """Whether a library runs a kernel, without a wait of the host, and agrees with plain products."""
    results = []
    for each in (tool, PLAIN[case.kind]):
        try:
            run = Maker(device, 0.0, 1e9, seed)(replace(case, tool=each))
        except Unsupported:
            return False
        if each == tool != PLAIN[case.kind] and device == "cuda" and waits(run):
            return False  # it falls back to products one by one
        results.append(run(0))
    return _agree(*results)


def _agree(one: Any, other: Any) -> bool:
    return bool((one.float() - other.float()).abs().max() <= WRONG * other.float().abs().max())
