"""What attacc claims, and how each claim is checked again.

A `Claim` is data: a statement, the figures on which it rests, its tolerance with a reason, and its
limits. A `Check` is a claim with the functions that measure its error, by the package's own public
interface. Some claims are checked by the project's tests only, because their witness is part of the
tests. They are claims, too, and say so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from attacc.errors import AttaccError, DocumentError, EngineError, UnknownNameError
from attacc.results import Progress, Result, flat, untold


class Room(StrEnum):
    """The subject of a claim, in the order of the report."""

    TIMING = "timing"
    LEGALITY = "legality"
    NUMERICS = "numerics"
    ENERGY = "energy and power"
    SYSTEM = "system model"
    GPU = "GPU model"
    SERVING = "serving, end to end"
    PAPERS = "papers"


class Needs(StrEnum):
    """The data that a check needs."""

    NOTHING = "nothing"
    REFERENCE = "reference data"
    TESTS = "the project's tests"


class Unit(StrEnum):
    """The unit of an error."""

    SHARE = "share"
    """A part of the figure with which it is compared."""
    CASES = "cases"
    """Number of cases that deviate."""
    COUNT = "count"
    NUMBER = "number"
    """The unit of the figure with which it is compared."""
    WATTS = "W"
    PICOJOULES = "pJ"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a claim may be off.

    Attributes:
        most: the largest error with which the claim holds.
        unit: unit of `most`, and of the measured error.
        reason: why the tolerance has this value.
    """

    most: float
    unit: Unit
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that attacc claims.

    Attributes:
        id: name for programs.
        room: subject of the claim.
        statement: the claim, in one sentence.
        data: the data with which it is compared, with the source.
        tolerance: how far it may be off.
        limits: what the claim does not show.
        needs: the data that its check needs.
        tests: test files, from the project's root, that also check the claim, or alone check it.
    """

    id: str
    room: Room
    statement: str
    data: str
    tolerance: Tolerance
    limits: str
    needs: Needs = Needs.NOTHING
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A further figure of a check.

    Attributes:
        name: name of the figure.
        value: value in the unit.
        unit: unit of the value.
        group: common name of several figures; may be empty.
    """

    name: str
    value: float
    unit: Unit = Unit.SHARE
    group: str = ""


def counted(name: str, value: int) -> Figure:
    """Return a figure that is a count."""
    return Figure(name, value, Unit.COUNT)


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a check.

    Attributes:
        error: the largest error, or the mean that the claim names, in the unit of the tolerance.
        cases: number of figures, runs or logs that were checked.
        figures: further figures.
    """

    error: float
    cases: int
    figures: tuple[Figure, ...] = ()


class Status(StrEnum):
    """The status of a claim after its check."""

    HELD = "held"
    FAILED = "failed"
    RECORDED = "recorded"
    """Its error was measured when coefficients were fitted, and read back here."""
    NOT_RUN = "not run here"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A claim with the result of its check.

    Attributes:
        claim: the claim.
        status: its status after the check.
        measured: the error, in the unit of the tolerance; None where nothing was measured.
        cases: number of figures, runs or logs that were checked.
        figures: further figures about the error.
        reason: why nothing was measured; empty otherwise.
    """

    claim: Claim
    status: Status
    measured: float | None = None
    cases: int = 0
    figures: tuple[Figure, ...] = ()
    reason: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the claim held; None where that was not checked again."""
        return {Status.HELD: True, Status.FAILED: False}.get(self.status)


@dataclass(frozen=True, slots=True)
class ReferenceData:
    """The reference data of the project: a folder with ``reference/golden`` and ``data/silicon``.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def golden(self) -> Path:
        """Traces and cycles of the reference controller, runs of the published system model."""
        return self.folder / "reference" / "golden"

    @property
    def silicon(self) -> Path:
        """Tables of measured GPU operators, and of serving runs."""
        return self.folder / "data" / "silicon"

    @classmethod
    def at(cls, folder: Path) -> ReferenceData:
        """Return the data in a folder.

        Raises:
            DocumentError: the folder holds no reference data.
        """
        data = cls(folder)
        if not (data.golden.is_dir() or data.silicon.is_dir()):
            raise DocumentError(
                "holds neither reference/golden nor data/silicon",
                where=str(folder),
                hint="name the folder that holds reference/ and data/",
            )
        return data


