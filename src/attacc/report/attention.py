"""Tables of the command ``attention``."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.text import Text

from attacc.pim.attention import Dealt, StackAttention
from attacc.pim.energy.dram import AttentionEnergy
from attacc.pim.limits import BusyShares
from attacc.pim.stacks import AttentionOfStacks
from attacc.report.values import (
    command_table,
    count,
    energy,
    facts,
    percent,
    plain_table,
    scaled,
    time,
    titled,
    units_at,
)
from attacc.study.drafted import DraftedAttention
from attacc.study.reads import Reads


def attention_renderable(attention: AttentionOfStacks) -> RenderableType:
    """Return the times, bandwidths, energies and commands of one attention."""
    one = attention.slowest
    return Group(
        *_title(one, len(attention.each)),
        facts(
            ("time", time(one.time_ns), f"{count(one.cycles)} cycles of the command clock"),
            ("waits for", one.limiter, _busy(one.busy)),
            *_sharing(one),
            ("fullest channel", f"{one.dealt.imbalance:.3f}", _dealt(one.dealt)),
            ("keys and values", scaled(one.kv_bytes, "B"), "of all heads, each counted once"),
            (
                "read from banks",
                scaled(one.read_bytes, "B"),
                "columns that the units read, padding included",
            ),
            ("achieved", scaled(one.achieved_bytes_per_s, "B/s"), "keys and values over time"),
            (
                "internal peak",
                scaled(one.internal_bytes_per_s, "B/s"),
                f"of the units at their banks; achieved {percent(one.achieved_over_internal_peak)}",
            ),
            (
                "external peak",
                scaled(one.external_bytes_per_s, "B/s"),
                f"of the interface; achieved {percent(one.achieved_over_external_peak)}",
            ),
            (
                "energy",
                energy(one.energy.total_pj),
                f"{scaled(one.average_power_w, 'W')} on average",
            ),
            *_power(one),
        ),
        *_all_stacks(attention),
        _energy_table(one.energy),
        command_table({entry.command: entry.count for entry in one.commands}),
    )


def drafted_renderable(drafted: DraftedAttention) -> RenderableType:
    """Return the tables of the attention, and what a token costs."""
    chances = ", ".join(f"{one:g}" for one in dict.fromkeys(drafted.speculation.acceptance))
    return Group(
        attention_renderable(drafted.attention),
        Text(
            f"\n{drafted.speculation.draft_tokens} drafts, accepted with {chances}: "
            f"{drafted.speculation.tokens_per_step:.2f} tokens a step, "
            f"{time(drafted.time_per_token_ns)} and {energy(drafted.energy_per_token_pj)} a token"
        ),
    )


def reads_renderable(reads: Reads) -> RenderableType:
    """Return a table with one row for each number of queries per read."""
    table = plain_table()
    for column in (
        "queries\nper read",
        "buffer\naccesses",
        "multiply\nevery",
        "\ncycles",
        "\nread",
        "\nenergy",
        "mean\npower",
        "unit\narea",
        "of the\ndie",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in reads.choices:
        table.add_row(
            count(row.queries_per_read),
            "" if row.buffer_accesses is None else count(row.buffer_accesses),
            count(row.multiply_interval_cycles),
            count(row.cycles),
            scaled(row.read_bytes, "B"),
            energy(row.energy_pj),
            "" if row.mean_power_w is None else scaled(row.mean_power_w, "W"),
            "" if row.unit_area is None else f"{row.unit_area:.2f}",
            "" if row.die_share is None else f"{row.die_share:.0%}",
        )
    refused = (Text(f"{one.queries_per_read}: {one.reason}") for one in reads.refused)
    return Group(*_title(reads.first.slowest, len(reads.first.each)), table, *refused)


def _elements(r: StackAttention) -> str:
    same = r.value_dim == r.head_dim
    return f"{r.head_dim}" if same else f"{r.head_dim} and {r.value_dim}"


def _title(r: StackAttention, stacks: int) -> tuple[Text, Text]:
    """Return the heading: heads, lengths, stacks and power."""
    heads = _heads(r.heads)
    if r.kv_heads != r.heads:
        heads = f"{count(r.heads)} query heads sharing {_heads(r.kv_heads)}"
    if r.query_tokens != 1:
        heads += f" for {count(r.query_tokens)} new tokens"
    lengths = count(r.longest)
    if r.shortest != r.longest:
        lengths = f"{count(r.shortest)} to {lengths}"
    cadence = f"a multiply every {count(r.multiply_interval)} cycles"
    watts = scaled(r.average_power_w if r.power is None else r.power.mean_w, "W")
    power = f"{cadence}, {watts} on average"
    if r.power_budget_w is not None:
        power += f" of {scaled(r.power_budget_w, 'W')}"
    elif not r.power_limited:
        power += ", without a power limit"
    hot = "" if r.temperature_c is None else f", at {r.temperature_c:g} degrees Celsius"
    return (
        Text.assemble(
            (f"Attention of {heads}", "bold"),
            f" with {lengths} keys and values of {_elements(r)} {r.element} elements each",
        ),
        Text(
            f"on {'one stack' if stacks == 1 else f'the slowest of {count(stacks)} stacks'} of "
            f"{r.device}, {units_at(r.placement)}, {power}{hot}, {r.schedule} schedule\n"
        ),
    )


def _heads(number: int) -> str:
    return "1 head" if number == 1 else f"{count(number)} heads"


def _sharing(r: StackAttention) -> tuple[tuple[str, str, str], ...]:
    if r.kv_heads == r.heads:
        return ()
    remark = f"queries each, in {count(r.passes)} passes"
    if r.passes == 1:
        remark = "queries, all that share keys and values"
    return (("a read serves", count(r.queries_per_read), remark),)


def _busy(busy: BusyShares) -> str:
    each = {
        "rows": busy.rows,
        "columns": busy.columns,
        "units": busy.units,
        "moves": busy.moves,
        "softmax": busy.softmax,
    }
    return "busy: " + ", ".join(f"{name} {share:.0%}" for name, share in each.items())


def _dealt(r: Dealt) -> str:
    cut = f"; {_heads(r.cut_heads)} cut, {count(r.chunks)} chunks in all" if r.cut_heads else ""
    return f"keys over the mean of all channels{cut}"


def _power(one: StackAttention) -> tuple[tuple[str, str, str], ...]:
    power = one.power
    if power is None:
        return ()
    window_ns = power.window_cycles * one.time_ns / one.cycles
    remark = (
        f"standby and refresh included; peak {scaled(power.peak_w, 'W')} in windows of "
        f"{time(window_ns)}"
    )
    if power.budget_w is not None:
        above = power.excess.time_share if power.excess is not None else 0.0
        remark += f"; above {scaled(power.budget_w, 'W')} for {percent(above)} of the time"
    return (("power", scaled(power.mean_w, "W"), remark),)


def _all_stacks(attention: AttentionOfStacks) -> tuple[RenderableType, ...]:
    if len(attention.each) == 1:
        return ()
    table = plain_table()
    for column in ("stacks", "heads", "keys", "chunks", "cycles", "energy"):
        table.add_column(column, justify="right")
    equal = Counter(tuple(row.items()) for row in attention.table_rows())
    for items, number in equal.items():
        row = dict(items)
        table.add_row(
            count(number),
            count(row["heads"]),
            count(row["keys"]),
            count(row["chunks"]),
            count(row["cycles"]),
            energy(row["energy_pj"]),
        )
    table.add_section()
    table.add_row(count(len(attention.each)), "", "", "", "", energy(attention.energy_pj))
    cut = f", {_heads(attention.cut_heads)} cut over stacks" if attention.cut_heads else ""
    title = f"All stacks: the fullest has {attention.imbalance:.3f} times the mean of keys{cut}"
    return (titled(title, table),)


def _energy_table(parts: AttentionEnergy) -> RenderableType:
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
