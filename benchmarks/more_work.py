"""How often more work takes less time in attention of one stack, and by how much.

Random stacks attend to random heads, and then to a little more: longer heads, one head more, or
one head of a ragged list longer. More work is never faster on a perfect machine with a perfect
deal.

Usage: python benchmarks/more_work.py [--cases N] [--seed S] [--worst N]
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.stack import Stack

DEVICES = (
    "hbm2e-3.2", "hbm3-5.2", "hbm3-5.2", "hbm3-6.4", "hbm3e-9.2", "hbm4-8.0", "hbm4-8.0",
    "hbm4-16.0", "gddr6-aim-14", "lpddr5x-8533",
)  # fmt: skip
PLACEMENTS = (Placement.BANK, Placement.BANK, Placement.BANKGROUP, Placement.BUFFER)


class Case(NamedTuple):
    """Two lists of heads, the second with more work, and the cycles of both."""

    kind: str
    what: str
    less: tuple[int, ...]
    more: tuple[int, ...]
    cycles: tuple[int, int]

    @property
    def faster(self) -> float:
        """By what part of its own time the smaller work takes longer; 0 if it does not."""
        return max(0.0, self.cycles[0] / self.cycles[1] - 1)


def length_of(rng: random.Random) -> int:
    return int(2 ** rng.uniform(4, 12.3))


def pairs(rng: random.Random) -> Iterator[tuple[str, list[int], list[int]]]:
    """Work and a little more of it, of every kind."""
    heads, length = rng.randint(1, 150), length_of(rng)
    equal = [length] * heads
    yield "longer heads", equal, [length + rng.choice([16, 32, rng.randint(1, 256)])] * heads
    yield "one head more", equal, [*equal, length]
    ragged = [length_of(rng) for _ in range(rng.randint(1, 150))]
    yield "one ragged head more", ragged, [*ragged, length_of(rng)]
    one = rng.randrange(len(ragged))
    more = list(ragged)
    more[one] += rng.randint(1, 512)
    yield "one of ragged heads longer", ragged, more


def cases(count: int, rng: random.Random) -> Iterator[Case]:
    found = 0
    while found < count:
        name, placement = rng.choice(DEVICES), rng.choice(PLACEMENTS)
        queries, together = rng.choice([1, 1, 2, 4, 8]), rng.choice([1, 1, 2, 4, 8])
        head_dim = rng.choice([64, 128, 128, 256])
        element = rng.choice([ElementType.FP16, ElementType.FP16, ElementType.INT8])
        try:
            stack = Stack(
                DRAMS.load(name), placement, power_limited=True, schedule=Schedule.INTERLEAVED
            )
            for kind, less, more in pairs(rng):
                cycles = [
                    stack.attend_to(
                        lengths,
                        head_dim=head_dim,
                        element=element,
                        queries_per_kv_head=queries,
                        queries_per_read=together,
                    ).cycles
                    for lengths in (less, more)
                ]
                what = f"{name} {placement} d{head_dim} {element} q{queries}/{together}"
                yield Case(kind, what, tuple(less), tuple(more), (cycles[0], cycles[1]))
                found += 1
        except InputError:
            continue  # no such units, or queries that do not fit a buffer


def told(lengths: tuple[int, ...]) -> str:
    if min(lengths) == max(lengths):
        return f"{len(lengths)} of {lengths[0]}"
    return f"{len(lengths)} of {min(lengths)} to {max(lengths)}"


def main(
    count: Annotated[int, typer.Option("--cases", help="How many.", min=1)] = 420,
    seed: Annotated[int, typer.Option(help="Of the random cases.")] = 1,
    worst: Annotated[int, typer.Option(help="List so many of the worst.", min=0)] = 10,
) -> None:
    """Print, by kind of more work, how often it takes less time."""
    by_kind: defaultdict[str, list[Case]] = defaultdict(list)
    for case in cases(count, random.Random(seed)):
        by_kind[case.kind].append(case)
    print("| more work | cases | faster | by more than 0.5 % | at most |")
    print("|---|---|---|---|---|")
    everything = [case for some in by_kind.values() for case in some]
    for kind, some in [*by_kind.items(), ("all", everything)]:
        faster = [case.faster for case in some if case.faster]
        much = sum(one > 0.005 for one in faster)
        print(f"| {kind} | {len(some)} | {len(faster)} | {much} | {max(faster, default=0):.2%} |")
    for case in sorted(everything, key=lambda one: -one.faster)[:worst]:
        if case.faster:
            less, more = case.cycles
            print(
                f"{case.faster:.2%} {case.kind}, {case.what}: {told(case.less)}: {less:,}; "
                f"{told(case.more)}: {more:,}"
            )


if __name__ == "__main__":
    typer.run(main)
