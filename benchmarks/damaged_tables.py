"""Damages small tables of measurements at random, and reads, checks and fits them.

python benchmarks/damaged_tables.py [COUNT] [--seed 0] [--parquet]

Whatever the bytes are, the answer is a table or an `InputError`; anything else is printed with the
seed that gives it again, and the exit status is 1. A Parquet file takes a process: half a second.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from attacc.calibration import problems
from attacc.calibration.check import accuracy, check
from attacc.calibration.fit import fit_calibration, fitted_tables
from attacc.calibration.measured import measurements
from attacc.calibration.serving import check_serving, is_serving_table, serving_runs
from attacc.calibration.tables import open_table
from attacc.errors import InputError
from attacc.hardware.gpu import GPUS

ROWS = 24
FIELDS = (
    *(
        "1e308",
        "-1e308",
        "1e-300",
        "5e-324",
        "0",
        "-0.0",
        "-1",
        "nan",
        "inf",
        "1_0",
        "\u0661\u0662",
    ),
    *("", " 7 ", "2.5", "9223372036854775808", "1" * 400, "0x10", "+3", "1e5", "1e300", "true"),
    *('"', '""', '"a', "a,b", ",,", "[/x]", "\x00", "\r", "\ufeff", "NCCL", "vllm", "int8", "fp8"),
)


def tables() -> list[pl.DataFrame]:
    generator = np.random.default_rng(0)
    whose = {"gpu": ["h100-sxm-80gb"] * ROWS, "framework": ["VLLM"] * ROWS}
    whose["version"] = ["0.24.0"] * ROWS

    def sizes(high: int) -> list[int]:
        return [int(2**n) for n in generator.integers(0, high, ROWS)]

    latency = {"latency_ms": generator.uniform(0.01, 1, ROWS), "power_w": [None, 200.0] * 12}
    heads = {
        "batch_size": sizes(8),
        "num_heads": [32] * ROWS,
        "num_key_value_heads": [8] * ROWS,
        "head_dim": [64, 128] * 12,
    }
    kinds = {"kv_cache_dtype": ["bfloat16"] * ROWS, "window_size": [0, -1] * 12}
    kinds["attn_dtype"] = ["bfloat16"] * ROWS
    products = {"m": sizes(12), "n": sizes(12), "k": sizes(12)}
    runs = {
        "backend": ["vllm"] * ROWS,
        "backend_version": ["0.12.0"] * ROWS,
        "model_path": ["Qwen/Qwen3-32B"] * ROWS,
        "system": ["h100_sxm"] * ROWS,
        "isl": sizes(12),
        "osl": sizes(12),
        "gemm_quant_mode": ["", "fp8"] * 12,
        "batch_size": sizes(7),
        "tp_size": [2, 4] * 12,
        "ttft_ms": generator.uniform(20, 100, ROWS),
        "tpot_ms": generator.uniform(5, 20, ROWS),
    }
    return [
        pl.DataFrame({**whose, "dtype": ["bfloat16"] * ROWS, **products, **latency}),
        pl.DataFrame({**whose, **kinds, **heads, "kv_length": sizes(13), **latency}),
        pl.DataFrame({**whose, **kinds, **heads, "prompt_length": sizes(13), **latency}),
        pl.DataFrame(
            {
                "gpu": ["h100-sxm-80gb"] * ROWS,
                "op_name": ["all_reduce"] * ROWS,
                "dtype": ["half", "int8"] * 12,
                "backend": ["NCCL"] * ROWS,
                "num_gpus": [2, 4, 8] * 8,
                "message_elements": sizes(28),
                "latency_ms": generator.uniform(0.01, 1, ROWS),
            }
        ),
        pl.DataFrame(runs),
    ]


def damaged(data: bytes, chance: random.Random) -> bytes:
    text = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5, 20))):
        place = chance.randrange(len(text) + 1)
        match chance.randrange(7):
            case 0:
                text[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                text[place : place + 1] = bytes([1 << chance.randrange(8)])
            case 2:
                del text[place : place + chance.choice((1, 2, 8, 64))]
            case 3:
                text[place:place] = text[place : place + chance.choice((1, 4, 100))]
            case 4:
                text[place:place] = bytes(chance.choice((1, 4, 8)))
            case 5:
                text[place : place + 4] = b"\xff" * 4
            case _:
                other = chance.randrange(len(text) + 1)
                text[place : place + 16] = text[other : other + 16]
        if not text:
            return b""
    return bytes(text)


def damaged_fields(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        row = (
            chance.randrange(len(lines))
            if chance.random() < 0.2
            else chance.randrange(1, len(lines))
        )
        fields = lines[row].split(",")
        fields[chance.randrange(len(fields))] = chance.choice(FIELDS)
        lines[row] = ",".join(fields)
    if chance.random() < 0.3:  # one value throughout
        column, value = chance.randrange(lines[0].count(",") + 1), chance.choice(FIELDS)
        for row in range(1, len(lines) - 1):
            fields = lines[row].split(",")
            if column < len(fields):
                fields[column] = value
            lines[row] = ",".join(fields)
    return "\n".join(lines)


def answer(path: Path) -> str:
    """Use a table in every way there is, and return how that ended."""
    try:
        table = open_table(path)
        if is_serving_table(table):
            check_serving(serving_runs(table))
            return "serving runs"
        found = measurements(table)
        accuracy(check(found.series), found.unusable)
        if not found.series:
            return "no usable row"
        h100 = GPUS.load("h100")
        fit_calibration(
            "x", h100, fitted_tables(found.series, h100, None), reference=None, source="x", folds=2
        )
    except InputError as error:
        return f"{type(error).__name__}: {error.message:.25}"
    return "fitted"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parquet", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    problems.EVALUATIONS = 2  # pyright: ignore[reportAttributeAccessIssue]
    good: list[bytes] = []
    for frame in tables():
        buffer = io.BytesIO()
        if arguments.parquet:
            frame.write_parquet(buffer, compression="uncompressed")
        else:
            frame.write_csv(buffer)
        good.append(buffer.getvalue())
    ends: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("t.parquet" if arguments.parquet else "t.csv")
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            chance = random.Random(seed)
            data = chance.choice(good)
            if not arguments.parquet and chance.random() < 0.7:
                data = damaged_fields(data.decode(), chance).encode()
            else:
                data = damaged(data, chance)
                if arguments.parquet and chance.random() < 0.8:
                    data = b"PAR1" + data[4:-4] + b"PAR1"
            path.write_bytes(data)
            try:
                ends[answer(path)] += 1
            except BaseException:
                failed += 1
                print(f"seed {seed}:")
                traceback.print_exc(file=sys.stdout)
    for end, count in ends.most_common():
        print(f"{count:6d} {end}")
    print(f"{arguments.count} damaged, {failed} neither a table nor an InputError")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
