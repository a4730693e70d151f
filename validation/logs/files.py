"""Text and JSON of logs: bounded, unzipped, and with the line of whatever is wrong."""

from __future__ import annotations

import json
import re
import zlib
from contextlib import suppress
from json import scanner
from math import isfinite, nan
from pathlib import Path
from typing import Any

from ...hardware import InputError

LIMIT = 512 * 2**20  # bytes, unzipped; the trace of a few training steps has some tens of megabytes
GZIP = b"\x1f\x8b"


def read_log_text(path: str | Path) -> str:
    """Text of a file, which may be zipped with gzip.

    Bytes that are not UTF-8 (a host's name, a broken terminal) are replaced: they are not measurements.

    Raises
    ------
    InputError
        When it cannot be read, is larger than `LIMIT`, or the archive is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None
    except ValueError:  # such as a zero byte
        raise InputError(f"{str(path)!r}: is not the name of a file") from None
    if data.startswith(GZIP):
        try:
            unzip = zlib.decompressobj(wbits=31)
            data = unzip.decompress(data, LIMIT + 1)
        except zlib.error as problem:
            raise InputError(f"{path}: is a damaged gzip archive: {problem}") from None
        if not unzip.eof and len(data) <= LIMIT:
            raise InputError(f"{path}: is a damaged gzip archive: it ends early, after {len(data)} bytes")
    if len(data) > LIMIT:
        raise InputError(f"{path}: larger than {LIMIT} bytes (legal: at most {LIMIT} bytes)")
    return data.decode("utf-8", "replace")


def parse_json(text: str, path: str | Path) -> Any:
    """Value of JSON text.

    Raises
    ------
    InputError
        With line and column.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise InputError(f"{path}: {where}: is not valid JSON: {problem.msg}") from None
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        raise InputError(f"{path}: is not valid JSON: nested too deeply, or a number too long") from None


class _Lines(json.JSONDecoder):
    """Notes the line of every mapping, by its identity; ten times slower, so only once something is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, int] = {}
        self._parse, self.parse_object = self.parse_object, self._noted  # type: ignore[has-type]
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]
        self._line, self._at = 1, 0

    def _noted(self, state: tuple[str, int], *rest: Any) -> tuple[Any, int]:
        text, start = state
        # Mappings start in the order they are met, so every line is counted once.
        self._line += text.count("\n", self._at, start)
        self._at, line = start, self._line
        value, end = self._parse(state, *rest)
        self.lines[id(value)] = line
        return value, end


def place_of(text: str, path: str | Path, key: str, index: int) -> str:
    """``file: line n`` of an entry of a list at the top of JSON text, for a message.

    Parameters
    ----------
    text : str
        Valid JSON.
    path : str or Path
    key : str
        Of the list; "" when the text is the list.
    index : int
        Of the entry, from 0.
    """
    decoder = _Lines()
    data = decoder.decode(text)
    entry = (data[key] if key else data)[index]
    line = decoder.lines.get(id(entry))
    return f"{path}: entry {index + 1}" if line is None else f"{path}: line {line}"


def number(value: Any, where: str, name: str, legal: str = "a number above 0", or_zero: bool = False) -> float:
    """A finite number above zero, or from zero on.

    Raises
    ------
    InputError
        ``where: name: value (legal: ...)``.
    """
    found = nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            found = float(value)
    if not isfinite(found) or found < 0 or (found == 0 and not or_zero):
        raise InputError(f"{where}: {name}: {value!r:.60} (legal: {legal})")
    return found


def whole(word: str, where: str, name: str, least: int | None = None) -> int:
    """A whole number, from `least` on.

    Raises
    ------
    InputError
        ``where: name: value (legal: ...)``.
    """
    found = int(word) if re.fullmatch(r"-?\d{1,18}", word) else None
    if found is None or (least is not None and found < least):
        more = "" if least is None else f" of {least} or more"
        raise InputError(f"{where}: {name}: {word!r:.60} (legal: a whole number{more})")
    return found
