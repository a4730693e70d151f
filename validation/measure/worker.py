"""One rank of a measurement of collectives: ``python -m commlens.validation.measure.worker``, told by its environment.

Every repetition starts at a barrier and counts as the slowest rank's. Rank 0 appends a line of JSON per kind and size;
of a layer it also says how long the reference product took beside it, the mean of the ranks. On GPUs a repetition is
several launches one behind the other, of a graph where all ranks can capture one, timed by events as nccl-tests does.
Gloo reduces and scatters by one all-reduce per rank, which is no reduce-scatter: here ranks pass partial sums around a
ring instead, as other libraries do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .kernels import reason
from .layer import LayerShape, build
from .timing import CudaTimer, HostTimer, Timing, calls_of, reference_product, repeated, summary

if TYPE_CHECKING:
    import torch

PLAN = "COMMLENS_COLLECTIVES"  # variable of the environment that holds the plan, as JSON
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv")
FEWEST, MOST, WARM = 5, 60, 2  # repetitions
ELEMENT = 4  # bytes: fp32


@dataclass(frozen=True)
class Plan:
    """What ranks measure.

    Parameters
    ----------
    backend : str
        gloo | nccl.
    sizes : list of float
        Bytes, by the convention of nccl-tests.
    out : str
        File rank 0 appends to.
    store : str
        File where ranks meet; empty where their environment says how (torchrun).
    threads : int
        Of torch in a rank.
    budget : float
        Time for the repetitions of one kind and size [s].
    timeout : float
        After which a collective that does not end is given up [s].
    kinds : tuple of str
    layer : mapping, optional
        Fields of a `LayerShape`: that layer is run in place of collectives, divided over the ranks.
    """

    backend: str
    sizes: list[float]
    out: str
    store: str
    threads: int
    budget: float
    timeout: float
    kinds: tuple[str, ...] = KINDS
    layer: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """As the environment holds it."""
        return json.dumps(asdict(self))


def work(plan: Plan, rank: int, world: int) -> None:
    """Join the other ranks and measure.

    Parameters
    ----------
    plan : Plan
    rank, world : int
    """
    import torch
    import torch.distributed as dist

    torch.set_num_threads(plan.threads)
    device = torch.device("cpu")
    where: dict[str, Any] = {"timeout": timedelta(seconds=plan.timeout)}
    if plan.backend == "nccl":
        device = _gpu(rank)
        where["device_id"] = device  # connects now, and barriers know which GPU is meant
    if plan.store:
        store = torch._C._distributed_c10d.FileStore(plan.store, world)
        dist.init_process_group(plan.backend, store=store, rank=rank, world_size=world, **where)
    else:
        dist.init_process_group(plan.backend, **where)
    try:
        for kind in plan.kinds:
            for size in sorted(plan.sizes):
                elements = max(1, round(size / ELEMENT / world)) * world
                found = _measured(kind, elements, plan, rank, world, device)
                if rank == 0:
                    line = {"kind": kind, "size": float(elements * ELEMENT), "ranks": world, **found}
                    with Path(plan.out).open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                if "unsupported" in found:
                    break
    finally:
        dist.destroy_process_group()


def _gpu(rank: int) -> torch.device:
    """The GPU of a rank, of those of its machine."""
    import torch

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
    torch.cuda.set_device(device)
    return device


def _measured(kind: str, elements: int, plan: Plan, rank: int, world: int, device: torch.device) -> Mapping[str, Any]:
    """Median and spread over repetitions, or why the kind does not run."""
    import torch
    import torch.distributed as dist

    def wait() -> None:
        if plan.backend == "nccl":
            torch.cuda.synchronize(device)

    def joined(values: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        every = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(every, op=how)
        return [float(value) for value in every.tolist()]

    slowest = partial(joined, how=dist.ReduceOp.MAX)

    run, why = None, ""
    try:
        if plan.layer is None:
            run = make(kind, elements, rank, world, device, plan.backend)
        else:
            run = partial(build(LayerShape(**plan.layer), world, dist.all_reduce), 0)
    except RuntimeError as problem:  # of memory, perhaps on this rank alone: the others must not wait for it
        why = reason(problem)
    if slowest([float(run is None)])[0]:
        return {"unsupported": why or "another rank has no memory for it"}
    assert run is not None
    try:
        for _ in range(WARM):
            run()
        wait()
    except (RuntimeError, NotImplementedError, ValueError) as problem:
        if any(word in str(problem).lower() for word in ("timed out", "timeout", "closed by peer", "reset by peer")):
            raise  # another rank is gone or hangs
        return {"unsupported": reason(problem)}
    begin = time.perf_counter()
    run()
    wait()
    first = slowest([time.perf_counter() - begin])[0]
    if plan.backend == "nccl":
        return asdict(_by_events(run, first, plan.budget, slowest))
    timer = HostTimer(plan.threads, reference=None if plan.layer is None else reference_product())
    times, ran, paces = [], [], []
    for _ in range(min(MOST, max(FEWEST, int(plan.budget / max(first, 1e-6))))):
        if timer.reference is not None:
            paces.append(timer.pace())
        dist.barrier()
        wait()
        begin, own = time.perf_counter(), time.thread_time()
        run()
        wait()
        times.append(time.perf_counter() - begin)
        ran.append(time.thread_time() - own)
    mean = [pace / world for pace in joined(paces, dist.ReduceOp.SUM)] if paces else ()
    found = summary(slowest(times), reference=mean)
    return {**asdict(found), "busy": summary(slowest(ran)).seconds}


def _by_events(
    run: Callable[[], object], first: float, budget: float, slowest: Callable[[list[float]], list[float]]
) -> Timing:
    """Time of a launch among others of its kind; ranks agree on everything that launches, or they would hang."""
    import torch.distributed as dist

    calls = calls_of(first)
    batch = CudaTimer.captured(lambda _: run(), calls)
    if slowest([float(batch is None)])[0] or batch is None:
        batch = repeated(lambda _: run(), calls)
    times = []
    for _ in range(min(MOST, max(FEWEST, int(budget / (first * calls))))):
        dist.barrier()
        times += CudaTimer.times(batch, 1)
    return summary([took / calls for took in slowest(times)])


def make(kind: str, elements: int, rank: int, world: int, device: torch.device, backend: str) -> Callable[[], object]:
    """Function that runs a collective once.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    elements : int
        Of the full buffer; a multiple of the ranks.
    rank, world : int
    device : torch.device
    backend : str
    """
    import torch
    import torch.distributed as dist

    whole = torch.randn(elements, device=device)
    if kind == "all_reduce":
        return lambda: dist.all_reduce(whole)
    if kind == "broadcast":
        return lambda: dist.broadcast(whole, 0)
    part = torch.randn(elements // world, device=device)
    # Torch 2.13 has other names for these two.
    if kind == "all_gather":
        gather: Callable[..., object] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return lambda: gather(whole, part)
    if kind == "reduce_scatter" and backend != "gloo":
        scatter: Callable[..., object] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        return lambda: scatter(part, whole)
    other = torch.empty_like(whole)
    if kind == "all_to_all":
        return lambda: dist.all_to_all_single(other, whole)
    after, before = (rank + 1) % world, (rank - 1) % world
    if kind == "send_recv":

        def pass_on() -> None:
            works = dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, whole, after), dist.P2POp(dist.irecv, other, before)]
            )
            for one in works:
                one.wait()

        return pass_on
    room = torch.empty(2, elements // world)
    return lambda: ring_reduce_scatter(whole, rank, world, room)


def ring_reduce_scatter(whole: torch.Tensor, rank: int, world: int, room: torch.Tensor) -> torch.Tensor:
    """Sum over the ranks of this rank's part of a buffer, by partial sums that go around a ring.

    Parameters
    ----------
    whole : torch.Tensor
        Of a multiple of `world` elements; kept as it is.
    rank, world : int
    room : torch.Tensor
        Of two parts, which take turns for what arrives.

    Returns
    -------
    torch.Tensor
        Part number `rank`, in `room`.
    """
    import torch.distributed as dist

    parts = whole.view(world, -1)
    after, before = (rank + 1) % world, (rank - 1) % world
    mine = parts[(rank - 1) % world]
    for step in range(2, world + 1):
        arrived = room[step % 2]
        sending = dist.isend(mine.contiguous(), after)
        dist.recv(arrived, before)
        sending.wait()  # type: ignore[union-attr]
        mine = arrived.add_(parts[(rank - step) % world])
    return mine


def main() -> int:
    """Run the rank that the environment names."""
    plan = Plan(**json.loads(os.environ[PLAN]))
    work(plan, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
