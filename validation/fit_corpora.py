"""Make the corpora that ship: `wikipedia` in bins, the others fitted to what is published about them.

    python -m commlens.validation.fit_corpora wikipedia_sequence_lengths.csv

A fitted corpus is lognormal up to a length, and falls by a power law from there on, whose exponent makes the
density smooth at the joint. Its three numbers (median, sigma, joint) minimise the sum of the squared logarithms
of fitted over published over the targets.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.sequences.corpora import PRESETS

K = 1024
Floats = NDArray[np.float64]
_PER_OCTAVE = 8
_SHORTEST = 16  # tokens from which fitted corpora begin


@dataclass(frozen=True, slots=True)
class Target:
    """One published number.

    Parameters
    ----------
    what : str
        samples | tokens | mean.
    low, high : float
        Share of all samples, or tokens, that are (in) sequences of low to high tokens; or their mean length.
    value : float
    note : str
    """

    what: str
    low: float
    high: float
    value: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a corpus is fitted to.

    Parameters
    ----------
    source : str
    targets : tuple of Target
    like : str
        Corpus whose shape it is assumed to have, at another scale.
    """

    source: str
    targets: tuple[Target, ...]
    like: str = ""


_BYTESCALE = "ByteScale (arXiv 2502.21231) sections 3 and 8, whose longest sequences have 2M tokens"
_FITTED: dict[str, Fitted] = {
    "byted-like": Fitted(
        f"fitted to shares of the corpus of {_BYTESCALE}; the corpus is not public",
        (
            Target("samples", 0, 4 * K, 0.80, "about"),
            Target("samples", 128 * K, np.inf, 0.01),
            Target("tokens", 128 * K, np.inf, 0.443),
            Target("tokens", 256 * K, np.inf, 0.37),
            Target("tokens", 2048 * K, np.inf, 0.121),
            Target("samples", 2048 * K, np.inf, 0.0005),
        ),
    ),
    "github-like": Fitted(
        f"fitted to shares of GitHub lengths of {_BYTESCALE}; the lengths are not public",
        (
            Target("samples", 0, 4 * K, 0.72, "read off a figure; which corpus and bin it labels is presumed"),
            Target("tokens", 128 * K, np.inf, 0.162),
            Target("tokens", 256 * K, np.inf, 0.098),
        ),
    ),
    "commoncrawl-like": Fitted(
        "github-like, whose shape is assumed, at a scale fitted to FlexSP's case study (arXiv 2412.01523 section 6.5), "
        "whose two batches of 512 have 1.65 to 2.06 M and 2.5 to 2.9 M tokens; the lengths are not public",
        (Target("mean", 0, 192_000, 2.28e6 / 512, "middle of the two batches"),),
        like="github-like",
    ),
}


def density(centres: Floats, mu: float, sigma: float, joint: float) -> Floats:
    """Documents per log length, at centres, in any unit."""
    x = np.log(centres)
    body = np.minimum(x, joint) - mu
    return np.asarray(np.exp(-(body**2) / (2 * sigma**2) - (joint - mu) / sigma**2 * np.maximum(x - joint, 0.0)))


def bins(longest: int, shortest: int = 1) -> NDArray[np.int64]:
    """Edges of bins: whole numbers, eight to an octave where there are so many."""
    octaves = np.arange(0, _PER_OCTAVE * np.log2(longest / shortest) + 1) / _PER_OCTAVE
    return np.unique(np.append(np.round(shortest * 2**octaves), longest).astype(np.int64))


def measured(target: Target, edges: Any, weights: Any) -> float:
    """What bins make of a target."""
    middle = (edges[1:] + edges[:-1] - 1) / 2
    here = (edges[:-1] >= target.low) & (edges[1:] <= target.high + 1)
    if target.what == "mean":
        return float(np.average(middle[here], weights=weights[here]))
    mass = weights * (middle if target.what == "tokens" else 1.0)
    return float(mass[here].sum() / mass.sum())


def weights_of(edges: Floats, mu: float, sigma: float, joint: float) -> Floats:
    """Documents in each bin; the last bin has all that are longer, too, which were cut."""
    far = np.append(edges[:-1], edges[-2] * 2.0 ** (np.arange(1, 20 * _PER_OCTAVE) / _PER_OCTAVE))
    far = np.sort(np.append(far, edges[-1]))
    mass = density(np.sqrt(far[1:] * far[:-1]), mu, sigma, joint) * np.log(far[1:] / far[:-1])
    mass = np.append(mass[: len(edges) - 2], mass[len(edges) - 2 :].sum())
    return np.asarray(mass / mass.sum())


