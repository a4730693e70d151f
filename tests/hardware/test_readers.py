"""Readers of what machines print: golden files, the way back, and damage."""

import re
from pathlib import Path

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware import InputError
from commlens.hardware.fabrics import compose, fat_tree, switch
from commlens.hardware.readers import read_nccl_xml, read_topo_matrix
from commlens.hardware.readers.machine import BUS_COST
from commlens.hardware.topology import Topology

DATA = Path(__file__).parents[1] / "data"
SWITCHED, MESH, XML = (
    DATA / name for name in ("topo_matrix_8_switched.txt", "topo_matrix_cube_mesh.txt", "nccl_topology.xml")
)


def stops(topology: Topology, source: int, target: int) -> list[str]:
    path = topology.paths(source, target)[0]
    return [topology.vertices[v] for v in [source, *topology.target[path]]]


def bus_kind(topology: Topology, a: str, b: str) -> str:
    """Kind of connection over the bus alone, told from what lies between."""
    bus = networkx.Graph((x, y) for x, y, edge in topology.graph().edges(data=True) if edge["cost"] == BUS_COST)
    kinds = [topology.kinds[topology.index(name)] for name in networkx.shortest_path(bus, a, b)[1:-1]]
    if kinds.count("socket") > 1:
        return "SYS"
    for kind, name in (("socket", "NODE"), ("bridge", "PHB")):
        if kind in kinds:
            return name
    return "PXB" if kinds.count("switch") > 1 else "PIX"


# ---- nvidia-smi topo -m


def test_switched_machine():
    topology = read_topo_matrix(SWITCHED)
    assert topology.ranks == 8
    assert topology.kinds.count("nic") == 8
    assert stops(topology, 0, 5) == ["gpu0", "nvswitch0", "gpu5"]
    assert topology.bandwidth[topology.paths(0, 5)].tolist() == [[450e9, 450e9]]  # 18 links of 25 GB/s
    assert topology.attributes[topology.index("nic3")]["name"] == "mlx5_3"
    assert bus_kind(topology, "gpu0", "nic0") == "PXB"
    assert bus_kind(topology, "gpu0", "nic1") == "NODE"
    assert bus_kind(topology, "gpu0", "gpu1") == "NODE"  # by their adapters
    assert bus_kind(topology, "gpu0", "gpu4") == "SYS"
    assert topology.bandwidth[topology.link("socket0", "socket1")] == 22e9


def test_cube_mesh():
    topology = read_topo_matrix(MESH, sm=70)
    assert "nvswitch0" not in topology.vertices
    lanes = {(0, 1): 1, (0, 3): 2, (0, 4): 2, (5, 6): 2, (6, 7): 1}
    for (a, b), count in lanes.items():
        assert stops(topology, a, b) == [f"gpu{a}", f"gpu{b}"]
        assert topology.bandwidth[topology.paths(a, b)].tolist() == [[count * 25e9]]
    links = [link for link in range(topology.links) if topology.cost[link] == 1]
    assert np.bincount(topology.source[links], topology.bandwidth[links] / 25e9).tolist() == [6.0] * 8
    # Without a link of their own two GPUs take the bus; where GPUs forward, they take another GPU.
    assert "socket0" in stops(topology, 0, 5)
    assert len(stops(read_topo_matrix(MESH, sm=70, forward=True), 0, 5)) == 3
    assert bus_kind(topology, "gpu0", "nic0") == "PIX"
    assert bus_kind(topology, "gpu0", "nic1") == "PHB"


def test_numbers_can_be_given():
    topology = read_topo_matrix(SWITCHED, nvlink=20e9, pcie=50e9, socket=11e9, latency=1e-7)
    assert topology.bandwidth[topology.paths(0, 5)].tolist() == [[360e9, 360e9]]
    assert topology.bandwidth[topology.link("gpu0", "pcie8")] == 50e9
    assert topology.bandwidth[topology.link("socket0", "socket1")] == 11e9
    assert set(topology.latency) == {1e-7}


