"""Prices every step of the package: what a batch costs on a system, and whether it fits.

`Pricer.step` prices one step: requests of any lengths that decode, chunks of prompts, or both.
`Pricer.steps` prices any number of steps in one go by the same code. Comparisons and the papers'
figures need batches of equal requests that decode through a distribution of lengths; these are many
steps with a mean. `attacc.system.capacity` decides what fits, with the pricer's model and system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from attacc.errors import CapacityError, EngineError, InputError, member
from attacc.gpu.costs import PARTS, CostModel, Energies, Floats, GpuPart
from attacc.gpu.drawn import DrawnCostModel
from attacc.gpu.models import GpuModel, cost_model
from attacc.hardware.system import AttentionSite, PrefillKv, ResolvedSystem, changed_system
from attacc.models.huggingface import load_model
from attacc.models.layers import Layer
from attacc.models.mixers import Attention, LatentAttention
from attacc.models.operators import Step
from attacc.models.parameters import AnyModel
from attacc.models.served import (
    ServedModel,
    heads_words,
    split_refusal,
    valid_tensor_parallel,
)
from attacc.models.steps import model_step
from attacc.pim.attention import StackAttention
from attacc.results import Answer, Result
from attacc.system.attaccs import attaccs_of
from attacc.system.batches import PHASES, Batches, Chunk, Ints, chunks_of
from attacc.system.capacity import (
    Content,
    Footprint,
    Store,
    StoredTokens,
    check_batch,
    copies_that_fit,
    footprint,
    footprint_of,
    largest_batch,
    preferred_batch,
    stores,
    tokens_that_fit,
)
from attacc.system.doubts import cadences, device_of
from attacc.system.layer_attention import (
    AttaccAttention,
    AttentionCurve,
    ChosenKeys,
    KvWrites,
    LayerHeads,
    WrittenPrompts,
)
from attacc.system.layout import Layout
from attacc.system.schedule import Part, Turns, divisions, plan_of
from attacc.system.sites import Site, Sites, checked_sites
from attacc.system.step import Beside, LayerBeside, StepCost, StepCosts, step_costs
from attacc.units import NS_PER_MS, finite, whole, wholes
from attacc.workload.lengths import (
    LengthDistribution,
    condense,
    decode_lengths,
    prompt_lengths,
)
from attacc.workload.requests import Requests, Workload, workload_of
from attacc.workload.speculation import NO_DRAFTS, Speculation

DECODE_BINS: Final = 32
"""Lengths that represent the decode steps of mixed requests."""
PROMPT_BINS: Final = 16
"""Lengths that represent the prompts of mixed requests."""
SEARCH_BINS: Final = 8
"""Lengths at which the search for a latency target prices a batch before it is verified."""
SEARCH_SLACK: Final = 1.02
"""Factor of the target up to which such a price is verified."""
SEARCH_BLOCK: Final = 256
"""Batches that the search prices in one go."""
LARGEST_DIP: Final = {"published": 1.25, "calibrated": 1.02}
"""Factor by which the step of a batch may exceed that of a larger batch, since tiles fit some large
batches better than smaller ones. For twelve models on 1 to 16 GPUs, up to batch 400, also with
co-processing, the largest factor of the published GPU model is 1.17. For twelve models on 8 and 16
GPUs, up to batch 500, the largest factor of the calibrated model is 1.007."""
REMEMBERED: Final = 4096
"""Single steps whose prices a pricer keeps; the least recently used ones are dropped."""


class SplitError(InputError):
    """The model cannot be split over the GPUs of a system."""


class Limit(StrEnum):
    """The reason why a batch is not larger."""

    KV_CAPACITY = "kv_capacity"
    ACTIVATIONS = "activations"
    COPIES = "weight_copies"
    LATENCY = "latency_target"
    GIVEN = "given"


def _checked_layout(layout: Layout | None, model: ServedModel, system: ResolvedSystem) -> Layout:
    """Return the layout of a model on a system: as given, or tensor parallelism alone."""
    layout = Layout(system.gpus) if layout is None else layout
    if layout.replicas != 1:
        raise InputError(
            f"{layout.replicas} replicas are {layout.replicas} systems of {layout.tp} GPUs each",
            where="layout: replicas",
            hint="price one replica on a system of its GPUs",
        )
    if layout.tp != system.gpus:
        raise InputError(
            f"a layout of {layout.tp} GPUs, for a system of {system.gpus}",
            where="layout: tp",
            hint=f"use tp={system.gpus}, or a system of {layout.tp} GPUs",
        )
    refusal = split_refusal(model, layout.split)
    if refusal is not None and layout.dp == 1 and layout.tp not in valid_tensor_parallel(model):
        raise SplitError(
            f"{system.gpus} GPUs cannot share the {heads_words(model.model)} of {model.name}",
            where=f"system {system.spec.name}: gpus",
            hint=f"use one of {', '.join(map(str, valid_tensor_parallel(model)))}",
        )
    if refusal is not None:
        raise SplitError(refusal.message, where=f"layout: {refusal.where}", hint=refusal.hint)
    return layout


Attended = dict[LayerHeads, AttaccAttention]
"""Heads of a layer -> their attention on AttAccs in every step."""
Asked = Requests | Workload | tuple[int, int] | str | Path
"""Requests as callers give them."""


@dataclass(frozen=True, slots=True)
class BatchChoice(Result):
    """The batch of a system, and the reason why it is not larger.

    Attributes:
        size: requests in flight.
        limit: reason why it is not larger.
        largest_that_fits: largest batch that fits, at any latency and without copies of weights.
        store: the memory that one request more than `largest_that_fits` would overflow.
    """

    size: int
    limit: Limit
    largest_that_fits: int
    store: str

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row."""
        return [self.to_dict()]


