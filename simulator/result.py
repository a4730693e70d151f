"""What comes out of a prediction: times, bytes, footprint, and the trace behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .trace import Trace


@dataclass(frozen=True)
class Result:
    """Prediction for one scenario. SI units; per device unless the name says otherwise.

    Attributes
    ----------
    technique : str
    time_s : float
        Step time; the whole run for `generate`.
    tokens_per_second, tokens_per_second_per_device : float
        Tokens trained on, prefilled, or generated, over the cluster and per used device.
    model_flops_per_device : float
        FLOPs the model asks for, without recomputation, causal attention halved.
    mfu : float
        `model_flops_per_device` per second over the device's dense peak of that dtype. Published
        tables count differently (full attention, recomputation), by up to 1.4 times.
    compute_s, communication_s : float
        Time in which compute or communication tasks run on the busiest rank.
    exposed_communication_s : float
        Time in which communication runs and compute does not.
    communication_bytes : dict
        Bytes a device sends, by kind of collective.
    memory_traffic_bytes : float
        Device-memory reads and writes.
    memory_bytes : dict
        Footprint: weights, gradients, optimizer, activations, kv_cache, workspace, total.
    fits : bool
        Whether the footprint is within the device's memory.
    bound : dict
        What the critical path waits on, as shares of the time.
    interval_s : tuple or None
        90 % interval of `time_s`; None where nothing was calibrated.
    warnings : tuple of str
    traces : dict
        Trace of each simulated program by phase; empty for estimates.
    repeats : dict
        How often each phase is repeated in `time_s`.
    """

    technique: str
    time_s: float
    tokens_per_second: float
    tokens_per_second_per_device: float
    model_flops_per_device: float
    mfu: float
    compute_s: float
    communication_s: float
    exposed_communication_s: float
    communication_bytes: Mapping[str, float]
    memory_traffic_bytes: float
    memory_bytes: Mapping[str, float]
    fits: bool
    bound: Mapping[str, float]
    interval_s: tuple[float, float] | None
    warnings: tuple[str, ...]
    traces: Mapping[str, Trace] = field(default_factory=dict, repr=False, compare=False)
    repeats: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, without traces."""
        found: dict[str, Any] = {}
        for item in fields(self):
            if item.name in ("traces", "repeats"):
                continue
            value = getattr(self, item.name)
            if isinstance(value, Mapping):
                value = dict(value)
            elif isinstance(value, tuple):
                value = list(value)
            found[item.name] = value
        return found

    def trace(self, phase: str | None = None) -> Trace:
        """Trace of one phase; default the last (decode of a generate run)."""
        if not self.traces:
            raise ValueError("an estimate has no trace: use simulate")
        return self.traces[phase or list(self.traces)[-1]]

    @property
    def tasks(self) -> pd.DataFrame:
        """One row per simulated task of every phase, with its start and end [s]."""
        import pandas as pd

        frames = [self.trace(phase).frame().assign(phase=phase) for phase in self.traces]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def timeline(self, ax: Any = None, phase: str | None = None, **options: Any) -> Any:
        """Matplotlib timeline of one phase, one row per rank and stream.

        Options, such as ``window=(start, end)`` in seconds, go to `commlens.simulator.timeline.plot`.
        """
        from .timeline import plot

        return plot(self.trace(phase), ax, **options)

    def to_perfetto(self, path: Any, phase: str | None = None) -> None:
        """Chrome trace JSON (gzipped if the path ends in .gz) for ui.perfetto.dev."""
        from .perfetto import write

        write(self.trace(phase), path)

    def summary(self) -> str:
        """A few lines for people."""
        from ..hardware.units import format_number, format_size, format_time

        rows = [
            ("technique", self.technique),
            (
                "time",
                format_time(self.time_s)
                + (
                    ""
                    if self.interval_s is None
                    else f"  (90 %: {format_time(self.interval_s[0])} to {format_time(self.interval_s[1])})"
                ),
            ),
            (
                "throughput",
                f"{format_number(self.tokens_per_second)} tokens/s, "
                f"{format_number(self.tokens_per_second_per_device)} per device",
            ),
            ("mfu", f"{self.mfu:.1%}"),
            (
                "compute / communication",
                f"{format_time(self.compute_s)} / {format_time(self.communication_s)}",
            ),
            (
                "exposed communication",
                f"{format_time(self.exposed_communication_s)}"
                f" ({self.exposed_communication_s / self.time_s:.1%} of the time)",
            ),
            (
                "sent per device",
                ", ".join(f"{k} {format_size(v)}" for k, v in self.communication_bytes.items()) or "none",
            ),
            ("memory traffic", format_size(self.memory_traffic_bytes)),
            (
                "footprint",
                f"{format_size(self.memory_bytes['total'])} ({'fits' if self.fits else 'does NOT fit'})",
            ),
            ("bound by", ", ".join(f"{k} {v:.0%}" for k, v in self.bound.items() if v >= 0.005)),
            *(("warning", text) for text in self.warnings),
        ]
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)
