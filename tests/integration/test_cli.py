"""The command line as a user runs it: answers on stdout, one line on stderr and exit 2 for mistakes."""

import json
import os
import subprocess
import sys

import pytest

SCENARIO = """
model: llama-3.1-8b
cluster: dgx-h100
workload: {phase: generate, prompt: 128, new_tokens: 16, global_batch: 4}
plan: {tp: 4}
"""


def commlens(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "commlens", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    (path / "scenario.yaml").write_text(SCENARIO)
    return path


def test_simulate_prints_json_with_the_contract_fields(folder):
    done = commlens("simulate", "scenario.yaml", "--json", "--set", "techniques=[ladder_residual]", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    fields = json.loads(done.stdout)
    assert {
        "time_s",
        "tokens_per_second",
        "tokens_per_second_per_device",
        "model_flops_per_device",
        "mfu",
        "compute_s",
        "communication_s",
        "exposed_communication_s",
        "communication_bytes",
        "memory_traffic_bytes",
        "memory_bytes",
        "fits",
        "bound",
        "interval_s",
        "warnings",
    } <= set(fields)
    assert sum(fields["bound"].values()) == pytest.approx(1)
    low, high = fields["interval_s"]
    assert low < fields["time_s"] < high


def test_simulate_writes_pictures_and_traces(folder):
    done = commlens(
        "simulate", "scenario.yaml", "--timeline", "t.png", "--window", "0,1ms", "--perfetto", "t.json", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "t.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "t.json").read_text())["traceEvents"]


def test_compare_sweep_search_and_list(folder):
    table = commlens("compare", "scenario.yaml", "--techniques", "baseline,t3:arbitration=mca", cwd=folder)
    assert table.returncode == 0
    assert "t3 (arbitration=mca)" in table.stdout
    assert "speedup" in table.stdout
    swept = commlens("sweep", "scenario.yaml", "--grid", "plan.tp=1,2,3", "--csv", "sweep.csv", cwd=folder)
    assert swept.returncode == 0
    assert "does not divide" in swept.stdout
    assert len((folder / "sweep.csv").read_text().splitlines()) == 4
    found = commlens("search", "scenario.yaml", "--devices", "4", "--json", cwd=folder)
    assert found.returncode == 0
    assert json.loads(found.stdout)[0]["tp"] in (1, 2, 4)
    for what in ("techniques", "models", "devices", "clusters", "software"):
        shown = commlens("list", what, cwd=folder)
        assert shown.returncode == 0
        assert len(shown.stdout.splitlines()) > 2


MISTAKES = {
    "no such file": (["simulate", "nothing.yaml"], ["nothing.yaml"]),
    "unknown key": (["simulate", "scenario.yaml", "--set", "plan.tpp=2"], ["plan.tpp"]),
    "tp": (["simulate", "scenario.yaml", "--set", "plan.tp=5"], ["plan.tp", "divide"]),
    "bad set": (["simulate", "scenario.yaml", "--set", "plan.tp"], ["--set", "KEY=VALUE"]),
    "bad yaml value": (["simulate", "scenario.yaml", "--set", "plan=[1"], ["--set", "plan"]),
    "bad grid value": (["sweep", "scenario.yaml", "--grid", "plan.tp=[1"], ["--grid", "plan.tp"]),
    "bad option value": (["compare", "scenario.yaml", "--techniques", "t3:arbitration=[m"], ["--techniques"]),
    "unknown command": (["simulat"], ["simulat"]),
    "unknown option": (["simulate", "scenario.yaml", "--jsn"], ["--jsn"]),
    "missing argument": (["compare"], ["scenario"]),
    "unknown technique": (["compare", "scenario.yaml", "--techniques", "t4"], ["t4", "t3"]),
    "no trace of an estimate": (
        ["simulate", "scenario.yaml", "--engine", "estimate", "--timeline", "x.png"],
        ["estimate"],
    ),
    "unknown engine": (
        ["simulate", "scenario.yaml", "--engine", "astra"],
        ["astra", "simulate, estimate"],
    ),
    "unknown phase": (
        ["simulate", "scenario.yaml", "--phase", "training"],
        ["training", "prefill, decode"],
    ),
    "no window": (["simulate", "scenario.yaml", "--window", "2ms"], ["--window", "START,END"]),
    "window without unit known": (["simulate", "scenario.yaml", "--window", "2ms,3 years"], ["--window", "1.5 us"]),
    "window backwards": (["simulate", "scenario.yaml", "--window", "3ms,2ms"], ["--window", "START < END"]),
    "unknown family": (["validate", "--family", "tensors"], ["tensors", "tensor_parallel"]),
    "unwritable": (
        ["simulate", "scenario.yaml", "--timeline", "no/such/folder/x.png"],
        ["--timeline", "x.png"],
    ),
    "unknown format": (
        ["simulate", "scenario.yaml", "--timeline", "x.bmpx"],
        ["--timeline", "x.bmpx"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_2(folder, name):
    arguments, words = MISTAKES[name]
    done = commlens(*arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" or name in ("unwritable", "unknown format")
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_collective_prints_what_nccl_tests_would(folder):
    done = commlens("collective", "--cluster", "dgx-h100", "--sizes", "64MiB", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["sizes"]
    assert row["bus_bandwidth"] == pytest.approx(row["size"] / row["time_s"] * 2 * 7 / 8)
    every = commlens("collective", "--cluster", "dgx-h100", "--sizes", "1KiB:1GiB", "--every", cwd=folder)
    assert every.stdout.count("in-switch") == 11
    pinned = commlens("collective", "--cluster", "dgx-h100", "--sizes", "1GiB", "--algorithm", "ring", cwd=folder)
    assert "ring" in pinned.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--op", "all_shuffle"], "legal: all_reduce"),
        (["--sizes", "2GiB:1GiB"], "--sizes"),
        (["--ranks", "9"], "legal: 1 to 8"),
        (["--algorithm", "rign"], "legal: ring"),
    ],
)
def test_collective_refuses_in_one_line(folder, arguments, words):
    done = commlens("collective", "--cluster", "dgx-h100", *arguments, cwd=folder)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


LOG = """# nThread 1 nGpus 4 minBytes 1024 maxBytes 1073741824 step: 2(factor) warmup iters: 5 iters: 20
# Collective test starting: all_reduce_perf
#       size         count      type   redop    root     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)
"""


def test_calibrate_writes_a_profile_and_names_a_damaged_line(folder):
    lines = []
    for k in range(10, 31):
        size = 2**k
        time = 12 + 6 * size / 4 / 100e3 if k < 21 else 25 + 6 * size / 4 / 200e3
        rate = size / time / 1e3
        lines.append(f"{size:12} {size // 4:12} float sum -1 {time:9.2f} {rate:7.2f} {1.5 * rate:7.2f} 0")
    (folder / "good.txt").write_text(LOG + "\n".join(lines) + "\n")
    done = commlens("calibrate", "collectives", "good.txt", "--out", "mine.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Break-points" in done.stdout
    used = commlens(
        "collective", "--cluster", "{preset: dgx-a100, link: {profile: mine.yaml}}", "--ranks", "4",
        "--sizes", "1GiB", "--json", cwd=folder,
    )  # fmt: skip
    assert json.loads(used.stdout)["sizes"][0]["time_s"] == pytest.approx(1e-6 * (25 + 6 * 2**28 / 200e3), rel=0.05)
    lines[3] = lines[3].replace("float", "float flaot")
    (folder / "bad.txt").write_text(LOG + "\n".join(lines) + "\n")
    done = commlens("calibrate", "collectives", "bad.txt", cwd=folder)
    assert done.returncode == 2
    assert "bad.txt: line 8" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "0"], "--timeout: 0 (legal: seconds, above 0)"),
        (["--timeout", "nan"], "--timeout: nan (legal: seconds, above 0)"),
        (["--cluster", "nowhere"], "unknown cluster 'nowhere'"),
    ],
)
def test_calibrate_refuses_before_it_measures(folder, arguments, words):
    done = commlens("calibrate", "collectives", "--backend", "gloo", "--nproc", "2", *arguments, cwd=folder)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "collectives.jsonl").exists()


def test_topology_shows_a_cluster_and_draws_it(folder):
    done = commlens("topology", "l40s-pcie", "--plot", "box.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8 devices" in done.stdout
    assert (folder / "box.png").stat().st_size > 5000
    parts = json.loads(commlens("topology", "dgx-h100", "--json", cwd=folder).stdout)
    assert parts["ranks"] == 8
    assert len(parts["links"]) == 16
    (folder / "torn.xml").write_text("<system version='1'><cpu")
    assert "torn.xml" in commlens("topology", "torn.xml", cwd=folder).stderr
