"""When the operators of a step run: tasks on resources that do one thing at a time.

This is a list schedule without preemption (Graham, "Bounds on multiprocessing timing anomalies",
1969). As soon as a resource is free and any of its tasks is ready, it starts the ready task of the
least rank; among equal ranks, the first given. A task is ready when all its predecessors have
ended. Such a schedule need not be the shortest one. It models a device that takes work from a
queue, and a task waits only for a predecessor or for its resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from math import isfinite

from attacc.errors import EngineError, InputError


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work.

    Attributes:
        name: name of the task; names in a schedule are different.
        resource: resource that it runs on.
        duration_ns: time for which it occupies the resource; at least 0.
        after: names of the tasks that have to end before it starts.
        rank: priority; a resource takes the ready task of the least rank first.
    """

    name: str
    resource: str
    duration_ns: float
    after: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class TimedTask:
    """A task and when it ran.

    Attributes:
        task: the task.
        start_ns: when it started.
        end_ns: when it ended.
        waited_for: the task whose end let it start: the last of its predecessors, or the one that
            held its resource; None where it started at once.
    """

    task: Task
    start_ns: float
    end_ns: float
    waited_for: str | None


@dataclass(frozen=True, slots=True)
class ResourceLoad:
    """The load of one resource.

    Attributes:
        resource: name of the resource.
        busy_ns: sum of the durations of its tasks.
        tasks: number of its tasks.
    """

    resource: str
    busy_ns: float
    tasks: int


@dataclass(frozen=True)
class OperatorSchedule:
    """Tasks with their times.

    Attributes:
        tasks: the tasks in the order in which they were given.
    """

    tasks: tuple[TimedTask, ...]

    @cached_property
    def makespan_ns(self) -> float:
        """When the last task ends; 0 without tasks."""
        return max((timed.end_ns for timed in self.tasks), default=0.0)

    @cached_property
    def _by_name(self) -> dict[str, TimedTask]:
        return {timed.task.name: timed for timed in self.tasks}

    def task(self, name: str) -> TimedTask:
        """Return a task by its name.

        Raises:
            EngineError: there is no such task.
        """
        if name not in self._by_name:
            raise EngineError(f"the schedule has no task {name}")
        return self._by_name[name]

    @cached_property
    def resources(self) -> tuple[ResourceLoad, ...]:
        """The load of every resource, in the order in which tasks first name them."""
        names = dict.fromkeys(timed.task.resource for timed in self.tasks)
        return tuple(
            ResourceLoad(name, sum(own), len(own))
            for name in names
            for own in [[t.task.duration_ns for t in self.tasks if t.task.resource == name]]
        )

    def busy_ns(self, resource: str) -> float:
        """Return how long a resource worked; 0 for one without tasks."""
        return sum(load.busy_ns for load in self.resources if load.resource == resource)

    @cached_property
    def critical_path(self) -> tuple[str, ...]:
        """Tasks without a gap between them from 0 to the end of the last one, in order.

        Each task started when the task before it ended, because it needed that task or waited for
        its resource. So the durations add up to the makespan.
        """
        if not self.tasks:
            return ()
        chain: list[str] = []
        at: TimedTask | None = max(self.tasks, key=lambda timed: timed.end_ns)
        while at is not None:
            chain.append(at.task.name)
            at = None if at.waited_for is None else self._by_name[at.waited_for]
        return tuple(reversed(chain))

    @cached_property
    def longest_chain_ns(self) -> float:
        """Longest sum of durations of tasks that need each other: no schedule is shorter."""
        # A task starts no sooner than its predecessors end; with zero durations, at the same time.
        longest: dict[str, float] = {}
        for task in _in_order([timed.task for timed in self.tasks]):
            before = max((longest[name] for name in task.after), default=0.0)
            longest[task.name] = before + task.duration_ns
        return max(longest.values(), default=0.0)


