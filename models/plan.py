"""Workload and parallel plan: what is asked of the cluster and how it is divided."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workload:
    """What to run.

    Parameters
    ----------
    phase : str
        training | prefill | decode | generate.
    sequence_length : int
        Tokens per sequence: training and prefill length, or the context a decode step sees; the
        prompt in `generate`.
    new_tokens : int
        Tokens generated per sequence (`generate`), else 0.
    global_batch : int
        Sequences per step over the whole cluster.
    micro_batch : int
        Sequences per forward pass and data-parallel replica.
    dtype : str
        Number format of weights, activations and messages.
    """

    phase: str
    sequence_length: int
    new_tokens: int
    global_batch: int
    micro_batch: int
    dtype: str = "bf16"


@dataclass(frozen=True, slots=True)
class Plan:
    """Degrees of parallelism and memory savings; tp * dp devices are used.

    Parameters
    ----------
    tp, dp : int
        Tensor- and data-parallel degree.
    sequence_parallel : bool
        Norms and residuals divided over the tensor-parallel ranks (memory only; the all-reduce
        becomes a reduce-scatter and an all-gather of the same bytes).
    zero : int
        ZeRO stage, for the memory footprint.
    recompute : str
        none | selective | full.
    """

    tp: int = 1
    dp: int = 1
    sequence_parallel: bool = False
    zero: int = 0
    recompute: str = "none"

    @property
    def devices(self) -> int:
        """Devices the plan occupies."""
        return self.tp * self.dp
