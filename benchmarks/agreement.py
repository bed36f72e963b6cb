"""How well the bundled model agrees with itself when its attention runs on AttAccs.

Teacher-forced decode of English prose that ships with Python (`pydoc_data.topics`: the language
reference), in windows of 256 tokens: the first 32 are the prompt, and every later one is attended
to on the device. Against the same model with its own attention (eager, in the host's type), the
likeliest next tokens and the perplexity; and, for what such a comparison is worth, of its other own
attention (sdpa), which differs in the order of its sums alone. Asserts nothing.

    python benchmarks/agreement.py [--windows N] [--host fp32] [--json]
"""

import json
import sys
from dataclasses import asdict, dataclass
from pydoc_data.topics import topics
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.integrations.agreement import Predictions, predict, windows_of
from attacc.integrations.huggingface_attention import attach
from attacc.integrations.huggingface_models import BUNDLED, HostType, load_language_model
from attacc.models.precision import ElementType
from attacc.pim.host.device import HostDevice
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format

PROSE = ("objects", "execmodel", "naming", "exceptions", "imports", "types", "customization")
"""Topics of prose, in this order; those that a version of Python lacks are skipped."""
LENGTH = 256
PROMPT = 32

WIDE = Arithmetic(multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32)
UNITS = {
    "fp16, sums fp16": (ElementType.FP16, Arithmetic()),
    "fp16, sums fp32": (ElementType.FP16, WIDE),
    "bf16, sums fp32": (ElementType.BF16, Arithmetic.of(ElementType.BF16)),
    "int8, sums fp32": (ElementType.INT8, Arithmetic.of(ElementType.INT8)),
    "fp8-e4m3, sums fp32": (ElementType.FP8, Arithmetic.of(ElementType.FP8)),
    "fp8-e5m2, sums fp32": (ElementType.FP8, Arithmetic.of(ElementType.FP8, fp8=Format.E5M2)),
}


@dataclass(frozen=True)
class Row:
    """One arithmetic against the model's own attention."""

    host: str
    units: str
    predictions: int
    top1_agreement: float
    perplexity: float
    relative_perplexity: float
    saturated: int
    wall_s: float


def prose() -> str:
    return "\n\n".join(topics[name] for name in PROSE if name in topics)


def row(host: str, units: str, got: Predictions, own: Predictions, saturated: int, s: float) -> Row:
    return Row(
        host, units, len(got.loss), got.top1_agreement(own), got.perplexity,
        got.relative_perplexity(own), saturated, s,
    )  # fmt: skip


def main(
    windows: Annotated[int, typer.Option(help="Windows of text.")] = 10,
    host: Annotated[list[HostType], typer.Option(help="Types of the host.")] = [HostType.FP16],  # noqa: B006 - typer's
    units: Annotated[str, typer.Option(help="Only those whose name begins so.")] = "",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    rows: list[Row] = []

    def add(
        host: str, units: str, got: Predictions, own: Predictions, cut: int, wall_s: float
    ) -> None:
        rows.append(row(host, units, got, own, cut, wall_s))
        print(f"{rows[-1]}", file=sys.stderr)

    for host_type in host:
        loaded = load_language_model(BUNDLED, host_type)
        model: Any = loaded.model
        model.set_attn_implementation("eager")
        text = windows_of(loaded.prompt(prose(), chat=False), LENGTH)[:windows]
        begin = perf_counter()
        own = predict(loaded.model, text, prompt=PROMPT)
        add(host_type, "own attention", own, own, 0, perf_counter() - begin)
        model.set_attn_implementation("sdpa")
        begin = perf_counter()
        other = predict(loaded.model, text, prompt=PROMPT)
        add(host_type, "own, sdpa", other, own, 0, perf_counter() - begin)
        model.set_attn_implementation("eager")
        for name, (element, arithmetic) in UNITS.items():
            if not name.startswith(units):
                continue
            device = HostDevice.of(
                DRAMS.load("hbm3-5.2"), Placement.BANK, link=LINKS.load("nvlink3"),
                arithmetic=arithmetic,
            )  # fmt: skip
            begin = perf_counter()
            with attach(loaded.model, device, element=element) as session:
                got = predict(loaded.model, text, prompt=PROMPT, session=session)
            add(host_type, name, got, own, device.saturated, perf_counter() - begin)
    if as_json:
        print(json.dumps([asdict(one) for one in rows], indent=2))
        return
    table = Table("host", "keys and values", "predictions", "same top 1", "perplexity",
                  "relative", "saturated", "wall time")  # fmt: skip
    for one in rows:
        table.add_row(
            one.host, one.units, f"{one.predictions:,}", f"{one.top1_agreement:.3%}",
            f"{one.perplexity:.4f}", f"{one.relative_perplexity:+.4%}", f"{one.saturated:,}",
            f"{one.wall_s:.1f} s",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
