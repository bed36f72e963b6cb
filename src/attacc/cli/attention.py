"""``attacc attention``: decode attention of one stack, or of several with heads of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from attacc.cli import options
from attacc.cli.options import (
    DEFAULT_DEVICE,
    Device,
    DType,
    HeadDim,
    Json,
    PlacementName,
    PowerLimit,
    ScheduleName,
)
from attacc.cli.output import print_answer
from attacc.errors import InputError

if TYPE_CHECKING:
    from attacc.pim.stack import StackAttention
    from attacc.pim.stacks import AttentionOfStacks
    from attacc.report.attention import AttentionReport, PowerReport, TradeReport, TradeRow

ALL: Final = "all"
"""What ``--queries-per-read`` says to have every choice compared."""


def attention(
    heads: Annotated[
        int | None,
        typer.Option(parser=options.size("--heads"), metavar="N", help="Query heads, in all."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--length"), metavar="N", help="Keys (and values) of every head."
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="N,NxM,...",
            help="Keys of each key/value head in place of --length, as in 512,1024x8.",
        ),
    ] = None,
    lengths_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The same from a file, one length a line."),
    ] = None,
    kv_heads: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--kv-heads"),
            metavar="N",
            help="Heads of keys and values; as many as query heads by default.",
        ),
    ] = None,
    queries_per_kv_head: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--queries-per-kv-head"),
            metavar="N",
            help="Query heads that share each head of keys and values; 1 by default.",
        ),
    ] = None,
    queries_per_read: Annotated[
        str,
        typer.Option(
            metavar="N|all",
            help="Of these, how many each read of keys and values serves, at most; all compares "
            "the choices.",
        ),
    ] = "1",
    head_dim: HeadDim = 128,
    dtype: DType = "fp16",
    placement: PlacementName = "bank",
    device: Device = DEFAULT_DEVICE,
    stacks: Annotated[
        int,
        typer.Option(
            parser=options.size("--stacks", most=options.MAX_STACKS),
            metavar="N",
            help="Stacks to which the heads are dealt out.",
        ),
    ] = 1,
    power_limit: PowerLimit = True,
    power_budget: Annotated[
        float | None,
        typer.Option(
            parser=options.number("--power-budget"),
            metavar="W",
            help="Watts of a stack, from which the cadence of the multiplies is worked out in "
            "place of the device's own.",
        ),
    ] = None,
    power_window: Annotated[
        float,
        typer.Option(
            parser=options.number("--power-window"),
            metavar="US",
            help="Microseconds over which power is averaged.",
        ),
    ] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            parser=options.number("--temperature"),
            metavar="C",
            help="Of the stack, in degrees Celsius: a hot one refreshes more often.",
        ),
    ] = None,
    schedule: ScheduleName = "interleaved",
    json: Json = False,
) -> None:
    """Tell time, bandwidth, energy and power of decode attention on one stack, or on several.

    One new query for each query head. --heads and --length are needed, or --lengths.
    """
    from attacc.hardware.placement import Placement
    from attacc.hardware.system import Schedule
    from attacc.pim.stack import Stack
    from attacc.pim.stacks import attend_over
    from attacc.report.attention import attention_renderable, trade_renderable

    asked, sharing = _heads(heads, length, lengths, lengths_file, kv_heads, queries_per_kv_head)
    together = _queries_per_read(queries_per_read)
    element = options.kv_element(dtype)
    stack = Stack(
        options.load_device(device),
        options.choice(Placement, placement, "--placement"),
        power_limited=power_limit,
        schedule=options.choice(Schedule, schedule, "--schedule"),
        power_budget_w=power_budget,
        temperature_c=temperature,
    )

    def attend(queries_per_read: int) -> AttentionOfStacks:
        return attend_over(
            stack,
            asked,
            stacks=stacks,
            head_dim=head_dim,
            element=element,
            queries_per_kv_head=sharing,
            queries_per_read=queries_per_read,
            window_ns=1e3 * power_window,
        )

    if together is None:
        print_answer(_trade(attend, sharing), trade_renderable, as_json=json)
    else:
        print_answer(_report(attend(together)), attention_renderable, as_json=json)


def _heads(
    heads: int | None,
    length: int | None,
    lengths: str | None,
    lengths_file: Path | None,
    kv_heads: int | None,
    queries_per_kv_head: int | None,
) -> tuple[list[int], int]:
    """Return the keys of each key/value head, and how many query heads share it.

    Raises:
        InputError: something is missing, or the options contradict each other.
    """
    given = {"--length": length, "--lengths": lengths, "--lengths-file": lengths_file}
    named = [option for option, value in given.items() if value is not None]
    if len(named) != 1:
        raise InputError(
            f"{' and '.join(named)} are given at once" if named else "no length is given",
            where="--length",
            hint="give --length N with --heads N, or --lengths N,NxM,..., or --lengths-file FILE",
        )
    listed = None
    if lengths is not None:
        listed = options.parse_lengths(lengths)
    elif lengths_file is not None:
        listed = options.read_lengths(lengths_file)
    stored = kv_heads if listed is None else len(listed)
    if kv_heads is not None and kv_heads != stored:
        raise InputError(
            f"{kv_heads} heads of keys and values, but {stored} lengths",
            where="--kv-heads",
            hint="give a length for each of them, or leave --kv-heads out",
        )
    if stored is None:
        if heads is None:
            raise InputError(
                "no number of heads is given", where="--heads", hint="give --heads or --kv-heads"
            )
        stored = _share(heads, "--queries-per-kv-head", queries_per_kv_head or 1)
    queries = queries_per_kv_head
    if queries is None:
        queries = 1 if heads is None else _share(heads, "--kv-heads or lengths", stored)
    if heads is not None and heads != stored * queries:
        raise InputError(
            f"{heads} query heads, but {stored} heads of keys and values that {queries} query "
            "heads share each",
            where="--heads",
            hint="leave one of --heads, --kv-heads and --queries-per-kv-head out",
        )
    if listed is not None:
        return listed, queries
    if length is None or stored > options.MAX_HEADS:
        raise InputError(
            f"{stored} heads of keys and values are more than {options.MAX_HEADS}",
            where="--heads",
            hint="take several stacks apart",
        )
    return [length] * stored, queries


def _share(heads: int, option: str, number: int) -> int:
    if heads % number:
        raise InputError(
            f"{heads} query heads do not divide by the {number} of {option}",
            where="--heads",
            hint="every head of keys and values serves equally many query heads",
        )
    return heads // number


def _queries_per_read(text: str) -> int | None:
    if text == ALL:
        return None
    return options.size("--queries-per-read", word=ALL)(text)


def _report(result: AttentionOfStacks) -> AttentionReport:
    from attacc.report.attention import (
        AttentionReport,
        EnergyReport,
        StackReport,
        StacksReport,
    )
    from attacc.units import NS_PER_S, PJ_PER_J

    slowest = result.slowest
    energy = slowest.energy
    several = None
    if len(result.each) > 1:
        several = StacksReport(
            count=len(result.each),
            slowest=result.slowest_index,
            imbalance=result.imbalance,
            cut_heads=result.cut_heads,
            energy_pj=result.energy_pj,
            each=tuple(
                StackReport(0, 0, 0, 0, 0.0, 0.0)
                if one is None
                else StackReport(
                    one.heads, one.keys, one.dealt.chunks, one.cycles, one.time_ns,
                    one.energy.total_pj,
                )
                for one in result.each
            ),
        )  # fmt: skip
    return AttentionReport(
        device=slowest.device,
        placement=slowest.placement,
        power_limited=slowest.power_limited,
        power_budget_w=slowest.power_budget_w,
        temperature_c=slowest.temperature_c,
        schedule=slowest.schedule,
        heads=slowest.heads,
        kv_heads=slowest.kv_heads,
        queries_per_read=slowest.queries_per_read,
        passes=slowest.passes,
        length=slowest.length,
        shortest_length=slowest.shortest,
        longest_length=slowest.longest,
        keys=slowest.keys,
        head_dim=slowest.head_dim,
        dtype=slowest.element,
        chunks=slowest.dealt.chunks,
        cut_heads=slowest.dealt.cut_heads,
        imbalance=slowest.dealt.imbalance,
        multiply_interval_cycles=slowest.multiply_interval,
        buffer_accesses=slowest.buffer_words,
        cycles=slowest.cycles,
        time_ns=slowest.time_ns,
        kv_bytes=slowest.kv_bytes,
        read_bytes=slowest.read_bytes,
        achieved_bytes_per_s=slowest.achieved_bytes_per_s,
        internal_peak_bytes_per_s=slowest.internal_bytes_per_s,
        external_peak_bytes_per_s=slowest.external_bytes_per_s,
        achieved_over_internal_peak=slowest.achieved_bytes_per_s / slowest.internal_bytes_per_s,
        achieved_over_external_peak=slowest.achieved_bytes_per_s / slowest.external_bytes_per_s,
        commands={entry.command: entry.count for entry in slowest.commands},
        energy=EnergyReport(
            activate_pj=energy.activate_pj,
            cell_pj=energy.cell_pj,
            read_path_pj=energy.read_path_pj,
            multiply_pj=energy.multiply_pj,
            move_pj=energy.move_pj,
            softmax_pj=energy.softmax_pj,
            total_pj=energy.total_pj,
        ),
        average_power_w=energy.total_pj / PJ_PER_J / (slowest.time_ns / NS_PER_S),
        power=_power(slowest),
        stacks=several,
    )


def _power(result: StackAttention) -> PowerReport | None:
    from attacc.report.attention import PowerReport

    power = result.power
    if power is None:
        return None
    window_ns = power.window_cycles * result.time_ns / result.cycles
    return PowerReport(
        window_ns=window_ns,
        mean_w=power.mean_w,
        standby_w=power.background_pj / power.energy_pj * power.mean_w,
        peak_w=power.peak_w,
        peak_at_ns=power.peak_window * window_ns,
        budget_w=power.budget_w,
        above_budget_share=None
        if power.budget_w is None
        else (power.excess.time_share if power.excess is not None else 0.0),
        windows_w=tuple(power.power_w.tolist()),
    )


def _trade(attend: Callable[[int], AttentionOfStacks], sharing: int) -> TradeReport:
    """Compare 1, 2, 4, ... queries per read, and all that share keys and values."""
    from attacc.report.attention import Refusal, TradeReport

    first = _report(attend(1))
    powers = [1 << bit for bit in range(sharing.bit_length()) if 1 << bit < sharing]
    rows: list[TradeRow] = []
    refused: list[Refusal] = []
    for queries in (*powers, sharing):
        try:
            rows.append(_row(_report(attend(queries))))
        except InputError as error:
            hint = f" ({error.hint})" if error.hint else ""
            refused.append(Refusal(queries, f"{error.message}{hint}"))
    return TradeReport(
        device=first.device,
        placement=first.placement,
        power_limited=first.power_limited,
        power_budget_w=first.power_budget_w,
        temperature_c=first.temperature_c,
        schedule=first.schedule,
        stacks=1 if first.stacks is None else first.stacks.count,
        heads=first.heads,
        kv_heads=first.kv_heads,
        shortest_length=first.shortest_length,
        longest_length=first.longest_length,
        head_dim=first.head_dim,
        dtype=first.dtype,
        rows=tuple(rows),
        refused=tuple(refused),
    )


def _row(report: AttentionReport) -> TradeRow:
    from attacc.report.attention import TradeRow

    return TradeRow(
        queries_per_read=report.queries_per_read,
        passes=report.passes,
        buffer_accesses=report.buffer_accesses,
        multiply_interval_cycles=report.multiply_interval_cycles,
        cycles=report.cycles,
        time_ns=report.time_ns,
        read_bytes=report.read_bytes,
        energy_pj=report.energy.total_pj,
        mean_power_w=None if report.power is None else report.power.mean_w,
        peak_power_w=None if report.power is None else report.power.peak_w,
    )
