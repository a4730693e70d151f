"""Networks as a file describes them: a kind and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError, nearest
from ..files import Schema, check
from ..topology import Topology
from .clos import fat_tree
from .direct import full_mesh, ring, torus
from .dragonfly import dragonfly
from .host import pcie_tree, switch
from .leaf_spine import leaf_spine
from .mixed import compose
from .wide import wan_star


def topo_matrix(file: str, **options: Any) -> Topology:
    """Machine as `nvidia-smi topo -m` printed it into a file; see `readers.read_topo_matrix`."""
    from pathlib import Path

    from ..readers import read_topo_matrix

    return read_topo_matrix(Path(file), **options)


def nccl_xml(file: str, **options: Any) -> Topology:
    """Machine as NCCL's topology file describes it; see `readers.read_nccl_xml`."""
    from pathlib import Path

    from ..readers import read_nccl_xml

    return read_nccl_xml(Path(file), **options)


def mixed(islands: list[dict[str, Any]], outer: dict[str, Any], where: str = "", **options: Any) -> Topology:
    """Islands and a network between them, each given by its kind and options; see `compose`.

    An island may have a `count`, for several alike, and a `device`, its model. Where the outer network
    has `ranks` and they are not given, they are the islands' adapters: `nics` of each island, else those
    it has, else one per device.
    """
    from .schemas import IslandFile

    parts: list[Topology] = []
    devices: list[str] = []
    for number, island in enumerate(islands):
        place = _below(where, f"islands.{number}")
        own = {key: value for key, value in island.items() if key in IslandFile.model_fields}
        rest = {key: value for key, value in island.items() if key not in own}
        file = _checked(IslandFile, own, place)
        part = build_topology(file.kind, rest, place)
        parts += [part] * file.count
        devices += [file.device] * file.count
    place = _below(where, "outer")
    given = {key: value for key, value in outer.items() if key != "kind"}
    if "kind" not in outer:
        raise InputError(f"{place}.kind: missing (legal: {', '.join(FABRICS)})")
    if "ranks" in parameters(outer["kind"]) and "ranks" not in given:
        given["ranks"] = _adapters(parts, options.get("nics"))
    between = build_topology(outer["kind"], given, place)
    renamed = {"nics": "nics", "nic_bandwidth": "bandwidth", "nic_latency": "latency", "forward": "forward"}
    return compose(
        parts,
        between,
        devices=devices if any(devices) else None,
        **{renamed[key]: value for key, value in options.items()},
    )


def _adapters(parts: list[Topology], nics: int | list[int] | None) -> int:
    if nics is not None:
        return nics * len(parts) if isinstance(nics, int) else sum(nics)
    own = [part.kinds.count("nic") for part in parts]
    return sum(own) if all(own) else sum(part.ranks for part in parts)


FABRICS: Mapping[str, Callable[..., Topology]] = {
    "dragonfly": dragonfly,
    "fat_tree": fat_tree,
    "full_mesh": full_mesh,
    "leaf_spine": leaf_spine,
    "mixed": mixed,
    "nccl_xml": nccl_xml,
    "pcie_tree": pcie_tree,
    "ring": ring,
    "switch": switch,
    "topo_matrix": topo_matrix,
    "torus": torus,
    "wan_star": wan_star,
}


def build_topology(kind: str, options: Mapping[str, Any], where: str = "network") -> Topology:
    """Network of a kind with options as they stand in a file.

    Parameters
    ----------
    kind : str
        One of `FABRICS`.
    options : mapping
        Its parameters; quantities as numbers in SI units or with a unit, as "400 Gbit/s" and "2 us".
    where : str
        Place of the options, as "s.yaml: cluster.network", for errors.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        One line with the place, the key, its value and what is legal.
    """
    from .schemas import SCHEMAS

    if not isinstance(kind, str) or kind not in FABRICS:
        raise InputError(
            f"{_below(where, 'kind')}: {kind!r:.60} (legal: {', '.join(FABRICS)}){nearest(str(kind), FABRICS)}"
        )
    given = _checked(SCHEMAS[kind], options, where).model_dump(exclude_none=True)
    if kind == "mixed":
        given["where"] = where
    try:
        return FABRICS[kind](**given)
    except InputError as problem:
        # What a builder finds wrong starts with its name, which the place stands for here.
        said = str(problem)
        if said.startswith(f"{kind}: "):
            said = _below(where, said.removeprefix(f"{kind}: "))
        raise InputError(said) from None


def _checked(schema: type[Schema], data: Mapping[str, Any], where: str) -> Schema:
    """`check` whose errors continue the path of keys that `where` ends with."""
    try:
        return check(schema, data, "")
    except InputError as problem:
        raise InputError(_below(where, str(problem).removeprefix(": "))) from None


def parameters(kind: Any) -> set[str]:
    """Options of a kind of fabric; none of an unknown one."""
    from .schemas import SCHEMAS

    return set(SCHEMAS[kind].model_fields) if isinstance(kind, str) and kind in SCHEMAS else set()


def _below(where: str, key: str) -> str:
    """Place of a key: ``file: path.key`` where a path has begun, else ``file: key``."""
    return f"{where}.{key}" if ": " in where or "." not in where else f"{where}: {key}"
