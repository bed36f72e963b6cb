"""The table that the command ``generate`` prints below the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from attacc.report.values import (
    count,
    energy,
    plain_table,
    power_words,
    scaled,
    time,
    titled,
    units_at,
)
from attacc.study.generated import Generated, GeneratedStep
from attacc.units import NS_PER_S


def generated_renderable(answer: Generated) -> RenderableType:
    """Return the costs of a text's attention. The text itself has been printed before."""
    stacks = answer.devices * answer.stacks_per_device
    where = f"{stacks} stack{'s' if stacks > 1 else ''} of {answer.device}"
    heading = Group(
        "",
        Text(f"Attention of {answer.model}", "bold"),
        f"on {where}, {units_at(answer.placement)},",
        f"{power_words(limited=answer.power_limited)}, keys and values in {answer.kv}, sums in "
        f"{answer.accumulate},",
        f"{answer.link} to the host, which computes in {answer.host_dtype}",
    )
    prompt = (
        f"prompt: {count(answer.prefill.tokens)} tokens on the host in "
        f"{scaled(answer.prefill.host_wall_s, 's')}, {scaled(answer.prefill.bytes_in, 'B')} of "
        "keys and values sent"
    )
    written = f"written: {count(answer.tokens)} tokens{', the end' if answer.ended else ''}"
    if not answer.steps:
        return Group(heading, "", prompt, f"{written}; none was attended from")
    mean_wall_s = sum(step.host_wall_s for step in answer.steps) / len(answer.steps)
    return Group(
        heading, "", prompt, f"{written}, at {1 / mean_wall_s:.3g} tokens/s", _step_table(answer)
    )


def _step_table(answer: Generated) -> RenderableType:
    steps = answer.steps
    table = plain_table()
    table.add_column("of all layers", no_wrap=True)
    for name in ("first token", "last token", "mean", "all"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, value, write in _ROWS:
        values = [value(step) for step in steps]
        total = sum(values)
        table.add_row(
            name, write(values[0]), write(values[-1]), write(total / len(steps)), write(total)
        )
    ratios = [step.read_over_link for step in steps]
    link = sum(step.bytes_in + step.bytes_out for step in steps)
    overall = sum(step.bank_read_bytes for step in steps) / link
    mean = sum(ratios) / len(ratios)
    table.add_row(
        "read / on link", *(f"{ratio:,.1f}" for ratio in (ratios[0], ratios[-1], mean, overall))
    )
    return titled("Attention of each token", table)


def _whole(value: float) -> str:
    return count(round(value))


def _bytes(value: float) -> str:
    return scaled(value, "B")


def _seconds(value: float) -> str:
    return time(value * NS_PER_S)


_ROWS: Final[tuple[tuple[str, Callable[[GeneratedStep], float], Callable[[float], str]], ...]] = (
    ("keys attended to", lambda step: step.keys, _whole),
    ("cycles", lambda step: step.cycles, _whole),
    ("time in stacks", lambda step: step.time_ns, time),
    ("time on link", lambda step: step.link_ns, time),
    ("energy in stacks", lambda step: step.energy_pj, energy),
    ("energy of link", lambda step: step.link_pj, energy),
    ("bytes in", lambda step: step.bytes_in, _bytes),
    ("bytes out", lambda step: step.bytes_out, _bytes),
    ("read in banks", lambda step: step.bank_read_bytes, _bytes),
    ("wall time here", lambda step: step.host_wall_s, _seconds),
)
"""For each row: its name, a function that returns its figure of a step, and one that formats it."""
