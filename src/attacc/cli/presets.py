"""``attacc presets``: what is shipped, with the source of every number."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from attacc.cli.options import Json
from attacc.cli.output import print_answer, print_text
from attacc.errors import InputError

KIND_NAMES: Final = (
    "model",
    "workload",
    "study",
    "system",
    "gpu",
    "cpu",
    "link",
    "device",
    "rules",
    "energy",
    "cost-model",
    "calibration",
    "cpu-calibration",
    "serving",
)
"""Names of `attacc.study.shipped.KINDS`, written again so that help loads no library."""


def presets(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Kind of preset: " + ", ".join(KIND_NAMES))
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE", help="One preset, or a document of that kind, shown in full."
        ),
    ] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the preset's own document, to start from.")
    ] = False,
    json: Json = False,
) -> None:
    """List what is shipped: models, systems and so on, with the source of every number.

    Without KIND all kinds, with it the presets of that kind, and with NAME every field of one.
    """
    if toml:
        _print_document(kind, name, json=json)
        return
    import attacc
    from attacc.report.presets import kinds_renderable, preset_renderable, presets_renderable

    if kind is None:
        print_answer(attacc.presets(), kinds_renderable, as_json=json)
    elif name is None:
        print_answer(attacc.presets(kind), presets_renderable, as_json=json)
    else:
        print_answer(attacc.presets(kind, name), preset_renderable, as_json=json)


def _print_document(kind: str | None, name: str | None, *, json: bool) -> None:
    """Print the shipped document of a preset, with its comments and sources."""
    import attacc

    if kind is None or name is None or json:
        raise InputError(
            "prints the document of one preset",
            where="--toml",
            hint="name the kind and the preset, without --json: "
            "attacc presets system dgx-attacc-bank --toml",
        )
    print_text(attacc.presets(kind, name).to_toml())
