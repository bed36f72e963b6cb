"""Exhibits of the ASPLOS 2024 paper: throughput and energy, placements, optimisations, INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from attacc.hardware.placement import Placement
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
from attacc.study.papers.platforms import Load, Platform, Served, Subject
from attacc.study.papers.recorded_runs import PaperRun, paper_runs
from attacc.study.papers.setting import (
    LOADS,
    LONG,
    OWN_STACK,
    PUBLISHED_STACK,
    TARGETS_MS,
    Outcome,
    Reasons,
    Setting,
    Variant,
    best,
)

ENERGY_NOTE: Final = (
    "Energy: of data moved and of arithmetic; with the calibrated GPU model also what GPUs draw "
    "when idle. With co-processing AttAcc reads a weight once per request and the GPUs once per "
    "batch; this is counted here, and not in the papers, whose energy with co-processing equals "
    "that without."
)
SEPARATE_NOTE: Final = (
    "AttAcc, published: all memory as one pool, the papers' stack behind barriers. AttAcc, "
    "own: keys and values must fit into the stacks, whose units have latencies and buffers."
)
DECODE_ONLY: Final = "Decode only; prefill is left out, as in the papers."
SYSTEM_COLUMNS: Final = (
    Column("batch", "batch", form=Form.COUNT),
    Column("ms_per_token", "per token", "ms", detail=True),
    Column("tokens_per_s", "rate", "tokens/s"),
    Column("j_per_token", "energy", "J/token"),
)


def grid(setting: Setting, subject: Subject, name: str) -> Exhibit:
    """Throughput and energy per token of every platform over all lengths and latency targets."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    labels = [platform.label for platform in setting.platforms]
    speedups: dict[str, list[float | None]] = {label: [] for label in labels}
    energies: dict[str, list[float | None]] = {label: [] for label in labels}
    targets: dict[str, list[float | None]] = {label: [] for label in labels}
    for load in LOADS:
        for slo_ms in TARGETS_MS:
            base = best(setting, reasons, setting.base, subject, load, slo_ms).served
            for platform in setting.platforms:
                outcome = best(setting, reasons, platform, subject, load, slo_ms)
                speedup = _over(outcome.served, base)
                _, _, rate, energy = _figures(outcome.served)
                if slo_ms is None:
                    speedups[platform.label].append(speedup)
                    energies[platform.label].append(energy)
                if load == LONG:
                    targets[platform.label].append(rate)
                rows.append(
                    (
                        load.prompt,
                        load.output,
                        slo_ms,
                        platform.label,
                        outcome.limit,
                        *_figures(outcome.served),
                        speedup,
                        _saving(outcome.served, base),
                    )
                )
    loads = tuple(load.label for load in LOADS)
    names = tuple("no target" if ms is None else f"{ms:.0f} ms" for ms in TARGETS_MS)
    panels = (
        Panel("no target", "(Lin, Lout)", "speed-up over DGX_Base", _bars(loads, speedups)),
        Panel("no target", "(Lin, Lout)", "J/token", _bars(loads, energies)),
        Panel(f"{LONG.label}, by target per token", "", "tokens/s", _bars(names, targets)),
    )
    return Exhibit(
        id=f"asplos2024-{name}",
        paper=Paper.ASPLOS2024,
        title=f"Throughput and energy per token, largest feasible batch: {subject.label}",
        conditions="(Lin, Lout) in {128, 512, 2048} squared; targets of 30, 50, 70 ms per token "
        "and none; AttAcc with units in the banks within the power budget, both optimisations",
        columns=(
            Column("prompt_tokens", "Lin", "tokens", Form.COUNT),
            Column("output_tokens", "Lout", "tokens", Form.COUNT),
            Column("slo_ms", "target", "ms"),
            Column("system", "system", form=Form.TEXT),
            Column("limit", "limited by", form=Form.TEXT, detail=True),
            *SYSTEM_COLUMNS,
            Column("speedup_over_base", "over base", form=Form.RATIO),
            Column("energy_saved_over_base", "energy saved", form=Form.SHARE, detail=True),
        ),
        rows=tuple(rows),
        notes=(
            (
                "The reference holds no figures of the papers for single cells; the headline "
                "exhibit compares what it holds, asplos2024-papers-batches the published runs."
            ),
            SEPARATE_NOTE,
            ENERGY_NOTE,
            DECODE_ONLY,
            *reasons.told,
        ),
        panels=panels,
    )


