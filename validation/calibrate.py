"""Learning what a library makes of your links from the logs of its own benchmark.

Samples inside one node calibrate the link, samples of one rank per node the network adapter. The profile
that is written is fitted to all of them; the errors that are printed are those of samples left out of
a fit of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..hardware import Cluster, InputError, Link, Profile, Protocol, SwitchReduction, load_device
from ..simulator.communicator import Communicator
from .fit_profile import Fitted, errors, fit, with_profile
from .logs.sample import Sample, bus_factor
from .sizes import mean_errors, size_class

if TYPE_CHECKING:
    import pandas as pd

LEAST = 8  # samples a fit needs
# Reduction in the switch is believed in when it takes this much off the error of the all-reduces it may do.
CONVINCING = 0.02
SWITCHED = 5  # ranks from which NCCL reduces in the switch on H200 (published runs)
POOR = 0.2  # error above which the fabric is doubted
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted profile and how far to trust it.

    Parameters
    ----------
    profile : Profile
    fitted : Fitted
    errors : pandas.DataFrame
        By kind and size: samples, mean error on those left out, and a trivial baseline's.
    breaks : pandas.DataFrame
        By kind and ranks: from which size the bulk protocol, or the switch, is taken.
    notes : tuple of str
        What the samples could not tell.
    """

    profile: Profile
    fitted: Fitted
    errors: pd.DataFrame
    breaks: pd.DataFrame
    notes: tuple[str, ...]


def calibrate(samples: Sequence[Sample], cluster: Cluster | None = None, name: str = "profile") -> Calibration:
    """Fit a profile to samples.

    Parameters
    ----------
    samples : sequence of Sample
        All inside one node, or all of one rank per node.
    cluster : Cluster, optional
        Where they were measured, for the link's bandwidth and fabric; by default a switch whose links
        are a quarter faster than the best sample.
    name : str

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        For too few samples, or samples of several ranks on several nodes.
    """
    used, notes = _usable(samples)
    place = _cluster(used) if cluster is None else _fitting(cluster, used)
    halves = _halves(used)
    order = [*halves[0], *halves[1]]
    missed = _left_out(used, place, halves)
    may = np.array([used[i].kind == "all_reduce" and used[i].ranks >= SWITCHED and used[i].nodes == 1 for i in order])
    if cluster is None and may.any():
        switched = place.replace(switch_reduction=SwitchReduction(5e-5, place.link.bandwidth, 0.5, SWITCHED, SWITCHED))
        other = _left_out(used, switched, halves)
        if np.abs(other[may]).mean() < np.abs(missed[may]).mean() - CONVINCING:
            place, missed = switched, other
    fitted = fit(used, place, name=name)
    table = _errors([used[i] for i in order], missed)
    error = mean_errors([used[i].size for i in order], missed)
    if cluster is None and np.abs(missed).mean() > POOR:
        notes.append("a switch does not describe these samples: name the cluster they were measured on")
    profile = replace(fitted.profile, error=error, absolute=cluster is None)
    missing = {"low.hop": "one number of ranks: what a hop costs is part of the base"} | {
        "exchange_low.hop": "no all-to-all: it is taken to cost what a ring costs",
    }
    if min(map(len, halves)) < LEAST:
        notes.append(f"fewer than {2 * LEAST} samples: the errors are those of the samples fitted to")
    notes += [text for key, text in missing.items() if key not in fitted.free]
    return Calibration(profile, fitted, table, _breaks(profile, place, used), tuple(notes))


