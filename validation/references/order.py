"""What a pool of ranks is asked to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """A reference to run.

    Parameters
    ----------
    name : str
        As errors call it.
    mechanism : str
        "module:function", called as ``function(ranks, shape)`` on every rank; returns numbers by name.
    ranks : int
        The first so many of the pool take part.
    shape : object, optional
        What it is run on; pickled.
    parts : sequence of sequence of int, optional
        Groups of some of its ranks that it works with besides.
    """

    name: str
    mechanism: str
    ranks: int
    shape: Any = None
    parts: Sequence[Sequence[int]] = ()

    @property
    def groups(self) -> set[tuple[int, ...]]:
        """Members of every process group that it needs."""
        return {tuple(range(self.ranks)), *(tuple(part) for part in self.parts)}


@dataclass(frozen=True, slots=True)
class Order:
    """A list of tasks for one pool.

    Parameters
    ----------
    tasks : sequence of Task
    ranks : int
        Of the pool.
    backend : str
        gloo | nccl.
    timeout : float
        Seconds for all of them.
    """

    tasks: Sequence[Task]
    ranks: int
    backend: str
    timeout: float

    @property
    def modules(self) -> list[str]:
        """Modules of the mechanisms."""
        return sorted({task.mechanism.partition(":")[0] for task in self.tasks})

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Members of every process group, in an order that all ranks agree on."""
        return sorted(set().union(*(task.groups for task in self.tasks)))