def schedule_tasks(tasks: Sequence[Task]) -> OperatorSchedule:
    """Run tasks as soon as they and their resources allow.

    Resources that become free at the same time each take a task, in the order in which the tasks
    first name them. A task without duration ends at that time, and may let others start then.

    Args:
        tasks: any number, in any order.

    Raises:
        InputError: two tasks have the same name, a task needs one that does not exist, tasks need
            each other in a circle, or a duration is negative or not finite.
    """
    _check(tasks)
    index = {task.name: i for i, task in enumerate(tasks)}
    waits = [len(set(task.after)) for task in tasks]
    followers: list[list[int]] = [[] for _ in tasks]
    for i, task in enumerate(tasks):
        for name in dict.fromkeys(task.after):
            followers[index[name]].append(i)
    desks = {name: _Desk() for name in dict.fromkeys(task.resource for task in tasks)}
    timed: list[TimedTask | None] = [None] * len(tasks)
    # The predecessor of each task that ended last and made it ready.
    readied: list[str | None] = [None] * len(tasks)
    for i, task in enumerate(tasks):
        if not waits[i]:
            heappush(desks[task.resource].ready, (task.rank, i))
    running: list[tuple[float, int]] = []
    now = 0.0
    while True:
        for desk in desks.values():
            if desk.ready and not desk.occupied:
                _, i = heappop(desk.ready)
                end = now + tasks[i].duration_ns
                desk.occupied = True
                timed[i] = TimedTask(tasks[i], now, end, desk.cause(timed, readied[i], index, now))
                desk.last = tasks[i].name
                heappush(running, (end, i))
        if not running:
            break
        now = running[0][0]
        while running and running[0][0] == now:
            _, i = heappop(running)
            desks[tasks[i].resource].occupied = False
            for follower in followers[i]:
                waits[follower] -= 1
                readied[follower] = tasks[i].name
                if not waits[follower]:
                    task = tasks[follower]
                    heappush(desks[task.resource].ready, (task.rank, follower))
    return OperatorSchedule(tuple(one for one in timed if one is not None))


@dataclass(slots=True)
class _Desk:
    """A resource at work.

    Attributes:
        ready: rank and number of the tasks that it could start.
        occupied: whether it works on a task.
        last: name of the task that it started last.
    """

    ready: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    occupied: bool = False
    last: str | None = None

    def cause(
        self,
        timed: Sequence[TimedTask | None],
        readied: str | None,
        index: dict[str, int],
        now: float,
    ) -> str | None:
        """Return the task whose end lets a task start now; a predecessor, if one ends now."""
        for name in (readied, self.last):
            if name is not None:
                before = timed[index[name]]
                if before is not None and before.end_ns == now:
                    return name
        return None


def _check(tasks: Sequence[Task]) -> None:
    names: set[str] = set()
    for task in tasks:
        if task.name in names:
            raise InputError(f"two tasks have the name {task.name}")
        names.add(task.name)
        if not (isfinite(task.duration_ns) and task.duration_ns >= 0):
            raise InputError(
                f"task {task.name} lasts {task.duration_ns} ns",
                hint="durations are finite and at least 0",
            )
    for task in tasks:
        for name in task.after:
            if name not in names:
                raise InputError(f"task {task.name} needs {name}, which is not among the tasks")
    done = {task.name for task in _in_order(tasks)}
    if len(done) < len(tasks):
        stuck = ", ".join(task.name for task in tasks if task.name not in done)
        raise InputError(f"tasks need each other in a circle: {stuck}")


def _in_order(tasks: Sequence[Task]) -> list[Task]:
    """Return each task behind those that it needs; tasks in or behind a circle are left out."""
    waits = {task.name: len(set(task.after)) for task in tasks}
    followers: dict[str, list[Task]] = {task.name: [] for task in tasks}
    for task in tasks:
        for name in set(task.after):
            followers[name].append(task)
    order = [task for task in tasks if not waits[task.name]]
    for task in order:
        for follower in followers[task.name]:
            waits[follower.name] -= 1
            if not waits[follower.name]:
                order.append(follower)
    return order
