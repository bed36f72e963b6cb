"""The 50 runs of the released system model that are behind the papers' figures, and their cycles.

The runs come from reference/golden/paper_runs.csv. The cycles of attention come from
reference/golden/published_attention_cycles.csv.gz, for units in the banks within the power budget.
That file holds two sets of cycles for 130 heads per stack. The runs were made with the first set,
which is kept here.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from attacc.errors import EngineError
from attacc.study.papers.step import PublishedRun, decode_of, prefill_of
from attacc.system.step import StepCost
from attacc.units import NS_PER_MS

SEQUENCE_PARTS: Final = 16
"""Parts into which a head's keys are split; cycles depend on the keys of a part only."""


@dataclass(frozen=True, slots=True)
class Printed:
    """A time that a run printed.

    Attributes:
        name: name of the time, as in "decode", "prefill_fc".
        value_ms: the time over all layers.
    """

    name: str
    value_ms: float


@dataclass(frozen=True, slots=True)
class PaperRun:
    """One run.

    Attributes:
        run: the run's inputs.
        times: every time that it printed.
        energy_per_token_j: energy of decoding, with the faults of the release's accounting.
    """

    run: PublishedRun
    times: tuple[Printed, ...]
    energy_per_token_j: float

    def time_ms(self, name: str) -> float:
        """Return one of the times."""
        for time in self.times:
            if time.name == name:
                return time.value_ms
        raise EngineError(f"the runs print no time {name}")


def ends_of_parts(run: PublishedRun) -> dict[int, float]:
    """Return lengths of the cache that stand for all that a run passes through, and their weights.

    Lengths that fill the same columns share the cycles of attention on AttAcc. Between the first
    and the last of these lengths a step is linear in the length, so the mean of the two is the mean
    of all. Attention on GPUs is not linear in the length.
    """
    weights: defaultdict[int, float] = defaultdict(float)
    first, last = run.prompt + 1, run.prompt + run.output - 1
    for part in range(-(-first // SEQUENCE_PARTS), -(-last // SEQUENCE_PARTS) + 1):
        full = part * SEQUENCE_PARTS
        low, high = max(first, full - SEQUENCE_PARTS + 1), min(last, full)
        for end in (low, high):
            weights[end] += (high - low + 1) / 2
    return dict(weights)


def times_of(
    run: PublishedRun, cycles: Mapping[int, int], weights: Mapping[int, float] | None = None
) -> tuple[Printed, ...]:
    """Return every time that a run prints, in the order of `PaperRun.times`.

    Args:
        run: the run.
        cycles: cycles of a stack's attention, by length of the cache; empty for attention on GPUs.
        weights: how often each length of the cache counts; by default each length counts once.
    """
    prefill, decode = prefill_of(run), decode_of(run, cycles, weights)
    return (
        Printed("prefill", prefill.time_ns / NS_PER_MS),
        Printed("prefill_attention", _sum(prefill, "score", "context")),
        Printed("prefill_fc", prefill.fc.time_ns / NS_PER_MS),
        Printed("prefill_communication", prefill.communication.time_ns / NS_PER_MS),
        Printed("prefill_softmax", _sum(prefill, "softmax")),
        Printed("prefill_activation", _sum(prefill, "activation")),
        Printed("prefill_norm", _sum(prefill, "norm1", "norm2")),
        Printed("decode", decode.time_ns / NS_PER_MS),
        Printed("attention", _sum(decode, "score", "context", "attention")),
        Printed("fc", decode.fc.time_ns / NS_PER_MS),
        Printed("communication", decode.communication.time_ns / NS_PER_MS),
        Printed("other", decode.other.time_ns / NS_PER_MS),
        Printed("qkv", _sum(decode, "qkv")),
        Printed("projection", _sum(decode, "projection")),
        Printed("feed_forward", _sum(decode, "ff1", "ff2", "ff3")),
        Printed("all_reduce", _sum(decode, "all_reduce1", "all_reduce2")),
        Printed("transfer", _sum(decode, "qkv_transfer", "context_transfer")),
        Printed("softmax", _sum(decode, "softmax")),
        Printed("activation", _sum(decode, "activation")),
        Printed("norm", _sum(decode, "norm1", "norm2")),
    )


def _sum(cost: StepCost, *names: str) -> float:
    return sum(op.runs * op.time_ns for op in cost.operators if op.name in names) / NS_PER_MS


@dataclass(frozen=True, slots=True)
class _Shape:
    heads_per_stack: int
    head_dim: int
    element_bytes: int
    keys_per_part: int


def paper_runs() -> tuple[PaperRun, ...]:
    """Return all runs, in the order of the reference."""
    return tuple(_runs())


def published_cycles(run: PublishedRun, length: int) -> int:
    """Return the published cycles of a stack's attention at a length of the cache.

    Args:
        run: one of the 50 runs.
        length: keys of every head.

    Raises:
        EngineError: nothing was carried over for this shape.
    """
    if not run.placement:
        return 0
    keys_per_part = -(-length // SEQUENCE_PARTS)
    shape = _Shape(run.heads_per_stack, run.shape.head_dim, run.word, keys_per_part)
    cycles = _cycles().get(shape)
    if cycles is None:
        raise EngineError(f"no published cycles of {shape}")
    return cycles


@cache
def _cycles() -> dict[_Shape, int]:
    rows = _table("paper_attention_cycles.csv")
    names = ("heads_per_stack", "head_dim", "element_bytes", "keys_per_part")
    return {_Shape(*(int(row[name]) for name in names)): int(row["cycles"]) for row in rows}


def _runs() -> Iterator[PaperRun]:
    for row in _table("paper_runs.csv"):
        run = PublishedRun(
            model=row["model"],
            gpu="A100a",
            gpus=8,
            word=int(row["element_bytes"]),
            batch=int(row["batch"]),
            prompt=int(row["prompt"]),
            output=int(row["output"]),
            placement="bank" if row["attacc"] == "1" else "",
            pipelining=row["pipelining"] == "1",
            coprocessing=row["coprocessing"] == "1",
        )
        times = tuple(
            Printed(name.removesuffix("_ms"), float(value))
            for name, value in row.items()
            if name.endswith("_ms")
        )
        yield PaperRun(run, times, float(row["energy_nj"]) / 1e9 / run.batch)


def _table(name: str) -> list[dict[str, str]]:
    text = (files("attacc.study.papers") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
