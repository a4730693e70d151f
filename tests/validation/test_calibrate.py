"""Calibration from samples and logs to a profile a cluster names, and back to the times it came from."""

from dataclasses import replace

import numpy as np
import pytest

from commlens.hardware import InputError, load_cluster, load_link, load_profile
from commlens.simulator import Communicator
from commlens.validation.calibrate import calibrate
from commlens.validation.fit_profile import predict
from commlens.validation.logs import Sample
from commlens.validation.profile_file import profile_text

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
SIZES = [2.0**k for k in range(10, 31)]


def samples(cluster="dgx-h100", ranks=(2, 4, 8), kinds=KINDS, nodes=1, noise=0.03):
    place = load_cluster(cluster)
    bare = [Sample(kind, size, n, nodes, 1.0, "made up", 1) for kind in kinds for n in ranks for size in SIZES]
    times = predict(place.link.profile, place, bare) * np.exp(
        noise * np.random.default_rng(3).standard_normal(len(bare))
    )
    return [replace(sample, time=float(time)) for sample, time in zip(bare, times, strict=True)]


@pytest.fixture(scope="module")
def known():
    return calibrate(samples(), load_cluster("dgx-h100"), "mine")


def test_errors_are_those_of_samples_left_out(known):
    assert set(known.errors["kind"]) == set(KINDS)
    assert known.errors["samples"].sum() == len(samples())
    assert (known.errors["error"] < 0.06).all()
    assert (known.errors["trivial"] > 3 * known.errors["error"]).all()
    assert known.notes == ()


def test_breaks_say_where_the_library_changes(known):
    found = known.breaks.set_index(["kind", "ranks"])
    group = Communicator(load_cluster("dgx-h100"), 8)
    assert "in-switch, bulk" in list(found.loc[[("all_reduce", 8)], "takes"])
    for size in found.loc[[("all_gather", 8)], "from"]:
        below, above = group.collective("all_gather", size / 3), group.collective("all_gather", size * 3)
        assert (below.protocol, above.protocol) == ("low latency", "bulk")


def test_the_written_profile_gives_the_measured_times_back(known, tmp_path):
    text = profile_text(known.profile, "mine", "a test", "nvlink4")
    (tmp_path / "mine.yaml").write_text(text)
    assert load_profile(str(tmp_path / "mine.yaml")).bulk.efficiency == pytest.approx(
        known.profile.bulk.efficiency, rel=1e-2
    )
    cluster = load_cluster({"preset": "dgx-h100", "link": {"profile": str(tmp_path / "mine.yaml")}})
    for sample in samples(noise=0.0)[::7]:
        cost = Communicator(cluster, sample.ranks).collective(sample.kind, sample.size)
        assert cost.time == pytest.approx(sample.time, rel=0.12)


def test_without_a_cluster_the_rates_are_absolute(tmp_path):
    mine = samples(kinds=("all_reduce", "all_gather"))
    found = calibrate(mine, name="mine")
    assert found.profile.absolute
    assert found.profile.in_switch is not None  # eight ranks reduce faster than any ring here
    (tmp_path / "mine.yaml").write_text(profile_text(found.profile, "mine", "a test", "a guess"))
    link = load_link({"preset": "nvlink4", "profile": str(tmp_path / "mine.yaml")})
    truth = load_link("nvlink4")
    assert link.bandwidth * link.profile.bulk.efficiency == pytest.approx(
        truth.bandwidth * truth.profile.bulk.efficiency, rel=0.1
    )
    assert any("no all-to-all" in note for note in found.notes)


def test_one_rank_per_node_calibrates_the_adapter():
    place = load_cluster({"preset": "dgx-h100", "nodes": 4})
    alone = place.replace(link=place.nic, devices_per_node=4, nodes=1, switch_reduction=None)
    bare = [Sample("all_gather", size, n, n, 1.0, "made up", 1) for n in (2, 4) for size in SIZES]
    times = predict(place.nic.profile, alone, bare)
    mine = [replace(sample, time=float(time)) for sample, time in zip(bare, times, strict=True)]
    found = calibrate(mine, place)
    assert found.profile.bulk.efficiency == pytest.approx(place.nic.profile.bulk.efficiency, rel=0.05)


def test_what_cannot_be_used_is_said():
    mine = samples(ranks=(4,), kinds=("all_reduce",))
    odd = [replace(sample, nodes=2) for sample in mine[:5]]
    found = calibrate([*mine, *odd])
    assert "5 of 26 samples left out" in found.notes[0]
    assert any("one number of ranks" in note for note in found.notes)
    with pytest.raises(InputError, match=r"5 usable samples of 5 \(legal: 8 or more\)"):
        calibrate(mine[:5])
    with pytest.raises(InputError, match="0 usable samples of 5"):
        calibrate(odd)
    with pytest.raises(InputError, match="4 ranks in a node of 2"):
        calibrate(mine, load_cluster("a100-pairs"))


@pytest.mark.slow
def test_a_fabric_that_is_no_switch_is_noticed():
    few = [sample for sample in samples("l40s-pcie", kinds=("all_gather", "all_to_all")) if sample.ranks < 8]
    assert any("name the cluster" in note for note in calibrate(few).notes)
    assert not calibrate(few, load_cluster("l40s-pcie")).notes
