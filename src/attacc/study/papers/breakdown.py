"""Parts of a step beside those of the published runs: where a deviation comes from."""

from __future__ import annotations

from typing import Final

from attacc.study.papers.asplos2024 import SWITCHES, Condition, conditions
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
from attacc.study.papers.platforms import Platform, Served
from attacc.study.papers.recorded_runs import PaperRun
from attacc.study.papers.setting import LONG, PUBLISHED_STACK, Reasons, Setting

PARTS: Final = ("fc", "attention", "communication", "other")


def breakdown(setting: Setting) -> Exhibit:
    """Parts of the mean step at the papers' batches, and what each adds to the step's deviation."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    names: list[str] = []
    added: dict[str, list[float | None]] = {part: [] for part in PARTS}
    for condition in conditions(setting):
        if condition.load != LONG:
            continue
        for platform, run in _systems(setting, condition):
            served = reasons.attempt(
                f"{platform.label}, {condition.subject.label}",
                lambda platform=platform, run=run, condition=condition: setting.pricers.serve(
                    platform, condition.subject, condition.load, run.run.batch
                ),
            )
            step_ms = run.time_ms("decode")
            names.append(f"{condition.subject.label}\n{platform.label}")
            for part in (*PARTS, "step"):
                printed = _printed_ms(run, part)
                ours = None if served is None else _part_ms(served, part)
                share = None if ours is None else (ours - printed) / step_ms
                if part in added:
                    added[part].append(share)
                rows.append(
                    (
                        condition.subject.label,
                        platform.label,
                        run.run.batch,
                        part,
                        printed,
                        ours,
                        deviation(ours, printed),
                        share,
                    )
                )
    bars = tuple(
        Series(part, tuple(names), tuple(values), Mark.BARS) for part, values in added.items()
    )
    return Exhibit(
        id="asplos2024-breakdown",
        paper=Paper.ASPLOS2024,
        title="Parts of a step beside those of the published runs",
        conditions=f"{LONG.label}, the papers' batches; AttAcc as published, both optimisations",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("system", "system", form=Form.TEXT),
            Column("batch", "batch", form=Form.COUNT),
            Column("part", "part", form=Form.TEXT),
            Column("paper_ms", "paper", "ms"),
            Column("ours_ms", "ours", "ms"),
            Column("deviation", "off by", form=Form.DEVIATION),
            Column("step_share", "of the step", form=Form.DEVIATION),
        ),
        rows=tuple(rows),
        notes=(
            (
                "Of the step: ours less the paper's, over the paper's step; the parts add up to "
                "the step's deviation. It tells where a headline figure's deviation comes from."
            ),
            "Softmax counts as attention, where the release prints it apart.",
            *reasons.told,
        ),
        panels=(Panel("", "", "ours less the paper's, over its step", bars),),
    )


def _systems(setting: Setting, condition: Condition) -> list[tuple[Platform, PaperRun]]:
    both = SWITCHES[-1]
    attacc = condition.printed(both)
    gpus = [
        (setting.base, condition.printed_on_gpus(condition.base_batch)),
        (setting.large, condition.printed_on_gpus(condition.batch)),
    ]
    if attacc is None:
        return gpus
    return [*gpus, (setting.attacc(both.of(PUBLISHED_STACK)), attacc)]


def _printed_ms(run: PaperRun, part: str) -> float:
    match part:
        case "attention":
            return run.time_ms("attention") + run.time_ms("softmax")
        case "step":
            return run.time_ms("decode")
        case _:
            return run.time_ms(part)


def _part_ms(served: Served, part: str) -> float:
    match part:
        case "fc":
            return served.fc_ms
        case "attention":
            return served.attention_ms
        case "communication":
            return served.communication_ms
        case "other":
            return served.other_ms
        case _:
            return served.step_ms
