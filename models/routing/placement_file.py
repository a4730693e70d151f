"""Where experts are, in a file: what place-experts writes and a scenario reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ...hardware.errors import InputError
from ...hardware.files import check, read_text

_LIMIT = 64 * 2**20  # bytes of a file


@dataclass(frozen=True, eq=False)
class PlacementFile:
    """Experts on devices.

    Parameters
    ----------
    device : ndarray of int, shape (layers, experts)
        Device of every expert; devices are numbered node by node.
    devices, nodes : int
    about : Mapping
        How it was found and what it is worth, for people.
    """

    device: NDArray[np.int64]
    devices: int
    nodes: int
    about: Mapping[str, Any] = field(default_factory=dict)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    devices: Annotated[int, Field(ge=1, le=1_000_000)]
    nodes: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    device: list[list[Annotated[int, Field(ge=0, lt=1_000_000)]]]
    about: dict[str, Any] = {}


def save_placement(placement: PlacementFile, path: str | Path) -> None:
    """Write a placement as JSON, a line for each layer."""
    rows = ",\n    ".join(json.dumps(row) for row in placement.device.tolist())
    about = {"devices": placement.devices, "nodes": placement.nodes, "about": dict(placement.about)}
    head = json.dumps(about, indent=2)
    text = head.removesuffix("\n}") + f',\n  "device": [\n    {rows}\n  ]\n}}\n'
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as problem:
        raise InputError(f"{path}: cannot be written: {problem.strerror or problem}") from None


def load_placement(path: str | Path) -> PlacementFile:
    """Read and check a placement: every device has as many experts as any other, in all layers together.

    Raises
    ------
    InputError
        One line naming layer and legal range.
    """
    path = Path(path)
    try:
        data = json.loads(read_text(path, _LIMIT))
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path}: is not JSON: {problem}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: is a {type(data).__name__} (legal: a mapping with devices, nodes and device)")
    file = check(_File, data, str(path))
    widths = {len(row) for row in file.device}
    if len(widths) != 1 or 0 in widths:
        raise InputError(f"{path}: device: layers of {sorted(widths)} experts (legal: one number, 1 or more)")
    device = np.array(file.device, dtype=np.int64)
    if file.devices % file.nodes:
        raise InputError(f"{path}: nodes: {file.nodes} for {file.devices} devices (legal: a divisor)")
    if device.max() >= file.devices:
        layer, expert = np.argwhere(device >= file.devices)[0].tolist()
        raise InputError(
            f"{path}: device: layer {layer}, expert {expert}: {device[layer, expert]} (legal: 0 to {file.devices - 1})"
        )
    balanced(device, file.devices, str(path))
    return PlacementFile(device, file.devices, file.nodes, file.about)


def balanced(device: NDArray[np.int64], devices: int, where: str) -> None:
    """Refuse a placement that gives devices unlike numbers of experts; in one layer they may have.

    Raises
    ------
    InputError
    """
    share = device.size / devices
    counts = np.bincount(device.ravel(), minlength=devices)
    if (counts != share).any():
        worst = int(np.abs(counts - share).argmax())
        legal = f"{share:g} on each" if share.is_integer() else f"devices that divide {device.size}"
        raise InputError(
            f"{where}: device: device {worst} has {counts[worst]} of the {device.size} experts of all layers "
            f"(legal: {legal})"
        )
