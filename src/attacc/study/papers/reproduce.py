"""The figures of the two AttAcc papers, made again under their conditions."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Any, Final

from attacc.compiled import told_of_compilation
from attacc.errors import InputError, UnknownNameError, member
from attacc.gpu.models import GpuModel, cost_model
from attacc.results import Progress, Result, untold
from attacc.study.papers import asplos2024 as asplos2024
from attacc.study.papers import cal2023 as cal2023
from attacc.study.papers import sensitivity as sensitivity
from attacc.study.papers.breakdown import breakdown
from attacc.study.papers.exhibits import Exhibit, Paper
from attacc.study.papers.headline import headline
from attacc.study.papers.platforms import Pricers
from attacc.study.papers.runs import runs
from attacc.study.papers.schedules import schedules
from attacc.study.papers.setting import Setting


@dataclass(frozen=True, slots=True)
class Reproduction(Result):
    """Exhibits made with one GPU model.

    Attributes:
        gpu_model: the model that priced the GPUs.
        exhibits: the exhibits in order.
        estimates: parts of the prices that were neither published nor measured, in words.
    """

    gpu_model: GpuModel
    exhibits: tuple[Exhibit, ...]
    estimates: tuple[str, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each row of every exhibit: its exhibit, and its cells by column."""
        return [
            {"exhibit": exhibit.id}
            | {column.key: cell for column, cell in zip(exhibit.columns, row, strict=True)}
            for exhibit in self.exhibits
            for row in exhibit.rows
        ]


@dataclass(frozen=True, slots=True)
class Made:
    """An exhibit, and the estimates in its prices.

    Attributes:
        exhibit: the exhibit.
        estimates: the estimates in words.
    """

    exhibit: Exhibit
    estimates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExhibitSpec:
    """How an exhibit is made.

    Attributes:
        id: its name for programs.
        paper: which paper shows the like.
        make: function that makes it.
        alone: whether it shares no prices with others and takes long, so that a process of its own
            saves time.
    """

    id: str
    paper: Paper
    make: Callable[[Setting], Exhibit]
    alone: bool = False


ALL: Final = "all"
"""Every paper, in place of one."""

EXHIBITS: Final = (
    ExhibitSpec("cal2023-intensity", Paper.CAL2023, cal2023.intensity),
    ExhibitSpec("cal2023-kv-bytes", Paper.CAL2023, cal2023.kv_bytes),
    ExhibitSpec("cal2023-attention-share", Paper.CAL2023, cal2023.attention_share),
    ExhibitSpec("cal2023-batch", Paper.CAL2023, cal2023.batches),
    ExhibitSpec("asplos2024-headline", Paper.ASPLOS2024, headline),
    ExhibitSpec("asplos2024-breakdown", Paper.ASPLOS2024, breakdown),
    ExhibitSpec("asplos2024-paper-runs", Paper.ASPLOS2024, lambda _: runs(), alone=True),
    ExhibitSpec("asplos2024-papers-batches", Paper.ASPLOS2024, asplos2024.papers_batches),
    ExhibitSpec(
        "asplos2024-gpt3",
        Paper.ASPLOS2024,
        lambda setting: asplos2024.grid(setting, setting.gpt3, "gpt3"),
    ),
    ExhibitSpec(
        "asplos2024-llama",
        Paper.ASPLOS2024,
        lambda setting: asplos2024.grid(setting, setting.llama, "llama"),
    ),
    ExhibitSpec(
        "asplos2024-mt-nlg",
        Paper.ASPLOS2024,
        lambda setting: asplos2024.grid(setting, setting.mt_nlg, "mt-nlg"),
    ),
    ExhibitSpec("asplos2024-placements", Paper.ASPLOS2024, asplos2024.placements, alone=True),
    ExhibitSpec("asplos2024-optimisations", Paper.ASPLOS2024, asplos2024.optimisations),
    ExhibitSpec("asplos2024-schedules", Paper.ASPLOS2024, schedules),
    ExhibitSpec("asplos2024-int8", Paper.ASPLOS2024, asplos2024.int8),
    ExhibitSpec("asplos2024-gqa", Paper.ASPLOS2024, sensitivity.groups),
    ExhibitSpec("asplos2024-length", Paper.ASPLOS2024, sensitivity.length),
    ExhibitSpec("asplos2024-stacks", Paper.ASPLOS2024, sensitivity.stacks),
    ExhibitSpec("asplos2024-link", Paper.ASPLOS2024, sensitivity.links),
)
"""All exhibits, in the order in which they are told."""


