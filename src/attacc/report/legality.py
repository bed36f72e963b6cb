"""The table of the command ``trace check``."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from attacc.pim.audit.legality import LISTED
from attacc.pim.log import LoggedCommand
from attacc.report.values import count, plain_table, power_words, titled, units_at
from attacc.study.command_traces import CheckedLog

SHOWN: Final = 20
"""Most violations that the table lists. The JSON document lists more."""


def checked_renderable(answer: CheckedLog) -> RenderableType:
    """Return the verdict, and the first violations, each with its two commands and its slack."""
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
