"""Records the JSON answers of commands that cover every room, and compares them later.

Before code moves: ``python benchmarks/answers.py record answers.json.gz``. After it:
``python benchmarks/answers.py check answers.json.gz``, which prints every figure that differs by
more than 1e-12 of itself, and ends with exit code 1 if there is one. Where the project's reference
data is at hand, measured tables are checked too.
"""

import gzip
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.testing import CliRunner

from attacc.cli.main import app

REFERENCE = Path("../shared/data/silicon").resolve()
TOLERANCE = 1e-12
"""Relative: the same sums in another order differ by less."""

STUDY = """\
model = "llama-3.1-70b"
systems = ["dgx-base", "mine.toml"]
slo_ms = 60
[workload]
prompt = 900
output = 300
[precision]
kv = "int8"
weights = "fp8"
"""
SYSTEM = """\
name = "mine"
gpu = "h200"
gpus = 4
link = "nvlink4"
attention = "attacc"
ff_coprocessing = true
head_level_pipelining = true
[attacc]
devices = 4
stacks_per_device = 5
dram = "hbm3-6.0"
heads = "whole"
placement = "bankgroup"
queries_per_read = 4
link = "nvlink4"
capacity = "pooled"
"""
FILES = {"study.toml": STUDY, "mine.toml": SYSTEM}

COMPARE = (
    "",
    "--gpu-model published",
    "--model llama-3.1-70b --prompt 4096 --output 1024 --slo-ms 50 --system dgx-attacc-bank",
    "--model llama-3.1-405b --system dgx-large --system dgx-attacc-bank --gpu-model published",
    "--model mixtral-8x7b --workload azure-conv-2023 --system dgx-base --system mine.toml",
    "--model qwen3-32b --workload azure-code-2023 --batch 16 --system dgx-attacc-bankgroup",
    "--model opt-66b --prompt 512 --output 128 --batch 8 --system dgx-cpu --system dgx-base",
    "--model gpt3-13b --system 2xdgx --system dgx-attacc-buffer --gpu-model published",
    "study.toml",
)
ATTENTION = (
    "",
    "--placement bank --heads 130 --length 3072 --head-dim 128 --dtype fp16",
    "--placement bankgroup --heads 40 --length 5000 --head-dim 64 --dtype bf16",
    "--placement buffer --heads 24 --length 777 --dtype int8",
    "--placement bank --heads 128 --length 2048 --schedule complete --device hbm3-5.2-asplos24",
    "--placement buffer --heads 64 --length 512 --schedule published --device hbm3-5.2-asplos24",
    "--lengths 1048576,8192x20 --queries-per-kv-head 8 --queries-per-read all",
    "--lengths 100,2000x7,31 --queries-per-kv-head 4 --queries-per-read 2 --device hbm4-8.0",
    "--heads 130 --length 3072 --power-budget 30 --temperature 95 --stacks 4",
    "--heads 64 --length 1024 --no-power-limit --device hbm2e-3.2",
    "--heads 32 --length 900 --device gddr6-aim-14",
)
OTHERS = (
    "trace build a.trace.gz --placement bank --heads 20 --length 600 --head-dim 128",
    "trace build b.trace --placement buffer --heads 4 --length 300",
    "trace run a.trace.gz --power-limit --log a.log",
    "trace run b.trace --placement buffer",
    "trace check a.log",
    "accuracy --length 256,2048 --kv fp16,int8",
    "accuracy --model llama-3.1-8b --length 1024 --kv bf16 --placement buffer",
    "presets",
    "presets system dgx-attacc-bank",
    "presets device hbm3-5.2",
    "presets gpu h200",
    "presets model llama-3.1-8b",
    "reproduce all",
    "reproduce all --gpu-model calibrated",
    "validate",
)
MEASURED = (
    "gpu check gemm.parquet",
    "gpu check decode_attention.parquet",
    "gpu check prefill_attention.parquet",
    "gpu check nccl.parquet",
    "gpu check end_to_end.csv",
    "gpu extrapolate gemm.parquet --rows 512",
)
CHANGING = frozenset({"wall_s", "host_wall_s", "seconds", "version", "commands_per_s"})
"""Keys of figures that are not of the model: time on this machine."""


def answers() -> Iterator[tuple[str, Any]]:
    """Run every command; yields its words and its answer."""
    commands = [f"compare {words}".strip() for words in COMPARE]
    commands += [f"attention {words}".strip() for words in ATTENTION]
    commands += OTHERS
    if REFERENCE.is_dir():
        commands += MEASURED
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, text in FILES.items():
            Path(name).write_text(text)
        for words in commands:
            given = [
                str(REFERENCE / w) if w.endswith((".parquet", ".csv")) else w for w in words.split()
            ]
            started = time.perf_counter()
            done = CliRunner().invoke(app, [*given, "--json"])
            print(f"{time.perf_counter() - started:6.1f} s  {words}", flush=True)
            try:
                yield words, json.loads(done.stdout)
            except ValueError:
                yield words, {"exit_code": done.exit_code, "stderr": done.stderr}


def differences(before: Any, after: Any, at: str = "") -> Iterator[str]:
    """Yield where two answers differ: keys that are gone, and figures that are others."""
    if isinstance(before, dict) and isinstance(after, dict):
        new = cast("dict[str, Any]", after)
        for key, value in cast("dict[str, Any]", before).items():
            if key in CHANGING:
                continue
            if key not in new:
                yield f"{at}.{key} is gone"
            else:
                yield from differences(value, new[key], f"{at}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        old, new = cast("list[Any]", before), cast("list[Any]", after)
        if len(old) != len(new):
            yield f"{at}: {len(old)} entries, now {len(new)}"
        for i, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, f"{at}[{i}]")
    elif isinstance(before, (int, float)) and isinstance(after, (int, float)):
        if not math.isclose(before, after, rel_tol=TOLERANCE):
            yield f"{at}: {before!r}, now {after!r}"
    elif before != after:
        yield f"{at}: {before!r:.100}, now {after!r:.100}"


def main(
    action: Annotated[str, typer.Argument(help="record or check")], file: Path, shown: int = 20
) -> None:
    """Record the answers in a file, or compare today's with it."""
    path = file.resolve()
    found = dict(answers())
    if action == "record":
        path.write_bytes(gzip.compress(json.dumps(found, indent=0).encode(), mtime=0))
        print(f"{len(found)} answers, {path.stat().st_size:,} bytes")
        return
    recorded = json.loads(gzip.decompress(path.read_bytes()))
    differing = 0
    for words, before in recorded.items():
        if words not in found:
            print(f"not run: {words}")
            continue
        faults = list(differences(before, found[words]))
        differing += len(faults)
        if faults:
            print(f"{words}: {len(faults)} differ")
            print("\n".join(f"  {fault}" for fault in faults[:shown]))
    print(f"{len(recorded)} answers, {differing} figures differ")
    raise typer.Exit(int(differing > 0))


if __name__ == "__main__":
    typer.run(main)
