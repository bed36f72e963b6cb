"""Where should attention run? For each kind of layers, GPUs or AttAccs, over length and batch.

Every answer compares two whole decode steps: in both, all other mixers run on the GPUs. So the
ratio holds for a step, with transfers and whatever hides them, and not for attention alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from attacc.errors import InputError
from attacc.gpu.models import GpuModel
from attacc.hardware.system import AttentionSite, ResolvedSystem, Source, changed_system
from attacc.models.huggingface import load_model
from attacc.models.mixers import Mixer
from attacc.models.parameters import AnyModel
from attacc.models.served import ServedModel
from attacc.pim.program.interleaved import QueryPasses
from attacc.results import Progress, Result, untold
from attacc.system.batches import Batches
from attacc.system.layer_attention import LayerHeads
from attacc.system.pricer import Pricer
from attacc.system.sites import Site, can_leave, kinds_of, why_not
from attacc.system.step import Group, OperatorTime, StepCost
from attacc.units import NS_PER_MS, wholes
from attacc.workload.speculation import MOST_DRAFTS, Speculation

DEFAULT_LENGTHS: Final = (1024, 8192, 65_536)
DEFAULT_BATCHES: Final = (1, 16, 128)
DEFAULT_SYSTEM: Final = "dgx-attacc-bank"
MOVED: Final = ("qkv_transfer", "context_transfer", "index_transfer", "score_transfer")
"""Operators that move queries, scores and contexts between GPUs and AttAccs."""
LEFT: Final = ("index_choice", "beside_attention")
"""Operators of a mixer that stay on the GPUs when its attention leaves."""
MOST_POINTS: Final = 4096
"""Most combinations of length, batch and queries: each takes the timing of a program."""


@dataclass(frozen=True, slots=True)
class WhereRow:
    """One kind of layers at one length, batch and number of query tokens.

    Attributes:
        length: keys of every request, the newest included.
        batch: requests.
        queries: tokens of each request in a step.
        tokens: tokens that a step yields for a request, on average; None where it is not known how
            many drafts are accepted.
        kind: kind of the layers.
        site: where the step is shorter.
        ratio: step with the mixers on the GPUs over that with them on AttAccs; above 1, AttAccs
            win. None where AttAccs cannot run them, or cannot hold their keys.
        gpu_ms: the step with the mixers on the GPUs.
        attacc_ms: the step with the mixers on AttAccs; None likewise.
        share: share of the mixers of this kind in the step on the GPUs.
        flops_per_byte: operations per byte that the mixer reads.
        passes: times that AttAccs read the keys; 0 where they cannot run them.
        reason: what decides, in words.
    """

    length: int
    batch: int
    queries: int
    tokens: float | None
    kind: str
    site: Site
    ratio: float | None
    gpu_ms: float
    attacc_ms: float | None
    share: float
    flops_per_byte: float
    passes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Map(Result):
    """Where the mixers of a model should run.

    Attributes:
        model: name of the model.
        system: name of the system.
        cost_model: what priced the GPUs.
        bandwidth_ratio: rate at which all AttAccs read inside over the bandwidth of all GPUs.
        rows: by kind, queries, batch and length.
        estimates: parts of the prices that are scaled, assumed, or beyond what was measured.
    """

    model: str
    system: str
    cost_model: str
    bandwidth_ratio: float
    rows: tuple[WhereRow, ...]
    estimates: tuple[str, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each point."""
        return [asdict(row) for row in self.rows]


