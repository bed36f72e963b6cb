"""Options that several commands have, and parsers of options.

Names stay text until the library reads them. So the library is loaded only when a command runs.

Numbers are written in ASCII digits, as in ``12`` and ``-1.5e3``. Python's ``int`` and ``float``
accept more texts as numbers (``1_0``, digits of other scripts, ``infinity``), and so do typer's
options of these types. So every option that is a number has one of the parsers `size`, `number` and
`seed`.
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
"""A device with latencies and buffers of its units, which the interleaved schedule needs."""
REFERENCE_DEVICE: Final = "hbm3-5.2-asplos24"
"""The device of the reference controller, for text traces; it has no latencies and buffers."""


def size(
    option: str, most: int | None = None, *, least: int = 1, word: str | None = None
) -> Callable[[str | int], int]:
    """Return the parser of an option that is a size or a count: a whole number.

    Args:
        option: name of the option, for messages.
        most: largest value; None for the limit of all sizes.
        least: smallest value.
        word: word that the option takes in place of a number. The hint names it; the caller checks
            for it.
    """

    def parse(text: str | int) -> int:
        from attacc.units import MAX_SIZE, whole_number  # loads pydantic

        largest = MAX_SIZE if most is None else most
        # Typer passes a default as a number, and not as text.
        return whole_number(str(text), where=option, least=least, most=largest, word=word)

    return parse


seed: Final = size("--seed", MAX_SEED, least=0)
"""The parser of a seed."""


def number(option: str) -> Callable[[str | float], float]:
    """Return the parser of an option that is a finite number; the library checks its range.

    Args:
        option: name of the option, for messages.
    """

    def parse(text: str | float) -> float:
        from attacc.units import decimal_number  # loads pydantic

        return decimal_number(str(text), where=option)

    return parse


def comma_list(text: str, option: str) -> list[str]:
    """Return the entries of a text that commas divide.

    Raises:
        InputError: an entry is empty.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if "" in entries:
        raise InputError(f"{text!r:.40} has an empty entry", where=option, hint="write a,b,c")
    return entries


def names(given: list[str] | None, option: str) -> list[str]:
    """Return the names of an option that may be repeated, and may list several with commas.

    A text that is the path of a file is one name, even if it contains commas.

    Raises:
        InputError: an entry is empty.
    """
    found: list[str] = []
    for text in given or ():
        found += [text] if _is_file(text) else comma_list(text, option)
    return found


def _is_file(text: str) -> bool:
    """Return whether a text is the path of something; a text that is too long for a path is not."""
    try:
        return Path(text).exists()
    except OSError:
        return False


def sizes(text: str, option: str) -> list[int]:
    """Return the sizes of a text that commas divide.

    Raises:
        InputError: an entry is no size.
    """
    parse = size(option)
    return [parse(entry) for entry in comma_list(text, option)]


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Return the names and values of an option such as ``--site window=gpu``.

    Raises:
        InputError: an entry is no pair, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in names(given, option):
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (name and sign and value):
            raise InputError(f"{text!r:.60} is no pair", where=option, hint="write NAME=VALUE")
        if name in found:
            raise InputError(f"{name!r:.60} is given twice", where=option)
        found[name] = value
    return found


def probabilities(text: str | None) -> float | list[float] | None:
    """Return a probability, or a list of several that commas divide.

    Raises:
        InputError: an entry is no number.
    """
    if text is None:
        return None
    parse = number("--acceptance")
    found = [parse(entry) for entry in comma_list(text, "--acceptance")]
    return found[0] if len(found) == 1 else found


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
    """Return the keys that ``--set KEY=VALUE`` changes, and their values, read as TOML.

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
            value = text.strip()  # text without TOML's quotation marks
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
