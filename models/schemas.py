"""Schemas of what users write: scenario files and software profiles (pydantic v2).

Only the door lives here. Behind it everything is a frozen dataclass.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=100_000)]
Length = Annotated[int, Field(ge=1, le=100_000_000)]
Bytes = Annotated[float, Field(ge=0, le=1000)]
Degree = Annotated[int, Field(ge=1, le=100_000)]


class Strict(BaseModel):
    """Unknown keys refused; no silent conversion of strings or booleans to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class SoftwareFile(Strict):
    """A software profile, `models/presets/software/*.yaml`."""

    name: str
    kernel_overhead: Annotated[float, Field(ge=0, le=1)] | None = None
    collective_overhead: Annotated[float, Field(ge=0, le=1)] = 0.0
    attention: Literal["flash", "math", "unfused"] = "flash"
    score_bytes: Annotated[float, Field(ge=0, le=1000)] = 0.0
    expanded_kv_share: Annotated[float, Field(ge=0, le=10)] = 1.0
    static_cache: bool = False
    shards_head: bool = True
    all_logits: bool = False
    fuses_single_row: bool = False
    flash_efficiency: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    flash_backward: Annotated[float, Field(gt=0, le=10)] = 2.5
    grouped_efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    fuses_residual: bool = True
    dropout: bool = False
    quantise_bytes: Bytes = 4.0
    gather_copies: bool = False
    accumulate_bytes: Bytes = 0.0
    gradient_bytes: Bytes = 4.0
    message_bytes: Bytes = 4.0
    state_bytes: Bytes = 12.0
    update_bytes: Bytes = 36.0
    loss_bytes: Bytes = 16.0
    logit_bytes: Bytes = 6.0
    host_per_kernel: Annotated[float, Field(ge=0, le=1)] = 0.0
    host_link: Annotated[float, Field(gt=0, le=1e13)] = 25e9
    host_memory: Annotated[float, Field(gt=0, le=1e13)] = 20e9
    passes: Annotated[float, Field(gt=0, le=20)] = 1.0
    early_stop: bool = False
    selective: Literal["attention", "products"] = "attention"
    reserve: Annotated[float, Field(ge=0, le=1e12)] = 2e9
    fragmentation: Annotated[float, Field(ge=1, le=3)] = 1.0
    error: Annotated[float, Field(gt=0, lt=1)] | None = None
    spread: dict[Literal["dense", "mixture"], Annotated[float, Field(gt=0, le=2)]] = {}
    calibrated_on: list[str] = []
    source: dict[str, str] = {}


class RoutingFile(Strict):
    """`workload.routing:` of a scenario; a trace is read, or made up from skew and affinity."""

    trace: str | None = None
    skew: Annotated[float, Field(ge=0, le=10)] | None = None
    affinity: Annotated[float, Field(ge=0, le=1)] | None = None
    partners: Annotated[float, Field(ge=1, le=65_536)] | None = None
    persistence: Annotated[float, Field(ge=0, le=1)] | None = None
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    placement: str | None = None
    imbalance: Annotated[float, Field(ge=1, le=65_536)] | None = None
    capacity: Annotated[float, Field(gt=0, le=65_536)] | None = None
    node_limit: Degree | None = None
    same_device: Annotated[float, Field(ge=0, le=1)] | None = None
    same_node: Annotated[float, Field(ge=0, le=1)] | None = None


class WorkloadFile(Strict):
    """`workload:` of a scenario."""

    phase: Literal["training", "prefill", "decode", "generate"]
    sequence_length: Length | None = Field(
        None, validation_alias=AliasChoices("sequence_length", "seq_length", "context_length")
    )
    prompt: Length | None = Field(None, validation_alias=AliasChoices("prompt", "prompt_length", "prompt_tokens"))
    new_tokens: Length | None = None
    global_batch: Length | None = Field(None, validation_alias=AliasChoices("global_batch", "batch", "batch_size"))
    micro_batch: Length | None = None
    data_loading: Annotated[float, Field(ge=0, le=3600)] = 0.0
    host_step: Annotated[float, Field(ge=0, le=3600)] = 0.0
    host_token: Annotated[float, Field(ge=0, le=1)] = 0.0
    routing: RoutingFile | None = None
    dtype: Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"] = "bf16"


class PlanFile(Strict):
    """`plan:` of a scenario."""

    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    cp: Degree = 1
    ep: Degree = 1
    vp: Degree = 1
    etp: Degree | None = None
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe", "combined-1f1b"] = "1f1b"
    sequence_parallel: bool = False
    zero: Annotated[int, Field(ge=0, le=3)] = 0
    shard_group: Degree | None = None
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_layers: Count | None = None
    offload: Literal["none", "optimizer"] = "none"
    overlap: list[Literal["gradients", "parameters", "pipeline"]] = ["gradients", "parameters"]
    bucket: str | float | int = "100 MB"
    placement: str = "tp-cp-dp-pp"


class StragglersFile(Strict):
    """`stragglers:` of a scenario."""

    spread: Annotated[float, Field(ge=0, le=2)] = 0.0
    distribution: Literal["normal", "lognormal", "exponential"] = "normal"
    factors: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=1, le=100)]] = {}


class TechniqueFile(BaseModel):
    """One entry of `techniques:`; options are checked against the technique's own signature."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str


class ScenarioFile(Strict):
    """A whole scenario file."""

    model: str | dict[str, Any]
    cluster: str | dict[str, Any]
    workload: WorkloadFile
    plan: PlanFile = PlanFile()
    techniques: list[str | TechniqueFile] = []
    software: str | dict[str, Any] | None = None
    stragglers: StragglersFile = StragglersFile()
    fold: bool = True
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
