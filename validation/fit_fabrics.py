"""Fits the shipped profiles of collectives, one per fabric family, to published nccl-tests runs.

``COMMLENS_MEASURED=<folder> python -m commlens.validation.fit_fabrics [--write]`` prints each profile's
error on the rows it was fitted to and on those left out; ``--write`` replaces the preset files.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np

from ..hardware import Profile, load_cluster
from ..hardware.sources import PRESETS
from .claims import MEASURED, read_measured
from .collectives import OPS, TORCH_CALL, by_torch, doubt, is_calibration, nodes_of, predicted
from .fit_profile import errors, fit
from .profile_file import profile_text
from .sizes import SIZE_CLASSES, mean_errors, size_class

# Bandwidth NCCL counts on per NVLink (src/graph/topo.h: SM80, SM90 and SM100 links), over the nominal
# 25, 25 and 50 GB/s. PCIe has no such number that its host keeps to, so there it is fitted.
RING = {"nvlink3": 20.0 / 25.0, "nvlink4": 20.6 / 25.0, "nvlink5": 40.1 / 50.0}
FAMILIES = {
    "nvlink3": ("A100-SXM", "dgx-a100"),
    "nvlink4": ("H100-SXM", "dgx-h100"),
    "nvlink5": ("B200-SXM", "hgx-b200"),
    "pcie4": ("L40S", "l40s-pcie"),
}
LIBRARY = {"nvlink3": "NCCL 2.27.3", "nvlink4": "NCCL 2.29.2", "nvlink5": "NCCL 2.29.2", "pcie4": "NCCL 2.27.3"}


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of the table as the fit wants it."""

    kind: str
    ranks: int
    size: float
    time: float
    seen: bool


def samples(gpu: str) -> list[Measured]:
    """Clean rows of a device inside a node, less what torch adds to a call."""
    table = read_measured("collectives_measured")
    if table is None:
        raise SystemExit(f"set {MEASURED} to the folder with collectives_measured.csv")
    return [
        Measured(
            OPS.get(row["op"], row["op"]),
            int(row["n_gpus"]),
            float(row["size_bytes"]),
            1e-6 * float(row["time_us"]) - (TORCH_CALL if by_torch(row) else 0.0),
            is_calibration(row),
        )
        for row in table
        if row["gpu"] == gpu
        and nodes_of(row) == 1
        and not doubt(row)
        and (by_torch(row) or "aiconfigurator" in row["source"])
    ]


def text(profile: Profile, family: str, count: int) -> str:
    """The preset file of a profile."""
    large, small = (profile.error[name] for name in SIZE_CLASSES)
    source = (
        f"fitted by commlens.validation.fit_fabrics to {count} nccl-tests rows ({LIBRARY[family]}, aiconfigurator "
        f"tables); held-out mean error {large:.1%} from 1 MiB, {small:.1%} below"
    )
    wire = "NVIDIA NVLink, nominal, per direction" if family in RING else "PCI Express 4.0 x16, per direction"
    table = "; efficiency: bandwidth NCCL counts on per link (src/graph/topo.h) over nominal"
    notes = {"bulk": table} if family in RING else {}
    return profile_text(profile, f"What NCCL makes of {family}.", source, wire, notes)


def torch_call() -> float:
    """Median of what rows timed through torch take beyond the prediction, below 2 MiB inside a node [s]."""
    rows = [
        row
        for row in read_measured("collectives_measured") or ()
        if by_torch(row) and nodes_of(row) == 1 and float(row["size_bytes"]) < 2**21
    ]
    found = [(row, predicted(row)) for row in rows]
    return float(np.median([1e-6 * float(row["time_us"]) - (p[0] - TORCH_CALL) for row, p in found if p is not None]))


def adapter_latency() -> float:
    """One latency of EFA adapters that predicts its calibration rows best [s]."""
    from scipy.optimize import minimize_scalar

    rows = [row for row in read_measured("collectives_measured") or () if nodes_of(row) > 1 and is_calibration(row)]
    seconds = np.array([1e-6 * float(row["time_us"]) for row in rows])

    def misfit(microseconds: float) -> float:
        hop = f"{microseconds} us"
        nic = {"preset": "efa400", "latency": hop, "bulk_latency": hop}
        found = [predicted(row, {"nic": nic}) for row in rows]
        times = np.array([pair[0] for pair in found if pair is not None])
        return float(np.abs(np.log(times / seconds)).sum())

    return 1e-6 * float(minimize_scalar(misfit, bounds=(5.0, 150.0), method="bounded").x)


def main() -> None:
    """Fit every family; write the presets when asked to."""
    for family, (gpu, preset) in FAMILIES.items():
        rows, cluster = samples(gpu), load_cluster(preset)
        seen = [row for row in rows if row.seen]
        fixed = {"bulk.efficiency": RING[family]} if family in RING else {}
        found = fit(seen, cluster, fixed, family)
        parts = {"fitted to": seen, "left out": [row for row in rows if not row.seen]}
        means = {
            said: mean_errors([row.size for row in part], errors(found.profile, cluster, part))
            for said, part in parts.items()
        }
        for name in SIZE_CLASSES:
            for said, part in parts.items():
                count = sum(size_class(row.size) == name for row in part)
                print(f"{family}, {name}, {said}: {count} rows, {means[said][name]:.1%}")
        print(f"  {len(found.free)} numbers fitted: {found.profile}")
        if "--write" in sys.argv:
            path = PRESETS / "profiles" / f"{family}.yaml"
            path.write_text(text(replace(found.profile, error=means["left out"]), family, len(seen)), encoding="utf-8")
    print(f"efa400: latency {1e6 * adapter_latency():.0f} us")
    print(
        f"torch adds {1e6 * torch_call():.1f} us to a call by the shipped profiles (TORCH_CALL: {1e6 * TORCH_CALL:.0f})"
    )


if __name__ == "__main__":
    main()
