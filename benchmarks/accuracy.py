"""What another split, order or accumulator buys in accuracy, as the table of
docs/model/accuracy.md.

    python benchmarks/accuracy.py [--lengths N,N,...]

Computing errors of fp16 keys and values: `attacc accuracy` tells what they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import track

from attacc.hardware.placement import Placement
from attacc.pim.numerics.arithmetic import Normalization, Order
from attacc.pim.numerics.formats import Format
from attacc.study.accuracy import AccuracyResult, AccuracySpec, Data, measure_accuracy

LENGTHS: Final = tuple(2**exponent for exponent in range(10, 18))
UNCUT: Final = 2**17
"""Keys of the longest head: no chunk, and no sum, is cut."""
SHARED: Final = "llama-3.1-8b"
"""A model of which four queries share each head."""

VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "the paper's, `bank`": {},
    "`--placement bankgroup`": {"placements": (Placement.BANKGROUP,)},
    "`--placement buffer`": {"placements": (Placement.BUFFER,)},
    "`--tree sequential`": {"tree": Order.SEQUENTIAL},
    "`--normalization after`": {"normalization": Normalization.AFTER},
    "`--sum-keys 64`": {"sum_keys": 64},
    "`--sum-keys 32`": {"sum_keys": 32},
    "four queries share a head": {"model": SHARED, "steps": 2},
    "`--queries-per-read 4` of these": {"model": SHARED, "steps": 2, "queries_per_read": 4},
    "`--chunk-keys 512`": {"chunk_keys": 512},
    "`--chunk-keys 131072`": {"chunk_keys": UNCUT},
    "`--sum-keys 131072` besides": {"chunk_keys": UNCUT, "sum_keys": UNCUT},
    "the same at `buffer`": {
        "chunk_keys": UNCUT,
        "sum_keys": UNCUT,
        "placements": (Placement.BUFFER,),
    },
}


def measured(variant: dict[str, Any], lengths: tuple[int, ...]) -> AccuracyResult:
    document = {"lengths": lengths, "kv": (Format.FP16,)} | variant
    return measure_accuracy(AccuracySpec.model_validate(document))


def row(name: str, result: AccuracyResult) -> str:
    cells: list[str] = []
    for data in (Data.GAUSSIAN, Data.PEAKED):
        for accumulate in (Format.FP16, Format.FP32):
            own = [one for one in result.rows if (one.data, one.accumulate) == (data, accumulate)]
            cells += [
                "-" if one.computing is None else f"{100 * one.computing.rms:.2g}"
                for one in (own if data is Data.GAUSSIAN else own[-1:])
                if one.length in (4096, max(one.length for one in own))
            ]
    first = result.reach[0]
    reach = "none" if first.good_up_to is None else f"{first.good_up_to:,}"
    if first.all_good:
        reach = "all"
    return f"| {name} | {' | '.join(cells)} | {reach} |"


def main(
    lengths: Annotated[str, typer.Option(help="Keys of a head.")] = ",".join(map(str, LENGTHS)),
) -> None:
    """Print the table."""
    asked = tuple(int(one) for one in lengths.split(","))
    console = Console(stderr=True)
    for name, variant in track(VARIANTS.items(), "attending", console=console, transient=True):
        print(row(name, measured(variant, asked)), flush=True)


if __name__ == "__main__":
    typer.run(main)
