"""Renders what the command ``attention`` answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.report.values import (
    command_table,
    count,
    energy,
    facts,
    percent,
    plain_table,
    power_words,
    scaled,
    time,
    titled,
    units_at,
)


@dataclass(frozen=True, slots=True)
class EnergyReport:
    """Energy of the attention of one stack, by component.

    Attributes:
        activate_pj: opening rows.
        cell_pj: reading cells.
        read_path_pj: from the banks to the units.
        multiply_pj: multiplies and adds of the units.
        move_pj: queries, scores, probabilities and contexts between units, buffer die and host.
        softmax_pj: operations of the softmax.
        total_pj: sum of all components.
    """

    activate_pj: float
    cell_pj: float
    read_path_pj: float
    multiply_pj: float
    move_pj: float
    softmax_pj: float
    total_pj: float


@dataclass(frozen=True, slots=True)
class PowerReport:
    """Power of a stack over the time of its attention, standby and refresh included.

    Attributes:
        window_ns: over which power is averaged; the last window may be shorter.
        mean_w: over all the time.
        standby_w: what the stack takes without any command.
        peak_w: of the window that takes most.
        peak_at_ns: when it begins.
        budget_w: of the stack, if there is one.
        above_budget_share: of the time, the windows above the budget; None without one.
        windows_w: of every window.
    """

    window_ns: float
    mean_w: float
    standby_w: float
    peak_w: float
    peak_at_ns: float
    budget_w: float | None
    above_budget_share: float | None
    windows_w: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StackReport:
    """One of several stacks; zeros for one without heads.

    Attributes:
        heads: query heads; a head that was cut over stacks counts in each.
        keys: of its key/value heads.
        chunks: runs of keys that a channel attends to by itself.
        cycles: of the command clock.
        time_ns: the same in nanoseconds.
        energy_pj: of its commands.
    """

    heads: int
    keys: int
    chunks: int
    cycles: int
    time_ns: float
    energy_pj: float


@dataclass(frozen=True, slots=True)
class StacksReport:
    """All of several stacks.

    Attributes:
        count: how many.
        slowest: which one the others wait for, from 0.
        imbalance: keys of the fullest stack over the mean; 1 is perfect.
        cut_heads: key/value heads that were cut over several stacks.
        energy_pj: of the commands of all stacks.
        each: of every stack.
    """

    count: int
    slowest: int
    imbalance: float
    cut_heads: int
    energy_pj: float
    each: tuple[StackReport, ...]


@dataclass(frozen=True, slots=True)
class AttentionReport:
    """Decode attention of one stack, one new query each; of several, the slowest one.

    Attributes:
        device: the DRAM device's name.
        placement: where the units sit.
        power_limited: whether the multiplies keep a cadence that limits power.
        power_budget_w: from which that cadence was worked out; None for the device's own.
        temperature_c: of the stack; None for the usual rate of refresh.
        schedule: order of the commands.
        heads: query heads on the stack.
        kv_heads: heads of keys and values, each shared by as many query heads.
        queries_per_read: query heads that a read of keys and values serves, at most.
        passes: how often keys and values are read for all query heads that share them.
        length: keys of each head; None where they differ.
        shortest_length: keys of the shortest head.
        longest_length: keys of the longest head.
        keys: of all heads of keys and values.
        head_dim: elements of a key.
        dtype: element type of the keys and values.
        chunks: runs of keys that one channel attends to by itself: heads, or parts of one.
        cut_heads: heads of keys and values that were cut into several chunks.
        imbalance: keys of the fullest channel over the mean of all channels; 1 is perfect.
        multiply_interval_cycles: least cycles between two multiplies of a channel.
        buffer_accesses: of half a vector buffer, how many accesses are in use at most; None where
            the device does not model it.
        cycles: of the command clock.
        time_ns: the same in nanoseconds.
        kv_bytes: keys and values of all heads, each counted once.
        read_bytes: what the units read from the banks, padding included.
        achieved_bytes_per_s: keys and values over time.
        internal_peak_bytes_per_s: at which the units can read their banks.
        external_peak_bytes_per_s: of the stack's interface.
        achieved_over_internal_peak: ratio.
        achieved_over_external_peak: ratio; above 1, the stack beats any reader outside of it.
        commands: command -> how often it issued, over all channels.
        energy: of the commands, by component.
        average_power_w: that energy over time.
        power: over time, standby and refresh included.
        stacks: all stacks, where there are several.
    """

    device: str
    placement: Placement
    power_limited: bool
    power_budget_w: float | None
    temperature_c: float | None
    schedule: Schedule
    heads: int
    kv_heads: int
    queries_per_read: int
    passes: int
    length: int | None
    shortest_length: int
    longest_length: int
    keys: int
    head_dim: int
    dtype: ElementType
    chunks: int
    cut_heads: int
    imbalance: float
    multiply_interval_cycles: int
    buffer_accesses: int | None
    cycles: int
    time_ns: float
    kv_bytes: float
    read_bytes: float
    achieved_bytes_per_s: float
    internal_peak_bytes_per_s: float
    external_peak_bytes_per_s: float
    achieved_over_internal_peak: float
    achieved_over_external_peak: float
    commands: dict[str, int]
    energy: EnergyReport
    average_power_w: float
    power: PowerReport | None
    stacks: StacksReport | None


@dataclass(frozen=True, slots=True)
class TradeRow:
    """Attention where a read of keys and values serves some number of queries.

    Attributes:
        queries_per_read: at most.
        passes: how often keys and values are read for all query heads that share them.
        buffer_accesses: as in `AttentionReport`.
        multiply_interval_cycles: as there.
        cycles: of the command clock.
        time_ns: the same in nanoseconds.
        read_bytes: what the units read from the banks, padding included.
        energy_pj: of the commands.
        mean_power_w: standby and refresh included.
        peak_power_w: of the window that takes most.
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A number of queries per read that is impossible.

    Attributes:
        queries_per_read: which.
        reason: why, and what would be possible.
    """

    queries_per_read: int
    reason: str


@dataclass(frozen=True, slots=True)
class TradeReport:
    """What serving several queries with each read costs and saves; the fields of `AttentionReport`.

    Attributes:
        device: as there.
        placement: as there.
        power_limited: as there.
        power_budget_w: as there.
        temperature_c: as there.
        schedule: as there.
        stacks: how many there are; rows tell of the slowest.
        heads: as there.
        kv_heads: as there.
        shortest_length: as there.
        longest_length: as there.
        head_dim: as there.
        dtype: as there.
        rows: 1, 2, 4, ... queries per read, and all that share keys and values.
        refused: of these, the impossible ones.
    """

    device: str
    placement: Placement
    power_limited: bool
    power_budget_w: float | None
    temperature_c: float | None
    schedule: Schedule
    stacks: int
    heads: int
    kv_heads: int
    shortest_length: int
    longest_length: int
    head_dim: int
    dtype: ElementType
    rows: tuple[TradeRow, ...]
    refused: tuple[Refusal, ...]


def attention_renderable(report: AttentionReport) -> RenderableType:
    """Return the times, bandwidths, energies and commands of one attention."""
    r = report
    return Group(
        *_title(r, r.stacks.count if r.stacks else 1),
        facts(
            ("time", time(r.time_ns), f"{count(r.cycles)} cycles of the command clock"),
            *_sharing(r),
            ("fullest channel", f"{r.imbalance:.3f}", _dealt(r)),
            ("keys and values", scaled(r.kv_bytes, "B"), "of all heads, each counted once"),
            (
                "read from banks",
                scaled(r.read_bytes, "B"),
                "columns that the units read, padding included",
            ),
            ("achieved", scaled(r.achieved_bytes_per_s, "B/s"), "keys and values over time"),
            (
                "internal peak",
                scaled(r.internal_peak_bytes_per_s, "B/s"),
                f"of the units at their banks; achieved {percent(r.achieved_over_internal_peak)}",
            ),
            (
                "external peak",
                scaled(r.external_peak_bytes_per_s, "B/s"),
                f"of the interface; achieved {percent(r.achieved_over_external_peak)}",
            ),
            ("energy", energy(r.energy.total_pj), f"{scaled(r.average_power_w, 'W')} on average"),
            *_power(r.power),
        ),
        *_all_stacks(r.stacks),
        _energy_table(r.energy),
        command_table(r.commands),
    )


def trade_renderable(report: TradeReport) -> RenderableType:
    """Return a row for every number of queries per read."""
    table = plain_table()
    for column in (
        "queries\nper read",
        "buffer\naccesses",
        "multiply\nevery",
        "\ncycles",
        "\nread",
        "\nenergy",
        "mean\npower",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            count(row.queries_per_read),
            "" if row.buffer_accesses is None else count(row.buffer_accesses),
            count(row.multiply_interval_cycles),
            count(row.cycles),
            scaled(row.read_bytes, "B"),
            energy(row.energy_pj),
            "" if row.mean_power_w is None else scaled(row.mean_power_w, "W"),
        )
    refused = (Text(f"{one.queries_per_read}: {one.reason}") for one in report.refused)
    return Group(*_title(report, report.stacks), table, *refused)


def _title(r: AttentionReport | TradeReport, stacks: int) -> tuple[Text, Text]:
    """Return what attends to what, and where."""
    heads = _heads(r.heads)
    if r.kv_heads != r.heads:
        heads = f"{count(r.heads)} query heads sharing {_heads(r.kv_heads)}"
    lengths = count(r.longest_length)
    if r.shortest_length != r.longest_length:
        lengths = f"{count(r.shortest_length)} to {lengths}"
    power = power_words(limited=r.power_limited)
    if r.power_budget_w is not None:
        power = f"within {scaled(r.power_budget_w, 'W')}"
    hot = "" if r.temperature_c is None else f", at {r.temperature_c:g} degrees Celsius"
    return (
        Text.assemble(
            (f"Attention of {heads}", "bold"),
            f" with {lengths} keys and values of {r.head_dim} {r.dtype} elements each",
        ),
        Text(
            f"on {'one stack' if stacks == 1 else f'the slowest of {count(stacks)} stacks'} of "
            f"{r.device}, {units_at(r.placement)}, {power}{hot}, {r.schedule} schedule\n"
        ),
    )


def _heads(number: int) -> str:
    return "1 head" if number == 1 else f"{count(number)} heads"


def _sharing(r: AttentionReport) -> tuple[tuple[str, str, str], ...]:
    if r.kv_heads == r.heads:
        return ()
    remark = f"queries each, in {count(r.passes)} passes"
    if r.passes == 1:
        remark = "queries, all that share keys and values"
    return (("a read serves", count(r.queries_per_read), remark),)


def _dealt(r: AttentionReport) -> str:
    cut = f"; {_heads(r.cut_heads)} cut, {count(r.chunks)} chunks in all" if r.cut_heads else ""
    return f"keys over the mean of all channels{cut}"


def _power(power: PowerReport | None) -> tuple[tuple[str, str, str], ...]:
    if power is None:
        return ()
    remark = (
        f"standby and refresh included; peak {scaled(power.peak_w, 'W')} in windows of "
        f"{time(power.window_ns)}"
    )
    if power.budget_w is not None and power.above_budget_share is not None:
        remark += (
            f"; above {scaled(power.budget_w, 'W')} for {percent(power.above_budget_share)} of the "
            "time"
        )
    return (("power", scaled(power.mean_w, "W"), remark),)


def _all_stacks(stacks: StacksReport | None) -> tuple[RenderableType, ...]:
    if stacks is None:
        return ()
    table = plain_table()
    for column in ("stacks", "heads", "keys", "chunks", "cycles", "energy"):
        table.add_column(column, justify="right")
    for one, number in Counter(stacks.each).items():
        table.add_row(
            count(number),
            count(one.heads),
            count(one.keys),
            count(one.chunks),
            count(one.cycles),
            energy(one.energy_pj),
        )
    table.add_section()
    table.add_row(count(stacks.count), "", "", "", "", energy(stacks.energy_pj))
    cut = f", {_heads(stacks.cut_heads)} cut over stacks" if stacks.cut_heads else ""
    title = f"All stacks: the fullest has {stacks.imbalance:.3f} times the mean of keys{cut}"
    return (titled(title, table),)


def _energy_table(parts: EnergyReport) -> RenderableType:
    table = plain_table()
    table.add_column("component")
    table.add_column("energy", justify="right")
    table.add_column("what it is", style="dim")
    for name, energy_pj, meaning in (
        ("activate", parts.activate_pj, "opening rows"),
        ("cell", parts.cell_pj, "reading cells"),
        ("read path", parts.read_path_pj, "from the banks to the units"),
        ("multiply", parts.multiply_pj, "multiplies and adds of the units"),
        ("move", parts.move_pj, "queries, scores, probabilities and contexts"),
        ("softmax", parts.softmax_pj, "its operations"),
    ):
        table.add_row(name, energy(energy_pj), meaning)
    table.add_section()
    table.add_row("total", energy(parts.total_pj), "")
    return titled("Energy", table)
