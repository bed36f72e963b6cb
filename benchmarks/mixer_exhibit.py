"""Writes docs/evidence/mixers.md: decode steps of eight models, with attention on each site.

python benchmarks/mixer_exhibit.py FOLDER [--write] [--figure FILE.svg]

FOLDER holds the config.json files of the models. Every step has a batch of 8 requests of one
length, on eight H200 with five HBM3 stacks of AttAcc beside each.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import attacc as aa
from attacc.errors import InputError
from attacc.models.served import ServedModel
from attacc.system.batches import Batches
from attacc.system.pricer import Pricer
from attacc.system.sites import Site, can_leave, kinds_of
from attacc.system.step import Group, StepCost

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "mixers.md"
BEGIN, END = "<!-- begin -->", "<!-- end -->"
MODELS: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("GPT-3 175B", "gpt3-175b", {}),
    ("Llama 3.1 70B", "llama-3.1-70b", {}),
    ("Qwen3 235B", "Qwen--Qwen3-235B-A22B-FP8_config.json", {}),
    ("DeepSeek V3", "deepseek-ai--DeepSeek-R1_config.json", {}),
    ("gpt-oss 120B", "openai--gpt-oss-120b_config.json", {}),
    ("Gemma 4 31B", "nvidia--Gemma-4-31B-IT-NVFP4_config.json", {}),
    ("Qwen3.5 397B", "Qwen--Qwen3.5-397B-A17B_config.json", {}),
    ("Nemotron 3 Super", "nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8_config.json", {}),
)
"""Name, preset or file, and element types other than the model's: DeepSeek V3 has R1's sizes."""
BATCH = 8
SHARE_AT = 4096
LENGTHS = tuple(2**power for power in range(10, 21))
SYSTEM = Path(__file__).parents[1] / "examples" / "h200-attacc.toml"


@dataclass(frozen=True)
class Case:
    """One model: its steps on GPUs alone, and with each kind of layers on AttAccs."""

    title: str
    model: ServedModel
    gpu: list[StepCost | None]
    moved: dict[str, list[StepCost | None]]


def priced(pricer: Pricer) -> list[StepCost | None]:
    """Return the step at every length; None where the requests do not fit."""
    return [
        pricer.steps(Batches.equal(BATCH, length)).at(0)
        if pricer.fits((length - 1, 2), BATCH)
        else None
        for length in LENGTHS
    ]


def cases(folder: Path) -> Iterator[Case]:
    system = aa.load_system(SYSTEM)
    for title, source, types in MODELS:
        place = source if not source.endswith(".json") else folder / source
        model = aa.load_model(place, **types)
        kinds = kinds_of(model)
        at_home: dict[str, Site | str] = dict.fromkeys(kinds, Site.GPU)
        alone = Pricer(model, system, sites=at_home)
        moved: dict[str, list[StepCost | None]] = {}
        for kind in kinds:
            if can_leave(model, system, kind):
                moved[kind] = priced(Pricer(model, system, sites=at_home | {kind: Site.ATTACC}))
        yield Case(title, model, priced(alone), moved)


def milliseconds(step: StepCost | None) -> str:
    return "-" if step is None else f"{step.time_ns / 1e6:.2f}"


def ratio(gpu: StepCost | None, there: StepCost | None) -> str:
    if there is None:
        return "-"
    return "fits there only" if gpu is None else f"{gpu.time_ns / there.time_ns:.2f}"


def points(steps: Sequence[StepCost | None]) -> tuple[list[int], list[float]]:
    """Return the lengths that fit, and their steps in milliseconds."""
    some = [(n, s.time_ns / 1e6) for n, s in zip(LENGTHS, steps, strict=True) if s is not None]
    return [n for n, _ in some], [ms for _, ms in some]


def words(length: int) -> str:
    return f"{length // 2**20}M" if length >= 2**20 else f"{length // 2**10}k"


def tables(found: Sequence[Case]) -> str:
    """Return a table of steps, and one of gains by kind of mixer."""
    shown = range(0, len(LENGTHS), 2)
    head = ["model", "mixers on", *(words(LENGTHS[n]) for n in shown)]
    lines = [head, ["---"] * len(head)]
    for case in found:
        lines.append([case.title, "GPUs", *(milliseconds(case.gpu[n]) for n in shown)])
        for kind, steps in case.moved.items():
            lines.append(["", f"AttAccs: {kind}", *(milliseconds(steps[n]) for n in shown)])
    gains = ["kind", "model", "share of the step at 4k", *(words(LENGTHS[n]) for n in shown)]
    table = [gains, ["---"] * len(gains)]
    at = LENGTHS.index(SHARE_AT)
    for case in found:
        step = case.gpu[at]
        assert step is not None
        for kind in kinds_of(case.model):
            names = {g.layer.kind for g in case.model.groups if g.layer.site_kind == kind}
            own = [
                op for op in step.operators
                if op.layers in names and op.group is Group.ATTENTION
            ]  # fmt: skip
            share = sum(op.runs * op.time_ns for op in own) / step.time_ns
            if kind in case.moved:
                ratios = [ratio(case.gpu[n], case.moved[kind][n]) for n in shown]
            else:
                ratios = ["stays"] + [""] * (len(shown) - 1)
            table.append([kind, case.title, f"{share:.0%}", *ratios])
    return (
        f"Decode step of {BATCH} requests, ms, by keys of each request (-: does not fit):\n\n"
        + rows(lines)
        + "\n\nStep with the mixers of one kind on the GPUs over that with them on AttAccs, all "
        "others on the GPUs:\n\n" + rows(sorted(table[2:], key=lambda cells: cells[0]), table[:2])
    )


def rows(lines: Sequence[Sequence[str]], head: Sequence[Sequence[str]] = ()) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (*head, *lines))


def draw(found: Sequence[Case], path: Path) -> None:
    """Draw the step times over the length, a panel for each model."""
    from matplotlib.figure import Figure

    from attacc.report.figures import write_figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True)
    for axis, case in zip(axes.flat, found, strict=True):
        axis.semilogx(*points(case.gpu), "k-", label="GPUs")
        for style, (kind, steps) in zip(("C0--", "C1-.", "C2:"), case.moved.items(), strict=False):
            axis.semilogx(*points(steps), style, label=f"AttAccs: {kind}")
        axis.set_title(case.title, fontsize=10)
        axis.set_xticks([2**10, 2**15, 2**20], ["1k", "32k", "1M"])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in axes[1]:
        axis.set_xlabel("keys of each request")
    for axis in axes[:, 0]:
        axis.set_ylabel("decode step, ms")
    write_figure(figure, path)


def main() -> None:
    arguments = sys.argv[1:]
    found = list(cases(Path(arguments[0])))
    if "--figure" in arguments:
        draw(found, Path(arguments[arguments.index("--figure") + 1]))
    text = tables(found)
    if "--write" not in arguments:
        print(text)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
