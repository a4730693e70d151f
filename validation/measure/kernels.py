"""The torch kernels that are measured: a `Case` becomes a function that launches it.

Operands are random (zeros draw less power, and clocks rise), and there are as many copies of them as do not fit the
cache together. What a device, a build of torch or a number format does not have is `Unsupported`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Broken(Exception):
    """A GPU that runs nothing any more in this process, after a kernel that failed; its text says why."""


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
        Broken
            Where nothing else will run either.
        """
        run = self._launched(case)
        if isinstance(run, str):
            self._recover(run)  # only now is the memory of the failure free
            raise Unsupported(run)
        return run

    def _launched(self, case: Case) -> Run | str:
        """A kernel that was launched once, or why it does not run."""
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
        except (MemoryError, RuntimeError, NotImplementedError, AttributeError, ValueError, TypeError) as problem:
            return reason(problem)
        return _without_gradients(run)

    def _recover(self, why: str) -> None:
        """Give back the memory of a kernel that failed; some failures of a GPU leave nothing to go on with."""
        if self.device != "cuda":
            return
        import torch

        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            raise Broken(why) from None

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
            # Sums within the matrix unit, as serving stacks and forward passes of training have them.
            how: dict[str, Any] = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True}
            return lambda i: torch._scaled_mm(left[i % count], right[i % count], **how)
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
        batch, length = case.shape["batch"], case.shape["seq_kv"]
        heads, kv, width = (case.shape[name] for name in ("heads", "kv_heads", "head_dim"))
        queries = case.shape["seq_q"] if prefill else 1
        count = self._copies(bytes_of(case))
        q = [self._tensor(batch, heads, queries, width, dtype=case.dtype) for _ in range(count)]
        k, v = ([self._tensor(batch, kv, length, width, dtype=case.dtype) for _ in range(count)] for _ in "kv")
        # One backend knows no heads that share keys; programs repeat these for it.
        repeat = heads // kv if case.tool == "efficient" else 1
        more: dict[str, Any] = {"is_causal": prefill} | ({"enable_gqa": True} if heads != kv * repeat else {})

        def run(i: int) -> object:
            keys, values = k[i % count], v[i % count]
            if repeat > 1:
                keys, values = (one.repeat_interleave(repeat, dim=1) for one in (keys, values))
            with pinned(case.tool):
                return attend(q[i % count], keys, values, **more)

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

    if name == "fp8" and torch.version.hip and "gfx94" in torch.cuda.get_device_properties(0).gcnArchName:
        return torch.float8_e4m3fnuz  # of MI300; later ones have what everybody has
    known = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return {**known, "fp8": torch.float8_e4m3fn, "int8": torch.int8}[name]


def pinned(tool: str) -> AbstractContextManager[object]:
    """Context in which scaled dot product attention has one backend only: defaults move between releases."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    known = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
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


def _without_gradients(run: Run) -> Run:
    """The launch outside of automatic differentiation."""
    import torch

    def quiet(i: int) -> object:
        with torch.inference_mode():
            return run(i)

    return quiet


def reason(problem: BaseException) -> str:
    """What went wrong, in a line.

    Parameters
    ----------
    problem : exception
    """
    if isinstance(problem, MemoryError):
        return "out of memory"
    text = str(problem).strip()
    if any(sign in text.lower() for sign in ("out of memory", "can't allocate memory", "not enough memory")):
        return "out of memory"
    first = text.splitlines()[0] if text else type(problem).__name__
    return first[:200]
