"""Claims about models, and about the published system model."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attacc.errors import EngineError
from attacc.gpu.costs import EnergyBreakdown
from attacc.models.architecture import MODELS
from attacc.models.parameters import count_parameters
from attacc.study.claims.validation import (
    Check,
    Claim,
    Figure,
    Measured,
    Needs,
    ReferenceData,
    Room,
    Tolerance,
    Unit,
)
from attacc.study.papers.recorded_runs import times_of
from attacc.study.papers.step import PublishedRun, decode_of


@dataclass(frozen=True, slots=True)
class PublishedSize:
    """The published number of parameters of a model.

    Attributes:
        model: preset of the model.
        parameters: number of parameters, with as many digits as published.
        source: where it is published.
        exact: whether the number is exact to the last parameter.
    """

    model: str
    parameters: float
    source: str
    exact: bool = False


HUB: Final = "metadata of the safetensors on the Hugging Face Hub"
SIZES: Final = (
    PublishedSize("gpt3-13b", 12.850e9, "arXiv 2005.14165, table D.1"),
    PublishedSize("gpt3-175b", 174.600e9, "arXiv 2005.14165, table D.1"),
    PublishedSize("llama-65b", 65.2e9, "arXiv 2302.13971, table 2"),
    PublishedSize("mt-nlg-530b", 530e9, "arXiv 2201.11990, section 3.2"),
    PublishedSize("opt-66b", 66e9, "arXiv 2205.01068, table 1"),
    PublishedSize("llama-2-7b", 6_738_415_616, HUB, exact=True),
    PublishedSize("llama-2-70b", 68.977e9, HUB),
    PublishedSize("llama-3.1-8b", 8_030_261_248, HUB, exact=True),
    PublishedSize("llama-3.1-70b", 70_553_706_496, HUB, exact=True),
    PublishedSize("llama-3.1-405b", 405.853e9, HUB),
    PublishedSize("qwen3-32b", 32_762_123_264, HUB, exact=True),
    PublishedSize("qwen3-14b", 14_768_307_200, HUB, exact=True),
    PublishedSize("qwen2.5-7b", 7_615_616_512, HUB, exact=True),
    PublishedSize("codellama-34b", 33.744e9, HUB),
    PublishedSize("mixtral-8x7b", 46_702_792_704, HUB, exact=True),
    PublishedSize("mixtral-8x22b", 140_620_634_112, HUB, exact=True),
)


def parameters_are_published() -> Measured:
    """Return the largest deviation of a preset's parameters from what was published."""
    missing = set(MODELS.names()) - {size.model for size in SIZES}
    if missing:
        raise EngineError(f"no published size is known of {', '.join(sorted(missing))}")
    errors = {
        size.model: abs(count_parameters(MODELS.load(size.model)).total / size.parameters - 1)
        for size in SIZES
    }
    worst = max(errors, key=lambda name: errors[name])
    return Measured(errors[worst], len(errors), (Figure(f"worst: {worst}", errors[worst]),))


def exact_parameters() -> Measured:
    """Count the presets whose parameters differ, where the exact number is published."""
    exact = [size for size in SIZES if size.exact]
    other = [
        size for size in exact if count_parameters(MODELS.load(size.model)).total != size.parameters
    ]
    return Measured(len(other), len(exact))


TIMES: Final = (
    "s_time", "s_matmul", "s_fc", "s_comm", "s_softmax", "s_act", "s_lnorm", "g_time (ms)",
    "g_matmul", "g_fc", "g_comm", "g_etc", "g_qkv_time", "g_prj_time", "g_ff_time", "g2g_comm",
    "c2g_comm", "g_softmax", "g_act", "g_lnorm",
)  # fmt: skip
"""Columns of reference/golden/system.csv, in the order of `times_of`: prefill, then decode."""
SYSTEM_RUNS: Final = "reference/golden/system.csv"
PRINTED: Final = Tolerance(
    1e-4, Unit.SHARE, "the formulas are those of the release, so that only printed digits differ"
)


def _runs(reference: ReferenceData) -> list[tuple[PublishedRun, dict[str, str]]]:
    with (reference.golden / "system.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (
            PublishedRun(
                model=row["model_name"],
                gpu=row["gpu"],
                gpus=int(row["ngpu"]),
                word=int(row["word"]),
                batch=int(row["batch"]),
                prompt=int(row["lin"]),
                output=int(row["lout"]),
                placement=row["pim"],
                power_limited=row["powerlimit"] == "1",
                pipelining=row["pipeopt"] == "1",
                coprocessing=row["ffopt"] == "1",
            ),
            row,
        )
        for row in rows
    ]


def _apart(ours: float, printed: float) -> float:
    if printed == 0:
        return 0.0 if ours == 0 else math.inf
    return abs(ours / printed - 1)


def published_times(reference: ReferenceData) -> Measured:
    """Return the largest deviation of a time from those that the release printed."""
    errors: list[float] = []
    runs = _runs(reference)
    for run, row in runs:
        lengths = range(run.prompt + 1, run.prompt + run.output)
        cycles = {length: int(row["attn_cycles"]) for length in lengths if run.placement}
        for column, ours in zip(TIMES, times_of(run, cycles), strict=True):
            errors.append(_apart(ours.value_ms, float(row[column])))
    return Measured(max(errors), len(errors), (Figure("runs", len(runs), Unit.COUNT),))


