"""Reader of the topology XML that NCCL writes with NCCL_TOPO_DUMP_FILE and reads with NCCL_TOPO_FILE."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from .machine import BUS_COST, generation, text_of
from .xml_tree import Element, parse_tree

# What may stand inside what (NCCL, src/graph/xml.cc).
_INSIDE = {
    "system": {"cpu"},
    "cpu": {"pci", "nic"},
    "pci": {"pci", "gpu", "nic", "pcilink"},
    "gpu": {"nvlink", "c2c"},
    "nic": {"net"},
}
# Between the sockets of a host, as NCCL counts it (src/graph/topo.h) [B/s]. Intel: from this model
# number on (Broadwell and older, Skylake, Sapphire and Emerald Rapids; the numbers are recalled).
_INTEL = ((207, 40e9), (143, 22e9), (85, 10e9), (0, 6e9))
_ELSE = {"AuthenticAMD": 16e9, "arm64": 6e9, "ppc64": 32e9}
_UNKNOWN_HOST = 6e9  # assumed: the least of them
_LOCAL = 5000e9  # where nothing limits (NCCL, src/graph/topo.h)
_SPEED = re.compile(r"\s*(\d{1,3}(?:\.\d{1,3})?) GT/s.*")
_UNKNOWN_SPEED = 8.0  # GT/s: NCCL, too, counts an unknown speed as that of the third generation
_LINK_TO_CPU, _LINK_TO_SWITCH = "0x068001", "0x068000"
# Dearer than NVLink, cheaper than the bus: what a GPU can reach by way of its CPU's memory.
_C2C_COST = BUS_COST // 2


@dataclass(slots=True)
class _Machine:
    """What is known on the way through the tree."""

    wiring: Wiring
    latency: float
    devices: dict[int, int]  # vertex of each <gpu>, by its id as an object
    socket: int = -1  # of the branch that is being read
    sockets: dict[int, int] = field(default_factory=dict)  # of each device
    pci: dict[str, int] = field(default_factory=dict)  # vertex of each bus id
    switches: int = 0
    nets: int = 0


def read_nccl_xml(
    what: str | Path, nvlink: float | None = None, latency: float = 0.0, forward: bool = False
) -> Topology:
    """Machine as NCCL's topology XML describes it.

    Bandwidths are nominal: NVLinks by the compute capability of the GPUs, PCIe by speed and width of
    each link, before encoding. NCCL's own numbers are about a fifth lower, since they count payload.

    Parameters
    ----------
    what : str or Path
        File, or the text itself.
    nvlink : float, optional
        Of one NVLink, per direction; by default the generation's [B/s].
    latency : float, default 0
        Of every link [s]. Nothing in the file says it, and profiles of collectives have their own.
    forward : bool, default False
        Whether GPUs pass on what is for others, where they are joined by NVLinks in part.

    Returns
    -------
    Topology
        Ranks in order of the attribute `rank`, where every GPU has one of its own, else of `dev`, else
        of the file. Vertices "socket0" (cpu), "pcie0" (bridge), "nic0" (net, with its `name` and its
        port's `bandwidth` [B/s] as attributes, where the file has them), "nvswitch0".

    Raises
    ------
    InputError
        Anything that is not such a file, in one line.
    """
    text, where = text_of(what)
    root = parse_tree(text, where)
    if root.tag != "system":
        raise InputError(f"{root.where}: <{root.tag}> (legal: <system>, as NCCL writes it)")
    root.number("version", 1, 1, default="1")
    _check_tags(root)
    gpus = _ordered(root)
    wiring = Wiring(Path(what).stem if where == str(what) else "machine")
    machine = _Machine(wiring, latency, {id(gpu): wiring.device(forward) for gpu in gpus})
    cpus: list[tuple[Element, int]] = []
    for number, cpu in enumerate(root.children):
        machine.socket = wiring.vertex(f"socket{number}", "socket", numa=cpu.attributes.get("numaid", ""))
        cpus.append((cpu, machine.socket))
        for child in cpu.children:
            _bus(machine, child, machine.socket)
    for (first, a), (second, b) in itertools.combinations(cpus, 2):
        # A domain of NVLinks over several hosts comes in one file; sockets of different hosts are not joined.
        if first.attributes.get("host_hash") == second.attributes.get("host_hash"):
            rate = min(_between_sockets(first), _between_sockets(second))
            wiring.join(a, b, rate, latency, cost=BUS_COST)
    _pci_links(machine, root)
    _nvlinks(machine, gpus, nvlink)
    found = wiring.topology()
    if lost := found.cut_off():
        raise InputError(f"{where}: nothing leads from gpu{lost[0]} to gpu{lost[1]}")
    return found


def _check_tags(element: Element) -> None:
    legal = _INSIDE.get(element.tag, set())
    for child in element.children:
        if child.tag not in legal:
            said = ", ".join(f"<{tag}>" for tag in sorted(legal)) or "nothing"
            raise InputError(f"{child.where}: <{child.tag}> inside <{element.tag}> (legal: {said})")
        _check_tags(child)


def _ordered(root: Element) -> list[Element]:
    """GPUs in order of rank."""
    gpus = list(root.all("gpu"))
    if not gpus:
        raise InputError(f"{root.where}: no <gpu> anywhere (legal: one or more)")
    for name in ("rank", "dev"):
        if all(name in gpu.attributes for gpu in gpus):
            numbers = [gpu.number(name, 0, 1e9) for gpu in gpus]
            if len(set(numbers)) == len(gpus):
                return [gpu for _, gpu in sorted(zip(numbers, gpus, strict=True), key=lambda pair: pair[0])]
    return gpus


def _bus(machine: _Machine, element: Element, parent: int) -> None:
    """Add a PCI device or bridge and what is below it; an adapter may do without a PCI device."""
    if element.tag == "nic":
        for net in element.children:
            _endpoint(machine, net, parent, _LOCAL)
        return
    busid = element.text("busid").lower()
    if busid in machine.pci:
        raise InputError(f"{element.where}: busid {busid!r:.40} stands twice")
    rate = _pci_rate(element)
    ends = [child for child in element.children if child.tag == "gpu"]
    ends += [net for child in element.children if child.tag == "nic" for net in child.children]
    below = [child for child in element.children if child.tag == "pci"]
    if len(ends) == 1 and not below:
        machine.pci[busid] = _endpoint(machine, ends[0], parent, rate)
        return
    vertex = machine.pci[busid] = machine.wiring.vertex(f"pcie{machine.switches}", busid=busid)
    machine.switches += 1
    machine.wiring.join(vertex, parent, rate, machine.latency, cost=BUS_COST)
    for end in ends:  # several behind one PCI device, such as two ports of an adapter
        _endpoint(machine, end, vertex, _LOCAL)
    for child in below:
        _bus(machine, child, vertex)


def _endpoint(machine: _Machine, element: Element, parent: int, rate: float) -> int:
    """Add a GPU or a port of an adapter and return its vertex."""
    if element.tag == "gpu":
        vertex = machine.devices[id(element)]
        machine.sockets[vertex] = machine.socket
    else:
        port = element.number("speed", 1, 1e8) * 1e6 / 8 if "speed" in element.attributes else None  # Mbit/s
        name = element.attributes.get("name", "")
        vertex = machine.wiring.vertex(f"nic{machine.nets}", "nic", name=name, bandwidth=port)
        machine.nets += 1
    machine.wiring.join(vertex, parent, rate, machine.latency, cost=BUS_COST)
    return vertex


def _pci_rate(element: Element) -> float:
    """Bytes/s of a PCI link before encoding; NCCL, too, takes width 0 for 16 lanes."""
    speed = _SPEED.fullmatch(element.text("link_speed"))
    lanes = element.number("link_width", 0, 64) or 16.0
    return (float(speed[1]) or _UNKNOWN_SPEED if speed else _UNKNOWN_SPEED) * 1e9 * lanes / 8


def _between_sockets(cpu: Element) -> float:
    """Bytes/s from a socket to another of its host."""
    arch, vendor = cpu.text("arch"), cpu.attributes.get("vendor", "")
    if vendor == "GenuineIntel":
        model = cpu.number("modelid", 0, 1e6)
        return next(rate for first, rate in _INTEL if model >= first)
    return _ELSE.get(vendor, _ELSE.get(arch, _UNKNOWN_HOST))


def _pci_links(machine: _Machine, root: Element) -> None:
    """Join parts of PCI switches that hardware shows as switches of their own."""
    joined = set()
    for pci in root.all("pci"):
        for link in pci.children:
            if link.tag != "pcilink":
                continue
            ends = pci.text("busid").lower(), link.text("target").lower()
            if ends[1] not in machine.pci:
                raise InputError(f"{link.where}: <pcilink> target={ends[1]!r:.40} (legal: the busid of a <pci>)")
            pair = frozenset(machine.pci[end] for end in ends)
            if len(pair) == 2 and pair not in joined:
                joined.add(pair)
                a, b = sorted(pair)
                machine.wiring.join(a, b, _LOCAL, machine.latency, cost=BUS_COST)


def _nvlinks(machine: _Machine, gpus: list[Element], nvlink: float | None) -> None:
    """Join GPUs by NVLink, to each other, to switches (which NCCL takes for one) and to their CPU."""
    wiring, latency = machine.wiring, machine.latency
    switch: int | None = None
    direct: dict[frozenset[int], tuple[int, float, Element]] = {}
    vertices = set(machine.devices.values())
    for gpu in gpus:
        device = machine.devices[id(gpu)]
        sm = int(gpu.number("sm", 1, 9999))
        rate = generation(sm, f"{gpu.where}: <gpu>").nvlink if nvlink is None else nvlink
        to_switch = to_cpu = 0
        for link in gpu.children:
            if link.tag == "c2c":
                speed = link.number("bw", 1, 1e8) * link.number("count", 1, 64) * 1e6  # MB/s each (recalled)
                wiring.join(device, machine.sockets[device], speed, latency, cost=_C2C_COST)
                continue
            kind, count = link.text("tclass").lower(), int(link.number("count", 1, 64))
            other = machine.pci.get(link.text("target").lower())
            if kind.startswith(_LINK_TO_CPU):
                to_cpu += count
            elif kind.startswith(_LINK_TO_SWITCH):
                to_switch += count
            elif other in vertices and other != device:  # GPUs that are hidden have no <pci>; NCCL skips them
                pair = frozenset((device, other))
                before = direct.get(pair, (count, rate, link))
                if before[0] != count:
                    raise InputError(f"{link.where}: <nvlink> count {count}, but {before[0]} in {before[2].where}")
                direct[pair] = count, min(rate, before[1]), link
        if to_cpu:
            wiring.join(device, machine.sockets[device], to_cpu * rate, latency, cost=_C2C_COST)
        if to_switch:
            switch = wiring.vertex("nvswitch0") if switch is None else switch
            wiring.join(device, switch, to_switch * rate, latency)
    for pair, (count, rate, _) in direct.items():
        a, b = sorted(pair)
        wiring.join(a, b, count * rate, latency)
