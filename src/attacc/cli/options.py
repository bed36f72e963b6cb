"""Options that several commands have, and what they stand for.

Choices stay text until a command runs, so that the rooms that define them are loaded only then.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from attacc.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from attacc.hardware.dram import DramDevice
    from attacc.models.precision import ElementType

E = TypeVar("E", bound=StrEnum)

REFERENCE_DEVICE = "hbm3-5.2-asplos24"
"""The device of the golden cycle counts, and of AttAcc's evaluation."""


def size(option: str) -> Callable[[str | int], int]:
    """Return the parser of an option that is a size or a count: a whole number of at least 1.

    Args:
        option: its name, for messages.
    """

    def parse(text: str | int) -> int:
        from attacc.models.architecture import MAX_SIZE

        hint = f"use a whole number from 1 to {MAX_SIZE}"
        try:
            value = int(text)
        except ValueError:
            raise InputError(f"{text!r:.40} is no whole number", where=option, hint=hint) from None
        if not 1 <= value <= MAX_SIZE:
            raise InputError(f"{text!s:.40} is out of range", where=option, hint=hint)
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
        help="Order of the commands: complete (each once, behind barriers), published (as released "
        "with AttAcc), or interleaved (each when what it uses is there; with --device hbm3-5.2).",
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
    bool, typer.Option("--json", help="Print one JSON document (docs/cli.md) and nothing else.")
]


def choice(choices: type[E], name: str, option: str) -> E:
    """Return the member of an enumeration that an option names.

    Raises:
        UnknownNameError: there is no such member; proposes the nearest.
    """
    try:
        return choices(name)
    except ValueError:
        kind = option.removeprefix("--")
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


def load_device(name: str) -> DramDevice:
    """Return the DRAM device that ``--device`` names.

    Raises:
        UnknownNameError: there is no such preset.
        DocumentError: the file is malformed.
    """
    from attacc.hardware.dram import DRAMS

    return DRAMS.load_name_or_file(name, where="--device")
