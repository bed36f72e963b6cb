"""Tables that are wider than the terminal, and what goes to no terminal."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text

from attacc.report.terminal import Terminal
from attacc.report.values import plain_table


def shown(renderable: object, columns: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    terminal.file = io.StringIO()
    terminal.show(renderable)  # pyright: ignore[reportArgumentType]
    return terminal.file.getvalue()


def table(columns: int, *, no_wrap: bool = False) -> Table:
    made = plain_table()
    for column in range(columns):
        made.add_column(f"name{column}", justify="right", no_wrap=no_wrap)
    for row in range(3):
        made.add_row(*(f"{1000 * row + column},{row}%" for column in range(columns)))
    return made


@pytest.mark.parametrize("no_wrap", [False, True])
@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_no_column_is_dropped(columns: int, no_wrap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a column that vanishes, a number that is cut, and a number over two lines."""
    text = shown(Group("title", table(8, no_wrap=no_wrap)), columns, monkeypatch)
    for column in range(8):
        assert f"name{column}" in text
        for row in range(3):
            assert f"{1000 * row + column},{row}%" in text
    assert all(len(line) <= columns for line in text.split("\n"))


def test_a_stacked_table_keeps_its_title(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a title that goes with the table that does not fit."""
    made = table(10)
    made.title = "What fits"
    assert shown(made, 30, monkeypatch).startswith("What fits\n")


def test_what_is_no_terminal_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a pipe that is taken for 80 columns, and blanks at the ends of its lines."""
    made = table(40)
    made.add_row("1", Text("a note  "))
    text = shown(Group(made, "x" * 300), None, monkeypatch)
    lines = text.split("\n")
    assert "x" * 300 in lines
    assert len(next(line for line in lines if "name39" in line)) > 200
    assert not any(line.endswith(" ") for line in lines)


@settings(max_examples=60)
@given(
    cells=st.lists(
        st.lists(st.text("ab ,.%", max_size=12), min_size=3, max_size=3), min_size=1, max_size=4
    ),
    columns=st.integers(10, 60),
)
def test_nothing_is_lost_at_any_width(cells: list[list[str]], columns: int) -> None:
    """Catches a character of a cell that is not shown."""
    made = plain_table()
    for _ in range(3):
        made.add_column("")
    for row in cells:
        made.add_row(*(Text(cell) for cell in row))
    with pytest.MonkeyPatch.context() as patch:
        text = shown(made, columns, patch)
    for character in "ab,.%":
        wanted = sum(cell.count(character) for row in cells for cell in row)
        assert text.count(character) >= wanted
