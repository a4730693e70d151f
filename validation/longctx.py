"""Measured attention over divided sequences, alone, against predictions: which scheme wins, and how long it takes.

Tables: Ulysses x ring grids of long-context-attention (yunchang) on eight A100 over NVLink, four over PCIe and eight
L20 over PCIe, and the rings of ring-flash-attention on eight A100. Single runs of attention alone, driven from
Python. Each device and fabric has one calibration (`fit_longctx`, on every third row): the share of its matrix rate
the attention kernel reaches, what its host takes to launch anything, and what messages make of the wires. The
exponentials of softmax are counted beside the products (FlashAttention-2 does one after the other), at what the
special-function units of a device do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from zlib import crc32

import yaml

from ..hardware import Cluster, load_cluster, load_device
from ..models.attention import whole
from ..models.blocks import Attend
from ..models.clock import Clock
from ..models.groups import process_groups
from ..models.kernels import EXPONENTIALS, Kernels
from ..models.plan import Plan
from ..models.software import load_software
from ..models.techniques import parse_technique
from .claims import MEASURED, Row, read_measured

FAMILY, TECHNIQUE, TABLE = "sequence_parallel", "long context", "longctx_attention"
FITTED = Path(__file__).parent / "longctx_fitted.yaml"
PRESETS = {"NVLink": "dgx-a100", "A100 PCIe": "pcie-8", "L20 PCIe": "pcie-8"}
# Width of a head in the grids of 32 heads, whose table says 32 (read off an image of a console). Eight heads 32 wide
# run at the rate of this attention kernel; as wide, 32 heads would run at half of it or less wherever no message can
# be to blame, and 128 wide (4096 together, as LLaMA-7B) they run at the rate that ring-flash-attention's do. Inferred.
WIDER = 128.0
WITHIN = 0.15
# Of 16 pairs of runs with equal work (a grid without a ring, listed for both layouts of one) 4 differ by more.
NOISE = 0.08
VARLEN = "the lengths of its packed sequences are not published"
LAYOUTS = {
    "basic": "contiguous",
    "ring": "contiguous",
    "zigzag": "zigzag",
    "zigzag ring": "zigzag",
    "stripe": "striped",
}


@dataclass(frozen=True)
class Fitted:
    """What is fitted for one device and fabric.

    Parameters
    ----------
    flash : float
        Share of the device's dense rate that the products of attention reach.
    host : float
        Seconds the host takes to launch a kernel or a message; all together are the least a pass can take.
    ring, exchange : float
        Share of the link's bandwidth that neighbours' messages, and all-to-alls between two, reach.
    peers : float
        All-to-alls among n reach (2 / n) to this power of it.
    """

    flash: float
    host: float
    ring: float
    exchange: float
    peers: float


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    fabric: str
    device: str
    ranks: int
    core: Attend
    technique: Mapping[str, object] | None
    backward: bool
    time: float
    source: str
    group: tuple[str, ...]
    reason: str = ""
    note: str = ""


def cases() -> Iterator[Case]:
    """Every row of the table.

    Raises
    ------
    LookupError
        Where it is not.
    """
    table = read_measured(TABLE)
    if table is None:
        raise LookupError(f"{TABLE}.csv: set {MEASURED} to the folder that holds it")
    for row in table:
        yield case(row)


def case(row: Mapping[str, str]) -> Case:
    """A row as a case; a grid is Ulysses' ranks times the ring's."""
    ranks, tokens = int(row["n_gpus"]), int(row["seq_len_global"])
    device = next((name for key, name in DEVICES.items() if row["gpu"].startswith(key)), "")
    pcie = "PCIe" in row["fabric"]
    fabric = f"{row['gpu'].split('-')[0].split()[0]} PCIe" if pcie else "NVLink"
    if not pcie and device != "a100-80-sxm":
        fabric = f"{row['gpu']} NVLink"
    variant, degree = row["ring_variant"], int(row["ulysses_degree"])
    width, note = float(row["head_dim"]), ""
    if row["impl"].startswith("yunchang") and (row["heads"], row["head_dim"]) == ("32", "32"):
        width, note = WIDER, f", heads taken {WIDER:g} wide (table: {row['head_dim']})"
    core = Attend(
        float(row["batch"]),
        tokens / ranks,
        float(tokens),
        float(row["heads"]),
        float(row["kv_heads"]),
        width,
        width,
        causal=row["causal"] == "yes",
    )
    packed = "yes" if row["packing"] == "qkvpacked" else "no"
    usp: dict[str, object] = {"name": "usp", "degree": degree, "packed": packed}
    technique: dict[str, object] | None = usp
    if variant.startswith("ideal"):
        technique = None
    elif "all-gather" in variant:
        technique = {"name": "gathered_kv"}
    elif variant in LAYOUTS:
        usp["layout"] = LAYOUTS[variant]
    # What is compared: grids of one layout, or the variants of a ring.
    shape = (
        row["gpu"],
        row["fabric"],
        *(row[key] for key in ("n_gpus", "batch", "seq_len_global", "heads", "kv_heads")),
    )
    asked = row["ring_variant"] if row["impl"].startswith("yunchang") else row["impl"]
    return Case(
        row["row_id"],
        fabric,
        device,
        ranks,
        core,
        technique,
        "bwd" in row["pass"],
        float(row["time_ms"] or "nan") * 1e-3,
        row["source"],
        (*shape, row["packing"], row["pass"], asked),
        VARLEN if "varlen" in row["impl"] else "" if device else f"no preset of {row['gpu']}",
        note,
    )


DEVICES = {"A100": "a100-80-sxm", "L20": "l20", "H100": "h100-sxm", "H800": "h800-sxm", "H20": "h20-sxm"}


# FlashAttention-2 reaches 35 % of a Hopper device (arXiv 2407.08608); of its products alone, exponentials apart:
HOPPER = 0.43


def numbers_of(item: Case) -> Fitted | None:
    """The calibration of a row's fabric; of other NVLink machines that of the A100's, attention as published."""
    known = fitted()
    if item.fabric in known or "NVLink" not in item.fabric:
        return known.get(item.fabric)
    return replace(known["NVLink"], flash=HOPPER)


@cache
def fitted() -> dict[str, Fitted]:
    """The shipped calibrations, by fabric."""
    found = yaml.safe_load(FITTED.read_text(encoding="utf-8"))
    return {name: Fitted(**values["fitted"]) for name, values in found.items()}


@cache
def cluster(fabric: str, device: str, ranks: int, degree: int, numbers: Fitted) -> Cluster:
    """The machine of a row, its messages at the fitted rates."""
    preset = PRESETS.get(fabric, "dgx-h100")
    found = load_cluster({"preset": preset, "device": device, "devices_per_node": ranks, "nodes": 1})
    given = found.link.profile
    low, bulk = (replace(one, efficiency=numbers.ring) for one in (given.low, given.bulk))
    rate = numbers.exchange * (2 / max(degree, 2)) ** numbers.peers
    short, long = (replace(one, efficiency=rate) for one in (given.exchange_low, given.exchange_bulk))
    profile = replace(given, low=low, bulk=bulk, exchange_low=short, exchange_bulk=long)
    return found.replace(link=replace(found.link, profile=profile), fabric="switch")


def predicted(item: Case, numbers: Fitted) -> float:
    """Seconds of a row.

    Parameters
    ----------
    item : Case
    numbers : Fitted
        Of its fabric.
    """
    degree = int(str((item.technique or {}).get("degree", 1)))
    machine = cluster(item.fabric, item.device, item.ranks, degree, numbers)
    device = machine.device
    products = 4 * item.core.head_dim / numbers.flash  # of a score, and its exponential, in FLOP at the dense rate
    exponential = device.flops("bf16") / (EXPONENTIALS * device.compute_units * device.clock)
    share = 4 * item.core.head_dim / (products + exponential) / device.gemm_efficiency
    software = replace(
        load_software("ideal"),
        flash_efficiency={device.name: share},
    )
    kernels = Kernels(device, software, "bf16")
    total = 0.0
    for direction in ("forward", "backward") if item.backward else ("forward",):
        core = replace(item.core, direction=direction)
        clock = Clock(machine, kernels, process_groups(machine, Plan(cp=item.ranks)))
        if item.technique is None:  # attention of the whole sequence on one device, its work divided
            clock.compute(whole(replace(core, query=core.context), kernels), ())
            total += float(clock.end()) / item.ranks
            continue
        call = parse_technique(item.technique)
        call.technique.build(core, clock, (), **call.options)
        total += max(float(clock.end()), float(clock.launches) * numbers.host)
    return total


def is_calibration(item: Case) -> bool:
    """Every third row by the checksum of its name."""
    return crc32(item.name.encode()) % 3 == 0


def rows() -> Iterator[Row]:
    """Times, then the winner of every group of schemes."""
    groups: dict[tuple[str, ...], list[tuple[float, float, str, str]]] = {}
    for item in cases():
        known = numbers_of(item)
        reason = item.reason or ("" if known else f"nothing is fitted for {item.fabric}")
        time = None if reason or known is None else predicted(item, known)
        missed = time is not None and abs(time / item.time - 1) > WITHIN
        yield Row(
            FAMILY,
            TECHNIQUE,
            item.name,
            " ".join(item.group) + f" {item.technique or 'one device'}{item.note}",
            f"time, {item.fabric}",
            item.time,
            time,
            item.source,
            trivial=_ideal(item),
            split="calibration" if is_calibration(item) else "held out",
            reason=reason or ("beyond 15 %: single runs, which differ by as much between equal work" if missed else ""),
        )
        if time is not None and item.technique is not None:
            scheme = str(item.technique.get("degree", item.technique["name"])) + str(item.technique.get("layout", ""))
            groups.setdefault(item.group, []).append((item.time, time, scheme, item.source))
    for group, members in groups.items():
        if len(members) < 2:
            continue
        best, chosen = min(members), min(members, key=lambda member: member[1])
        cost = chosen[0] / best[0] - 1
        for metric, allowed in (("right winner", 0.0), (f"right winner, or as good within {NOISE:.0%}", NOISE)):
            yield Row(
                FAMILY,
                TECHNIQUE,
                f"{metric} of {' '.join(group)}",
                " ".join(group),
                metric,
                1.0,
                float(cost <= allowed),
                best[3],
                trivial=float(members[0][0] / best[0] - 1 <= allowed),  # whatever the table lists first
                reason="" if cost <= allowed else f"{chosen[2]} chosen, costs {cost:.0%} more",
            )


def _ideal(item: Case) -> float | None:
    """What half of the device's peak would take for the products alone."""
    if not item.device:
        return None
    flops = 2.0 * item.core.batch * item.core.heads * item.core.context**2 * item.core.head_dim * 2
    flops *= (0.5 if item.core.causal else 1.0) * (3.5 if item.backward else 1.0)
    return flops / item.ranks / (0.5 * load_device(item.device).flops("bf16"))
