"""What a cluster is: devices, links, switches, and the presets that describe real ones."""

from .cluster import Cluster
from .device import Device, NearMemory
from .errors import InputError
from .library import cluster_names, device_names, link_names, load_cluster, load_device, load_link
from .link import Link, SwitchReduction

__all__ = [
    "Cluster",
    "Device",
    "InputError",
    "Link",
    "NearMemory",
    "SwitchReduction",
    "cluster_names",
    "device_names",
    "link_names",
    "load_cluster",
    "load_device",
    "load_link",
]
