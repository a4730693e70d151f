"""Devices, links and clusters by name, by file, or as a mapping that may change a preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster import Cluster
from .device import Device, NearMemory
from .errors import InputError, nearest
from .link import Link, SwitchReduction
from .profile import InSwitch, Profile, Protocol

if TYPE_CHECKING:
    from .schemas import LinkFile, SwitchReductionFile

PRESETS = Path(__file__).parent / "presets"
ALIASES = {"hgx-h100": "dgx-h100"}
PARTS = ("device", "link", "nic", "profile")  # keys of a cluster that are described elsewhere

What = str | Path | Mapping[str, Any]


def device_names() -> list[str]:
    """Names of the shipped devices."""
    return _names("devices")


def link_names() -> list[str]:
    """Names of the shipped links and network adapters."""
    return _names("links")


def cluster_names() -> list[str]:
    """Names of the shipped clusters."""
    return _names("clusters")


def profile_names() -> list[str]:
    """Names of the shipped profiles of collectives."""
    return _names("profiles")


def load_device(what: What | Device, where: str = "device") -> Device:
    """Device by preset name, YAML path, or mapping of its fields; `preset` in a mapping is the start.

    Raises
    ------
    InputError
        One line naming file or place, key, and legal range.
    """
    if isinstance(what, Device):
        return what
    from .files import check
    from .schemas import DeviceFile

    values, sources, place = _gather("devices", what, where)
    values = check(DeviceFile, values, place).model_dump()
    near = values.pop("near_memory")
    values["gemm_tile"] = tuple(values["gemm_tile"])
    return Device(**values, near_memory=None if near is None else NearMemory(**near), sources=sources)


def load_link(what: What | Link, where: str = "link") -> Link:
    """Link or network adapter by preset name, YAML path, or mapping of its fields."""
    if isinstance(what, Link):
        return what
    from .files import check
    from .schemas import LinkFile

    values, sources, place = _gather("links", what, where)
    file = check(LinkFile, values, place)
    start = None if file.profile is None else load_profile(file.profile, f"{place}: profile")
    if file.bandwidth is None and (start is None or start.link_bandwidth is None):
        raise InputError(f"{place}: bandwidth: missing (legal: a rate, or a profile with a link_bandwidth)")
    if start is None and file.latency is None:
        raise InputError(f"{place}: latency: missing (legal: a time, or a profile)")
    bandwidth = file.bandwidth if file.bandwidth is not None else start.link_bandwidth  # type: ignore[union-attr]
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

    values, sources, place = _gather("profiles", what, where)
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
        file.error,
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
    changes: dict[str, dict[str, float]] = {"low": {}, "bulk": {}, "exchange_low": {}, "exchange_bulk": {}}
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

    values, sources, place = _gather("clusters", what, where)
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
    described = isinstance(file.fabric, dict)
    cluster = Cluster(
        file.name,
        device,
        file.devices_per_node,
        file.nodes,
        "described" if isinstance(file.fabric, dict) else file.fabric,
        link,
        nic,
        reduction,
        file.devices_per_switch,
        file.uplink,
        file.fabric if isinstance(file.fabric, dict) else None,
        None if file.network is None else file.network.model_dump(exclude_none=True),
        file.p2p,
        sources,
    )
    if described:
        cluster.node_topology()  # says what is wrong with it now rather than later
    if cluster.network is not None:
        cluster.network_topology()
    return cluster


def _reduction(file: SwitchReductionFile, link: Link, place: str) -> SwitchReduction:
    """What a cluster says about reduction in its switch, and its link's profile where it says nothing."""
    measured = link.profile.in_switch
    base = measured.base if file.base is None and measured is not None else file.base
    efficiency = measured.efficiency if file.efficiency is None and measured is not None else file.efficiency
    if base is None or efficiency is None:
        key = "base" if base is None else "efficiency"
        raise InputError(
            f"{place}: switch_reduction.{key}: missing (legal: a value, or a link whose profile has in_switch)"
        )
    fewest = file.min_ranks_without_p2p
    return SwitchReduction(
        base,
        link.bandwidth if file.bandwidth is None else file.bandwidth,
        efficiency,
        file.min_ranks,
        file.min_ranks if fewest is None else fewest,
    )


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in (PRESETS / kind).glob("*.yaml"))