def where(
    model: str | Path | Mapping[str, object] | AnyModel,
    system: Source = DEFAULT_SYSTEM,
    *,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    batches: Sequence[int] = DEFAULT_BATCHES,
    queries: Sequence[int] | None = None,
    draft_tokens: int | None = None,
    acceptance: float | Sequence[float] | None = None,
    gpu_model: GpuModel | str = GpuModel.CALIBRATED,
    progress: Progress = untold,
) -> Map:
    """Tell for each kind of layers whether its mixers should run on GPUs or on AttAccs.

    Args:
        model: as in `attacc.compare`.
        system: a system with AttAccs, likewise.
        lengths: keys of every request.
        batches: requests of a step.
        queries: tokens of each request in a step; by default 1, and 1 + N where N drafts are
            verified.
        draft_tokens: N, the drafts that every step verifies; None for none.
        acceptance: probability that a draft is accepted if those before it were: one for all, or
            one for each. It tells how many tokens a step yields.
        gpu_model: what prices the GPUs.
        progress: told the name of every kind of layers, and how many there are.

    Raises:
        InputError: something that is named does not exist or is malformed, the system has no
            AttAccs, a size is out of range, or there are too many points.
    """
    served, resolved = load_model(model, where="model"), changed_system(system, where="system")
    if resolved.attacc is None or resolved.spec.attention is not AttentionSite.ATTACC:
        raise InputError(
            f"system {resolved.spec.name} has no AttAccs",
            where="system",
            hint=f"name one that has, as in {DEFAULT_SYSTEM}",
        )
    drafts = Speculation.of(draft_tokens, acceptance)
    if queries is None:
        queries = sorted({1, drafts.queries})
    elif drafts.draft_tokens:
        raise InputError(
            "queries and draft_tokens are given at once", where="queries", hint="give one of them"
        )
    grid = _Grid.of(lengths, batches, queries)
    kinds = kinds_of(served)
    everything: dict[str, Site | str] = dict.fromkeys(kinds, Site.GPU)
    on_gpus = Pricer(served, resolved, gpu_model=gpu_model, sites=everything)
    alone: list[StepCost] = []
    for step in grid.priced(on_gpus):
        if isinstance(step, str):
            raise InputError(step, where="model")
        alone.append(step)
    rows: list[WhereRow] = []
    notes: dict[str, None] = {note: None for step in alone for note in step.estimates}
    notes |= dict.fromkeys(served.beyond_context(max(grid.lengths)))
    for kind in kinds:
        progress(kind, len(kinds))
        moved: list[StepCost | str] | None = None
        if can_leave(served, resolved, kind):
            sites = everything | {kind: Site.ATTACC}
            moved = grid.priced(Pricer(served, resolved, gpu_model=gpu_model, sites=sites))
            steps = [step for step in moved if isinstance(step, StepCost)]
            notes |= {note: None for step in steps for note in step.estimates}
        rows += _rows(served, resolved, kind, grid, drafts, alone, moved)
    assert on_gpus.attaccs is not None  # noqa: S101 - the system has AttAccs
    return Map(
        served.name,
        resolved.spec.name,
        on_gpus.costs.kind,
        _bandwidth_ratio(resolved, on_gpus.attaccs.rates.internal_bytes_per_s),
        tuple(rows),
        tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Every combination of length, batch and queries, as one list."""

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    queries: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], batches: Sequence[int], queries: Sequence[int]) -> _Grid:
        tokens = wholes(queries, where="queries").tolist()
        for one in tokens:
            if one > MOST_DRAFTS + 1:
                raise InputError(
                    f"{one} is out of range", where="queries", hint=f"use 1 to {MOST_DRAFTS + 1}"
                )
        keys, sizes = wholes(lengths, where="lengths").tolist(), wholes(batches, where="batches")
        points = len(keys) * sizes.size * len(tokens)
        if not 1 <= points <= MOST_POINTS:
            raise InputError(
                f"{points:,} combinations of length, batch and queries",
                where="lengths",
                hint=f"ask for 1 to {MOST_POINTS:,}",
            )
        return cls(tuple(keys), tuple(sizes.tolist()), tuple(tokens))

    def points(self) -> list[tuple[int, int, int]]:
        """Return (queries, batch, length) of every point."""
        return [(q, b, n) for q in self.queries for b in self.batches for n in self.lengths]

    def priced(self, pricer: Pricer) -> list[StepCost | str]:
        """Return the step of every point, or why it cannot be: what does not fit into stacks."""
        found: list[StepCost | str] = []
        for queries in self.queries:
            pairs = [(b, n) for b in self.batches for n in self.lengths]
            requests, keys = np.array(pairs, dtype=np.int64).T
            try:
                steps = pricer.steps(Batches.equal(requests, keys, queries=queries))
                found += [steps.at(number) for number in range(steps.steps)]
            except InputError:
                found += [_step(pricer, b, n, queries) for b, n in pairs]
        return found


def _step(pricer: Pricer, batch: int, length: int, queries: int) -> StepCost | str:
    try:
        return pricer.steps(Batches.equal(batch, length, queries=queries)).at(0)
    except InputError as refusal:
        return refusal.message


def _rows(
    model: ServedModel,
    system: ResolvedSystem,
    kind: str,
    grid: _Grid,
    drafts: Speculation,
    alone: Sequence[StepCost],
    moved: Sequence[StepCost | str] | None,
) -> list[WhereRow]:
    """Return the rows of one kind of layers."""
    layers = [g for g in model.groups if g.layer.site_kind == kind]
    names = {g.layer.kind for g in layers}
    found: list[WhereRow] = []
    for number, (queries, batch, length) in enumerate(grid.points()):
        gpu = alone[number]
        mixers = [op for op in gpu.operators if op.layers in names and op.group is Group.ATTENTION]
        attention_ns = sum(op.runs * op.time_ns for op in mixers)
        works = [
            (g.count, g.layer.mixer.decode_work(length, model.kv.bytes, queries))
            for g in layers
            if g.layer.mixer is not None
        ]
        flops = sum(count * work.flops for count, work in works)
        read = sum(count * work.bytes for count, work in works)
        ratio, attacc_ms, passes = None, None, 0
        reason = f"AttAccs cannot run these layers: {why_not(model, system, kind)}"
        site = Site.GPU
        there = None if moved is None else moved[number]
        if isinstance(there, str):
            reason = there
        elif there is not None:
            ratio, attacc_ms = gpu.time_ns / there.time_ns, there.time_ns / NS_PER_MS
            site = Site.ATTACC if ratio > 1 else Site.GPU
            passes = _passes(model, system, layers[0].layer.mixer, queries)
            reason = _reason(attention_ns, there, names, passes)
        found.append(
            WhereRow(
                length=length,
                batch=batch,
                queries=queries,
                tokens=_tokens(queries, drafts),
                kind=kind,
                site=site,
                ratio=ratio,
                gpu_ms=gpu.time_ns / NS_PER_MS,
                attacc_ms=attacc_ms,
                share=attention_ns / gpu.time_ns,
                flops_per_byte=flops / read if read else 0.0,
                passes=passes,
                reason=reason,
            )
        )
    return found


def _tokens(queries: int, drafts: Speculation) -> float | None:
    """Return the tokens that a step of so many queries yields, where that is known."""
    if queries == 1:
        return 1.0
    return drafts.tokens_per_step if queries == drafts.queries else None


def _passes(model: ServedModel, system: ResolvedSystem, mixer: Mixer | None, queries: int) -> int:
    """Return how often AttAccs read the keys of a head in a step."""
    heads = None if mixer is None else LayerHeads.of(mixer, model.kv, queries)
    if heads is None or system.attacc is None:
        return 0
    return QueryPasses.of(heads.queries, system.attacc.table.queries_per_read).passes


def _reason(gpu_ns: float, there: StepCost, names: set[str], passes: int) -> str:
    """Return what decides between the two sites, in words."""
    own = [op for op in there.operators if op.layers in names]

    def told(*found: OperatorTime) -> str:
        return f"{sum(op.runs * op.time_ns for op in found) / NS_PER_MS:.3g} ms"

    left = [op for op in own if op.name in LEFT]
    attention = [op for op in own if op.group is Group.ATTENTION and op.name not in LEFT]
    moved = [op for op in own if op.name in MOVED]
    read = f"AttAccs read the keys {passes} times" if passes > 1 else "AttAccs read the keys once"
    rest = f", {told(*left)} left on the GPUs" if left else ""
    parts = f"GPUs {gpu_ns / NS_PER_MS:.3g} ms, AttAccs {told(*attention)}{rest}"
    return f"{read}: {parts} and {told(*moved)} of transfers"


def _bandwidth_ratio(system: ResolvedSystem, internal_bytes_per_s: float) -> float:
    """Return the AttAccs' rate of reading inside over the GPUs' bandwidth, of the whole system."""
    assert system.attacc is not None  # noqa: S101 - asked only then
    there = internal_bytes_per_s * system.attacc.table.devices
    return there / (system.gpus * system.gpu.memory_bytes_per_s)
