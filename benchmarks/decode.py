"""How fast the bundled model decodes here with its attention on a modelled AttAcc.

Per token, at a context of 256 tokens and more: wall time of the step, and the part of it that the
device takes (appending keys and values, and attending, in all layers). Asserts nothing.

    python benchmarks/decode.py [--context 256] [--tokens 64] [--threads 2] [--json]
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.console import Console
from rich.table import Table

from attacc.hardware.dram import DRAMS
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.integrations.huggingface_attention import attach
from attacc.integrations.huggingface_models import BUNDLED, HostType, load_language_model
from attacc.pim.host.costs import AppendCost, Attended
from attacc.pim.host.device import HostDevice
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format

F32 = npt.NDArray[np.float32]

WIDE = Arithmetic(multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32)
UNITS = {"fp16": Arithmetic(), "fp32 sums": WIDE}


class TimedDevice(HostDevice):
    """A device that keeps the wall time of its calls."""

    wall_s = 0.0

    def append(self, request: int, layer: int, keys: F32, values: F32 | None = None) -> AppendCost:
        begin = perf_counter()
        cost = super().append(request, layer, keys, values)
        self.wall_s += perf_counter() - begin
        return cost

    def attend(
        self, layer: int, requests: Sequence[int], queries: F32, sinks: F32 | None = None
    ) -> Attended:
        begin = perf_counter()
        attended = super().attend(layer, requests, queries, sinks)
        self.wall_s += perf_counter() - begin
        return attended


@dataclass(frozen=True)
class Row:
    """One arithmetic and type of the host; times of a token, the median of all."""

    host: str
    units: str
    context: int
    step_ms: float
    fastest_step_ms: float
    device_ms: float
    tokens_per_s: float


def measure(model: Any, host: HostType, units: str, context: int, tokens: int) -> Row:
    device = TimedDevice.of(
        DRAMS.load("hbm3-5.2"), Placement.BANK, link=LINKS.load("nvlink3"), arithmetic=UNITS[units]
    )
    assert isinstance(device, TimedDevice)
    given = torch.arange(1000, 1000 + context + tokens + 2)[None]
    steps: list[float] = []
    shares: list[float] = []
    with torch.inference_mode(), attach(model, device) as session:
        cache = session.cache()
        session.forward(given[:, :context], cache, logits_to_keep=1)
        for index in range(context, context + tokens + 2):
            device.wall_s = 0.0
            begin = perf_counter()
            session.forward(given[:, index : index + 1], cache).logits[0, -1].argmax()
            steps.append(perf_counter() - begin)
            shares.append(device.wall_s)
    # The first two compile, and find memory for what they compute.
    step = median(steps[2:])
    return Row(
        host, units, context, 1e3 * step, 1e3 * min(steps[2:]), 1e3 * median(shares[2:]), 1 / step
    )


def main(
    context: Annotated[int, typer.Option(help="Tokens before the first that is timed.")] = 256,
    tokens: Annotated[int, typer.Option(help="Tokens that are timed.")] = 64,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    torch.set_num_threads(threads)
    loaded = load_language_model(BUNDLED, HostType.FP32)
    rows: list[Row] = []
    model: Any = loaded.model
    for host, dtype in ((HostType.FP32, torch.float32), (HostType.FP16, torch.float16)):
        model = model.to(dtype)
        rows += [measure(model, host, units, context, tokens) for units in UNITS]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("host", "units", "context", "step", "fastest", "device", "tokens/s")
    for row in rows:
        table.add_row(
            row.host, row.units, str(row.context), f"{row.step_ms:.1f} ms",
            f"{row.fastest_step_ms:.1f} ms", f"{row.device_ms:.1f} ms", f"{row.tokens_per_s:.1f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
