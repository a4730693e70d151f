"""Workload and parallel plan: what is asked of the cluster and how it is divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .routing.known import UNIFORM, Routing


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
        Sequences per forward pass and data-parallel replica; may be an array, one entry per plan.
    dtype : str
        Number format of weights, activations and messages; in training a narrow one (fp8, fp4) is
        that of the matrix products, beside bf16.
    data_loading : float
        Seconds of every training step in which the devices wait for data.
    host_step, host_token : float
        Seconds the host takes for a training step, and for each of its tokens (masks, positions, loading on every
        rank): a step takes at least that.
    routing : Routing
        What is known of the experts that its tokens go to.
    """

    phase: str
    sequence_length: int
    new_tokens: int
    global_batch: int
    micro_batch: Any
    dtype: str = "bf16"
    data_loading: float = 0.0
    host_step: float = 0.0
    host_token: float = 0.0
    routing: Routing = UNIFORM

    @property
    def host_floor(self) -> float:
        """Least time of a training step, that of the host beside the devices [s]."""
        return self.host_step + self.host_token * self.global_batch * self.sequence_length


@dataclass(frozen=True, slots=True)
class Division:
    """How a layer is divided; degrees may be arrays.

    Parameters
    ----------
    tp, cp, ep : int
        Tensor-, context- and expert-parallel degree.
    etp : int
        Tensor-parallel degree of the experts.
    sequence_parallel : bool
        Norms and residuals divided over the tensor-parallel ranks (arXiv 2205.05198).
    """

    tp: Any = 1
    cp: Any = 1
    ep: Any = 1
    etp: Any = 1
    sequence_parallel: bool = False

    @property
    def shared(self) -> Any:
        """Ranks that divide shared experts: none where each has tokens of its own, which they see where they are."""
        return np.where(np.equal(self.ep, 1), self.etp, 1)[()]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is divided over tp x cp x dp x pp devices, and what is done to save memory and time.

    The degrees tp, pp, dp, cp, ep, vp, etp and `shard_group` may be arrays, one entry per plan.

    Parameters
    ----------
    tp, pp, dp, cp : int
        Tensor-, pipeline-, data- and context-parallel degree.
    ep : int
        Expert-parallel degree: ranks, of those that hold the same dense weights, which divide the experts.
    vp : int
        Chunks of layers (virtual stages) of each pipeline rank.
    etp : int
        Tensor-parallel degree of the experts.
    schedule : str
        gpipe | 1f1b | interleaved | zero-bubble | dualpipe | combined-1f1b.
    sequence_parallel : bool
        Norms and residuals divided over the tensor-parallel ranks: every all-reduce becomes a
        reduce-scatter and an all-gather.
    zero : int
        ZeRO stage: 1 divides the optimizer state, 2 gradients too, 3 (FSDP) weights too.
    shard_group : int or None
        Ranks ZeRO divides over (hybrid sharding); None for all data- and context-parallel ranks.
    recompute : str
        none | selective | full.
    recompute_layers : int or None
        Layers of every chunk that are recomputed when `full`; None for all.
    offload : str
        none | optimizer: its state in host memory, updated there.
    overlap : tuple of str
        Which of "gradients", "parameters", "pipeline" travel while others compute.
    bucket : float
        Gradients are added up in messages of this size [B].
    placement : str
        Axes of the rank numbering, innermost first.
    """

    tp: Any = 1
    pp: Any = 1
    dp: Any = 1
    cp: Any = 1
    ep: Any = 1
    vp: Any = 1
    etp: Any = 1
    schedule: str = "1f1b"
    sequence_parallel: bool = False
    zero: int = 0
    shard_group: Any = None
    recompute: str = "none"
    recompute_layers: int | None = None
    offload: str = "none"
    overlap: tuple[str, ...] = ("gradients", "parameters")
    bucket: float = 100e6
    placement: str = "tp-cp-dp-pp"

    @property
    def devices(self) -> Any:
        """Devices the plan occupies."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def division(self) -> Division:
        """How one layer is divided."""
        return Division(self.tp, self.cp, self.ep, self.etp, self.sequence_parallel)
