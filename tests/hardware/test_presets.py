"""Every shipped device, link and cluster loads, has sources, and holds together."""

import subprocess
import sys
from dataclasses import replace

import networkx as nx
import pytest
import yaml

from commlens.hardware import (
    InputError,
    cluster_names,
    device_names,
    load_cluster,
    load_device,
    load_link,
    load_profile,
)
from commlens.hardware.sources import PRESETS
from commlens.hardware.sources import unwrap as _unwrap

NAMED = {
    "a100-40-sxm", "a100-80-sxm", "h100-sxm", "h200-sxm", "b200", "mi210", "mi250x", "mi300x", "a10", "l20", "a40",
    "v100-sxm", "cpu-x86", "t3-gpu",
}  # fmt: skip


def test_the_named_presets_are_there():
    assert set(device_names()) >= NAMED
    assert set(cluster_names()) >= {"dgx-a100", "dgx-h100", "hgx-h200", "gb200-nvl72", "pcie-8", "ring", "t3-ring"}
    assert load_cluster("hgx-h100").device.name == "h100-sxm"


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_number_has_a_source(path):
    data = yaml.safe_load(path.read_text())

    def walk(node, trail):
        if isinstance(node, dict):
            if set(node) == {"value", "source"}:
                assert len(node["source"]) > 3, trail
                return
            for key, value in node.items():
                walk(value, [*trail, key])
        else:
            assert isinstance(node, str | bool), f"{trail}: {node!r} without a source"
            assert not str(node)[:1].isdigit(), trail

    walk(data, [path.stem])


@pytest.mark.parametrize("name", sorted(NAMED))
def test_devices_are_plausible(name):
    device = load_device(name)
    assert device.flops("fp32") > 0
    half = max(device.peak_flops.get("bf16", 0), device.peak_flops.get("fp16", 0))
    assert half > device.peak_flops["fp32"]
    # FLOP per unit and clock of dense half precision is a power of two on real machines, within rounding
    assert 256 <= half / device.compute_units / device.clock <= 9000
    assert 10 < half / device.memory_bandwidth < 1000
    assert device.sources["memory_bandwidth"]


def test_datasheet_traps():
    h100, a100 = load_device("h100-sxm"), load_device("a100-80-sxm")
    assert h100.flops("bf16") == pytest.approx(989.4e12)  # dense, not 1979 sparse
    assert h100.flops("fp8") == pytest.approx(2 * h100.flops("bf16"), rel=1e-3)
    assert load_link("nvlink4").bandwidth == 450e9  # per direction, not 900
    assert load_device("a100-40-sxm").memory_bandwidth < a100.memory_bandwidth
    assert load_device("mi250x").compute_units == 110  # one die
    assert load_device("h200-sxm").memory_bandwidth == 4.8e12
    assert load_link("nvlink3").bandwidth == 300e9
    assert load_link("nvlink5").bandwidth == 900e9
    assert load_link("ndr400").bandwidth == 50e9  # bits
    assert load_cluster("gb200-nvl72").device.flops("bf16") == pytest.approx(2.5e15)  # above an HGX board's B200
    assert load_device("b200").flops("bf16") == pytest.approx(2.25e15)


# Dense half-precision FLOP per compute unit and clock, from each architecture's white paper.
HALF_RATE = {
    "a100-40-sxm": 2048, "a100-80-sxm": 2048, "h100-sxm": 4096, "h100-96-sxm": 4096, "h200-sxm": 4096, "b200": 8192,
    "gb200": 8192,
    "a10": 1024, "a40": 1024, "l20": 512, "v100-sxm": 1024, "mi210": 1024, "mi250x": 1024, "mi300x": 2048,
    "cpu-x86": 2048, "t3-gpu": 1024, "h800-sxm": 4096, "h20-sxm": 4096, "b300": 8192, "gb300": 8192, "l40s": 1024,
    "rtx-pro-6000": 1024, "mi350x": 4096, "gh200": 4096, "a100-80-pcie": 2048, "h100-pcie": 4096, "mi325x": 2048,
    "mi355x": 4096,
}  # fmt: skip


@pytest.mark.parametrize("name", device_names())
def test_peak_is_units_times_clock_times_rate(name):
    device = load_device(name)
    half = device.peak_flops.get("bf16") or device.flops("fp16")
    assert half == pytest.approx(device.compute_units * device.clock * HALF_RATE[name], rel=0.01)
    assert device.peak_flops.get("fp8", 2 * half) == pytest.approx(2 * half, rel=1e-3)  # sparse would be 4


