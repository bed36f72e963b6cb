"""``attacc model``: what was understood of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from attacc.cli.options import Json
from attacc.cli.output import print_answer


def model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|FOLDER",
            help="Model preset, TOML document, config.json, or a folder that holds one.",
        ),
    ],
    kv: Annotated[
        str | None,
        typer.Option(help="Element type of the KV cache, in place of the stated one."),
    ] = None,
    json: Json = False,
) -> None:
    """Tell what a model consists of: layers by kind, parameters, and what it stores.

    The last word of a row is the kind that --site of compare takes. What a model costs is told by
    compare and where.
    """
    import attacc
    from attacc.report.model import model_renderable

    print_answer(attacc.describe(source, kv=kv), model_renderable, as_json=json)
