"""Renders what the command ``trace check`` answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from attacc.hardware.placement import Placement
from attacc.pim.audit.legality import LISTED, BrokenRule, Violation
from attacc.pim.log import LoggedCommand
from attacc.report.values import count, plain_table, power_words, titled, units_at

SHOWN: Final = 20
"""Violations that the table lists; the JSON document has more of them."""


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """One command log audited.

    Attributes:
        file: the log.
        device: the DRAM device's name.
        placement: whose commands were expected.
        power_limited: which cadence of multiplies was.
        legal: whether it breaks no rule.
        commands: length of the log.
        channels: channels that occur in it.
        last_cycle: its last cycle.
        violations: broken rules in the order of the log, the first `LISTED` of each.
        total: violations, those that are not listed too.
        broken: how often each rule is broken.
    """

    file: str
    device: str
    placement: Placement
    power_limited: bool
    legal: bool
    commands: int
    channels: tuple[int, ...]
    last_cycle: int
    violations: tuple[Violation, ...]
    total: int
    broken: tuple[BrokenRule, ...]


def checked_renderable(answer: CheckedLog) -> RenderableType:
    """Return the verdict, and the first violations with both commands and the slack."""
    verdict = "legal" if answer.legal else f"breaks rules {count(answer.total)} times"
    heading = Text.assemble(
        (answer.file, "bold"),
        ": ",
        (verdict, "bold green" if answer.legal else "bold red"),
        f"\n{count(answer.commands)} commands in {count(answer.last_cycle)} cycles, channels "
        f"{', '.join(map(str, answer.channels))}; {answer.device}, "
        f"{units_at(answer.placement)}, {power_words(limited=answer.power_limited)}",
    )
    if answer.legal:
        return heading
    table = plain_table()
    table.add_column("rule")
    table.add_column("cycle, command before")
    table.add_column("cycle, command after")
    table.add_column("slack", justify="right")
    for violation in answer.violations[:SHOWN]:
        slack = "" if violation.slack_cycles is None else count(violation.slack_cycles)
        table.add_row(violation.rule, _command(violation.before), _command(violation.after), slack)
    counts = plain_table()
    counts.add_column("broken rule")
    counts.add_column("times", justify="right")
    for rule in answer.broken:
        counts.add_row(rule.rule or rule.check.replace("_", " "), count(rule.count))
    left = answer.total - SHOWN
    more = (
        [f"and {count(left)} more: --json lists the first {LISTED} of each rule"]
        if left > 0
        else []
    )
    return Group(heading, "", titled("Violations, slack in cycles", table), *more, "", counts)


def _command(command: LoggedCommand | None) -> str:
    if command is None:
        return "-"
    fields = (
        ("ch", command.channel),
        ("pch", command.pseudo_channel),
        ("rank", command.rank),
        ("bg", command.bank_group),
        ("bank", command.bank),
        ("row", command.row),
    )
    place = " ".join(f"{name} {value}" for name, value in fields if value >= 0)
    return f"{count(command.cycle)} {command.command}\n{place}"
