"""The tables and the figure of docs/model/overlap.md: closed forms beside schedules.

    python benchmarks/overlap.py [--figure FILE.svg]

The figure needs matplotlib: pip install 'attacc[bench]'. Asserts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from attacc.gpu.costs import CostModel, EnergyBreakdown
from attacc.gpu.models import GpuModel, cost_model
from attacc.gpu.published.model import PublishedCostModel, published_rates
from attacc.gpu.rates import AttaccRates
from attacc.hardware.placement import Placement
from attacc.hardware.system import ResolvedSystem, load_system
from attacc.models.architecture import MODELS, ModelSpec
from attacc.models.operators import MatMul, Phase, Step
from attacc.models.precision import ElementType
from attacc.models.steps import decode_step
from attacc.pim.product import AttaccProducts
from attacc.pim.program.product import ProductShape
from attacc.study.papers.operator_schedule import OperatorSchedule
from attacc.study.papers.pipelined_layer import (
    ATTACC,
    BACK,
    GPU,
    THERE,
    OverlapComparison,
    simulate_decode_step,
)
from attacc.system.attaccs import AttaccAttention, Attaccs, LayerHeads
from attacc.system.step import Beside, LayerBeside, step_costs

LENGTH: Final = 3072
"""Keys half-way through an output of 2,048 tokens behind a prompt of 2,048."""
NS_PER_MS: Final = 1e6
NS_PER_US: Final = 1e3
CLOSE_NS: Final = 500.0
"""Parts of a shared product with smaller gaps between them are drawn as one."""
CALIBRATED: Final = cost_model(GpuModel.CALIBRATED).for_steps(Phase.DECODE)
"""Products, collectives and host time as fitted to measurements."""
RESOURCES: Final = (GPU, THERE, ATTACC, BACK)


@dataclass(frozen=True)
class Workload:
    """One model and batch, as in the papers."""

    title: str
    model: ModelSpec
    batch: int

    @classmethod
    def of(cls, title: str, name: str, batch: int, element: ElementType | None = None) -> Workload:
        model = MODELS.load(name)
        if element is not None:
            precision = model.precision.model_copy(
                update={"weights": element, "activations": element, "kv": element}
            )
            model = model.model_copy(update={"precision": precision})
        return cls(title, model, batch)

    def step(self, length: int = LENGTH) -> Step:
        return decode_step(self.model, batch=self.batch, kv_length=length, tensor_parallel=8)


WORKLOADS: Final = (
    Workload.of("GPT-3 175B, 54", "gpt3-175b", 54),
    Workload.of("LLaMA-65B, 117", "llama-65b", 117),
    Workload.of("MT-NLG 530B int8, 49", "mt-nlg-530b", 49, ElementType.INT8),
)


@dataclass
class Bench:
    """One system, with what times it."""

    system: ResolvedSystem
    attaccs: Attaccs
    products: AttaccProducts

    @classmethod
    def of(cls, placement: Placement) -> Bench:
        system = load_system(f"dgx-attacc-{placement}")
        return cls(system, Attaccs(system), AttaccProducts.of(system))

    def rates(self, placement: Placement) -> AttaccRates:
        return published_rates(placement, power_limited=True, stacks_per_device=5)

    def attention(self, workload: Workload, length: int = LENGTH) -> AttaccAttention:
        return self.attaccs.curve(LayerHeads.of_model(workload.model), workload.batch, [length]).at(
            [length]
        )

    def compare(
        self,
        workload: Workload,
        costs: CostModel,
        placement: Placement,
        *,
        length: int = LENGTH,
        units: int | None = None,
    ) -> OverlapComparison:
        return simulate_decode_step(
            workload.step(length),
            self.system,
            costs,
            self.attention(workload, length),
            self.rates(placement),
            products=self.products,
            units=units,
        )


def row(*cells: object) -> None:
    texts = [f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print("| " + " | ".join(texts) + " |")


def steps_table(benches: dict[Placement, Bench], costs: CostModel) -> None:
    print("\nStep, ms: closed form | schedule | schedule with priced parts")
    for placement, bench in benches.items():
        for workload in WORKLOADS:
            result = bench.compare(workload, costs, placement)
            for case in result.cases:
                times = (case.closed_form_ns, case.simulated_ns, case.priced_ns)
                name = {
                    (False, False): "neither",
                    (True, False): "pipelining",
                    (False, True): "co-processing",
                    (True, True): "both",
                }[case.head_level_pipelining, case.ff_coprocessing]
                row(workload.title, placement, name, *(time / NS_PER_MS for time in times))


def shares_table(benches: dict[Placement, Bench], costs: CostModel) -> None:
    print("\nShare of AttAcc: closed form | schedule; us on AttAcc, there, back; of the peak rate")
    for placement, bench in benches.items():
        for workload in WORKLOADS:
            for product in bench.compare(workload, costs, placement).coprocessing.products:
                stack = product.stack
                row(
                    workload.title, placement, product.name,
                    f"{product.closed_form_share:.3f}", f"{product.share:.3f}",
                    product.gpu_ns / NS_PER_US, product.attacc_ns / NS_PER_US,
                    product.there_ns / NS_PER_US, product.back_ns / NS_PER_US,
                    "-" if stack is None else f"{stack.rate:.3f}",
                )  # fmt: skip


def rates_table() -> None:
    print(
        "\nProducts on one stack: GPT-3's ff1, ns per row and column, TB/s, of peak and published"
    )
    for placement, columns in (
        (Placement.BANK, 240), (Placement.BANKGROUP, 64), (Placement.BUFFER, 26),
    ):  # fmt: skip
        published = published_rates(placement, power_limited=True, stacks_per_device=1)
        for rows_per_read in (1, 2):
            products = AttaccProducts.of(load_system(f"dgx-attacc-{placement}"))
            products.rows_per_read = rows_per_read
            shape = ProductShape(54, 12288, columns, ElementType.FP16)
            product = products.multiply(shape)
            row(
                placement, rows_per_read, product.inner_ways, product.segments,
                f"{product.time_ns / 54 / columns:.3f}",
                f"{product.achieved_bytes_per_s / 1e12:.2f}",
                f"{product.internal_bytes_per_s / 1e12:.2f}",
                f"{product.rate:.3f}",
                f"{product.achieved_bytes_per_s / published.internal_bytes_per_s:.3f}",
                f"{product.energy.total_pj / 54 / columns / 12288:.2f} pJ per weight",
            )  # fmt: skip
            kept = products.multiply(shape, inner_ways=1)
            row("", "", "inner_ways 1", kept.segments, f"{kept.rate:.3f}")


def parts_table() -> None:
    print("\nPer-head products of GPT-3 (54 rows, 12 heads): us, whole and all parts")
    bench = Bench.of(Placement.BANK)
    step = WORKLOADS[0].step()
    qkv, projection = (
        next(op for op in step.layers[0].operators if isinstance(op, MatMul) and op.name == name)
        for name in ("qkv", "projection")
    )
    for units in (1, 2, 3, 4, 6, 12):
        cells: list[float] = []
        parts = (replace(qkv, n=qkv.n // units), replace(projection, k=projection.k // units))
        for costs in (PublishedCostModel(), CALIBRATED):
            times = [costs.matmul(part, bench.system.gpu).one.time_ns for part in parts]
            cells.extend(units * time / NS_PER_US for time in times)
        row(units, *cells)
    print("\nStep with pipelining, ms, by units: published | calibrated GPU model")
    for placement in Placement:
        bench = Bench.of(placement)
        for workload in WORKLOADS[:2]:
            costs = PublishedCostModel()
            for units in (1, 2, 4, 8 if workload is WORKLOADS[1] else 12):
                published = bench.compare(workload, costs, placement, units=units)
                fitted = bench.compare(workload, CALIBRATED, placement, units=units)
                row(
                    workload.title, placement, units,
                    *(
                        case.priced_ns / NS_PER_MS
                        for case in (
                            published.neither, published.pipelining, fitted.neither,
                            fitted.pipelining, fitted.coprocessing,
                        )
                    ),
                    fitted.pipelining.simulated_ns / NS_PER_MS,
                )  # fmt: skip


def regimes_table() -> None:
    print("\nRegimes, one layer of GPT-3, batch 54, us: a, x there, x back, f, closed, schedule")
    bench = Bench.of(Placement.BANK)
    workload = WORKLOADS[0]
    step = workload.step()
    costs = PublishedCostModel()
    system = bench.system
    for title, attention_us, slower in (
        ("attention longest", 120.0, 1.0),
        ("products longest", 38.0, 1.0),
        ("products longest, attention short", 10.0, 1.0),
        ("transfers longest", 38.0, 50.0),
    ):
        assert system.attacc is not None
        link = system.attacc.link
        slow = link.model_copy(
            update={"both_ways_bytes_per_s": link.both_ways_bytes_per_s / slower}
        )
        changed = replace(system, attacc=replace(system.attacc, link=slow))
        attention = AttaccAttention.one(attention_us * NS_PER_US, EnergyBreakdown())
        cost = step_costs(
            step, changed, costs, Beside(layers=(LayerBeside(attention=attention),))
        ).one
        op = {one.name: one.alone_ns / NS_PER_US for one in cost.operators}
        rates = bench.rates(Placement.BANK)
        result = simulate_decode_step(
            step, changed, costs, attention, rates, products=bench.products
        )
        for case in (result.neither, result.pipelining):
            difference = (case.closed_form_ns - case.simulated_ns) / step.layer_count / NS_PER_US
            row(
                title, attention_us, op["qkv_transfer"], op["context_transfer"],
                op["qkv"] + op["projection"], case.closed_form_ns / step.layer_count / NS_PER_US,
                case.simulated_ns / step.layer_count / NS_PER_US, difference,
            )  # fmt: skip


def unit_attention_table() -> None:
    print("\nAttention of one unit alone against its share, us")
    for placement in Placement:
        bench = Bench.of(placement)
        for workload in WORKLOADS:
            model = workload.model
            alone = LayerHeads.of_model(model.model_copy(update={"heads": 8, "kv_heads": 8}))
            heads = model.kv_heads // 8
            whole = float(bench.attention(workload).time_ns[0]) / heads / NS_PER_US
            curve = bench.attaccs.curve(alone, workload.batch, [LENGTH])
            one = float(curve.at([LENGTH]).time_ns[0])
            row(workload.title, placement, whole, one / NS_PER_US, one / NS_PER_US / whole)


def draw(path: Path) -> None:
    """Draw two layers of GPT-3 without and with both optimisations."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    settings: Any = mpl.rcParams
    settings.update(
        {"svg.hashsalt": "attacc", "svg.fonttype": "none", "font.family": "sans-serif",
         "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )  # fmt: skip
    result = Bench.of(Placement.BANK).compare(WORKLOADS[0], PublishedCostModel(), Placement.BANK)
    cases = (
        ("neither", result.neither),
        ("head-level pipelining", result.pipelining),
        ("both, with feed-forward co-processing", result.both),
    )
    subplots: Any = plt.subplots
    figure, panels = subplots(3, 1, figsize=(10, 6.4), layout="constrained", sharex=True)
    figure.suptitle("One layer of GPT-3 175B, batch 54, 3,072 keys, units in banks", fontsize=12)
    for panel, (title, case) in zip(panels, cases, strict=True):
        _gantt(panel, case.schedule)
        panel.set_title(title, loc="left", fontsize=10)
    panels[-1].set_xlabel("time, µs")
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="outside lower center", ncols=len(COLOURS), frameon=False)
    figure.savefig(path, metadata={"Date": None})


COLOURS: Final = {
    "QKV": "#0072b2",
    "attention": "#d55e00",
    "projection": "#56b4e9",
    "feed-forward": "#009e73",
    "transfers": "#cc79a7",
    "collectives, norms, activation": "#999999",
}
"""Of Okabe and Ito, which tell apart for all kinds of sight."""


def _colour(resource: str, name: str) -> str:
    if resource in (THERE, BACK):
        return COLOURS["transfers"]
    for start, group in (
        ("qkv", "QKV"), ("attention", "attention"), ("projection", "projection"),
        ("ff", "feed-forward"),
    ):  # fmt: skip
        if name.startswith(start):
            return COLOURS[group]
    return COLOURS["collectives, norms, activation"]


def _gantt(panel: Any, schedule: OperatorSchedule) -> None:
    """Draw the first layer of a schedule, one line per resource."""
    for bar in _bars(schedule):
        colour = _colour(bar.resource, bar.name)
        # Transfers of single heads are too short for an edge of another colour.
        edge = colour if bar.resource in (THERE, BACK) else "white"
        panel.barh(
            RESOURCES.index(bar.resource), (bar.end_ns - bar.start_ns) / NS_PER_US,
            left=bar.start_ns / NS_PER_US, height=0.72, color=colour, edgecolor=edge, linewidth=0.4,
        )  # fmt: skip
    panel.set_yticks(range(len(RESOURCES)), RESOURCES)
    panel.invert_yaxis()


@dataclass
class Bar:
    """What is drawn: a task, or parts of a shared product that follow each other closely."""

    resource: str
    name: str
    start_ns: float
    end_ns: float


def _bars(schedule: OperatorSchedule) -> list[Bar]:
    bars: list[Bar] = []
    joined: dict[tuple[str, str], Bar] = {}
    for timed in schedule.tasks:
        layer, name = timed.task.name.split(": ", 1)
        if layer != "layer 0":
            continue
        operator, *part = name.split(" product ")
        key = (timed.task.resource, operator)
        if part and key in joined and timed.start_ns - joined[key].end_ns < CLOSE_NS:
            joined[key].end_ns = timed.end_ns
            continue
        bars.append(Bar(timed.task.resource, operator, timed.start_ns, timed.end_ns))
        if part:
            joined[key] = bars[-1]
    return bars


def main(
    figure: Annotated[Path | None, typer.Option(help="Write the figure here.")] = None,
) -> None:
    """Print every table, and draw the figure."""
    if figure is not None:
        draw(figure)
        return
    benches = {placement: Bench.of(placement) for placement in Placement}
    costs = PublishedCostModel()
    regimes_table()
    steps_table(benches, costs)
    shares_table(benches, costs)
    rates_table()
    parts_table()
    unit_attention_table()


if __name__ == "__main__":
    typer.run(main)
