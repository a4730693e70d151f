"""``commlens plan-sequences`` as a user types it."""

from __future__ import annotations

import json
import resource
import time

import pytest

from commlens import cli
from commlens.models.sequences.run import plan_sequences

SCENARIO = """\
model: llama-2-7b
cluster: {preset: dgx-a100, nodes: 2}
plan: {zero: 3, recompute: full}
workload: {phase: training, sequence_length: 32768}
"""


@pytest.fixture
def commlens(tmp_path, capsys, monkeypatch):
    """Run a command line in a folder with a scenario; give exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SCENARIO)

    def call(*arguments):
        status = 0
        try:
            cli.main(["plan-sequences", *arguments])
        except SystemExit as end:
            status = end.code or 0
        return (status, *capsys.readouterr())

    return call


@pytest.mark.parametrize("method", ["flexsp", "bytescale", "static", "adaptive"])
def test_a_file_is_planned(commlens, tmp_path, method):
    (tmp_path / "lengths.csv").write_text("length\n" + "\n".join(str(100 * n) for n in range(1, 60)) + "\n30000\n")
    status, out, _ = commlens("lengths.csv", "--scenario", "s.yaml", "--method", method, "--time-limit", "1")
    assert status == 0
    for word in (method, "60 sequences", "planned", "simulated", "idle", "lengths.csv"):
        assert word in out


def test_json_of_a_drawn_corpus(commlens):
    arguments = ("wikipedia", "--scenario", "s.yaml", "--method", "static", "--batch", "64", "--seed", "3", "--json")
    status, out, _ = commlens(*arguments)
    found = json.loads(out)
    assert status == 0
    assert (found["sequences"], found["seed"], found["source"], found["ranks"]) == (64, 3, "wikipedia", 16)
    assert found["compute_share"] + found["exchange_share"] + found["weights_share"] + found["idle_share"] == (
        pytest.approx(1)
    )


def test_maximum_truncation_multiple_and_tokens(commlens):
    common = ("byted-like", "--scenario", "s.yaml", "--method", "bytescale", "--json", "--max-length", "64Ki")
    _, out, _ = commlens(*common, "--tokens", "1M", "--multiple", "128", "--truncate")
    found = json.loads(out)
    assert found["tokens"] >= 1_000_000
    assert found["tokens"] % 128 == 0
    assert found["longest"] == 65536
    assert found["truncated"] > 0
    assert found["dropped"] == 0


def test_published_costs_need_no_scenario(commlens):
    status, out, _ = commlens("wikipedia", "--costs", "flexsp-gpt-7b", "--method", "static", "--max-length", "192000")
    assert status == 0
    assert "degree 32" in out


def test_all_methods_in_a_table(commlens):
    status, out, err = commlens("wikipedia", "--costs", "flexsp-gpt-7b", "--method", "all", "--time-limit", "1")
    assert status == 0
    assert {"flexsp", "static", "adaptive", "packed"} <= set(out.split())
    assert "left out bytescale: method: bytescale needs a scenario" in err


def test_a_picture_is_written(commlens, tmp_path):
    arguments = ("wikipedia", "--scenario", "s.yaml", "--method", "static", "--batch", "32", "--plot", "a.png")
    assert commlens(*arguments)[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("length\n100\n0\n", (), "a.csv: line 3: 0 (legal: a whole number of tokens, 1 to 1000000000)"),
        ("length\n-7\n", (), "a.csv: line 2: -7 (legal: "),
        ("length\nnan\n", (), "a.csv: line 2: nan (legal: "),
        ("length\nlots\n", (), "a.csv: line 2: 'lots' is not a number (legal: "),
        ("", (), "a.csv: is empty (legal: one length or more)"),
        ("size,b\n1,2\n", (), "a.csv: no column length"),
        ("length\n5\n", ("--column", "lenght"), "a.csv: no column 'lenght'; did you mean length?"),
        ("length\n9\n90000000\n", (), "a.csv: lengths[1]: 90000000 tokens need groups of "),
        ("length\n5\n", ("--method", "flexps"), "method: 'flexps'; did you mean flexsp? (legal: flexsp, bytescale, "),
        ("length\n5\n", ("--batch", "0"), "--batch: '0' (legal: "),
        ("length\n5\n", ("--max-length", "5x"), "--max-length: '5x' (legal: "),
        ("length\n5\n", ("--max-length", "4"), "max_length: 4, and a.csv has nothing as short (legal: 5 or more)"),
        ("length\n5\n", ("--time-limit", "-1"), "time_limit: -1.0 (legal: 0 or more)"),
        ("length\n5\n", ("--plot", "no/where.png"), "--plot: cannot write no/where.png"),
        ("length\n5\n", ("--plot", "a.png", "--method", "all"), "--plot: of one plan"),
        ("length\n5\n", ("--costs", "flexsp"), "costs: unknown 'flexsp'"),
    ],
)
def test_bad_input_is_one_line(commlens, tmp_path, text, arguments, said):
    (tmp_path / "a.csv").write_text(text)
    status, _, err = commlens("a.csv", "--scenario", "s.yaml", *arguments)
    assert status == 2
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("wikipedai", "--scenario", "s.yaml"),
            "lengths: 'wikipedai' is no file and no corpus; did you mean",
        ),
        (("none.csv", "--scenario", "s.yaml"), "none.csv: cannot be read"),
        (("wikipedia",), "--scenario: missing (legal: a training scenario, or --costs)"),
        (("wikipedia", "--scenario", "none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_bad_arguments_are_one_line(commlens, arguments, said):
    status, _, err = commlens(*arguments)
    assert status == 2
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1


def test_states_that_leave_no_memory_are_one_line(commlens, tmp_path):
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("zero: 3", "zero: 0").replace("7b", "13b"))
    status, _, err = commlens("wikipedia", "--scenario", "s.yaml")
    assert status == 2
    assert err.startswith("error: s.yaml: plan: weights, gradients and optimizer of llama-2-13b take")
    assert "(legal: a higher zero, tp or pp, or more devices)" in err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bytescale", "megascale", "flexsp"])
def test_two_million_tokens_on_twelve_thousand_devices(method):
    longest = 2**21 if method != "flexsp" else 2**19  # all-to-alls end at the 32 query heads
    case = {
        "model": "llama-3.1-8b",
        "cluster": {"preset": "dgx-h100", "nodes": 1536},
        "plan": {"zero": 3 if method == "flexsp" else 1, "recompute": "full"},
        "workload": {"phase": "training", "sequence_length": longest},
    }
    begin = time.perf_counter()
    found = plan_sequences(case, "byted-like", method, tokens=2**25, max_length=longest, over="truncate")
    assert time.perf_counter() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB
    assert found.plan.ranks == 12_288
    assert found.batch.tokens >= 2**25
    assert found.batch.longest == longest
    assert found.time_s > 0