def _usable(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """Samples of one sort, and what was left out."""
    inside = [s for s in samples if s.nodes == 1 and s.kind in KINDS]
    across = [s for s in samples if s.nodes == s.ranks > 1 and s.kind in KINDS]
    used = inside if len(inside) >= len(across) else across
    notes = []
    if len(used) < len(samples):
        notes.append(
            f"{len(samples) - len(used)} of {len(samples)} samples left out: a fit takes {', '.join(KINDS)} "
            "inside one node, or with one rank per node"
        )
    if len(used) < LEAST:
        more = f"; {notes[0]}" if notes else ""
        raise InputError(f"logs: {len(used)} usable samples of {len(samples)} (legal: {LEAST} or more{more})")
    return used, notes


def _cluster(samples: Sequence[Sample]) -> Cluster:
    """A switch as fast as the samples need."""
    best = max(s.size / s.time * bus_factor(s.kind, s.ranks) for s in samples)
    plain = Protocol(0.0, 0.0, 1.0)
    profile = Profile("start", plain, plain, plain, plain)
    link = Link("measured", 1.25 * best, 0.0, profile)
    return Cluster("measured", load_device("h100-sxm"), max(s.ranks for s in samples), 1, "switch", link)


def _fitting(cluster: Cluster, samples: Sequence[Sample]) -> Cluster:
    """The cluster with the adapters in place of links where every rank has a node of its own."""
    ranks = max(s.ranks for s in samples)
    if samples[0].nodes == 1:
        if ranks > cluster.devices_per_node:
            raise InputError(f"{cluster.name}: {ranks} ranks in a node of {cluster.devices_per_node} (legal: as many)")
        return cluster.replace(nodes=1)
    if cluster.nic is None:
        raise InputError(f"{cluster.name}: nic: missing (legal: an adapter, for samples of one rank per node)")
    return cluster.replace(
        link=cluster.nic,
        nodes=1,
        devices_per_node=ranks,
        fabric="switch",
        node=None,
        network=None,
        switch_reduction=None,
    )


def _halves(samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    """Numbers of the samples in two parts that take turns by size, so that neither lacks a kind or ranks."""
    seen: dict[tuple[str, int], dict[float, int]] = {}
    parts: tuple[list[int], list[int]] = ([], [])
    for number in sorted(range(len(samples)), key=lambda i: samples[i].size):
        sample = samples[number]
        sizes = seen.setdefault((sample.kind, sample.ranks), {})
        sizes.setdefault(sample.size, len(sizes))
        parts[sizes[sample.size] % 2].append(number)
    return parts


def _left_out(samples: Sequence[Sample], cluster: Cluster, halves: tuple[list[int], list[int]]) -> np.ndarray:
    """Errors of each half by the fit of the other, in the order of the halves."""
    parts = [[samples[i] for i in half] for half in halves]
    if min(map(len, parts)) < LEAST:
        parts = [list(samples), list(samples)]  # too few to leave any out; `calibrate` says so
    found = [errors(fit(other, cluster).profile, cluster, mine) for mine, other in zip(parts, parts[::-1], strict=True)]
    if len(found[0]) == len(samples):
        return np.asarray(found[0][[*halves[0], *halves[1]]])
    return np.concatenate(found)


def _errors(samples: Sequence[Sample], missed: np.ndarray) -> pd.DataFrame:
    """Errors by kind and size, beside those of the nearest other size scaled to this one."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "kind": [s.kind for s in samples],
            "size": [size_class(s.size) for s in samples],
            "error": np.abs(missed),
            "trivial": [abs(_nearest(sample, samples) / sample.time - 1) for sample in samples],
        }
    )
    groups = frame.groupby(["kind", "size"], sort=True)
    return groups.agg(samples=("error", "size"), error=("error", "mean"), trivial=("trivial", "mean")).reset_index()


def _nearest(sample: Sample, samples: Sequence[Sample]) -> float:
    """Time of the sample of the same kind and ranks whose size is nearest, scaled by size."""
    others = [s for s in samples if (s.kind, s.ranks) == (sample.kind, sample.ranks) and s.size != sample.size]
    if not others:
        return sample.time
    best = min(others, key=lambda s: abs(np.log(s.size / sample.size)))
    return best.time * sample.size / best.size


def _breaks(profile: Profile, cluster: Cluster, samples: Sequence[Sample]) -> pd.DataFrame:
    """Sizes from which the library takes another algorithm or protocol, by the fitted profile."""
    import pandas as pd

    place = with_profile(cluster, profile)
    rows = []
    for kind, ranks in sorted({(s.kind, s.ranks) for s in samples}):
        group = Communicator(place, ranks)
        before = None
        for size in 2.0 ** np.arange(9, 35, 0.25):
            cost = group.collective(kind, float(size))
            now = (cost.algorithm, cost.protocol)
            if before is not None and now != before:
                rows.append({"kind": kind, "ranks": ranks, "from": float(size), "takes": ", ".join(now)})
            before = now
    return pd.DataFrame(rows, columns=["kind", "ranks", "from", "takes"])


def source_of(logs: Sequence[Path], samples: Sequence[Sample]) -> str:
    """Where the numbers of a profile come from."""
    names = ", ".join(path.name for path in logs[:3]) + (f" and {len(logs) - 3} more" if len(logs) > 3 else "")
    return f"fitted by commlens calibrate collectives to {len(samples)} samples of {names}".replace('"', "'")
