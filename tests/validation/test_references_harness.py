"""Ranks that die, hang or raise: one line names them, what was found stays, and no process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from commlens import InputError
from commlens.validation.references.harness import RankFailed, run
from commlens.validation.references.order import Task

pytest.importorskip("torch")

FAULTY = """
    import os, signal, time
    from pathlib import Path
    import torch

    def fine(ranks, folder):
        Path(folder, str(os.getpid())).touch()
        return {"sum": float(ranks.all_reduce(torch.full((3,), 1.0 + ranks.rank)).wait()[0])}

    def killed(ranks, folder):
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return fine(ranks, folder)

    def left(ranks, folder):
        if ranks.rank == 1:
            os._exit(3)
        return fine(ranks, folder)

    def hung(ranks, folder):
        if ranks.rank == 1:
            time.sleep(600)
        return fine(ranks, folder)

    def raising(ranks, folder):
        if ranks.rank == 1:
            raise ValueError("seven is not eight")
        return fine(ranks, folder)

    def greedy(ranks, folder):
        if ranks.rank == 1:
            bytearray(2**62)
        return fine(ranks, folder)

    def unsummed(ranks, shape):
        from commlens.validation.references.tensor_parallel import _checked, _linears
        product = lambda rows, matrix, ranks: rows @ matrix
        return _checked(ranks, shape, _linears(ranks, shape, product, product))
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Folder that ranks write their process numbers to."""
    code, numbers = tmp_path / "code", tmp_path / "numbers"
    code.mkdir()
    numbers.mkdir()
    (code / "faulty.py").write_text(textwrap.dedent(FAULTY))
    monkeypatch.setenv("PYTHONPATH", str(code))
    yield numbers
    for path in numbers.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)  # a zombie could still be sent signals
    with suppress(ChildProcessError):  # no children at all
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("killed", -signal.SIGKILL, "ended by SIGKILL, from outside or for want of memory"),
        pytest.param("left", 3, "exit code 3", marks=pytest.mark.slow),
        ("raising", 1, "exit code 1: ValueError: seven is not eight"),
        pytest.param("greedy", 1, "exit code 1: MemoryError", marks=pytest.mark.slow),
        pytest.param("hung", None, "not at its end after 8 s", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_is_named_and_what_was_found_is_kept(faulty, how, code, words):
    tasks = [Task("before", "faulty:fine", 3, str(faulty)), Task("then", f"faulty:{how}", 2, str(faulty))]
    start = time.monotonic()
    with pytest.raises(RankFailed) as failure:
        run(tasks, timeout=8.0 if how == "hung" else 120.0)
    error = failure.value
    assert isinstance(error, InputError)
    assert (error.rank, error.exit_code) == (1, code)
    assert "rank 1 of 3, in then" in str(error)
    assert words in str(error)
    assert "\n" not in str(error)
    assert [found["before"]["sum"] for found in error.results] == [6.0] * 3
    assert not any("then" in found for found in error.results)
    assert how != "hung" or "faulty.py" in str(error)
    assert time.monotonic() - start < 100.0
    assert len(list(faulty.iterdir())) >= 3


def test_a_mechanism_that_leaves_sums_out_is_seen(faulty):
    from commlens.validation.references.shapes import Network

    (one, two) = run([Task("x", "faulty:unsummed", 2, Network(1, 4, 1, 8, 2, 8))])
    assert one["x"]["output"] > 1e-3
    assert two["x"]["gradient"] > 1e-3
    assert one["x"]["sent"] == {}


@pytest.mark.slow
def test_ranks_end_with_the_process_that_asked_for_them(faulty):
    code = f"""
        from commlens.validation.references.harness import run
        from commlens.validation.references.order import Task
        run([Task("a", "faulty:fine", 2, {str(faulty)!r}), Task("b", "faulty:hung", 2, {str(faulty)!r})])
    """
    asking = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    deadline = time.monotonic() + 100
    while len(list(faulty.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    asking.kill()
    asking.wait()
    numbers = [int(path.name) for path in faulty.iterdir()]
    assert len(numbers) == 2
    while any(map(_alive, numbers)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("tasks", "options", "words"),
    [
        ([Task("a", "m:f", 2)], {"backend": "mpi"}, "backend: 'mpi' (legal: gloo, nccl)"),
        ([Task("a", "m:f", 4)], {"ranks": 3}, "ranks: 3 (legal: 4 to 64)"),
        ([Task("a", "m:f", 2)], {"timeout": 0.0}, "timeout: 0.0 s (legal: above 0"),
        ([Task("a", "m:f", 2), Task("a", "m:g", 2)], {}, "two of one name"),
        ([Task("a", "no_such_module:f", 2)], {}, "no ranks could be started: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(tasks, options, words):
    with pytest.raises(InputError) as error:
        run(tasks, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
