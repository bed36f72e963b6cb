"""Tasks on resources, tick by tick: what the schedule with its queues must do."""

from collections.abc import Sequence

from attacc.study.papers.operator_schedule import Task


def simulate(tasks: Sequence[Task]) -> dict[str, tuple[int, int]]:
    """Return start and end of every task; durations are whole numbers of ticks."""
    times: dict[str, tuple[int, int]] = {}
    resources = list(dict.fromkeys(task.resource for task in tasks))
    tick = 0
    while len(times) < len(tasks):
        started = True
        while started:  # tasks without duration let others start in the same tick
            ended = {name for name, (_, end) in times.items() if end <= tick}
            started = False
            for resource in resources:
                own = [task for task in tasks if task.resource == resource]
                if any(task.name in times and task.name not in ended for task in own):
                    continue
                ready = [
                    task for task in own if task.name not in times and ended.issuperset(task.after)
                ]
                if ready:
                    task = min(ready, key=lambda task: task.rank)
                    times[task.name] = (tick, tick + int(task.duration_ns))
                    started = True
        tick += 1
    return times
