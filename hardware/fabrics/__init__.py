"""The networks there are: one function each, from a few numbers to a `Topology`."""

from .clos import fat_tree
from .described import FABRICS, build_topology, parameters
from .direct import full_mesh, ring, torus
from .dragonfly import dragonfly
from .host import pcie_tree, switch
from .leaf_spine import leaf_spine
from .mixed import compose
from .routers import with_paths
from .wide import wan_star

__all__ = [
    "FABRICS",
    "build_topology",
    "compose",
    "dragonfly",
    "fat_tree",
    "full_mesh",
    "leaf_spine",
    "parameters",
    "pcie_tree",
    "ring",
    "switch",
    "torus",
    "wan_star",
    "with_paths",
]
