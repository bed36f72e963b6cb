"""Renders what the command ``attention`` answers."""

from __future__ import annotations

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
class AttentionReport:
    """Decode attention of equal heads on one stack, one new query each.

    Attributes:
        device: the DRAM device's name.
        placement: where the units sit.
        power_limited: whether the multiplies keep the cadence of the power budget.
        schedule: order of the commands.
        heads: query heads on the stack.
        length: keys of each head.
        head_dim: elements of a key.
        dtype: element type of the keys and values.
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
        energy: by component.
        average_power_w: energy over time.
    """

    device: str
    placement: Placement
    power_limited: bool
    schedule: Schedule
    heads: int
    length: int
    head_dim: int
    dtype: ElementType
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


def attention_renderable(report: AttentionReport) -> RenderableType:
    """Return the times, bandwidths, energies and commands of one attention."""
    r = report
    return Group(
        Text.assemble(
            (f"Attention of {count(r.heads)} heads", "bold"),
            f" with {count(r.length)} keys and values of {r.head_dim} {r.dtype} elements each",
        ),
        Text(
            f"on one stack of {r.device}, {units_at(r.placement)}, "
            f"{power_words(limited=r.power_limited)}, {r.schedule} schedule\n"
        ),
        facts(
            ("time", time(r.time_ns), f"{count(r.cycles)} cycles of the command clock"),
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
        ),
        _energy_table(r.energy),
        command_table(r.commands),
    )


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
