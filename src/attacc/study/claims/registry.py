"""Every check of every claim, in the order of the rooms."""

from __future__ import annotations

from attacc.study.claims import energy, gpu, legality, numerics, papers, serving, system, timing
from attacc.study.claims.validation import Check, Room


def all_checks() -> tuple[Check, ...]:
    """Return every check there is, by room."""
    checks = (
        *timing.CHECKS,
        *legality.CHECKS,
        *numerics.CHECKS,
        *energy.CHECKS,
        *system.CHECKS,
        *gpu.CHECKS,
        *serving.CHECKS,
        *papers.CHECKS,
    )
    rooms = list(Room)
    return tuple(sorted(checks, key=lambda check: rooms.index(check.claim.room)))
