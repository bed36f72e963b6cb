"""What fits where: weights, activations, and the key/value cache of every request.

Weights and activations are in the GPUs' memory. Keys and values are in the memory of the devices
that attend to them: the GPUs, the CPUs, or the stacks of the AttAccs, head by head
(`CapacityRule.SEPARATE`). `CapacityRule.POOLED` counts all memory of a GPU + AttAcc system as one,
as the published batch sizes do.

With feed-forward co-processing, AttAccs multiply with copies of weights. Requests have priority: a
batch fits if it fits without copies (`check_batch`). The copies get the memory that is left
(`copies_that_fit`), which limits the share of the products that AttAccs take over. The memory of a
batch without copies grows with every request, so bisection finds the largest batch that fits.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from attacc.errors import CapacityError, EngineError, InputError, Shortfall
from attacc.gpu.rates import AttaccRates
from attacc.hardware.dram import DRAMS
from attacc.hardware.system import AttaccPool, CapacityRule, ResolvedSystem
from attacc.models.feedforward import Mixture
from attacc.models.layers import Layer
from attacc.models.mixers import Attention
from attacc.models.parameters import (
    FEED_FORWARD_PARTS,
    AnyModel,
    activation_bytes,
    block_activation_bytes,
    mixer_activation_bytes,
    weight_bytes,
)
from attacc.models.served import ServedModel, served
from attacc.models.sharding import Split, share_of_layer
from attacc.system.overlap import coprocessed_share
from attacc.workload.lengths import FinalLengths, final_lengths, held_lengths
from attacc.workload.requests import Workload


class Content(StrEnum):
    """Contents of memory that grow with every request."""

    ACTIVATIONS = "activations"
    KV_CACHE = "KV cache"


QUANTILE: Final = 3.0902
"""Standard deviations below which 99.9 % of a normal distribution lie."""

ROUNDING_ROOM: Final = 1 - 1e-12
"""Part of the free memory that copies may fill, so that rounding of their share cannot overflow."""


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """Tokens whose keys and values a request of the batch has stored when it ends.

    Attributes:
        mean: mean tokens of the requests that share the batch.
        deviation: standard deviation of these tokens; 0 where all requests are alike.
        longest: tokens of the longest request.
    """

    mean: float
    deviation: float
    longest: int

    @classmethod
    def of(cls, final: FinalLengths) -> StoredTokens:
        """Return the stored tokens of a workload: all but the last, to which nothing attends."""
        return cls(final.mean_tokens - 1, math.sqrt(final.variance_tokens2), final.max_tokens - 1)

    @classmethod
    def held(cls, at_a_time: FinalLengths) -> StoredTokens:
        """Return the tokens that requests at all stages of their outputs hold at any one time."""
        deviation = math.sqrt(at_a_time.variance_tokens2)
        return cls(at_a_time.mean_tokens, deviation, at_a_time.max_tokens - 1)

    def reserved(self, requests: int) -> float:
        """Return tokens per request that suffice for a batch with 99.9 % probability.

        The sum of independent lengths is assumed to be normally distributed, and at most that of
        requests which all have the longest length. The result is exact where all requests are
        alike.
        """
        return min(self.longest, self.mean + QUANTILE * self.deviation / math.sqrt(requests))


@dataclass(frozen=True, slots=True)
class StoredKind:
    """What layers of one kind store of every request, on one GPU of its group.

    Attributes:
        kind: the kind of layers.
        pieces: parts that can lie in different places: key/value heads; 1 for a latent or a state.
        token_bytes: of one token of one piece, all layers of the kind.
        reach: tokens that are kept at most; None for all.
        state_bytes: of one piece at any length, all layers of the kind.
        copies: GPUs of a group that hold a copy of one piece.
        away: whether it lies with the devices that run attention, and not in GPU memory.
    """

    kind: str
    pieces: int
    token_bytes: float
    reach: int | None = None
    state_bytes: float = 0.0
    copies: int = 1
    away: bool = True

    @property
    def shares(self) -> bool:
        """Whether requests with equal first tokens can share what is stored of them."""
        return self.reach is None and not self.state_bytes

    def piece_bytes(self, tokens: float) -> float:
        """Return the bytes of one piece of a request.

        Args:
            tokens: that the request has stored.
        """
        kept = tokens if self.reach is None else min(tokens, self.reach)
        return self.token_bytes * kept + self.state_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that one model and workload need, on one of the GPUs that share the model.

    Attributes:
        weight_bytes: all weights.
        feed_forward_bytes: weights of the feed-forward products, which co-processing copies.
        feed_forward_element_bytes: bytes of one of these weights.
        feed_forward_rows_per_request: rows per decode step that a request adds to each
            feed-forward product: 1, or the share of the experts that a token visits.
        prefill_activation_bytes: activations of the prefill of one request.
        activation_bytes_per_request: activations of a decode step in feed-forward parts, or with
            logits, for each request of all groups.
        stored: what the layers of each kind store.
        tokens: tokens that a request stores.
        kept_tokens: tokens of a prompt that stay in GPU memory until its prefill ends, although
            attention of decode steps runs elsewhere.
        shared_tokens: tokens at the beginning that all requests share, whose keys and values are
            stored once.
        mixer_bytes_per_request: activations of a decode step in mixers, for each request of one
            group.
        groups: groups of GPUs, among which requests are dealt out.
    """

    weight_bytes: float
    feed_forward_bytes: float
    feed_forward_element_bytes: float
    feed_forward_rows_per_request: float
    prefill_activation_bytes: float
    activation_bytes_per_request: float
    stored: tuple[StoredKind, ...]
    tokens: StoredTokens
    kept_tokens: int = 0
    shared_tokens: int = 0
    mixer_bytes_per_request: float = 0.0
    groups: int = 1

    def own(self, requests: int) -> int:
        """Return the requests of the largest group of GPUs.

        Args:
            requests: of all groups.
        """
        return -(-requests // self.groups)

    def decode_activation_bytes(self, requests: int) -> float:
        """Return the activations of a decode step on one GPU.

        Args:
            requests: of all groups.
        """
        return max(
            requests * self.activation_bytes_per_request,
            self.own(requests) * self.mixer_bytes_per_request,
        )

    @property
    def prefill_kv_bytes(self) -> float:
        """Keys and values of a prompt that stay in GPU memory until its prefill ends."""
        if not self.kept_tokens:
            return 0.0
        away = (kind for kind in self.stored if kind.away)
        return sum(kind.pieces * kind.piece_bytes(self.kept_tokens) for kind in away)

    def prompt_bytes(self, tokens: float, *, away: bool | None = None) -> float:
        """Return what a prompt stores on one GPU, or of one GPU's layers elsewhere.

        Args:
            tokens: of the prompt, shared ones included; these are stored once for all requests.
            away: what lies with the devices that run attention, or what lies on the GPU; None for
                both.
        """
        return sum(
            kind.pieces * kind.piece_bytes(tokens - (self.shared_tokens if kind.shares else 0))
            for kind in self.stored
            if away is None or kind.away is away
        )

    def piece_bytes(self, kind: StoredKind, requests: int) -> float:
        """Return the bytes of one piece of one request in a batch, shared tokens apart.

        Args:
            kind: one of ``stored``.
            requests: of the batch.
        """
        stored = self.tokens.reserved(max(1, requests))
        return kind.piece_bytes(stored - (self.shared_tokens if kind.shares else 0))

    def shared_bytes(self, *, away: bool, copies: bool = True) -> float:
        """Return the bytes of the shared tokens, as in `request_bytes`.

        Args:
            away: as in `request_bytes`.
            copies: as in `request_bytes`.
        """
        return sum(
            kind.pieces * kind.token_bytes * self.shared_tokens / (1 if copies else kind.copies)
            for kind in self.stored
            if kind.away is away and kind.shares
        )

    def request_bytes(self, requests: int, *, away: bool, copies: bool = True) -> float:
        """Return what one request stores on one GPU, or of one GPU's layers elsewhere.

        Args:
            requests: of the batch.
            away: what lies with the devices that run attention, or else what lies on the GPU.
            copies: whether copies of a piece on several GPUs count once for each of them.
        """
        return sum(
            kind.pieces * self.piece_bytes(kind, requests) / (1 if copies else kind.copies)
            for kind in self.stored
            if kind.away is away
        )


def footprint(
    model: AnyModel,
    workload: Workload,
    *,
    tensor_parallel: int | Split,
    chunk_tokens: int | None = None,
    keeps_prefill: bool = False,
    home: Container[str] = (),
    draft_tokens: int = 0,
    shared_tokens: int = 0,
    staggered: bool = False,
) -> Footprint:
    """Return the memory that the requests of a workload need.

    The cache holds the prompt and all output tokens except the last, to which nothing attends.
    Prompts, the longest included, are assumed to be prefilled one request at a time, beside decode
    steps of the whole batch.

    Args:
        model: the model.
        workload: its requests.
        tensor_parallel: GPUs that share every layer, or how they do.
        chunk_tokens: tokens of a prompt that are processed at once; None for whole prompts.
        keeps_prefill: whether the keys and values of a prompt that comes in chunks stay in GPU
            memory until its prefill ends, beside the memory that holds them for decode steps.
        home: kinds of layers whose keys and values lie in GPU memory wherever attention runs.
        draft_tokens: drafts that a step verifies; their keys and values are stored until then, and
            the model's draft layers take memory.
        shared_tokens: tokens at the beginning that all requests share.
        staggered: whether memory is held as tokens come, by requests at all stages of their
            outputs. Otherwise every request has memory for its whole length from the start.

    Raises:
        InputError: the model cannot be split over so many GPUs.
    """
    longest = int(workload.prompt_tokens.max())
    chunk = longest if chunk_tokens is None else min(longest, chunk_tokens)
    return footprint_of(
        model,
        StoredTokens.held(held_lengths(workload))
        if staggered
        else StoredTokens.of(final_lengths(workload)),
        prefill_tokens=chunk,
        kept_tokens=longest if keeps_prefill and chunk < longest else 0,
        tensor_parallel=tensor_parallel,
        home=home,
        draft_tokens=draft_tokens,
        shared_tokens=shared_tokens,
    )


def footprint_of(
    model: AnyModel,
    tokens: StoredTokens,
    *,
    prefill_tokens: int,
    kept_tokens: int = 0,
    tensor_parallel: int | Split,
    home: Container[str] = (),
    draft_tokens: int = 0,
    shared_tokens: int = 0,
) -> Footprint:
    """Return the memory that requests with given numbers of stored tokens need.

    Args:
        model: the model.
        tokens: tokens that a request stores.
        prefill_tokens: tokens of a prompt that are processed at once.
        kept_tokens: tokens of a prompt that stay in GPU memory until its prefill ends, although
            attention of decode steps runs elsewhere.
        tensor_parallel: GPUs that share every layer, or how they do.
        home: as in `footprint`.
        draft_tokens: as in `footprint`.
        shared_tokens: as in `footprint`.

    Raises:
        InputError: the model cannot be split over so many GPUs.
    """
    whole = served(model)
    share = whole.share(tensor_parallel)
    drafts = draft_tokens > 0
    if drafts:
        longest = tokens.longest + draft_tokens
        tokens = StoredTokens(tokens.mean + draft_tokens, tokens.deviation, longest)
    feed_forward = sum(share.bytes_by_part[part] for part in FEED_FORWARD_PARTS)
    return Footprint(
        weight_bytes=weight_bytes(share) + (share.draft_bytes if drafts else 0.0),
        feed_forward_bytes=feed_forward,
        feed_forward_element_bytes=share.weights_format.element_bytes,
        feed_forward_rows_per_request=_rows_per_request(share),
        prefill_activation_bytes=activation_bytes(share, tokens=prefill_tokens, sequences=1),
        activation_bytes_per_request=block_activation_bytes(
            share, tokens=1 + draft_tokens, sequences=1 + draft_tokens
        ),
        mixer_bytes_per_request=mixer_activation_bytes(share, tokens=1 + draft_tokens),
        stored=_stored(whole, share, home, drafts=drafts),
        tokens=tokens,
        kept_tokens=kept_tokens,
        shared_tokens=shared_tokens,
        groups=share.split.mixer_groups,
    )


def _rows_per_request(share: ServedModel) -> float:
    """Return the rows that a request adds to a feed-forward product, on average over layers."""
    rows = [
        (layer.feed_forward.visited_share, layer.repeat)
        for layer in share.model.layers
        if layer.feed_forward is not None
    ]
    if not any(isinstance(layer.feed_forward, Mixture) for layer in share.model.layers):
        return 1.0
    return sum(visited * layers for visited, layers in rows) / sum(layers for _, layers in rows)


def _stored(
    whole: ServedModel, share: ServedModel, home: Container[str], *, drafts: bool
) -> tuple[StoredKind, ...]:
    """Return what the layers of each kind store on one of the GPUs that share them."""
    kinds: dict[Layer, tuple[StoredKind, int]] = {}
    pairs = [*zip(whole.model.layers, share.model.layers, strict=True)]
    if drafts and whole.model.draft is not None:
        draft = whole.model.draft
        modules = [layer for _ in range(draft.modules) for layer in draft.layers]
        pairs += [(layer, share_of_layer(layer, share.split)) for layer in modules]
    for layer, mine in pairs:
        if mine.mixer is None:
            continue
        one = mine.model_copy(update={"repeat": 1, "feed_forward": None})
        before = kinds[one][1] if one in kinds else 0
        kinds[one] = _stored_kind(layer, mine, share, home), before + layer.repeat
    return tuple(
        replace(kind, token_bytes=layers * kind.token_bytes, state_bytes=layers * kind.state_bytes)
        for kind, layers in kinds.values()
        if kind.token_bytes or kind.state_bytes
    )


def _stored_kind(layer: Layer, mine: Layer, share: ServedModel, home: Container[str]) -> StoredKind:
    """Return what one layer stores on one of the GPUs that share it."""
    assert mine.mixer is not None  # noqa: S101 - asked only then
    kind, stored = mine.site_kind, mine.mixer.stored(share.kv.bytes)
    away = kind not in home
    if not isinstance(mine.mixer, Attention) or not isinstance(layer.mixer, Attention):
        copies = share.split.mixer_devices if stored.per_token else 1
        # A ring beside tokens without end, as of compressed records, is counted as full.
        state = stored.state + stored.per_request
        return StoredKind(kind, 1, stored.per_token, None, state, copies, away)
    heads, reach = mine.mixer.kv_heads, mine.mixer.reach
    token = mine.mixer.token_bytes(share.kv.bytes)
    copies = heads * share.split.mixer_devices // layer.mixer.kv_heads
    return StoredKind(kind, heads, token / heads, reach, stored.state / heads, copies, away)


@dataclass(frozen=True, slots=True)
class Store:
    """One memory and its contents for a batch.

    Attributes:
        name: name of the memory, as in "memory of each GPU".
        available_bytes: size of the memory, without what the runtime keeps for itself.
        weights_bytes: weights, and copies of weights.
        activations_bytes: activations.
        kv_bytes: keys and values.
        reserved_bytes: what the runtime keeps for itself, beside `available_bytes`.
    """

    name: str
    available_bytes: float
    weights_bytes: float
    activations_bytes: float
    kv_bytes: float
    reserved_bytes: float = 0.0

    @property
    def used_bytes(self) -> float:
        """Bytes of all contents."""
        return self.weights_bytes + self.activations_bytes + self.kv_bytes

    @property
    def fits(self) -> bool:
        """Whether the memory is large enough."""
        return self.used_bytes <= self.available_bytes

    @property
    def filled_by(self) -> Content:
        """The larger of the two contents that grow with the batch."""
        return Content.KV_CACHE if self.kv_bytes >= self.activations_bytes else Content.ACTIVATIONS


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """The largest batch that fits.

    Attributes:
        batch: requests.
        store: the memory that one request more would overflow.
        content: the content that fills this memory, besides the weights.
    """

    batch: int
    store: str
    content: Content


def stores(
    footprint: Footprint,
    system: ResolvedSystem,
    batch: int,
    *,
    stack_bytes: float = 0.0,
    copied_share: float = 0.0,
) -> tuple[Store, ...]:
    """Return every memory of a system with its contents for a batch.

    Whole heads are dealt out to the stacks one by one, so that the fullest stack holds the
    rounded-up share. Heads that stay in the channel of their request fill the fullest channel.
    Heads that are cut fill all stacks evenly. Where GPUs outnumber the key/value heads, they copy
    heads; CPUs and stacks store each head once. Kinds of layers that stay home are in GPU memory.
    Groups of GPUs store the requests of their own, and each group a copy of a shared prefix; the
    fullest GPU counts. The stacks hold the copies of weights that co-processing multiplies with,
    while the GPUs keep all weights for the prefill.

    Args:
        footprint: the memory that the model and workload need.
        system: the system.
        batch: requests.
        stack_bytes: memory of one AttAcc stack, where there are any.
        copied_share: share of the feed-forward weights that the AttAccs hold copies of.
    """
    f, gpus = footprint, system.gpus
    group, own = gpus // f.groups, f.own(batch)
    activations = f.prefill_activation_bytes + f.decode_activation_bytes(batch)
    some = batch > 0
    here = own * f.request_bytes(own, away=False) + some * f.shared_bytes(away=False)
    each = batch * f.request_bytes(batch, away=True, copies=False)
    away = group * (each + some * f.shared_bytes(away=True, copies=False))
    reserved = system.spec.memory_reserve * system.gpu.memory_bytes
    gpu_bytes = system.gpu.memory_bytes - reserved
    kept = f.prefill_kv_bytes

    def of_gpu(kv: float) -> Store:
        return Store("memory of each GPU", gpu_bytes, f.weight_bytes, activations, kv, reserved)

    if system.host is not None:
        return (
            of_gpu(here + kept),
            Store("memory of the CPUs", system.host.memory_bytes, 0.0, 0.0, away),
        )
    if system.attacc is None:
        kv = here + own * f.request_bytes(own, away=True) + some * f.shared_bytes(away=True)
        return (of_gpu(kv),)
    if stack_bytes <= 0:
        raise EngineError("the memory of an AttAcc stack is needed")
    stacks = system.attacc.stacks
    copies = copied_share * gpus * f.feed_forward_bytes
    if system.attacc.table.capacity is CapacityRule.POOLED:
        pool_bytes = gpus * gpu_bytes + stacks * stack_bytes
        weights = gpus * f.weight_bytes + copies
        name, kv = "memory of GPUs and AttAccs together", away + gpus * (here + kept)
        return (Store(name, pool_bytes, weights, gpus * activations, kv, gpus * reserved),)
    in_stack = some * group * f.shared_bytes(away=True, copies=False) / stacks
    for kind in f.stored:
        if not kind.away:
            continue
        every = batch * kind.pieces * group // kind.copies
        if system.attacc.table.cuts_heads:
            in_stack += every * f.piece_bytes(kind, batch) / stacks
        else:
            pieces = _fullest(system.attacc, every, batch)
            in_stack += pieces * f.piece_bytes(kind, min(batch, -(-every // stacks)))
    return (
        of_gpu(here + kept),
        Store("memory of each AttAcc stack", stack_bytes, copies / stacks, 0.0, in_stack),
    )


def _fullest(attacc: AttaccPool, pieces: int, batch: int) -> int:
    """Return the heads for which the fullest stack needs room, of heads that are whole.

    Where heads of a request stay in one channel, every channel needs the room of the fullest one.
    """
    share = attacc.table.heads_of_channel(pieces // batch) if batch else None
    if share is None:
        return -(-pieces // attacc.stacks)
    channels = DRAMS.load_name_or_file(attacc.table.dram).organization.channels
    shares = -(-pieces // (share * attacc.stacks * channels))
    return shares * share * channels


def check_batch(
    footprint: Footprint, system: ResolvedSystem, batch: int, *, stack_bytes: float = 0.0
) -> tuple[Store, ...]:
    """Return every memory with its contents for a batch without copies of weights, if it fits.

    Args:
        footprint: the memory that the model and workload need.
        system: the system.
        batch: requests.
        stack_bytes: memory of one AttAcc stack, where there are any.

    Raises:
        CapacityError: the batch does not fit; says by how much, and which batch would.
        InputError: the batch is below 1.
    """
    if batch < 1:
        raise InputError(f"{batch} is out of range", where="batch", hint="use 1 or more")
    filled = stores(footprint, system, batch, stack_bytes=stack_bytes)
    if _overflowing(filled) is None:
        return filled
    limit = largest_batch(footprint, system, stack_bytes=stack_bytes)
    raise CapacityError(
        _shortfall(filled, f"a batch of {batch:,}"),
        where=f"system {system.spec.name}",
        hint=f"the largest batch that fits is {limit.batch:,}",
    )


def largest_batch(
    footprint: Footprint, system: ResolvedSystem, *, stack_bytes: float = 0.0
) -> BatchLimit:
    """Return the largest batch that fits, and the memory that limits it.

    Args:
        footprint: the memory that the model and workload need.
        system: the system.
        stack_bytes: memory of one AttAcc stack, where there are any.

    Raises:
        CapacityError: not even one request fits.
    """
    batch, store = _limit(footprint, system, stack_bytes, 0.0)
    if batch == 0:
        raise _nothing_fits(footprint, system, stack_bytes)
    return BatchLimit(batch, store.name, store.filled_by)


def tokens_that_fit(
    footprint: Footprint, system: ResolvedSystem, requests: int, *, stack_bytes: float = 0.0
) -> int:
    """Return the tokens whose keys and values fit, whatever requests they belong to.

    Room is kept for weights, for activations of a prefill and of a decode step, and for what does
    not grow with the context. A kind of layers with a window counts as one without.

    Args:
        footprint: the memory that the model and workload need; the lengths do not count.
        system: the system.
        requests: that decode at a time, at most.
        stack_bytes: memory of one AttAcc stack, where there are any.

    Raises:
        CapacityError: not even one token fits.
    """

    def filled(tokens: int) -> tuple[Store, ...]:
        own = StoredTokens(tokens, 0.0, tokens)
        kinds = tuple(replace(kind, reach=None) for kind in footprint.stored)
        return stores(
            replace(footprint, tokens=own, stored=kinds),
            system,
            requests,
            stack_bytes=stack_bytes,
        )

    # Whole heads of one request leave stacks empty. Those of all requests together do not.
    none, one = filled(0), filled(1)
    found = min(
        requests * (empty.available_bytes - empty.used_bytes) / each
        for empty, full in zip(none, one, strict=True)
        if (each := full.kv_bytes - empty.kv_bytes)
    )
    if found < 1:
        raise CapacityError(
            _shortfall(one, f"keys and values of {requests:,} requests"),
            where=f"system {system.spec.name}",
            hint="use more GPUs, narrower weights, or fewer requests at a time",
        )
    return int(found)


def copies_that_fit(
    footprint: Footprint, system: ResolvedSystem, batch: int, *, stack_bytes: float = 0.0
) -> float:
    """Return the share of the feed-forward weights whose copies fit beside a batch, at most 1.

    The memory that would hold the copies decides: the fullest stack, or the pool.

    Args:
        footprint: the memory that the model and workload need.
        system: the system.
        batch: requests.
        stack_bytes: memory of one AttAcc stack, where there are any.

    Raises:
        CapacityError: the batch itself does not fit (`check_batch`).
    """
    beside = check_batch(footprint, system, batch, stack_bytes=stack_bytes)
    every = stores(footprint, system, batch, stack_bytes=stack_bytes, copied_share=1.0)
    return min(
        (
            ROUNDING_ROOM * (without.available_bytes - without.used_bytes) / copies
            for without, whole in zip(beside, every, strict=True)
            if (copies := whole.weights_bytes - without.weights_bytes) and not whole.fits
        ),
        default=1.0,
    )


def preferred_batch(
    footprint: Footprint,
    system: ResolvedSystem,
    *,
    stack_bytes: float = 0.0,
    rates: AttaccRates | None = None,
) -> int:
    """Return the largest batch that leaves room for the copies that co-processing can use.

    The useful share of a product is the one with which GPUs and AttAccs would end it together, by
    their data sheets. The function returns the largest batch beside which copies of this share fit.
    Larger batches may fit, but take memory from copies. Where no batch leaves room for the useful
    share, or where there is no co-processing, the function returns the largest batch that fits.

    Args:
        footprint: the memory that the model and workload need.
        system: the system.
        stack_bytes: memory of one AttAcc stack, where there are any.
        rates: rates of one AttAcc, where it co-processes feed-forward products.

    Raises:
        CapacityError: not even one request fits.
    """
    fits = largest_batch(footprint, system, stack_bytes=stack_bytes).batch
    # The useful share shrinks as the batch grows, and all other needs grow. So the largest batch
    # with the share of a too large batch is an upper limit. Repeating this ends at the largest.
    batch = fits
    while batch > 0:
        share = _useful_share(footprint, system, batch, rates)
        smaller, _ = _limit(footprint, system, stack_bytes, share)
        if smaller >= batch:
            return batch
        batch = smaller
    return fits


def _useful_share(
    footprint: Footprint, system: ResolvedSystem, batch: int, rates: AttaccRates | None
) -> float:
    """Return the largest share of a feed-forward product that is useful at this batch."""
    if not system.spec.ff_coprocessing or system.attacc is None:
        return 0.0
    if rates is None:
        raise EngineError("feed-forward co-processing needs the rates of the AttAccs")
    return max(
        float(
            coprocessed_share(
                compute_bound=compute_bound,
                rows=max(1.0, batch * footprint.feed_forward_rows_per_request),
                weight_bytes=footprint.feed_forward_element_bytes,
                peak_flops_per_s=min(system.gpu.peak_flops.values()),
                memory_bytes_per_s=system.gpu.memory_bytes_per_s,
                internal_bytes_per_s=rates.internal_bytes_per_s
                * system.attacc.table.devices
                / system.gpus,
            )
        )
        for compute_bound in (False, True)
    )


def _limit(
    footprint: Footprint, system: ResolvedSystem, stack_bytes: float, copied_share: float
) -> tuple[int, Store]:
    """Return the largest batch that fits beside a given share of copies, 0 if none does.

    The memory that one request more would overflow comes second.
    """

    def overflowing(batch: int) -> Store | None:
        return _overflowing(
            stores(footprint, system, batch, stack_bytes=stack_bytes, copied_share=copied_share)
        )

    fits, too_large = 0, 1
    while (store := overflowing(too_large)) is None:
        fits, too_large = too_large, 2 * too_large
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if (found := overflowing(middle)) is None:
            fits = middle
        else:
            too_large, store = middle, found
    return fits, store


def _overflowing(filled: tuple[Store, ...]) -> Store | None:
    return next((store for store in filled if not store.fits), None)


def _nothing_fits(
    footprint: Footprint, system: ResolvedSystem, stack_bytes: float
) -> CapacityError:
    """Return the error for a system on which not even one request fits."""
    weights_only = stores(footprint, system, 0, stack_bytes=stack_bytes)
    if all(store.weights_bytes <= store.available_bytes for store in weights_only):
        hint = "not even one request fits: use more memory, or shorter requests"
    else:
        weights_bytes = system.gpus * footprint.weight_bytes
        hint = (
            f"the weights take {weights_bytes / 1e9:,.1f} GB on {system.gpus} GPUs: use more of "
            "them, with more memory, or narrower weights"
        )
    filled = stores(footprint, system, 1, stack_bytes=stack_bytes)
    where = f"system {system.spec.name}"
    return CapacityError(_shortfall(filled, "one request"), where=where, hint=hint)


def _shortfall(filled: tuple[Store, ...], what: str) -> Shortfall:
    store = next(store for store in filled if not store.fits)
    name = store.name
    if store.reserved_bytes:
        name += f" beside the {store.reserved_bytes / 1e9:,.1f} GB that the runtime keeps"
    return Shortfall(f"{name}, for {what}", store.used_bytes, store.available_bytes)
