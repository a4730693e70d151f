"""One suite for every collective algorithm: right data, counted bytes, and the time of its closed form."""

import itertools
from collections import defaultdict
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import InputError
from commlens.hardware.fabrics import switch, torus
from commlens.simulator import Program, critical_path_time, run
from commlens.simulator.algorithms import KINDS, algorithm, algorithm_names
from commlens.simulator.algorithms.bounds import exchange_bound, wire_bound
from commlens.simulator.algorithms.double_binary_tree import width
from commlens.simulator.algorithms.lowering import lower
from commlens.simulator.algorithms.routes import TopologyRoutes
from commlens.simulator.algorithms.schedule import execute, goal

BANDWIDTH, OUTER, ALPHA, OUTER_ALPHA, SIZE = 1e11, 3e10, 2e-6, 7e-6, 3e7
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17)


def factors(n):
    """Ways to write n as up to three factors above 1, in order."""
    found = [(n,)]
    for a in range(2, n):
        if n % a == 0:
            found.append((a, n // a))
            found += [(a, b, n // a // b) for b in range(2, n // a) if n // a % b == 0]
    return found


def options_of(name, n):
    """Everything an algorithm may be told about the fabric."""
    if name.startswith("hierarchical"):
        return [{"local": local} for local in range(1, n + 1) if n % local == 0]
    if name == "torus":
        return [{"shape": shape} for shape in factors(n)]
    return [{}]


CASES = [
    (name, kind, n, options)
    for name in algorithm_names()
    for kind in algorithm(name).kinds
    for n in COUNTS
    for options in options_of(name, n)
]


def label(value):
    return str(value).replace(" ", "")


def fabric(program, name, n, options):
    """The idle, symmetric fabric an algorithm is made for: what a message loads, and its latency."""

    def port(text, bandwidth=BANDWIDTH):
        return program.resource(text, bandwidth)

    def routes(source, target, channel):
        if name == "torus":  # a link for each neighbour, told apart by the dimension
            return (port(f"{source}>{target} {channel // 2}"),), 0.0
        if name == "bidirectional_ring":  # two links that share a rank's bandwidth
            return (port(f"{source}>{target} {channel}", BANDWIDTH / 2),), 0.0
        if name == "in_switch":
            return (port(f"up{source}" if target == n else f"down{target}"),), 0.0
        if name.startswith("hierarchical") and channel == 1:
            return (port(f"nic{source}", OUTER), port(f"cin{target}", OUTER)), OUTER_ALPHA - ALPHA
        return (port(f"up{source}"), port(f"down{target}")), 0.0

    return routes


def lowered(name, kind, n, options, size=SIZE, **more):
    program = Program(f"{name} {kind}")
    # Messages that meet at a port of a tree each have their part of it.
    alone = {"bandwidth": BANDWIDTH / width(kind, n)} if name == "double_binary_tree" else {}
    routes = fabric(program, name, n, options)
    ends = lower(program, algorithm(name), kind, n, size, routes, latency=ALPHA, **options, **more, **alone)
    return program, ends


def closed(name, kind, n, options, size=SIZE, **more):
    outer = {"outer_bandwidth": OUTER, "outer_latency": OUTER_ALPHA} if name.startswith("hierarchical") else {}
    return algorithm(name).time(kind, n, size, BANDWIDTH, ALPHA, **options, **outer, **more)


@pytest.mark.parametrize(("name", "kind", "n", "options"), CASES, ids=label)
def test_every_rank_ends_with_the_right_data(name, kind, n, options):
    for root in {0, n // 2, n - 1} if kind in ("broadcast", "reduce") else {0}:
        held = execute(algorithm(name), kind, n, root, **options)
        for rank in range(n):
            for block, content in goal(kind, n, algorithm(name).blocks(kind, n, **options), rank, root).items():
                assert held[rank].get(block) == content, (rank, block)


@pytest.mark.parametrize(("name", "kind", "n", "options"), CASES, ids=label)
def test_simulated_time_is_the_closed_form(name, kind, n, options):
    program, ends = lowered(name, kind, n, options)
    expected = closed(name, kind, n, options)
    trace = run(program)
    assert trace.end.max(initial=0.0) == pytest.approx(expected, rel=1e-9)
    last = max((trace.end[task] for tasks in ends for task in tasks), default=0.0)
    assert last == pytest.approx(expected, rel=1e-9)
    assert critical_path_time(program) <= expected * (1 + 1e-9)
    in_switch = name == "in_switch"
    ports = max(1, sum(min(extent - 1, 2) for extent in options["shape"])) if name == "torus" else 1
    assert expected >= wire_bound(kind, n, SIZE, BANDWIDTH * ports, in_switch) * (1 - 1e-9)


@pytest.mark.parametrize(("name", "kind", "n", "options"), CASES, ids=label)
def test_bytes_on_every_link_are_the_closed_form(name, kind, n, options):
    program, _ = lowered(name, kind, n, options)
    loads = defaultdict(float)
    for task in program.tasks:
        for key, amount in task.demand.items():
            loads[key] += amount
    expected = algorithm(name).link_bytes(kind, n, SIZE, **options) if n > 1 else ()
    if name.startswith("hierarchical"):
        levels = [[v for k, v in loads.items() if k[:3] in level] for level in (("up", "upX"), ("nic", "cin"))]
        levels[0] = [v for k, v in loads.items() if not k.startswith(("nic", "cin"))]
    elif name == "torus":
        levels = [[v for k, v in loads.items() if k.endswith(f" {d}")] for d in range(len(options["shape"]))]
    else:
        levels = [list(loads.values())]
    for level, bytes_ in zip(levels, expected, strict=False):
        assert max(level, default=0.0) == pytest.approx(bytes_, rel=1e-12)
        if algorithm(name).symmetric and kind not in ("broadcast", "reduce"):
            assert min(level) == pytest.approx(bytes_, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_algorithm_and_a_refusal(kind):
    assert algorithm_names(kind)
    for name in set(algorithm_names()) - set(algorithm_names(kind)):
        with pytest.raises(InputError, match="legal: "):
            algorithm(name).time(kind, 4, 1e6, 1e9, 0.0)


FOLDED = [
    (name, kind)
    for name in algorithm_names()
    for kind in algorithm(name).kinds
    if algorithm(name).symmetric and kind not in ("broadcast", "reduce")
]


@pytest.mark.parametrize(("name", "kind"), FOLDED)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_folded_is_unfolded(name, kind, n):
    whole, folded = run(lowered(name, kind, n, {})[0]), lowered(name, kind, n, {}, folded=True)[0]
    assert run(folded).end.max() == pytest.approx(whole.end.max(), rel=1e-9)
    assert folded.count * n == whole.program.count


@pytest.mark.parametrize(
    ("name", "kind"), [("ring", "all_gather"), ("pairwise", "all_to_all"), ("direct", "all_to_all")]
)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_folded_is_unfolded_where_all_share_a_bus(name, kind, n):
    def play(folded):
        program = Program("bus")
        bus = program.resource("bus", 1e10)
        ports = [program.resource(f"up{r}", BANDWIDTH) for r in range(n)]
        lower(program, algorithm(name), kind, n, SIZE, lambda s, t, c: ((ports[s], bus), 0.0), folded=folded)
        return run(program).end.max()

    assert play(True) == pytest.approx(play(False), rel=1e-9)


def test_what_is_not_symmetric_is_not_folded():
    with pytest.raises(ValueError, match="none stands for all"):
        lowered("double_binary_tree", "all_reduce", 4, {}, folded=True)


@given(st.data())
@settings(max_examples=60)
def test_any_number_of_ranks_and_any_size(data):
    name = data.draw(st.sampled_from(algorithm_names()))
    kind = data.draw(st.sampled_from(algorithm(name).kinds))
    n = data.draw(st.integers(2, 40))
    options = data.draw(st.sampled_from(options_of(name, n)))
    size = data.draw(st.floats(1, 1e10))
    held = execute(algorithm(name), kind, n, **options)
    blocks = algorithm(name).blocks(kind, n, **options)
    assert all(held[r].get(b) == c for r in range(n) for b, c in goal(kind, n, blocks, r).items())
    program, _ = lowered(name, kind, n, options, size)
    assert run(program).end.max() == pytest.approx(closed(name, kind, n, options, size), rel=1e-9)


@pytest.mark.parametrize("name", algorithm_names())
def test_closed_forms_take_arrays(name):
    for kind in algorithm(name).kinds:
        n = 8
        options = options_of(name, n)[-1]
        sizes = np.array([1e3, 1e6, 1e9])
        rates = np.array([[1e10], [1e11]])
        together = algorithm(name).time(kind, n, sizes, rates, ALPHA, 1e-6, **options)
        assert together.shape == (2, 3)
        for i, j in itertools.product(range(2), range(3)):
            alone = algorithm(name).time(kind, n, sizes[j], rates[i, 0], ALPHA, 1e-6, **options)
            assert together[i, j] == pytest.approx(alone)
    if name != "torus" and not name.startswith("hierarchical"):
        kind = algorithm(name).kinds[0]
        many = algorithm(name).time(kind, np.array([1, 2, 4, 8]), 1e6, 1e9, ALPHA)
        assert many[0] == 0
        assert many == pytest.approx([algorithm(name).time(kind, n, 1e6, 1e9, ALPHA) for n in (1, 2, 4, 8)])


@given(st.integers(2, 9), st.integers(0, 2**31))
@settings(max_examples=30)
def test_unequal_all_to_alls_move_their_matrix_and_stay_above_the_wire(n, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 1000, (n, n)).astype(float) * 1e4
    for name in ("direct", "pairwise"):
        program = Program("v")
        routes = fabric(program, name, n, {})
        lower(program, algorithm(name), "all_to_all", n, 0.0, routes, latency=ALPHA, weights=matrix)
        sent = np.zeros((n, n))
        for task in program.tasks:
            source, target = (int(next(k for k in task.demand if k.startswith(p))[len(p) :]) for p in ("up", "down"))
            sent[source, target] += task.info["communication_bytes"]
        assert sent == pytest.approx(matrix * (1 - np.eye(n)))
        bound = exchange_bound(matrix, BANDWIDTH)
        assert bound == pytest.approx(max(sent.sum(axis=0).max(), sent.sum(axis=1).max()) / BANDWIDTH)
        assert run(program).end.max(initial=0.0) >= bound * (1 - 1e-9)


def test_equal_parts_as_a_matrix_are_an_all_to_all():
    n = 6
    equal = lowered("pairwise", "all_to_all", n, {})[0]
    matrix = lowered("pairwise", "all_to_all", n, {}, weights=np.full((n, n), SIZE / n))[0]
    assert run(matrix).end.max() == pytest.approx(run(equal).end.max())


def test_messages_wait_for_their_data():
    program = Program("after")
    source = program.add("produce", kind="compute", rank=2, stream="main", duration=1.0)
    routes = fabric(program, "ring", 4, {})
    lower(program, algorithm("ring"), "all_gather", 4, SIZE, routes, after=[(), (), (source,), ()])
    trace = run(program)
    late = [t for t in program.tasks if t.rank == 2 and t.kind == "communication"]
    assert min(trace.start[t.id] for t in late) >= 1.0
    assert trace.end.max() == pytest.approx(1.0 + 3 * SIZE / 4 / BANDWIDTH)


def test_two_collectives_share_a_link():
    def play(both):
        program = Program("shared")
        routes = fabric(program, "ring", 4, {})
        for k in range(2 if both else 1):
            lower(program, algorithm("ring"), "all_gather", 4, SIZE, routes, stream=f"job {k}")
        return run(program).end.max()

    assert play(True) == pytest.approx(2 * play(False), rel=1e-9)


def test_the_switch_of_a_fabric_takes_part():
    fabric = switch(8, BANDWIDTH, ALPHA)
    for kind in algorithm("in_switch").kinds:
        program = Program(kind)
        routes = TopologyRoutes(program, fabric, switch="switch0")
        lower(program, algorithm("in_switch"), kind, 8, SIZE, routes)
        expected = algorithm("in_switch").time(kind, 8, SIZE, BANDWIDTH, ALPHA)
        assert run(program).end.max() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (3, 3, 3), (5, 5)])
def test_a_torus_uses_all_its_links(shape):
    n = prod(shape)
    took = algorithm("torus").time("all_reduce", n, SIZE, BANDWIDTH, 0.0, shape=shape)
    assert took == pytest.approx(wire_bound("all_reduce", n, SIZE, 2 * len(shape) * BANDWIDTH))


def test_a_torus_of_the_fabrics_runs_it():
    program = Program("torus")
    routes = TopologyRoutes(program, torus((3, 4), BANDWIDTH, ALPHA))
    lower(program, algorithm("torus"), "all_reduce", 12, SIZE, routes, shape=(3, 4))
    expected = algorithm("torus").time("all_reduce", 12, SIZE, BANDWIDTH, ALPHA, shape=(3, 4))
    assert run(program).end.max() == pytest.approx(expected, rel=1e-9)


def test_product_of_extents():
    assert all(prod(shape) == 12 for shape in factors(12))
    with pytest.raises(InputError, match="3x3 for 8 ranks"):
        algorithm("torus").time("all_reduce", 8, 1e6, 1e9, 0.0, shape=(3, 3))
    with pytest.raises(InputError, match="nodes of 3"):
        list(algorithm("hierarchical").rounds("all_reduce", 8, local=3))
    with pytest.raises(InputError, match="did you mean ring"):
        algorithm("rign")
