"""LASP, LASP-2 and LASP-2H: what they send, and their closed forms."""

import dataclasses

import pytest

import commlens as cl
from commlens import InputError
from commlens.hardware import load_cluster
from commlens.models.attention import kv_bytes
from commlens.models.blocks import Attend
from commlens.models.build import Builder
from commlens.models.clock import Clock
from commlens.models.groups import communicator, process_groups
from commlens.models.kernels import Kernels
from commlens.models.linear_attention import divided, parts, state_bytes
from commlens.models.plan import Plan
from commlens.models.software import load_software
from commlens.models.techniques import parse_technique
from commlens.models.techniques.sequence_parallel.lasp2h import last_rank
from commlens.simulator import run

DIRECTIONS = ("forward", "backward")


def machine(ranks, **software):
    cluster = load_cluster({"preset": "dgx-a100", "nodes": -(-ranks // 8)})
    kernels = Kernels(cluster.device, load_software({"preset": "ideal", **software}), "bf16", training=True)
    return cluster, kernels, process_groups(cluster, Plan(cp=ranks))


def core(ranks, tokens=4096, direction="forward", linear=True):
    return Attend(1, tokens, tokens * ranks, 16, 8, 128, 128, linear=linear, direction=direction)


def timed(what, ranks, case, **software):
    """(seconds by closed form, seconds by simulation, bytes sent by kind) of an attention core alone."""
    cluster, kernels, groups = machine(ranks, **software)
    call = parse_technique(what)
    clock = Clock(cluster, kernels, groups)
    call.technique.build(case, clock, clock.start, **call.options)
    build = Builder("core", cluster, kernels, 1, groups=groups)
    call.technique.build(case, build, build.start, **call.options)
    return float(clock.end()), run(build.program).makespan, {k: float(v) for k, v in clock.sent.items()}


def seconds(kernels):
    return sum(kernel.time + kernel.overhead for kernel in kernels)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("ranks", "crossing"), [(2, 0), (6, 0), (8, 0), (16, 1), (64, 7)])
def test_lasp_waits_for_a_hop_and_the_work_before_it_of_every_rank_but_its_own(ranks, crossing, direction):
    """T_par + (W - 1) (alpha + S / bandwidth + t_inter), hops inside nodes and between them each at their cost."""
    case, gap = core(ranks, direction=direction), 3e-6
    cluster, kernels, groups = machine(ranks, collective_overhead=gap)
    found, size = divided(case, kernels, groups.cp, 3), state_bytes(case)
    inside = communicator(cluster, min(ranks, 8), 1).collective("send_recv", size).time
    between = communicator(cluster, ranks, 1).collective("send_recv", size).time
    between_work = seconds(found.inter) + gap
    expected = seconds((*found.state, *found.intra, *found.inter))
    expected += (ranks - 1) * between_work + (ranks - 1 - crossing) * inside + crossing * between
    closed, played, sent = timed("lasp", ranks, case, collective_overhead=gap)
    assert closed == pytest.approx(expected, rel=1e-9)
    assert played == pytest.approx(expected, rel=1e-9)
    assert sent == {"send_recv": size}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ranks", [2, 6, 64])
def test_lasp2_without_overlap_is_a_sum(ranks, direction):
    case = core(ranks, direction=direction)
    cluster, kernels, groups = machine(ranks)
    found = divided(case, kernels, groups.cp, ranks)
    gather = communicator(cluster, ranks, 1).collective("all_gather", ranks * state_bytes(case)).time
    expected = seconds((*found.state, *found.intra, *found.inter)) + gather
    closed, played, sent = timed({"name": "lasp2", "overlap": "no"}, ranks, case)
    assert closed == pytest.approx(expected, rel=1e-9)
    assert played == pytest.approx(expected, rel=1e-9)
    assert sent == {"all_gather": (ranks - 1) * state_bytes(case)}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ranks", [2, 6, 64])
def test_overlap_hides_the_shorter_of_gather_and_chunk(ranks, direction):
    case = core(ranks, direction=direction)
    cluster, kernels, groups = machine(ranks)
    found = divided(case, kernels, groups.cp, ranks)
    gather = communicator(cluster, ranks, 1).collective("all_gather", ranks * state_bytes(case))
    around, within = seconds((*found.state, *found.inter)), seconds(found.intra)
    share = gather.channels / cluster.device.compute_units
    closed, played, _ = timed("lasp2", ranks, case)
    for time in (closed, played):
        assert around + max(gather.time, within) - 1e-12 <= time
        # The gather's channels are taken from the kernels beside it, no more.
        assert time <= around + max(gather.time, within) + share * gather.time + 1e-9


def test_what_is_sent_does_not_grow_with_the_sequence():
    for name in ("lasp", "lasp2"):
        assert timed(name, 8, core(8, 1024))[2] == timed(name, 8, core(8, 65_536))[2]


def test_pieces_cost_latency_and_no_bytes():
    case = core(16, 2048)
    runs = [timed({"name": "lasp2", "pieces": pieces}, 16, case) for pieces in (1, 4, 64)]
    assert runs[0][0] <= runs[1][0] <= runs[2][0]
    for _, _, sent in runs[1:]:
        assert sent["all_gather"] == pytest.approx(runs[0][2]["all_gather"], rel=1e-12)
    long = core(16, 1_048_576)  # the work within the chunk covers them all but for the channels they take
    one, many = (timed({"name": "lasp2", "pieces": pieces}, 16, long)[0] for pieces in (1, 64))
    assert many == pytest.approx(one, rel=0.05)


def test_a_faster_network_never_slows():
    for name in ("lasp", "lasp2", "lasp2h"):
        times = []
        for nic in ("hdr200", "ndr400"):
            case = training(name, model="linear-llama3-1b", ranks=16, nic=nic)
            times.append(cl.estimate(case).time_s)
        assert times[1] <= times[0]


def training(name, model="linear-llama3-1b", ranks=8, length=65_536, nic=None, **plan):
    return cl.Scenario.from_dict(
        {
            "model": model,
            "cluster": {"preset": "dgx-a100", "nodes": -(-ranks // 8), **({"nic": nic} if nic else {})},
            "workload": {"phase": "training", "sequence_length": length, "global_batch": 1},
            "plan": {"cp": ranks, **plan},
            "techniques": [name] if name else [],
        }
    )


def test_where_nothing_is_asked_for_states_are_gathered_too():
    assert cl.estimate(training(None)).time_s == cl.estimate(training("lasp2")).time_s


@pytest.mark.parametrize("name", ["lasp", "lasp2", "lasp2h"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_training_runs_estimated_and_simulated(name, recompute):
    case = training(name, ranks=6, recompute=recompute)
    closed, played = cl.estimate(case), cl.simulate(case)
    assert played.time_s == pytest.approx(closed.time_s, rel=0.03)
    passes = 3 if recompute == "full" else 2
    kind = "send_recv" if name == "lasp" else "all_gather"
    copies = 1 if name == "lasp" else 5
    assert closed.communication_bytes[kind] == pytest.approx(16 * passes * copies * 8 * 64 * 64 * 4, rel=1e-9)


def test_the_gap_grows_with_the_chunk_and_with_the_ranks():
    def gap(ranks, tokens):
        return timed("lasp", ranks, core(ranks, tokens))[0] - timed("lasp2", ranks, core(ranks, tokens))[0]

    assert 0 < gap(8, 8192) < gap(8, 32_768) < gap(64, 32_768)


# -- hybrids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lasp", "lasp2"])
def test_softmax_layers_are_refused_and_lasp2h_named(name):
    with pytest.raises(InputError, match="lasp2h") as error:
        cl.estimate(training(name, model="linear-llama3-1b-hybrid"))
    assert "\n" not in str(error.value)


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="legal: yes, no"):
        parse_technique({"name": "lasp2", "overlap": "maybe"})
    with pytest.raises(InputError, match="pieces"):
        parse_technique({"name": "lasp2", "pieces": 0})


@pytest.mark.parametrize("ranks", [2, 6, 16])
def test_lasp2h_gathers_keys_and_values_before_attention(ranks):
    case = core(ranks, linear=False)
    cluster, kernels, groups = machine(ranks)
    size = kv_bytes(case, kernels, case.context)
    gather = communicator(cluster, ranks, 1).collective("all_gather", size).time
    build = Builder("core", cluster, kernels, 1, groups=groups)
    closed, played, sent = timed("lasp2h", ranks, case)
    assert closed == pytest.approx(gather + seconds(last_rank(case, build)), rel=1e-9)
    assert played == pytest.approx(closed, rel=1e-9)
    assert sent == {"all_gather": pytest.approx(size * (ranks - 1) / ranks)}
    _, _, back = timed("lasp2h", ranks, core(ranks, linear=False, direction="backward"))
    assert back == {"reduce_scatter": pytest.approx(size * (ranks - 1) / ranks)}


@pytest.mark.parametrize("ranks", [2, 6, 16])
def test_the_last_rank_has_nearly_twice_the_mean(ranks):
    case = core(ranks, linear=False)
    _, kernels, groups = machine(ranks)
    build = Builder("core", machine(ranks)[0], kernels, 1, groups=groups)
    scores = sum(kernel.flops for kernel in last_rank(case, build)) / (2 * 16 * (128 + 128))
    chunk = case.query
    assert scores == chunk * (case.context - chunk) + chunk**2 / 2
    mean = case.context**2 / 2 / ranks
    assert scores / mean == pytest.approx(2 - 1 / ranks)


@pytest.mark.parametrize("window", [1, 1000, 4096, 10_000])
def test_under_a_window_the_last_rank_gathers_all_and_attends_to_the_window(window):
    case = dataclasses.replace(core(8, linear=False), context=window, whole=8 * core(8).query)
    cluster, kernels, groups = machine(8)
    made = last_rank(case, Builder("core", cluster, kernels, 1, groups=groups))
    assert sum(kernel.flops for kernel in made) == pytest.approx(2 * 16 * (128 + 128) * case.query * window)
    assert all(kernel.time > 0 for kernel in made)
    _, _, sent = timed("lasp2h", 8, case)
    assert sent == {"all_gather": pytest.approx(kv_bytes(case, kernels, case.whole) * 7 / 8)}


def test_lasp2h_is_lasp2_where_all_is_linear():
    assert cl.estimate(training("lasp2h")).time_s == cl.estimate(training("lasp2")).time_s
    assert parts(core(8), machine(8)[1]).inter  # what other chunks add is there
