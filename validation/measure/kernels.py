"""The torch kernels that are measured: a `Case` becomes a function that launches it.

Operands are random (zeros draw less power, and clocks rise), and there are as many copies of them as do not fit the
cache together. What a device, a build of torch or a number format does not have is `Unsupported`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import ceil
from typing import TYPE_CHECKING, Any

from ...models.estimators.expert_loads import expert_rows
from .shapes import Case
from .timing import Run

if TYPE_CHECKING:
    import torch

MOST_COPIES = 16  # of operands; small ones stay in the cache then, as they would in a program


class Unsupported(Exception):
    """A kernel that cannot run here; its text says why."""


class Maker:
    """Makes kernels on a device.

    Parameters
    ----------
    device : str
        cpu | cuda.
    cache : float
        Last-level cache [B].
    memory : float
        What operands may take together [B].
    seed : int
        Of the operands.
    """

    def __init__(self, device: str, cache: float, memory: float, seed: int = 0):
        import torch

        self.device, self.cache, self.memory = device, cache, memory
        self.random = torch.Generator(device).manual_seed(seed)

    def __call__(self, case: Case) -> Run:
        """Function that launches a kernel; it was launched once.

        Raises
        ------
        Unsupported
            For what does not run here, memory that does not suffice among it.
        """
        import torch

        made = {
            "gemm": self._gemm,
            "streaming": self._streaming,
            "attention_prefill": self._attention,
            "attention_decode": self._attention,
            "grouped_gemm": self._mixture,
            "copy": self._copy,
        }[case.kind]
        try:
            with torch.no_grad():
                run = made(case)
                run(0)
                self._wait()
        except MemoryError:
            raise Unsupported("out of memory") from None
        except (RuntimeError, NotImplementedError, AttributeError, ValueError, TypeError) as problem:
            raise Unsupported(_reason(problem)) from None
        return _without_gradients(run)

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def _tensor(self, *shape: int, dtype: str = "fp32") -> torch.Tensor:
        """Random tensor in a number format."""
        import torch

        if dtype == "int8":
            return torch.randint(-128, 128, shape, device=self.device, dtype=torch.int8, generator=self.random)
        wide = torch.bfloat16 if dtype == "fp8" else torch_dtype(dtype)
        made = torch.randn(shape, device=self.device, dtype=torch.float32, generator=self.random).to(wide)
        return made.to(torch_dtype(dtype))

    def _copies(self, size: float) -> int:
        """Copies of operands of a size [B] that outgrow the cache and fit the memory."""
        return max(1, min(MOST_COPIES, ceil(2 * self.cache / size) + 1, int(self.memory / size)))

    def _gemm(self, case: Case) -> Run:
        """A product with weights as linear layers store them, (n, k)."""
        import torch

        m, n, k = (case.shape[name] for name in "mnk")
        count = self._copies(bytes_of(case))
        left = [self._tensor(m, k, dtype=case.dtype) for _ in range(count)]
        right = [self._tensor(n, k, dtype=case.dtype).t() for _ in range(count)]
        if case.dtype == "fp8":
            one = torch.ones((), device=self.device)

            def narrow(i: int) -> object:
                return torch._scaled_mm(
                    left[i % count], right[i % count], scale_a=one, scale_b=one, out_dtype=torch.bfloat16
                )

            return narrow
        multiply: Callable[..., Any] = torch._int_mm if case.dtype == "int8" else torch.mm
        return lambda i: multiply(left[i % count], right[i % count])

    def _streaming(self, case: Case) -> Run:
        import torch
        from torch.nn.functional import rms_norm, silu

        m, n = case.shape["m"], case.shape["n"]
        count = self._copies(bytes_of(case))
        one = [self._tensor(m, n, dtype=case.dtype) for _ in range(count)]
        if case.operation == "norm":
            weight = torch.ones(n, device=self.device, dtype=torch_dtype(case.dtype))
            return lambda i: rms_norm(one[i % count], (n,), weight)
        two = [self._tensor(m, n, dtype=case.dtype) for _ in range(count)]
        if case.operation == "activation":
            return lambda i: silu(one[i % count]) * two[i % count]
        return lambda i: one[i % count] + two[i % count]

    def _attention(self, case: Case) -> Run:
        from torch.nn.functional import scaled_dot_product_attention as attend

        prefill = case.kind == "attention_prefill"
        batch, keys = case.shape["batch"], case.shape["seq_kv"]
        heads, kv, width = (case.shape[name] for name in ("heads", "kv_heads", "head_dim"))
        queries = case.shape["seq_q"] if prefill else 1
        count = self._copies(bytes_of(case))
        q = [self._tensor(batch, heads, queries, width, dtype=case.dtype) for _ in range(count)]
        k, v = ([self._tensor(batch, kv, keys, width, dtype=case.dtype) for _ in range(count)] for _ in "kv")
        more: dict[str, Any] = {"is_causal": prefill} | ({"enable_gqa": True} if heads != kv else {})

        def run(i: int) -> object:
            with pinned(case.tool):
                return attend(q[i % count], k[i % count], v[i % count], **more)

        return run

    def _mixture(self, case: Case) -> Run:
        """Feed-forward of experts in equal use: tokens put in the order of experts, two products, summed per token."""
        import torch
        from torch.nn.functional import silu

        m, n, k, top, experts = (case.shape[name] for name in ("m", "n", "k", "topk", "experts"))
        counts = expert_rows(m, top, experts, 1, 0.0)[0].astype(int).tolist()
        rows = torch.arange(m, device=self.device).repeat_interleave(top)
        # Choices of a token lie evenly spaced, so that those of an expert come from all over the batch.
        order = rows[torch.randperm(m * top, device=self.device, generator=self.random)]
        tokens = self._tensor(m, k, dtype=case.dtype)
        up = self._tensor(experts, 2 * n, k, dtype=case.dtype).transpose(1, 2)
        down = self._tensor(experts, k, n, dtype=case.dtype).transpose(1, 2)
        ends = torch.tensor(counts, device=self.device, dtype=torch.int32).cumsum(0).to(torch.int32)
        products: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
        if case.tool == "grouped_mm":

            def products(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                found: torch.Tensor = torch._grouped_mm(x, weights, offs=ends)
                return found

        else:

            def products(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                parts = zip(torch.split(x, counts), weights.unbind(), strict=True)
                return torch.cat([part @ weight for part, weight in parts if len(part)])

        def run(_: int) -> object:
            gate, inner = products(tokens[order], up).chunk(2, dim=-1)
            return torch.zeros_like(tokens).index_add(0, order, products(silu(gate) * inner, down))

        return run

    def _copy(self, case: Case) -> Run:
        import torch

        elements = ceil(case.shape["size"] / 4)
        count = self._copies(bytes_of(case))
        own = [self._tensor(elements) for _ in range(count)]
        if case.operation == "sum":
            return lambda i: own[i % count].sum()
        if case.operation == "copy":
            targets = [torch.empty_like(one) for one in own]
            return lambda i: targets[i % count].copy_(own[i % count])
        host = torch.empty(elements, pin_memory=True)
        if case.operation == "to_device":
            return lambda i: own[i % count].copy_(host, non_blocking=True)
        return lambda i: host.copy_(own[i % count], non_blocking=True)


def torch_dtype(name: str) -> torch.dtype:
    """Number format as torch calls it."""
    import torch

    known = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return {**known, "fp8": torch.float8_e4m3fn, "int8": torch.int8}[name]


def pinned(tool: str) -> AbstractContextManager[object]:
    """Context in which scaled dot product attention has one backend only: defaults move between releases."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    known = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}
    return sdpa_kernel(known[tool]) if tool in known else nullcontext()


