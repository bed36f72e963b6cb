"""``attacc reproduce``: the figures of the AttAcc papers, made again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from attacc.cli.options import Json
from attacc.cli.output import check_target, print_answer, progress_bar


class Which(StrEnum):
    """Whose exhibits."""

    CAL2023 = "cal2023"
    ASPLOS2024 = "asplos2024"
    ALL = "all"


class Model(StrEnum):
    """What prices the GPUs."""

    PUBLISHED = "published"
    CALIBRATED = "calibrated"


def reproduce(
    which: Annotated[
        Which, typer.Argument(help="Paper whose exhibits to make.", show_default=True)
    ] = Which.ALL,
    gpu_model: Annotated[Model, typer.Option(help="Model that prices the GPUs.")] = Model.PUBLISHED,
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
    from attacc.report.reproduce import reproduction_tables
    from attacc.report.reproduce_html import check_report, write_reproduction
    from attacc.study.exhibits import Paper
    from attacc.study.reproduce import chosen
    from attacc.study.reproduce import reproduce as run_reproduction
    from attacc.system.gpu_models import GpuModel

    if report is not None:
        check_target(report, "--report")
        check_report(report)
    papers = list(Paper) if which is Which.ALL else [Paper(which)]
    specs = chosen(papers, exhibit or ())
    with progress_bar("reproducing", len(specs)) as progress:
        reproduction = run_reproduction(specs, GpuModel(gpu_model), progress, second_process=True)
    if report is not None:
        write_reproduction(reproduction, report)
    print_answer(reproduction, reproduction_tables, as_json=json)