def published_energies(reference: ReferenceData) -> Measured:
    """Return the largest deviation of an energy from those that the release printed."""
    errors: list[float] = []
    runs = [(run, row) for run, row in _runs(reference) if row["system"] == "dgx"]
    for run, row in runs:
        for column, picojoules in _energies_pj(run).items():
            errors.append(_apart(picojoules / 1e3, float(row[column])))
    return Measured(max(errors), len(errors), (Figure("runs", len(runs), Unit.COUNT),))


def _energies_pj(run: PublishedRun) -> dict[str, float]:
    """Return the energies of the mean decode step on GPUs, by column of the release."""
    decode = decode_of(run, {})
    whole, fc, attention, other = (
        part.energy for part in (decode, decode.fc, decode.attention, decode.other)
    )
    return {
        "g_energy (nJ)": whole.total_pj,
        "g_dram_energy": whole.dram_pj,
        "g_l2_energy": whole.l2_pj,
        "g_l1_energy": whole.l1_pj,
        "g_reg_energy": whole.register_pj,
        "g_alu_energy": whole.alu_pj,
        "g_fc_mem_energy": fc.dram_pj,
        "g_fc_comp_energy": _beyond_dram(fc),
        "g_attn_mem_energy": attention.dram_pj,
        "g_attn_comp_energy": _beyond_dram(attention),
        "g_etc_mem_energy": other.dram_pj,
        "g_etc_comp_energy": _beyond_dram(other),
        "g_comm_energy": whole.link_pj,
    }


def _beyond_dram(energy: EnergyBreakdown) -> float:
    return energy.total_pj - energy.dram_pj


def _checks() -> Iterable[Check]:
    yield from _published()
    papers = dict.fromkeys(size.source for size in SIZES)
    yield Check(
        Claim(
            id="system-parameters",
            room=Room.SYSTEM,
            statement="Every model preset has as many parameters as its model is published to "
            "have.",
            data=f"{len(SIZES)} models ({'; '.join(papers)})",
            tolerance=Tolerance(
                0.01, Unit.SHARE, "papers round: 530 B stands for anything from 525 to 535"
            ),
            limits="Counts, not shapes: two errors could cancel. Where the exact number is known, "
            "see below.",
            tests=("tests/models/test_parameters.py",),
        ),
        measure=parameters_are_published,
    )
    yield Check(
        Claim(
            id="system-exact-parameters",
            room=Room.SYSTEM,
            statement="Where the exact number of parameters is published, it is the preset's.",
            data=f"{sum(size.exact for size in SIZES)} models ({HUB})",
            tolerance=Tolerance(0, Unit.CASES, "a count is right or wrong"),
            limits="Says nothing about the memory that scales of quantised weights take.",
            tests=("tests/models/test_parameters.py", "tests/models/test_huggingface.py"),
        ),
        measure=exact_parameters,
    )
    yield Check(
        Claim(
            id="system-steps",
            room=Room.SYSTEM,
            statement="Operators of a step, transfers, overlaps and capacities are those worked "
            "out by hand.",
            data="small cases by hand; a tile search over both sides of both tiles as witness of "
            "the compiled one",
            tolerance=Tolerance(
                0,
                Unit.CASES,
                "the equations are stated (docs/model/system-model.md): equal, or wrong",
            ),
            limits="Shows that the stated equations are computed, not that they are a machine's.",
            needs=Needs.TESTS,
            tests=(
                "tests/system/test_step.py",
                "tests/system/test_overlap.py",
                "tests/system/test_capacity.py",
                "tests/gpu/test_published_tiles.py",
            ),
        )
    )
    yield Check(
        Claim(
            id="system-overlap",
            room=Room.SYSTEM,
            statement="Where attention takes longest, head-level pipelining as a schedule of "
            "operators takes exactly the time of the published closed form.",
            data="random layers; the schedule of docs/model/overlap.md",
            tolerance=Tolerance(0, Unit.CASES, "the two are equal by their equations"),
            limits="Where transfers or products with weights take longest, the two differ: "
            "docs/model/overlap.md shows both.",
            needs=Needs.TESTS,
            tests=(
                "tests/system/test_pipelined_layer.py",
                "tests/system/test_operator_schedule.py",
            ),
        )
    )


def _published() -> Iterable[Check]:
    tests = ("tests/gpu/test_published_reference.py", "tests/gpu/test_published_figures.py")
    yield Check(
        Claim(
            id="system-published-times",
            room=Room.SYSTEM,
            statement="Given the same attention cycles, the published system model takes every "
            "time of prefill and decode that the release printed.",
            data=f"130 runs, 20 times of each: six models, A100a and H100, 8 and 16 GPUs, 8 and 16 "
            f"bits, three placements, all optimisations ({SYSTEM_RUNS})",
            tolerance=PRINTED,
            limits="Its slips kept, as released; what they cost, docs/model/system-model.md "
            "tells. A "
            "published model, not a machine: it misses measured products by 33 to 40 % on average "
            "(reference/attacc.md).",
            needs=Needs.REFERENCE,
            tests=tests,
        ),
        with_data=published_times,
        files=(SYSTEM_RUNS,),
    )
    yield Check(
        Claim(
            id="system-published-energies",
            room=Room.SYSTEM,
            statement="In the release's accounting, the energies of decode on GPUs are those that "
            "it printed.",
            data=f"40 runs without AttAcc, 13 energies of each ({SYSTEM_RUNS})",
            tolerance=PRINTED,
            limits="As above. The release takes the link energies of AttAcc in pJ/b for pJ/B, "
            "which is not repeated: its energies with AttAcc are not compared.",
            needs=Needs.REFERENCE,
            tests=tests,
        ),
        with_data=published_energies,
        files=(SYSTEM_RUNS,),
    )


CHECKS: Final = tuple(_checks())