def fit(name: str, longest: int = 2048 * K) -> dict[str, Any]:
    """Fit a corpus: its bins, the numbers behind them, and how well the targets are met."""
    from scipy.optimize import minimize

    what = _FITTED[name]
    edges = np.append(bins(longest, _SHORTEST), longest + 1).astype(float)
    edges = np.unique(np.append(edges, [t.high for t in what.targets if 0 < t.high < np.inf]))
    if what.like:
        like = fit(what.like)["parameters"]
        sigma, above = like["sigma"], log(like["tail_from"] / like["median"])
        starts: list[tuple[float, ...]] = [(log(like["median"]),)]
    else:
        starts = [(m, s, j) for m in (5.0, 6.5, 8.0) for s in (-0.5, 0.3, 0.8) for j in (0.5, 2.0, 5.0)]

    def shape(found: Floats) -> tuple[float, float, float]:
        mu = float(found[0])
        return (mu, sigma, mu + above) if what.like else (mu, float(np.exp(found[1])), mu + float(found[2]))

    def loss(found: Floats) -> float:
        have = weights_of(edges, *shape(found))
        return sum(log(max(measured(t, edges, have), 1e-12) / t.value) ** 2 for t in what.targets)

    options = {"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-12}
    tries = [minimize(loss, start, method="Nelder-Mead", options=options) for start in starts]
    mu, deviation, joint = shape(min(tries, key=lambda found: found.fun).x)
    have = weights_of(edges, mu, deviation, joint)
    return {
        "kind": "fitted",
        "source": what.source,
        "parameters": {
            "median": float(np.exp(mu)),
            "sigma": deviation,
            "tail_from": float(np.exp(joint)),
            "tail_exponent": (joint - mu) / deviation**2,
        },
        "targets": [_target(t, measured(t, edges, have)) for t in what.targets],
        "edges": edges.astype(int).tolist(),
        "weights": have.tolist(),
    }


def binned(lengths: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, Any]:
    """Bins of counted lengths, and what they keep."""
    edges = bins(int(lengths.max()) + 1)
    weights = np.histogram(lengths, edges, weights=counts)[0]
    ascending = np.repeat(lengths, counts)  # the file is sorted
    targets = [("mean length", float(ascending.mean()), measured(Target("mean", 0, np.inf, 0), edges * 1.0, weights))]
    for part in (50, 75, 90, 95, 99, 99.9):
        cumulative = np.append(0, np.cumsum(weights)) / weights.sum()
        targets.append((f"{part:g} % of lengths are below", float(np.percentile(ascending, part)),
                        float(np.interp(part / 100, cumulative, edges))))  # fmt: skip
    for high in (192_000, 384_000):
        inside = ascending[ascending <= high]
        have = measured(Target("mean", 0, high, 0), *_split(edges * 1.0, weights * 1.0, high))
        targets.append((f"mean length of those up to {high}", float(inside.mean()), have))
    return {
        "kind": "binned",
        "source": "lengths published with FlexSP's code (Hetu-Galvatron, branch flexsp, galvatron/datasets/"
        "wikipedia.txt), a random half of the million",
        "targets": [{"what": what, "published": round(a, 1), "here": round(b, 1)} for what, a, b in targets],
        "edges": edges.tolist(),
        "weights": weights.astype(int).tolist(),
    }


def _split(edges: Any, weights: Any, at: float) -> tuple[Any, Any]:
    """Cut the bin that a length falls into."""
    place = int(np.searchsorted(edges, at + 1)) - 1
    part = (at + 1 - edges[place]) / (edges[place + 1] - edges[place])
    return np.insert(edges, place + 1, at + 1), np.concatenate(
        [weights[:place], [weights[place] * part, weights[place] * (1 - part)], weights[place + 1 :]]
    )


def _target(target: Target, here: float) -> dict[str, Any]:
    span = f"of at least {target.low:.0f} tokens" if target.low else f"of up to {target.high:.0f} tokens"
    what = {"mean": "mean length of sequences"}
    return {
        "what": f"{what.get(target.what, f'share of {target.what} in sequences')} {span}",
        "published": float(f"{target.value:.4g}"),
        "here": float(f"{here:.4g}"),
        **({"note": target.note} if target.note else {}),
    }


def write(name: str, found: dict[str, Any], folder: Path = PRESETS) -> Path:
    """Write a preset."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    found = {**found, "weights": [w if isinstance(w, int) else float(f"{w:.5g}") for w in found["weights"]]}
    if "parameters" in found:
        found["parameters"] = {key: float(f"{value:.5g}") for key, value in found["parameters"].items()}
    head = "# Written by validation/fit_corpora.py. Lengths in tokens; a bin ends before the next edge.\n"
    body = yaml.dump(
        {k: v for k, v in found.items() if k not in ("edges", "weights")}, Dumper=Dumper, sort_keys=False, width=110
    )
    lists = yaml.dump({k: found[k] for k in ("edges", "weights")}, Dumper=Dumper, sort_keys=False, width=110,
                      default_flow_style=None)  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(head + body + lists, encoding="utf-8")
    return path


def main(arguments: list[str]) -> None:
    """Write every preset; the binned one where its file is given."""
    if arguments:
        lengths, counts = np.loadtxt(arguments[0], delimiter=",", skiprows=1, dtype=np.int64).T
        print(write("wikipedia", binned(lengths, counts)))
    for name in _FITTED:
        print(write(name, fit(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
