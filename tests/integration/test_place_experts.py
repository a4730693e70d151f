"""``commlens place-experts`` as a user types it, and `place` as a notebook does."""

from __future__ import annotations

import json

import numpy as np
import pytest

import commlens as cl
from commlens import cli
from commlens.hardware import load_cluster
from commlens.models.routing.generate import generate
from commlens.models.routing.place import place
from commlens.models.routing.placement_file import load_placement
from commlens.models.routing.statistics import crossings, imbalance
from commlens.models.routing.trace import RoutingTrace
from commlens.models.routing.trace_file import save_trace

LAYERS, EXPERTS = 5, 8
MODEL = {
    "model_type": "gpt2_moe", "n_layer": LAYERS, "n_embd": 256, "n_head": 4, "n_inner": 1024, "vocab_size": 1024,
    "n_positions": 1024, "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
}  # fmt: skip
QUICK = ("--time-limit", "2")


@pytest.fixture(scope="module")
def trace():
    return generate(800, LAYERS, EXPERTS, 2, affinity=0.7, skew=0.5, seed=1)


@pytest.fixture
def commlens(tmp_path, capsys, monkeypatch, trace):
    """Run a command line in a folder with a trace; give exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    save_trace(trace, "seen.npz")

    def call(*arguments):
        status = 0
        try:
            cli.main(["place-experts", *arguments])
        except SystemExit as end:
            status = end.code or 0
        return (status, *capsys.readouterr())

    return call


def test_a_trace_is_placed(commlens):
    status, out, err = commlens("seen.npz", "--devices", "4", *QUICK)
    assert (status, err) == (0, "")
    for word in (
        "800 tokens, 5 layers, 2 of 8 experts",
        "4 of dgx-h100",
        "of 4: ",
        "saved",
        "busiest device",
        "affinity",
    ):
        assert word in out
    assert "between nodes" not in out


def test_a_shipped_trace_is_placed_on_two_nodes(commlens):
    status, out, _ = commlens("stdlib-moe", "--nodes", "2", "--time-limit", "0.5")
    assert status == 0
    assert "16 of dgx-h100, 2 nodes; a move between nodes weighs 6.3 inside one" in out
    assert "between nodes" in out


def test_json_is_what_can_be_counted(commlens, trace):
    status, out, _ = commlens("seen.npz", "--nodes", "2", "--cluster", "dgx-a100", "--devices", "8", "--json", *QUICK)
    assert status == 0
    found = json.loads(out)
    assert (found["devices"], found["nodes"], found["node_cost"]) == (8, 1, 1.0)
    device = np.array(found["device"])
    assert (np.sort(device, axis=1) == np.arange(8)).all()
    before, after = (crossings(trace, where, 1, 8) for where in (np.tile(np.arange(8), (LAYERS, 1)), device))
    assert (found["moves_before"], found["moves_after"]) == pytest.approx((before.devices, after.devices))
    assert found["saved"] == pytest.approx(1 - after.devices / before.devices)
    assert found["saved"] > 0.3
    assert found["bound"] <= found["cost_after"] * (1 + 1e-9)
    assert found["gap"] == pytest.approx(max(0.0, 1 - found["bound"] / found["cost_after"]), abs=1e-4)
    assert found["load_after"] == pytest.approx(imbalance(trace, device, 8).tolist())
    assert found["imbalance_after"] == pytest.approx(np.mean(found["load_after"]))
    assert len(found["affinity"]["markov"]) == LAYERS - 1
    assert found["replicas"] is None


def test_a_scenario_takes_the_file(commlens, trace):
    assert commlens("seen.npz", "--devices", "4", "--out", "placed.json", *QUICK)[0] == 0
    file = load_placement("placed.json")
    assert (file.devices, file.nodes) == (4, 1)
    assert file.about["trace"] == "generated: " + trace.source.removeprefix("generated: ")
    assert file.about["moves_before"] > file.about["moves_after"] >= file.about["bound"] * (1 - 1e-9)
    data = {
        "model": MODEL,
        "cluster": "dgx-h100",
        "plan": {"dp": 4, "ep": 4},
        "workload": {"phase": "decode", "sequence_length": 64, "global_batch": 4, "routing": {"trace": "seen.npz"}},
        "techniques": ["exflow"],
    }
    plain = cl.estimate(cl.Scenario.from_dict(data))
    data["workload"]["routing"]["placement"] = "placed.json"
    scenario = cl.Scenario.from_dict(data)
    near = scenario.workload.routing.spread(EXPERTS, 2, 4, 1).same_device
    assert near == pytest.approx(1 - file.about["moves_after"] / (LAYERS - 1))
    assert cl.estimate(scenario).communication_bytes["all_to_all"] < plain.communication_bytes["all_to_all"]


def test_penalised_balance_spreads_load(commlens):
    even, spread = (
        json.loads(
            commlens("seen.npz", "--devices", "4", "--balance", how, "--json", "--out", f"{how}.json", *QUICK)[1]
        )
        for how in ("hard", "penalised")
    )
    assert spread["imbalance_after"] < even["imbalance_after"]
    assert spread["deviation"] > 0 == even["deviation"]
    counts = np.bincount(load_placement("penalised.json").device.ravel(), minlength=4)
    assert (counts == LAYERS * EXPERTS / 4).all()


def test_copies_of_busy_experts_even_the_load_out(commlens):
    status, out, _ = commlens("seen.npz", "--devices", "4", "--replicas", "4", "--json", "--out", "p.json", *QUICK)
    found = json.loads(out)
    assert status == 0
    copies = found["replicas"]
    assert copies["imbalance"] < found["imbalance_before"]
    assert copies["copies"] == sum(sum(one >= 0 for one in place) for row in copies["expert"] for place in row) - 40
    assert load_placement("p.json").about["replicas"] == copies
    assert "4 places a device: busiest" in commlens("seen.npz", "--devices", "4", "--replicas", "4", *QUICK)[1]


def test_the_seed_and_the_slots_are_taken(commlens):
    one, again = (json.loads(commlens("seen.npz", "--devices", "2", "--seed", "7", "--json")[1]) for _ in range(2))
    del one["solver_s"], again["solver_s"]
    assert one == again
    every = json.loads(commlens("seen.npz", "--devices", "2", "--slots", "all", "--json")[1])
    assert every["moves_before"] != one["moves_before"]
    assert every["affinity"] == one["affinity"]  # of first experts


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_a_picture_is_written(commlens, tmp_path, name):
    assert commlens("seen.npz", "--nodes", "2", "--devices", "8", "--plot", name, *QUICK)[0] == 0
    assert (tmp_path / name).stat().st_size > 5000


# In a notebook


@pytest.mark.parametrize(("devices", "nodes"), [(4, 1), (16, 2), (64, 8)])
def test_traffic_is_what_moves(devices, nodes):
    trace = generate(300, 4, 64, 2, affinity=0.6, seed=2)
    found = place(trace, {"preset": "dgx-h100", "nodes": nodes}, devices=devices, time_limit=0.5)
    for device, moves in ((found.rank_order, found.before), (found.placement.device, found.after)):
        flow = found.traffic(device)
        assert flow.shape == (devices, devices)
        assert flow.sum() == pytest.approx(3)
        node = np.arange(devices) // 8
        assert flow.sum() - np.trace(flow) == pytest.approx(moves.devices)
        assert flow[node[:, None] != node].sum() == pytest.approx(moves.nodes)
    assert found.weighted(found.after) == pytest.approx(found.placement.cost)
    figure = found.plot()
    left, right, bar = figure.axes
    assert left.images[0].get_clim() == right.images[0].get_clim()
    assert f"{found.before.devices:.2f} moves a token" in left.get_title(loc="left")
    assert f"{found.after.devices:.2f} moves a token" in right.get_title(loc="left")
    assert len(left.lines) == 2 * (nodes - 1)
    assert "moves of a token" in bar.get_ylabel()


def test_moves_between_nodes_weigh_by_the_rates():
    """Of links and adapters in an exchange among all; a slower adapter weighs more."""
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 2})
    link, nic = (part.bandwidth * part.profile.exchange_bulk.efficiency for part in (cluster.link, cluster.nic))
    trace = generate(100, 3, 16, 1, affinity=0.5)
    assert place(trace, cluster, time_limit=0.2).node_cost == pytest.approx(link / nic)
    slow = {"preset": "dgx-h100", "nodes": 2, "nic": {"preset": "ndr400", "bandwidth": "100 Gbit/s"}}
    assert place(trace, slow, time_limit=0.2).node_cost == pytest.approx(4 * link / nic)
    assert place(trace, cluster, devices=8, time_limit=0.2).node_cost == 1


def test_tokens_that_never_move_save_nothing():
    """Every token keeps to one expert: rank order is as good as any, and no share of nothing is saved."""
    ids = np.repeat(np.arange(8)[:, None, None], 3, axis=1)
    found = place(RoutingTrace(ids, 8), devices=4, time_limit=1.0)
    assert (found.before.devices, found.after.devices, found.saved) == (0, 0, 0)
    assert found.placement.status == "optimal"
    assert "saved           0.0%" in found.summary()
    found.plot()


def test_a_summary_says_what_to_know():
    trace = generate(300, 30, 16, 1, affinity=0.5, skew=1.5, seed=0)
    text = place(trace, devices=4, time_limit=0.5).summary()
    assert "behind layer" in text  # too many boundaries to list
    assert "busy experts share devices" in text
    assert "proved the best" not in text.replace("not proved the best", "")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.npz",), "none.npz: cannot be read: No such file or directory"),
        (("stdlib-mo",), "routing trace: unknown 'stdlib-mo'; did you mean stdlib-moe? (legal: "),
        (("torn.npz",), "torn.npz: is not a .npz file"),
        (("high.npz",), "high.npz: experts: token 0, layer 0: expert 9 (legal: 0 to 7)"),
        (("twice.npz",), "twice.npz: experts: token 0, layer 0: [1, 1] names an expert twice"),
        (("ragged.npz",), "ragged.npz: array experts cannot be read"),
        (("single.npz",), "single.npz: 1 layer with experts (legal: 2 or more, for tokens to move between)"),
        (("seen.npz", "--devices", "3"), "devices: 3 of dgx-h100 with 1 x 8 for 8 experts (legal: 1, 2, 4, 8)"),
        (("seen.npz", "--devices", "0"), "devices: 0 of dgx-h100"),
        (("seen.npz", "--devices", "16"), "devices: 16 of dgx-h100 with 1 x 8 for 8 experts (legal: 1, 2, 4, 8)"),
        (("seen.npz", "--nodes", "2"), "devices: 16 of dgx-h100 with 2 x 8 for 8 experts (legal: 1, 2, 4, 8)"),
        (("seen.npz", "--nodes", "0"), "cluster dgx-h100: nodes: '0'"),
        (("seen.npz", "--cluster", "dgx-h10"), "cluster: unknown cluster 'dgx-h10' (legal: "),
        (("seen.npz", "--cluster", "none.yaml"), "none.yaml: cannot be read"),
        (("seen.npz", "--balance", "soft"), "balance: 'soft' (legal: 'hard', 'penalised')"),
        (("seen.npz", "--slots", "second"), "slots: 'second' (legal: first, all)"),
        (("seen.npz", "--time-limit", "0"), "time_limit: 0.0 (legal: a finite number of seconds above 0)"),
        (("seen.npz", "--time-limit", "nan"), "time_limit: nan (legal: "),
        (("seen.npz", "--seed", "-1"), "seed: -1 (legal: a whole number, 0 or more)"),
        (("seen.npz", "--devices", "4", "--replicas", "1"), "replicas: 1 places on each of 4 devices for 8 experts"),
        (("seen.npz", "--devices", "4", "--replicas", "9"), "replicas: 9 places on each of 4 devices for 8 experts"),
        (("seen.npz", "--out", "placed.yaml"), "--out: placed.yaml (legal: a .json file)"),
        (("seen.npz", "--out", "no/placed.json"), "--out: cannot write no/placed.json: no folder no"),
        (("seen.npz", "--plot", "no/a.png"), "--plot: cannot write no/a.png: no folder no"),
        (("seen.npz", "--plot", "a.txt", "--devices", "2"), "--plot: cannot write a.txt"),
        (("seen.npz", "--out", "folder.json", "--devices", "2"), "folder.json: cannot be written: Is a directory"),
        (("seen.npz", "--devices", "two"), "Invalid value for '--devices'"),
        ((), "Missing argument"),
    ],
)
def test_bad_input_is_one_line(commlens, tmp_path, trace, arguments, said):
    (tmp_path / "torn.npz").write_bytes((tmp_path / "seen.npz").read_bytes()[:100])
    (tmp_path / "folder.json").mkdir()
    ids = np.array(trace.experts)
    for name, experts in (("high", np.where(ids == 7, 9, ids)), ("twice", np.ones_like(ids)), ("single", ids[:, :1])):
        np.savez(tmp_path / f"{name}.npz", experts=experts[np.argsort(-experts[:, 0, 0])], num_experts=np.int64(8))
    ragged = np.empty(2, dtype=object)
    ragged[:] = [[[0, 1], [2, 3]], [[0, 1]]]
    np.savez(tmp_path / "ragged.npz", experts=ragged, num_experts=np.int64(8))
    status, _, err = commlens(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
