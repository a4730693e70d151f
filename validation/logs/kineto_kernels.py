"""What a communication kernel in a PyTorch profiler trace says of itself: which collective, how large.

Message sizes are in elements, times in microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .files import number
from .sample import Sample

# Names in torch's ProcessGroupNCCL [recalled], letters only; what is not here (barrier, gather) is not fitted.
OPERATIONS = {
    "allreduce": "all_reduce",
    "allreducecoalesced": "all_reduce",
    "allgather": "all_gather",
    "allgatherbase": "all_gather",
    "allgathercoalesced": "all_gather",
    "allgatherintotensorcoalesced": "all_gather",
    "reducescatter": "reduce_scatter",
    "reducescatterbase": "reduce_scatter",
    "reducescattertensorcoalesced": "reduce_scatter",
    "alltoall": "all_to_all",
    "alltoallbase": "all_to_all",
    "alltoallv": "all_to_all",
    "broadcast": "broadcast",
    "broadcastoop": "broadcast",
    "reduce": "reduce",
    "reduceoop": "reduce",
    "send": "send_recv",
    "recv": "send_recv",
    "sendrecv": "send_recv",
}

# Bytes of c10's scalar types; aliases as users write them.
BYTES = {
    "double": 8,
    "long": 8,
    "uint64": 8,
    "complexfloat": 8,
    "float": 4,
    "float32": 4,
    "int": 4,
    "uint32": 4,
    "half": 2,
    "float16": 2,
    "bfloat16": 2,
    "short": 2,
    "uint16": 2,
    "char": 1,
    "byte": 1,
    "bool": 1,
    "float8e4m3fn": 1,
    "float8e5m2": 1,
    "float8e4m3fnuz": 1,
    "float8e5m2fnuz": 1,
    "complexdouble": 16,
}

COLLECTIVE, DTYPE, INPUT, OUTPUT, GROUP = (
    "Collective name",
    "dtype",
    "In msg nelems",
    "Out msg nelems",
    "Group size",
)
MEMBERS = "Process Group Ranks"
# Whose full buffer is the output; of the others it is the input (and both are equal or the larger counts).
GATHERED = ("all_gather",)
ALGORITHMS = ("RING", "TREE", "NVLS", "NVLSTREE", "COLLNET", "COLLNETDIRECT", "COLLNETCHAIN", "PAT")
PROTOCOLS = ("LL", "LL128", "SIMPLE")
_KERNEL = re.compile(r"nccl\w*?kernel\w*?_([A-Za-z]+)(\w*)", re.IGNORECASE)


def sample_of(
    event: Mapping[str, Any],
    arguments: Mapping[str, Any],
    path: str,
    entry: int,
    local: int | None,
    nodes: int | None,
) -> Sample | None:
    """The kernel as a sample; None where it does not say what it moved.

    Parameters
    ----------
    event : mapping
        With a duration that is a number.
    arguments : mapping
        Its own, or its operator's.
    path : str
    entry : int
        Of the event, from 1.
    local : int or None
        Devices of a machine.
    nodes : int or None
        Machines, where the user says it.

    Raises
    ------
    InputError
        For a number out of range.
    """
    name = _KERNEL.match(str(event["name"]))
    said = arguments.get(COLLECTIVE) or (name[1] if name is not None else "")
    kind = OPERATIONS.get(re.sub("[^a-z]", "", str(said).lower()))
    width = BYTES.get(re.sub("[^a-z0-9]", "", str(arguments.get(DTYPE, "")).lower()))
    if kind is None or width is None or INPUT not in arguments or OUTPUT not in arguments:
        return None
    if not _even(arguments):
        return None
    elements = [
        int(number(arguments[key], "event", key, "elements, 0 or more", or_zero=True)) for key in (INPUT, OUTPUT)
    ]
    size = width * (elements[1] if kind in GATHERED else elements[0] or elements[1])
    members = _members(arguments)
    ranks = 2 if kind == "send_recv" else arguments.get(GROUP, len(members) or None)
    if ranks is None or size == 0:
        return None
    ranks = int(number(ranks, "event", GROUP, "ranks, 1 or more"))
    if ranks < 2:
        return None
    words = (name[2] if name is not None else "").upper().split("_")
    return Sample(
        kind,
        float(size),
        ranks,
        min(ranks, nodes or _machines(kind, members, arguments, local)),
        1e-6 * float(event["dur"]),
        path,
        entry,
        next((word for word in words if word in ALGORITHMS), None),
        next((word for word in words if word in PROTOCOLS), None),
    )


def _even(arguments: Mapping[str, Any]) -> bool:
    """Whether the parts of an all-to-all, as far as they are listed, are of one size."""
    return all(
        len(set(re.findall(r"\d+", str(arguments.get(key, ""))))) < 2 for key in ("In split size", "Out split size")
    )


def _members(arguments: Mapping[str, Any]) -> list[int]:
    """Ranks of a group; none where the list is missing or cut short."""
    text = str(arguments.get(MEMBERS, ""))
    if not re.fullmatch(r"\s*\[[\d,\s]*\]\s*", text):
        return []
    return [int(word) for word in re.findall(r"\d+", text)]


def _machines(kind: str, members: Sequence[int], arguments: Mapping[str, Any], local: int | None) -> int:
    """Machines that ranks are on when they fill machines of `local` devices in order."""
    if kind == "send_recv":
        members = [end for end in ends(kind, arguments) if end >= 0]
    return len({rank // local for rank in members}) if local and members else 1


def ends(kind: str, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Source and destination of a message, which both ranks know; empty for a collective."""
    if kind != "send_recv":
        return ()
    ends = (arguments.get("Src Rank"), arguments.get("Dst Rank"))
    return tuple(end if isinstance(end, int) else -1 for end in ends)
