"""``attacc validate``: every claim checked again, and the page that states them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.cli.options import Json
from attacc.cli.output import check_target, print_answer, progress_bar
from attacc.errors import InputError

NOT_HELD: Final = 3


def validate(
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The project's reference data: the folder that holds reference/ and data/.",
        ),
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this claim; repeat the option for several."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.md", help="Write the page of all claims."),
    ] = None,
    json: Json = False,
) -> None:
    """Check again what attacc claims: data, tolerance, measured error and limits of each claim.

    Without reference data, claims that need them are read back or skipped, saying so. Exit code 3
    if a claim failed.
    """
    from attacc.files import write_whole
    from attacc.report.validation import validation_page, validation_tables
    from attacc.study.claims.registry import all_checks
    from attacc.study.claims.validation import ReferenceData, Status, chosen
    from attacc.study.claims.validation import validate as run_checks

    if output is not None:
        check_target(output, "--output")
        if claim:
            raise InputError(
                "the page states all claims", where=f"--output {output}", hint="leave --claim out"
            )
    data = None if reference is None else ReferenceData.at(reference)
    checks = chosen(all_checks(), claim or ())
    with progress_bar("checking", len(checks)) as progress:
        validation = run_checks(checks, data, progress)
    if output is not None:
        write_whole(output, validation_page(validation).encode("utf-8"))
    print_answer(validation, validation_tables, as_json=json)
    if validation.count(Status.FAILED):
        raise typer.Exit(NOT_HELD)
