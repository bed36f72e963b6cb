"""All exceptions of the package, in one tree.

::

    AttaccError                   all errors that attacc raises on purpose
    +-- InputError                input that cannot be used; the command line exits with 2
    |   +-- DocumentError         a file (TOML, JSON, CSV, trace) is malformed, at a field or a line
    |   +-- UnknownNameError      no preset, family, unit, ... has the given name
    |   +-- CapacityError         a well-formed request does not fit into memory
    +-- EngineError               a fault of attacc itself; the command line exits with 1

Every message says what is wrong and where, quotes the offending value, and gives the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

E = TypeVar("E", bound=StrEnum)

MOST_QUOTED: Final = 80
"""Most characters of a name that a message quotes."""


class AttaccError(Exception):
    """Base class of all errors that attacc raises on purpose."""


class InputError(AttaccError):
    """Input of the user that cannot be used.

    Args:
        message: what is wrong, including the offending value.
        where: file, field, line or option of the fault.
        hint: the way out.
    """

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text} ({hint})" if hint else text)


class DocumentError(InputError):
    """A file is malformed; ``where`` names the file and the field or line."""


class UnknownNameError(InputError):
    """A name that is not in a closed set of names; the message proposes the nearest ones.

    Args:
        kind: what the name was meant to be, as in "model preset".
        name: the offending name.
        choices: all valid names.
        where: file and field, or option, that the name came from.
        hint: the way out. It replaces the nearest names where a near name means another thing.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        choices: Iterable[str],
        *,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.kind = kind
        self.name = name
        hint = hint or nearest_hint(name, choices)
        super().__init__(f"unknown {kind} {name!r:.{MOST_QUOTED}}", where=where, hint=hint)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A store that is too small, and by how much.

    Attributes:
        what: the store, as in "memory of the GPUs".
        needed_bytes: bytes that would have to be stored there.
        available_bytes: bytes that can be stored there.
    """

    what: str
    needed_bytes: float
    available_bytes: float

    @property
    def missing_bytes(self) -> float:
        """Bytes by which the store is too small."""
        return self.needed_bytes - self.available_bytes


class CapacityError(InputError):
    """A well-formed request that does not fit into memory.

    Args:
        shortfall: the store that is too small, and by how much.
        where: the system or device that cannot hold the request.
        hint: what would fit.
    """

    def __init__(self, shortfall: Shortfall, *, where: str | None, hint: str) -> None:
        self.shortfall = shortfall
        super().__init__(
            f"{shortfall.what}: {shortfall.needed_bytes / 1e9:,.2f} GB needed, "
            f"{shortfall.available_bytes / 1e9:,.2f} GB available, "
            f"{shortfall.missing_bytes / 1e9:,.2f} GB too little",
            where=where,
            hint=hint,
        )


class EngineError(AttaccError):
    """A fault of attacc itself: a kernel that reports an impossible state."""


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with every character that does not print as an escape, such as ``\x1b``.

    Three kinds of characters would act on a terminal or vanish there: control characters, changes
    of the direction of writing, and bytes of a file's name that are no text.

    Args:
        text: a text from outside.
        keep: characters that are not replaced, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def nearest_hint(name: str, choices: Iterable[str]) -> str:
    """Return "did you mean ...? choose from ..." for a name that is not among the choices."""
    options = sorted(map(str, choices))  # a member of an enumeration becomes its value
    lowered = [option.lower() for option in options]
    near = difflib.get_close_matches(name.lower(), lowered, n=2, cutoff=0.6)
    close = [
        option for lower in dict.fromkeys(near) for option in options if option.lower() == lower
    ]
    listed = "choose from " + ", ".join(options) if options else "there are none"
    return f"did you mean {' or '.join(map(repr, close))}? {listed}" if close else listed


def member(choices: type[E], name: E | str, *, where: str | None = None) -> E:
    """Return the member of an enumeration that a name stands for.

    Args:
        choices: the enumeration.
        name: the name of a member, or the member itself.
        where: the option or argument that the name came from.

    Raises:
        UnknownNameError: no member has this name.
    """
    names = [str(choice) for choice in choices]
    if name not in names:
        kind = (where or choices.__name__.lower()).replace("_", " ")
        raise UnknownNameError(kind, str(name), names, where=where)
    return choices(name)