def test_unknown_format_names_what_there_is():
    with pytest.raises(InputError, match=r"fp8.*bf16"):
        load_device("a100-80-sxm").flops("fp8")


@pytest.mark.parametrize("name", cluster_names())
def test_every_pair_of_ranks_is_joined(name):
    cluster = load_cluster(name)
    fabric = cluster.topology()
    assert fabric.ranks == cluster.size
    assert nx.is_strongly_connected(cluster.graph())
    way = fabric.paths(0, cluster.size - 1)[0]
    narrowest = {"mesh": cluster.link.bandwidth / (cluster.size - 1), "pcie": cluster.uplink}.get(cluster.fabric)
    assert fabric.bandwidth[way[way >= 0]].min() == pytest.approx(narrowest or cluster.link.bandwidth)


def test_nodes_are_joined_by_their_adapters():
    cluster = load_cluster({"preset": "dgx-h100", "nodes": 3})
    fabric = cluster.topology()
    assert cluster.size == fabric.ranks == 24
    inside, across = (way[way >= 0] for way in fabric.paths([0, 0], [7, 8]))
    assert set(fabric.bandwidth[inside]) == {cluster.link.bandwidth}
    assert set(fabric.bandwidth[across]) == {cluster.nic.bandwidth}
    assert fabric.latency[inside].sum() == pytest.approx(cluster.link.latency)
    assert [fabric.kinds[v] for v in fabric.target[across]] == ["nic", "switch", "nic", "device"]


@pytest.mark.parametrize("fabric", ["switch", "mesh", "ring", "pcie"])
def test_half_duplex_directions_share_one_resource(fabric):
    cluster = {"preset": "dgx-h100", "fabric": fabric}
    half = load_cluster({**cluster, "link": {"duplex": "half"}}).topology()
    full = load_cluster(cluster).topology()
    assert len(half.capacity) < len(full.capacity) == full.links
    assert half.resource[0] == half.resource[1]


@pytest.mark.parametrize("fabric", ["switch", "mesh", "ring", "pcie"])
def test_without_peer_to_peer_traffic_takes_the_adapters(fabric):
    cluster = load_cluster({"preset": "dgx-h100", "p2p": False, "fabric": fabric})
    assert cluster.link == cluster.nic == load_link("ndr400")
    whole = cluster.topology()
    way = whole.paths(0, 1)[0]
    assert [whole.kinds[v] for v in whole.target[way[way >= 0]]] == ["nic", "switch", "nic", "device"]
    with pytest.raises(InputError, match="nic"):
        load_cluster({"preset": "ring", "p2p": False})


@pytest.mark.parametrize("fabric", ["switch", "mesh", "ring", "pcie"])
@pytest.mark.parametrize("per_node", [1, 2, 3, 5, 8])
def test_nothing_leaves_a_node_without_need(fabric, per_node):
    cluster = load_cluster({"preset": "dgx-h100", "fabric": fabric, "devices_per_node": per_node, "nodes": 3})
    whole = cluster.topology()
    for source in range(per_node):
        for target in range(cluster.size):
            way = whole.paths(source, target)[0]
            kinds = [whole.kinds[v] for v in whole.target[way[way >= 0]]]
            assert kinds.count("nic") == (0 if target < per_node else 2)


def write(path, data):
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_a_file_may_start_from_a_preset(tmp_path):
    device = load_device(write(tmp_path / "fast.yaml", {"preset": "h100-sxm", "memory_bandwidth": "4 TB/s"}))
    assert (device.name, device.memory_bandwidth) == ("fast", 4e12)
    assert device.peak_flops == load_device("h100-sxm").peak_flops
    pod = {"preset": "dgx-h100", "nodes": 4, "device": {"preset": "a100-80-sxm", "memory_bandwidth": "2 TB/s"}}
    cluster = load_cluster(write(tmp_path / "pod.yaml", pod))
    assert (cluster.size, cluster.link.name) == (32, "nvlink4")
    assert (cluster.device.name, cluster.device.memory_bandwidth) == ("a100-80-sxm", 2e12)
    more = load_cluster({"preset": str(tmp_path / "pod.yaml"), "device": {"memory_capacity": "96 GiB"}})
    assert (more.device.memory_bandwidth, more.device.memory_capacity) == (2e12, 96 * 2**30)


