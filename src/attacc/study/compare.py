"""Compares systems on one model and workload: whole requests, and decode alone.

Whole requests are those of `attacc.study.whole`. In decode alone, the batch decodes in lockstep.
With equal requests it passes through every length of the cache from prompt + 1 to
prompt + output - 1, once each. With mixed requests, slots are refilled as they empty, and a step is
priced at lengths that represent the lengths of a slot over time (`attacc.workload.lengths`). This
price is an estimate, and the result says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from attacc.documents import parse_document
from attacc.errors import CapacityError, DocumentError, InputError, UnknownNameError
from attacc.gpu.costs import Bound
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.dram import DRAMS
from attacc.hardware.system import (
    CapacityRule,
    ResolvedSystem,
    Source,
    SystemSpec,
    changed_system,
)
from attacc.models.huggingface import load_model
from attacc.models.parameters import AnyModel, count_parameters, kv_bytes_per_token
from attacc.models.precision import ElementType
from attacc.models.served import ServedModel
from attacc.results import Progress, Result, flat, untold
from attacc.serving.policies import TOKEN_BUDGET, PrefillPolicy, ServingOptions
from attacc.study.specification import (
    DEFAULT_MODEL,
    DEFAULT_OUTPUT,
    DEFAULT_PROMPT,
    DEFAULT_SYSTEMS,
    StudySpec,
)
from attacc.study.whole import Asked as WholeAsked
from attacc.study.whole import (
    Found,
    Known,
    WholeRequests,
    all_whole_requests,
    best_of,
    beyond_context,
    has_choice,
    known_as,
    with_causes,
)
from attacc.system.attaccs import AttentionCurve, CurveKind
from attacc.system.capacity import Store
from attacc.system.pricer import (
    DECODE_BINS,
    Asked,
    BatchChoice,
    DecodePrice,
    Pricer,
    SplitError,
)
from attacc.system.sites import Site, assignments, kinds_of
from attacc.system.step import Group, StepCost
from attacc.units import NS_PER_MS, NS_PER_S, PJ_PER_J
from attacc.workload.lengths import LengthDistribution, LengthKind, decode_lengths
from attacc.workload.requests import Workload, workload_of
from attacc.workload.speculation import NO_DRAFTS, Speculation

_ONE_SYSTEM: Final = (str, Path, Mapping, SystemSpec, ResolvedSystem)


class Status(StrEnum):
    """Whether a system can serve the comparison."""

    OK = "ok"
    DOES_NOT_FIT = "does_not_fit"
    DOES_NOT_SPLIT = "does_not_split"
    MISSES_SLO = "misses_slo"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """One memory of a system with its contents for the batch.

    Attributes:
        name: name of the memory, as in "memory of each GPU".
        available_bytes: size of the memory.
        weights_bytes: weights, and copies of weights.
        activations_bytes: activations.
        kv_bytes: keys and values of every request at its longest.
    """

    name: str
    available_bytes: float
    weights_bytes: float
    activations_bytes: float
    kv_bytes: float


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the mean decode step.

    Attributes:
        name: fc, attention, communication or other.
        time_ms: time that it adds to the step.
        share: its share of the step.
        bound: resource that limits most of its time; None where it adds no time.
        energy_j: energy of the part in the step, of all devices.
    """

    name: Group
    time_ms: float
    share: float
    bound: Bound | None
    energy_j: float


@dataclass(frozen=True, slots=True)
class AttaccNote:
    """How attention on AttAcc was obtained.

    Attributes:
        kind: exact, or interpolated over the length.
        relative_error: bound of the error of the mean attention time, an estimate; 0 if exact.
        heads_per_stack: query heads of the fullest stack.
        passes_per_kv_head: times that the keys and values of one head are read in a step: once
            for every `queries_per_read` of the query heads that share them.
    """

    kind: CurveKind
    relative_error: float
    heads_per_stack: int
    passes_per_kv_head: int


