"""Ranks of a pool: one process loads torch, divides into as many as there are ranks, and buries them.

Started by `harness` as ``python -m commlens.validation.references.worker FOLDER``. Dividing costs a few milliseconds
where loading torch again costs seconds. Every rank runs the list of references and writes a line before and after
each into a file of its own; what became of a rank goes to standard output. When standard input ends, whoever asked is
gone, and the ranks are ended.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from .order import Order


def main(folder: Path) -> None:
    """Divide into ranks, say what they are, and how each ended."""
    order: Order = pickle.loads((folder / "order.pickle").read_bytes())
    for name in (*order.modules, "torch"):  # so that the ranks have them
        importlib.import_module(name)
    ranks: dict[int, int] = {}
    parent = os.getpid()
    for rank in range(order.ranks):
        number = os.fork()
        if number == 0:
            threading.Thread(target=_follow, args=(parent,), daemon=True).start()
            _rank(rank, order, folder)
        ranks[number] = rank
        _say(rank=rank, process=number)
    threading.Thread(target=_obey, args=(ranks,), daemon=True).start()
    while ranks:
        number, status = os.wait()
        _say(rank=ranks.pop(number), ended=os.waitstatus_to_exitcode(status))


def _obey(ranks: dict[int, int]) -> None:
    """End the ranks there still are when standard input ends."""
    sys.stdin.buffer.read()
    for number in list(ranks):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _follow(parent: int) -> None:
    """End with the process that began the ranks, however that ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _say(**what: int) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


def _rank(rank: int, order: Order, folder: Path) -> None:
    """What one rank does; never returns."""
    code = 1
    errors = (folder / f"{rank}.err").open("w", encoding="utf-8")
    os.dup2(errors.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    faulthandler.enable(errors)
    faulthandler.register(signal.SIGUSR1, errors, all_threads=False)  # how one that hangs tells where
    try:
        with (folder / f"{rank}.jsonl").open("w", encoding="utf-8", buffering=1) as log:
            _work(rank, order, folder, log)
        code = 0
    except BaseException:
        traceback.print_exc(file=errors)
    finally:
        errors.flush()
        os._exit(code)  # at once: what ends by itself would first wait for the other ranks


def _work(rank: int, order: Order, folder: Path, log: TextIO) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    from .ranks import Ledger, Ranks

    def write(**what: Any) -> None:
        log.write(json.dumps({"at": time.time(), **what}) + "\n")

    torch.set_num_threads(1)
    device = torch.device("cpu")
    if order.backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    elif os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = FileStore(str(folder / "store"), order.ranks)
    limit = timedelta(seconds=order.timeout + 60)  # the harness ends the ranks before
    dist.init_process_group(order.backend, store=store, rank=rank, world_size=order.ranks, timeout=limit)
    groups = {members: dist.new_group(list(members), timeout=limit) for members in order.groups}
    for number, task in enumerate(order.tasks):
        if rank >= task.ranks:
            continue
        write(begins=number)
        module, _, name = task.mechanism.partition(":")
        run = getattr(importlib.import_module(module), name)
        ledger = Ledger()
        try:
            found = run(Ranks(range(task.ranks), ledger, device, groups), task.shape)
        except BaseException as error:
            write(failed=number, error=f"{type(error).__name__}: {error}".splitlines()[0])
            raise
        write(ends=number, found={**(found or {}), "sent": ledger.sent, "messages": ledger.messages})
    store.add("done", 1)
    while store.add("done", 0) < order.ranks:  # nobody hangs up while others still read
        time.sleep(0.005)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
