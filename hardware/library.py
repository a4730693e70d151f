"""Devices, links and clusters by name, by file, or as a mapping that may change a preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster import Cluster
from .device import Device, NearMemory
from .errors import InputError
from .link import Link, SwitchReduction
from .profile import PROTOCOLS, InSwitch, Profile, Protocol
from .sources import What, gather, names
from .units import format_rate

if TYPE_CHECKING:
    from .schemas import LinkFile, SwitchReductionFile

PROFILE = 64 * 2**20  # bytes of a profile of kernels, with all that was timed


def device_names() -> list[str]:
    """Names of the shipped devices."""
    return names("devices")


def link_names() -> list[str]:
    """Names of the shipped links and network adapters."""
    return names("links")


def cluster_names() -> list[str]:
    """Names of the shipped clusters."""
    return names("clusters")


def profile_names() -> list[str]:
    """Names of the shipped profiles of collectives."""
    return names("profiles")


def load_device(what: What | Device, where: str = "device") -> Device:
    """Device by preset name, YAML path, or mapping of its fields; `preset` in a mapping is the start.

    A profile of kernels (`commlens calibrate compute`) stands for the device it was measured on, with these kernels.

    Raises
    ------
    InputError
        One line naming file or place, key, and legal range.
    """
    if isinstance(what, Device):
        return what
    from .files import check
    from .schemas import DeviceFile

    if isinstance(what, str | Path) and str(what).endswith(".json"):
        what = _measured(Path(what)) or what
    values, sources, place = gather("devices", what, where)
    values = check(DeviceFile, values, place).model_dump()
    near = values.pop("near_memory")
    values["gemm_tile"] = tuple(values["gemm_tile"])
    return Device(**values, near_memory=None if near is None else NearMemory(**near), sources=sources)


def _measured(path: Path) -> dict[str, Any] | None:
    """Device of a profile of kernels as a mapping; None for a file that is no such profile."""
    import json

    from .files import read_text

    try:
        data = json.loads(read_text(path, PROFILE))
    except (ValueError, RecursionError):  # what is wrong with it is said where devices are read
        return None
    if not isinstance(data, dict) or "kernels" not in data:
        return None
    device = data.get("device")
    found = dict(device) if isinstance(device, dict) else {"preset": device}
    return {**found, "profile": str(path)}


def load_link(what: What | Link, where: str = "link") -> Link:
    """Link or network adapter by preset name, YAML path, or mapping of its fields."""
    if isinstance(what, Link):
        return what
    from .files import check
    from .schemas import LinkFile

    values, sources, place = gather("links", what, where)
    file = check(LinkFile, values, place)
    start = None if file.profile is None else load_profile(file.profile, f"{place}: profile")
    if file.bandwidth is None and (start is None or start.link_bandwidth is None):
        raise InputError(f"{place}: bandwidth: missing (legal: a rate, or a profile with a link_bandwidth)")
    if start is None and file.latency is None:
        raise InputError(f"{place}: latency: missing (legal: a time, or a profile)")
    bandwidth = file.bandwidth if file.bandwidth is not None else start.link_bandwidth  # type: ignore[union-attr]
    if start is not None:
        start = start.over(bandwidth)  # type: ignore[arg-type]
        fastest = max(getattr(start, key).efficiency for key in PROTOCOLS)
        if fastest > 1:
            raise InputError(
                f"{place}: bandwidth: below the {format_rate(fastest * bandwidth)} that profile {start.name} "
                "measured (legal: a faster link, or the profile alone)"
            )
    profile = _profile(file, start)
    return Link(
        file.name,
        bandwidth,  # type: ignore[arg-type]
        profile.low.hop,
        profile,
        file.duplex,
        file.channels,
        file.final_pass,
        sources,
    )


def load_profile(what: What | Profile, where: str = "profile") -> Profile:
    """Profile of collectives by preset name, YAML or JSON path, or mapping of its fields."""
    if isinstance(what, Profile):
        return what
    from .files import check
    from .schemas import ProfileFile

    values, sources, place = gather("profiles", what, where)
    file = check(ProfileFile, values, place)

    def protocol(part: Any) -> Protocol:
        return Protocol(part.base, part.hop, part.efficiency, part.copy_, part.channels)

    switch = file.in_switch
    return Profile(
        file.name,
        protocol(file.low),
        protocol(file.bulk),
        protocol(file.exchange_low or file.low),
        protocol(file.exchange_bulk or file.bulk),
        file.bulk_bias,
        None if switch is None else InSwitch(switch.base, switch.efficiency),
        file.link_bandwidth,
        file.absolute,
        file.error,
        file.spread,
        sources,
    )


# Payload share of a protocol that sends a flag with every word: 4 bytes of data, 4 of flag (NCCL's LL).
_FLAGGED = 0.5


def _profile(file: LinkFile, start: Profile | None) -> Profile:
    """Profile of a link: the one it names, changed or made by the plain keys it gives."""
    if start is None:
        efficiency = 1.0 if file.efficiency is None else file.efficiency
        hop, base = file.latency or 0.0, file.base_latency or 0.0
        bulk_hop = hop if file.bulk_latency is None else file.bulk_latency
        return Profile(
            file.name,
            Protocol(base, hop, _FLAGGED * efficiency),
            Protocol(base, bulk_hop, efficiency),
            Protocol(base + hop, 0.0, _FLAGGED * efficiency),
            Protocol(base + bulk_hop, 0.0, efficiency),
        )
    changes: dict[str, dict[str, float]] = {key: {} for key in PROTOCOLS}
    if file.latency is not None:
        changes["low"]["hop"] = file.latency
    if file.bulk_latency is not None:
        changes["bulk"]["hop"] = file.bulk_latency
    if file.base_latency is not None:
        for change in changes.values():
            change["base"] = file.base_latency
    if file.efficiency is not None:
        # The other protocols keep their share of the bulk one.
        for key, change in changes.items():
            change["efficiency"] = getattr(start, key).efficiency * file.efficiency / start.bulk.efficiency
    return replace(start, **{key: replace(getattr(start, key), **change) for key, change in changes.items()})


def load_cluster(what: What | Cluster, where: str = "cluster") -> Cluster:
    """Cluster by preset name, YAML path, or mapping: ``{preset: dgx-h100, nodes: 2}`` or all its fields.

    A file may hold the same mapping; device and link files it names are looked for beside it first.
    With ``p2p: false`` traffic inside a node takes the network adapters.
    """
    if isinstance(what, Cluster):
        return what
    from .files import check
    from .schemas import ClusterFile

    values, sources, place = gather("clusters", what, where)
    file = check(ClusterFile, values, place)
    device = load_device(file.device, f"{place}: device")
    link = load_link(file.link, f"{place}: link")
    nic = None if file.nic is None else load_link(file.nic, f"{place}: nic")
    if file.nodes > 1 and nic is None:
        raise InputError(
            f"{place}: nic: needed to join {file.nodes} nodes (legal: {', '.join(link_names())}, or a mapping)"
        )
    reduction = None if file.switch_reduction is None else _reduction(file.switch_reduction, link, place)
    if not file.p2p:
        if nic is None:
            raise InputError(
                f"{place}: p2p: false needs a nic to carry the traffic instead (legal: true, or a cluster with a nic)"
            )
        link = nic
    fabric, node = ("described", file.fabric) if isinstance(file.fabric, dict) else (file.fabric, None)
    cluster = Cluster(
        file.name,
        device,
        file.devices_per_node,
        file.nodes,
        fabric,
        link,
        nic,
        reduction,
        file.devices_per_switch,
        file.uplink,
        node,
        None if file.network is None else file.network.model_dump(exclude_none=True),
        file.pin,
        file.p2p,
        sources,
    )
    if node is not None:
        cluster.node_topology()  # says what is wrong with it now rather than later
    if cluster.network is not None:
        cluster.network_topology()
    return cluster


def _reduction(file: SwitchReductionFile, link: Link, place: str) -> SwitchReduction | None:
    """What a cluster says about reduction in its switch, and its link's profile where it says nothing."""
    measured = link.profile.in_switch
    base = measured.base if file.base is None and measured is not None else file.base
    efficiency = measured.efficiency if file.efficiency is None and measured is not None else file.efficiency
    if base is None and efficiency is None:
        return None  # what the switch makes of a message is not known, so nothing is claimed of it
    if base is None or efficiency is None:
        key = "base" if base is None else "efficiency"
        legal = "a value, or a link whose profile has in_switch"
        raise InputError(f"{place}: switch_reduction.{key}: missing (legal: {legal})")
    fewest = file.min_ranks_without_p2p
    return SwitchReduction(
        base,
        link.bandwidth if file.bandwidth is None else file.bandwidth,
        efficiency,
        file.min_ranks,
        file.min_ranks if fewest is None else fewest,
    )
