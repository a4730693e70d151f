"""Fitted kernels of a device as one value: predicts times, moves to another device, reads and writes JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware import Device, device_names, load_device
from ...hardware.errors import InputError
from .attention import DecodeEstimator, PrefillEstimator
from .base import KernelEstimator
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
MEASURED = Path(__file__).parents[2] / "hardware" / "measured"
"""Folder of the shipped profiles."""


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
        """The same shares on another device's datasheet; latencies stay, and the scores, of another device, go."""
        other = load_device(device)
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
            for kind in sorted(set(kernels) - set(ESTIMATORS)):
                raise InputError(f"kernels.{kind}: unknown (legal: {', '.join(ESTIMATORS)})")
            made = {}
            for kind, kernel in kernels.items():
                form = kernel.get("form", KernelEstimator.form)
                if form not in FORMS:
                    raise InputError(f"kernels.{kind}.form: {form!r} (legal: {', '.join(FORMS)})")
                made[kind] = FORMS[form][kind].from_dict(kernel, device)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where}: {type(error).__name__} {error} (legal: what KernelProfile.save writes)"
            ) from None
        scores = {kind: kernel.get("cross_validation", {}) for kind, kernel in kernels.items()}
        return cls(device, made, scores, dict(data.get("source", {})))

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
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")), str(path))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: {why} (legal: a JSON file that KernelProfile.save wrote)") from None
