"""``attacc reproduce``: the figures of the AttAcc papers, computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attacc.cli.options import Json, names
from attacc.cli.output import print_answer, progress_bar


def reproduce(
    papers: Annotated[
        str,
        typer.Argument(metavar="cal2023|asplos2024|all", help="Paper whose exhibits to make."),
    ] = "all",
    gpu_model: Annotated[
        str,
        typer.Option(metavar="published|calibrated", help="Model that prices the GPUs."),
    ] = "published",
    exhibit: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this exhibit; repeat the option for several."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write tables and figures to one HTML file."),
    ] = None,
    json: Json = False,
) -> None:
    """Make the figures of the AttAcc papers again, the papers' values beside ours."""
    from attacc import reproduce as reproduce_papers
    from attacc.report.papers.html import check_report, write_reproduction
    from attacc.report.papers.tables import reproduction_tables

    if report is not None:
        check_report(report)
    with progress_bar("reproducing") as progress:
        reproduction = reproduce_papers(
            papers,
            exhibits=names(exhibit, "--exhibit"),
            gpu_model=gpu_model,
            progress=progress,
            second_process=True,
        )
    if report is not None:
        write_reproduction(reproduction, report)
    print_answer(reproduction, reproduction_tables, as_json=json)
