"""Fat trees: leaves, spines and, in large ones, cores, plain or rail by rail."""

from __future__ import annotations

from ..errors import InputError
from ..topology import Topology
from ..wiring import Wiring
from . import checks


def fat_tree(
    ranks: int,
    per_leaf: int,
    bandwidth: float,
    latency: float,
    oversubscription: float = 1.0,
    spines: int | None = None,
    rails: int | None = None,
    leaves_per_pod: int | None = None,
    core_oversubscription: float = 1.0,
    cores_per_spine: int | None = None,
) -> Topology:
    """A folded Clos network of two or three levels.

    Every leaf has one link to every spine (of its pod). Bandwidths upward follow from the
    oversubscription, so that any number of spines gives the same total: with fewer spines than
    uplinks, a link here is a bundle.

    Parameters
    ----------
    ranks : int
        Devices; the last leaf may be partly filled.
    per_leaf : int
        Devices below a leaf.
    bandwidth : float
        Between a device and its leaf, per direction [B/s].
    latency : float
        Of each link [s].
    oversubscription : float, default 1
        Bandwidth below a leaf over that above it, 1 or more.
    spines : int, optional
        In all, or per pod with three levels; by default as many as make a link between leaf and spine
        about as fast as a device's.
    rails : int, optional
        Devices per node. Given, rank r is device r mod rails of its node, and a leaf serves the same
        device of `per_leaf` nodes; without, leaves serve consecutive ranks.
    leaves_per_pod : int, optional
        Given, leaves and spines form pods, which a third level of cores joins: each spine of a pod has
        links to the `cores_per_spine` cores of its number.
    core_oversubscription : float, default 1
        Bandwidth below a spine over that above it.
    cores_per_spine : int, optional
        By default as many as make a link to a core about as fast as one to a leaf.

    Returns
    -------
    Topology
        Routed by equal-cost multipath.

    Raises
    ------
    InputError
        A value out of range.
    """
    checks.count("fat_tree: ranks", ranks)
    checks.count("fat_tree: per_leaf", per_leaf)
    checks.link("fat_tree", bandwidth, latency)
    checks.ratio("fat_tree: oversubscription", oversubscription)
    checks.ratio("fat_tree: core_oversubscription", core_oversubscription)
    for name, value in (("spines", spines), ("rails", rails), ("leaves_per_pod", leaves_per_pod)):
        if value is not None:
            checks.count(f"fat_tree: {name}", value)
    if cores_per_spine is not None and leaves_per_pod is None:
        raise InputError("fat_tree: cores_per_spine: only with leaves_per_pod (legal: a tree of three levels)")
    width = rails or 1
    groups = -(-ranks // (per_leaf * width))  # of leaves that serve the same nodes
    below = min(per_leaf, -(-ranks // width))
    count = spines or max(1, round(below / oversubscription))
    up = below * bandwidth / oversubscription / count
    checks.links("fat_tree", 2 * (ranks + groups * width * count))
    wiring = Wiring(f"fat tree of {ranks}")
    leaves = [wiring.vertex(f"leaf{number}", level=1, rail=number % width) for number in range(groups * width)]
    for rank in range(ranks):
        place = rank // width // per_leaf * width + rank % width
        device = wiring.device(False, **({} if rails is None else {"node": rank // width, "rail": rank % width}))
        wiring.join(device, leaves[place], bandwidth, latency)
    if len(leaves) == 1:
        return wiring.topology()
    pods = (
        [leaves]
        if leaves_per_pod is None
        else [leaves[begin : begin + leaves_per_pod] for begin in range(0, len(leaves), leaves_per_pod)]
    )
    tops = []
    for pod, members in enumerate(pods):
        tops.append([wiring.vertex(f"spine{pod * count + number}", level=2, pod=pod) for number in range(count)])
        for leaf in members:
            for spine in tops[-1]:
                wiring.join(leaf, spine, up, latency)
    if len(pods) > 1:
        fan = cores_per_spine or max(1, round(len(pods[0]) / core_oversubscription))
        checks.count("fat_tree: cores_per_spine", fan)
        checks.links("fat_tree", 2 * len(pods) * count * fan)
        rate = len(pods[0]) * up / core_oversubscription / fan
        cores = [[wiring.vertex(f"core{number * fan + k}", level=3) for k in range(fan)] for number in range(count)]
        for pod_spines in tops:
            for spine, above in zip(pod_spines, cores, strict=True):
                for core in above:
                    wiring.join(spine, core, rate, latency)
    return wiring.topology()
