"""The list schedule against a tick-by-tick one, and what holds of every schedule."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import EngineError, InputError
from attacc.study.papers.operator_schedule import Task, schedule_tasks
from tests.oracle import operator_schedule as oracle


@st.composite
def task_lists(draw: st.DrawFn, *, distinct_ranks: bool = False) -> list[Task]:
    """Up to 14 tasks on up to 4 resources, in an order that hides what needs what."""
    count = draw(st.integers(0, 14))
    ranks = draw(st.permutations(range(count))) if distinct_ranks else None
    tasks: list[Task] = []
    for i in range(count):
        after = draw(st.lists(st.integers(0, i - 1), max_size=3)) if i else []
        tasks.append(
            Task(
                name=f"t{i}",
                resource=draw(st.sampled_from(["gpu", "there", "attacc", "back"])),
                duration_ns=float(draw(st.integers(0, 5))),
                after=tuple(f"t{j}" for j in after),
                rank=ranks[i] if ranks is not None else draw(st.integers(0, 2)),
            )
        )
    return draw(st.permutations(tasks))


@given(tasks=task_lists())
def test_agrees_with_a_schedule_made_tick_by_tick(tasks: Sequence[Task]) -> None:
    """Catches any task that starts at another time than the plain statement of the rules says."""
    ours = schedule_tasks(tasks)
    theirs = oracle.simulate(tasks)
    assert {t.task.name: (t.start_ns, t.end_ns) for t in ours.tasks} == theirs
    assert [t.task for t in ours.tasks] == list(tasks)


@given(tasks=task_lists())
def test_what_holds_of_every_schedule(tasks: Sequence[Task]) -> None:
    """Catches two tasks at once on a resource, a task before what it needs, a bound undercut."""
    result = schedule_tasks(tasks)
    for timed in result.tasks:
        for name in timed.task.after:
            assert result.task(name).end_ns <= timed.start_ns
    for load in result.resources:
        own = sorted(
            (t.start_ns, t.end_ns) for t in result.tasks if t.task.resource == load.resource
        )
        assert all(end <= start for (_, end), (start, _) in pairwise(own))
        assert result.busy_ns(load.resource) == load.busy_ns <= result.makespan_ns
    assert result.longest_chain_ns <= result.makespan_ns


@given(tasks=task_lists())
def test_critical_path_accounts_for_the_whole_makespan(tasks: Sequence[Task]) -> None:
    """Catches an idle gap that the path does not show, and steps that do not touch."""
    result = schedule_tasks(tasks)
    path = [result.task(name) for name in result.critical_path]
    assert sum(t.task.duration_ns for t in path) == result.makespan_ns
    for before, after in pairwise(path):
        assert before.end_ns == after.start_ns
        needed = before.task.name in after.task.after
        assert needed or before.task.resource == after.task.resource


@given(tasks=task_lists(distinct_ranks=True), data=st.data())
def test_order_of_tasks_does_not_matter_where_ranks_decide(
    tasks: Sequence[Task], data: st.DataObject
) -> None:
    """Catches a schedule that depends on the order of the list beyond breaking ties.

    Tasks without duration are left out: with several resources in the same instant, these are
    served in the order in which tasks first name them.
    """
    longer = [Task(t.name, t.resource, t.duration_ns + 1, t.after, t.rank) for t in tasks]
    shuffled = data.draw(st.permutations(longer))

    def times(of: Sequence[Task]) -> dict[str, float]:
        return {t.task.name: t.start_ns for t in schedule_tasks(of).tasks}

    assert times(longer) == times(shuffled)


def test_two_machines_in_a_row_by_hand() -> None:
    """Catches a resource that idles although a task is ready."""
    tasks = [
        *(Task(f"a{i}", "gpu", 2, (), 0) for i in range(3)),
        *(Task(f"b{i}", "attacc", 3, (f"a{i}",), 0) for i in range(3)),
        Task("last", "gpu", 1, ("b2",), 1),
    ]
    result = schedule_tasks(tasks)
    assert result.makespan_ns == 2 + 3 * 3 + 1
    assert result.critical_path == ("a0", "b0", "b1", "b2", "last")
    assert result.busy_ns("gpu") == 7
    assert result.longest_chain_ns == 6


def test_nothing_takes_no_time() -> None:
    """Catches an empty list that is not answered."""
    result = schedule_tasks([])
    assert result.makespan_ns == result.longest_chain_ns == 0
    assert result.critical_path == result.resources == ()
    with pytest.raises(EngineError, match="no task x"):
        result.task("x")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([Task("a", "gpu", 1), Task("a", "gpu", 1)], "two tasks have the name a"),
        ([Task("a", "gpu", -1)], "task a lasts -1 ns"),
        ([Task("a", "gpu", float("nan"))], "task a lasts nan ns"),
        ([Task("a", "gpu", 1, ("b",))], "task a needs b, which is not among the tasks"),
        (
            [Task("a", "gpu", 1, ("b",)), Task("b", "gpu", 1, ("a",)), Task("c", "gpu", 1)],
            "need each other in a circle: a, b",
        ),
    ],
)
def test_tasks_that_cannot_run_are_refused(tasks: Sequence[Task], message: str) -> None:
    """Catches a schedule that hangs, or drops tasks without a word."""
    with pytest.raises(InputError, match=message):
        schedule_tasks(tasks)
