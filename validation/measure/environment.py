"""The machine that is measured: what tells it from others, and its datasheet as a `Device`.

A GPU's datasheet is a preset. A processor's is made from what the system says of it: peaks are threads times clock
times what its vector or matrix instructions do in a clock, or the fastest product seen where that is more (a clock
above the one stated) or where a format has no instructions of its own.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...hardware import Device, load_device
from ...hardware.errors import InputError

# FLOP of a core in a clock: two fused multiply-adds of a vector; a tile instruction of AMX takes 16 clocks (Intel's
# and AMD's optimisation guides). The first whose flags are all there counts.
PER_CLOCK: Mapping[str, tuple[tuple[tuple[str, ...], float], ...]] = {
    "fp32": ((("avx512f",), 64.0), (("avx2", "fma"), 32.0), (("avx",), 16.0), (("asimd",), 16.0), ((), 8.0)),
    "bf16": ((("amx_bf16",), 2048.0), (("avx512_bf16",), 128.0)),
    "fp16": ((("amx_fp16",), 2048.0), (("avx512_fp16",), 128.0)),
    "int8": ((("amx_int8",), 4096.0), (("avx512_vnni",), 256.0), (("avx_vnni",), 128.0)),
}
CACHE, CLOCK = 32e6, 2e9  # where the system does not say (assumed)
UNITS = 0.05  # share of the compute units by which a GPU may differ from its preset: parts are sold with some disabled
SAME = ("device", "name", "cores", "threads", "torch")
"""What has to be the same for measurements to go on."""
# What drivers call parts, by the name of a preset; the first that fits. Parts of a name with fewer units are others,
# as slices of a GPU are; so are Grace Hoppers with HBM3 and pairs of H100 (NVL), whose memory no preset has.
GPUS = (
    (r"GB300", "gb300"), (r"GB200", "gb200"), (r"B300", "b300"), (r"B200", "b200"),
    (r"GH200 144", "gh200"), (r"\bH200", "h200-sxm"), (r"H20\b", "h20-sxm"), (r"H800", "h800-sxm"),
    (r"H100.*(96|64)", "h100-96-sxm"), (r"H100 PCIe", "h100-pcie"), (r"H100(?! NVL)", "h100-sxm"),
    (r"A100 80GB PCIe", "a100-80-pcie"), (r"A100.*80", "a100-80-sxm"), (r"A100", "a100-40-sxm"),
    (r"V100", "v100-sxm"), (r"RTX PRO 6000", "rtx-pro-6000"), (r"L40S", "l40s"), (r"L20\b", "l20"),
    (r"A10\b", "a10"), (r"A40\b", "a40"), (r"MI355X", "mi355x"), (r"MI350X", "mi350x"), (r"MI325X", "mi325x"),
    (r"MI300X", "mi300x"), (r"MI250X", "mi250x"), (r"MI210", "mi210"),
)  # fmt: skip


def environment(device: str, threads: int) -> dict[str, Any]:
    """What was measured, by what, and when.

    Parameters
    ----------
    device : str
        cpu | cuda.
    threads : int
        Of torch on a processor.
    """
    import torch

    found: dict[str, Any] = {
        "device": device,
        "name": processor()["name"],
        "cores": cores(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if device == "cuda":
        part = torch.cuda.get_device_properties(0)
        found |= {
            "name": part.name,
            "units": part.multi_processor_count,
            "memory": part.total_memory,
            "cuda": torch.version.cuda or torch.version.hip,
            "driver": _driver(str(getattr(part, "uuid", ""))),
        }
    else:
        found["clock"] = "thread" if threads == 1 else "wall"
    return found


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> dict[str, Any]:
    """Name, instruction sets, clock [Hz] and last-level cache [B] of the processor, as far as the system says."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    except OSError:
        pass  # no Linux
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    folder = Path("/sys/devices/system/cpu/cpu0")
    kilohertz = _number(folder / "cpufreq/cpuinfo_max_freq")
    megahertz = float(fields.get("cpu MHz") or 0)
    caches = [_number(path) for path in (folder / "cache").glob("index*/size")]
    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "flags": frozenset(flags),
        "clock": 1e3 * kilohertz or 1e6 * megahertz or CLOCK,
        "cache": 1024 * max(caches, default=0.0) or CACHE,
        "known": bool(kilohertz or megahertz),
    }