@dataclass(frozen=True, slots=True)
class DecodePrice:
    """The decode steps of a batch of equal requests, over a distribution of lengths.

    Attributes:
        mean: mean step over the lengths, with their weights.
        longest_ns: duration of the longest step.
        curves: attention on AttAcc, for each kind of layers that runs there.
        copied_share: share of the feed-forward weights that AttAccs multiply with.
    """

    mean: StepCost
    longest_ns: float
    curves: tuple[AttentionCurve, ...]
    copied_share: float


@dataclass(frozen=True, eq=False, repr=False)
class PricedSteps(Answer):
    """Prices of several steps, in the order in which they were given.

    Attributes:
        steps: number of steps.
        groups: for each phase, the numbers of its steps and their costs.
        attention_error: estimate that bounds the relative error of attention on AttAcc in any of
            the steps, where lengths were interpolated; 0 where every program was timed.
    """

    steps: int
    groups: tuple[tuple[Ints, StepCosts], ...]
    attention_error: float

    @cached_property
    def time_ns(self) -> Floats:
        """(steps,) durations."""
        found = np.empty(self.steps)
        for chosen, costs in self.groups:
            found[chosen] = costs.time_ns
        return found

    @cached_property
    def energy(self) -> Energies:
        """Energy of all boards, for each step (`StepCost.energy`)."""
        return self._gathered([costs.energy for _, costs in self.groups])

    @property
    def node_energy(self) -> Energies:
        """Energy of the node, its host included, for each step."""
        return self._gathered([costs.node_energy for _, costs in self.groups])

    def _gathered(self, energies: Sequence[Energies]) -> Energies:
        found = np.empty((len(PARTS), self.steps))
        for (chosen, _), own in zip(self.groups, energies, strict=True):
            found[:, chosen] = own.parts_pj
        return Energies(found)

    def __repr__(self) -> str:
        return f"PricedSteps({self.steps} steps)"

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the time and the energy of each step."""
        return self.table_rows()

    def _document(self) -> object:
        return self.table_rows()

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each step."""
        times, energies = self.time_ns.tolist(), self.energy.total_pj.tolist()
        return [
            {"time_ns": time_ns, "energy_pj": energy_pj}
            for time_ns, energy_pj in zip(times, energies, strict=True)
        ]

    def at(self, index: int) -> StepCost:
        """Return one step with its operators."""
        for chosen, costs in self.groups:
            place = np.flatnonzero(chosen == index)
            if place.size:
                return costs.at(int(place[0]))
        raise InputError(f"there are {self.steps} steps, no number {index}", where="index")


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Equal chunks of prompts beside decoding requests, in several steps.

    Attributes:
        new: (steps,) new tokens of each chunk.
        past: (steps,) tokens before each chunk.
        chunks: (steps,) chunks of a step.
    """

    new: Ints
    past: Ints
    chunks: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Arriving:
    """Prompts that other GPUs have prefilled, whose keys and values come during decode steps.

    Attributes:
        prompts: (steps,) mean number of prompts for each step.
        tokens: tokens of a prompt.
    """

    prompts: Floats
    tokens: int

    def times(self, share: Floats) -> Arriving:
        """Return a share of them.

        Args:
            share: (steps,) the share.
        """
        return replace(self, prompts=self.prompts * share)

    def repeat(self, times: int) -> Arriving:
        """Return the prompts of each step several times, for steps side by side.

        Args:
            times: how often.
        """
        return replace(self, prompts=np.repeat(self.prompts, times))


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Factors of what is not known exactly, for several steps.

    Attributes:
        gpu: kind of operators -> (steps,) factors of their times on GPUs.
        attacc: (steps,) factors of the time of attention on AttAccs.
        start: (steps,) factors of the time to start it.
    """

    gpu: Mapping[GpuPart, Floats]
    attacc: Floats
    start: Floats

    def repeat(self, times: int) -> Drawn:
        """Return the factors with each one repeated, for steps of the same draw side by side.

        Args:
            times: how often.
        """
        gpu = {part: np.repeat(factors, times) for part, factors in self.gpu.items()}
        return Drawn(gpu, np.repeat(self.attacc, times), np.repeat(self.start, times))

    def take(self, places: Ints) -> Drawn:
        """Return the factors of some steps.

        Args:
            places: numbers of the steps.
        """
        gpu = {part: factors[places] for part, factors in self.gpu.items()}
        return Drawn(gpu, self.attacc[places], self.start[places])

    def attended(self, attention: AttaccAttention) -> AttaccAttention:
        """Return attention on AttAccs with its time drawn.

        Args:
            attention: by the best estimate.
        """
        chosen = attention.chosen
        if chosen is not None:
            chosen = replace(
                chosen,
                clustered_ns=chosen.clustered_ns * self.attacc,
                scan_ns=chosen.scan_ns * self.attacc,
            )
        return replace(attention, time_ns=attention.time_ns * self.attacc, chosen=chosen)


