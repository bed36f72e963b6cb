"""``attacc reproduce``: the figures of the AttAcc papers, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.cli.options import Json, choice
from attacc.cli.output import check_target, print_answer, progress_bar
from attacc.errors import UnknownNameError

ALL: Final = "all"
"""Every paper, in place of one."""


def reproduce(
    which: Annotated[
        str,
        typer.Argument(metavar="cal2023|asplos2024|all", help="Paper whose exhibits to make."),
    ] = ALL,
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
    from attacc.gpu.models import GpuModel
    from attacc.report.reproduce import reproduction_tables
    from attacc.report.reproduce_html import check_report, write_reproduction
    from attacc.study.papers.exhibits import Paper
    from attacc.study.papers.reproduce import chosen
    from attacc.study.papers.reproduce import reproduce as run_reproduction

    if report is not None:
        check_target(report, "--report")
        check_report(report)
    if which not in (ALL, *Paper):
        raise UnknownNameError("paper", which, [*Paper, ALL], where="WHICH")
    papers = [paper for paper in Paper if which in (ALL, paper)]
    prices = choice(GpuModel, gpu_model, "--gpu-model")
    specs = chosen(papers, exhibit or ())
    with progress_bar("reproducing", len(specs)) as progress:
        reproduction = run_reproduction(specs, prices, progress, second_process=True)
    if report is not None:
        write_reproduction(reproduction, report)
    print_answer(reproduction, reproduction_tables, as_json=json)
