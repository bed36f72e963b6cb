"""What a fair comparison says of AttAcc: six models at four lengths, before and after.

"Before" is decode alone at the fullest batch, on all GPUs together, without standby or host, as
`attacc compare --decode-only` has it. "After" is whole requests in the best layout, with a range.

A second table has what else a reviewer asks for: a fixed layout, other GPUs, overlap, the cost of
starting attention, rivals, and what fits.

Usage: python benchmarks/fair.py FOLDER [--write]

FOLDER holds the config.json files of published models, named ORG--NAME_config.json. With --write,
the tables of docs/evidence/fair.md are replaced.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from attacc.errors import CapacityError, InputError
from attacc.hardware.system import ResolvedSystem, load_system
from attacc.models.huggingface import load_model
from attacc.models.served import ServedModel
from attacc.study.compare import Comparison, SystemResult, compare
from attacc.study.whole import WholeRequests

PAGE = Path(__file__).parent.parent / "docs" / "evidence" / "fair.md"
START, END = "<!-- tables: benchmarks/fair.py -->", "<!-- end of tables -->"
LENGTHS = (1024, 8192, 32_768, 131_072)
OUTPUT = 1024
GPUS = "8xh200"
RIVALS = ("8xh100-hbm-pim", "8xh100-aim", "8xh100-logic-die", "8xh100-neupims")
SYSTEMS = (GPUS, f"{GPUS}-attacc-hbm3", f"{GPUS}-attacc-hbm3-shared")


def models(folder: Path) -> dict[str, ServedModel]:
    """Return the models by name; weights in the widest format that leaves room for requests."""
    return {
        "GPT-3 175B": load_model("gpt3-175b"),
        "Llama 3.1 70B": load_model("llama-3.1-70b"),
        "Llama 3.1 405B, fp8": load_model("llama-3.1-405b", weights="fp8"),
        "Qwen3-235B, fp8": load_model(folder / "Qwen--Qwen3-235B-A22B-FP8_config.json"),
        "Mixtral 8x7B": load_model("mixtral-8x7b"),
        "DeepSeek-R1 (V3), fp8": load_model(folder / "deepseek-ai--DeepSeek-R1_config.json"),
    }


def others(model: ServedModel, tokens: int) -> list[str]:
    """Return the cells of the second table: papers' unit / units that serve 8 queries."""

    def gains(*systems: str | ResolvedSystem, layout: str | None = None) -> str:
        try:
            found = compare(model, (tokens, OUTPUT), systems, layout=layout)
        except CapacityError:
            return "does not fit"
        return " / ".join(
            _ratio(None if one.whole_requests is None else one.whole_requests.speedup)
            for one in found.systems[1:]
        )

    def changed(**keys: object) -> str:
        return gains(
            GPUS, *(load_system(name, name=f"{name}-changed", **keys) for name in SYSTEMS[1:])
        )

    fits = compare(model, (tokens, OUTPUT), SYSTEMS)
    batches = [
        f"{one.batch.size:,} to {one.whole_requests.batch:,}"
        for one in fits.systems[:2]
        if one.batch is not None and one.whole_requests is not None
    ]
    decode = [None if one.performance is None else one.performance for one in fits.systems[1:]]
    return [
        gains(*SYSTEMS, layout="tp=8,replicas=1"),
        gains("8xh100", "8xh100-attacc-hbm3", "8xh100-attacc-hbm3-shared"),
        gains("8xb200", "8xb200-attacc-hbm3", "8xb200-attacc-hbm3-shared"),
        " / ".join(_ratio(None if one is None else one.energy_ratio) for one in decode),
        changed(overlap="auto", prefill_overlap="auto"),
        changed(**{"attacc.start": "0 us"}),
        gains("8xh100", *RIVALS),
        "; ".join(batches),
    ]


def second(folder: Path) -> list[str]:
    """Return the second table as lines of Markdown."""
    lines = [
        (
            "| model | prompt | tp=8,r=1 | beside H100 | beside B200 | energy of decode | overlap "
            "| start 0 us | rivals beside H100 | batch: full to best, GPUs; AttAccs |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, model in models(folder).items():
        for tokens in LENGTHS:
            print(f"{name}, {tokens:,} tokens, further points", file=sys.stderr, flush=True)
            lines.append(f"| {name} | {tokens:,} | {' | '.join(others(model, tokens))} |")
    return lines


def _ratio(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return "-"
    if low is None or high is None or low == high:
        return f"{value:.2f}"
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def _whole(result: SystemResult) -> WholeRequests | None:
    return result.whole_requests


def rows(name: str, found: Comparison, tokens: int) -> list[str]:
    """Return a line for each system with AttAccs."""
    lines: list[str] = []
    base = found.systems[0]
    alone = _whole(base)
    for result in found.systems[1:]:
        unit = "8 queries" if result.system.endswith("shared") else "papers'"
        decode = None if result.performance is None else result.performance.speedup
        whole = _whole(result)
        if whole is None or alone is None:
            lines.append(f"| {name} | {tokens:,} | {unit} | {_ratio(decode)} | - | | | | | | | |")
            continue
        chain = whole.decomposition
        factors = [""] * 4
        if chain is not None:
            factors = [f"{factor.factor:.2f}" for factor in chain.factors[:4]]
        lines.append(
            "| "
            + " | ".join(
                (
                    name,
                    f"{tokens:,}",
                    unit,
                    _ratio(decode),
                    _ratio(whole.speedup, whole.speedup_low, whole.speedup_high),
                    *factors,
                    _ratio(whole.energy_ratio, whole.energy_ratio_low, whole.energy_ratio_high),
                    _ratio(whole.economy.gain_per_usd),
                    f"{alone.layout}; {whole.layout}".replace("replicas", "r"),
                )
            )
            + " |"
        )
    return lines


def table(folder: Path) -> list[str]:
    """Return the table as lines of Markdown."""
    head = (
        "| model | prompt | unit | decode alone | whole requests | capacity | bandwidth "
        "| in memory | unit | energy ratio | gain per USD | layouts: GPUs; with AttAccs |"
    )
    lines = [
        head,
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, model in models(folder).items():
        for tokens in LENGTHS:
            print(f"{name}, {tokens:,} tokens", file=sys.stderr, flush=True)
            try:
                found = compare(model, (tokens, OUTPUT), SYSTEMS)
            except InputError as refusal:
                lines.append(f"| {name} | {tokens:,} | | | {refusal.message} | | | | | | | |")
                continue
            lines += rows(name, found, tokens)
    return lines


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    text = "\n".join([*table(asked.folder), "", *second(asked.folder)])
    if not asked.write:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
