"""Nothing is ever faster than the bytes that must cross a port or a cut."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import cluster_names, load_cluster
from commlens.hardware.fabrics import fat_tree, full_mesh, ring, switch, torus
from commlens.simulator import (
    Communicator,
    Program,
    TopologyRoutes,
    algorithm,
    algorithm_names,
    lower,
    run,
    topology_bound,
    wire_bound,
)

EXCHANGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@st.composite
def fabrics(draw):
    """Fabrics of 2 to 16 ranks."""
    bandwidth, latency = draw(st.sampled_from([1e9, 5e10])), draw(st.sampled_from([0.0, 1e-6]))
    n = draw(st.integers(2, 12))
    return draw(
        st.sampled_from(
            [
                lambda: switch(n, bandwidth, latency),
                lambda: ring(n, bandwidth, latency),
                lambda: full_mesh(n, bandwidth, latency),
                lambda: torus((2, n // 2) if n > 3 else (n,), bandwidth, latency),
                lambda: fat_tree(n, 4, bandwidth, latency, oversubscription=2.0),
            ]
        )
    )()


@given(fabrics(), st.data())
@settings(max_examples=80)
def test_no_algorithm_beats_a_port_or_a_cut(topology, data):
    kind = data.draw(st.sampled_from(EXCHANGES))
    n = data.draw(st.integers(2, topology.ranks))
    names = [name for name in algorithm_names(kind) if name != "in_switch"]
    name = data.draw(st.sampled_from(names))
    size = data.draw(st.floats(1e3, 1e9))
    program = Program(name)
    lower(program, algorithm(name), kind, n, size, TopologyRoutes(program, topology))
    took = run(program).end.max()
    assert took >= topology_bound(kind, size, topology, n) * (1 - 1e-9)
    ports = [topology.capacity[np.unique(topology.resource[topology.source == rank])].sum() for rank in range(n)]
    assert took >= wire_bound(kind, n, size, max(ports)) * (1 - 1e-9)


@given(fabrics(), st.floats(1e3, 1e9))
@settings(max_examples=40)
def test_an_all_to_all_needs_what_a_maximum_flow_lets_through(topology, size):
    # Half of the ranks against the other half: an upper limit of what any routing carries.
    n = topology.ranks
    graph = topology.graph()
    half = n // 2
    for rank in range(n):
        ends = ("s", f"gpu{rank}") if rank < half else (f"gpu{rank}", "t")
        graph.add_edge(*ends)
    through = nx.maximum_flow_value(graph, "s", "t", capacity="bandwidth")
    program = Program("direct")
    lower(program, algorithm("direct"), "all_to_all", n, size, TopologyRoutes(program, topology))
    assert run(program).end.max() >= half * (n - half) * size / n / through * (1 - 1e-9)


@given(
    st.sampled_from(cluster_names()),
    st.sampled_from(EXCHANGES),
    st.integers(1, 4),
    st.integers(2, 64),
    st.floats(1, 1e11),
)
@settings(max_examples=200)
def test_the_librarys_choice_stays_above_the_wire(name, kind, nodes, ranks, size):
    cluster = load_cluster(name)
    if cluster.nic is not None:
        cluster = cluster.replace(nodes=nodes)
    ranks = min(ranks, cluster.size)
    group = Communicator(cluster, ranks)
    cost = group.collective(kind, size)
    bound = wire_bound(kind, ranks, size, cluster.link.bandwidth, cost.algorithm == "in-switch")
    assert cost.time >= bound * (1 - 1e-12)
    for option, _, time in group.options(kind, size):
        assert time >= wire_bound(kind, ranks, size, cluster.link.bandwidth, option == "in-switch") * (1 - 1e-12)


def test_a_bound_of_one_rank_is_nothing_and_an_unknown_kind_is_refused():
    assert wire_bound("all_reduce", 1, 1e9, 1e9) == 0.0
    assert wire_bound("all_reduce", np.array([1, 2, 4]), 1e9, 1e9) == pytest.approx([0.0, 1.0, 1.5])
    assert wire_bound("all_reduce", 4, 1e9, 1e9, in_switch=True) == 1.0
    with pytest.raises(ValueError, match="legal"):
        wire_bound("all_shuffle", 2, 1.0, 1.0)
