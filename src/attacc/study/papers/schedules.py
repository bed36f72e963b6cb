"""Head-level pipelining and co-processing by closed form and by schedule of operators."""

from __future__ import annotations

from typing import Final

from attacc.study.papers.asplos2024 import Switches, conditions
from attacc.study.papers.exhibits import (
    Cell,
    Column,
    Exhibit,
    Form,
    Mark,
    Panel,
    Paper,
    Series,
    deviation,
)
from attacc.study.papers.pipelined_layer import OverlapCase, OverlapComparison
from attacc.study.papers.platforms import Load, Subject
from attacc.study.papers.setting import OWN_STACK, Reasons, Setting
from attacc.units import NS_PER_MS

MOST_REQUESTS: Final = 256
"""Requests up to which overlap is simulated: products of more rows take too long to time."""


def schedules(setting: Setting) -> Exhibit:
    """Steps at the papers' batches, by the published closed forms and by schedules."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    names: list[str] = []
    gains: dict[str, list[float | None]] = {
        "closed form": [], "schedule": [], "schedule, priced": [],
    }  # fmt: skip
    left_out: list[str] = []
    for condition in conditions(setting):
        subject, load, batch = condition.subject, condition.load, condition.batch
        if batch > MOST_REQUESTS:
            left_out.append(f"{batch} of {subject.label}")
            continue
        compared = _compared(setting, reasons, subject, load, batch)
        if compared is None:
            continue
        neither, both = compared.neither, compared.both
        rows += [
            (
                subject.label,
                load.prompt,
                load.output,
                batch,
                Switches(case.head_level_pipelining, case.ff_coprocessing).label,
                case.closed_form_ns / NS_PER_MS,
                case.simulated_ns / NS_PER_MS,
                deviation(case.simulated_ns, case.closed_form_ns),
                case.priced_ns / NS_PER_MS,
                deviation(case.priced_ns, case.closed_form_ns),
                neither.closed_form_ns / case.closed_form_ns,
                neither.simulated_ns / case.simulated_ns,
                neither.priced_ns / case.priced_ns,
                _shares(case),
            )
            for case in compared.cases
        ]
        names.append(f"{subject.label}\n{load.label}")
        gains["closed form"].append(neither.closed_form_ns / both.closed_form_ns)
        gains["schedule"].append(neither.simulated_ns / both.simulated_ns)
        gains["schedule, priced"].append(neither.priced_ns / both.priced_ns)
    bars = tuple(
        Series(label, tuple(names), tuple(values), Mark.BARS) for label, values in gains.items()
    )
    return Exhibit(
        id="asplos2024-schedules",
        paper=Paper.ASPLOS2024,
        title="Pipelining and co-processing: closed forms beside schedules of operators",
        conditions="steps at the mean length; the papers' batches; this project's stack with "
        "units in the banks, within the power budget",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("prompt_tokens", "Lin", "tokens", Form.COUNT),
            Column("output_tokens", "Lout", "tokens", Form.COUNT),
            Column("batch", "batch", form=Form.COUNT),
            Column("optimisations", "overlap", form=Form.TEXT),
            Column("closed_form_ms", "closed form", "ms"),
            Column("simulated_ms", "schedule", "ms"),
            Column("simulated_deviation", "off by", form=Form.DEVIATION),
            Column("priced_ms", "priced", "ms"),
            Column("priced_deviation", "off by", form=Form.DEVIATION),
            Column("closed_form_gain", "gain, closed form", form=Form.RATIO, detail=True),
            Column("simulated_gain", "gain, schedule", form=Form.RATIO, detail=True),
            Column("priced_gain", "gain, priced", form=Form.RATIO, detail=True),
            Column("attacc_share", "on AttAcc", form=Form.TEXT, detail=True),
        ),
        rows=tuple(rows),
        notes=(
            (
                "Schedule: one GPU, its AttAcc and both directions of the link do one task at a "
                "time; feed-forward columns on AttAcc are command programs that the engine times."
            ),
            (
                "Priced: heads' parts of QKV and projection, and the GPU's part of shared "
                "products, are priced as the smaller products that they are; otherwise they take "
                "their share."
            ),
            "Off by: over the closed form. On AttAcc: columns of each feed-forward product.",
            "Where and why the two differ: docs/model/overlap.md.",
            (
                f"Not simulated, since products of so many rows take too long to time: "
                f"{', '.join(left_out)} requests."
            ),
            *reasons.told,
        ),
        panels=(Panel("both optimisations", "", "gain over neither", bars),),
    )


def _compared(
    setting: Setting, reasons: Reasons, subject: Subject, load: Load, batch: int
) -> OverlapComparison | None:
    platform = setting.attacc(OWN_STACK)
    return reasons.attempt(
        f"{platform.label}, {subject.label}",
        lambda: setting.pricers.overlap(platform, subject, load, batch),
    )


def _shares(case: OverlapCase) -> str:
    return ", ".join(f"{product.name} {product.share:.1%}" for product in case.products)