@dataclass(frozen=True, slots=True)
class Performance:
    """How a system serves its batch.

    Attributes:
        throughput_tokens_per_s: output tokens of the whole batch while it decodes.
        tpot_ms: mean time per output token: the mean decode step over the tokens that it yields.
        longest_step_ms: the longest of the decode steps that were priced, over all lengths.
        prefill_ms: prefill of one request alone, mean over prompts.
        energy_per_token_j: energy of decode, per token.
        prefill_energy_j: energy of the prefill of one request.
        hidden_ms: work of the mean step that other work hides, or that AttAcc takes over.
        speedup: throughput over that of the first system; None if the first system has none.
        energy_ratio: energy per token of the first system over that of this one; None if the first
            system has none.
        breakdown: parts of the mean decode step.
        attacc: how attention on AttAcc was obtained; None where it runs elsewhere.
        estimates: parts of the prices of decode steps and prefill that are scaled, assumed, or
            beyond the fitted range.
    """

    throughput_tokens_per_s: float
    tpot_ms: float
    longest_step_ms: float
    prefill_ms: float
    energy_per_token_j: float
    prefill_energy_j: float
    hidden_ms: float
    speedup: float | None
    energy_ratio: float | None
    breakdown: tuple[Part, ...]
    attacc: AttaccNote | None
    estimates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SystemResult:
    """One system of a comparison.

    Attributes:
        system: name of the system.
        description: description of the system.
        status: whether it can serve the comparison.
        reason: why it cannot, by how much, and what would be possible; None if it can.
        memory: every memory with its contents for the chosen or given batch, or for a single
            request if there is no batch. Empty if the model cannot be split over the GPUs.
        memory_bytes: all memory of the system.
        capacity_rule: which memory of a system with AttAccs may hold what; None without AttAccs.
        sites: where the mixers of each kind of layers run; empty without a batch.
        batch: the batch and its limit; None if no batch serves the comparison.
        performance: decode; None unless the status is ok.
        whole_requests: prefill and decode of whole requests, in the best layout; None where no
            layout serves them.
        whole_reason: why no layout serves whole requests; None if one does.
    """

    system: str
    description: str
    status: Status
    reason: str | None
    memory: tuple[MemoryUse, ...]
    memory_bytes: float
    capacity_rule: CapacityRule | None
    batch: BatchChoice | None
    performance: Performance | None
    sites: dict[str, Site]
    whole_requests: WholeRequests | None = None
    whole_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The model of a comparison.

    Attributes:
        name: name of the model.
        parameters: number of parameters.
        active_parameters: number of parameters that a token uses.
        weights: format of most parameters of the layers.
        activations: element type of the values between operators.
        kv: element type of the key/value cache.
        kv_bytes_per_token: bytes of keys and values of one token, all layers and heads.
    """

    name: str
    parameters: int
    active_parameters: int
    weights: str
    activations: ElementType
    kv: ElementType
    kv_bytes_per_token: float


@dataclass(frozen=True, slots=True)
class WorkloadSummary:
    """The workload of a comparison.

    Attributes:
        name: name of the workload.
        source: where its lengths come from.
        requests: number of requests from which it was reduced; 1 for fixed lengths.
        mean_prompt_tokens: mean over requests.
        mean_output_tokens: mean over requests.
        mean_kv_tokens: mean cache length over decode steps.
        length_kind: whether every length is priced, or representative ones are.
    """

    name: str
    source: str
    requests: int
    mean_prompt_tokens: float
    mean_output_tokens: float
    mean_kv_tokens: float
    length_kind: LengthKind


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """Systems compared on one model and workload.

    Attributes:
        model: the model.
        workload: the workload.
        cost_model: which model prices the GPUs, "published" or "calibrated".
        speculation: drafts of every decode step, and how many are accepted.
        tokens_per_step: tokens that a decode step yields for a request, on average.
        shared_prefix: tokens that all prompts begin with.
        slo_ms: longest acceptable mean time per output token, if any.
        systems: results in the given order.
    """

    model: ModelSummary
    workload: WorkloadSummary
    cost_model: str
    slo_ms: float | None
    systems: tuple[SystemResult, ...]
    speculation: Speculation = NO_DRAFTS
    tokens_per_step: float = 1.0
    shared_prefix: int = 0

    @property
    def estimates(self) -> tuple[str, ...]:
        """The estimates of all systems, each once."""
        decode = [s.performance.estimates for s in self.systems if s.performance is not None]
        whole = [s.whole_requests.estimates for s in self.systems if s.whole_requests is not None]
        return tuple(dict.fromkeys(note for some in decode + whole for note in some))

    @property
    def gains(self) -> tuple[SystemResult, ...]:
        """Systems that are compared with the same GPUs alone, the largest gain first."""
        found = [
            system
            for system in self.systems
            if system.capacity_rule is not None
            and system.whole_requests is not None
            and system.whole_requests.speedup is not None
            and system.whole_requests.baseline != system.system
        ]
        return tuple(sorted(found, key=_whole_speedup, reverse=True))

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each system: its figures, and what each part adds to the step."""
        rows: list[dict[str, Any]] = []
        for system in self.systems:
            row = flat(asdict(system))
            if system.performance is not None:
                parts = system.performance.breakdown
                row |= {f"performance.{part.name}_ms": part.time_ms for part in parts}
            rows.append(row)
        return rows


