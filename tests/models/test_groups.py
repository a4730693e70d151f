"""Process groups of a plan: which ranks they are, and what their collectives cost."""

from itertools import permutations, product

import numpy as np
import pytest

from commlens.hardware import load_cluster
from commlens.models.groups import Group, process_groups
from commlens.models.plan import Plan
from commlens.simulator.communicator import Communicator

CLUSTER = load_cluster({"preset": "dgx-h100", "nodes": 8})
DEGREES = {"tp": 2, "cp": 2, "dp": 4, "pp": 4}


def members(placement, axes):
    """Ranks that differ in some axes alone, by counting through all of them."""
    order = placement.split("-")
    found = []
    for place in product(*(range(DEGREES[axis]) for axis in reversed(order))):
        at = dict(zip(reversed(order), place, strict=True))
        if all(at[axis] == 0 for axis in order if axis not in axes):
            rank, stride = 0, 1
            for axis in order:
                rank, stride = rank + at[axis] * stride, stride * DEGREES[axis]
            found.append(rank)
    return sorted(found)


@pytest.mark.parametrize("placement", ["-".join(order) for order in permutations(DEGREES)])
def test_groups_are_the_ranks_that_differ_in_one_axis(placement):
    groups = process_groups(CLUSTER, Plan(**DEGREES, placement=placement))
    for axis in ("tp", "cp"):
        group = groups[axis]
        ranks = members(placement, {axis})
        assert ranks == [i * group.stride for i in range(group.size)]
        nodes = [rank // CLUSTER.devices_per_node for rank in ranks]
        assert max(map(nodes.count, nodes)) == group.local()
    assert members(placement, {"pp"})[1] == groups.pipeline_stride
    same = members(placement, {"cp", "dp"})
    assert len(same) == groups.dp.size
    if "cp-dp" in placement or "dp-cp" in placement:
        assert same == [i * groups.dp.stride for i in range(groups.dp.size)]


def test_experts_lie_among_the_ranks_that_hold_the_same_weights():
    groups = process_groups(CLUSTER, Plan(tp=2, dp=32, ep=8, etp=1))
    assert (groups.ep.size, groups.ep.stride) == (8, 1)
    assert (groups.expert_dp.size, groups.expert_dp.stride) == (8, 8)
    divided = process_groups(CLUSTER, Plan(tp=2, dp=32, ep=8, etp=2))
    assert (divided.ep.size, divided.ep.stride) == (8, 2)
    assert (divided.expert_dp.size, divided.expert_dp.stride) == (4, 16)


def test_shards_and_replicas_make_up_the_group():
    groups = process_groups(CLUSTER, Plan(dp=64, shard_group=8))
    assert groups.shard.size * groups.replicas.size == groups.dp.size
    assert groups.replicas.stride == 8


def test_what_crosses_and_what_stays_is_what_is_sent():
    inside, across = Group(CLUSTER, 8), Group(CLUSTER, 64)
    assert inside.crossing("all_reduce", 100.0) == 0.0
    assert across.crossing("all_reduce", 80.0) == pytest.approx(10.0)  # eight rails to eight adapters
    assert across.crossing("all_to_all", 63.0) == pytest.approx(56.0)
    assert Group(CLUSTER, 4, 8).crossing("all_gather", 30.0) == 30.0  # one rank a node


def test_many_groups_cost_what_each_costs():
    sizes, strides, amounts = np.array([2, 8, 16, 4]), np.array([1, 1, 2, 8]), np.array([1e6, 1e8, 3e7, 5e8])
    many = Group(CLUSTER, sizes, strides)
    alone = [
        Communicator(CLUSTER, int(n), int(s)).all_reduce(float(size))
        for n, s, size in zip(sizes, strides, amounts, strict=True)
    ]
    found = many.collective("all_reduce", amounts)
    assert found.time == pytest.approx([one.time for one in alone])
    assert found.sent_bytes == pytest.approx([one.sent_bytes for one in alone])
    assert many.times("all_reduce", amounts) == pytest.approx([one.time for one in alone])
