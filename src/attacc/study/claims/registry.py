"""Every check of every claim, in the order of the rooms."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attacc.results import Progress, untold
from attacc.study.claims import (
    energy,
    gpu,
    legality,
    numerics,
    open_loop,
    papers,
    scheduling,
    serving,
    system,
    timing,
    whole,
)
from attacc.study.claims.validation import (
    Check,
    ReferenceData,
    Room,
    Validation,
    chosen,
    validate,
)


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
        *scheduling.CHECKS,
        *open_loop.CHECKS,
        *whole.CHECKS,
        *papers.CHECKS,
    )
    rooms = list(Room)
    return tuple(sorted(checks, key=lambda check: rooms.index(check.claim.room)))


def check_claims(
    claims: Iterable[str] | str = (),
    *,
    reference: str | Path | None = None,
    progress: Progress = untold,
) -> Validation:
    """Check again what attacc claims: data, tolerance, measured error and limits of each claim.

    Args:
        claims: the id of a claim, or several; without any, all.
        reference: folder of the reference data; without it, claims that need them are read back
            or skipped, saying so.
        progress: told the id of every claim before its check runs, and how many there are.

    Raises:
        UnknownNameError: there is no claim of a name.
        InputError: there are no reference data in the folder.
    """
    data = None if reference is None else ReferenceData.at(Path(reference))
    return validate(
        chosen(all_checks(), [claims] if isinstance(claims, str) else claims), data, progress
    )
