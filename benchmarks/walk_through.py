"""Prints docs/model/walk-through.md, or writes it.

python benchmarks/walk_through.py [--write]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.report.walkthrough import walk_page
from attacc.study.walkthrough import walk_through

PAGE: Final = Path(__file__).parents[1] / "docs" / "model" / "walk-through.md"


def main(
    write: Annotated[bool, typer.Option("--write", help="Write the page.")] = False,
) -> None:
    """Walk one head through a stack."""
    page = walk_page(walk_through())
    if write:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page, end="")


if __name__ == "__main__":
    typer.run(main)
