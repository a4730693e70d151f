"""Dispatch and combine: bytes by counting tokens, bounds of the wire, and what each limit does."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import load_cluster
from commlens.simulator.expert_exchange import BF16_BYTES, FP8_BYTES, KERNELS, ExchangeKernel, exchange, expected_hit

SHAPE = {"hidden": 7168, "top_k": 8, "experts": 256, "element_bytes": FP8_BYTES}
FREE = ExchangeKernel(0.0, 0.0, 0.0, 0.0, 0.0, 1.0, True)


@pytest.mark.parametrize(("parts", "experts", "top_k"), [(2, 4, 1), (2, 6, 3), (3, 6, 2), (4, 8, 4), (1, 5, 5)])
def test_expected_hit_counts_every_choice(parts, experts, top_k):
    per_part = experts // parts
    choices = list(itertools.combinations(range(experts), top_k))
    mean = np.mean([len({expert // per_part for expert in choice}) for choice in choices])
    assert expected_hit(parts, experts, top_k) == pytest.approx(mean)


def test_one_node_moves_what_leaves_each_rank():
    cluster = load_cluster("dgx-h100")
    normal = exchange(cluster, 8, FREE, tokens=4096, **SHAPE)
    token = 7168 * FP8_BYTES
    hit = expected_hit(8, 256, 8)
    assert normal.logical_bytes == pytest.approx(4096 * token * hit)
    assert normal.link_bytes == pytest.approx(4096 * token * hit * 7 / 8)
    assert normal.nic_bytes == 0
    direct = exchange(cluster, 8, replace(FREE, deduplicated=False), tokens=4096, **SHAPE)
    assert direct.link_bytes == pytest.approx(4096 * token * 8 * 7 / 8)
    assert direct.logical_bytes > normal.logical_bytes


def test_sampled_routing_moves_the_expected_bytes():
    rng, ranks, local = np.random.default_rng(1), 16, 8
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 2})
    found = exchange(cluster, ranks, FREE, tokens=1000, **SHAPE)
    experts = np.argsort(rng.random((20_000, 256)), axis=1)[:, :8]
    home = experts // (256 // ranks)
    copies = np.mean([len(set(row)) for row in home])
    nodes = np.mean([len(set(row // local)) for row in home])
    token = 7168 * FP8_BYTES
    assert found.logical_bytes == pytest.approx(1000 * token * copies, rel=0.01)
    assert found.logical_nic_bytes == pytest.approx(1000 * token * nodes, rel=0.01)
    assert found.nic_bytes == pytest.approx(found.logical_nic_bytes / 2)


@given(
    st.sampled_from(sorted(KERNELS)), st.sampled_from(["dgx-h100", "hgx-h800", "hgx-b200"]), st.integers(1, 5),
    st.floats(1, 1e5), st.integers(1, 8), st.integers(4, 64),
)  # fmt: skip
def test_never_faster_than_the_wire(key, name, nodes, tokens, top_k, units):
    cluster = load_cluster({"preset": name, "nodes": nodes})
    found = exchange(
        cluster, cluster.size, KERNELS[key], tokens=tokens, hidden=4096, top_k=top_k, experts=40 * cluster.size,
        element_bytes=BF16_BYTES, units=units,
    )  # fmt: skip
    assert found.time > found.link_bytes / cluster.link.bandwidth
    assert found.time > found.nic_bytes / cluster.nic.bandwidth
    assert found.logical_bytes >= found.link_bytes * (1 - 1e-12)


def test_what_binds_is_named():
    one, two = load_cluster("dgx-h100"), load_cluster({"preset": "dgx-h100", "nodes": 4})
    normal, low = KERNELS["normal", "dispatch"], KERNELS["low latency", "dispatch"]
    assert exchange(one, 8, normal, tokens=8192, units=4, **SHAPE).bound == "copy"
    assert exchange(one, 8, normal, tokens=8192, units=64, **SHAPE).bound == "link"
    assert exchange(two, 32, low, tokens=8192, **SHAPE).bound == "adapter"
    assert exchange(one, 8, low, tokens=1, **SHAPE).bound == "latency"


def test_reaching_fewer_nodes_spares_the_adapters():
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 8})
    kernel = KERNELS["normal", "dispatch"]
    free = exchange(cluster, 64, kernel, tokens=4096, **SHAPE)
    limited = exchange(cluster, 64, kernel, tokens=4096, node_limit=4, **SHAPE)
    assert limited.logical_nic_bytes <= 4 * 4096 * 7168 * FP8_BYTES < free.logical_nic_bytes
    assert limited.time < free.time
