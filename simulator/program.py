"""What runs, as data: resources, tasks in in-order streams, and the program that holds them.

Besides the tasks a program keeps what every reader of it needs (who waits for whom, which fraction
of which resource a task uses), filled in as tasks are added, so playing it starts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from types import MappingProxyType

from .sharing import Use

KINDS = ("compute", "communication", "memory", "sync")
"""The kinds of task; timelines colour and reports add up by them."""

_NOTHING: Mapping[str, float] = MappingProxyType({})
# Fractions are rounded here so that equal uses compare equal and parts sum to 1, not 1 + 2e-16.
_DIGITS = 12
# A duration given by hand may fall short of demand / capacity by rounding only.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Resource:
    """Something tasks share.

    Parameters
    ----------
    name : str
        Unique name, such as ``"gpu0.hbm"``.
    capacity : float
        Units it serves per second (bytes/s of a link or memory, SMs of a device), above 0.
    """

    name: str
    capacity: float


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work on one stream of one rank.

    Parameters
    ----------
    id : int
        Position in the program.
    name : str
        What a person reads on the timeline.
    kind : str
        One of `KINDS`.
    rank : int
        Rank it runs on.
    stream : str
        In-order queue of that rank, like a CUDA stream.
    after : tuple of int
        Tasks that must have ended before it starts, besides its predecessor in the stream.
    demand : mapping of str to float
        Amount of each resource it consumes in all [units of the resource].
    duration : float
        Seconds its shared part takes when nothing else runs [s].
    latency : float
        Fixed seconds before that, in which it uses no resource [s].
    priority : int
        Class in which it is served; lower numbers first.
    weight : float
        Share it gets within its class, relative to others, above 0.
    info : mapping
        What reports want to know (``communication``, ``communication_bytes`` [bytes],
        ``memory_bytes`` [bytes], ``flops`` [FLOP], ``bound``).
    """

    id: int
    name: str
    kind: str
    rank: int
    stream: str
    after: tuple[int, ...]
    demand: Mapping[str, float]
    duration: float
    latency: float
    priority: int = 0
    weight: float = 1.0
    info: Mapping[str, float | str] = field(default_factory=dict)


