"""Options of each kind of network in a file: units, legal ranges. Names are the builders' parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .. import units
from ..schemas import Rate, Strict, Time, _plain, _read
from .checks import LARGEST, MOST_OVERSUBSCRIBED

Count = Annotated[int, Field(ge=1, le=LARGEST)]
Oversubscription = Annotated[float, _read(units.parse_number, 1.0, MOST_OVERSUBSCRIBED, _plain)]
Capability = Annotated[int, Field(ge=60, le=999)]


class LinksFile(Strict):
    """What all links of a plain network have."""

    bandwidth: Rate
    latency: Time


class RanksFile(LinksFile):
    """`full_mesh`, `ring` and `switch`."""

    ranks: Count
    duplex: Literal["full", "half"] | None = None


class TorusFile(LinksFile):
    """`torus`."""

    duplex: Literal["full", "half"] | None = None

    shape: Annotated[list[Count], Field(min_length=1, max_length=16)]


class PcieTreeFile(RanksFile):
    """`pcie_tree`."""

    sockets: Count | None = None
    bridges: Count | None = None
    switches: Count | None = None
    uplink: Rate | None = None
    host_bandwidth: Rate | None = None
    socket_bandwidth: Rate | None = None
    socket_latency: Time | None = None


class FatTreeFile(LinksFile):
    """`fat_tree`."""

    ranks: Count

    per_leaf: Count
    oversubscription: Oversubscription | None = None
    spines: Count | None = None
    rails: Count | None = None
    leaves_per_pod: Count | None = None
    core_oversubscription: Oversubscription | None = None
    cores_per_spine: Count | None = None


class DragonflyFile(LinksFile):
    """`dragonfly`."""

    groups: Count
    routers: Count
    devices: Count
    global_links: Count | None = None
    local_bandwidth: Rate | None = None
    global_bandwidth: Rate | None = None
    global_latency: Time | None = None
    routing: Literal["minimal", "valiant"] | None = None
    ranks: Count | None = None


class LeafSpineFile(LinksFile):
    """`leaf_spine`."""

    nodes: Count
    nodes_per_leaf: Count
    spines: Count
    nics: Count | None = None
    planes: Annotated[int, Field(ge=1, le=64)] | None = None
    devices_per_node: Count | None = None
    uplinks: Count | None = None
    oversubscription: Oversubscription | None = None
    rails: bool | None = None
    isolated_planes: bool | None = None
    device_bandwidth: Rate | None = None
    device_latency: Time | None = None
    inner_bandwidth: Rate | None = None
    inner_latency: Time | None = None


class WanStarFile(Strict):
    """`wan_star`; one value for all sites, or one each."""

    ranks: Count
    up: Rate | list[Rate]
    down: Rate | list[Rate]
    latency: Time | list[Time]


class TopoMatrixFile(Strict):
    """`topo_matrix`: what `nvidia-smi topo -m` printed."""

    file: str
    sm: Capability | None = None
    nvlink: Rate | None = None
    pcie: Rate | None = None
    socket: Rate | None = None
    latency: Time | None = None
    forward: bool | None = None


class NcclXmlFile(Strict):
    """`nccl_xml`: NCCL's topology file."""

    file: str
    nvlink: Rate | None = None
    latency: Time | None = None
    forward: bool | None = None


class MixedFile(Strict):
    """`mixed`; islands and the outer network are mappings with a `kind` and its options."""

    islands: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100_000)]
    outer: dict[str, Any]
    nics: Count | list[Count] | None = None
    nic_bandwidth: Rate | None = None
    nic_latency: Time | None = None
    forward: bool | None = None


class IslandFile(Strict):
    """What an entry of `islands` has beside its kind and options."""

    kind: str
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    device: str = ""


SCHEMAS: dict[str, type[Strict]] = {
    "dragonfly": DragonflyFile,
    "fat_tree": FatTreeFile,
    "full_mesh": RanksFile,
    "leaf_spine": LeafSpineFile,
    "mixed": MixedFile,
    "nccl_xml": NcclXmlFile,
    "pcie_tree": PcieTreeFile,
    "ring": RanksFile,
    "switch": RanksFile,
    "topo_matrix": TopoMatrixFile,
    "torus": TorusFile,
    "wan_star": WanStarFile,
}
