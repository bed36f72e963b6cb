"""How attention's work on the cores scales to another GPU, and what that means for the A100a.

    python benchmarks/scaling_rule.py [--reference ../shared]

Prints the tables of docs/model/gpu-model.md ("Scaling to another data sheet"). Needs polars:
pip install 'attacc[gpu]'. It takes ten seconds on one core, and compiles for longer at first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

import attacc
from attacc.calibration.measured import read_measurements
from attacc.calibration.scaling import (
    LARGE_BYTES,
    CoreRule,
    Rows,
    core_factor,
    core_rate,
    faster_cores,
    kv_bytes,
    matched,
    scaled_timer,
    transfers,
)
from attacc.calibration.series import Measurements
from attacc.gpu.calibrated.kernels import AttentionShapes, CalibratedGpu, DecodeTimer
from attacc.gpu.calibrated.records import GB
from attacc.hardware.gpu import GPUS
from attacc.models.precision import ElementType

TABLES: Final = ("decode_attention.parquet", "decode_attention_b200.parquet")
PAIRS: Final = (
    ("h100", "h200"),
    ("h200", "h100"),
    ("a100", "h100"),
    ("a100", "h200"),
    ("h100", "b200"),
    ("h200", "b200"),
)
SHARES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
REQUESTS: Final = 17
HEADS: Final = 12
HEAD_DIM: Final = 128
LAYERS: Final = 96
TOKENS: Final = 2048
"""GPT-3 175B on one of the eight GPUs of `dgx-base`, with as many requests as fit."""
NEVER: Final = 1e4
"""Factor of a rate that never limits."""


def print_row(cells: Sequence[object]) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |")


def print_rules(tables: Sequence[Measurements]) -> None:
    """Print the error of every rule, for every pair of GPUs and class of shapes."""
    names = [rule.value for rule in CoreRule]
    print_row(["pair", "kernels", "shapes", "points", *names, "own", "best factor"])
    for source, target in PAIRS:
        for one in transfers(tables, source, target):
            seen = one.version if one.seen == one.version else f"{one.seen} to {one.version}"
            print_row(
                [
                    f"{source} to {target}",
                    f"{one.framework} {seen}, {one.dtype}",
                    one.rows.value,
                    f"{one.points:,}",
                    *(
                        f"{100 * one.mape[rule]:.1f} ({100 * one.bias[rule]:+.0f})"
                        for rule in CoreRule
                    ),
                    f"{100 * one.own:.1f}",
                    f"{one.best_factor:.2f}" if one.rows in (Rows.LARGE, Rows.CORES) else "",
                ]
            )


def print_factors() -> None:
    """Print what each rule takes the rates of a core to grow by."""
    print_row(["pair", *(rule.value for rule in CoreRule)])
    for source, target in PAIRS:
        sheets = GPUS.load(source), GPUS.load(target)
        print_row(
            [f"{source} to {target}", *(f"{core_factor(rule, *sheets):.2f}" for rule in CoreRule)]
        )


def print_matched(tables: Sequence[Measurements]) -> None:
    """Print how much shorter the H200's measured times are than the H100's, shape by shape."""
    same = matched(tables, "h100", "h200")
    print_row(
        ["share of H100's bandwidth", "shapes", "H100's time over H200's: 10 %, median, 90 %"]
    )
    for low, high in pairwise(SHARES):
        ratios = same.ratio[(same.share >= low) & (same.share < high)]
        told = ", ".join(f"{value:.3f}" for value in np.quantile(ratios, (0.1, 0.5, 0.9)))
        print_row([f"{low:g} to {high:g}", ratios.size, told])


def print_core_rate(tables: Sequence[Measurements]) -> None:
    """Print what one core of an A100 takes in, and what all cores would."""
    rate = core_rate(tables, "a100", "VLLM")
    cores = GPUS.load("a100").cores
    low, middle, high = np.quantile(rate.measured, (0, 0.5, 1)) * GB
    print(
        f"A100, vLLM, undivided heads with idle cores, {rate.measured.size} shapes: one core takes "
        f"in {low:.1f} to {high:.1f} GB/s, median {middle:.1f}; {cores} cores {cores * middle:,.0f}"
        f" GB/s; by the coefficients {np.median(rate.predicted) * GB:.1f} GB/s a core"
    )


def print_two_rounds(tables: Sequence[Measurements]) -> None:
    """Print whether a core of an A100 takes in more with two heads than with one."""
    cores, heads = GPUS.load("a100").cores, 128
    alone = np.median(core_rate(tables, "a100", "VLLM").measured) * GB
    for data in tables:
        if (data.key.gpu, data.key.framework) != ("a100-sxm-80gb", "VLLM"):
            continue
        shapes = data.shapes
        if not isinstance(shapes, AttentionShapes):
            raise SystemExit(f"{data.key} is no attention")
        moved = kv_bytes(shapes, data.key.dtype)
        undivided = (shapes.heads == shapes.kv_heads) & (shapes.batch * shapes.heads == heads)
        chosen = undivided & (moved >= LARGE_BYTES)
        rates = (moved / data.time_ns)[chosen]
        print(
            f"A100, vLLM, {heads} heads on {cores} cores, {rates.size} shapes: {rates.min():,.0f} "
            f"to {rates.max():,.0f} GB/s, median {np.median(rates):,.0f}; two rounds of "
            f"{alone:.1f} GB/s a core are {heads / 2 * alone:,.0f} GB/s"
        )


def readings() -> dict[str, tuple[DecodeTimer, int]]:
    """Return the readings of A100a's attention: kernels, and the number of requests."""
    a100, h100 = CalibratedGpu.load("a100"), CalibratedGpu.load("h100")
    gpu = GPUS.load("a100a")
    series = a100.decode(ElementType.BF16)
    model = DecodeTimer.of(series, gpu)
    endless = gpu.model_copy(update={"memory_bytes_per_s": gpu.memory_bytes_per_s * NEVER})
    cores = replace(model, machine=DecodeTimer.of(series, endless).machine)
    return {
        "the model: A100's kernel (vLLM 0.14), times of a core constant": (model, REQUESTS),
        "the same, 18 requests (216 heads)": (model, REQUESTS + 1),
        "memory alone": (faster_cores(model, NEVER), REQUESTS),
        "cores alone": (cores, REQUESTS),
        "cores alone, 18 requests": (cores, REQUESTS + 1),
        "A100's kernel, cores grown with the bandwidth": (
            scaled_timer(series, a100.gpu, gpu, CoreRule.BANDWIDTH),
            REQUESTS,
        ),
        "A100's kernel of TensorRT-LLM 1.0": (
            DecodeTimer.of(a100.decode(ElementType.BF16, "TRTLLM"), gpu),
            REQUESTS,
        ),
        "H100's kernel (vLLM 0.24)": (
            DecodeTimer.of(h100.decode(ElementType.BF16), gpu),
            REQUESTS,
        ),
    }


