"""Lengths of key/value heads, as a text lists them: in an option, or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attacc.errors import InputError
from attacc.files import MAX_LIST_BYTES, read_data, text_of
from attacc.units import whole_number

MAX_HEADS: Final = 2**20
"""Heads that may be listed with a length each."""


def parse_lengths(text: str, *, where: str = "lengths") -> list[int]:
    """Return the lengths that a text lists, as in ``512,1024x8``: one of 512, and 8 of 1,024.

    Args:
        text: entries ``N`` or ``NxTIMES``, with commas between them.
        where: the option or argument that the text came from.

    Raises:
        InputError: an entry is no length, or there are more than `MAX_HEADS`.
    """
    lengths: list[int] = []
    for entry in text.split(","):
        length, cross, times = entry.strip().partition("x")
        count = whole_number(times, where=where) if cross else 1
        if len(lengths) + count > MAX_HEADS:
            raise InputError(
                f"lists more than {MAX_HEADS} heads", where=where, hint="take several stacks apart"
            )
        lengths += [whole_number(length, where=where)] * count
    return lengths


def read_lengths(path: str | Path, *, where: str = "lengths_file") -> list[int]:
    """Return the lengths of a file, one whole number a line; empty lines are skipped.

    Args:
        path: the file.
        where: the option or argument that named the file.

    Raises:
        DocumentError: the file cannot be read, or is no text.
        InputError: a line is no length, or there are none, or more than `MAX_HEADS`.
    """
    text = text_of(read_data(Path(path), limit=MAX_LIST_BYTES), where=f"{where} {path}")
    lengths = [
        whole_number(line.strip(), where=f"{where} {path}:{number}")
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not 1 <= len(lengths) <= MAX_HEADS:
        raise InputError(
            f"holds {len(lengths)} lengths",
            where=f"{where} {path}",
            hint=f"write 1 to {MAX_HEADS}, one a line",
        )
    return lengths
