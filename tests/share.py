"""How many cases long statistical checks play: a few, or all of them.

By default each plays a few. ``pytest --full all`` plays all of them; ``--full 2/5`` those of the
second of five shares, into which the modules of tests fall by their names. The gate's share rotates
from commit to commit.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import pytest

T = TypeVar("T")

OPTION: Final = "--full"


class Share(NamedTuple):
    """Modules whose checks are played in full: those of one share, counted from 1."""

    which: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Return what the option says.

        Raises:
            pytest.UsageError: it says neither ``all`` nor a share.
        """
        if text == "all":
            return cls(1, 1)
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise pytest.UsageError(f"{OPTION} {text}: use all, or a share such as 2/5")
        return cls(int(found[1]), int(found[2]))

    def has(self, module: str) -> bool:
        """Return whether a module of tests falls into the share."""
        return zlib.crc32(module.encode()) % self.of == self.which - 1


chosen: Share | None = None
"""Set before any test is collected."""


def is_full(module: str) -> bool:
    """Return whether the checks of a module, by its ``__name__``, play all of their cases."""
    return chosen is not None and chosen.has(module)


def examples(module: str, every: int, few: int) -> int:
    """Return how many random examples a check of a module plays."""
    return every if is_full(module) else few


def cases(module: str, every: Sequence[T], few: int) -> list[T]:
    """Return the cases that a check of a module plays: all, or a few, evenly spread."""
    if is_full(module) or few >= len(every):
        return list(every)
    return [every[place * len(every) // few] for place in range(few)]
