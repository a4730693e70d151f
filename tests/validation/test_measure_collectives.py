"""Collectives among real processes: measured, fitted, and seen through when one dies, hangs or fails."""

import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this torch has no gloo", allow_module_level=True)

from commlens.hardware.errors import InputError  # noqa: E402
from commlens.models.estimators import CollectiveEstimator, KernelProfile  # noqa: E402
from commlens.validation.logs import Sample  # noqa: E402
from commlens.validation.measure import collectives, environment  # noqa: E402
from commlens.validation.measure.collective_profile import fit_samples, save  # noqa: E402
from commlens.validation.measure.collectives import measure_collectives, read  # noqa: E402
from commlens.validation.measure.worker import KINDS, ring_reduce_scatter  # noqa: E402

HOST = environment.host_device(2, {"fp32": 8e10}, 1e10, 4e-6)
TRUE = {
    "all_reduce": 300e-6,
    "all_reduce_rate": 0.08,
    "send_recv_rate": 0.2,
    "outside": 3.0,
    "part": 0.3,
    "turn": 80e-6,
    "busy": 0.75,
    "fault": 3e-6,
}


@pytest.fixture
def started(monkeypatch):
    """Processes that were started."""
    found = []

    class Started(subprocess.Popen):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            found.append(self)

    monkeypatch.setattr(collectives.subprocess, "Popen", Started)
    return found


def all_gone(processes):
    return processes and all(process.returncode is not None for process in processes)