def test_pasted_with_blanks_for_tabs_and_a_prompt():
    text = "$ nvidia-smi topo -m\n" + SWITCHED.read_text().expandtabs()
    pasted, read = read_topo_matrix(text), read_topo_matrix(SWITCHED)
    assert pasted.vertices == read.vertices
    np.testing.assert_array_equal(pasted.bandwidth, read.bandwidth)


def test_machines_side_by_side_use_their_own_adapters():
    topology = compose([read_topo_matrix(SWITCHED)] * 2, fat_tree(16, 4, 50e9, 1e-6, rails=8))
    assert topology.kinds.count("nic") == 16
    way = stops(topology, 3, 11)
    assert [name for name in way if "nic" in name] == ["island0.nic3", "island1.nic3"]
    assert not any("socket" in name for name in way)
    assert stops(topology, 3, 6) == ["gpu3", "island0.nvswitch0", "gpu6"]
    assert not any("socket" in name for name in stops(topology, 0, 15))
    fewer = compose([read_topo_matrix(MESH, sm=70)] * 2, switch(8, 12.5e9, 1e-6))
    assert [name for name in stops(fewer, 0, 15) if "nic" in name] == ["island0.nic0", "island1.nic3"]


devices = st.tuples(*[st.integers(0, 1)] * 2, st.integers(0, 2), st.integers(0, 1))


@settings(max_examples=60)
@given(st.lists(devices, min_size=1, max_size=7), st.lists(devices, max_size=4), st.booleans(), st.data())
def test_the_way_back(gpus, nics, linked, data):
    """A matrix of a random tree gives a machine in which every two are joined as the matrix says."""
    places = gpus + nics
    names = [f"GPU{i}" for i in range(len(gpus))] + [f"NIC{i}" for i in range(len(nics))]

    def kind(a: int, b: int) -> str:
        if a == b:
            return "X"
        common = next((i for i in range(4) if places[a][i] != places[b][i]), 4)
        return ["SYS", "NODE", "PHB", "PXB", "PIX"][common]

    cells = [[kind(a, b) for b in range(len(places))] for a in range(len(places))]
    bonds = {}
    if linked and len(gpus) == 2:
        bonds[0, 1] = cells[0][1] = cells[1][0] = f"NV{data.draw(st.integers(1, 18))}"
    lines = ["\t" + "\t".join(names) + "\tCPU Affinity\tNUMA Affinity"]
    for name, row, place in zip(names, cells, places, strict=True):
        lines.append("\t".join([name, *row, *(("0-7", str(place[0])) if name.startswith("GPU") else ())]))
    topology = read_topo_matrix("\n".join(lines) + "\n")
    vertices = [f"{name[:3].lower()}{name[3:]}" for name in names]
    assert topology.ranks == len(gpus)
    assert topology.cut_off() is None
    for a in range(len(names)):
        for b in range(a):
            if (b, a) in bonds:
                assert topology.bandwidth[topology.paths(b, a)].tolist() == [[int(bonds[b, a][2:]) * 25e9]]
            else:
                assert bus_kind(topology, vertices[a], vertices[b]) == cells[a][b]


@given(st.integers(2, 8), st.integers(1, 6), st.sampled_from([60, 70, 80, 90, 100]))
def test_links_to_all_lead_to_a_switch_if_there_are_too_many(gpus, count, sm):
    rows = ["\t".join([f"GPU{a}", *("X" if a == b else f"NV{count}" for b in range(gpus))]) for a in range(gpus)]
    topology = read_topo_matrix("\n".join(["\t" + "\t".join(f"GPU{a}" for a in range(gpus)), *rows]), sm=sm)
    most = {60: 4, 70: 6, 80: 12, 90: 18, 100: 18}[sm]
    assert ("nvswitch0" in topology.vertices) == (count * (gpus - 1) > most)
    assert len(stops(topology, 0, 1)) == (3 if count * (gpus - 1) > most else 2)


HEAD = "\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\n"
ROWS = ["GPU0\t X \tNV18\tPXB\t0-51\t0\n", "GPU1\tNV18\t X \tSYS\t52-103\t1\n", "NIC0\tPXB\tSYS\t X \t\t\n"]


