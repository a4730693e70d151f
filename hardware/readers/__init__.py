"""Machines from what they print about themselves: `nvidia-smi topo -m`, and NCCL's topology XML."""

from .nccl_xml import read_nccl_xml
from .topo_matrix import read_topo_matrix

__all__ = ["read_nccl_xml", "read_topo_matrix"]
