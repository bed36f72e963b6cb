"""``attacc where``: GPUs or AttAccs, for each kind of layers, over length, batch and queries."""

from __future__ import annotations

from typing import Annotated

import typer

from attacc.cli.options import Json, sizes
from attacc.cli.output import print_answer, progress_bar


def where(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|FOLDER",
            help="Model preset, TOML document, config.json, or a folder that holds one.",
        ),
    ],
    system: Annotated[
        str, typer.Option(help="System with AttAccs: a preset or a file.")
    ] = "dgx-attacc-bank",
    length: Annotated[
        str, typer.Option(metavar="N,N", help="Keys of every request.")
    ] = "1024,8192,65536",
    batch: Annotated[str, typer.Option(metavar="N,N", help="Requests of a step.")] = "1,16,128",
    queries: Annotated[
        str,
        typer.Option(metavar="N,N", help="Tokens of each request in a step: 1, or 1 + drafts."),
    ] = "1",
    gpu_model: Annotated[
        str, typer.Option(help="What prices the GPUs: calibrated or published.")
    ] = "calibrated",
    json: Json = False,
) -> None:
    """Tell for each kind of layers whether its mixers should run on GPUs or on AttAccs."""
    import attacc
    from attacc.report.where import where_renderable

    with progress_bar("pricing") as progress:
        found = attacc.where(
            model,
            system,
            lengths=sizes(length, "--length"),
            batches=sizes(batch, "--batch"),
            queries=sizes(queries, "--queries"),
            gpu_model=gpu_model,
            progress=progress,
        )
    print_answer(found, where_renderable, as_json=json)
