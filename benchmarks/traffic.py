"""Does AttAcc pay for traffic? The highest rate that keeps targets, with AttAccs and without.

Four kinds of traffic are played on GPUs alone, on the same GPUs with AttAccs, and on the same GPUs
with as much plain HBM as the AttAccs have. The layout is the best of a few for each system.

Usage: python benchmarks/traffic.py TRACES CONFIGS [--write] [--first N] [--only WORD]

TRACES holds the traces of Azure and of Mooncake under their published names, and CONFIGS the
config.json files of published models, named ORG--NAME_config.json. With --write, the tables of
docs/howto/traffic.md and docs/figures/traffic.svg are replaced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attacc.errors import InputError
from attacc.hardware.system import ResolvedSystem, load_system
from attacc.models.huggingface import load_model
from attacc.models.served import ServedModel
from attacc.service import FoundRate, Server, Targets, find_rate
from attacc.serving.simulator import Run
from attacc.study.decomposition import equal_stacks
from attacc.system.cost import Ownership, money
from attacc.system.layout import Layout
from attacc.system.sites import STAYS, kinds_of
from attacc.workload.arrivals import poisson
from attacc.workload.generated import Independent, LogNormal, generated
from attacc.workload.requests import Requests, ZeroOutput

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = DOCS / "howto" / "traffic.md"
FIGURE: Final = DOCS / "figures" / "traffic.svg"
START, END = "<!-- tables: benchmarks/traffic.py -->", "<!-- end of tables -->"
SHARE: Final = 0.9
"""Share of the requests that keep both targets."""
FURTHER: Final = (0.7, 0.85, 0.95, 1.1, 1.25, 1.5)
"""Rates of the figure beside those that the search tries, over the highest one."""
PLAIN: Final = ", same stacks as plain HBM"
"""How names of GPUs end that have the stacks of AttAccs as memory of their own."""
SMALL: Final = 0.05
"""Gain below which AttAccs are said to change little."""
SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Traffic:
    """Requests, and what their users accept.

    Attributes:
        name: as the tables call it.
        requests: the requests, with arrivals.
        targets: latencies that users accept.
    """

    name: str
    requests: Requests
    targets: Targets


@dataclass(frozen=True)
class Case:
    """Traffic of one model on systems with the same GPUs.

    Attributes:
        model_name: as the tables call it.
        model: the model.
        traffic: the requests.
        systems: systems by the name in the tables; the first one has no AttAccs.
        layouts: layouts of one replica; replicas take all GPUs.
        drawn: whether the figure has it.
    """

    model_name: str
    model: ServedModel
    traffic: Traffic
    systems: dict[str, ResolvedSystem]
    layouts: tuple[str, ...]
    drawn: bool = False


@dataclass(frozen=True)
class Shares:
    """What takes the time of the steps of a run.

    Attributes:
        prefill: what the prompts in steps add to the same steps without prompts.
        attention: what keys add to decode steps of as many requests with one key each; None where
            AttAccs attend.
    """

    prefill: float
    attention: float | None


@dataclass(frozen=True)
class Outcome:
    """The highest rate of one system.

    Attributes:
        system: as the tables call it.
        devices: the system.
        replicas: replicas of the model on it.
        found: the rate of one replica, and its run.
        shares: what takes the time of the run.
        further: pairs of a rate of one replica and its attainment, for the figure.
    """

    system: str
    devices: ResolvedSystem
    replicas: int
    found: FoundRate
    shares: Shares
    further: tuple[tuple[float, float], ...] = ()

    @property
    def requests_per_s(self) -> float:
        """The rate of all replicas."""
        return self.replicas * self.found.requests_per_s

    @property
    def joules_per_token(self) -> float:
        """Energy of all boards for each output token."""
        return sum(self.found.service.energy_per_output_token_j.values())

    def usd_per_request(self, output_tokens: float) -> float | None:
        """Return what a request costs: price of the node written off, and energy of the node.

        Args:
            output_tokens: mean of a request.

        Returns:
            US dollars; None where a price is not stated, and for stacks as plain HBM, which no
            price counts.
        """
        if self.system.endswith(PLAIN):
            return None
        boards_w = self.joules_per_token * output_tokens * self.requests_per_s
        node_w = boards_w + (self.devices.spec.host_power_w or 0.0)
        with suppress(InputError):
            per_hour = Ownership().usd_per_h(money(self.devices).node_price_usd, node_w)
            return per_hour / SECONDS_PER_HOUR / self.requests_per_s
        return None


class Explained(Server):
    """A server that also tells what takes the time of a run."""

    def shares(self, run: Run) -> Shares:
        """Return what takes the time of the steps of a run.

        Args:
            run: of this server.
        """
        prices = self.pools(fresh=False)[0].prices
        total = prefill = attention = 0
        held = False
        for step in run.steps:
            work = step.work
            time = prices.device_ps(work)
            total += time
            decode = work._replace(chunks=())
            decode_ps = prices.device_ps(decode) if work.decoding else 0
            prefill += time - decode_ps if work.chunks else 0
            held |= work.held is not None
            if work.decoding and work.held is None:
                short = decode._replace(keys=work.decoding, longest=1)
                attention += decode_ps - prices.device_ps(short)
        return Shares(prefill / total, None if held else attention / total)


def kinds_of_traffic(folder: Path, first: int | None) -> dict[str, Traffic]:
    """Return the traffic by a short name.

    Args:
        folder: of the traces.
        first: most requests of each; None for the numbers of the page.
    """

    def taken(requests: Requests, count: int) -> Requests:
        return requests.first(min(count, first or count))

    def trace(name: str, count: int) -> Requests:
        return taken(Requests.from_trace(folder / name, zero_output=ZeroOutput.SKIP), count)

    azure = "AzureLLMInferenceTrace_{}_2023.csv"
    mooncake = trace("mooncake_fast25_conversation_trace.jsonl.gz", 300)
    return {
        "conversation": Traffic(
            "Azure conversation", trace(azure.format("conv"), 1000), Targets(2000, 100)
        ),
        "code": Traffic("Azure code", trace(azure.format("code"), 1000), Targets(2000, 50)),
        "mooncake": Traffic("Mooncake conversation", mooncake, Targets(30_000, 100)),
        "reasoning": Traffic("reasoning", taken(reasoning(1200), 1200), Targets(2000, 50)),
        "answers": Traffic("long answers", taken(answers(600), 600), Targets(4000, 200)),
    }


def reasoning(count: int) -> Requests:
    """Return requests with short prompts and long outputs, one in a second.

    Args:
        count: how many.
    """
    lengths = Independent(
        LogNormal.of_cv(1000, 0.8, most=8192), LogNormal.of_cv(8000, 0.6, most=32_768)
    )
    return generated(count, lengths, arrivals=poisson(count, 1.0))


def answers(count: int) -> Requests:
    """Return requests that fit into a context of 2,048 tokens, most of them outputs.

    Args:
        count: how many.
    """
    lengths = Independent(
        LogNormal.of_cv(250, 0.6, most=512), LogNormal.of_cv(1200, 0.4, most=1536)
    )
    return generated(count, lengths, arrivals=poisson(count, 1.0))


def beside(gpus: str, *attaccs: str) -> dict[str, ResolvedSystem]:
    """Return GPUs alone, with AttAccs, and with the stacks of the first AttAccs as plain HBM.

    Args:
        gpus: name of the system without AttAccs.
        attaccs: names of systems with AttAccs.
    """
    found = {name: load_system(name) for name in (gpus, *attaccs)}
    return found | {f"{gpus}{PLAIN}": equal_stacks(found[attaccs[0]])}


def cases(traces: Path, configs: Path, first: int | None) -> Iterator[Case]:
    """Yield the cases of the page.

    Args:
        traces: folder of the traces.
        configs: folder of the models' config.json files.
        first: most requests of each trace; None for the numbers of the page.
    """
    kinds = kinds_of_traffic(traces, first)
    h200 = beside("8xh200", "8xh200-attacc-hbm3", "8xh200-attacc-hbm3-shared")
    llama, name = load_model("llama-3.1-70b"), "Llama 3.1 70B"
    shared, one = ("tp=8", "tp=4"), ("tp=8",)
    yield Case(name, llama, kinds["conversation"], h200, shared, drawn=True)
    yield Case(name, llama, kinds["reasoning"], h200, one, drawn=True)
    papers = beside("dgx-base", "dgx-attacc-bank")
    loose = Traffic("Azure conversation", kinds["conversation"].requests, Targets(4000, 200))
    gpt3 = load_model("gpt3-175b")
    yield Case("GPT-3 175B", gpt3, kinds["answers"], papers, one, drawn=True)
    yield Case("GPT-3 175B", gpt3, loose, papers, one)
    qwen = load_model(configs / "Qwen--Qwen3-235B-A22B-FP8_config.json")
    few = {key: h200[key] for key in ("8xh200", "8xh200-attacc-hbm3-shared")}
    yield Case("Qwen3-235B, fp8", qwen, kinds["conversation"], few, one)
    yield Case("Qwen3-235B, fp8", qwen, kinds["reasoning"], few, one)
    yield Case(name, llama, kinds["code"], few, shared)
    yield Case(name, llama, kinds["mooncake"], few, one)
    deepseek = load_model(configs / "deepseek-ai--DeepSeek-R1_config.json")
    yield Case("DeepSeek-R1 (V3), fp8", deepseek, kinds["conversation"], few, one)


def best_rate(case: Case, name: str, start: float) -> Outcome | str:
    """Return the highest rate of a system in its best layout, or why there is none.

    A further layout is searched only if it keeps the targets at 2 % more than the best rate so far.

    Args:
        case: the case.
        name: of the system.
        start: requests in a second at which the search begins, on all replicas together.
    """
    devices, traffic = case.systems[name], case.traffic
    best: Outcome | None = None
    reason = ""
    for layout in case.layouts:
        one = Layout.parse(layout)
        replicas = devices.gpus // one.gpus
        try:
            server = Explained(case.model, devices, layout=one)
            if best is not None:
                more = traffic.requests.at_rate(1.02 * best.requests_per_s / replicas)
                kept = server.latencies(more, traffic.targets)
                if (kept.slo_attainment or 0.0) < SHARE:
                    continue
            at = start if best is None else best.requests_per_s
            requests = traffic.requests.at_rate(at / replicas)
            found = find_rate(server, requests, traffic.targets, share=SHARE)
        except InputError as refusal:
            reason = reason or refusal.message
            continue
        shares = server.shares(found.service.run)
        rates = [found.requests_per_s * times for times in FURTHER] if case.drawn else []
        further = [
            (rate, server.latencies(traffic.requests.at_rate(rate), traffic.targets).slo_attainment)
            for rate in rates
        ]
        points = tuple((rate, kept or 0.0) for rate, kept in further)
        best = Outcome(name, devices, replicas, found, shares, points)
    return best or reason


def solved(case: Case) -> dict[str, Outcome | str]:
    """Return the highest rate of each system of a case, by the name in the tables.

    Args:
        case: the case.
    """
    found: dict[str, Outcome | str] = {}
    start = 1.0
    for name in case.systems:
        words = f"{case.traffic.name}, {case.model_name}, {name}"
        print(words, file=sys.stderr, flush=True)
        found[name] = outcome = best_rate(case, name, start)
        if isinstance(outcome, Outcome):
            start = outcome.requests_per_s
    return found


Solved = Sequence[tuple[Case, dict[str, Outcome | str]]]


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(above: float | None, below: float | None) -> str:
    return "-" if above is None or below is None else f"{above / below:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _target(targets: Targets) -> str:
    return f"{(targets.ttft_ms or 0) / 1000:g} s, {targets.tpot_ms:g} ms"


def rates_table(found: Solved) -> list[str]:
    """Return the table of rates, energies and dollars as lines of Markdown.

    Args:
        found: the cases with the rates of their systems.
    """
    lines = [
        (
            "| traffic | TTFT, TPOT | model | system | best layout | requests/s | gain "
            "| J per output token | energy ratio | gain per USD |"
        ),
        "|---|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for case, systems in found:
        base = next(iter(systems.values()))
        tokens = float(case.traffic.requests.output_tokens.mean())
        head = case.traffic.name, _target(case.traffic.targets), case.model_name
        for name, one in systems.items():
            if isinstance(one, str):
                lines.append(_cells(*head, name, one, "-", "-", "-", "-", "-"))
                continue
            known = base if isinstance(base, Outcome) else None
            layout = str(Layout.parse(one.found.service.layout))
            ratios = (
                _ratio(one.requests_per_s, known and known.requests_per_s),
                _ratio(known and known.joules_per_token, one.joules_per_token),
                _ratio(known and known.usd_per_request(tokens), one.usd_per_request(tokens)),
            )
            gain, energy, dollar = ("1", "1", "1") if one is base else ratios
            mark = "*" if one.found.burst else ""
            lines.append(
                _cells(
                    *head,
                    name,
                    layout.replace("replicas=1", f"r={one.replicas}"),
                    f"{one.requests_per_s:.3g}{mark}",
                    gain,
                    f"{one.joules_per_token:.3g}",
                    energy,
                    dollar,
                )
            )
    return lines


def reasons_table(found: Solved) -> list[str]:
    """Return the table of what takes the time as lines of Markdown.

    Args:
        found: the cases with the rates of their systems.
    """
    lines = [
        (
            "| traffic | model | system | prefill | decode attention on GPUs | AttAccs busy "
            "| imbalance | requests that run | memory in use | prompts cached | TTFT p90, ms "
            "| TPOT p90, ms |"
        ),
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, systems in found:
        for name, one in systems.items():
            if isinstance(one, str):
                continue
            service, told = one.found.service, one.found.service.latencies
            imbalance = service.imbalance
            lines.append(
                _cells(
                    case.traffic.name,
                    case.model_name,
                    name,
                    _share(one.shares.prefill),
                    _share(one.shares.attention),
                    _share(service.utilisation["attaccs"] or None),
                    "-" if imbalance is None else f"{imbalance:.2f}",
                    f"{one.replicas * service.mean_running:,.0f}",
                    f"{service.kv_use:.0%}",
                    f"{told.prefix_hit_share:.0%}",
                    f"{told.ttft_ms.p90:,.0f}",
                    f"{told.tpot_ms.p90:,.1f}",
                )
            )
    return lines


def sentence(case: Case, systems: dict[str, Outcome | str]) -> str:
    """Return in words whether AttAccs pay for a case, and why.

    Args:
        case: the case.
        systems: the rates of its systems.
    """
    solved_ones = [one for one in systems.values() if isinstance(one, Outcome)]
    base = next(iter(systems.values()))
    head = f"**{case.model_name}, {case.traffic.name}, {next(iter(systems))}.**"
    with_attaccs = [one for one in solved_ones if one.devices.attacc is not None]
    if not isinstance(base, Outcome) or not with_attaccs:
        return f"{head} The GPUs alone, or all systems with AttAccs, keep the targets at no rate."
    if any(kind in STAYS for kind in kinds_of(case.model)):
        return (
            f"{head} Latent attention stays on the GPUs. AttAccs do nothing there but draw power "
            "and cost money, so they do not pay."
        )
    if base.found.burst:
        return (
            f"{head} The run of the GPUs alone is too short for this load. These rates are those "
            "of a burst, and tell nothing of traffic that goes on: this load needs more requests."
        )
    best = max(with_attaccs, key=lambda one: one.requests_per_s)
    gain = best.requests_per_s / base.requests_per_s
    where = (
        f"On the GPUs alone, prefill takes {base.shares.prefill:.0%} of the time of the steps and "
        f"decode attention {base.shares.attention or 0:.0%}."
    )
    if gain > 1 + SMALL:
        said = f"`{best.system}` serves {gain:.2f} times the requests."
    elif gain > 1 - SMALL:
        said = f"`{best.system}`, the best of them, serves {gain:.2f} times the requests."
    else:
        said = f"`{best.system}`, the best of them, serves only {gain:.2f} times the requests."
    if best.found.burst:
        said += " Its run is too short for this load, and its rate too high."
    tokens = float(case.traffic.requests.output_tokens.mean())
    mine, theirs = best.usd_per_request(tokens), base.usd_per_request(tokens)
    if mine is None or theirs is None:
        money_said = "Prices of these platforms are not stated."
    elif theirs > mine:
        money_said = f"They pay: a dollar buys {theirs / mine:.2f} times the requests."
    else:
        money_said = f"They do not pay: a dollar buys {theirs / mine:.2f} times the requests."
    plain = next((one for one in solved_ones if one.system.endswith(PLAIN)), None)
    rival = ""
    if plain is not None:
        of_plain = plain.requests_per_s / base.requests_per_s
        rival = f" The same stacks as plain HBM would serve {of_plain:.2f} times the requests."
    return f"{head} {where} {said} {money_said}{rival}"


def draw(found: Solved, path: Path) -> None:
    """Draw attainment against rate, a panel for each drawn case.

    Args:
        found: the cases with the rates of their systems.
        path: of the figure.
    """
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
    drawn = [one for one in found if one[0].drawn]
    subplots: Any = plt.subplots
    figure, panels = subplots(
        1, len(drawn), figsize=(4.2 * len(drawn), 4.4), layout="constrained", squeeze=False
    )
    colours = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
    for axes, (case, systems) in zip(panels[0], drawn, strict=True):
        for colour, marker, (name, one) in zip(colours, "os^Dv", systems.items(), strict=False):
            if isinstance(one, str):
                continue
            tried = [(t.requests_per_s, t.attainment) for t in one.found.tried]
            points = sorted({*tried, *one.further})
            axes.plot(
                [one.replicas * rate for rate, _ in points],
                [100 * kept for _, kept in points],
                color=colour, marker=marker, ms=3.5, lw=1.4, label=name,
            )  # fmt: skip
        most = max(o.requests_per_s for o in systems.values() if isinstance(o, Outcome))
        axes.axhline(100 * SHARE, color="#999999", lw=1, ls=":")
        axes.set(xlabel="requests in a second", xlim=(0, 1.6 * most), ylim=(0, 102))
        axes.set_title(
            f"{case.traffic.name}, {case.model_name}\n{_target(case.traffic.targets)}", fontsize=10
        )
        axes.grid(which="major", color="#e6e6e6", lw=0.7)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=7, loc="lower left")
    panels[0][0].set_ylabel("requests that keep both targets, %")
    save: Any = figure.savefig
    save(path, metadata={"Date": None})


def text_of(found: Solved) -> str:
    """Return sentences and tables as Markdown.

    Args:
        found: the cases with the rates of their systems.
    """
    sentences = [f"- {sentence(case, systems)}" for case, systems in found]
    return "\n".join([*sentences, "", *rates_table(found), "", *reasons_table(found)])


def write(found: Solved, page: Path, figure: Path) -> None:
    """Replace the tables of a page, and its figure.

    Args:
        found: the cases with the rates of their systems.
        page: with the markers.
        figure: of attainment against rate.
    """
    before, rest = page.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    page.write_text(f"{before}{START}\n\n{text_of(found)}\n\n{END}{after}", encoding="utf-8")
    draw(found, figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--first", type=int, help="most requests of each trace")
    parser.add_argument("--only", default="", help="cases whose names contain this")
    asked = parser.parse_args(arguments)
    found: list[tuple[Case, dict[str, Outcome | str]]] = []
    for case in cases(asked.traces, asked.configs, asked.first):
        if asked.only in f"{case.traffic.name}, {case.model_name}":
            found.append((case, solved(case)))
            if asked.write:
                write(found, PAGE, FIGURE)
    if not asked.write:
        print(text_of(found))


if __name__ == "__main__":
    main()
