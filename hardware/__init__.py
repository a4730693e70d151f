"""What a cluster is: devices, links, switches, and the presets that describe real ones."""

from .cluster import Cluster
from .device import Device, NearMemory
from .errors import InputError
from .library import (
    cluster_names,
    device_names,
    link_names,
    load_cluster,
    load_device,
    load_link,
    load_profile,
    profile_names,
)
from .link import Link, SwitchReduction
from .profile import InSwitch, Profile, Protocol

__all__ = [
    "Cluster",
    "Device",
    "InSwitch",
    "InputError",
    "Link",
    "NearMemory",
    "Profile",
    "Protocol",
    "SwitchReduction",
    "cluster_names",
    "device_names",
    "link_names",
    "load_cluster",
    "load_device",
    "load_link",
    "load_profile",
    "profile_names",
]
