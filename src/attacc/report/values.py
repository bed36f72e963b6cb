"""Figures as text: four significant digits and a fitting unit."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.hardware.placement import Placement
from attacc.units import NS_PER_S, PJ_PER_J

_PREFIXES: Final = (
    (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"),
    (1.0, ""), (1e-3, "m"), (1e-6, "\N{MICRO SIGN}"), (1e-9, "n"), (1e-12, "p"),
)  # fmt: skip
_DIGITS: Final = 4


def scaled(value: float, unit: str) -> str:
    """Return a value as text, with the prefix that leaves one to three digits before the point.

    Args:
        value: the value in the base unit, not negative.
        unit: the base unit, as in "B/s".
    """
    rounded = float(f"{value:.{_DIGITS - 1}e}")
    if rounded == 0:
        return f"0 {unit}"
    factor, prefix = next(((f, p) for f, p in _PREFIXES if rounded >= f), _PREFIXES[-1])
    shown = rounded / factor
    decimals = max(0, _DIGITS - len(str(int(shown))))
    return f"{shown:,.{decimals}f} {prefix}{unit}"


def time(time_ns: float) -> str:
    """Return a time in nanoseconds as text."""
    return scaled(time_ns / NS_PER_S, "s")


def energy(energy_pj: float) -> str:
    """Return an energy in picojoules as text."""
    return scaled(energy_pj / PJ_PER_J, "J")


def count(value: int) -> str:
    """Return a whole number as text, with commas between thousands."""
    return f"{value:,}"


def percent(share: float) -> str:
    """Return a share of one as a percentage."""
    return f"{share:.1%}"


def facts(*rows: tuple[str, str, str]) -> Table:
    """Return a table without a frame; each row has a name, a value and a remark.

    Args:
        rows: the name, value and remark of each row. The remark may be empty.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for name, value, remark in rows:
        table.add_row(Text(name), Text(value), Text(remark))
    return table


def plain_table() -> Table:
    """Return a table without columns yet, in the style of all tables: a line below the header."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="", pad_edge=False)


def titled(title: str, table: Table) -> Group:
    """Put a title above a table, with a line of space before it."""
    return Group("", Text(title, style="bold"), table)


def command_table(commands: dict[str, int]) -> RenderableType:
    """Return a table of how often each command issued."""
    table = plain_table()
    table.add_column("command")
    table.add_column("count", justify="right")
    for name, issued in commands.items():
        table.add_row(name, count(issued))
    return titled("Commands that the controllers issued, over all channels", table)


def units_at(placement: Placement) -> str:
    """Return in words where the GEMV units of a stack sit."""
    return {
        Placement.BANK: "one GEMV unit per bank",
        Placement.BANKGROUP: "one GEMV unit per bank group",
        Placement.BUFFER: "one GEMV unit per pseudo-channel, on the buffer die",
    }[placement]


def power_words(*, limited: bool) -> str:
    """Return in words which cadence the multiplies keep."""
    return "cadence of the power limit" if limited else "cadence without a power limit"
