"""What a decode step's energy holds inside each boundary, and how far the unmeasured parts reach.

    python benchmarks/boundary.py [--batch N] [--length N] [--figure FILE.svg]

Prints the tables of docs/model/boundary.md. The figure needs matplotlib:
pip install 'attacc[bench]'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from attacc.gpu.costs import EnergyBreakdown
from attacc.hardware.system import load_system
from attacc.system.pricer import Pricer
from attacc.system.step import StepCost
from attacc.units import PJ_PER_J

MODEL: Final = "llama-3.1-70b"
BASELINE: Final = "8xh200"
SYSTEMS: Final = (BASELINE, "8xh200-attacc-hbm3", "8xh200-attacc-hbm3-shared")
PARTS: Final = {
    "GPUs, idle": "#0072b2",
    "GPUs, active": "#56b4e9",
    "DRAM": "#009e73",
    "arithmetic": "#f0e442",
    "links": "#cc79a7",
    "AttAcc standby": "#e69f00",
    "AttAcc devices": "#d55e00",
    "host": "#999999",
}
"""Parts in the order of the bars, in colours of Okabe and Ito; the host is outside the boards."""


@dataclass(frozen=True)
class Priced:
    """One system's decode step.

    Attributes:
        step: its price.
        tokens: that it makes.
    """

    step: StepCost
    tokens: int

    def parts(self) -> dict[str, float]:
        """Return joules per token by part."""
        energy, constant = self.step.node_energy, self.step.constant
        idle = constant.of_boards(self.step.time_ns).static_pj
        split = {
            "GPUs, idle": idle,
            "GPUs, active": energy.static_pj - idle,
            "DRAM": energy.dram_pj + energy.l2_pj + energy.l1_pj + energy.register_pj,
            "arithmetic": energy.alu_pj,
            "links": energy.link_pj,
            "AttAcc standby": energy.standby_pj,
            "AttAcc devices": energy.device_pj,
            "host": energy.host_pj,
        }
        return {name: part / self.tokens / PJ_PER_J for name, part in split.items()}

    def per_token(self, energy: EnergyBreakdown) -> float:
        """Return joules per token."""
        return energy.total_pj / self.tokens / PJ_PER_J

    @property
    def boards_j(self) -> float:
        return self.per_token(self.step.energy)

    @property
    def node_j(self) -> float:
        return self.per_token(self.step.node_energy)


def priced(name: str, batch: int, length: int, **changes: object) -> Priced:
    pricer = Pricer(MODEL, load_system(name, **changes))
    return Priced(pricer.step(decode=[length] * batch), batch)


UNMEASURED: Final = (
    ("AttAcc base power, W a device", "attacc.base_power", ("5 W", "60 W")),
    ("AttAcc link power, W a device", "attacc.link_power", ("0 W", "18.8 W")),
    ("standby and refresh of stacks", "attacc.standby", (False, True)),
    ("host power of a node, W", "host_power", ("1000 W", "2500 W")),
    ("start of a layer's attention", "attacc.start", ("1.5 us", "10 us")),
)
"""What is changed, its key, and its ends."""


def sensitivity(name: str, batch: int, length: int) -> Iterator[tuple[str, list[float]]]:
    """Yield each part and the ratios at its ends: boards low, boards high, node low, node high."""
    for what, key, ends in UNMEASURED:
        of_host = key == "host_power"
        ratios: list[tuple[float, float]] = []
        for end in ends:
            changes = {key: end}
            base = priced(BASELINE, batch, length, **(changes if of_host else {}))
            mine = priced(name, batch, length, **changes)
            ratios.append((base.boards_j / mine.boards_j, base.node_j / mine.node_j))
        yield what, [ratios[0][0], ratios[1][0], ratios[0][1], ratios[1][1]]


def draw(found: dict[str, Priced], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    settings: Any = mpl.rcParams
    settings.update(
        {
            "svg.hashsalt": "attacc",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    subplots: Any = plt.subplots
    figure, axes = subplots(figsize=(9.5, 3.0), layout="constrained")
    names = list(found)[::-1]
    left = dict.fromkeys(names, 0.0)
    for part, colour in PARTS.items():
        widths = [found[name].parts()[part] for name in names]
        axes.barh(
            names, widths, left=[left[name] for name in names], color=colour, label=part,
            hatch="//" if part == "host" else None, edgecolor="white", height=0.6,
        )  # fmt: skip
        left = {name: left[name] + width for name, width in zip(names, widths, strict=True)}
    for number, name in enumerate(names):
        edge = found[name].boards_j
        axes.plot([edge, edge], [number - 0.4, number + 0.4], color="black", lw=1.6)
        axes.text(edge, number + 0.42, f"boards {edge:.2f}", ha="right", va="bottom", fontsize=8)
        axes.text(left[name], number, f" node {left[name]:.2f}", va="center", fontsize=8)
    axes.set_title("The host and the idle power of GPUs take most of a token's energy", fontsize=10)
    axes.set_xlabel("J per output token, decode")
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.2))
    axes.set_xlim(right=1.12 * max(left.values()))
    save: Any = figure.savefig
    save(path, metadata={"Date": None})


def main(
    batch: Annotated[int, typer.Option(help="Requests of the step.", min=1)] = 64,
    length: Annotated[int, typer.Option(help="Keys of each request.", min=1)] = 8704,
    figure: Annotated[Path | None, typer.Option(help="Write the figure here.")] = None,
) -> None:
    """Price the step, print the tables, and draw the figure."""
    found = {name: priced(name, batch, length) for name in SYSTEMS}
    print("| J per token |", " | ".join(found), "|")
    print("|---|" + "---:|" * len(found))
    for part in PARTS:
        cells = (f"{one.parts()[part]:.3f}" for one in found.values())
        print(f"| {part} |", " | ".join(cells), "|")
    print("| boards |", " | ".join(f"{one.boards_j:.3f}" for one in found.values()), "|")
    print("| node |", " | ".join(f"{one.node_j:.3f}" for one in found.values()), "|")
    base = found[BASELINE]
    for name in SYSTEMS[1:]:
        mine = found[name]
        print(f"\n{name}: boards {base.boards_j / mine.boards_j:.3f}, "
              f"node {base.node_j / mine.node_j:.3f}\n")  # fmt: skip
        print("| unmeasured | boards, low | boards, high | node, low | node, high |")
        print("|---|---:|---:|---:|---:|")
        for what, ratios in sensitivity(name, batch, length):
            print(f"| {what} |", " | ".join(f"{ratio:.3f}" for ratio in ratios), "|")
    if figure is not None:
        draw(found, figure)


if __name__ == "__main__":
    typer.run(main)
