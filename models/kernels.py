"""Isolated kernels of a device and a software stack: products, elementwise kernels, attention.

Every formula takes scalars or NumPy arrays, so that a single task of a program and a million
plans at once are costed by the same lines. Times exclude the gap between two kernels (launch
overhead), which belongs to the software stack and is added where the kernel is scheduled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from ..hardware import Device
from .cache import staged_reads
from .fitted import fitted
from .products import ALIGNMENT
from .products import DTYPE_BYTES as DTYPE_BYTES
from .products import EXPONENTIALS as EXPONENTIALS
from .products import NARROW as NARROW
from .products import gemm_time as gemm_time
from .products import tiles as tiles
from .software import Software

# Share of the dense GEMM rate that a fused (flash) attention kernel reaches on long sequences:
# FlashAttention-3 reports up to 740 of 989 TFLOP/s forward on H100 (arXiv 2407.08608).
FLASH_EFFICIENCY = 0.7
QUANTISE = "quantise"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One device kernel: what it does and how long it takes alone.

    Parameters
    ----------
    name : str
    flops : float
        Arithmetic it performs [FLOP], causal attention halved.
    memory_bytes : float
        Device-memory traffic [B].
    time : float
        Isolated seconds, without launch gap.
    overhead : float
        Launch gap before it [s].
    shape : tuple of int, optional
        (m, n, k) of a GEMM; its output is m x n.
    groups : float
        Products of that shape in the launch.
    core : bool
        Part of the attention core: between the projections, without weights.
    narrow : bool
        A product in a narrow format, where the activations are wider.
    aligned : bool
        Whether rows of a product's operands begin where matrix units can load them.
    """

    name: str
    flops: float
    memory_bytes: float
    time: float
    overhead: float = 0.0
    shape: tuple[float, float, float] | None = None
    groups: float = 1
    core: bool = False
    narrow: bool = True
    aligned: bool = True


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, or of each pair in arrays."""
    return max(a, b) if np.ndim(a) == np.ndim(b) == 0 else np.maximum(a, b)


class Kernels:
    """Makes `Kernel` records for one device, software stack and number format.

    Parameters
    ----------
    device : Device
    software : Software
    dtype : str
        Number format of weights and activations.
    training : bool
        In training a narrow format is that of the matrix products alone.
    """

    def __init__(self, device: Device, software: Software, dtype: str, training: bool = False):
        self.fitted = fitted(device)
        if self.fitted is not None:
            device = self.fitted.device(device)
        self.slowed = device.sustained if training else 1.0
        if training:
            device = replace(device, gemm_efficiency=device.gemm_efficiency * device.sustained)
        self.passes = software.passes if training else 1.0
        self.grouped = software.grouped_efficiency if training else 1.0
        self.device, self.software, self.dtype = device, software, dtype
        self.wide = "bf16" if training and dtype in NARROW else dtype
        self.size: float = DTYPE_BYTES[self.wide]
        self.bandwidth = device.memory_bandwidth * device.memory_efficiency
        gap = software.kernel_overhead
        self.overhead = device.launch_overhead if gap is None else gap
        self.own_launch = gap is None and self.fitted is not None
        self._gemms: dict[tuple[float, ...], tuple[float, float]] = {}

    def gemm(
        self,
        name: str,
        m: float,
        n: float,
        k: float,
        groups: float = 1,
        cached_output: bool = True,
        wide: bool = False,
        aligned: bool = True,
    ) -> Kernel:
        """(m x k) @ (k x n), `groups` times in one launch.

        Parameters
        ----------
        name : str
        m, n, k : float or array
        groups : float or array
        cached_output : bool
            False where stores go past the cache.
        wide : bool
            In the format of the activations, not in a narrow one.
        aligned : bool
            See `products.gemm_time`.
        """
        dtype = self.wide if wide else self.dtype
        size = DTYPE_BYTES[dtype]
        work = 2.0 * groups * m * n * k
        traits = {"narrow": not wide, "aligned": aligned}
        if any(isinstance(value, np.ndarray) for value in (m, n, k, groups)):
            # Of many shapes at once each operand is counted once: what is read again from beyond the
            # cache slows no product of a size that fills the device.
            reads = size * groups * (m * k + k * n)
            times = self._single(m, n, k, groups, dtype, aligned)
            if times is None:
                times = gemm_time(m, n, k, self.device, dtype, groups, reads, self.size, aligned)
            times = times / np.where(np.greater(groups, 1) & (not wide), self.grouped, 1.0)
            traffic = reads + self.size * groups * m * n
            return Kernel(name, work, traffic, times, self.overhead, (m, n, k), groups, **traits)
        key = (m, n, k, groups, cached_output, wide, aligned)
        if key not in self._gemms:
            if groups == 1:
                reads = staged_reads(
                    ceil(m),
                    ceil(n),
                    ceil(k),
                    self.device.gemm_tile,
                    self.device.compute_units,
                    self.device.cache_capacity,
                    size,
                    cached_output,
                )
            else:
                reads = size * groups * (m * k + k * n)
            single = self._single(m, n, k, groups, dtype, aligned)
            if single is None:
                single = gemm_time(m, n, k, self.device, dtype, groups, reads, self.size, aligned)
            time = float(single)
            time = time / self.grouped if groups > 1 and not wide else time
            self._gemms[key] = reads + self.size * groups * m * n, time
        traffic, time = self._gemms[key]
        return Kernel(name, work, traffic, time, self.overhead, (m, n, k), groups, **traits)

    def _single(self, m: Any, n: Any, k: Any, groups: Any, dtype: str, aligned: bool) -> Any:
        """Time of single products that were fitted to measurements [s]; None for others."""
        if self.fitted is None or not aligned or np.any(np.not_equal(groups, 1)):
            return None
        found = self.fitted.gemm(m, n, k, dtype)
        return None if found is None else found / self.slowed

    def uncached_gemm(self, gemm: Kernel) -> Kernel:
        """The same product with its output stored past the cache; `memory_bytes` are its reads only."""
        assert gemm.shape is not None
        m, n, k = gemm.shape
        found = self.gemm(gemm.name, m, n, k, gemm.groups, cached_output=False)
        return replace(found, memory_bytes=found.memory_bytes - self.size * gemm.groups * m * n)

    def elementwise(
        self, name: str, elements: float, rows: float, streams: float, exact: bool = False
    ) -> tuple[Kernel, ...]:
        """Kernel that reads or writes `streams` tensors of `elements`; none where it is fused away.

        With a single row the GEMMs around it are matrix-vector products, which a compiler turns
        into generated kernels that absorb their elementwise neighbours. `exact` is for a single operator,
        which moves what is counted in every stack; others take the stack's `passes`.
        """
        if self.software.fuses_single_row and np.all(np.equal(rows, 1)):
            return ()
        traffic = streams * elements * self.size * (1.0 if exact else self.passes)
        (kernel,) = self.streamed(name, traffic)
        if self.fitted is not None:
            time = self.fitted.streaming(name, rows, traffic, self.size)
            kernel = kernel if time is None else replace(kernel, time=time, overhead=self._launch("streaming"))
        return (kernel,)

    def _launch(self, kind: str) -> float:
        """Gap before a kernel of a kind that was fitted [s]."""
        return self.fitted.launch(kind) if self.own_launch and self.fitted is not None else self.overhead

    def streamed(self, name: str, traffic: float) -> tuple[Kernel, ...]:
        """Kernel that moves `traffic` bytes through memory, no more and no less, and computes next to nothing."""
        return (Kernel(name, 0.0, traffic, traffic / self.bandwidth, self.overhead),)

    def quantise(self, elements: float) -> tuple[Kernel, ...]:
        """Operand of a product turned into a narrow format; none where the stack fuses it away."""
        per_element = self.software.quantise_bytes
        return self.streamed(QUANTISE, elements * per_element) if per_element else ()

    def attention(
        self,
        batch: float,
        query: float,
        context: float,
        heads: float,
        kv_heads: float,
        head_dim: float,
        value_dim: float,
        causal: bool,
        whole: Any = 0.0,
    ) -> tuple[Kernel, ...]:
        """Attention over `context` keys for `query` new tokens of `batch` sequences.

        Parameters
        ----------
        batch, query, context : float
            Sequences, new tokens per sequence, keys each can see at most.
        heads, kv_heads : float
            Query and key/value heads on this device.
        head_dim, value_dim : float
        causal : bool
            Whether a token sees only those before it: of several new tokens that lie evenly over a sequence of
            `context` tokens half of the scores are masked.
        whole : float, optional
            Tokens of a whole sequence where `context` is a window: tokens in its first window see less of it.
            Without it new tokens that are more than the window are the whole sequence.
        """
        scores = batch * heads * query * context
        several = bool(np.all(np.greater(query, 1)))
        seen = 1 - context / (2 * larger(whole, larger(query, context))) if causal and several else 1.0
        work = 2.0 * scores * (head_dim + value_dim) * seen
        cache = batch * kv_heads * context * (head_dim + value_dim) * self.size
        activations = 2 * batch * query * heads * (head_dim + value_dim) * self.size
        if self.software.attention == "math":
            return self._math_attention(scores, work, heads / kv_heads * cache, query, head_dim)
        if self.software.attention == "unfused":
            return self._unfused_attention(batch, query, context, heads, head_dim, value_dim)
        traffic = cache + activations
        if self.fitted is not None:
            width = (head_dim + value_dim) / 2
            shape = (batch, query, context, heads, kv_heads, width, self.wide)
            measured = self.fitted.attention(*shape, seen)
            if measured is not None:
                kind = "attention_decode" if np.all(np.equal(query, 1)) else "attention_prefill"
                return (Kernel("attention", work, traffic, measured, self._launch(kind), core=True),)
        flash = self.software.flash_efficiency
        share = flash.get(self.device.name, flash.get("default", FLASH_EFFICIENCY))
        rate = self.device.flops(self.wide) * self.device.gemm_efficiency * share
        time = larger(work / rate, traffic / self.bandwidth)
        return (Kernel("attention", work, traffic, time, self.overhead, core=True),)

    def _unfused_attention(
        self, batch: float, query: float, context: float, heads: float, head_dim: float, value_dim: float
    ) -> tuple[Kernel, ...]:
        """Scores as matrices through memory, scaled, masked and normalised by one kernel, dropped out by another.

        Megatron-LM before fused attention (arXiv 2104.04473, section 4.2): half-precision scores, the
        masked half computed too.
        """
        scores, count = batch * heads * query * context, batch * heads
        whole = head_dim * self.size % ALIGNMENT == 0 == value_dim * self.size % ALIGNMENT
        found = [self.gemm("attention scores", query, context, head_dim, count, wide=True, aligned=whole)]
        found += self.elementwise("attention softmax", scores, 2, 2)
        if self.software.dropout:
            found += self.elementwise("attention dropout", scores, 2, 2.5)  # and a mask of one byte
        found.append(self.gemm("attention values", query, value_dim, context, count, wide=True, aligned=whole))
        return tuple(replace(kernel, core=True) for kernel in found)

    def _math_attention(
        self, scores: float, work: float, expanded: float, query: float, head_dim: float
    ) -> tuple[Kernel, ...]:
        """Unfused attention, as PyTorch's math backend does it.

        Scores and probabilities in fp32 pass through memory; keys and values are expanded to
        one copy per query head.
        """
        if np.all(np.equal(query, 1)):
            traffic, arithmetic = self.software.expanded_kv_share * expanded, 0.0
        else:
            traffic = scores * self.software.score_bytes
            fp32 = self.device.flops("fp32") * self.device.gemm_efficiency
            arithmetic = 4.0 * scores * head_dim / fp32  # the masked half is computed too
        time = arithmetic + traffic / self.bandwidth
        parts = ("scores", "softmax", "values")
        return tuple(
            Kernel(f"attention {part}", work / 3, traffic / 3, time / 3, self.overhead, core=True) for part in parts
        )