@dataclass(frozen=True, slots=True)
class Switches:
    """Which optimisations of an AttAcc system are on."""

    pipelining: bool
    coprocessing: bool

    @property
    def label(self) -> str:
        """For people."""
        return {
            (False, False): "none",
            (True, False): "pipelining",
            (False, True): "co-processing",
            (True, True): "both",
        }[self.pipelining, self.coprocessing]

    def of(self, variant: Variant) -> Variant:
        """Return a variant with these switches."""
        return replace(variant, pipelining=self.pipelining, coprocessing=self.coprocessing)


SWITCHES: Final = (
    Switches(pipelining=False, coprocessing=False),
    Switches(pipelining=True, coprocessing=False),
    Switches(pipelining=False, coprocessing=True),
    Switches(pipelining=True, coprocessing=True),
)


@dataclass(frozen=True, slots=True)
class Condition:
    """Model, lengths and batches of a group of published runs."""

    subject: Subject
    load: Load
    base_batch: int
    batch: int
    runs: tuple[PaperRun, ...]

    def printed(self, switches: Switches) -> PaperRun | None:
        """Return the run of the AttAcc system with these switches, if it was published."""
        for run in self.runs:
            if run.run.placement and (run.run.pipelining, run.run.coprocessing) == (
                switches.pipelining,
                switches.coprocessing,
            ):
                return run
        return None

    def printed_on_gpus(self, batch: int) -> PaperRun:
        """Return the run of the GPUs with this batch."""
        return next(run for run in self.runs if not run.run.placement and run.run.batch == batch)


def conditions(setting: Setting) -> tuple[Condition, ...]:
    """Return the conditions of the published runs, in their order."""
    groups: dict[tuple[str, int, int, int], list[PaperRun]] = {}
    for run in paper_runs():
        one = run.run
        groups.setdefault((one.model, one.word, one.prompt, one.output), []).append(run)
    return tuple(
        Condition(
            setting.published_model(model, word),
            Load(prompt, output),
            min(run.run.batch for run in runs),
            max(run.run.batch for run in runs),
            tuple(runs),
        )
        for (model, word, prompt, output), runs in groups.items()
    )


