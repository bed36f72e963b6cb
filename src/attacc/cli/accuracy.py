"""``attacc accuracy``: the error of a device's attention, by length and number format."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from attacc.cli import options
from attacc.cli.options import DEFAULT_DEVICE, Device, Json, comma_list, sizes
from attacc.cli.output import HEARTBEAT, print_answer

RECORDED_SUFFIX = ".npz"


def accuracy(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Model preset or file: size of a head, queries that share it; gpt3-175b by "
            "default.",
        ),
    ] = None,
    length: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Keys of a head; by default 128 to 131,072 by powers of two.",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="gaussian,peaked|FILE.npz",
            help="Distributions of queries, keys and values; or recorded ones.",
        ),
    ] = "gaussian,peaked",
    placement: Annotated[
        str,
        typer.Option(metavar="bank,bankgroup,buffer", help="Where the stack's GEMV units sit."),
    ] = "bank",
    kv: Annotated[
        str, typer.Option(metavar="F,F,...", help="Formats of keys and values.")
    ] = "fp16,bf16,int8,fp8-e4m3,fp8-e5m2",
    accumulate: Annotated[
        str,
        typer.Option(
            metavar="fp16,fp32",
            help="Formats of sums over keys and values in fp16; others are summed in fp32.",
        ),
    ] = "fp16,fp32",
    probability: Annotated[
        str | None,
        typer.Option(
            metavar="F",
            help="Format of probabilities for keys and values as wide; theirs by default.",
        ),
    ] = None,
    device: Device = DEFAULT_DEVICE,
    heads: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--heads", most=1024),
            metavar="N",
            help="Heads of keys and values at each length: 1, or all recorded ones.",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            parser=options.size("--steps", most=1024),
            metavar="N",
            help="How often new queries attend to each of them.",
        ),
    ] = 8,
    seed: Annotated[
        int,
        typer.Option(parser=options.seed, metavar="N", help="Seed of the data that are drawn."),
    ] = 0,
    queries_per_read: Annotated[
        int,
        typer.Option(
            parser=options.size("--queries-per-read", most=1024),
            metavar="N",
            help="Queries that each read of keys and values serves, at most.",
        ),
    ] = 1,
    normalization: Annotated[
        str | None,
        typer.Option(
            metavar="before|after",
            help="Divide by the sum of exponentials before or after the context; before for 16 "
            "bits, after for 8.",
        ),
    ] = None,
    tree: Annotated[
        str,
        typer.Option(metavar="pairwise|sequential", help="Order of the adder tree of a score."),
    ] = "pairwise",
    chunk_keys: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--chunk-keys"),
            metavar="N",
            help="Keys of a chunk at most, in place of what the softmax buffer holds.",
        ),
    ] = None,
    sum_keys: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--sum-keys", most=2**20),
            metavar="N",
            help="Keys that one accumulator sums over, in place of what half a vector buffer "
            "holds; it must still hold a query.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the errors: .svg, .png or .pdf. Needs attacc[figures]."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Tell the error of attention on a device against exact attention, by length and format.

    The program of a head is executed on data, with the arithmetic of the units.
    """
    import attacc
    from attacc.report.accuracy import accuracy_renderable, check_figure, draw_accuracy

    recorded = _recorded(data)
    if figure is not None:
        check_figure(figure, [] if recorded is None else [recorded])
    given = {
        "model": model,
        "recorded": recorded,
        "probability": probability,
        "heads": heads,
        "normalization": normalization,
        "chunk_keys": chunk_keys,
        "sum_keys": sum_keys,
        "lengths": None if length is None else sizes(length, "--length"),
    }
    with _progress() as progress:
        result = attacc.accuracy(
            data=["recorded"] if recorded else comma_list(data, "--data"),
            device=device,
            placements=comma_list(placement, "--placement"),
            kv=comma_list(kv, "--kv"),
            accumulate=comma_list(accumulate, "--accumulate"),
            steps=steps,
            seed=seed,
            queries_per_read=queries_per_read,
            tree=tree,
            progress=progress,
            **{name: value for name, value in given.items() if value is not None},
        )
    if figure is not None:
        draw_accuracy(result, figure)
    print_answer(result, accuracy_renderable, as_json=json)


def _recorded(data: str) -> Path | None:
    """Return the path of recorded data, if ``--data`` names one."""
    path = Path(data)
    return path if "," not in data and (path.suffix == RECORDED_SUFFIX or "/" in data) else None


@contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    """Show a bar on stderr, if stderr is a terminal."""
    from attacc.report.terminal import bar

    with bar(shown=sys.stderr.isatty()) as shown:
        task = shown.add_task("attending")

        def show(done: int, keys: int) -> None:
            HEARTBEAT.tell(f"attending to {keys:,} keys, {done:,} done")
            shown.update(task, completed=done, total=keys)

        yield show
