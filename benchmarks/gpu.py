"""Times the calibrated GPU model on a million operators of each kind, drawn at random.

python benchmarks/gpu.py [--operators 1000000] [--gpu h100]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    collective_ns,
    decode_ns,
    matmul_ns,
    prefill_ns,
)
from attacc.models.precision import ElementType


def sizes(generator: np.random.Generator, low: int, high: int, count: int) -> np.ndarray:
    """Return whole numbers whose logarithms are spread evenly."""
    return np.floor(np.exp(generator.uniform(np.log(low), np.log(high), count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", type=int, default=1_000_000)
    parser.add_argument("--gpu", default="h100", help="calibration preset")
    arguments = parser.parse_args()
    count, gpu = arguments.operators, CalibratedGpu.load(arguments.gpu)
    random = np.random.default_rng(0)
    products = GemmShapes.of(
        sizes(random, 1, 32768, count),
        sizes(random, 32, 65536, count),
        sizes(random, 32, 65536, count),
    )
    attention = AttentionShapes.of(
        sizes(random, 1, 512, count),
        random.choice([8, 16, 32, 64], count),
        random.choice([1, 2, 4, 8], count),
        random.choice([64, 128, 256], count),
        sizes(random, 1, 16384, count),
    )
    messages = sizes(random, 1024, 2**30, count)
    element = ElementType.BF16
    gemm, decode, prefill = gpu.gemm(element), gpu.decode(element), gpu.prefill(element)
    all_reduce = gpu.collective("all_reduce")
    first = np.arange(2)
    work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "matrix products": (
            lambda: matmul_ns(gemm, gpu.gpu, products.take(first)),
            lambda: matmul_ns(gemm, gpu.gpu, products),
        ),
        "decode attention": (
            lambda: decode_ns(decode, gpu.gpu, attention.take(first)),
            lambda: decode_ns(decode, gpu.gpu, attention),
        ),
        "prefill attention": (
            lambda: prefill_ns(prefill, decode, gpu.gpu, attention.take(first)),
            lambda: prefill_ns(prefill, decode, gpu.gpu, attention),
        ),
        "all-reduces": (
            lambda: collective_ns(all_reduce, 8, messages[:2]),
            lambda: collective_ns(all_reduce, 8, messages),
        ),
    }
    table = Table(title=f"{count:,} operators on {gpu.gpu.name}")
    table.add_column("operator")
    table.add_column("seconds", justify="right")
    for name, (compile_it, run) in work.items():
        compile_it()
        start = time.perf_counter()
        run()
        table.add_row(name, f"{time.perf_counter() - start:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
