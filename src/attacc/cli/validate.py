"""``attacc validate``: every claim checked again, and the page that states them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.cli.options import Json, names
from attacc.cli.output import print_answer, progress_bar

NOT_HELD: Final = 3
"""Exit code if a claim does not hold."""


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
    from attacc import validate as check_claims
    from attacc.report.validation import check_page, validation_tables, write_page

    claims = names(claim, "--claim")
    if output is not None:
        check_page(output, some=bool(claims))
    with progress_bar("checking") as progress:
        validation = check_claims(claims, reference=reference, progress=progress)
    if output is not None:
        write_page(validation, output)
    print_answer(validation, validation_tables, as_json=json)
    if validation.failed:
        raise typer.Exit(NOT_HELD)