def papers_batches(setting: Setting) -> Exhibit:
    """Throughput and energy per token at the papers' batches, beside what was published."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    names: list[str] = []
    ratios: dict[str, list[float | None]] = {"published": [], "ours": []}
    joules_of: dict[str, list[float | None]] = {"published": [], "ours": []}
    for condition in conditions(setting):
        gpus = (
            (setting.base, setting.base, condition.base_batch, None),
            (setting.large, setting.large, condition.batch, None),
        )
        attaccs = tuple(
            (
                setting.attacc(switches.of(PUBLISHED_STACK)),
                setting.attacc(switches.of(OWN_STACK)),
                condition.batch,
                switches,
            )
            for switches in SWITCHES
        )
        rates: dict[str, float | None] = {}
        for platform, own, batch, switches in (*gpus, *attaccs):
            run = (
                condition.printed_on_gpus(batch)
                if switches is None
                else condition.printed(switches)
            )
            served, on_own = (
                reasons.attempt(
                    f"{one.label}, {condition.subject.label}",
                    lambda one=one, batch=batch, condition=condition: setting.pricers.serve(
                        one, condition.subject, condition.load, batch
                    ),
                )
                for one in (platform, own)
            )
            label = platform.label if switches is None else f"AttAcc, {switches.label}"
            printed = None if run is None else batch / run.time_ms("decode") * 1e3
            energy = None if run is None else run.energy_per_token_j
            ours = rates[label] = None if served is None else served.tokens_per_s
            theirs = None if on_own is None else on_own.tokens_per_s
            joules = None if served is None else served.energy_per_token_j
            rows.append(
                (
                    condition.subject.label,
                    condition.load.prompt,
                    condition.load.output,
                    label,
                    batch,
                    printed,
                    ours,
                    deviation(ours, printed),
                    theirs,
                    deviation(theirs, printed),
                    energy,
                    joules,
                    deviation(joules, energy),
                )
            )
            if switches == SWITCHES[1]:
                joules_of["published"].append(energy)
                joules_of["ours"].append(joules)
            if switches == SWITCHES[-1]:
                base_run = condition.printed_on_gpus(condition.base_batch)
                base_rate = condition.base_batch / base_run.time_ms("decode") * 1e3
                names.append(f"{condition.subject.label}\n{condition.load.label}")
                ratios["published"].append(None if printed is None else printed / base_rate)
                ratios["ours"].append(_ratio(ours, rates[setting.base.label]))
    return Exhibit(
        id="asplos2024-papers-batches",
        paper=Paper.ASPLOS2024,
        title="Throughput and energy per token at the papers' batches",
        conditions="batches and figures of the published runs; units in the banks within the "
        "power budget; ours with the steps of this project",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("prompt_tokens", "Lin", "tokens", Form.COUNT),
            Column("output_tokens", "Lout", "tokens", Form.COUNT),
            Column("system", "system", form=Form.TEXT),
            Column("batch", "batch", form=Form.COUNT),
            Column("paper_tokens_per_s", "paper", "tokens/s"),
            Column("ours_tokens_per_s", "ours", "tokens/s"),
            Column("deviation", "off by", form=Form.DEVIATION),
            Column("own_stack_tokens_per_s", "presets' stack", "tokens/s", detail=True),
            Column("own_stack_deviation", "off by", form=Form.DEVIATION, detail=True),
            Column("paper_j_per_token", "paper", "J/token"),
            Column("ours_j_per_token", "ours", "J/token"),
            Column("energy_deviation", "off by", form=Form.DEVIATION),
        ),
        rows=tuple(rows),
        notes=(
            (
                "Ours adds embedding and LM head to the published step, times attention with the "
                "repaired controller, and counts register energy of every product: the release "
                "counts that of one, which matters most for large batches. Batches are taken as "
                "they are, whether they fit or not."
            ),
            "The published runs have no co-processing alone.",
            ENERGY_NOTE,
            *reasons.told,
        ),
        panels=(
            Panel(
                "AttAcc with both optimisations",
                "",
                "speed-up over DGX_Base",
                _bars(tuple(names), ratios),
            ),
            Panel("AttAcc with pipelining", "", "J/token", _bars(tuple(names), joules_of)),
        ),
    )


def placements(setting: Setting) -> Exhibit:
    """The three placements of the units, within the power budget and beyond it."""
    reasons = Reasons()
    subject, load, batch = setting.gpt3, LONG, 54
    base = best(setting, reasons, setting.base, subject, load).served
    rows: list[tuple[Cell, ...]] = []
    bars: list[Series] = []
    for start in (PUBLISHED_STACK, OWN_STACK):
        for limited in (True, False):
            attention: list[float | None] = []
            for placement in Placement:
                variant = replace(
                    start,
                    placement=placement,
                    power_limited=limited,
                    pipelining=False,
                    coprocessing=False,
                )
                platform = setting.attacc(variant)
                served = reasons.attempt(
                    f"{start.label}, {placement}",
                    lambda platform=platform: setting.pricers.serve(platform, subject, load, batch),
                )
                attention.append(None if served is None else served.attention_ms)
                rows.append(
                    (
                        start.label,
                        placement.value,
                        "limited" if limited else "unlimited",
                        None if served is None else served.attention_ms,
                        *_figures(served),
                        _over(served, base),
                        _saving(served, base),
                    )
                )
            label = f"{start.label}, {'limited' if limited else 'unlimited'}"
            names = tuple(placement.value for placement in Placement)
            bars.append(Series(label, names, tuple(attention), Mark.BARS))
    return Exhibit(
        id="asplos2024-placements",
        paper=Paper.ASPLOS2024,
        title="Placements of the units, power-limited or not",
        conditions=f"GPT-3 175B in fp16, (2,048, 2,048), batch {batch}, no optimisations; "
        f"DGX_Base with {base.batch if base else 'no'} requests",
        columns=(
            Column("stack", "stack", form=Form.TEXT),
            Column("placement", "units in", form=Form.TEXT),
            Column("power", "power", form=Form.TEXT),
            Column("attention_ms", "attn.", "ms"),
            *SYSTEM_COLUMNS,
            Column("speedup_over_base", "over base", form=Form.RATIO),
            Column("energy_saved_over_base", "energy saved", form=Form.SHARE),
        ),
        rows=tuple(rows),
        notes=(
            (
                "Within the budget the cadence of multiplies is stretched: units in the banks then "
                "read at 10.7 times the interface's bandwidth in the device, 9 times in the papers."
            ),
            "The reference holds no figures of the paper for this exhibit.",
            *reasons.told,
        ),
        panels=(Panel("", "units in", "attention, ms per step", tuple(bars)),),
    )


def optimisations(setting: Setting) -> Exhibit:
    """Head-level pipelining and co-processing, one at a time and together."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    names: list[str] = []
    gains: dict[str, list[float | None]] = {one.label: [] for one in SWITCHES[1:]}
    for condition in conditions(setting):
        names.append(f"{condition.subject.label}\n{condition.load.label}")
        plain: float | None = None
        for switches in SWITCHES:
            platform = setting.attacc(switches.of(PUBLISHED_STACK))
            served = reasons.attempt(
                f"{platform.label}, {condition.subject.label}",
                lambda platform=platform, condition=condition: setting.pricers.serve(
                    platform, condition.subject, condition.load, condition.batch
                ),
            )
            step_ms = None if served is None else served.step_ms
            plain = step_ms if switches == SWITCHES[0] else plain
            run = condition.printed(switches)
            printed = None if run is None else run.time_ms("decode")
            gain = _ratio(plain, step_ms)
            if switches.label in gains:
                gains[switches.label].append(gain)
            rows.append(
                (
                    condition.subject.label,
                    condition.load.prompt,
                    condition.load.output,
                    condition.batch,
                    switches.label,
                    printed,
                    step_ms,
                    deviation(step_ms, printed),
                    gain,
                )
            )
    return Exhibit(
        id="asplos2024-optimisations",
        paper=Paper.ASPLOS2024,
        title="Head-level pipelining and co-processing, one at a time and together",
        conditions="AttAcc as published at the papers' batches",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("prompt_tokens", "Lin", "tokens", Form.COUNT),
            Column("output_tokens", "Lout", "tokens", Form.COUNT),
            Column("batch", "batch", form=Form.COUNT),
            Column("optimisations", "overlap", form=Form.TEXT),
            Column("paper_ms", "paper", "ms"),
            Column("ours_ms", "ours", "ms"),
            Column("deviation", "off by", form=Form.DEVIATION),
            Column("gain", "gain", form=Form.RATIO),
        ),
        rows=tuple(rows),
        notes=(
            "Gain: over the same system without optimisations.",
            "The published runs have no co-processing alone.",
            "By the closed forms; asplos2024-schedules has schedules of operators beside them.",
            *reasons.told,
        ),
        panels=(Panel("", "", "gain over no optimisation", _bars(tuple(names), gains)),),
    )


