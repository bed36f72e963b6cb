"""Options that several commands have, and what they stand for.

Choices stay text until a command runs, so that the rooms that define them are loaded only then.

Numbers are written in ASCII digits, as in ``12`` and ``-1.5e3``. Python's own ``int`` and ``float``
take more for a number (``1_0``, digits of other scripts, ``infinity``), and so do typer's options
of these types: every option that is a number has one of the parsers `size`, `number` and `seed`.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from attacc.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from attacc.hardware.dram import DramDevice
    from attacc.models.precision import ElementType

E = TypeVar("E", bound=StrEnum)

REFERENCE_DEVICE = "hbm3-5.2-asplos24"
"""The device of the golden cycle counts, and of AttAcc's evaluation: text traces are its form."""
DEFAULT_DEVICE = "hbm3-5.2"
"""The same with the latencies and buffers of its units, for the interleaved schedule."""

MAX_HEADS: Final = 2**20
"""Heads that may be listed with a length each."""
MAX_STACKS: Final = 1024
MAX_SEED: Final = 2**63 - 1

_WHOLE: Final = re.compile(r"-?[0-9]+")
_MOST_DIGITS: Final = 30
"""Digits of a whole number that is still read: Python refuses thousands."""


def _whole(text: str | int, option: str, least: int, most: int, hint: str) -> int:
    """Return a whole number of a range; a default comes as the number that it is."""
    written = str(text)
    if _WHOLE.fullmatch(written) is None:
        raise InputError(f"{written!r:.40} is no whole number", where=option, hint=hint)
    if len(written) > _MOST_DIGITS or not least <= int(written) <= most:
        raise InputError(f"{written:.40} is out of range", where=option, hint=hint)
    return int(written)


def size(
    option: str, most: int | None = None, *, least: int = 1, word: str | None = None
) -> Callable[[str | int], int]:
    """Return the parser of an option that is a size or a count: a whole number.

    Args:
        option: its name, for messages.
        most: what it may be at most; None for the limit of all sizes.
        least: what it may be at least.
        word: what may stand in its place, for the hint; others look for it.
    """

    def parse(text: str | int) -> int:
        from attacc.models.architecture import MAX_SIZE

        largest = MAX_SIZE if most is None else most
        hint = f"use a whole number from {least} to {largest}"
        return _whole(text, option, least, largest, f"{hint}, or {word}" if word else hint)

    return parse


def seed(text: str | int) -> int:
    """Return the seed that ``--seed`` states: a whole number from 0 to `MAX_SEED`.

    Raises:
        InputError: it is none.
    """
    hint = f"use a whole number from 0 to {MAX_SEED}"
    return _whole(text, "--seed", 0, MAX_SEED, hint)


def number(option: str) -> Callable[[str | float], float]:
    """Return the parser of an option that is any finite number; its range is others' to check.

    Args:
        option: its name, for messages.
    """

    def parse(text: str | float) -> float:
        from attacc.units import DECIMAL  # loads pydantic

        written = str(text)
        value = float(written) if re.fullmatch("-?" + DECIMAL, written) else math.nan
        if not math.isfinite(value):
            raise InputError(
                f"{written!r:.40} is no number", where=option, hint="use one such as 20"
            )
        return value

    return parse


Device = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="DRAM device: a preset, or a .toml or .json file.")
]
PowerLimit = Annotated[
    bool,
    typer.Option(
        "--power-limit/--no-power-limit",
        help="Whether multiplies keep to the power budget of the stack.",
    ),
]
PlacementName = Annotated[
    str,
    typer.Option(
        "--placement", metavar="bank|bankgroup|buffer", help="Where the stack's GEMV units sit."
    ),
]
ScheduleName = Annotated[
    str,
    typer.Option(
        "--schedule",
        metavar="ORDER",
        help="Order of the commands: interleaved (each when what it uses is there; needs a device "
        "with a pipeline), complete (each once, behind barriers), or published (as released with "
        "AttAcc). The last two belong to --device hbm3-5.2-asplos24.",
    ),
]
Heads = Annotated[
    int,
    typer.Option(parser=size("--heads"), metavar="N", help="Query heads on the stack."),
]
Length = Annotated[
    int,
    typer.Option(parser=size("--length"), metavar="N", help="Keys (and values) of each head."),
]
HeadDim = Annotated[
    int, typer.Option(parser=size("--head-dim"), metavar="N", help="Elements of a key.")
]
DType = Annotated[
    str,
    typer.Option(metavar="fp16|bf16|fp8|int8", help="Element type of keys and values."),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document (docs/reference/cli.md) and nothing else."
    ),
]