class Program:
    """A directed graph of tasks, in order within each (rank, stream).

    Parameters
    ----------
    name : str
        What the program computes, for printing.

    Examples
    --------
    >>> program = Program("two steps")
    >>> link = program.resource("link", 100e9)
    >>> first = program.add("send", kind="communication", stream="comm", demand={link: 1e9})
    >>> second = program.add("gemm", kind="compute", rank=1, after=first, duration=0.5)
    >>> program.tasks[first].duration, program.count
    (0.01, 2)
    """

    def __init__(self, name: str = "program") -> None:
        self.name = name
        self.predecessors: list[int] = []
        self.successors: list[list[int]] = []
        self.waits: list[int] = []
        self.uses: list[Use | None] = []
        self.durations: list[float] = []
        self.latencies: list[float] = []
        self._tasks: list[Task] = []
        self._resources: dict[str, Resource] = {}
        self._number: dict[str, int] = {}
        self._last: dict[tuple[int, str], int] = {}
        self._known_uses: dict[tuple[object, ...], Use] = {}
        self._asked_uses: dict[tuple[object, ...], Use | None] = {}
        self._known_demands: dict[tuple[tuple[str, float], ...], tuple[float, Mapping[str, float]]] = {}

    @property
    def tasks(self) -> Sequence[Task]:
        """Tasks in the order they were added; a task's id is its place."""
        return self._tasks

    @property
    def resources(self) -> Mapping[str, Resource]:
        """Resources by name, in the order they were added."""
        return self._resources

    @property
    def count(self) -> int:
        """Number of tasks."""
        return len(self._tasks)

    @property
    def streams(self) -> Sequence[tuple[int, str]]:
        """Every (rank, stream) that has a task, in order of appearance."""
        return list(self._last)

    def resource(self, name: str, capacity: float) -> str:
        """Declare a resource; declaring it again with the same capacity changes nothing.

        Parameters
        ----------
        name : str
            Its name.
        capacity : float
            Units it serves per second, above 0.

        Returns
        -------
        str
            The name, to be used as a key of a task's demand.

        Raises
        ------
        ValueError
            The capacity is not a positive finite number, or differs from the one declared before.
        """
        known = self._resources.get(name)
        if known is None:
            if not 0 < capacity < inf:
                raise ValueError(f"resource {name!r}: capacity {capacity!r} (legal: above 0, finite)")
            self._number[name] = len(self._resources)
            self._resources[name] = Resource(name, float(capacity))
        elif known.capacity != capacity:
            raise ValueError(f"resource {name!r}: capacity {capacity!r}, but declared with {known.capacity!r}")
        return name

    def add(
        self,
        name: str,
        *,
        kind: str,
        rank: int = 0,
        stream: str = "main",
        after: int | Iterable[int] = (),
        demand: Mapping[str, float] | None = None,
        duration: float | None = None,
        latency: float = 0.0,
        priority: int = 0,
        weight: float = 1.0,
        **info: float | str,
    ) -> int:
        """Append a task to its stream.

        Parameters
        ----------
        name, kind, rank, stream, latency, priority, weight
            As in `Task`.
        after : int or iterable of int, optional
            Tasks it waits for, all of them added before.
        demand : mapping of str to float, optional
            Amount of each declared resource it consumes in all.
        duration : float, optional
            Isolated seconds of its shared part [s]; by default the time its scarcest resource
            needs, ``max(demand / capacity)``.
        **info : float or str
            Kept in `Task.info`.

        Returns
        -------
        int
            The task's id.

        Raises
        ------
        ValueError
            An unknown kind or resource, a dependency on a later task, a negative or non-finite
            number, or a duration below what the demand needs.
        """
        number = len(self._tasks)
        waits_for = (after,) if isinstance(after, int) else tuple(after)
        if kind not in KINDS:
            raise ValueError(f"task {name!r}: kind {kind!r} (legal: {', '.join(KINDS)})")
        for other in waits_for:
            if not 0 <= other < number:
                raise ValueError(f"task {name!r}: after {other} (legal: 0 to {number - 1})")
        if not (0 <= latency < inf and 0 < weight < inf):
            raise ValueError(
                f"task {name!r}: latency {latency!r}, weight {weight!r} "
                "(legal: latency 0 or more, weight above 0, finite)"
            )
        # Equal demands are checked once and share one mapping: a collective has thousands of them.
        items = tuple(demand.items()) if demand else ()
        known = self._known_demands.get(items)
        if known is None:
            known = self._needed(name, demand or _NOTHING), dict(items) if items else _NOTHING
            self._known_demands[items] = known
        needed, demand = known
        if duration is None:
            duration = needed
        elif not needed * (1 - _ROUNDING) <= duration < inf:
            raise ValueError(
                f"task {name!r}: duration {duration!r} s (legal: finite, {needed!r} s or more, "
                "which is what its demand takes)"
            )
        use = self._use(items, demand, duration, priority, weight) if needed else None
        self._tasks.append(
            Task(number, name, kind, rank, stream, waits_for, demand,
                 duration, latency, priority, weight, info or _NOTHING)
        )  # fmt: skip
        previous = self._last.get((rank, stream), -1)
        self._last[rank, stream] = number
        self.predecessors.append(previous)
        self.successors.append([])
        self.uses.append(use)
        self.durations.append(duration)
        self.latencies.append(latency)
        waits = len(waits_for)
        for other in waits_for:
            self.successors[other].append(number)
        if previous >= 0 and previous not in waits_for:
            self.successors[previous].append(number)
            waits += 1
        self.waits.append(waits)
        return number

    def _needed(self, name: str, demand: Mapping[str, float]) -> float:
        needed = 0.0
        for key, amount in demand.items():
            resource = self._resources.get(key)
            if resource is None:
                raise ValueError(f"task {name!r}: demand on {key!r}, which was never declared")
            if not 0 <= amount < inf:
                raise ValueError(f"task {name!r}: demand {key!r} {amount!r} (legal: 0 or more, finite)")
            needed = max(needed, amount / resource.capacity)
        return needed

    def _use(
        self,
        items: tuple[tuple[str, float], ...],
        demand: Mapping[str, float],
        duration: float,
        priority: int,
        weight: float,
    ) -> Use | None:
        asked = (items, duration, priority, weight)
        if asked in self._asked_uses:
            return self._asked_uses[asked]
        found = self._asked_uses[asked] = self._new_use(demand, duration, priority, weight)
        return found

    def _new_use(self, demand: Mapping[str, float], duration: float, priority: int, weight: float) -> Use | None:
        fractions = []
        for key, amount in demand.items():
            fraction = round(amount / (duration * self._resources[key].capacity), _DIGITS)
            if fraction > 0:
                fractions.append((self._number[key], min(fraction, 1.0)))
        if not fractions:
            return None
        fractions.sort()
        signature = (*fractions, priority, weight)
        use = self._known_uses.get(signature)
        if use is None:
            use = Use.of(len(self._known_uses), fractions, priority, weight)
            self._known_uses[signature] = use
        return use

    def totals(self) -> dict[str, float]:
        """Amount of each resource that all tasks together consume [units of the resource]."""
        total = dict.fromkeys(self._resources, 0.0)
        for task in self._tasks:
            for key, amount in task.demand.items():
                total[key] += amount
        return total

    def check(self) -> Program:
        """Check every task again and return the program; for tests and for hand-made programs.

        Raises
        ------
        ValueError
            A task that points forward, uses an undeclared resource, or holds an illegal number.
        """
        for number, task in enumerate(self._tasks):
            where = f"task {number} ({task.name!r})"
            if task.id != number:
                raise ValueError(f"{where}: id {task.id}")
            if any(not 0 <= other < number for other in task.after):
                raise ValueError(f"{where}: after {task.after} (legal: 0 to {number - 1})")
            amounts = (task.duration, task.latency, task.weight, *task.demand.values())
            if any(not isfinite(amount) or amount < 0 for amount in amounts):
                raise ValueError(f"{where}: a number is negative or not finite: {amounts}")
            if task.duration < self._needed(task.name, task.demand) * (1 - _ROUNDING):
                raise ValueError(f"{where}: duration {task.duration!r} s is below its demand's time")
        return self

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._tasks)

    def __repr__(self) -> str:
        """Return a one-line description."""
        return f"Program({self.name!r}, tasks={self.count}, resources={len(self._resources)})"

    def __str__(self) -> str:
        """Return the program as a table, its first 50 tasks."""
        lines = [f"{self.name}: {self.count} tasks on {len(self._last)} streams, {len(self._resources)} resources"]
        for task in self._tasks[:50]:
            demand = " ".join(f"{key}={amount:.4g}" for key, amount in task.demand.items())
            after = ",".join(map(str, task.after)) or "-"
            lines.append(
                f"{task.id:>5}  rank {task.rank} {task.stream:<10} {task.kind:<13} {task.name:<28} "
                f"after {after:<10} {task.latency:.3g} + {task.duration:.4g} s  {demand}".rstrip()
            )
        if self.count > 50:
            lines.append(f"  ... and {self.count - 50} more")
        return "\n".join(lines)
