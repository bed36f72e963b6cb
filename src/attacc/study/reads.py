"""Costs and savings of serving several queries with each read of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from attacc.errors import InputError
from attacc.pim.energy.area import die_share, unit_area
from attacc.pim.stacks import AttentionOfStacks
from attacc.results import Result


@dataclass(frozen=True, slots=True)
class Read:
    """Attention where a read of keys and values serves some number of queries.

    Attributes:
        queries_per_read: queries that a read serves at most.
        passes: how often keys and values are read for all query heads that share them.
        buffer_accesses: most accesses of half a vector buffer in use; None where the device has no
            pipeline.
        multiply_interval_cycles: least cycles between two multiplies of a channel.
        cycles: duration in cycles of the command clock.
        time_ns: the same duration in nanoseconds.
        read_bytes: bytes that the units read in the banks, padding included.
        energy_pj: energy of the commands.
        mean_power_w: mean power, with standby and refresh; None where power was not wanted.
        peak_power_w: power of the window with the highest power.
        unit_area: area of a unit with its buffers, as a multiple of the paper's
            (`attacc.pim.energy.area`); None beyond 32 queries.
        die_share: share of a DRAM die that units in every bank take; None for units elsewhere.
    """

    queries_per_read: int
    passes: int
    buffer_accesses: int | None
    multiply_interval_cycles: int
    cycles: int
    time_ns: float
    read_bytes: float
    energy_pj: float
    mean_power_w: float | None
    peak_power_w: float | None
    unit_area: float | None
    die_share: float | None

    @classmethod
    def of(cls, attention: AttentionOfStacks) -> Read:
        """Return the figures of the slowest stack."""
        one = attention.slowest
        return cls(
            queries_per_read=one.queries_per_read,
            passes=one.passes,
            buffer_accesses=one.buffer_words,
            multiply_interval_cycles=one.multiply_interval,
            cycles=one.cycles,
            time_ns=one.time_ns,
            read_bytes=one.read_bytes,
            energy_pj=one.energy.total_pj,
            mean_power_w=None if one.power is None else one.power.mean_w,
            peak_power_w=None if one.power is None else one.power.peak_w,
            unit_area=unit_area(one.queries_per_read),
            die_share=die_share(one.queries_per_read, one.placement),
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A number of queries per read that is impossible.

    Attributes:
        queries_per_read: the number.
        reason: why it is impossible, and what would be possible.
    """

    queries_per_read: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reads(Result):
    """Attention of the same heads, with one, several or all queries served by a read.

    Attributes:
        first: attention with one query for each read.
        choices: attention with 1, 2, 4, ... queries per read, and with all that share keys and
            values.
        refused: the numbers of queries that are impossible.
    """

    first: AttentionOfStacks
    choices: tuple[Read, ...]
    refused: tuple[Refusal, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that all choices share, and a row for each choice."""
        shared = self.first.slowest.to_dict()
        before = ("device", "placement", "power_limited", "power_budget_w", "temperature_c")
        after = (
            "heads",
            "kv_heads",
            "shortest_length",
            "longest_length",
            "head_dim",
            "value_dim",
            "dtype",
        )
        return {
            **{key: shared[key] for key in (*before, "schedule")},
            "stacks": len(self.first.each),
            **{key: shared[key] for key in after},
            "rows": self.table_rows(),
            "refused": [asdict(one) for one in self.refused],
        }

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each number of queries per read."""
        return [asdict(choice) for choice in self.choices]


def compare_reads(attend: Callable[[int], AttentionOfStacks], sharing: int) -> Reads:
    """Compare 1, 2, 4, ... queries per read, and all that share keys and values.

    Args:
        attend: attends with a given number of queries for each read.
        sharing: query heads that share keys and values.

    Raises:
        InputError: one query for each read is impossible, too.
    """
    first = attend(1)
    powers = [1 << bit for bit in range(sharing.bit_length()) if 1 << bit < sharing]
    found: list[Read] = []
    refused: list[Refusal] = []
    for queries in (*powers, sharing):
        try:
            found.append(Read.of(attend(queries)))
        except InputError as error:
            hint = f" ({error.hint})" if error.hint else ""
            refused.append(Refusal(queries, f"{error.message}{hint}"))
    return Reads(first, tuple(found), tuple(refused))
