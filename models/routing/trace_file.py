"""Routing traces in files: NumPy's .npz, Parquet in long form, and those that ship."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...hardware.errors import InputError, nearest
from .trace import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd

PRESETS = Path(__file__).parent.parent / "presets" / "routing"
COLUMNS = ("token", "layer", "slot", "expert")
"""Columns of a Parquet file; `gate`, `num_experts` and `source` may be there, too."""

_LIMIT = 4 * 2**30  # bytes of arrays in a file; 100,000 tokens x 58 layers x 8 experts with gates are a third of it


def trace_names() -> list[str]:
    """Names of the shipped traces, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.npz"))


def load_trace(path: str | Path, count: int | None = None) -> RoutingTrace:
    """Read a trace.

    Parameters
    ----------
    path : str or Path
        Name of a shipped trace; or a .npz file with arrays `experts` of shape (tokens, layers, k) and `num_experts`,
        and maybe `gates`, `source`, `layer_numbers`; or a .parquet file with a row for every token, layer and slot
        in columns `token`, `layer`, `slot` (from 0), `expert`, and maybe `gate`, `num_experts`, `source`.
    count : int, optional
        Experts of a layer, instead of the file's number. A Parquet file that does not have it is taken to have used
        its last expert.

    Raises
    ------
    InputError
        One line with file, token and layer where there are any, and legal range.
    """
    file = Path(path)
    readers = {".npz": _npz, ".parquet": _parquet}
    if file.suffix.lower() not in readers:
        known = trace_names()
        name = str(path).strip().lower().replace("_", "-")
        if name not in known:
            raise InputError(
                f"routing trace: unknown {str(path)!r:.120}{nearest(name, known)} "
                f"(legal: {', '.join([*known, 'or a .npz or .parquet file'])})"
            )
        file = PRESETS / f"{name}.npz"
    _present(file)
    found = readers[file.suffix.lower()](file)
    if count is not None:
        found["count"] = count
    try:
        return RoutingTrace(**found)
    except InputError as problem:
        raise InputError(f"{file}: {problem}") from None


