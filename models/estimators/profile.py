"""Fitted kernels of a device as one value: predicts times, moves to another device, reads and writes JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware import Device, device_names, load_device
from ...hardware.errors import InputError
from ...hardware.files import read_text
from ...hardware.library import PROFILE
from .attention import DecodeEstimator, PrefillEstimator
from .base import KernelEstimator, number
from .collectives import CollectiveEstimator
from .copies import CopyEstimator
from .gemm import GemmEstimator
from .grouped import GroupedGemmEstimator
from .host import (
    HostDecodeEstimator,
    HostGemmEstimator,
    HostGroupedGemmEstimator,
    HostPrefillEstimator,
    HostStreamingEstimator,
)
from .streaming import StreamingEstimator

ESTIMATORS: Mapping[str, type[KernelEstimator]] = {
    made.kind: made
    for made in (
        GemmEstimator,
        GroupedGemmEstimator,
        PrefillEstimator,
        DecodeEstimator,
        StreamingEstimator,
        CopyEstimator,
        CollectiveEstimator,
    )
}
HOST_ESTIMATORS: Mapping[str, type[KernelEstimator]] = {
    **ESTIMATORS,
    **{
        made.kind: made
        for made in (
            HostGemmEstimator,
            HostGroupedGemmEstimator,
            HostPrefillEstimator,
            HostDecodeEstimator,
            HostStreamingEstimator,
        )
    },
}
"""The same kinds on a processor."""
FORMS = {"device": ESTIMATORS, "host": HOST_ESTIMATORS}
OPERATIONS = (StreamingEstimator.kind, CopyEstimator.kind, CollectiveEstimator.kind)  # kinds of several operations
FORMAT = 1
WIDEST = 10.0  # spread of errors, in the logarithm
MEASURED = Path(__file__).parents[2] / "hardware" / "measured"
"""Folder of the shipped profiles."""


def written(path: str) -> int:
    """When a profile was written [ns], for what is kept of it to end with the next one; 0 of a shipped one."""
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True)
class KernelProfile:
    """Fitted estimators of a device's kernels.

    Parameters
    ----------
    device : Device
        Whose datasheet the shares are taken of.
    estimators : mapping of str to KernelEstimator
        Fitted, by kind.
    scores : mapping of str to mapping
        Errors in cross-validation, by kind (`Score.to_dict`).
    source : mapping
        Where the measurements come from.
    """

    device: Device
    estimators: Mapping[str, KernelEstimator]
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, kind: str, **shape: Any) -> float | NDArray[np.float64]:
        """Time of a kernel [s]; an array where any column is one.

        Parameters
        ----------
        kind : str
            One of `estimators`.
        **shape
            Columns of that estimator, and where they apply `dtype`, `operation` and `tool`.

        Raises
        ------
        InputError
            For a kind that was not fitted, a column that the kind does not have, lacks, or that is out of range.
        """
        if kind not in self.estimators:
            raise InputError(f"kind: {kind!r} has no fit on {self.device.name} (legal: {', '.join(self.estimators)})")
        estimator = self.estimators[kind]
        legal = (*estimator.columns, "dtype", "tool", *(["operation"] if kind in OPERATIONS else []))
        for name in sorted(set(shape) - set(legal)):
            raise InputError(f"{kind}.{name}: unknown (legal: {', '.join(legal)})")
        times = estimator.predict(shape)
        return times if any(np.ndim(value) for value in shape.values()) else float(times[0])

    def for_device(self, device: Device | str) -> KernelProfile:
        """The same shares on another device's datasheet; latencies stay, and the scores, of another device, go.

        Raises
        ------
        InputError
            For kernels of a processor on a GPU, and the other way round: they are of other forms.
        """
        other = load_device(device)
        form = "device" if other.dma_engines else "host"  # every GPU has engines that copy
        if any(type(estimator) is not FORMS[form][kind] for kind, estimator in self.estimators.items()):
            parts = ("a GPU", "a processor") if form == "host" else ("a processor", "a GPU")
            raise InputError(
                f"{other.name}: kernels of {self.device.name}, {parts[0]} (legal: those of {parts[1]}, as it is one)"
            )
        moved = {kind: estimator.for_device(other) for kind, estimator in self.estimators.items()}
        return replace(self, device=other, estimators=moved, scores={})

    def to_dict(self) -> dict[str, Any]:
        """The profile as JSON holds it: numbers fitted, errors and sources, and no measured row."""
        kernels = {
            kind: {**estimator.to_dict(), "cross_validation": dict(self.scores.get(kind, {}))}
            for kind, estimator in self.estimators.items()
        }
        return {"format": FORMAT, "device": self._device(), "source": dict(self.source), "kernels": kernels}

    def _device(self) -> str | dict[str, Any]:
        """The device's name where it is a shipped one, else its numbers and where they come from."""
        name = self.device.name
        if name in device_names() and load_device(name) == self.device:
            return name
        data = {key: value for key, value in asdict(self.device).items() if value is not None and key != "sources"}
        data["gemm_tile"] = list(self.device.gemm_tile)
        sources = self.device.sources
        return {key: {"value": v, "source": sources[key]} if key in sources else v for key, v in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "profile") -> KernelProfile:
        """The profile that `to_dict` wrote.

        Raises
        ------
        InputError
            One line naming place, key and what is legal.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise InputError(f"{where}: not a profile of kernels (legal: a mapping with format {FORMAT})")
        try:
            device, kernels = load_device(data["device"]), dict(data["kernels"])
            source = dict(data.get("source", {}))
            if not kernels:
                raise InputError(f"kernels: none (legal: {', '.join(ESTIMATORS)})")
            for kind in sorted(set(kernels) - set(ESTIMATORS)):
                raise InputError(f"kernels.{kind}: unknown (legal: {', '.join(ESTIMATORS)})")
            made = {}
            for kind, kernel in kernels.items():
                form = kernel.get("form", KernelEstimator.form)
                if form not in FORMS:
                    raise InputError(f"kernels.{kind}.form: {form!r} (legal: {', '.join(FORMS)})")
                made[kind] = FORMS[form][kind].from_dict(kernel, device)
            scores = {kind: _score(kind, kernel.get("cross_validation")) for kind, kernel in kernels.items()}
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where}: {type(error).__name__} {error} (legal: what KernelProfile.save writes)"
            ) from None
        return cls(device, made, scores, source)

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> KernelProfile:
        """Read a profile; a shipped one by its name (kernels-h100, kernels-a100).

        Raises
        ------
        InputError
            For a file that is not there or holds no profile.
        """
        file = Path(path)
        if not file.suffix:
            shipped = sorted(found.stem for found in MEASURED.glob("kernels-*.json"))
            if str(path) not in shipped:
                raise InputError(f"profile: {str(path)!r} (legal: a JSON file, {', '.join(shipped)})")
            file = MEASURED / f"{path}.json"
        try:
            data = json.loads(read_text(file, PROFILE))
        except InputError as error:
            raise InputError(f"{error} (legal: a JSON file that KernelProfile.save wrote)") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: {error} (legal: a JSON file that KernelProfile.save wrote)") from None
        return cls.from_dict(data, str(path))


def _score(kind: str, score: Any) -> Mapping[str, Any]:
    """Errors in cross-validation, checked as far as intervals are drawn from them; none where there are none."""
    if not score:
        return {}
    where = f"kernels.{kind}.cross_validation"
    if not isinstance(score, Mapping):
        raise InputError(f"{where}: {score!r:.60} (legal: a mapping)")
    for name in ("mean", "spread", "elsewhere"):
        if name in score:
            number(f"{where}.{name}", score[name], 0.0, np.inf if name == "mean" else WIDEST)
    if "spread" not in score:
        number(f"{where}.mean", score.get("mean"), 0.0, WIDEST)  # stands for it
    return dict(score)