def parse_lengths(text: str) -> list[int]:
    """Return the lengths that ``--lengths`` lists, as in ``512,1024x8``.

    Raises:
        InputError: an entry is no length, or they are too many.
    """
    where = "--lengths"
    length_of, times_of = size(where), size(where)
    lengths: list[int] = []
    for entry in text.split(","):
        length, cross, times = entry.strip().partition("x")
        count = times_of(times) if cross else 1
        if len(lengths) + count > MAX_HEADS:
            raise InputError(
                f"lists more than {MAX_HEADS} heads", where=where, hint="take several stacks apart"
            )
        lengths += [length_of(length)] * count
    return lengths


def read_lengths(path: Path) -> list[int]:
    """Return the lengths of a file, one whole number a line; empty lines are skipped.

    Raises:
        DocumentError: the file cannot be read, or is no text.
        InputError: a line is no length, or they are none, or too many.
    """
    from attacc.files import MAX_LIST_BYTES, read_data, text_of

    text = text_of(read_data(path, limit=MAX_LIST_BYTES), where=f"--lengths-file {path}")
    lengths = [
        size(f"--lengths-file {path}:{number}")(line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not 1 <= len(lengths) <= MAX_HEADS:
        raise InputError(
            f"holds {len(lengths)} lengths",
            where=f"--lengths-file {path}",
            hint=f"write 1 to {MAX_HEADS}, one a line",
        )
    return lengths


def choice(choices: type[E], name: str, option: str) -> E:
    """Return the member of an enumeration that an option names.

    Raises:
        UnknownNameError: there is no such member; proposes the nearest.
    """
    try:
        return choices(name)
    except ValueError:
        kind = option.removeprefix("--").replace("-", " ")
        known = [member.value for member in choices]
        raise UnknownNameError(kind, name, known, where=option) from None


def kv_element(name: str) -> ElementType:
    """Return the element type of keys and values that ``--dtype`` names.

    Raises:
        UnknownNameError: there is none, or only weights have it.
    """
    from attacc.models.precision import ElementType

    known = [element.value for element in ElementType if element is not ElementType.INT4]
    if name not in known:
        raise UnknownNameError("element type of keys and values", name, known, where="--dtype")
    return ElementType(name)


def load_device(name: str, settings: list[str] | None = None) -> DramDevice:
    """Return the DRAM device that ``--device`` names, with the keys that ``--set`` changes.

    Raises:
        UnknownNameError: there is no such preset.
        DocumentError: the file is malformed, or a change is.
        InputError: a setting has no key, or no value.
    """
    from attacc.hardware.dram import DRAMS

    return DRAMS.load_any(name, changes(settings), where="--device")


def changes(settings: list[str] | None) -> dict[str, object]:
    """Return the keys that ``--set KEY=VALUE`` changes, and their values as TOML has them.

    Raises:
        InputError: a setting has no key, or no value.
    """
    found: dict[str, object] = {}
    for setting in settings or ():
        key, equals, text = setting.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise InputError(
                f"{setting!r:.80} is no setting",
                where="--set",
                hint="write KEY=VALUE, as in attacc.stacks_per_device=8",
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # text, which TOML has in quotation marks
        found[key.strip()] = value
    return found


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key, as in attacc.stacks_per_device=8; repeat the option for several.",
    ),
]
