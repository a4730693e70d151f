"""Form of the files that sequence planning reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...hardware.units import parse_rate, parse_size, parse_time

Time = Annotated[float, BeforeValidator(parse_time), Field(ge=0)]
Size = Annotated[float, BeforeValidator(parse_size), Field(ge=0)]
Above = Annotated[float, BeforeValidator(parse_size), Field(gt=0)]
Rate = Annotated[float, BeforeValidator(parse_rate), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class SequenceCostsFile(BaseModel):
    """Costs of sequences; see `load_sequence_costs`."""

    model_config = ConfigDict(extra="forbid")

    source: str = ""
    ranks: Count
    devices_per_node: Count = 8
    quadratic: Time
    linear: Time
    fixed: Time = 0.0
    exchanged: Size
    bandwidth: dict[Count, Rate] = Field(min_length=1)
    token: Above
    states: Size = 0.0
    capacity: Above
