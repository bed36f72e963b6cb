"""The parts of a reproduction: tables with units, each with its figure and its notes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from attacc.errors import EngineError

Cell = str | int | float | None
"""A cell of a table; None where there is no figure, which a note explains."""


class Paper(StrEnum):
    """The papers that introduced AttAcc."""

    CAL2023 = "cal2023"
    """IEEE Computer Architecture Letters 2023, doi 10.1109/LCA.2023.3305386."""
    ASPLOS2024 = "asplos2024"
    """ASPLOS 2024, doi 10.1145/3620665.3640422."""


class Form(StrEnum):
    """How the figures of a column are written."""

    TEXT = "text"
    COUNT = "count"
    """A whole number."""
    NUMBER = "number"
    """Four significant digits."""
    RATIO = "ratio"
    """So many times."""
    SHARE = "share"
    """A part of one, as a percentage."""
    DEVIATION = "deviation"
    """Ours over the paper's value, less one, as a percentage with its sign."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: name for programs, which contains the unit.
        title: name for people, without the unit.
        unit: unit of the figures; empty for text, counts and ratios.
        form: how the figures are written.
        detail: whether the column is left out where there is little room.
    """

    key: str
    title: str
    unit: str = ""
    form: Form = Form.NUMBER
    detail: bool = False


class Mark(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    POINTS = "points"
    BARS = "bars"


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        label: for the legend.
        x: positions, or the names of groups of bars.
        y: as many values; None leaves a gap.
        mark: how they are drawn.
        reference: whether the series is drawn thin, as a reference for the others.
    """

    label: str
    x: tuple[str | float, ...]
    y: tuple[float | None, ...]
    mark: Mark = Mark.LINE
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it; may be empty.
        x_title: with the unit.
        y_title: with the unit.
        series: what is drawn.
        log_x: logarithmic.
        log_y: logarithmic.
    """

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One table and its figure.

    Attributes:
        id: name for programs.
        paper: which paper shows the like.
        title: what it shows.
        conditions: model, lengths, systems, limits.
        columns: of the table.
        rows: cells in the order of the columns.
        notes: what differs from the papers and why, what is an estimate, why figures are missing.
        panels: the figure.
    """

    id: str
    paper: Paper
    title: str
    conditions: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    panels: tuple[Panel, ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise EngineError(f"exhibit {self.id}: a row has not as many cells as columns")

    def column(self, key: str) -> list[Cell]:
        """Return the cells of one column.

        Raises:
            EngineError: there is none of this key.
        """
        for index, column in enumerate(self.columns):
            if column.key == key:
                return [row[index] for row in self.rows]
        raise EngineError(f"exhibit {self.id} has no column {key}")


def deviation(ours: float | None, paper: float | None) -> float | None:
    """Return ours over the paper's value less one; None where one of them is missing."""
    return None if ours is None or paper is None else ours / paper - 1