def print_readings() -> None:
    """Print attention of GPT-3 on the A100a by every reading, and what AttAcc would then gain."""
    rows = attacc.compare("gpt3-175b", (TOKENS, TOKENS), ["dgx-base", "dgx-attacc-bank"]).systems
    base, units = (row.performance for row in rows)
    if base is None or units is None:
        raise SystemExit("dgx-base or dgx-attacc-bank has no figures")
    lengths = np.arange(TOKENS + 1, 2 * TOKENS)
    bandwidth = GPUS.load("a100a").memory_bytes_per_s * GB
    model_ms = np.nan
    print_row(["reading", "us a layer", "share of HBM3", "ms a step", "gain of units in banks"])
    for name, (timer, requests) in readings().items():
        shapes = AttentionShapes.of(requests, HEADS, HEADS, HEAD_DIM, lengths)
        times = timer.ns(shapes)
        share = (kv_bytes(shapes, ElementType.BF16).sum() / times.sum()) / bandwidth
        step_ms = LAYERS * times.mean() * 1e-6
        model_ms = step_ms if np.isnan(model_ms) else model_ms
        gain = units.throughput_tokens_per_s * (base.tpot_ms + step_ms - model_ms) / requests * 1e-3
        told = [f"{times.mean() * 1e-3:.0f}", f"{share:.2f}"]
        ours = requests == REQUESTS and not name.startswith(("memory", "cores"))
        print_row([name, *told, f"{step_ms:.1f}", f"{gain:.2f}" if ours else ""])


def print_gb200() -> None:
    """Print how much shorter GB200's attention were if times of a core shrank with its clock.

    The GB200 has B200's cores in this model, so that the ratio of peak rates is that of clocks.
    """
    b200, gb200 = CalibratedGpu.load("b200"), GPUS.load("gb200")
    shapes = AttentionShapes.of([8, 16, 64, 256, 16, 64], 8, 1, 128, [8192] * 4 + [131072] * 2)
    for dtype in (ElementType.BF16, ElementType.FP8):
        series = b200.decode(dtype)
        times = [
            scaled_timer(series, b200.gpu, gb200, rule).ns(shapes)
            for rule in (CoreRule.CONSTANT, CoreRule.PEAK)
        ]
        less = 1 - times[1] / times[0]
        print(
            f"GB200, {dtype}, 8 heads on one head of keys, 8 to 256 requests of 8k and 128k keys: "
            f"{100 * less.min():.1f} to {100 * less.max():.1f} % less with the clock"
        )


def main(
    reference: Annotated[Path, typer.Option(help="Folder of the reference data.")] = Path(
        "../shared"
    ),
) -> None:
    folder = reference / "data" / "silicon"
    tables = [data for name in TABLES for data in read_measurements(folder / name)]
    print("Factors of a core's rates by each rule\n")
    print_factors()
    print("\nMean absolute error, % (bias), of predicted decode attention\n")
    print_rules(tables)
    print("\nMeasured times of TensorRT-LLM's decode attention, no model\n")
    print_matched(tables)
    print()
    print_core_rate(tables)
    print_two_rounds(tables)
    print()
    print_gb200()
    print("\nAttention of GPT-3 175B on the A100a, (2048, 2048)\n")
    print_readings()


if __name__ == "__main__":
    typer.run(main)
