"""``attacc trace``: command traces in text form, played on a device or written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.cli import options
from attacc.cli.options import (
    REFERENCE_DEVICE,
    Device,
    DType,
    HeadDim,
    Heads,
    Json,
    Length,
    PlacementName,
    PowerLimit,
    ScheduleName,
)
from attacc.cli.output import print_answer, progress_bar
from attacc.cli.places import Command

app = typer.Typer(help="Play, write and audit command traces in text form.")

ILLEGAL: Final = 3
"""Exit code of an audit that found a broken rule."""


@app.command(cls=Command)
def run(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Text traces, plain or compressed with gzip."),
    ],
    device: Device = REFERENCE_DEVICE,
    power_limit: PowerLimit = True,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write every command that the controllers issue, as lines of: cycle, command, "
            "channel, pseudo-channel, rank, bank group, bank, row, column. For one trace.",
        ),
    ] = None,
    traffic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Loads and stores of the host that run beside each trace, as lines of LD or ST, "
            "address and, optionally, the cycle of arrival.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Play command traces on the controllers of one stack.

    The GEMV units sit where the multiplies of a trace need them. All traces are read before the
    first is played.
    """
    from attacc.report.trace import run_renderable
    from attacc.trace import play_traces

    with progress_bar("playing") as progress:
        runs = play_traces(
            files,
            device,
            power_limited=power_limit,
            traffic=traffic,
            log=log,
            progress=progress,
        )
    print_answer(runs, run_renderable, as_json=json)


@app.command(cls=Command)
def build(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The trace to write, compressed where its name ends in .gz."
        ),
    ],
    heads: Heads,
    length: Length,
    head_dim: HeadDim = 128,
    dtype: DType = "fp16",
    placement: PlacementName = "bank",
    device: Device = REFERENCE_DEVICE,
    schedule: ScheduleName = "complete",
    json: Json = False,
) -> None:
    """Write the commands of the attention of one stack as a text trace."""
    from attacc.report.trace import built_renderable
    from attacc.trace import build_trace

    built = build_trace(
        file,
        heads=heads,
        length=length,
        head_dim=head_dim,
        element=dtype,
        placement=placement,
        device=device,
        schedule=schedule,
    )
    print_answer(built, built_renderable, as_json=json)


@app.command(cls=Command)
def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="LOG", help="Command log, as trace run --log writes it; .gz too."),
    ],
    device: Device = REFERENCE_DEVICE,
    power_limit: PowerLimit = True,
    placement: Annotated[
        str | None,
        typer.Option(
            metavar="bank|bankgroup|buffer",
            help="Where the stack's GEMV units sit; as the log's commands tell by default.",
        ),
    ] = None,
    queries_per_read: Annotated[
        int,
        typer.Option(
            parser=options.size("--queries-per-read", most=1024),
            metavar="N",
            help="Queries that a multiply serves, which decides its cadence.",
        ),
    ] = 1,
    dtype: DType = "fp16",
    temperature: Annotated[
        float | None,
        typer.Option(
            parser=options.number("--temperature"),
            metavar="C",
            help="Of the stack: a hot one has to be refreshed more often.",
        ),
    ] = None,
    postponed_refreshes: Annotated[
        int,
        typer.Option(
            parser=options.size("--postponed-refreshes", least=0),
            metavar="N",
            help="Refreshes that may be owed when the next one falls due.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Audit a command log against every rule of a device.

    Exits with 3 if the log breaks a rule.
    """
    from attacc.report.legality import checked_renderable
    from attacc.trace import check_log

    answer = check_log(
        file,
        device,
        placement=placement,
        power_limited=power_limit,
        queries_per_read=queries_per_read,
        element=dtype,
        temperature_c=temperature,
        postponed_refreshes=postponed_refreshes,
    )
    print_answer(answer, checked_renderable, as_json=json)
    if not answer.legal:
        raise typer.Exit(ILLEGAL)
