"""A device: what one GPU (or host processor) can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import InputError


@dataclass(frozen=True, slots=True)
class NearMemory:
    """Compute at the memory banks.

    Parameters
    ----------
    update_cost : float
        Memory time of an op-and-store relative to a plain write.
    """

    update_cost: float


@dataclass(frozen=True, slots=True)
class Device:
    """Rates and capacities of one device.

    Parameters
    ----------
    name : str
    peak_flops : Mapping
        Dense peak by number format [FLOP/s].
    compute_units : int
        SMs, CUs or cores.
    clock : float
        Boost clock [Hz].
    memory_bandwidth : float
        Peak of its memory [B/s].
    memory_capacity : float
        [B].
    cache_capacity : float
        Last-level cache [B].
    dma_engines : int
        Copy engines.
    launch_overhead : float
        Fixed device-side time of one kernel in a stream or graph [s].
    host_overhead : float
        Host time to launch one kernel eagerly [s].
    gemm_tile : tuple of int
        Largest output tile of its GEMM library (rows, columns).
    gemm_efficiency : float
        Share of the peak a large GEMM reaches.
    memory_efficiency : float
        Share of the peak bandwidth a streaming kernel reaches.
    sustained : float
        Share of that speed which matrix products keep up over a whole training step, under power limits
        and beside other kernels.
    near_memory : NearMemory or None
    profile : str or None
        File, or name of a shipped one, with kernels fitted to measurements (`commlens calibrate compute`), which then
        stand for the efficiencies above.
    sources : Mapping
        Where each number comes from.
    """

    name: str
    peak_flops: Mapping[str, float] = field(hash=False)
    compute_units: int
    clock: float
    memory_bandwidth: float
    memory_capacity: float
    cache_capacity: float
    dma_engines: int
    launch_overhead: float
    host_overhead: float
    gemm_tile: tuple[int, int]
    gemm_efficiency: float
    memory_efficiency: float
    sustained: float = 1.0
    near_memory: NearMemory | None = None
    profile: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def flops(self, dtype: str) -> float:
        """Dense peak of a number format [FLOP/s]; InputError names the formats there are."""
        if dtype not in self.peak_flops:
            raise InputError(f"{self.name}: has no {dtype} rate (legal: {', '.join(sorted(self.peak_flops))})")
        return self.peak_flops[dtype]