@dataclass(frozen=True, slots=True)
class Timed:
    """Batches of equal requests for which attention on AttAccs is timed, to interpolate others.

    Attributes:
        sizes: numbers of requests, rising; the first and the last enclose those of all batches.
        keys: fewest and most keys that each request attends to, before drafts; they enclose those
            of all batches.
    """

    sizes: tuple[int, ...]
    keys: tuple[int, int]

    def halved(self) -> Timed:
        """Return batches that enclose the halves of all batches."""
        halves = {*(max(1, size // 2) for size in self.sizes), -(-self.sizes[-1] // 2)}
        return replace(self, sizes=tuple(sorted(halves)))


def _between(
    each: Sequence[AttaccAttention], timed: Ints, sizes: Ints, place: Ints
) -> AttaccAttention:
    """Interpolate attention linearly over the size of batches.

    Args:
        each: attention at every length, for each timed size.
        timed: (timed,) the sizes, rising.
        sizes: (steps,) sizes that are asked for.
        place: (steps,) their lengths, as places in ``each``.
    """
    low = np.clip(np.searchsorted(timed, sizes, side="right") - 1, 0, max(0, timed.size - 2))
    high = np.minimum(low + 1, timed.size - 1)
    share = (sizes - timed[low]) / np.maximum(1, timed[high] - timed[low])

    def line(values: Floats) -> Floats:
        return (1 - share) * values[low, place] + share * values[high, place]

    def of(energies: Sequence[Energies]) -> Energies:
        parts = np.stack([one.parts_pj for one in energies])
        return Energies(np.stack([line(part) for part in np.moveaxis(parts, 1, 0)]))

    lengths, nearest = each[0].time_ns.size, np.where(share < 0.5, low, high)
    chosen = [one.chosen for one in each if one.chosen is not None]
    return AttaccAttention(
        time_ns=line(np.stack([one.time_ns for one in each])),
        energy=of([one.energy for one in each]),
        bound=np.stack([one.bound for one in each])[nearest, place],
        extra_parts=line(np.stack([np.broadcast_to(one.extra_parts, lengths) for one in each])),
        chosen=ChosenKeys(
            clustered_ns=line(np.stack([one.clustered_ns for one in chosen])),
            scan_ns=line(np.stack([one.scan_ns for one in chosen])),
            scan_bound=np.stack([one.scan_bound for one in chosen])[nearest, place],
            scan_energy=of([one.scan_energy for one in chosen]),
        )
        if chosen
        else None,
    )


def _given(attention: Attended, steps: int) -> Callable[[Batches], Attended]:
    """Return a function that returns known attention of whole steps."""

    def attend(of: Batches) -> Attended:
        if len(of) != steps:
            raise EngineError("attention is known for whole steps alone")
        return attention

    return attend


def _nothing(batches: Batches) -> Attended:
    """Return the attention on AttAccs of steps without decoding requests."""
    del batches
    return {}


class Pricer:
    """Prices steps of one model on one system, and decides what fits.

    Args:
        model: the model: a preset's name, a file, a document, or one that is loaded.
        system: the system, likewise.
        gpu_model: what prices the GPUs: "calibrated" (real ones), "published" (the papers'), or a
            cost model.
        sites: where the mixers of each kind of layers run, "gpu" or "attacc"; by default away from
            the GPUs where the system's devices can run them (`attacc.system.sites`).
        speculation: drafts of every decode step of `decode` and `largest_batch`; none by default.
        shared_prefix: tokens at the beginning that all requests share, likewise.
        layout: how the GPUs share the model; by default by tensor parallelism alone.

    Raises:
        UnknownNameError: there is no such model, system, GPU model, kind of layers or site.
        SplitError: the model cannot be split over the GPUs.
        InputError: the device of the AttAccs cannot run the system's schedule, or the layout is one
            of several replicas, or of another number of GPUs.
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, object] | AnyModel,
        system: str | Path | Mapping[str, object] | ResolvedSystem,
        *,
        gpu_model: GpuModel | str | CostModel = GpuModel.CALIBRATED,
        sites: Mapping[str, Site | str] | None = None,
        speculation: Speculation = NO_DRAFTS,
        shared_prefix: int = 0,
        layout: Layout | None = None,
    ) -> None:
        model, system = load_model(model, where="model"), changed_system(system, where="system")
        self.layout: Final = _checked_layout(layout, model, system)
        self.split: Final = self.layout.split
        self.model: Final = model
        self.system: Final = system
        self.costs: Final = (
            gpu_model
            if isinstance(gpu_model, CostModel)
            else cost_model(member(GpuModel, gpu_model, where="gpu_model"))
        )
        self.attaccs: Final = attaccs_of(system) if system.attacc is not None else None
        self.speculation: Final = speculation
        self.shared_prefix: Final = whole(shared_prefix, where="shared_prefix", least=0)
        self.sites: Final[Sites] = checked_sites(model, system, sites or {})
        if Site.AUTO in self.sites.values():
            raise InputError(
                "a pricer prices one assignment, so auto is not solved here",
                where="sites",
                hint="compare solves it, and attacc.system.sites.assignments lists them",
            )
        self.home: Final = frozenset(k for k, site in self.sites.items() if site is Site.GPU)
        self._one = lru_cache(maxsize=REMEMBERED)(self._price_one)
        self._curve = lru_cache(maxsize=REMEMBERED)(self._time_curve)
        self._away = lru_cache(maxsize=REMEMBERED)(self._find_away)

    def step(self, *, decode: Sequence[int] = (), prefill: Sequence[Chunk] = ()) -> StepCost:
        """Price one step.

        Args:
            decode: keys that each decoding request attends to, the newest key included.
            prefill: chunks of prompts.

        Raises:
            InputError: neither is given, a length is out of range or exceeds the model's window,
                or the cost model cannot price an operator.
            CapacityError: AttAccs share feed-forward products, and the requests leave no memory
                for it.
        """
        keys, counts = np.unique(wholes(decode, where="decode"), return_counts=True)
        lengths = tuple(zip(keys.tolist(), counts.tolist(), strict=True))
        return self._one(lengths, tuple(chunks_of(prefill)))

    def _price_one(
        self, lengths: tuple[tuple[int, int], ...], chunks: tuple[Chunk, ...]
    ) -> StepCost:
        decode = [length for length, count in lengths for _ in range(count)]
        return self.steps(Batches.of([(decode, chunks)])).at(0)

    @cached_property
    def residing(self) -> tuple[LayerHeads, int] | None:
        """Heads whose requests stay in the channels of AttAccs, and the layers that have them.

        None where AttAccs attend in no layer, in layers of several kinds, or to heads that cannot
        be followed in the channels.
        """
        away = self._away(1)
        kinds = dict.fromkeys(away.values())
        if self.attaccs is None or len(kinds) != 1:
            return None
        (heads,) = kinds
        if not self.attaccs.resident(heads):
            return None
        return heads, sum(self.model.groups[number].count for number in away)

    def steps(self, batches: Batches, held: AttaccAttention | None = None) -> PricedSteps:
        """Price any number of steps.

        Args:
            batches: the requests of each step.
            held: attention of one layer on AttAccs in each step, to the heads of `residing`, where
                it is known already.

        Raises:
            InputError: as in `step`.
            CapacityError: as in `step`.
        """
        if not isinstance(batches, Batches):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"{batches!r:.60} is no batches",
                where="batches",
                hint="give Batches.of([(lengths, chunks), ...])",
            )
        groups: list[tuple[Ints, StepCosts]] = []
        error = 0.0
        for phase in range(len(PHASES)):
            chosen = np.flatnonzero(batches.phases == phase)
            if not chosen.size:
                continue
            own = batches.take(chosen)
            errors: list[float] = []
            attend: Callable[[Batches], Attended] = partial(self._attended, errors=errors)
            if held is not None and self.residing is not None:
                attend = _given({self.residing[0]: held.take(chosen)}, len(own))
            groups.append((chosen, self._price(own, attend, self._copies(own))))
            error = max(error, *errors, 0.0)
        return PricedSteps(len(batches), tuple(groups), error)

    def decode(
        self, batch: int, lengths: LengthDistribution, workload: Workload | None = None
    ) -> DecodePrice:
        """Price the decode steps of equal requests, at every length of a distribution.

        With drafts, a step computes several tokens of each request.

        Args:
            batch: number of requests.
            lengths: keys that each request attends to; all requests have the same length at a time.
            workload: the workload, which decides the memory that is left for copies of weights;
                None where the memory for copies is not counted, as in the papers.

        Raises:
            CapacityError: the workload's requests do not fit.
            InputError: as in `step`.
        """
        copies = 1.0
        if workload is not None:
            copies = copies_that_fit(
                self.need(workload), self.system, batch, stack_bytes=self.stack_bytes
            )
        keys = np.asarray(lengths.lengths, dtype=np.int64) + self.speculation.draft_tokens
        batches = Batches.equal(
            batch, keys, queries=self.speculation.queries, shared=self.shared_prefix
        )
        curves: dict[LayerHeads, AttentionCurve] = {}
        attention: Attended = {}
        for heads in dict.fromkeys(self._away(batches.queries).values()):
            own = keys - heads.shared(self.shared_prefix)
            curves[heads] = self._curve_of(heads, batch, own)
            attention[heads] = self._with_prefix(curves[heads].at(heads.seen(own)), heads, batch)

        def attend(of: Batches) -> Attended:
            return attention if of is batches else self._attended(of)

        priced = self._price(batches, attend, copies)
        return DecodePrice(
            mean=priced.mean(lengths.weights),
            longest_ns=float(priced.time_ns.max()),
            curves=tuple(curves.values()),
            copied_share=float(priced.copied_share.max()),
        )

    def prefill(self, workload: Workload) -> StepCost:
        """Return the mean prefill of one request alone; a shared prefix is known already."""
        priced, weights = self.prefills(workload)
        return priced.mean(weights)

    def prefills(
        self, workload: Workload, drawn: Drawn | None = None
    ) -> tuple[StepCosts, Sequence[float]]:
        """Return prefills of one request alone, with the shares of their lengths.

        Args:
            workload: the requests.
            drawn: (draws,) factors of what is not known exactly; None for the best estimates.

        Returns:
            Steps of all lengths, for one draw after the other, and the shares of the lengths.
        """
        prompts = prompt_lengths(workload, PROMPT_BINS)
        known = self.shared_prefix
        chunks = (Chunk(length - known, past=known, cached=known) for length in prompts.lengths)
        batches = Batches.of(((), (chunk,)) for chunk in chunks)
        if drawn is None:
            return self._price(batches, _nothing, 1.0), prompts.weights
        each = len(batches)
        many = batches.take(np.tile(np.arange(each), drawn.attacc.size))
        return self._price(many, _nothing, 1.0, drawn.repeat(each)), prompts.weights

    def decode_operators(self, batch: int, kv_length: int) -> Step:
        """Return the operators of a decode step, before any is priced."""
        return self._operators(Batches.equal(batch, kv_length))

    def curve(self, batch: int, lengths: Iterable[int]) -> AttentionCurve:
        """Return attention of one layer on the AttAccs, over the lengths of equal requests.

        The layer is the first of those whose attention runs there.

        Raises:
            InputError: no attention runs on AttAccs, or they cannot hold the heads.
        """
        for heads in self._away(1).values():
            return self._curve_of(heads, batch, np.array(list(lengths), dtype=np.int64))
        raise InputError(f"system {self.system.spec.name} runs no attention on AttAccs")

    def at_cadences(self, batch: int, length: int) -> list[tuple[float, float]]:
        """Return the time of attention on AttAccs at other cadences of multiplies.

        Args:
            batch: number of requests, all of the same length.
            length: keys that each of them attends to.

        Returns:
            For each cadence in doubt (`attacc.system.doubts`), and for the system's own: the
            cadence over the system's own, rising, and the time over that at it. Empty where no
            cadence is in doubt.
        """
        found: dict[float, float] = {}
        device, doubted = device_of(self.system), cadences(self.system)
        if device is None or not doubted:
            return []
        for heads in self._away(self.speculation.queries).values():
            keys = heads.seen(np.array([length], dtype=np.int64))
            own_ns = self._curve_of(heads, batch, keys).at(keys).time_ns[0]
            for cadence in doubted:
                other = attaccs_of(self.system, cadence=cadence).curve(heads, batch, keys.tolist())
                ratio = cadence / device.power_limited.nCCDAB
                found[ratio] = float(other.at(keys).time_ns[0] / own_ns)
            found[1.0] = 1.0
            break
        return sorted(found.items())

    def _curve_of(self, heads: LayerHeads, batch: int, keys: Ints) -> AttentionCurve:
        return self._curve(heads, batch, tuple(np.unique(heads.seen(keys)).tolist()))

    def _time_curve(
        self, heads: LayerHeads, batch: int, lengths: tuple[int, ...]
    ) -> AttentionCurve:
        if self.attaccs is None:
            raise InputError(f"system {self.system.spec.name} has no AttAccs")
        return self.attaccs.curve(heads, batch, lengths)

    def _find_away(self, queries: int) -> dict[int, LayerHeads]:
        """Return the heads that AttAccs attend to, by the place of their layers in a step.

        Args:
            queries: tokens of each request in the step.
        """
        if self.attaccs is None:
            return {}
        found: dict[int, LayerHeads] = {}
        for number, (layer, tokens) in enumerate(self.model.step_layers(queries)):
            mixer = layer.mixer
            heads = None if mixer is None else LayerHeads.of(mixer, self.model.kv, tokens)
            if heads is not None and layer.site_kind not in self.home:
                found[number] = heads
        return found

    def logged(self, decode: Sequence[int]) -> StackAttention | None:
        """Return the attention of a step's first layer on AttAccs, on the slowest stack.

        Args:
            decode: keys that each decoding request attends to, the newest key included.

        Returns:
            The attention with every command; None where no layer attends on AttAccs.

        Raises:
            InputError: as in `attacc.system.attaccs.Attaccs.logged`.
        """
        keys = np.array(wholes(decode, where="decode"), dtype=np.int64)
        if self.attaccs is not None:
            for heads in self._away(1).values():
                return self.attaccs.logged(heads, heads.kept(keys).tolist())
        return None

    @property
    def stack_bytes(self) -> float:
        """Memory of one AttAcc stack; 0 without AttAccs."""
        return self.attaccs.stack_bytes if self.attaccs is not None else 0.0

    def need(
        self, requests: Asked, *, chunk_tokens: int | None = None, staggered: bool = False
    ) -> Footprint:
        """Return what requests need in memory.

        Args:
            requests: what is served, as in `Requests.of`.
            chunk_tokens: tokens that a prefill processes at once; None for whole prompts.
            staggered: whether memory is held as tokens come, by requests at all stages of their
                outputs; otherwise every request has memory for its whole length from the start.
        """
        workload = workload_of(requests)
        shortest = int(workload.prompt_tokens.min())
        if self.shared_prefix >= shortest:
            raise InputError(
                f"{self.shared_prefix:,} tokens are shared, by prompts of {shortest:,}",
                where="shared_prefix",
                hint="share fewer tokens than the shortest prompt has",
            )
        return footprint(
            self.model,
            workload,
            tensor_parallel=self.split,
            chunk_tokens=chunk_tokens,
            keeps_prefill=self._keeps_prefill,
            home=self.home,
            draft_tokens=self.speculation.draft_tokens,
            shared_tokens=self.shared_prefix,
            staggered=staggered,
        )

    @property
    def _keeps_prefill(self) -> bool:
        """Whether a copy of a prompt's keys and values stays in GPU memory during its prefill."""
        table = self.system.spec.attacc
        return table is not None and table.prefill_kv is PrefillKv.GPU

    def fits(self, requests: Asked, batch: int) -> bool:
        """Return whether a batch fits, copies of weights apart.

        Args:
            requests: what is served, as in `Requests.of`.
            batch: how many requests are in flight.

        Raises:
            InputError: as in `Requests.of`, or the batch is out of range.
        """
        size = whole(batch, where="batch")
        try:
            check_batch(self.need(requests), self.system, size, stack_bytes=self.stack_bytes)
        except CapacityError:
            return False
        return True

    def most(self, need: Footprint, batch: int | None = None) -> int:
        """Return the most requests that fit, copies of weights apart.

        Args:
            need: what a request needs in memory (`need`).
            batch: requests that must fit; None for any.

        Raises:
            CapacityError: the batch does not fit, or not even one request does.
        """
        if batch is not None:
            check_batch(need, self.system, batch, stack_bytes=self.stack_bytes)
        return largest_batch(need, self.system, stack_bytes=self.stack_bytes).batch

    def most_tokens(self, need: Footprint, requests: int) -> int:
        """Return the tokens whose keys and values fit, whatever requests they belong to.

        Args:
            need: what a request needs in memory (`need`); its length does not count.
            requests: that decode at a time, at most.

        Raises:
            CapacityError: not even one token fits.
        """
        return tokens_that_fit(need, self.system, requests, stack_bytes=self.stack_bytes)

    def memory(
        self, workload: Workload, batch: int, copied_share: float = 0.0
    ) -> tuple[Store, ...]:
        """Return every memory of the system with its contents for a batch, whether it fits or not.

        Args:
            workload: the requests.
            batch: number of requests in flight.
            copied_share: share of the feed-forward weights that the AttAccs hold copies of.
        """
        return stores(
            self.need(workload),
            self.system,
            batch,
            stack_bytes=self.stack_bytes,
            copied_share=copied_share,
        )

    def largest_batch(
        self,
        requests: Asked,
        slo_ms: float | None = None,
        *,
        lengths: LengthDistribution | None = None,
    ) -> BatchChoice:
        """Return the largest batch that fits and keeps a latency target.

        With feed-forward co-processing, copies of weights get the memory that they have use for
        (`attacc.system.capacity.preferred_batch`).

        Args:
            requests: what is served, as in `Requests.of`.
            slo_ms: longest acceptable mean decode step, in milliseconds; None for any.
            lengths: lengths at which steps are priced; by default at most `DECODE_BINS`.

        Returns:
            The choice; its size is 0 where no batch keeps the target.

        Raises:
            CapacityError: not even one request fits.
            InputError: as in `Requests.of`, or the target is no number.
        """
        if slo_ms is not None:
            slo_ms = finite(slo_ms, where="slo_ms", least=0)
        workload = workload_of(requests)
        need = self.need(workload)
        fits = largest_batch(need, self.system, stack_bytes=self.stack_bytes)
        rates = self.attaccs.rates if self.attaccs is not None else None
        size = preferred_batch(need, self.system, stack_bytes=self.stack_bytes, rates=rates)
        if size < fits.batch:
            limit = Limit.COPIES
        elif fits.content is Content.KV_CACHE:
            limit = Limit.KV_CAPACITY
        else:
            limit = Limit.ACTIVATIONS
        if slo_ms is not None:
            over = decode_lengths(workload, DECODE_BINS) if lengths is None else lengths
            within = self._largest_within(workload, over, slo_ms, size)
            if within < size:
                size, limit = within, Limit.LATENCY
        return BatchChoice(size, limit, fits.batch, fits.store)

    def given_batch(self, workload: Workload, batch: int) -> BatchChoice:
        """Return a given batch as a choice.

        Raises:
            CapacityError: not even one request fits.
        """
        fits = largest_batch(self.need(workload), self.system, stack_bytes=self.stack_bytes)
        return BatchChoice(batch, Limit.GIVEN, fits.batch, fits.store)

    def least_ns(self, sizes: Ints, keys: int) -> Floats:
        """Return times that decode steps of equal requests take at least, without timing any.

        They are those of the multiplies on AttAccs at their cadence; 0 for attention on GPUs.
        Layers of drafts do not count.

        Args:
            sizes: (steps,) decoding requests.
            keys: fewest keys that each of them attends to.
        """
        each, away = 0.0, self._away(self.speculation.queries)
        for number, group in enumerate(self.model.groups):
            if self.attaccs is not None and number in away:
                heads = away[number]
                own = heads.seen_at_least(keys - heads.shared(self.shared_prefix))
                each += group.count * self.attaccs.least_ns(heads, own)
        return sizes.astype(np.float64) * each

    def _largest_within(
        self, workload: Workload, lengths: LengthDistribution, slo_ms: float, most: int
    ) -> int:
        """Return the largest batch up to ``most`` whose mean step keeps the target, 0 if none.

        Steps do not always become longer with the batch. So doubling and bisection find a batch
        whose step is far above the target; they interpolate attention on AttAccs over the length of
        keys. From there every batch is tried downwards: many batches in one go with few lengths,
        and with all lengths where the price comes close to the target.
        """
        few = condense(lengths, SEARCH_BINS)
        slo_ns = slo_ms * NS_PER_MS
        shortest = min(lengths.lengths)

        def mean_ns(batch: int) -> float:
            return self.decode(batch, lengths, workload).mean.time_ns

        def is_far(batch: int) -> bool:
            if self.least_ns(np.array([batch]), shortest)[0] > slo_ns:
                return True
            return bool(self._about(workload, few, batch, batch)[0] > far_ns)

        far_ns = LARGEST_DIP.get(self.costs.kind, max(LARGEST_DIP.values())) * slo_ns
        far_ns *= SEARCH_SLACK
        # Large batches take long to time on AttAccs, so no batch far beyond the target is timed.
        low, high = 0, 1
        while high <= most and not is_far(high):
            low, high = high, 2 * high
        high = min(high, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if is_far(middle):
                high = middle
            else:
                low = middle
        if low == most and mean_ns(most) <= slo_ns:
            return most
        while low > 0:
            first = max(1, low - SEARCH_BLOCK + 1)
            means = self._about(workload, few, first, low)
            for batch in range(low, first - 1, -1):
                close = means[batch - first] <= SEARCH_SLACK * slo_ns
                if close and mean_ns(batch) <= slo_ns:
                    return batch
            low = first - 1
        return 0

    def _about(
        self, workload: Workload, lengths: LengthDistribution, first: int, last: int
    ) -> Floats:
        """Return approximate mean steps of consecutive batches, in nanoseconds.

        Attention on AttAccs is interpolated linearly between the first and the last batch, and
        between the fewest and the most keys.
        """
        sizes, keys = np.arange(first, last + 1), np.asarray(lengths.lengths, dtype=np.int64)
        priced = self.sized(
            np.repeat(sizes, keys.size),
            np.tile(keys, sizes.size),
            timed=Timed((first, last), (int(keys.min()), int(keys.max()))),
            need=self.need(workload),
        )
        return priced.time_ns.reshape(sizes.size, keys.size) @ np.asarray(lengths.weights)

    def sized(
        self,
        sizes: Ints,
        keys: Ints,
        *,
        timed: Timed,
        need: Footprint,
        beside: Prompts | None = None,
        arriving: Arriving | None = None,
        drawn: Drawn | None = None,
    ) -> StepCosts:
        """Price steps of equal requests for many batch sizes in one go.

        Attention on AttAccs is timed for a few batches, and interpolated linearly between them.

        Args:
            sizes: (steps,) decoding requests.
            keys: (steps,) keys that each of them attends to, before drafts.
            timed: batches for which attention on AttAccs is timed.
            need: what a request needs in memory, which decides the room for copies of weights.
            beside: chunks of prompts in the same steps.
            arriving: prompts whose keys and values come from other GPUs in these steps.
            drawn: factors of what is not known exactly; None for the best estimates.

        Raises:
            CapacityError: copies of weights are multiplied with, and the requests do not fit.
            InputError: as in `step`.
        """
        queries = self.speculation.queries
        batches = Batches.equal(
            sizes, keys + self.speculation.draft_tokens, queries=queries, shared=self.shared_prefix
        )
        copies: float | Floats = 1.0
        if self.system.spec.ff_coprocessing:
            some, where = np.unique(sizes, return_inverse=True)
            at = self.stack_bytes
            fit = [copies_that_fit(need, self.system, s, stack_bytes=at) for s in some.tolist()]
            copies = np.array(fit)[where]
        if beside is not None:
            batches = batches.beside(beside.new, beside.past, beside.chunks)

        def attend(of: Batches) -> Attended:
            halved = bool((of.requests < batches.requests).any())
            return self._interpolated(of, timed.halved() if halved else timed)

        return self._price(batches, attend, copies, drawn, arriving)

    def _attended(self, batches: Batches, errors: list[float] | None = None) -> Attended:
        """Return attention on AttAccs in steps of any requests.

        Args:
            batches: the requests.
            errors: where bounds of the relative errors are added.
        """
        found: Attended = {}
        for heads in self._away(batches.queries).values() if batches.requests.any() else ():
            if heads not in found:
                found[heads], error = self._attention(batches, heads)
                (errors if errors is not None else []).append(error)
        return found

    def _interpolated(self, batches: Batches, timed: Timed) -> Attended:
        """Return attention on AttAccs in steps of equal requests. A few batches are timed.

        Args:
            batches: the requests.
            timed: as in `sized`.
        """
        sizes = batches.requests.astype(np.int64)
        if not sizes.any():
            return {}
        distinct, place = np.unique(batches.longest.astype(np.int64), return_inverse=True)
        ends = np.array(timed.keys) + self.speculation.draft_tokens
        found: Attended = {}
        for heads in dict.fromkeys(self._away(batches.queries).values()):
            shared = heads.shared(self.shared_prefix)
            own = heads.seen(distinct - shared)
            seen = np.append(heads.seen(ends - shared), own)
            lengths = tuple(np.unique([seen.min(), seen.max()]).tolist())
            each = [
                self._with_prefix(self._curve(heads, size, lengths).at(own), heads, size)
                for size in timed.sizes
            ]
            found[heads] = _between(each, np.array(timed.sizes), sizes, place)
        return found

    def _price(
        self,
        batches: Batches,
        attend: Callable[[Batches], Attended],
        copies: float | Floats,
        drawn: Drawn | None = None,
        arriving: Arriving | None = None,
    ) -> StepCosts:
        """Price steps of one phase.

        Args:
            batches: the requests.
            attend: returns attention on AttAccs for them, and for parts of them.
            copies: share of the feed-forward weights whose copies fit into the AttAccs.
            drawn: factors of what is not known exactly.
            arriving: prompts whose keys and values come from other GPUs.
        """
        costs = self.costs if drawn is None else DrawnCostModel(self.costs, drawn.gpu)
        step = self._operators(batches)

        def part(of: Batches) -> Part:
            operators = replace(self._operators(of), phase=step.phase)
            own = None if arriving is None else arriving.times(of.requests / batches.requests)
            beside = self._beside(of, attend(of), copies, drawn, own, batches)
            return Part(operators, beside)

        priced = step_costs(
            step,
            self.system,
            costs,
            self._beside(batches, attend(batches), copies, drawn, arriving),
            [
                Turns((part(first), part(second)), possible)
                for first, second, possible in divisions(
                    plan_of(self.system.spec, step.phase), batches
                )
            ],
        )
        if priced.steps == len(batches):
            return priced
        return replace(
            priced,
            steps=len(batches),
            copied_share=np.broadcast_to(priced.copied_share, (len(batches),)),
        )

    def _beside(
        self,
        batches: Batches,
        attention: Attended,
        copies: float | Floats,
        drawn: Drawn | None,
        arriving: Arriving | None = None,
        whole: Batches | None = None,
    ) -> Beside:
        """Return what the price of steps needs besides their operators.

        Args:
            batches: the requests, or a part of them.
            attention: decode attention on AttAccs.
            copies: share of the feed-forward weights whose copies fit into the AttAccs.
            drawn: factors of what is not known exactly.
            arriving: prompts whose keys and values come from other GPUs.
            whole: all requests of the steps, if the others are a part of them.
        """
        if drawn is not None:
            attention = {heads: drawn.attended(one) for heads, one in attention.items()}
        keeps = self._keeps_prefill or self.system.spec.attention is not AttentionSite.ATTACC
        read = batches.cached_tokens if keeps else batches.past_tokens
        share = self.model.share(self.split)
        layers: list[LayerBeside] = []
        places = self._away(batches.queries)
        # Chunks are dealt out to groups of GPUs like requests. The largest group counts.
        groups, chunks = self.split.mixer_groups, np.maximum(batches.chunks, 1.0)
        own = np.ceil(chunks / groups) / chunks
        for number, (layer, _) in enumerate(share.step_layers(batches.queries)):
            away, token_bytes = layer.site_kind not in self.home, self._token_bytes(layer)
            heads = places.get(number)
            attended = None if heads is None else attention.get(heads)
            layers.append(
                LayerBeside(
                    attention=attended,
                    writes=self._written(heads, attended, batches, whole, arriving),
                    away=away,
                    written_bytes=token_bytes * batches.new_tokens * own if away else 0.0,
                    read_bytes=token_bytes * read * own if away else 0.0,
                )
            )
        return Beside(
            model=self.model,
            layers=tuple(layers),
            rates=self.attaccs.rates if self.attaccs is not None else None,
            copies=copies,
            standby=None if self.attaccs is None else self.attaccs.standby,
            start_factor=1.0 if drawn is None else drawn.start,
        )

    def _written(
        self,
        heads: LayerHeads | None,
        attention: AttaccAttention | None,
        batches: Batches,
        whole: Batches | None,
        arriving: Arriving | None,
    ) -> KvWrites | None:
        """Return what writing keys and values of one layer costs; None where it is not counted.

        Requests that decode by themselves have the prompts of the whole step beside them.
        """
        attaccs, pool = self.attaccs, self.system.attacc
        if attaccs is None or pool is None or heads is None or not attaccs.writes:
            return None
        beside = batches if whole is None or batches.new.size else whole
        prompts = WrittenPrompts(beside.chunks, beside.new_tokens)
        if arriving is not None:
            one = np.ones(len(batches))
            prompts = WrittenPrompts(one, arriving.tokens * one)
        links = min(1.0, self.system.gpus / pool.table.devices)
        attention_ns = np.zeros(1) if attention is None else attention.time_ns
        bytes_per_s = links * pool.link.bytes_per_s
        writes = attaccs.written(heads, batches, prompts, attention_ns, bytes_per_s)
        return writes if arriving is None else writes.of_arriving(arriving.prompts)

    def _operators(self, batches: Batches) -> Step:
        return model_step(
            self.model,
            decode=batches.decoding(),
            prefill=batches.prefilling(),
            tensor_parallel=self.split,
        )

    def _with_prefix(
        self,
        own: AttaccAttention,
        heads: LayerHeads,
        requests: int,
        shared: int | None = None,
    ) -> AttaccAttention:
        """Return attention over the requests' own keys, and over a prefix that they share.

        The prefix is that of one request, whose queries are those of all. It is read after the
        others' own keys, and each request's context has one part more.
        """
        prefix = heads.shared(self.shared_prefix if shared is None else shared)
        if not prefix:
            return own
        together = replace(heads, group=heads.queries * requests, tokens=1)
        there = self._curve(together, 1, (prefix,)).at([prefix])
        return AttaccAttention(
            own.time_ns + there.time_ns,
            own.energy + there.energy,
            np.where(own.time_ns < there.time_ns, there.bound, own.bound).astype(np.int8),
            extra_parts=own.extra_parts + requests * heads.kv_heads,
        )

    def _token_bytes(self, layer: Layer) -> float:
        """Return the bytes of keys and values of one token in one layer, on a GPU of its group."""
        mixer = layer.mixer
        if isinstance(mixer, LatentAttention):
            return mixer.stored(self.model.kv.bytes).per_token / self.split.mixer_devices
        if not isinstance(mixer, Attention):
            return 0.0
        return mixer.token_bytes(self.model.kv.bytes)

    def _attention(self, batches: Batches, heads: LayerHeads) -> tuple[AttaccAttention, float]:
        """Return attention of one layer on AttAccs in every step, and a bound of its error.

        Steps of equal requests share a curve over their lengths for each number of requests. Steps
        of unequal requests are timed one by one.
        """
        assert self.attaccs is not None  # noqa: S101 - `steps` asks only then
        error = 0.0
        equal = batches.shortest == batches.longest
        alike: list[tuple[Ints, AttaccAttention]] = []
        for requests in np.unique(batches.requests[equal]).tolist():
            chosen = np.flatnonzero(equal & (batches.requests == requests))
            keys = batches.longest[chosen].astype(np.int64) - heads.shared(batches.shared)
            curve = self._curve_of(heads, int(requests), keys)
            error = max(error, curve.relative_error)
            found = curve.at(heads.seen(keys))
            alike.append((chosen, self._with_prefix(found, heads, int(requests), batches.shared)))
        for step in np.flatnonzero(~equal).tolist():
            keys = np.array(batches.lengths_of(step), dtype=np.int64) - heads.shared(batches.shared)
            found = self.attaccs.attend(heads, heads.kept(keys).tolist())
            found = self._with_prefix(found, heads, keys.size, batches.shared)
            alike.append((np.array([step]), found))
        return AttaccAttention.joined(len(batches), alike), error

    def _copies(self, batches: Batches) -> float | Floats:
        """Return the share of the weights whose copies fit beside the requests of each step."""
        if not self.system.spec.ff_coprocessing or not batches.requests.any():
            return 1.0
        each: list[float] = []
        for requests, keys, longest, chunk in zip(
            batches.requests.tolist(),
            batches.keys.tolist(),
            batches.longest.tolist(),
            batches.new_tokens.tolist(),
            strict=True,
        ):
            need = footprint_of(
                self.model,
                StoredTokens(keys / requests, 0.0, int(longest)),
                prefill_tokens=max(1, int(chunk)),
                tensor_parallel=self.split,
                home=self.home,
                draft_tokens=self.speculation.draft_tokens,
                shared_tokens=self.shared_prefix,
            )
            copies = copies_that_fit(need, self.system, int(requests), stack_bytes=self.stack_bytes)
            each.append(copies)
        return np.array(each)