def host_device(threads: int, fastest: Mapping[str, float], bandwidth: float, launch: float) -> Device:
    """Datasheet of this processor.

    Parameters
    ----------
    threads : int
    fastest : mapping of str to float
        Rate of the fastest square product seen, by number format [FLOP/s]; formats that it lacks are left out.
    bandwidth : float
        Of a copy, both ways counted [B/s].
    launch : float
        Time of the smallest kernel [s].
    """
    part = processor()
    peaks, sources = {}, {}
    for dtype, seen in fastest.items():
        stated = next((rate for flags, rate in PER_CLOCK.get(dtype, ()) if part["flags"].issuperset(flags)), 0.0)
        peak = threads * part["clock"] * stated
        peaks[dtype] = max(peak, seen)
        sources[dtype] = (
            f"{threads} threads at {part['clock'] / 1e9:.4g} GHz, {stated:g} FLOP in a clock"
            if peak >= seen
            else "fastest square product measured"
        )
    clock = "the system's" if part["known"] else "assumed"
    return load_device(
        {
            "name": device_name(part["name"], threads),
            "peak_flops": {dtype: {"value": v, "source": sources[dtype]} for dtype, v in peaks.items()},
            "compute_units": {"value": threads, "source": "threads"},
            "clock": {"value": part["clock"], "source": f"{clock} statement"},
            "memory_bandwidth": {"value": bandwidth, "source": "measured: a copy, reads and writes counted"},
            "memory_capacity": {"value": memory(), "source": "the system's statement"},
            "cache_capacity": {"value": part["cache"], "source": "largest cache the system states"},
            "dma_engines": {"value": 0, "source": "none"},
            "launch_overhead": {"value": launch, "source": "measured: smallest kernel"},
            "host_overhead": {"value": launch, "source": "measured: smallest kernel"},
            "gemm_tile": {"value": [8, 16], "source": "assumed: a block of registers"},
            "gemm_efficiency": {"value": 1.0, "source": "none: a datasheet alone"},
            "memory_efficiency": {"value": 1.0, "source": "none: a datasheet alone"},
        }
    )


def cuda_device(preset: str | None = None) -> Device | None:
    """Preset of the first GPU that is visible, or one that is named; None where no preset is known for it.

    Raises
    ------
    InputError
        Where no GPU is there, and for a preset that is not.
    """
    import torch

    if not torch.cuda.is_available():
        raise InputError("--device: cuda, but torch sees no GPU (legal: cpu here)")
    if preset is not None:
        return load_device(preset, "--preset")
    part = torch.cuda.get_device_properties(0)
    known = next((found for pattern, found in GPUS if re.search(pattern, part.name)), None)
    device = None if known is None else load_device(known)
    if device is None or abs(part.multi_processor_count / device.compute_units - 1) > UNITS:
        return None
    return device


def gpu_device(fastest: Mapping[str, float], bandwidth: float, launch: Mapping[str, float]) -> Device:
    """Datasheet of a GPU without a preset: what the driver says of it, and what was measured.

    Parameters
    ----------
    fastest : mapping of str to float
        Rate of the fastest square product seen, by number format [FLOP/s].
    bandwidth : float
        Of a copy, both ways counted [B/s].
    launch : mapping of str to float
        Time of the smallest kernel on the device, and for the host to issue [s].
    """
    import torch

    part = torch.cuda.get_device_properties(0)
    # Kilohertz; memory moves two words in a clock. Not every release of torch has them.
    clock = 1e3 * getattr(part, "clock_rate", 0)
    stated = 2e3 * getattr(part, "memory_clock_rate", 0) * getattr(part, "memory_bus_width", 0) / 8
    peak = "fastest square product measured"
    moved = "the driver's: clock and width" if stated >= bandwidth else "measured: a copy, reads and writes counted"
    return load_device(
        {
            "name": re.sub(r"[^a-z0-9]+", "-", part.name.lower()).strip("-"),
            "peak_flops": {dtype: {"value": rate, "source": peak} for dtype, rate in fastest.items()},
            "compute_units": {"value": part.multi_processor_count, "source": "the driver's statement"},
            "clock": {"value": clock or CLOCK, "source": "the driver's statement" if clock else "assumed"},
            "memory_bandwidth": {"value": max(stated, bandwidth), "source": moved},
            "memory_capacity": {"value": part.total_memory, "source": "the driver's statement"},
            "cache_capacity": {"value": part.L2_cache_size or CACHE, "source": "the driver's statement"},
            "dma_engines": {"value": 2, "source": "assumed"},
            "launch_overhead": {"value": launch["device"], "source": "measured: smallest kernel"},
            "host_overhead": {"value": launch["host"], "source": "measured: smallest kernel"},
            "gemm_tile": {"value": [256, 128], "source": "assumed: largest of CUTLASS"},
            "gemm_efficiency": {"value": 1.0, "source": "none: a datasheet alone"},
            "memory_efficiency": {"value": 1.0, "source": "none: a datasheet alone"},
        }
    )


def memory() -> float:
    """Memory of the machine [B]."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return 16e9  # assumed


def device_name(part: str, threads: int) -> str:
    """Name of a processor's device: letters, digits and dashes."""
    return f"{re.sub(r'[^a-z0-9]+', '-', part.lower()).strip('-')}-{threads}t"


def differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of two environments forbids that their measurements stand together."""
    return [f"{key} {other.get(key)!r}, here {mine[key]!r}" for key in SAME if other.get(key) != mine[key]]


def _number(path: Path) -> float:
    """Number in a file of the system, 0 where there is none."""
    try:
        return float(path.read_text(encoding="utf-8").strip().removesuffix("K"))
    except (OSError, ValueError):
        return 0.0


def _driver(uuid: str) -> str:
    """Version of the driver of a GPU, and the power and clock it may take at most; its number is not torch's."""
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    query += [f"--id=GPU-{uuid}"] if uuid else []
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        found = ""
    return found.strip() or "unknown"