def damaged(old: str, new: str) -> str:
    return (HEAD + "".join(ROWS) + "\nLegend:\n\n  X = Self\n").replace(old, new, 1)


@pytest.mark.parametrize(("text", "said"), [
    (damaged("NV18\tPXB", "NVX\tPXB"),
     r"line 2, column GPU1: 'NVX' is not a connection \(legal: X, NV#, PIX, PXB, PHB, NODE, SYS\)"),
    (damaged("NV18\tPXB", "NV0\tPXB"), "line 2, column GPU1: 'NV0' is not a connection"),
    (damaged("NV18\t X \tSYS", "NV18\t X \tPHB"), "line 4, column GPU1: SYS, but PHB the other way in line 3"),
    (damaged("\tSYS\t52-103", ""), "line 3, column NIC0: "),
    (damaged("SYS\t52-103\t1", ""), r"line 3, column NIC0: missing \(legal: X,"),
    (damaged(ROWS[2], ""), "no line for NIC0, which is a column in line 1"),
    (damaged(ROWS[2], ROWS[2].replace("NIC0", "NIC7")), r"line 4: 'NIC7' is not a column \(legal: GPU0, GPU1, NIC0\)"),
    (damaged(ROWS[2], ROWS[1]), "line 4: GPU1 stands twice, first in line 3"),
    (damaged(HEAD, ""), "line 1: the line of columns above it is missing"),
    (damaged("GPU1\tNIC0", "GPU0\tNIC0"), "line 1: columns stand twice"),
    (damaged(" X \tNV18", "SYS\tNV18"), "line 2, column GPU0: SYS"),
    (damaged("PXB\t0-51", "X\t0-51"), "line 2, column NIC0: X"),
    (damaged("PXB\t0-51", "NV4\t0-51"), r"line 2, column NIC0: NV4 \(legal: NV# between GPUs only\)"),
    ("nothing\nof the kind\n", "no line starts with GPU0"),
    ("\tGPU0\tGPU1\tGPU2\nGPU0\tX\tNV9\tNV9\nGPU1\tNV9\tX\tNV18\nGPU2\tNV9\tNV18\tX\n", "27 NVLinks"),
    ("\tGPU0\tNIC0\tNIC1\nGPU0\tX\tPIX\tPIX\nNIC0\tPIX\tX\tSYS\nNIC1\tPIX\tSYS\tX\n",
     "line 3, column NIC1: SYS, but others that both are close to make it PIX"),
])  # fmt: skip
def test_damaged_matrices(text, said):
    with pytest.raises(InputError, match=said) as caught:
        read_topo_matrix(text)
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "topo.txt"
    path.write_text(damaged("NV18\tPXB", "NVX\tPXB"))
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: line 2, column GPU1: 'NVX'"):
        read_topo_matrix(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_topo_matrix(tmp_path / "none.txt")


# ---- NCCL's XML


def test_nccl_xml():
    topology = read_nccl_xml(XML)
    assert topology.ranks == 4
    assert stops(topology, 0, 3) == ["gpu0", "nvswitch0", "gpu3"]
    assert topology.bandwidth[topology.paths(0, 3)].tolist() == [[450e9, 450e9]]  # 5 + 4 + 4 + 5 links
    # Ranks run against the order of the file, which starts with rank 3.
    assert topology.bandwidth[topology.link("gpu3", "pcie0")] == 64e9  # 32 GT/s by 16 lanes
    nics = [topology.attributes[topology.index(f"nic{i}")] for i in range(5)]
    assert [nic["name"] for nic in nics] == [f"mlx5_{i}" for i in range(5)]
    assert [nic["bandwidth"] for nic in nics] == [50e9] * 3 + [25e9] * 2
    # Two ports of one adapter share its link.
    assert [set(topology.graph().successors(f"nic{i}")) for i in (3, 4)] == [{"pcie4"}] * 2
    assert topology.bandwidth[topology.link("pcie4", "pcie3")] == 64e9
    assert topology.bandwidth[topology.link("socket0", "socket1")] == 22e9  # Intel family 6 model 143
    assert read_nccl_xml(XML, nvlink=20.6e9).bandwidth[topology.paths(0, 3)[0]].tolist() == [18 * 20.6e9] * 2


def machine(inside: str, cpu: str = 'arch="x86_64" vendor="AuthenticAMD"') -> str:
    return f'<system version="1">\n<cpu numaid="0" {cpu}>\n{inside}\n</cpu>\n</system>\n'


def gpu(number: int, links: str = "", sm: int = 80, speed: str = "16.0 GT/s PCIe", width: int = 16) -> str:
    return (
        f'<pci busid="0000:0{number}:00.0" class="0x030200" link_speed="{speed}" link_width="{width}">'
        f'<gpu dev="{number}" sm="{sm}">{links}</gpu></pci>\n'
    )


def nvlink(target: int, count: int, kind: str = "0x030200") -> str:
    return f'<nvlink target="0000:0{target}:00.0" count="{count}" tclass="{kind}"/>'


@pytest.mark.parametrize(("speed", "width", "rate"), [
    ("16.0 GT/s PCIe", 16, 32e9), ("8.0 GT/s PCIe", 8, 8e9), ("2.5 GT/s PCIe", 1, 0.3125e9),
    ("64.0 GT/s PCIe", 16, 128e9), ("", 16, 16e9), ("Unknown", 16, 16e9), ("32.0 GT/s PCIe", 0, 64e9),
])  # fmt: skip
def test_pcie_by_speed_and_width(speed, width, rate):
    topology = read_nccl_xml(machine(gpu(0, speed=speed, width=width)))
    assert topology.bandwidth.tolist() == [rate, rate]


def test_direct_nvlinks():
    text = machine(gpu(0, nvlink(1, 4)) + gpu(1, nvlink(0, 4) + nvlink(2, 2)) + gpu(2, nvlink(1, 2)))
    topology = read_nccl_xml(text)
    assert topology.bandwidth[topology.paths(0, 1)].tolist() == [[100e9]]
    assert topology.bandwidth[topology.paths(2, 1)].tolist() == [[50e9]]
    assert stops(topology, 0, 2) == ["gpu0", "socket0", "gpu2"]
    assert stops(read_nccl_xml(text, forward=True), 0, 2) == ["gpu0", "gpu1", "gpu2"]
    # A GPU that is hidden from the process has no <pci>; the links to it count for nothing.
    assert read_nccl_xml(machine(gpu(0, nvlink(7, 4)))).links == 2


def test_links_to_the_cpu():
    c2c = read_nccl_xml(machine(gpu(0, '<c2c bw="45000" count="5"/>', sm=90) + gpu(1), 'arch="arm64"'))
    assert c2c.bandwidth[c2c.paths(0, 1)].tolist() == [[225e9, 32e9]]
    power = read_nccl_xml(machine(gpu(0, nvlink(9, 3, "0x068001"), sm=70) + gpu(1), 'arch="ppc64" vendor=""'))
    assert power.bandwidth[power.paths(0, 1)].tolist() == [[75e9, 32e9]]


def test_switches_that_are_one():
    half = '<pci busid="a{0}:00.0" link_speed="16.0 GT/s PCIe" link_width="16">{1}<pcilink target="A{2}:00.0"/></pci>'
    topology = read_nccl_xml(machine(half.format(0, gpu(0), 1) + half.format(1, gpu(1), 0)))
    assert stops(topology, 0, 1) == ["gpu0", "pcie0", "pcie1", "gpu1"]
    assert topology.links == 2 * (2 + 2 + 1)


@pytest.mark.parametrize(("cpu", "rate"), [
    ('arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="79"', 6e9),
    ('arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="85"', 10e9),
    ('arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="207"', 40e9),
    ('arch="x86_64" vendor="AuthenticAMD"', 16e9), ('arch="arm64" vendor=""', 6e9), ('arch="riscv"', 6e9),
])  # fmt: skip
def test_sockets_by_make(cpu, rate):
    text = f'<system version="1"><cpu {cpu}>\n{gpu(0)}</cpu><cpu {cpu}>{gpu(1)}</cpu></system>'
    topology = read_nccl_xml(text)
    assert topology.bandwidth[topology.link("socket0", "socket1")] == rate


def test_hosts_of_one_domain_meet_over_nvlink_only():
    host = '<cpu host_hash="0x{0}" arch="arm64">\n{1}</cpu>'
    text = (
        "<system>" + "".join(host.format(i, gpu(i, nvlink(9, 18, "0x068000"), sm=100)) for i in range(2)) + "</system>"
    )
    topology = read_nccl_xml(text)
    assert stops(topology, 0, 1) == ["gpu0", "nvswitch0", "gpu1"]
    assert topology.bandwidth[topology.paths(0, 1)].tolist() == [[900e9, 900e9]]
    with pytest.raises(InputError, match="nothing leads from gpu0 to gpu1"):
        read_nccl_xml(re.sub("<nvlink[^>]*>", "", text))


@pytest.mark.parametrize(("text", "said"), [
    (XML.read_text()[:900], r"line \d+: is not whole XML: "),
    ("\n", "line 2: is not whole XML: no element found"),
    ("<graphs>\n</graphs>", r"line 1: <graphs> \(legal: <system>, as NCCL writes it\)"),
    ('<system version="9">\n</system>', r"line 1: <system> version='9' \(legal: 1 to 1\)"),
    (machine(""), "line 1: no <gpu> anywhere"),
    (machine("<nix/>"), r"line 3: <nix> inside <cpu> \(legal: <nic>, <pci>\)"),
    (machine(gpu(0)).replace(' sm="80"', ""), "line 3: <gpu> has no attribute 'sm'"),
    (machine(gpu(0, sm=20)), r"line 3: <gpu>: sm: 20 \(legal: 60 to 999\)"),
    (machine(gpu(0)).replace(' link_width="16"', ""), "line 3: <pci> has no attribute 'link_width'"),
    (machine(gpu(0, width=77)), r"line 3: <pci> link_width='77' \(legal: 0 to 64\)"),
    (machine(gpu(0) + gpu(0)), "line 4: busid '0000:00:00.0' stands twice"),
    (machine(gpu(0, nvlink(1, 4)) + gpu(1, nvlink(0, 2))), "line 4: <nvlink> count 2, but 4 in .*line 3"),
    (machine(gpu(0, nvlink(1, 4)).replace(' tclass="0x030200"', "")), "<nvlink> has no attribute 'tclass'"),
    (machine('<pci busid="1" link_speed="" link_width="8"><pcilink target="x"/></pci>' + gpu(0)),
     "<pcilink> target='x'"),
    ("<!DOCTYPE system [<!ENTITY a 'b'>]>\n" + machine(gpu(0)), "line 1: a document type"),
    ("<system>" + "<cpu>" * 100 + "\n", "too much XML"),
    ("<system><cpu>\n" + "<nic/>" * 100_001, "too much XML"),
])  # fmt: skip
def test_damaged_xml(text, said):
    with pytest.raises(InputError, match=said) as caught:
        read_nccl_xml(text if "\n" in text else text + "\n")
    assert "\n" not in str(caught.value)


@settings(max_examples=150)
@given(st.sampled_from([SWITCHED, MESH, XML]), st.data())
def test_any_damage_is_read_or_refused_in_a_line(path, data):
    text = path.read_text()
    begin = data.draw(st.integers(0, len(text)))
    end = min(len(text), begin + data.draw(st.integers(0, 40)))
    text = (
        text[:begin]
        + data.draw(st.text(st.sampled_from("\t\n <>/=\"'0123459GPUNVIXSBHY&é\x00"), max_size=6))
        + text[end:]
    )
    read = read_nccl_xml if path == XML else read_topo_matrix
    try:
        said = "" if read(text).cut_off() is None else "cut off\n"
    except InputError as problem:
        said = str(problem)
    assert "\n" not in said