def test_a_file_may_not_start_from_a_file(tmp_path):
    with pytest.raises(InputError, match=r"loop\.yaml: preset: .* is a file \(legal: a10, "):
        load_device(write(tmp_path / "loop.yaml", {"preset": str(tmp_path / "loop.yaml")}))


def test_files_a_cluster_names_are_looked_for_beside_it(tmp_path):
    write(tmp_path / "mine.yaml", {"preset": "a10", "memory_bandwidth": "700 GB/s"})
    box = write(tmp_path / "box.yaml", {"device": "mine.yaml", "devices_per_node": 2, "link": "pcie4"})
    assert load_cluster(box).device.memory_bandwidth == 700e9


def test_sources_follow_values(tmp_path):
    shipped = load_device("h100-sxm").sources["clock"]
    path = write(tmp_path / "mine.yaml", {"preset": "h100-sxm", "clock": {"value": "1.9 GHz", "source": "my log"}})
    assert load_device(path).sources["clock"] == "my log" != shipped
    assert load_device("h100-sxm").sources["clock"] == shipped


def test_a_change_leaves_the_shipped_preset_alone():
    before = load_device("h100-sxm")
    load_device({"preset": "h100-sxm", "peak_flops": {"bf16": 1e12}})
    load_cluster({"preset": "dgx-h100", "switch_reduction": {"base": 1.0}, "device": {"peak_flops": {"fp8": 1e12}}})
    assert load_device("h100-sxm") == before
    assert load_cluster("dgx-h100").switch_reduction.base < 1e-3


def test_importing_the_floor_imports_nothing_heavy():
    heavy = ["networkx", "numpy", "pydantic", "yaml"]
    code = f"import sys, commlens.hardware; sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_own_devices_and_clusters_from_files(tmp_path):
    text = yaml.safe_load((PRESETS / "devices" / "a10.yaml").read_text())
    plain, _ = _unwrap(text)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**plain, "memory_bandwidth": "700 GB/s"}))
    mine = load_device(str(tmp_path / "mine.yaml"))
    assert (mine.name, mine.memory_bandwidth) == ("mine", 700e9)
    (tmp_path / "box.yaml").write_text(
        yaml.safe_dump(
            {"device": str(tmp_path / "mine.yaml"), "devices_per_node": 4, "link": "pcie4", "fabric": "pcie"}
        )
    )
    box = load_cluster(str(tmp_path / "box.yaml"))
    assert (box.size, box.device.memory_bandwidth, box.link.name) == (4, 700e9, "pcie4")


def test_nested_changes_keep_the_rest_of_a_preset():
    changed = load_cluster({"preset": "dgx-h100", "device": {"memory_capacity": "96 GiB"}, "link": {"bandwidth": 1e11}})
    assert changed.device.memory_capacity == 96 * 2**30
    assert changed.device.flops("bf16") == load_device("h100-sxm").flops("bf16")
    assert (changed.link.bandwidth, changed.link.latency) == (1e11, load_link("nvlink4").latency)
    one_rate = load_device({"preset": "h100-sxm", "peak_flops": {"bf16": "800 TFLOP/s"}})
    assert (one_rate.flops("bf16"), one_rate.flops("fp8")) == (800e12, 1978.9e12)