def int8(setting: Setting) -> Exhibit:
    """Weights, activations and cache in eight bits instead of sixteen."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    bars: list[Series] = []
    pairs = ((setting.gpt3, setting.gpt3_int8), (setting.llama, setting.llama_int8))
    for wide, narrow in pairs:
        gains: list[float | None] = []
        for platform in setting.platforms:
            outcomes = [best(setting, reasons, platform, one, LONG) for one in (wide, narrow)]
            bases = [
                best(setting, reasons, setting.base, one, LONG).served for one in (wide, narrow)
            ]
            in_fp16, in_int8 = outcomes
            gains.append(_over(in_int8.served, in_fp16.served))
            for element, outcome, base in zip(("fp16", "int8"), outcomes, bases, strict=True):
                rows.append(
                    (
                        wide.label,
                        platform.label,
                        element,
                        *_figures(outcome.served),
                        _over(outcome.served, base),
                        _saving(outcome.served, base),
                        gains[-1] if element == "int8" else None,
                    )
                )
        names = tuple(platform.label for platform in setting.platforms)
        bars.append(Series(wide.label, names, tuple(gains), Mark.BARS))
    return Exhibit(
        id="asplos2024-int8",
        paper=Paper.ASPLOS2024,
        title="INT8 against FP16",
        conditions="(2,048, 2,048), largest feasible batch; AttAcc with both optimisations",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("system", "system", form=Form.TEXT),
            Column("element", "elements", form=Form.TEXT),
            *SYSTEM_COLUMNS,
            Column("speedup_over_base", "over base", form=Form.RATIO),
            Column("energy_saved_over_base", "energy saved", form=Form.SHARE),
            Column("gain_over_fp16", "over fp16", form=Form.RATIO),
        ),
        rows=tuple(rows),
        notes=(
            (
                "A unit multiplies a column of one-byte elements in the time of one of half as "
                "many fp16 elements."
            ),
            (
                "DGX_Base of the same precision. The published INT8 runs of GPT-3 stand in "
                "asplos2024-papers-batches and asplos2024-paper-runs."
            ),
            SEPARATE_NOTE,
            *reasons.told,
        ),
        panels=(Panel("", "", "throughput over fp16", tuple(bars)),),
    )


def _bars(
    names: tuple[str, ...], values: Mapping[str, Sequence[float | None]]
) -> tuple[Series, ...]:
    return tuple(Series(label, names, tuple(ys), Mark.BARS) for label, ys in values.items())


def _figures(
    served: Served | None,
) -> tuple[int | None, float | None, float | None, float | None]:
    if served is None:
        return (None, None, None, None)
    return (served.batch, served.step_ms, served.tokens_per_s, served.energy_per_token_j)


def _over(served: Served | None, base: Served | None) -> float | None:
    if served is None or base is None:
        return None
    return served.tokens_per_s / base.tokens_per_s


def _saving(served: Served | None, base: Served | None) -> float | None:
    if served is None or base is None:
        return None
    return 1 - served.energy_per_token_j / base.energy_per_token_j


def _ratio(over: float | None, under: float | None) -> float | None:
    return None if over is None or under is None else over / under


@dataclass(frozen=True, slots=True)
class Case:
    """One setting of what a sensitivity varies.

    Attributes:
        x: position in the figure.
        platform: the system.
        subject: the model.
        load: the lengths.
    """

    x: float
    platform: Platform
    subject: Subject
    load: Load


def sensitivity(
    setting: Setting,
    cases: Sequence[Case],
    *,
    name: str,
    title: str,
    conditions: str,
    x: Column,
    notes: Sequence[str],
    logarithmic: bool = True,
) -> Exhibit:
    """Throughput and energy where one thing varies, each system at its largest batch."""
    reasons = Reasons()
    rows: list[tuple[Cell, ...]] = []
    lines: dict[str, list[tuple[float, Outcome]]] = {}
    for case in cases:
        outcome = best(setting, reasons, case.platform, case.subject, case.load)
        base = best(setting, reasons, setting.base, case.subject, case.load).served
        lines.setdefault(case.platform.label, []).append((case.x, outcome))
        served = outcome.served
        rows.append(
            (
                case.x,
                case.platform.label,
                outcome.limit,
                None if served is None else served.attention_ms,
                *_figures(served),
                _over(served, base),
            )
        )
    series = tuple(
        Series(
            label,
            tuple(at for at, _ in points),
            tuple(None if o.served is None else o.served.tokens_per_s for _, o in points),
        )
        for label, points in lines.items()
    )
    axis = f"{x.title}, {x.unit}" if x.unit else x.title
    return Exhibit(
        id=f"asplos2024-{name}",
        paper=Paper.ASPLOS2024,
        title=title,
        conditions=conditions,
        columns=(
            x,
            Column("system", "system", form=Form.TEXT),
            Column("limit", "limited by", form=Form.TEXT, detail=True),
            Column("attention_ms", "attn.", "ms"),
            *SYSTEM_COLUMNS,
            Column("speedup_over_base", "over base", form=Form.RATIO),
        ),
        rows=tuple(rows),
        notes=(
            *notes,
            "The reference holds no figures of the papers for this exhibit.",
            *reasons.told,
        ),
        panels=(Panel("", axis, "tokens/s", series, log_x=logarithmic, log_y=logarithmic),),
    )