def _whole_speedup(result: SystemResult) -> float:
    """Return the speed-up over whole requests; 0 without one."""
    whole = result.whole_requests
    return 0.0 if whole is None or whole.speedup is None else whole.speedup


def compare(
    model: str | Path | Mapping[str, object] | AnyModel = DEFAULT_MODEL,
    requests: Asked = (DEFAULT_PROMPT, DEFAULT_OUTPUT),
    systems: Source | Sequence[Source] = DEFAULT_SYSTEMS,
    *,
    batch: int | str = "max",
    slo_ms: float | None = None,
    gpu_model: GpuModel | str = GpuModel.CALIBRATED,
    sites: Mapping[str, Site | str] | None = None,
    draft_tokens: int | None = None,
    acceptance: float | Sequence[float] | None = None,
    shared_prefix: int | None = None,
    layout: str | None = None,
    engine: Engine | str | None = None,
    prefill: PrefillPolicy | str = PrefillPolicy.MIXED,
    prefill_gpus: int | None = None,
    token_budget: int = TOKEN_BUDGET,
    slo_ttft_ms: float | None = None,
    decode_only: bool = False,
    progress: Progress = untold,
) -> Comparison:
    """Compare systems on one model and its requests.

    A system that cannot do what is asked becomes a row with the reason.

    Args:
        model: a preset's name, a file, a document, or a model that is loaded (`load_model` changes
            its element types).
        requests: requests; prompt and output tokens of equal ones; the name of a workload preset;
            or the path of a trace (`Requests.of`).
        systems: presets' names, files, documents, or systems that are loaded; one, or a list. The
            first is what decode of the others is compared with. Whole requests of a system with
            AttAccs are compared with those of the same GPUs alone.
        batch: requests in flight, or "max": decode takes as many as fit and keep the latency
            target, whole requests the batch that serves most requests.
        slo_ms: longest acceptable mean time per output token, in milliseconds.
        gpu_model: what prices the GPUs: "calibrated" (real ones) or "published" (the papers').
        sites: kind of layers -> where their mixers run on systems with a choice: "gpu", "attacc",
            or "auto" for the shorter time per token with the batch that fits then. Kinds are told
            by `attacc.describe`. By default every mixer leaves the GPUs that can.
        draft_tokens: drafts that every decode step verifies; None for none.
        acceptance: probability that a draft is accepted if those before it were; one for each
            draft, or one for all.
        shared_prefix: tokens at the beginning of all prompts that are the same. Their keys and
            values are stored once, and read once for all requests in layers of full attention.
        layout: numbers of the layout of whole requests that are given, as in "tp=4,replicas=2"
            (`attacc.system.layout`); the others, or all, are searched for the most requests.
        engine: "vllm" or "trtllm", whose kernels and host price whole requests; None for the
            better one.
        prefill: how the GPUs prefill in whole requests: "serial", "mixed" with decode, or
            "disaggregated".
        prefill_gpus: GPUs that prefill, with "disaggregated".
        token_budget: tokens of a step at most, with "mixed".
        slo_ttft_ms: longest acceptable time to the first token without queueing, in milliseconds.
        decode_only: whether whole requests are left out, with the search of their layouts.
        progress: told the name of every system before it is priced, and how many there are.

    Raises:
        InputError: something that is named does not exist or is malformed, or no system can do
            what is asked.
    """
    asked: dict[str, object | None] = {
        "batch": batch,
        "slo_ms": slo_ms,
        "gpu_model": str(gpu_model),
        "sites": None if sites is None else {kind: str(site) for kind, site in sites.items()},
        "draft_tokens": draft_tokens,
        "shared_prefix": shared_prefix,
        "acceptance": acceptance if isinstance(acceptance, float | int | None) else [*acceptance],
        "layout": layout,
        "engine": None if engine is None else str(engine),
        "prefill": str(prefill),
        "prefill_gpus": prefill_gpus,
        "token_budget": token_budget,
        "slo_ttft_ms": slo_ttft_ms,
        "decode_only": decode_only,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    checked = parse_document(StudySpec, given, where="compare")
    return _compare(
        load_model(model, where="model"),
        workload_of(requests),
        _load_systems([systems] if isinstance(systems, _ONE_SYSTEM) else systems),
        _Question.of(checked),
        progress,
    )


def compare_study(
    study: StudySpec,
    progress: Progress = untold,
    *,
    changes: Mapping[str, object] | None = None,
) -> Comparison:
    """Make the comparison that a study document describes.

    Args:
        study: what to compare.
        progress: told the name of every system before it is priced, and how many there are.
        changes: keys of all systems to change (`changed_system`).

    Raises:
        InputError: as in `compare`.
    """
    asked = _Question.of(study)
    systems = _load_systems(study.systems, changes or {})
    return _compare(study.load_model(), study.load_workload(), systems, asked, progress)


@dataclass(frozen=True, slots=True)
class _Question:
    """The options that hold for every system.

    Attributes:
        batch: requests in flight, or "max".
        slo_ms: longest acceptable mean time per output token.
        gpu_model: the model that prices the GPUs.
        sites: kind of layers -> where their mixers run.
        speculation: drafts of every decode step.
        shared_prefix: tokens that all prompts begin with.
        layout: numbers of the layout of whole requests that are given.
        engine: the only engine of whole requests; None for the better one.
        options: how the GPUs prefill in whole requests, and latency targets.
        decode_only: whether whole requests are left out.
    """

    batch: int | str
    slo_ms: float | None
    gpu_model: GpuModel
    sites: Mapping[str, Site]
    speculation: Speculation
    shared_prefix: int
    layout: str | None
    engine: Engine | None
    options: ServingOptions
    decode_only: bool

    @classmethod
    def of(cls, study: StudySpec) -> _Question:
        drafts = Speculation.of(study.draft_tokens, study.acceptance)
        return cls(
            batch=study.batch,
            slo_ms=study.slo_ms,
            gpu_model=study.gpu_model,
            sites=study.sites,
            speculation=drafts,
            shared_prefix=study.shared_prefix or 0,
            layout=study.layout,
            engine=study.engine,
            options=ServingOptions(
                prefill=study.prefill,
                token_budget=study.token_budget,
                prefill_gpus=study.prefill_gpus,
                slo_tpot_ms=study.slo_ms,
                slo_ttft_ms=study.slo_ttft_ms,
            ),
            decode_only=study.decode_only,
        )


def _compare(
    model: ServedModel,
    workload: Workload,
    systems: Sequence[ResolvedSystem],
    asked: _Question,
    progress: Progress,
) -> Comparison:
    lengths = decode_lengths(workload, DECODE_BINS)
    costs = cost_model(asked.gpu_model)
    results: list[SystemResult] = []
    refusals: list[InputError] = []
    ways: list[Found] = []
    known: Known = {}
    whole = WholeAsked(
        model=model,
        workload=workload,
        options=asked.options,
        gpu_model=asked.gpu_model,
        engine=asked.engine,
        layout=asked.layout,
        batch=None if isinstance(asked.batch, str) else asked.batch,
        speculation=asked.speculation,
        shared_prefix=asked.shared_prefix,
    )
    for system in systems:
        progress(system.spec.name, len(systems))
        first = results[0] if results else None
        case: _Case | None = None
        try:
            found: list[SystemResult] = []
            unfit: list[CapacityError] = []
            for sites in _assignments(model, system, asked):
                pricer = Pricer(
                    model,
                    system,
                    gpu_model=costs,
                    sites=sites,
                    speculation=asked.speculation,
                    shared_prefix=asked.shared_prefix,
                )
                case = _Case(pricer, workload, lengths)
                try:
                    found.append(case.evaluate(asked, first))
                except CapacityError as refusal:
                    unfit.append(refusal)
            if not found:
                raise unfit[-1]
            result = max(found, key=_tokens_per_s)
        except (DocumentError, UnknownNameError):
            raise
        except InputError as refusal:
            refusals.append(refusal)
            result = _refused(system, case, asked, refusal)
        results.append(result)
        way = Found(system)
        if not asked.decode_only:
            way = _way(whole, system, asked, known)
        ways.append(way)
    if len(refusals) == len(systems) and not any(way.served for way in ways):
        raise refusals[0]
    results = [
        replace(result, whole_requests=one, whole_reason=way.reason)
        for result, way, one in zip(results, ways, all_whole_requests(ways, whole), strict=True)
    ]
    counts = count_parameters(model)
    return Comparison(
        model=ModelSummary(
            model.name,
            counts.total,
            counts.active,
            model.weights_name,
            model.activations,
            model.kv,
            kv_bytes_per_token(model),
        ),
        workload=WorkloadSummary(
            workload.name,
            workload.source,
            workload.total_requests,
            workload.mean_prompt_tokens,
            workload.mean_output_tokens,
            lengths.mean_tokens,
            lengths.kind,
        ),
        cost_model=costs.kind,
        slo_ms=asked.slo_ms,
        systems=tuple(results),
        speculation=asked.speculation,
        tokens_per_step=asked.speculation.tokens_per_step,
        shared_prefix=asked.shared_prefix,
    )


def _way(whole: WholeAsked, system: ResolvedSystem, asked: _Question, known: Known) -> Found:
    """Find the best way of a system to serve whole requests."""

    def sites_of(one: ResolvedSystem) -> list[dict[str, Site]]:
        return _assignments(whole.model, one, asked)

    try:
        found = best_of(whole, system, sites_of(system))
        known[known_as(system)] = found
        return with_causes(found, whole, sites_of, known)
    except (DocumentError, UnknownNameError):
        raise
    except InputError as refusal:
        return Found(system, reason=_reason(refusal))


def _assignments(
    model: ServedModel, system: ResolvedSystem, asked: _Question
) -> list[dict[str, Site]]:
    """Return the assignments of sites to be tried on a system; one without a choice has one."""
    kinds = kinds_of(model)
    for kind in asked.sites:
        if kind not in kinds:
            raise UnknownNameError("kind of layers", kind, kinds, where="sites")
    return assignments(model, system, asked.sites if has_choice(system) else {})


def _tokens_per_s(result: SystemResult) -> float:
    """Return what the best assignment of sites has most of; with a given batch, by its step."""
    return 0.0 if result.performance is None else result.performance.throughput_tokens_per_s


def _load_systems(
    sources: Sequence[Source],
    changes: Mapping[str, object] | None = None,
) -> list[ResolvedSystem]:
    systems: dict[str, ResolvedSystem] = {}
    left = set(changes or {})
    for source in sources:
        system = changed_system(source, where="systems")
        tables = {"attacc": system.attacc, "cpu": system.host}
        own = {
            key: value
            for key, value in (changes or {}).items()
            if tables.get(key.partition(".")[0], system) is not None
        }
        if own:
            system = changed_system(source, own, where="systems")
            left -= own.keys()
        if system.spec.name in systems:
            raise InputError(
                f"there are two systems called {system.spec.name!r}",
                where="systems",
                hint='give one another name: the key name, as in load_system(..., name="mine")',
            )
        systems[system.spec.name] = system
    if systems and left:
        key = min(left)
        raise InputError(
            f"no system has a table [{key.partition('.')[0]}]",
            where=key,
            hint="name a system that has it",
        )
    if not systems:
        raise InputError("there are no systems to compare", where="systems", hint="name one")
    return list(systems.values())


def _refused(
    system: ResolvedSystem, case: _Case | None, asked: _Question, refusal: InputError
) -> SystemResult:
    """Return the row of a system that cannot serve the comparison."""
    if isinstance(refusal, SplitError):
        return _row(system, Status.DOES_NOT_SPLIT, reason=_reason(refusal))
    if case is not None and isinstance(refusal, CapacityError):
        return case.does_not_fit(asked, refusal)
    return _row(system, Status.REFUSED, reason=_reason(refusal))


def _reason(refusal: InputError) -> str:
    return f"{refusal.message} ({refusal.hint})" if refusal.hint else refusal.message


def _row(
    system: ResolvedSystem,
    status: Status,
    memory: tuple[Store, ...] = (),
    *,
    reason: str | None = None,
    choice: BatchChoice | None = None,
    performance: Performance | None = None,
    sites: Mapping[str, Site] | None = None,
) -> SystemResult:
    attacc, host = system.attacc, system.host
    total_bytes = system.gpu_memory_bytes
    if attacc is not None:
        organization = DRAMS.load_name_or_file(attacc.table.dram).organization
        total_bytes += attacc.stacks * organization.stack_bytes
    if host is not None:
        total_bytes += host.memory_bytes
    return SystemResult(
        system=system.spec.name,
        description=system.spec.description,
        status=status,
        reason=reason,
        memory=tuple(_memory_use(store) for store in memory),
        memory_bytes=total_bytes,
        capacity_rule=attacc.table.capacity if attacc is not None else None,
        batch=choice,
        performance=performance,
        sites=dict(sites or {}),
    )


class _Case:
    """One system with the model and workload of a comparison."""

    def __init__(self, pricer: Pricer, workload: Workload, lengths: LengthDistribution) -> None:
        self.pricer = pricer
        self.workload = workload
        self.lengths = lengths

    def evaluate(self, asked: _Question, first: SystemResult | None) -> SystemResult:
        """Choose the batch and price it.

        Raises:
            CapacityError: the batch (or, with "max", a single request) does not fit.
        """
        if isinstance(asked.batch, str):
            tokens = asked.speculation.tokens_per_step
            step_ms = None if asked.slo_ms is None else asked.slo_ms * tokens
            choice = self.pricer.largest_batch(self.workload, step_ms, lengths=self.lengths)
        else:
            choice = self.pricer.given_batch(self.workload, asked.batch)
        size = max(1, choice.size)
        decode = self.pricer.decode(size, self.lengths, self.workload)
        tpot_ms = decode.mean.time_ns / NS_PER_MS / asked.speculation.tokens_per_step
        memory = self.pricer.memory(self.workload, size, decode.copied_share)
        if asked.slo_ms is not None and tpot_ms > asked.slo_ms:
            reason = (
                f"a batch of {size} takes {tpot_ms:.4g} ms per output token, more than the target "
                f"of {asked.slo_ms:g} ms"
            )
            kept = choice if choice.size else None
            return self._row(Status.MISSES_SLO, memory, reason=reason, choice=kept)
        performance = self._performance(size, decode, first)
        return self._row(Status.OK, memory, choice=choice, performance=performance)

    def does_not_fit(self, asked: _Question, refusal: CapacityError) -> SystemResult:
        """Return the row of a system that the batch does not fit into."""
        memory = self.pricer.memory(
            self.workload, 1 if isinstance(asked.batch, str) else asked.batch
        )
        return self._row(Status.DOES_NOT_FIT, memory, reason=_reason(refusal))

    def _row(
        self,
        status: Status,
        memory: tuple[Store, ...],
        *,
        reason: str | None = None,
        choice: BatchChoice | None = None,
        performance: Performance | None = None,
    ) -> SystemResult:
        return _row(
            self.pricer.system,
            status,
            memory,
            reason=reason,
            choice=choice,
            performance=performance,
            sites=self.pricer.sites,
        )

    def _performance(
        self, batch: int, decode: DecodePrice, first: SystemResult | None
    ) -> Performance:
        mean = decode.mean
        prefill = self.pricer.prefill(self.workload)
        tokens = batch * self.pricer.speculation.tokens_per_step
        throughput = tokens / mean.time_ns * NS_PER_S
        energy_per_token_j = mean.energy.total_pj / tokens / PJ_PER_J
        speedup = energy_ratio = None
        if first is None:
            speedup = energy_ratio = 1.0
        elif first.performance is not None:
            speedup = throughput / first.performance.throughput_tokens_per_s
            energy_ratio = first.performance.energy_per_token_j / energy_per_token_j
        return Performance(
            throughput_tokens_per_s=throughput,
            tpot_ms=mean.time_ns / NS_PER_MS * batch / tokens,
            longest_step_ms=decode.longest_ns / NS_PER_MS,
            prefill_ms=prefill.time_ns / NS_PER_MS,
            energy_per_token_j=energy_per_token_j,
            prefill_energy_j=prefill.energy.total_pj / PJ_PER_J,
            hidden_ms=mean.hidden_ns / NS_PER_MS,
            speedup=speedup,
            energy_ratio=energy_ratio,
            breakdown=tuple(_part(mean, group) for group in Group),
            attacc=_attacc_note(decode.curves),
            estimates=tuple(
                dict.fromkeys(
                    (
                        *mean.estimates,
                        *prefill.estimates,
                        *beyond_context(self.pricer.model, self.workload),
                        *self._drafts(),
                    )
                )
            ),
        )

    def _drafts(self) -> Iterator[str]:
        """Yield notes on what drafts cost and need beyond what is priced."""
        if not self.pricer.speculation.draft_tokens:
            return
        if not self.pricer.model.draft_groups:
            yield "drafts: making them costs nothing here, since the model has no draft layers"
        if "state" in self.pricer.sites:
            yield "drafts: the states of rejected tokens are kept for nothing"


def _attacc_note(curves: Sequence[AttentionCurve]) -> AttaccNote | None:
    """Return how attention on AttAcc was obtained, over all kinds of layers that run there."""
    if not curves:
        return None
    exact = all(curve.kind is CurveKind.EXACT for curve in curves)
    return AttaccNote(
        CurveKind.EXACT if exact else CurveKind.INTERPOLATED,
        max(curve.relative_error for curve in curves),
        max(curve.heads_per_stack for curve in curves),
        max(curve.passes_per_kv_head for curve in curves),
    )


def _memory_use(store: Store) -> MemoryUse:
    return MemoryUse(
        store.name,
        store.available_bytes,
        store.weights_bytes,
        store.activations_bytes,
        store.kv_bytes,
    )


def _part(step: StepCost, group: Group) -> Part:
    cost = step.group(group)
    return Part(
        name=group,
        time_ms=cost.time_ns / NS_PER_MS,
        share=cost.time_ns / step.time_ns,
        bound=cost.bound,
        energy_j=cost.energy.total_pj / PJ_PER_J,
    )