@dataclass(frozen=True, slots=True)
class Check:
    """A claim with the functions that measure its error.

    Attributes:
        claim: the claim.
        measure: measures without further data. Where the claim needs the reference data, it reads
            back errors that were recorded with these data.
        with_data: measures with the reference data.
        files: files of the reference data that `with_data` reads, from their folder.
        libraries: modules of optional libraries that `with_data` imports.
    """

    claim: Claim
    measure: Callable[[], Measured] | None = None
    with_data: Callable[[ReferenceData], Measured] | None = None
    files: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        able = {
            Needs.NOTHING: self.measure is not None and self.with_data is None,
            Needs.REFERENCE: self.with_data is not None and bool(self.files),
            Needs.TESTS: self.measure is None and self.with_data is None and bool(self.claim.tests),
        }
        if not able[self.claim.needs]:
            raise EngineError(f"claim {self.claim.id} has no check that fits what it needs")

    def run(self, reference: ReferenceData | None) -> Outcome:
        """Measure the error of the claim.

        Args:
            reference: the reference data, where they are at hand.
        """
        claim = self.claim
        if claim.needs is Needs.TESTS:
            return _not_run(claim, "by the project's tests")
        if self.with_data is not None and reference is not None:
            missing = [name for name in self.files if not (reference.folder / name).exists()]
            if missing:
                return _not_run(claim, f"the reference data lack {', '.join(missing)}")
            absent = [name for name in self.libraries if importlib.util.find_spec(name) is None]
            if absent:
                return _not_run(claim, f"without {', '.join(absent)}: {_INSTALL}")
            with_data = self.with_data
            return _judged(claim, lambda: with_data(reference))
        if self.measure is None:
            return _not_run(claim, "needs the reference data: --reference")
        outcome = _judged(claim, self.measure)
        if claim.needs is Needs.REFERENCE and outcome.status is Status.HELD:
            return replace(outcome, status=Status.RECORDED)
        return outcome


_INSTALL: Final = "pip install 'attacc[gpu]'"


def _not_run(claim: Claim, reason: str) -> Outcome:
    return Outcome(claim, Status.NOT_RUN, reason=reason)


def _judged(claim: Claim, measure: Callable[[], Measured]) -> Outcome:
    try:
        found = measure()
    except AttaccError as error:
        return Outcome(claim, Status.FAILED, reason=f"the check ended with: {error}")
    held = found.cases > 0 and found.error <= claim.tolerance.most
    status = Status.HELD if held else Status.FAILED
    return Outcome(claim, status, found.error, found.cases, found.figures)


@dataclass(frozen=True, slots=True)
class Validation(Result):
    """The outcomes of claims.

    Attributes:
        version: version of attacc.
        with_reference: whether the reference data were given.
        outcomes: by room, in the order of the checks.
    """

    version: str
    with_reference: bool
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> int:
        """Number of claims that do not hold."""
        return self.count(Status.FAILED)

    def count(self, status: Status) -> int:
        """Return the number of claims with this status."""
        return sum(outcome.status is status for outcome in self.outcomes)

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each claim."""
        return [flat(asdict(outcome)) for outcome in self.outcomes]


def validate(
    checks: Sequence[Check],
    reference: ReferenceData | None,
    progress: Progress = untold,
) -> Validation:
    """Check claims again.

    Args:
        checks: which.
        reference: the reference data, where they are at hand.
        progress: told the id of every claim before its check runs, and how many there are.
    """
    from importlib.metadata import version

    outcomes: list[Outcome] = []
    for check in checks:
        progress(check.claim.id, len(checks))
        outcomes.append(check.run(reference))
    return Validation(version("attacc"), reference is not None, tuple(outcomes))


def chosen(checks: Sequence[Check], ids: Iterable[str]) -> tuple[Check, ...]:
    """Return the checks of some claims.

    Args:
        checks: the checks to choose from.
        ids: ids of the claims; without any, all checks are returned.

    Raises:
        UnknownNameError: there is no claim of a given name.
    """
    wanted = tuple(ids)
    known = [check.claim.id for check in checks]
    for name in wanted:
        if name not in known:
            raise UnknownNameError("claim", name, known, where="claims")
    return tuple(check for check in checks if not wanted or check.claim.id in wanted)
