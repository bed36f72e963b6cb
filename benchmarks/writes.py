"""What writing keys and values into stacks costs: the tables of docs/model/overlap.md.

Run ``python benchmarks/writes.py``; ``--requests`` adds whole requests, some minutes.
"""

import sys
from itertools import product
from typing import Final

import attacc as aa
from attacc.errors import InputError
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.written import StackWrites
from attacc.system.step import StepCost
from attacc.units import NS_PER_MS

DEVICES: Final = ("hbm3-5.2", "hbm3e-9.2", "hbm4-8.0")
SYSTEMS: Final = ("8xh100-attacc-hbm3", "8xh100-attacc-hbm3-shared")
MODELS: Final = (
    ("llama-3.1-70b", 8192, 1024, 128, aa.Chunk(4096, past=2048)),
    ("gpt3-175b", 2048, 2048, 32, aa.Chunk(2048)),
)
"""Model, tokens of a prompt and of an output, requests that decode, and a chunk beside them."""
OVERLAPS: Final = ("none", "attention", "layers")


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


def costs_table() -> None:
    """Print the costs of one channel, in cycles: heads of 128 fp16 elements, one query a read."""
    row("device", "units in", "alone", "beside", "first", "bound", "tokens of 1 head", "of 8")
    for name, placement in product(DEVICES, Placement):
        stack = aa.Stack(name, placement)
        layout = stack.layout(1, 128, ElementType.FP16).of_any_length
        each = StackWrites(stack, layout, QueryPasses.of(1, 1))
        beside, cycles = each.beside(0), each.clock_ns
        row(
            name,
            placement,
            f"{each.alone.time_ns / cycles:.2f}",
            f"{beside.access_ns / cycles:.2f}",
            f"{beside.first_ns / cycles:.0f}",
            f"{beside.most:.2f}",
            *(f"{each.append(heads).time_ns / cycles:.0f}" for heads in (1, 8)),
        )


def part(step: StepCost, name: str) -> str:
    """Return the time that an operator of a layer takes alone, in microseconds."""
    return f"{sum(op.alone_ns for op in step.operators if op.name == name) / 1e3:.2f}"


def steps_table() -> None:
    """Print what writes add to steps."""
    for system, (model, prompt, output, batch, chunk) in product(SYSTEMS, MODELS):
        print(f"\n{system}, {model}, {batch} requests of {prompt:,} + {output:,}, {chunk}\n")
        for overlap in OVERLAPS:
            off, on = (
                aa.Pricer(
                    model,
                    aa.load_system(system, **{"attacc.writes": writes, "prefill_overlap": overlap}),
                )
                for writes in (False, True)
            )
            decode = [prompt + output // 2] * batch
            for prefill in ((), (chunk,)):
                if overlap != OVERLAPS[0] and not prefill:
                    continue
                a, b = (one.step(decode=decode, prefill=prefill) for one in (off, on))
                row(
                    overlap if prefill else "decode",
                    f"{a.time_ns / NS_PER_MS:.2f}",
                    f"{b.time_ns / a.time_ns - 1:.2%}",
                    f"{b.energy.total_pj / a.energy.total_pj - 1:.2%}",
                    *(part(b, name) for name in ("kv_append", "attention", "kv_writes")),
                )


def requests_table() -> None:
    """Print whole requests per second without and with writes."""
    for system, (model, prompt, output, *_), overlap in product(SYSTEMS, MODELS, OVERLAPS[:2]):
        rates: list[float] = []
        for writes in (False, True):
            keys = {"attacc.writes": writes, "prefill_overlap": overlap}
            found = aa.compare(model, (prompt, output), [aa.load_system(system, **keys)])
            whole = found.systems[0].whole_requests
            if whole is None:
                raise InputError(f"{system} serves no whole requests of {model}")
            rates.append(whole.requests_per_s)
        change = f"{rates[1] / rates[0] - 1:.2%}"
        row(system, model, overlap, *(f"{rate:.4f}" for rate in rates), change)


def main() -> None:
    """Print the tables."""
    costs_table()
    steps_table()
    if "--requests" in sys.argv[1:]:
        requests_table()


if __name__ == "__main__":
    main()