def _gather(kind: str, what: What, where: str) -> tuple[dict[str, Any], dict[str, str], str]:
    """(values, sources by key, place for errors) of a name, path or mapping."""
    if isinstance(what, str | Path):
        return _file(kind, str(what), where)
    if not isinstance(what, Mapping):
        raise InputError(f"{where}: {what!r} (legal: a preset's name, a YAML file, or a mapping)")
    own = dict(what)
    base = own.pop("preset", None)
    values, sources, _ = ({}, {}, where) if base is None else _file(kind, str(base), where)
    changed, more = _unwrap(own)
    for key, value in changed.items():
        values[key] = _over(values.get(key), value, key in PARTS)
    if base is None and "name" not in values:
        values["name"] = kind.removesuffix("s")
    return values, {**sources, **more}, where if base is None else f"{where} {base}"


def _over(below: Any, value: Any, is_part: bool) -> Any:
    """Value of a key where a mapping changes what it starts from."""
    if not isinstance(value, Mapping) or (is_part and {"preset", "name"} & set(value)):
        return value
    if isinstance(below, Mapping):  # such as one rate of peak_flops
        return {**below, **{key: _over(below.get(key), new, False) for key, new in value.items()}}
    return {"preset": below, **value} if is_part and isinstance(below, str) else value


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml", ".json"))


def _file(kind: str, name: str, where: str) -> tuple[dict[str, Any], dict[str, str], str]:
    """The same of a file or a shipped preset."""
    if _is_path(name):
        return *_read(kind, name), name
    names = _names(kind)
    known = ALIASES.get(name.lower(), name.lower())
    if known not in names:
        also = [alias for alias, meant in ALIASES.items() if meant in names]
        raise InputError(
            f"{where}: unknown {kind.removesuffix('s')} {name!r:.60} (legal: {', '.join(names)}, "
            f"or a YAML file){nearest(name, names + also)}"
        )
    values, sources = _preset(kind, known)
    return dict(values), dict(sources), where


@cache
def _preset(kind: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    from .files import read_yaml

    path = PRESETS / kind / f"{name}.yaml"
    values, sources = _unwrap({"name": name, **read_yaml(path)})
    unsourced = [key for key, value in _numbers(values) if key.split(".")[0] not in sources and key not in sources]
    if unsourced:
        raise InputError(f"{path.name}: {unsourced[0]}: a preset's number needs a source")
    return values, sources


def _read(kind: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and sources of a user's file."""
    from .files import read_yaml

    data = read_yaml(path)
    if _is_path(str(data.get("preset"))):
        # One file per thing, so that no chain of files can end where it began.
        raise InputError(f"{path}: preset: {str(data['preset'])!r} is a file (legal: {', '.join(_names(kind))})")
    values, sources, _ = _gather(kind, {"name": Path(path).stem, **data}, path)
    for key in PARTS:
        part = values.get(key)
        if isinstance(part, str) and _is_path(part) and (Path(path).parent / part).exists():
            values[key] = str(Path(path).parent / part)
    for key in ("fabric", "network"):
        part = values.get(key)
        if isinstance(part, dict) and (Path(path).parent / str(part.get("file", ""))).is_file():
            values[key] = {**part, "file": str(Path(path).parent / part["file"])}
    return values, sources


def _unwrap(data: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """Values without their ``{value, source}`` wrapping, and the sources by dotted key."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and set(value) <= {"value", "source"} and "value" in value:
            values[key] = value["value"]
            if "source" in value:
                sources[prefix + str(key)] = str(value["source"])
        elif isinstance(value, Mapping):
            values[key], below = _unwrap(value, f"{prefix}{key}.")
            sources |= below
        else:
            values[key] = value
    return values, sources


def _numbers(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of everything in a preset that is a quantity."""
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}.")
        elif (isinstance(value, int | float | list) and not isinstance(value, bool)) or (
            isinstance(value, str) and value[:1].isdigit() and " " in value
        ):
            found.append((prefix + str(key), value))
    return found