def bytes_of(case: Case) -> float:
    """Operands of a launch [B]."""
    from ...models.products import DTYPE_BYTES

    shape, size = case.shape, DTYPE_BYTES[case.dtype]
    if case.kind == "gemm":
        return size * (shape["m"] * shape["k"] + shape["k"] * shape["n"])
    if case.kind == "streaming":
        return size * (1 if case.operation == "norm" else 2) * shape["m"] * shape["n"]
    if case.kind == "copy":
        return float(shape["size"] * (2 if case.operation == "copy" else 1))
    if case.kind == "grouped_gemm":
        return size * 3.0 * shape["experts"] * shape["n"] * shape["k"]
    queries = shape["heads"] * shape.get("seq_q", 1)
    return size * shape["batch"] * shape["head_dim"] * (queries + 2 * shape["kv_heads"] * shape["seq_kv"])


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


def _without_gradients(run: Run) -> Run:
    """The launch outside of automatic differentiation."""
    import torch

    def quiet(i: int) -> object:
        with torch.inference_mode():
            return run(i)

    return quiet


def _reason(problem: BaseException) -> str:
    text = str(problem).strip()
    if any(sign in text.lower() for sign in ("out of memory", "can't allocate memory", "not enough memory")):
        return "out of memory"
    first = text.splitlines()[0] if text else type(problem).__name__
    return first[:200]
