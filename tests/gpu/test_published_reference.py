"""The product against every row that the published system model printed."""

import csv
import gzip
from math import isclose
from pathlib import Path

import pytest

from attacc.study.papers.recorded_runs import paper_runs
from attacc.study.papers.recorded_runs import published_cycles as carried_cycles
from attacc.study.papers.step import PublishedRun
from tests.gpu.published_columns import decode_of, energies_nj, ms, times_ms

pytestmark = pytest.mark.reference

PRINTED = 1e-4
"""The tolerance asked for; measured deviations are rounding of the last printed digit (2e-15)."""


def run_of(row: dict[str, str]) -> PublishedRun:
    return PublishedRun(
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
    )


def rows_of(reference: Path) -> list[dict[str, str]]:
    with (reference / "reference" / "golden" / "system.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_time_of_every_run(reference: Path) -> None:
    """Catches any departure from the published formulas for time, prefill and decode."""
    rows = rows_of(reference)
    assert len(rows) == 130
    for row in rows:
        run = run_of(row)
        lengths = range(run.prompt + 1, run.prompt + run.output)
        cycles = {length: int(row["attn_cycles"]) for length in lengths if run.placement}
        for column, value in times_ms(run, cycles).items():
            assert isclose(value, float(row[column]), rel_tol=PRINTED), (row, column)


def test_every_energy_of_the_gpu_runs(reference: Path) -> None:
    """Catches any departure from the published accounting of energy."""
    rows = [row for row in rows_of(reference) if row["system"] == "dgx"]
    assert len(rows) == 40
    for row in rows:
        for column, value in energies_nj(run_of(row)).items():
            assert isclose(value, float(row[column]), rel_tol=PRINTED), (row, column)


def options_of(arguments: str) -> dict[str, str]:
    words = arguments.split()
    following = [*words[1:], "--"]
    return {
        word[2:]: "" if value.startswith("--") else value
        for word, value in zip(words, following, strict=True)
        if word.startswith("--")
    }


def paper_run(options: dict[str, str]) -> PublishedRun:
    return PublishedRun(
        model=options["model"],
        gpu=options["gpu"],
        gpus=int(options["ngpu"]),
        word=int(options["word"]),
        batch=int(options["batch"]),
        prompt=int(options["lin"]),
        output=int(options["lout"]),
        placement=options.get("pim", ""),
        pipelining="pipeopt" in options,
        coprocessing="ffopt" in options,
    )


def published_cycles(reference: Path) -> dict[tuple[int, int, int], dict[int, int]]:
    """(heads per stack, head_dim, bytes) -> length -> cycles of bank units within the budget."""
    path = reference / "reference" / "golden" / "published_attention_cycles.csv.gz"
    cycles: dict[tuple[int, int, int], dict[int, int]] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            if (row["pim_type"], row["power_constraint"]) == ("BA", "True"):
                key = int(row["nhead"]), int(row["dhead"]), int(row["dbyte"])
                # Two rows for each length of 130 heads; the runs were made with the first.
                cycles.setdefault(key, {}).setdefault(int(row["L"]), int(row["cycle"]))
    return cycles


def test_the_runs_behind_the_papers(reference: Path) -> None:
    """Catches a wrong mean over an output; attention from the published cycles."""
    cycles = published_cycles(reference)
    with (reference / "reference" / "golden" / "paper_runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    for row in rows:
        run = paper_run(options_of(row["args"]))
        shape = run.shape
        by_length = cycles.get((run.heads_per_stack, shape.head_dim, run.word), {})
        time_ms = ms(decode_of(run, by_length).time_ns)
        printed_ms = float(row["g_time (ms)"])
        assert isclose(time_ms, printed_ms, rel_tol=1e-9), row["args"]


def test_what_was_carried_over(reference: Path) -> None:
    """Catches a figure in the package's tables that differs from the reference's."""
    cycles = published_cycles(reference)
    with (reference / "reference" / "golden" / "paper_runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, carried in zip(rows, paper_runs(), strict=True):
        run = paper_run(options_of(row["args"]))
        assert carried.run == run
        assert isclose(
            carried.energy_per_token_j, float(row["g_energy (nJ)"]) / 1e9 / run.batch, rel_tol=1e-8
        )
        for column, name in (("s_time", "prefill"), ("g_time (ms)", "decode"), ("g_fc", "fc")):
            assert isclose(carried.time_ms(name), float(row[column]), rel_tol=1e-8)
        if run.placement:
            by_length = cycles[run.heads_per_stack, run.shape.head_dim, run.word]
            for length in range(run.prompt + 1, run.prompt + run.output):
                assert carried_cycles(run, length) == by_length[length]
