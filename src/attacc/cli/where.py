"""``attacc where``: GPUs or AttAccs, for each kind of layers, over length, batch and queries."""

from __future__ import annotations

from typing import Annotated

import typer

from attacc.cli.options import Json, probabilities, size, sizes
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
        str | None,
        typer.Option(metavar="N,N", help="Tokens of each request in a step; 1 by default."),
    ] = None,
    draft_tokens: Annotated[
        int | None,
        typer.Option(
            parser=size("--draft-tokens", least=0),
            metavar="N",
            help="Drafts that a step verifies: compares 1 and 1 + N tokens of each request.",
        ),
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(
            metavar="A",
            help="Probability that a draft is accepted if those before it were, or one for each.",
        ),
    ] = None,
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
            queries=None if queries is None else sizes(queries, "--queries"),
            draft_tokens=draft_tokens,
            acceptance=probabilities(acceptance),
            gpu_model=gpu_model,
            progress=progress,
        )
    print_answer(found, where_renderable, as_json=json)
