"""Distributions of sequence lengths by name: of a published data set in bins, or fitted to published shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...hardware.errors import InputError, nearest
from .batch import Batch, Integers, draw

PRESETS = Path(__file__).parent.parent / "presets" / "corpora"


@dataclass(frozen=True)
class Corpus:
    """How many documents there are of which length.

    Parameters
    ----------
    name : str
    kind : str
        "binned": counted in a data set. "fitted": a long tail fitted to a few published shares.
    source : str
    edges : tuple of int, shape (bins + 1,)
        Bins of lengths; one begins at its edge and ends before the next [tokens].
    weights : tuple of float, shape (bins,)
        Documents of each bin, in any unit. Within a bin all lengths are as likely.
    parameters : mapping
        Of a fitted one.
    targets : tuple of mapping
        What the source says, and what these bins make of it.
    """

    name: str
    kind: str
    source: str
    edges: tuple[int, ...]
    weights: tuple[float, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[Mapping[str, Any], ...] = ()

    @property
    def mean(self) -> float:
        """Mean length [tokens]."""
        edges = np.array(self.edges, dtype=float)
        return float(np.average((edges[1:] + edges[:-1] - 1) / 2, weights=self.weights))

    def sample(self, generator: np.random.Generator, count: int) -> Integers:
        """Draw lengths, shape (count,)."""
        edges = np.array(self.edges, dtype=float)
        cumulative = np.cumsum(self.weights)
        which = np.searchsorted(cumulative, generator.random(count) * cumulative[-1], side="right")
        which = np.minimum(which, len(self.weights) - 1)
        low, high = edges[which], edges[which + 1]
        drawn = np.minimum(low + np.floor(generator.random(count) * (high - low)), high - 1)
        return np.asarray(drawn, dtype=np.int64)

    def batch(self, count: int | None = 512, **options: Any) -> Batch:
        """Draw a batch; options as of `batch.draw`."""
        source = self.name if self.kind == "binned" else f"{self.name} ({self.kind})"
        return draw(self.sample, source, count=count, **options)


def corpus_names() -> list[str]:
    """Names of the shipped corpora, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


@cache
def load_corpus(name: str) -> Corpus:
    """Corpus by name.

    Raises
    ------
    InputError
        For a name that is not shipped; the nearest are offered.
    """
    from ...hardware.files import read_yaml

    known = corpus_names()
    found = name.strip().lower().replace("_", "-")
    if found not in known:
        raise InputError(f"corpus: unknown {name!r:.60}{nearest(found, known)} (legal: {', '.join(known)})")
    data = read_yaml(PRESETS / f"{found}.yaml")
    return Corpus(
        found,
        data["kind"],
        data["source"],
        tuple(data["edges"]),
        tuple(data["weights"]),
        data.get("parameters", {}),
        tuple(data.get("targets", ())),
    )