def chosen(papers: Iterable[Paper], ids: Iterable[str] = ()) -> tuple[ExhibitSpec, ...]:
    """Return the exhibits of some papers, or those of these names.

    Args:
        papers: papers whose exhibits are wanted.
        ids: names of exhibits; if any are given, `papers` is ignored.

    Raises:
        UnknownNameError: there is no exhibit of a given name.
    """
    names = tuple(ids)
    known = [spec.id for spec in EXHIBITS]
    for name in names:
        if name not in known:
            raise UnknownNameError("exhibit", name, known, where="exhibits")
    wanted = set(papers)
    return tuple(spec for spec in EXHIBITS if (spec.id in names if names else spec.paper in wanted))


def reproduce_papers(
    papers: Iterable[Paper | str] | str = ALL,
    *,
    exhibits: Iterable[str] = (),
    gpu_model: GpuModel | str = GpuModel.PUBLISHED,
    progress: Progress = untold,
    second_process: bool = False,
) -> Reproduction:
    """Make the figures of the AttAcc papers again, the papers' values beside ours.

    Args:
        papers: "cal2023", "asplos2024", a list of them, or "all".
        exhibits: names of exhibits; where there are any, papers are ignored.
        gpu_model: what prices the GPUs: "published" or "calibrated".
        progress: told the name of every exhibit before it is made, and how many there are.
        second_process: as in `reproduce`.

    Raises:
        UnknownNameError: there is no such paper, exhibit or GPU model.
    """
    named = [papers] if isinstance(papers, str) else papers
    if not isinstance(named, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{papers!r:.40} is no paper", where="papers", hint="name one, or several")
    known = [*Paper, ALL]
    wanted: list[Paper] = []
    for paper in named:
        if paper not in known:
            raise UnknownNameError("paper", paper, known, where="papers")
        wanted += Paper if paper == ALL else [Paper(paper)]
    specs = chosen(wanted, exhibits)
    prices = member(GpuModel, gpu_model, where="gpu_model")
    return reproduce(specs, prices, progress, second_process=second_process)


def reproduce(
    specs: Iterable[ExhibitSpec],
    gpu_model: GpuModel,
    progress: Progress = untold,
    *,
    second_process: bool = False,
) -> Reproduction:
    """Make exhibits.

    Args:
        specs: which.
        gpu_model: what prices the GPUs.
        progress: told the name of every exhibit before it is made, or before it is waited for.
        second_process: make those that share nothing with others in another process, beside the
            others. It imports the main module again, which must be guarded against that.

    Raises:
        InputError: the GPU model cannot price steps at all.
    """
    wanted = tuple(specs)
    setting = Setting(Pricers(cost_model(gpu_model)))
    apart = tuple(spec for spec in wanted if spec.alone) if second_process else ()
    if len(apart) in (0, len(wanted)):
        made = _make(wanted, setting, progress)
    else:
        beside = tuple(spec for spec in wanted if spec not in apart)
        with _another_process() as pool:
            with _not_interrupted():
                pending = {
                    spec.id: pool.submit(_make_quietly, spec.id, gpu_model) for spec in apart
                }
            made = _make(beside, setting, lambda name, _: progress(name, len(wanted)))
            for name, future in pending.items():
                progress(name, len(wanted))
                made[name] = future.result()
    exhibits = tuple(made[spec.id].exhibit for spec in wanted)
    estimates = dict.fromkeys(note for spec in wanted for note in made[spec.id].estimates)
    return Reproduction(gpu_model, exhibits, tuple(estimates))


@contextmanager
def _another_process() -> Generator[ProcessPoolExecutor]:
    """Yield one other process; an exception, an interrupt say, ends it in the midst of its work."""
    others = active_children()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise


@contextmanager
def _not_interrupted() -> Generator[None]:
    """Start processes that Ctrl-C in a terminal passes by; here it waits until they are started.

    It goes to all processes at once, and each would end with a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has none
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make_quietly(name: str, gpu_model: GpuModel) -> Made:
    """Make one exhibit in another process; the first process reports compilation."""
    with told_of_compilation(lambda: None, lambda _: None):
        return make_alone(name, gpu_model)


def make_alone(name: str, gpu_model: GpuModel) -> Made:
    """Make one exhibit, as in another process."""
    setting = Setting(Pricers(cost_model(gpu_model)))
    exhibit = next(spec for spec in EXHIBITS if spec.id == name).make(setting)
    return Made(exhibit, setting.pricers.estimates)


def _make(specs: Iterable[ExhibitSpec], setting: Setting, progress: Progress) -> dict[str, Made]:
    made: dict[str, Made] = {}
    some = tuple(specs)
    for spec in some:
        progress(spec.id, len(some))
        exhibit = spec.make(setting)
        made[spec.id] = Made(exhibit, setting.pricers.estimates)
    return made
