"""T3: the GEMM's own stores trigger the reduce-scatter, memory adds them up.

arXiv 2401.16677 (ASPLOS 2024). The output is produced in as many chunks as there are ranks,
staggered so that a rank starts with the chunk it must pass on first (section 4):

* chunk 1 is stored straight into the ring neighbour's memory;
* chunks 2 .. N-1 are stored locally as updates (op-and-store at the bank, past the cache), and once
  the neighbour's update of the same tiles has arrived a DMA engine sends the sum on;
* chunk N stays. When the last DMA update lands the reduce-scatter is complete; the all-gather
  follows as an ordinary collective.

GEMM and DMA traffic share the memory controllers. Plain arbitration serves them as they come: DMA
bursts fill the DRAM queue and the GEMM, whose main loop keeps only the next slice in flight, stands
still while they are served. The paper's memory-controller arbitration (MCA, section 4.5) serves the
GEMM first and admits DMA accesses only below an occupancy threshold, so that an access of the GEMM
waits behind that many queue entries at most.

Devices without near-memory compute are given it, at T3's update cost: the question is what the
hardware would buy. Not modelled: split-K GEMMs (section 7.7), correctness of irregular kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ....hardware import Device
from ....simulator.costs import LOW
from ...architecture import Transformer
from ...blocks import Block
from ...build import Builder, Handle
from ...kernels import Kernel
from ...plan import Plan
from ...step import Step
from .. import technique

QUEUE_ENTRIES = 64  # DRAM scheduler queue per channel of Accel-Sim's GPU configurations
# (DRAM utilisation of the GEMM alone, admitted queue entries): section 4.5 picks the threshold from
# {5, 10, 30} by the memory intensity of the kernel's first stage; where it changes is assumed here.
THRESHOLDS = ((0.5, 5), (0.25, 10), (0.0, 30))
UPDATE_COST = 2.0  # where the device names none: CCDWL = 2 x CCDL, Table 1 as recalled

Arbitration = Literal["plain", "mca", "ideal", "ideal_nmc"]


def warning(model: Transformer, plan: Plan, device: Device) -> str:
    """That a device is given hardware it does not have."""
    return "" if device.near_memory else f"{device.name} has no near-memory compute: T3's hardware is assumed"


@technique(
    family="tensor_parallel",
    paper="T3, arXiv 2401.16677",
    needs="track-and-trigger hardware and near-memory reduction (assumed where the device has none)",
    closed_form=False,
    warns=warning,
)
def t3(step: Step, build: Builder, *, arbitration: Arbitration = "plain") -> Handle:
    """Fused GEMM and reduce-scatter, then an all-gather.

    Parameters
    ----------
    arbitration : str
        plain | mca: how the DRAM queue is shared; ideal: GEMM and an ordinary reduce-scatter overlap
        without contention or dependence; ideal_nmc: the same with near-memory reduction.
    """
    reduced = build.start
    for block in step.blocks:
        *before, last = block.kernels
        ready = build.compute(before, after=reduced)
        if not isinstance(last, Kernel) or last.shape is None or not block.output_bytes:
            scattered = build.compute([last], after=ready)
            reduced = build.all_reduce(block, after=scattered)
        else:
            fused = _ideal if arbitration.startswith("ideal") else _fused
            scattered = fused(build, block, last, ready, arbitration)
            reduced = build.all_gather(block, after=scattered)
        build.defer(block, after=scattered)
    return reduced


def _fused(build: Builder, block: Block, gemm: Kernel, ready: Handle, arbitration: str) -> Handle:
    """GEMM chunks, triggered DMA transfers and near-memory updates on every rank."""
    ranks = build.tp
    ring = _ring(build, block.output_bytes / ranks, arbitration)
    uncached = build.kernels.uncached_gemm(gemm)  # output past the cache: inputs stay longer
    leak = 0.0
    if arbitration == "mca":
        leak = _threshold(gemm, build) / QUEUE_ENTRIES * (ring.read + ring.update)

    out = ready
    sent: Handle = ()
    arrived: tuple[Handle, ...] = ()
    for index in range(ranks):
        local = ring.chunk if index else 0.0  # the first chunk is stored remotely
        part = replace(
            uncached,
            time=uncached.time / ranks,
            flops=uncached.flops / ranks,
            memory_bytes=uncached.memory_bytes / ranks + local,
            overhead=leak if index else uncached.overhead,
        )
        # Tiles flow as they are stored, so a transfer starts with its chunk, but its own chunk and
        # the neighbour's must be there whole before the sum of the next one can be.
        before, out = out, _compute_chunk(ring, part, out, local * (ring.update_cost - 1.0))
        if index < ranks - 1:
            sent = _send_chunk(ring, before, arrived, reads=index > 0)
            arrived = (out, sent)
    return build.join((out, sent))


@dataclass(frozen=True, slots=True)
class _Ring:
    """One step of the reduce-scatter.

    `chunk` bytes take `time` seconds of link and, of DRAM, `read` seconds for the DMA engine and
    `update` seconds for the neighbour's chunk that arrives.
    """

    build: Builder
    chunk: float
    time: float
    latency: float
    read: float
    update: float
    update_cost: float
    arbitration: str


def _ring(build: Builder, chunk: float, arbitration: str) -> _Ring:
    device = build.device
    cost = device.near_memory.update_cost if device.near_memory else UPDATE_COST
    read = chunk / device.memory_bandwidth
    time = chunk / build.group.ring_bandwidth()
    return _Ring(build, chunk, time, build.group.hop_latency(LOW), read, cost * read, cost, arbitration)


def _compute_chunk(ring: _Ring, part: Kernel, after: Handle, extra_update: float) -> Handle:
    """One chunk of the GEMM on every rank; it needs the DRAM queue for as long as it runs."""
    build = ring.build
    return tuple(
        build.kernel(part, rank, build.own(i, after), queue=True, slow_writes=extra_update)
        for i, rank in enumerate(build.ranks)
    )


def _send_chunk(ring: _Ring, produced: Handle, arrived: tuple[Handle, ...], reads: bool) -> Handle:
    """One ring step on every rank: read, send, and the neighbour's update arriving here."""
    build, found = ring.build, []
    served = min(ring.update + (ring.read if reads else 0.0), ring.time)
    for i, rank in enumerate(build.ranks):
        demand = {
            f"link[{rank}]": min(ring.chunk, ring.time * build.cluster.link.bandwidth),
            f"hbm[{rank}]": served * build.device.memory_bandwidth,
        }
        if ring.arbitration == "plain":
            demand[build.dram_queue(rank)] = served
        found.append(
            build.program.add(
                "triggered DMA" if reads else "remote stores",
                kind="communication",
                rank=rank,
                stream="dma",
                after=build.every(build.own(i, produced), build.own(build.previous(rank), *arrived)),
                duration=ring.time,
                latency=ring.latency,
                demand=demand,
                priority=0 if ring.arbitration == "plain" else 2,
                communication="reduce_scatter",
                communication_bytes=ring.chunk,
                memory_bytes=ring.chunk * (1 + reads),
                read_bytes=ring.chunk * reads,
            )
        )
    return tuple(found)


def _threshold(gemm: Kernel, build: Builder) -> int:
    """Admitted queue entries of communication, by how busy the GEMM alone keeps the DRAM."""
    busy = gemm.memory_bytes / build.device.memory_bandwidth / gemm.time
    return next(entries for least, entries in THRESHOLDS if busy >= least)


def _ideal(build: Builder, block: Block, gemm: Kernel, ready: Handle, arbitration: str) -> Handle:
    """GEMM and reduce-scatter side by side, sharing nothing."""
    cost = build.group.reduce_scatter(block.output_bytes)
    if arbitration == "ideal_nmc":
        cost = build.group.near_memory_reduce_scatter(block.output_bytes)
    scattered = build.collective(cost, ready, stream="dma", shared=False)
    return build.join((build.compute([gemm], after=ready), scattered))
