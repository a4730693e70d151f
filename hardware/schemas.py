"""Schemas of device, link and cluster files: units, legal ranges, and where a number comes from.

Every quantity may be a number in SI units, text with a unit, or ``{value: ..., source: ...}``. Shipped
presets must use the last form; `library` refuses one that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from . import units
from .errors import InputError


def _read(parse: Callable[[Any, str], float], low: float, high: float, show: Callable[[float], str]) -> BeforeValidator:
    """Validator that parses a quantity with its unit and holds it to [low, high]."""

    def read(value: Any) -> float:
        try:
            number = parse(value, "")
        except InputError as problem:
            raise ValueError(str(problem).removeprefix(": ")) from None
        if not low <= number <= high:
            raise ValueError(f"(legal: {show(low)} to {show(high)})")
        return number

    return BeforeValidator(read)


def _flops(value: float) -> str:
    return units.format_number(value) + "FLOP/s"


def _hertz(value: float) -> str:
    return units.format_number(value) + "Hz"


def _plain(value: float) -> str:
    return f"{value:g}"


Size = Annotated[float, _read(units.parse_size, 1e3, 1e15, units.format_size)]
Rate = Annotated[float, _read(units.parse_rate, 1e3, 1e15, units.format_rate)]
Time = Annotated[float, _read(units.parse_time, 0.0, 10.0, units.format_time)]
Flops = Annotated[float, _read(units.parse_flops, 1e6, 1e18, _flops)]
Clock = Annotated[float, _read(units.parse_frequency, 1e6, 1e11, _hertz)]
Share = Annotated[float, _read(units.parse_number, 0.01, 1.0, _plain)]
Cost = Annotated[float, _read(units.parse_number, 0.1, 100.0, _plain)]
Format = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]


class Strict(BaseModel):
    """Unknown keys refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NearMemoryFile(Strict):
    """`near_memory:` of a device."""

    update_cost: Cost


class DeviceFile(Strict):
    """A device file."""

    name: str
    peak_flops: Annotated[dict[Format, Flops], Field(min_length=1)]
    compute_units: Annotated[int, Field(ge=1, le=100_000)]
    clock: Clock
    memory_bandwidth: Rate
    memory_capacity: Size
    cache_capacity: Size
    dma_engines: Annotated[int, Field(ge=0, le=1000)]
    launch_overhead: Time
    host_overhead: Time
    gemm_tile: Annotated[list[Annotated[int, Field(ge=8, le=4096)]], Field(min_length=2, max_length=2)]
    gemm_efficiency: Share
    memory_efficiency: Share
    sustained: Share = 1.0
    near_memory: NearMemoryFile | None = None
    profile: str | None = None


class ProtocolFile(Strict):
    """A protocol of a profile."""

    base: Time
    hop: Time
    efficiency: Share
    copy_: Annotated[float, _read(units.parse_number, 0.0, 10.0, _plain), Field(alias="copy")] = 0.0
    channels: Annotated[int, Field(ge=0, le=10_000)] | None = None


class InSwitchFile(Strict):
    """`in_switch:` of a profile."""

    base: Time
    efficiency: Share


SizeClass = Annotated[str, Field(pattern="^(1 MiB and more|below 1 MiB)$")]


class ProfileFile(Strict):
    """A profile file."""

    name: str = "profile"
    link_bandwidth: Rate | None = None
    absolute: bool = False
    low: ProtocolFile
    bulk: ProtocolFile
    exchange_low: ProtocolFile | None = None
    exchange_bulk: ProtocolFile | None = None
    bulk_bias: Cost = 1.0
    in_switch: InSwitchFile | None = None
    error: dict[str, float] = Field(default_factory=dict)
    spread: dict[SizeClass, Annotated[float, Field(gt=0, le=2)]] = Field(default_factory=dict)


class LinkFile(Strict):
    """A link file."""

    name: str
    bandwidth: Rate | None = None
    latency: Time | None = None
    bulk_latency: Time | None = None
    base_latency: Time | None = None
    efficiency: Share | None = None
    profile: str | dict[str, Any] | None = None
    duplex: Literal["full", "half"] = "full"
    channels: Annotated[int, Field(ge=0, le=10_000)] = 0
    final_pass: bool = False


class SwitchReductionFile(Strict):
    """`switch_reduction:` of a cluster."""

    base: Time | None = None
    bandwidth: Rate | None = None
    efficiency: Share | None = None
    min_ranks: Annotated[int, Field(ge=2, le=1024)] = 2
    min_ranks_without_p2p: Annotated[int, Field(ge=2, le=1024)] | None = None


class NetworkFile(BaseModel):
    """`network:` of a cluster: a kind, its options, and how flows take its equal paths."""

    model_config = ConfigDict(extra="allow", strict=True)

    kind: str
    queue_pairs: Annotated[int, Field(ge=1, le=4096)] | None = None
    seed: int = 0


class ClusterFile(Strict):
    """A cluster file; nested devices and links are names, paths or mappings."""

    name: str = "cluster"
    device: str | dict[str, Any]
    devices_per_node: Annotated[int, Field(ge=1, le=1024)]
    nodes: Annotated[int, Field(ge=1, le=100_000)] = 1
    fabric: Literal["switch", "mesh", "ring", "pcie"] | dict[str, Any] = "switch"
    devices_per_switch: Annotated[int, Field(ge=1, le=1024)] | None = None
    uplink: Rate | None = None
    network: NetworkFile | None = None
    pin: dict[str, str] = Field(default_factory=dict)
    link: str | dict[str, Any]
    nic: str | dict[str, Any] | None = None
    switch_reduction: SwitchReductionFile | None = None
    p2p: bool = True
