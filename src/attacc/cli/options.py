"""Options that several commands have, and what they stand for.

Names stay text until the library reads them, so that its rooms are loaded only when a command runs.

Numbers are written in ASCII digits, as in ``12`` and ``-1.5e3``. Python's own ``int`` and ``float``
take more for a number (``1_0``, digits of other scripts, ``infinity``), and so do typer's options
of these types: every option that is a number has one of the parsers `size`, `number` and `seed`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.errors import InputError

MAX_STACKS: Final = 1024
MAX_SEED: Final = 2**63 - 1
DEFAULT_DEVICE: Final = "hbm3-5.2"
"""The device with the latencies and buffers of its units, for the interleaved schedule."""
REFERENCE_DEVICE: Final = "hbm3-5.2-asplos24"
"""The same without them: text traces are its form."""


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
        from attacc.units import MAX_SIZE, whole_number  # loads pydantic

        largest = MAX_SIZE if most is None else most
        # A default comes as the number that it is.
        return whole_number(str(text), where=option, least=least, most=largest, word=word)

    return parse


seed: Final = size("--seed", MAX_SEED, least=0)
"""The parser of a seed."""


def number(option: str) -> Callable[[str | float], float]:
    """Return the parser of an option that is any finite number; its range is others' to check.

    Args:
        option: its name, for messages.
    """

    def parse(text: str | float) -> float:
        from attacc.units import decimal_number  # loads pydantic

        return decimal_number(str(text), where=option)

    return parse


def comma_list(text: str, option: str) -> list[str]:
    """Return the entries of a list with commas.

    Raises:
        InputError: an entry is empty.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if "" in entries:
        raise InputError(f"{text!r:.40} has an empty entry", where=option, hint="write a,b,c")
    return entries


def names(given: list[str] | None, option: str) -> list[str]:
    """Return the names of an option that may be repeated, and may list several with commas.

    A file whose name has a comma is named alone.

    Raises:
        InputError: an entry is empty.
    """
    found: list[str] = []
    for text in given or ():
        found += [text] if Path(text).exists() else comma_list(text, option)
    return found


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