def after_first_result(log, processes, act):
    """Thread that does something to the last rank once there is a result."""

    def wait():
        end = time.monotonic() + 60
        while time.monotonic() < end and not (log.exists() and log.read_text().count("\n") > 1):
            time.sleep(0.02)
        act(processes[-1])

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_every_kind_is_measured_among_two_processes(tmp_path, started):
    log, told = tmp_path / "c.jsonl", []
    found = measure_collectives("gloo", [4096.0, 65536.0], log, 2, lambda *said: told.append(said), budget=0.01)
    assert found.notes == []
    assert {(s.kind, s.size) for s in found.samples} == {(kind, size) for kind in KINDS for size in (4096.0, 65536.0)}
    assert all(s.ranks == 2 and s.nodes == 1 and 1e-6 < s.time < 10 for s in found.samples)
    assert json.loads(log.read_text().splitlines()[0])["environment"]["backend"] == "gloo"
    assert [total for _, total, _ in told] == [12] * len(told)
    assert all_gone(started)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_partial_sums_around_a_ring_are_a_reduce_scatter(world, monkeypatch):
    """Ranks as threads; messages as queues."""
    import queue

    lines = {(a, b): queue.Queue() for a in range(world) for b in range(world)}
    own = threading.local()

    class Sent:
        def wait(self):
            pass

    def isend(tensor, to):
        lines[own.rank, to].put(tensor.clone())
        return Sent()

    monkeypatch.setattr(torch.distributed, "isend", isend)
    monkeypatch.setattr(
        torch.distributed, "recv", lambda into, source: into.copy_(lines[source, own.rank].get(timeout=20))
    )
    inputs = [torch.arange(6.0 * world) * (rank + 1) for rank in range(world)]
    found = {}

    def rank(number):
        own.rank = number
        room = torch.empty(2, inputs[number].numel() // world)
        found[number] = ring_reduce_scatter(inputs[number], number, world, room)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number in range(world):
        assert torch.equal(found[number], sum(inputs).view(world, -1)[number])


def test_a_rank_that_is_killed_leaves_its_results_and_no_process(tmp_path, started):
    log = tmp_path / "c.jsonl"
    thread = after_first_result(log, started, lambda process: process.send_signal(signal.SIGKILL))
    sizes = [1024.0 * 4**k for k in range(6)]
    found = measure_collectives("gloo", sizes, log, 2, budget=2.0)
    thread.join()
    assert found.samples
    (note,) = found.notes
    # Whichever is seen first: the rank that was killed, or the other, whose neighbour is gone.
    assert "rank 1 was ended by SIGKILL (out of memory?)" in note or "rank 0 failed" in note
    assert str(log) in note
    assert "\n" not in note
    assert all_gone(started)


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up(tmp_path, started):
    log = tmp_path / "c.jsonl"
    thread = after_first_result(log, started, lambda process: process.send_signal(signal.SIGSTOP))
    found = measure_collectives("gloo", [1024.0 * 4**k for k in range(6)], log, 2, timeout=8.0, budget=2.0)
    thread.join()
    assert found.samples
    assert "hang" in found.notes[0] or "failed" in found.notes[0]
    assert all_gone(started)


def test_ranks_that_cannot_start_are_one_line(tmp_path, monkeypatch, started):
    monkeypatch.setattr(collectives.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"collectives: rank \d failed: status 1") as problem:
        measure_collectives("gloo", [1024.0], tmp_path / "c.jsonl", 2)
    assert "\n" not in str(problem.value)
    assert all_gone(started)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backend": "mpi"}, "--backend: 'mpi' .legal: gloo, nccl"),
        ({"nproc": 1}, "--nproc: 1 .legal: 2 to 64"),
        ({"sizes": [0.0]}, "--sizes: 0 B .legal: 1 B to 64 GiB"),
        ({"kinds": ["gather"]}, "kinds: 'gather' .legal"),
        ({"log": "nowhere/c.jsonl"}, "cannot write nowhere"),
    ],
)
def test_bad_options_are_one_line(change, said, tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    options = {"backend": "gloo", "sizes": [1024.0], "log": Path("c.jsonl"), "nproc": 2} | change
    with pytest.raises(InputError, match=said) as problem:
        measure_collectives(**{**options, "log": Path(options["log"])})
    assert "\n" not in str(problem.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_nccl_without_a_gpu_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--backend: "):
        measure_collectives("nccl", [1024.0], tmp_path / "c.jsonl", 2)


def test_under_torchrun_the_ranks_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="--nproc: 2 under torchrun with 3 ranks"):
        measure_collectives("gloo", [1024.0], tmp_path / "c.jsonl", 2)


@pytest.mark.slow
def test_two_ranks_of_torchrun_measure_what_one_writes(tmp_path):
    log = tmp_path / "c.jsonl"
    code = (
        "from pathlib import Path; from commlens.validation.measure.collectives import measure_collectives as m; "
        f"r = m('gloo', [4096.0], Path({str(log)!r}), budget=0.01); print(None if r is None else len(r.samples))"
    )
    import sys

    own = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **own, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    assert said == [str(len(KINDS)), "None"]


def test_a_damaged_file_of_results_is_one_line(tmp_path):
    log = tmp_path / "c.jsonl"
    row = {"kind": "all_reduce", "size": 4096.0, "ranks": 2, "seconds": 1e-3}
    lines = ['{"format": 1}', json.dumps(row), json.dumps({"kind": "broadcast", "unsupported": "no"})]
    log.write_text("\n".join([*lines, '{"kind": "all_']))
    samples, notes = read(log, 1)
    assert [(s.kind, s.time) for s in samples] == [("all_reduce", 1e-3)]
    assert notes == ["broadcast: not supported here: no"]
    log.write_text("\n".join([lines[0], "{", *lines[1:]]))
    with pytest.raises(InputError, match="line 2: damaged"):
        read(log, 1)


# -- fitted -------------------------------------------------------------------------------------


def made_up(noise=0.03, ranks=(2, 4)):
    true = CollectiveEstimator(HOST)
    true.values_ = {name: parameter.start for name, parameter in true.parameters.items()} | TRUE
    true.tools_ = {}
    rng = np.random.default_rng(0)
    found = []
    for kind in KINDS:
        for count in ranks:
            for size in 2.0 ** np.arange(12, 27):
                took = float(true.predict({"size": size, "ranks": count, "operation": kind})[0])
                found.append(Sample(kind, size, count, 1, took * rng.lognormal(0, noise), "made up", 1))
    return found


def test_a_fit_finds_the_times_of_sizes_it_was_not_shown(tmp_path):
    profile = fit_samples(made_up(), HOST)
    score = profile.scores["collective"]
    assert score["mean"] < 0.06
    assert score["large_median"] < 0.05
    assert score["mean"] < 0.5 * min(score["nearest"], score["roofline"])
    log = tmp_path / "c.jsonl"
    log.write_text('{"format": 1, "environment": {"ranks": 2}}\n{"kind": "all_red')
    save(profile, log, tmp_path / "c.json")
    again = KernelProfile.load(tmp_path / "c.json")
    shape = {"size": 2.0**20, "ranks": 4, "operation": "all_gather"}
    assert again.seconds("collective", **shape) == profile.seconds("collective", **shape)
    with pytest.raises(InputError, match=r"operation: 'gather' .legal: all_reduce"):
        again.seconds("collective", **{**shape, "operation": "gather"})


def test_ranks_beyond_the_cores_take_turns():
    made = fit_samples(made_up(0.0), HOST).estimators["collective"]
    large = {"size": 2.0**26, "operation": "all_reduce"}
    two, four, eight = (float(made.predict({**large, "ranks": ranks})[0]) for ranks in (2, 4, 8))
    # Half a core each, three quarters of which a transfer needs, and half as much again to send.
    assert four / two == pytest.approx(2 * 0.75 * 1.5, rel=0.15)
    assert eight > 2 * four


def test_ranks_that_have_a_core_each_wait_for_no_turn():
    made = (
        fit_samples(made_up(0.0), HOST)
        .estimators["collective"]
        .for_device(environment.host_device(8, {"fp32": 8e10}, 1e10, 4e-6))
    )
    small = {"size": 1.0, "operation": "all_gather"}
    two, eight = (float(made.predict({**small, "ranks": ranks})[0]) for ranks in (2, 8))
    assert eight == pytest.approx(7 * two, rel=1e-3)  # steps of a ring, each as long


def test_only_a_gathered_buffer_of_new_pages_pays_for_them():
    made = fit_samples(made_up(0.0), HOST).estimators["collective"]
    assert made.values_["fault"] == pytest.approx(TRUE["fault"], rel=0.1)

    def growth(operation):
        below, above = made.predict({"size": [2.0**25 - 4, 2.0**25], "ranks": 2, "operation": operation})
        return above - below

    assert growth("all_gather") == pytest.approx(2**25 / 4096 * made.values_["fault"], rel=0.01)
    assert growth("reduce_scatter") < 1e-6


def test_too_few_sizes_are_refused_before_anything_is_measured(started):
    from commlens.measuring import measured_collectives

    with pytest.raises(InputError, match=r"--sizes: 2 .legal: 3 or more"):
        measured_collectives("gloo", 2, [4096.0, 8192.0], None, 60.0, [])
    assert not started


def test_too_few_samples_are_one_line():
    with pytest.raises(InputError, match=r"collectives: 3 samples .legal: 5 or more"):
        fit_samples(made_up()[:3], HOST)