BAD = {
    "misspelt source": (load_device, {"preset": "a10", "clock": {"value": "1 GHz", "sorce": "x"}}, ["clock", "sorce"]),
    "misspelt alias": (load_cluster, "hgx-h10", ["did you mean hgx-h100"]),
    "name of no file": (load_device, "a\0.yaml", ["not the name of a file"]),
    "no float": (load_device, {"preset": "a10", "clock": 10**400}, ["clock", "not finite", "legal"]),
    "no devices": (load_cluster, {"preset": "dgx-h100", "devices_per_node": 0}, ["devices_per_node", "1 to 1024"]),
    "too many devices": (load_cluster, {"preset": "dgx-h100", "devices_per_node": 1025}, ["1 to 1024"]),
    "no such fabric": (load_cluster, {"preset": "dgx-h100", "fabric": "torus"}, ["torus", "switch, mesh, ring, pcie"]),
    "no bandwidth": (load_link, {"preset": "nvlink4", "bandwidth": 0}, ["bandwidth", "1 kB/s to 1 PB/s"]),
    "misspelt device": (load_device, "h100-smx", ["h100-smx", "h100-sxm"]),
    "misspelt link": (load_link, "nvlnk4", ["nvlnk4", "nvlink4"]),
    "no such file": (load_device, "nothing.yaml", ["nothing.yaml"]),
    "unknown key": (load_device, {"preset": "h100-sxm", "memory_bandwith": 1}, ["memory_bandwith", "memory_bandwidth"]),
    "wrong unit": (load_device, {"preset": "h100-sxm", "memory_capacity": "80 GiBs"}, ["80 GiBs", "80 GiB"]),
    "negative": (load_device, {"preset": "h100-sxm", "memory_bandwidth": -1}, ["memory_bandwidth", "legal"]),
    "absurd": (load_cluster, {"preset": "dgx-h100", "nodes": 10**9}, ["nodes", "100000"]),
    "not finite": (load_device, {"preset": "h100-sxm", "clock": "inf GHz"}, ["clock"]),
    "share above one": (load_device, {"preset": "h100-sxm", "gemm_efficiency": 1.2}, ["gemm_efficiency", "0.01 to 1"]),
    "no way between nodes": (load_cluster, {"preset": "ring", "nodes": 2}, ["nic", "2 nodes"]),
    "unknown format": (load_device, {"preset": "h100-sxm", "peak_flops": {"bf17": 1e12}}, ["bf17", "bf16"]),
    "nested": (load_cluster, {"preset": "dgx-h100", "link": {"latncy": 1}}, ["latncy", "latency"]),
    "neither latency nor profile": (load_link, {"name": "x", "bandwidth": 1e9}, ["latency", "profile"]),
    "neither bandwidth nor profile": (load_link, {"name": "x", "latency": 1e-6}, ["bandwidth", "profile"]),
    "no such profile": (load_link, {"preset": "nvlink4", "profile": "nvlnk4"}, ["nvlnk4", "did you mean nvlink4"]),
    "bad profile": (load_profile, {"preset": "nvlink4", "low": {"copy": -1}}, ["low.copy", "0 to 10"]),
    "switch reduction without numbers": (
        load_cluster,
        {"preset": "dgx-h100", "link": "pcie5", "switch_reduction": {"efficiency": 0.5}},
        ["switch_reduction.base", "profile"],
    ),
    "number for a name": (load_cluster, 7, ["7", "legal"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name):
    load, what, words = BAD[name]
    with pytest.raises(InputError) as caught:
        load(what)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message, message


def test_a_link_takes_its_protocols_from_its_profile_and_plain_keys_change_them():
    profile = load_profile("nvlink4")
    assert load_link("nvlink4").profile == profile
    changed = load_link({"preset": "nvlink4", "latency": "2 us", "efficiency": 0.5})
    assert changed.profile.low.hop == changed.latency == 2e-6
    assert changed.profile.bulk == replace(profile.bulk, efficiency=0.5)
    assert changed.profile.low.efficiency / profile.low.efficiency == pytest.approx(0.5 / profile.bulk.efficiency)


def test_a_plain_link_has_one_latency_and_half_its_bandwidth_in_the_low_latency_protocol():
    profile = load_link({"name": "wire", "bandwidth": 1e11, "latency": 1e-6}).profile
    assert (profile.low.hop, profile.bulk.hop) == (1e-6, 1e-6)
    assert profile.low.efficiency == profile.bulk.efficiency / 2 == 0.5


def test_what_a_switch_reduction_leaves_out_comes_from_the_links_profile():
    cluster = load_cluster("dgx-h100")
    assert cluster.switch_reduction.efficiency == cluster.link.profile.in_switch.efficiency
    own = load_cluster({"preset": "dgx-h100", "switch_reduction": {"efficiency": 0.3}})
    assert own.switch_reduction == replace(cluster.switch_reduction, efficiency=0.3)


def test_a_profile_measured_without_its_link_keeps_its_rates(tmp_path):
    part = {"base": "5 us", "hop": "1 us", "efficiency": 0.8}
    path = write(
        tmp_path / "mine.yaml", {"link_bandwidth": "100 GB/s", "absolute": True, "low": part, "bulk": dict(part)}
    )
    link = load_link({"preset": "nvlink4", "profile": path})
    assert link.bandwidth * link.profile.bulk.efficiency == pytest.approx(80e9)
    assert load_link({"name": "mine", "profile": path}).bandwidth == 100e9
    with pytest.raises(InputError, match=r"below the 80 GB/s that profile mine measured"):
        load_link({"name": "slow", "bandwidth": "50 GB/s", "profile": path})
    assert load_cluster({"preset": "dgx-h100", "link": {"profile": path}}).switch_reduction is None
