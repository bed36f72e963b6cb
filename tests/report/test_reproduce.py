"""How cells of an exhibit are written, and how its figure is drawn."""

import pytest

from attacc.report.papers.tables import heading, written
from attacc.study.papers.exhibits import Column, Exhibit, Form, Mark, Panel, Paper, Series


@pytest.mark.parametrize(
    ("cell", "form", "text"),
    [
        (None, Form.NUMBER, "-"),
        ("bank", Form.TEXT, "bank"),
        (131072, Form.COUNT, "131,072"),
        (3.9723, Form.RATIO, "3.97x"),
        (0.6589, Form.SHARE, "65.9%"),
        (-0.0314, Form.DEVIATION, "-3.1%"),
        (0.0996, Form.DEVIATION, "+10.0%"),
        (-4e-9, Form.DEVIATION, "0.0%"),
        (40.0187, Form.NUMBER, "40.02"),
        (1786.7, Form.NUMBER, "1,787"),
        (0.0, Form.NUMBER, "0"),
    ],
)
def test_cells(cell: str | float | None, form: Form, text: str) -> None:
    """Catches a fraction that is written as a percentage, or a sign that is lost."""
    assert written(cell, form) == text


def test_headings() -> None:
    """Catches a figure without its unit."""
    assert heading(Column("step_ms", "step", "ms")) == "step, ms"
    assert heading(Column("gain", "gain", form=Form.RATIO)) == "gain"


def test_a_figure_with_everything() -> None:
    """Catches a kind of panel that cannot be drawn: gaps, names, logarithms, references."""
    pytest.importorskip("matplotlib", reason="needs the extra figures")
    from attacc.report.papers.html import figure_svg

    lines = Panel(
        "a < b",
        "x",
        "y",
        (
            Series("line", (1, 2, 4), (1.0, None, 3.0)),
            Series("points", (1, 2, 4), (2.0, 2.0, 2.0), Mark.POINTS),
            Series("roof", (1, 4), (1.0, 4.0), reference=True),
        ),
        log_x=True,
        log_y=True,
    )
    bars = Panel("", "", "off by", (Series("bars", ("a", "b"), (-0.1, None), Mark.BARS),))
    columns = (Column("a", "a"),)
    for panels in ((lines,), (lines, lines), (bars,), (bars, bars)):
        exhibit = Exhibit("drawn", Paper.CAL2023, "", "", columns, ((1,),), (), panels)
        svg = figure_svg(exhibit)
        assert svg.startswith("<svg")
        assert svg.rstrip().endswith("</svg>")
        assert svg == figure_svg(exhibit), "the same figure twice gives the same text"
    assert "a &lt; b" in figure_svg(
        Exhibit("drawn", Paper.CAL2023, "", "", columns, (), (), (lines,))
    )
