"""What the papers report, as the reference states it."""

from __future__ import annotations

import tomllib
from importlib.resources import files

from pydantic import Field

from attacc.documents import Spec, parse_document


class PaperFigure(Spec):
    """One figure of the papers.

    Attributes:
        id: name for programs.
        claim: the claim that it belongs to.
        value: the figure.
        unit: its unit.
        second_hand: whether the figure is a quotation, not read in the paper itself.
        source: where it is stated.
    """

    id: str
    claim: str
    value: float = Field(ge=0, le=1e12)
    unit: str
    second_hand: bool
    source: str


class _PaperFigures(Spec):
    figure: tuple[PaperFigure, ...]


def paper_figures() -> tuple[PaperFigure, ...]:
    """Return all figures, in the order in which they are shown."""
    name = "paper_figures.toml"
    text = (files("attacc.study.papers") / "data" / name).read_text(encoding="utf-8")
    return parse_document(_PaperFigures, tomllib.loads(text), where=name).figure
