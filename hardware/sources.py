"""Values by preset name, by file or as a mapping, and where each of them comes from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InputError, nearest

PRESETS = Path(__file__).parent / "presets"
ALIASES = {"hgx-h100": "dgx-h100"}
PARTS = ("device", "link", "nic", "profile")  # keys of a cluster that are described elsewhere

What = str | Path | Mapping[str, Any]


def names(kind: str) -> list[str]:
    """Shipped presets of a kind: devices, links, clusters or profiles."""
    return sorted(path.stem for path in (PRESETS / kind).glob("*.yaml"))


def gather(kind: str, what: What, where: str) -> tuple[dict[str, Any], dict[str, str], str]:
    """(values, sources by key, place for errors) of a name, path or mapping."""
    if isinstance(what, str | Path):
        return _file(kind, str(what), where)
    if not isinstance(what, Mapping):
        raise InputError(f"{where}: {what!r} (legal: a preset's name, a YAML file, or a mapping)")
    own = dict(what)
    base = own.pop("preset", None)
    values, sources, _ = ({}, {}, where) if base is None else _file(kind, str(base), where)
    changed, more = unwrap(own)
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
    shipped = names(kind)
    known = ALIASES.get(name.lower(), name.lower())
    if known not in shipped:
        also = [alias for alias, meant in ALIASES.items() if meant in shipped]
        raise InputError(
            f"{where}: unknown {kind.removesuffix('s')} {name!r:.60} (legal: {', '.join(shipped)}, "
            f"or a YAML file){nearest(name, shipped + also)}"
        )
    values, sources = _preset(kind, known)
    return dict(values), dict(sources), where


@cache
def _preset(kind: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    from .files import read_yaml

    path = PRESETS / kind / f"{name}.yaml"
    values, sources = unwrap({"name": name, **read_yaml(path)})
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
        raise InputError(f"{path}: preset: {str(data['preset'])!r} is a file (legal: {', '.join(names(kind))})")
    values, sources, _ = gather(kind, {"name": Path(path).stem, **data}, path)
    for key in PARTS:
        part = values.get(key)
        if isinstance(part, str) and _is_path(part) and (Path(path).parent / part).exists():
            values[key] = str(Path(path).parent / part)
    for key in ("fabric", "network"):
        part = values.get(key)
        if isinstance(part, dict) and (Path(path).parent / str(part.get("file", ""))).is_file():
            values[key] = {**part, "file": str(Path(path).parent / part["file"])}
    return values, sources


def unwrap(data: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """Values without their ``{value, source}`` wrapping, and the sources by dotted key."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and set(value) <= {"value", "source"} and "value" in value:
            values[key] = value["value"]
            if "source" in value:
                sources[prefix + str(key)] = str(value["source"])
        elif isinstance(value, Mapping):
            values[key], below = unwrap(value, f"{prefix}{key}.")
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