def save_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write a trace, as `load_trace` reads it.

    A .npz file is compressed, with the smallest types that hold the values exactly.

    Raises
    ------
    InputError
        For another kind of file, or one that cannot be written.
    """
    file = Path(path)
    writers = {".npz": _write_npz, ".parquet": _write_parquet}
    if file.suffix.lower() not in writers:
        raise InputError(f"{file}: a trace in a {file.suffix or 'nameless'} file (legal: {', '.join(writers)})")
    try:
        writers[file.suffix.lower()](trace, file)
    except OSError as problem:
        raise InputError(f"{file}: cannot be written: {problem.strerror or problem}") from None


def _present(file: Path) -> None:
    try:
        folder = file.is_dir()
        size = 0 if folder else file.stat().st_size
        if not folder:
            file.open("rb").close()
    except OSError as problem:
        raise InputError(f"{file}: cannot be read: {problem.strerror or problem}") from None
    except ValueError:  # such as a zero byte
        raise InputError(f"{str(file)!r}: is not the name of a file") from None
    if folder:
        raise InputError(f"{file}: is a folder, not a file")
    if size > _LIMIT:
        raise InputError(f"{file}: {size} bytes (legal: at most {_LIMIT})")


def _npz(file: Path) -> dict[str, Any]:
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception as problem:  # of zipfile, struct, zlib
        raise InputError(f"{file}: is not a .npz file: {_line(problem)}") from None
    if size > _LIMIT:
        raise InputError(f"{file}: {size} bytes unpacked (legal: at most {_LIMIT})")
    with np.load(file, allow_pickle=False) as held:
        for name in ("experts", "num_experts", "gates", "source", "layer_numbers"):
            if name not in held.files:
                continue
            try:
                arrays[name] = held[name]
            except Exception as problem:  # of numpy, zipfile, zlib, and memory that is not there
                raise InputError(f"{file}: array {name} cannot be read: {_line(problem)}") from None
        for name in ("experts", "num_experts"):
            if name not in arrays:
                has = ", ".join(held.files)[:200] or "none"
                raise InputError(f"{file}: no array {name} among {has} (legal: experts, num_experts, gates, source)")
    number, source = arrays["num_experts"], arrays.get("source", np.array(""))
    if number.ndim or number.dtype.kind not in "iu":
        raise InputError(f"{file}: num_experts: {number.dtype} of shape {number.shape} (legal: one whole number)")
    if source.ndim or source.dtype.kind != "U":
        raise InputError(f"{file}: source: {source.dtype} of shape {source.shape} (legal: one text)")
    return {
        "experts": arrays["experts"],
        "count": int(number),
        "gates": arrays.get("gates"),
        "source": str(source) or str(file),
        "layer_numbers": arrays.get("layer_numbers"),
    }


def _write_npz(trace: RoutingTrace, file: Path) -> None:
    arrays: dict[str, Any] = {
        "experts": trace.experts.astype(np.min_scalar_type(trace.count - 1)),
        "num_experts": np.int64(trace.count),
        "source": np.array(trace.source),
    }
    if trace.gates is not None:
        with np.errstate(over="ignore"):
            half = trace.gates.astype(np.float16)
        arrays["gates"] = half if bool((half == trace.gates).all()) else trace.gates
    if trace.layer_numbers is not None:
        arrays["layer_numbers"] = np.array(trace.layer_numbers, dtype=np.int64)
    with file.open("wb") as out:  # savez would add a suffix to a name in capitals
        np.savez_compressed(out, **arrays)


def _parquet(file: Path) -> dict[str, Any]:
    import pandas as pd

    try:
        frame = pd.read_parquet(file)
    except ImportError:
        raise InputError(f"{file}: no Parquet reader is installed (legal: .npz, or pip install pyarrow)") from None
    except Exception as problem:  # readers have their own exceptions
        raise InputError(f"{file}: is not Parquet: {_line(problem)}") from None
    try:
        return _from_frame(frame) | {"source": _source(frame) or str(file)}
    except InputError as problem:
        raise InputError(f"{file}: {problem}") from None


def _from_frame(frame: pd.DataFrame) -> dict[str, Any]:
    """Arrays of a trace in long form; every token has every layer and slot, once."""
    for name in COLUMNS:
        if name not in frame.columns:
            has = ", ".join(map(str, frame.columns))[:200] or "none"
            raise InputError(f"no column {name} among {has} (legal: {', '.join(COLUMNS)}, maybe gate and num_experts)")
    if not len(frame):
        raise InputError("no row (legal: one or more)")
    columns = {name: _integers(frame, name) for name in COLUMNS}
    names, token = np.unique(columns["token"], return_inverse=True)
    numbers, layer = np.unique(columns["layer"], return_inverse=True)
    place, held = np.unique(token * len(numbers) + layer, return_counts=True)
    k = int(held.max())
    if len(place) < len(names) * len(numbers):
        missing = np.flatnonzero(place != np.arange(len(place)))
        at, number = int(missing[0]) if len(missing) else len(place), 0
    elif (held != k).any():
        at = int((held != k).argmax())
        number = int(held[at])
    else:
        at = number = -1
    if at >= 0:
        raise InputError(
            f"token {names[at // len(numbers)]}, layer {numbers[at % len(numbers)]}: {number} slots, others have {k} "
            "(legal: as many in every token and layer)"
        )
    slot = columns["slot"]
    bad = (slot < 0) | (slot >= k)
    order = (token * len(numbers) + layer) * k + np.where(bad, 0, slot)
    if not bad.any():
        bad = np.bincount(order)[order] > 1
    if bad.any():
        row = int(bad.argmax())
        where = f"token {columns['token'][row]}, layer {columns['layer'][row]}"
        raise InputError(f"{where}: slot {slot[row]} (legal: 0 to {k - 1}, each once)")

    def laid(values: NDArray[Any]) -> NDArray[Any]:
        out = np.empty_like(values)
        out[order] = values
        return out.reshape(len(names), len(numbers), k)

    count = int(columns["expert"].max()) + 1
    if "num_experts" in frame.columns:
        said = np.unique(_integers(frame, "num_experts"))
        if len(said) > 1:
            raise InputError(f"num_experts: {said[0]} and {said[1]} (legal: one number in all rows)")
        count = int(said[0])
    return {
        "experts": laid(columns["expert"]),
        "count": count,
        "gates": laid(frame["gate"].to_numpy()) if "gate" in frame.columns else None,
        "layer_numbers": None if numbers[0] < 0 or numbers[-1] == len(numbers) - 1 else numbers,
    }


def _integers(frame: pd.DataFrame, name: str) -> NDArray[np.int64]:
    values = frame[name].to_numpy()
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"column {name}: values of type {values.dtype} (legal: whole numbers)")
    return values.astype(np.int64)


def _source(frame: pd.DataFrame) -> str:
    first = frame["source"].iloc[0] if "source" in frame.columns else ""
    return first if isinstance(first, str) else ""


def _write_parquet(trace: RoutingTrace, file: Path) -> None:
    import pandas as pd

    layers = np.arange(trace.layers) if trace.layer_numbers is None else np.array(trace.layer_numbers)
    shape = trace.experts.shape
    token, layer, slot = (np.broadcast_to(part, shape).ravel() for part in (
        np.arange(trace.tokens)[:, None, None], layers[None, :, None], np.arange(trace.k),
    ))  # fmt: skip
    columns: dict[str, Any] = {"token": token, "layer": layer, "slot": slot, "expert": trace.experts.ravel()}
    if trace.gates is not None:
        columns["gate"] = trace.gates.ravel()
    frame = pd.DataFrame({**columns, "num_experts": trace.count, "source": trace.source})
    try:
        frame.to_parquet(file, index=False)
    except ImportError:
        raise InputError(f"{file}: no Parquet writer is installed (legal: .npz, or pip install pyarrow)") from None


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
