"""Activities that run now: who loads what, at which speed, and which of each group ends first.

Two activities belong to one *group* when a chain of overloaded resources joins them; only the group
that a start or an end touches is solved again. A group waits for its earliest end alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from .sharing import Use, fill, fill_classes

OVERLOAD = 1 + 1e-9
"""Load above which a resource cannot serve all its users at full speed."""

# Ends closer than this (relative to the task, and to the clock) are one end that rounding split.
_SAME_WORK = 1e-12
_SAME_TIME = 1e-15


class Group:
    """Activities joined by overloaded resources, and which of them ends first."""

    __slots__ = ("alarm", "binding", "first", "members", "patience")

    def __init__(self, members: Iterable[int], binding: dict[int, None]) -> None:
        self.members = dict.fromkeys(members)
        self.binding = binding
        self.first = -1
        self.alarm: object = None
        self.patience = len(self.members)


class Pool:
    """The running activities of one simulation.

    Parameters
    ----------
    uses : sequence of Use or None
        By task.
    durations : sequence of float
        Isolated seconds of each task's shared part [s].
    resources : int
        Number of resources.
    record : callable, optional
        Called with (time, task, speed) whenever a speed is set.
    """

    def __init__(
        self,
        uses: Sequence[Use | None],
        durations: Sequence[float],
        resources: int,
        record: Callable[[float, int, float], None] | None = None,
    ) -> None:
        count = len(durations)
        self.uses: Sequence[Use] = uses  # type: ignore[assignment]  # only tasks with a use get here
        self.durations = durations
        self.record = record
        self.load = [0.0] * resources
        self.users: list[dict[int, float]] = [{} for _ in range(resources)]
        self.group: list[Group | None] = [None] * count
        self.speed = [1.0] * count
        self.left = list(durations)
        self.since = [0.0] * count
        self.end = [inf] * count
        self.one_class = len({use.priority for use in uses if use is not None}) <= 1
        # Sum of the slopes of each overloaded resource's users, and scratch space for solving.
        self.total = [0.0] * resources
        self.rest = [1.0] * resources
        self.height = [0.0] * resources
        # What happened since the last settling.
        self.fresh: list[int] = []
        self.ended: list[tuple[int, float, Group | None]] = []
        self.dirty: dict[int, None] = {}
        self.touched: dict[Group, None] = {}

    def leave(self, task: int, disturbed: bool) -> None:
        """Take note that a task ended that belonged to a group, or whose end others feel."""
        group = self.group[task]
        if group is not None:
            del group.members[task]
            self.touched[group] = None
            self.group[task] = None
        if disturbed:
            self.ended.append((self.uses[task].key, self.speed[task], group))

    def due(self, group: Group, now: float) -> list[int]:
        """Return the members of a group that end now."""
        end, durations, first = self.end, self.durations, group.first
        cut = now * (1 + _SAME_TIME)
        near = cut + _SAME_WORK * durations[first]
        close = [i for i in group.members if end[i] <= near and i != first]
        return [first, *(i for i in close if end[i] <= cut + _SAME_WORK * durations[i])]

    def settle(self, now: float) -> tuple[list[int], list[Group]]:
        """Give everyone whose surroundings changed its new speed.

        Parameters
        ----------
        now : float
            Time [s].

        Returns
        -------
        alone : list of int
            Tasks that from now on run at full speed by themselves, until ``self.end``.
        groups : list of Group
            Groups whose first end is to be timed anew.
        """
        fresh, ended, dirty, touched = self.fresh, self.ended, self.dirty, self.touched
        self.fresh, self.ended, self.dirty, self.touched = [], [], {}, {}
        for r in dirty:
            self.total[r] = sum(self.users[r].values())
        if len(fresh) == len(ended) and self._swapped(fresh, ended, now):
            return [i for i in fresh if self.group[i] is None], self._timed(touched)
        membership = self.group
        joining = dict.fromkeys(fresh)
        at_full_speed = set()
        for r in dirty:
            for i in self.users[r]:
                group = membership[i]
                if group is not None:
                    touched[group] = None
                elif i not in joining:
                    joining[i] = None
                    at_full_speed.add(i)
        if len(touched) == 1 and next(iter(touched)).patience > 0:
            # Whether a group fell apart costs as much to see as its speeds, so see now and then.
            groups = list(touched)
            groups[0].patience -= 1
            alone = self._join(groups[0], joining)
        else:
            for group in touched:
                for i in group.members:
                    joining[i] = None
                    membership[i] = None
                group.members = {}
                group.alarm = None
            alone, groups = self._components(joining)
        for group in groups:
            self._share(group, now)
        alone = [i for i in alone if i not in at_full_speed]
        for i in alone:
            self._set(i, 1.0, now)
        return alone, self._timed(groups)

    def _swapped(self, fresh: list[int], ended: list[tuple[int, float, Group | None]], now: float) -> bool:
        """Whether equal tasks replaced those that ended; if so they take over their speeds."""
        uses = self.uses
        if len(fresh) > 1:
            fresh = sorted(fresh, key=lambda i: uses[i].key)
            ended = sorted(ended, key=lambda left: left[0])
        for i, (key, _, _) in zip(fresh, ended, strict=True):
            if uses[i].key != key:
                return False
        for i, (_, speed, group) in zip(fresh, ended, strict=True):
            self.group[i] = group
            if group is not None:
                group.members[i] = None
            self._set(i, speed, now)
        return True

    def _join(self, group: Group, joining: Iterable[int]) -> list[int]:
        """Add to a group those who meet an overloaded resource; return the others."""
        load, alone = self.load, []
        for i in joining:
            binding = [r for r, _ in self.uses[i].slopes if load[r] > OVERLOAD]
            if binding:
                group.members[i] = None
                group.binding.update(dict.fromkeys(binding))
                self.group[i] = group
            else:
                alone.append(i)
        return alone

    def _components(self, joining: Iterable[int]) -> tuple[list[int], list[Group]]:
        """Sort activities into groups joined by overloaded resources, and those on their own."""
        load, users, uses = self.load, self.users, self.uses
        alone, groups = [], []
        seen: set[int] = set()
        for seed in joining:
            if seed in seen:
                continue
            seen.add(seed)
            members = [seed]
            binding: dict[int, None] = {}
            for i in members:
                for r, _ in uses[i].slopes:
                    if load[r] > OVERLOAD and r not in binding:
                        binding[r] = None
                        more = [j for j in users[r] if j not in seen]
                        members += more
                        seen.update(more)
            if binding:
                group = Group(members, binding)
                groups.append(group)
                for i in members:
                    self.group[i] = group
            else:
                alone.append(seed)
        return alone, groups

    def _share(self, group: Group, now: float) -> None:
        """Solve a group and set the speeds that changed."""
        load, total, rest, height = self.load, self.total, self.rest, self.height
        binding = [r for r in group.binding if load[r] > OVERLOAD]
        group.binding = dict.fromkeys(binding)
        for r in binding:
            rest[r] = 1.0
            height[r] = total[r]
        if self.one_class:
            speeds: dict[int, float] = {}
            fill(binding, self.users, self.uses, rest, height, speeds)
            if len(speeds) < len(group.members):
                speeds = dict.fromkeys(group.members, 1.0) | speeds
        else:
            speeds = fill_classes(group.members, binding, self.users, self.uses, rest, height)
        old, end, left, since, record = self.speed, self.end, self.left, self.since, self.record
        for i, speed in speeds.items():
            was = old[i]
            if speed != was or end[i] == inf:
                work = left[i] - was * (now - since[i])
                left[i] = work
                since[i] = now
                old[i] = speed
                end[i] = now + work / speed if speed > 0 else inf
                if record is not None:
                    record(now, i, speed)

    def _set(self, task: int, speed: float, now: float) -> None:
        """Change the speed of a task and when it ends."""
        left = self.left[task] - self.speed[task] * (now - self.since[task])
        self.left[task] = left
        self.since[task] = now
        self.speed[task] = speed
        self.end[task] = now + left / speed if speed > 0 else inf
        if self.record is not None:
            self.record(now, task, speed)

    def _timed(self, groups: Iterable[Group]) -> list[Group]:
        """Find the first end of each group; without members it needs no time."""
        alive = [group for group in groups if group.members]
        for group in alive:
            group.first = min(group.members, key=self.end.__getitem__)
        return alive
