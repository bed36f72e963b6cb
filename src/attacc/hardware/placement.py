"""Where the GEMV units of a stack sit."""

from enum import StrEnum


class Placement(StrEnum):
    """Where the GEMV units of a stack sit."""

    BANK = "bank"
    """One unit per bank."""
    BANKGROUP = "bankgroup"
    """One unit per bank group."""
    BUFFER = "buffer"
    """One unit per pseudo-channel, on the buffer die."""
