"""Head-level pipelining and co-processing by closed form and by schedule of operators."""

from __future__ import annotations

from typing import Final

from attacc.study.exhibits import (
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
from attacc.study.reproduce_prices import Subject
from attacc.study.reproduce_setting import LONG, OWN_STACK, Reasons, Setting
from attacc.system.pipelined_layer import OverlapCase, OverlapComparison
from attacc.units import MS_PER_S, NS_PER_S

NS_PER_MS: Final = NS_PER_S / MS_PER_S


def schedules(setting: Setting) -> Exhibit:
    """Steps at the papers' batches, by the published closed forms and by schedules."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    panels: list[Panel] = []
    batches = ((setting.gpt3, 54), (setting.llama, 117), (setting.mt_nlg, 49))
    for subject, batch in batches:
        compared = _compared(setting, reasons, subject, batch)
        if compared is None:
            continue
        neither = compared.neither
        rows += [
            (
                subject.label,
                batch,
                _label(case),
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
        names = tuple(_label(case) for case in compared.cases)
        panels.append(
            Panel(
                f"{subject.label}, batch {batch}",
                "",
                "ms per step",
                (
                    _bars("closed form", names, [c.closed_form_ns for c in compared.cases]),
                    _bars("schedule", names, [c.simulated_ns for c in compared.cases]),
                    _bars("schedule, priced", names, [c.priced_ns for c in compared.cases]),
                ),
            )
        )
    return Exhibit(
        id="asplos2024-schedules",
        paper=Paper.ASPLOS2024,
        title="Pipelining and co-processing: closed forms beside schedules of operators",
        conditions=f"{LONG.label}, at the mean length; the papers' batches; this project's stack "
        "with units in the banks, within the power budget",
        columns=(
            Column("model", "model", form=Form.TEXT),
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
                "Schedule: one GPU, its AttAcc and both directions of the link do one task at a time; "
                "feed-forward columns on AttAcc are command programs that the engine times."
            ),
            (
                "Priced: heads' parts of QKV and projection, and the GPU's part of shared products, "
                "are priced as the smaller products that they are; otherwise they take their share."
            ),
            "Off by: over the closed form. On AttAcc: columns of each feed-forward product.",
            "Where and why the two differ: docs/overlap.md.",
            *reasons.told,
        ),
        panels=tuple(panels),
    )


def _compared(
    setting: Setting, reasons: Reasons, subject: Subject, batch: int
) -> OverlapComparison | None:
    platform = setting.attacc(OWN_STACK)
    return reasons.attempt(
        f"{platform.label}, {subject.label}",
        lambda: setting.prices.overlap(platform, subject, LONG, batch),
    )


def _label(case: OverlapCase) -> str:
    return {
        (False, False): "none",
        (True, False): "pipelining",
        (False, True): "co-processing",
        (True, True): "both",
    }[case.head_level_pipelining, case.ff_coprocessing]


def _shares(case: OverlapCase) -> str:
    return ", ".join(f"{product.name} {product.share:.1%}" for product in case.products)


def _bars(label: str, names: tuple[str, ...], times_ns: list[float]) -> Series:
    return Series(label, names, tuple(ns / NS_PER_MS for ns in times_ns), Mark.BARS)
