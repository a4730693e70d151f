"""Reading what users hand in: bounded, without surprises, one line for whatever is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

LIMIT = 1_000_000  # bytes; the largest real configuration files are some tens of kilobytes

Schema = TypeVar("Schema", bound="BaseModel")


def read_text(path: str | Path, limit: int = LIMIT) -> str:
    """Text of a file of at most `limit` bytes."""
    path = Path(path)
    try:
        folder = path.is_dir()
    except ValueError:  # such as a zero byte
        folder = False
    if folder:
        raise InputError(f"{path}: is a folder, not a file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    except ValueError:  # such as a zero byte
        raise InputError(f"{str(path)!r}: is not the name of a file") from None
    if len(data) > limit:
        raise InputError(f"{path}: larger than {limit} bytes (legal: at most {limit} bytes)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Mapping in a YAML (or JSON) file; anchors and aliases, duplicate keys and tags are refused."""
    import yaml

    text = read_text(path)

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} stands twice")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        data = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as problem:
        raise InputError(f"{path}: is not valid YAML: {_first_line(problem)}") from None
    return _mapping(data, path)


def read_json(path: str | Path) -> dict[str, Any]:
    """Mapping in a JSON file; duplicate keys are refused."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise InputError(f"{path}: key {key!r} stands twice")
            found[key] = value
        return found

    try:
        data = json.loads(read_text(path), object_pairs_hook=pairs)
    except InputError:
        raise
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path}: is not valid JSON: {_first_line(problem)}") from None
    return _mapping(data, path)


def _mapping(data: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path}: holds {type(data).__name__}, not a mapping of keys to values")
    return data


def _first_line(problem: BaseException) -> str:
    mark = getattr(problem, "problem_mark", None)
    text = getattr(problem, "problem", None) or str(problem)
    line = " ".join(str(text).split())
    return f"{line}, line {mark.line + 1}" if mark is not None else line[:200]


def check(schema: type[Schema], data: Mapping[str, Any], where: str) -> Schema:
    """Validated instance of a pydantic schema.

    Raises
    ------
    InputError
        For the first thing wrong: ``where: key.path: what (legal: ...)``.
    """
    from pydantic import ValidationError

    try:
        return schema.model_validate(data)
    except ValidationError as problem:
        raise InputError(_describe(schema, problem, where)) from None


def _describe(schema: type[BaseModel], problem: ValidationError, where: str) -> str:
    errors = problem.errors(include_url=False)
    # A union reports every branch; the deepest error belongs to the branch the user meant.
    error = max(errors, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    keys = [str(part) for part in error["loc"] if not _is_branch(part)]
    path = ".".join(keys)
    if error["type"] == "extra_forbidden":
        legal = sorted(_properties(schema.model_json_schema(), keys[:-1]))
        return f"{where}: {path}: unknown key (legal: {', '.join(legal)}){nearest(keys[-1], legal)}"
    value = error.get("input")
    said = " ".join(error["msg"].removeprefix("Value error, ").split())
    shown = f"{str(value)!r:.60}"
    if error["type"] == "missing" or isinstance(value, Mapping) or said.startswith(shown):
        shown = ""  # nothing to show, or said already
    elif not said.startswith("("):
        shown += ": "
    else:
        shown += " "
    said = re.sub("dictionary or instance of [A-Za-z]+", "mapping", said)
    if shown.removesuffix(": ") in said:
        shown = ""
    if "(legal: " not in said:
        said += f" (legal: {_legal(schema.model_json_schema(), keys)})"
    return f"{where}: {path + ': ' if path else ''}{shown}{said}"


def _is_branch(part: Any) -> bool:
    """Whether a part of an error's location names a branch of a union, not a key."""
    text = str(part)
    return text in ("str", "int", "float") or "[" in text or text.endswith("File")


def _properties(document: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """Properties of the object at a path of a JSON schema."""
    node: dict[str, Any] = document
    for part in [*path, ""]:
        branches = [node, *node.get("anyOf", ()), node.get("items", {})]
        for branch in list(branches):
            if "$ref" in branch:
                branches.append(document["$defs"][branch["$ref"].rsplit("/", 1)[-1]])
        found: dict[str, Any] = next((b["properties"] for b in branches if "properties" in b), {})
        if not part:
            return found
        node = found.get(part, node)
    return {}


def _legal(document: dict[str, Any], path: list[str]) -> str:
    """What a JSON schema allows at a path, in words."""
    key = next((part for part in reversed(path) if not part.isdigit()), "")
    node = _properties(document, path[: path.index(key)] if key else []).get(key, {})
    if path and path[-1].isdigit():
        node = node.get("items", node)
    said = []
    for branch in (node, *node.get("anyOf", ())):
        if "enum" in branch or "const" in branch:
            said.append(", ".join(map(str, branch.get("enum", [branch.get("const")]))))
        elif "minimum" in branch or "exclusiveMinimum" in branch:
            low = branch.get("minimum", branch.get("exclusiveMinimum"))
            high = branch.get("maximum", branch.get("exclusiveMaximum"))
            said.append(
                f"{_TYPES[branch['type']]}" + (f" of {low} or more" if high is None else f" from {low} to {high}")
            )
        elif branch.get("type") in _TYPES:
            said.append(_TYPES[branch["type"]])
        elif "$ref" in branch:
            said.append("a mapping")
    return " or ".join(dict.fromkeys(said)) or "a value of the documented form"


_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
