"""The steady state of a batch: prefill and decode of whole requests on the same GPUs.

A request of P prompt and O output tokens takes a prefill, which yields the first token, and
S = (O - 1) / t decode steps that yield t tokens each. While D requests decode, D / S of them end in
a step on average, and as many prompts must be prefilled for each step. All stages of an output are
equally likely, so a step is priced at the mean over all lengths.

Serial: a step prefills one prompt, or decodes. The D requests take S steps, and D prefills.

Mixed: a step decodes, and has a budget of tokens M. Beside D requests of q tokens there is room for
M - D q tokens of prompts. A prompt that fits is prefilled in one step, another one in equal chunks.
If fewer prompts come than steps, the other steps only decode. If more prompts come than fit, fewer
requests can decode.

Times to the first token are those of a request that does not queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from attacc.errors import InputError
from attacc.gpu.costs import Floats
from attacc.serving.policies import PrefillPolicy
from attacc.system.batches import Ints
from attacc.system.capacity import Footprint
from attacc.system.pricer import Arriving, Drawn, Pricer, Prompts, Timed
from attacc.system.step import Group, StepCosts
from attacc.units import NS_PER_MS, NS_PER_S, PJ_PER_J
from attacc.workload.lengths import LengthDistribution, decode_lengths
from attacc.workload.requests import Workload

LENGTH_BINS = 4
"""Lengths that represent the lengths of a slot."""
TIMED_SIZES = 3
"""Sizes of batches at which attention on AttAccs is timed, where many sizes are priced."""


@dataclass(frozen=True, slots=True, eq=False)
class SteadyStates:
    """Steady states of one replica, for several batches.

    Arrays have an element for each batch.

    Attributes:
        decoding: requests that decode at any one time.
        requests_per_s: requests that end in a second.
        ttft_ns: time to the first token of a request that does not queue.
        tpot_ns: mean time per output token after the first.
        prefill_share: share of the steps that prefill.
        parts_ns: (parts, batches) time of one request by the parts of `Group`: its share of the
            steps that it takes part in. They sum to the time between the ends of two requests.
        energies_j: (kinds, batches) energy of one request by the kinds of `PARTS`.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    decoding: Ints
    requests_per_s: Floats
    ttft_ns: Floats
    tpot_ns: Floats
    prefill_share: Floats
    parts_ns: Floats
    energies_j: Floats
    estimates: tuple[str, ...]

    @property
    def energy_j(self) -> Floats:
        """(batches,) energy of one request."""
        return self.energies_j.sum(axis=0)


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests as a steady state takes them.

    Attributes:
        prompt: mean tokens of a prompt that are prefilled.
        past: tokens before them, so that prompts of the mean size have as many pairs of a query and
            a key as those of the workload.
        steps: mean decode steps of a request.
        lengths: lengths that a slot of the batch sees.
        ends: fewest and most keys at which attention on AttAccs is timed; they enclose the lengths.
    """

    prompt: int
    past: int
    steps: float
    lengths: LengthDistribution
    ends: tuple[int, int]

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, workload: Workload, tokens_per_step: float = 1.0, known: int = 0) -> Stream:
        """Return the stream of a workload's requests.

        Args:
            workload: the requests.
            tokens_per_step: tokens that a decode step yields for a request.
            known: tokens at the beginning of every prompt whose keys and values are known.

        Raises:
            InputError: no request decodes.
        """
        new = (workload.prompt_tokens - known).astype(np.float64)
        weights = workload.counts / workload.counts.sum()
        mean = float(weights @ new)
        spread = float(weights @ new**2) - mean**2
        decoded = float(weights @ (workload.output_tokens - 1))
        lengths = decode_lengths(workload, LENGTH_BINS, all_equal=False)
        ends = min(lengths.lengths), max(lengths.lengths)
        if len(workload) == 1:
            # The first and the last step, which the price of decode alone times, too.
            ends = int(workload.prompt_tokens[0]) + 1, int(workload.final_tokens[0]) - 1
        return cls(
            prompt=max(1, round(mean)),
            past=known + round(max(0.0, spread) / (2 * mean)),
            steps=decoded / tokens_per_step,
            lengths=lengths,
            ends=(min(*ends, *lengths.lengths), max(*ends, *lengths.lengths)),
        )


def steady_states(
    pricer: Pricer,
    workload: Workload,
    sizes: Ints,
    need: Footprint,
    *,
    policy: PrefillPolicy,
    token_budget: int,
    drawn: Drawn | None = None,
) -> SteadyStates:
    """Return the steady states of batches.

    Args:
        pricer: prices the steps of one replica.
        workload: the requests.
        sizes: (batches,) requests that decode at any one time, rising. Sizes beside which the
            budget has no room for the prompts that come are left out.
        need: what a request needs in memory.
        policy: how prompts are prefilled. With other GPUs for prefills, these ones only decode.
        token_budget: tokens of a step at most.
        drawn: (batches,) factors of what is not known exactly, for the batch of each draw; None for
            the best estimates.

    Raises:
        InputError: as in `Pricer.step`, or the budget has no room for any batch.
        CapacityError: as in `Pricer.sized`.
    """
    stream = Stream.of(workload, pricer.speculation.tokens_per_step, pricer.shared_prefix)
    if policy is not PrefillPolicy.MIXED:
        alone = policy is PrefillPolicy.SERIAL
        prefill = prefill_alone(pricer, workload, drawn) if alone else None
        return _serial(pricer, stream, sizes, need, prefill, drawn)
    queries = pricer.speculation.queries
    most = token_budget / (queries + stream.prompt / stream.steps)
    fitting = sizes[sizes <= most]
    if not fitting.size:
        raise InputError(
            f"{token_budget:,} tokens of a step have no room for one request that decodes and the "
            "prompts that come meanwhile",
            where="token_budget",
            hint="use a larger budget",
        )
    return _mixed(pricer, stream, fitting, need, token_budget - fitting * queries, drawn)


def timed_sizes(sizes: Ints) -> list[int]:
    """Return the sizes at which attention on AttAccs is timed: few, evenly spread, both ends too.

    Args:
        sizes: all sizes, rising.
    """
    distinct = np.unique(sizes)
    if distinct.size <= TIMED_SIZES:
        return distinct.tolist()
    places = np.unique(np.rint(np.linspace(0, distinct.size - 1, TIMED_SIZES)).astype(np.int64))
    return distinct[places].tolist()


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """Steps of several batches.

    Attributes:
        parts_ns: (parts, batches) durations by the parts of `Group`.
        energies_pj: (kinds, batches) energies by the kinds of `PARTS`.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    parts_ns: Floats
    energies_pj: Floats
    estimates: tuple[str, ...] = ()

    @classmethod
    def of(cls, priced: StepCosts) -> _Steps:
        """Return steps as they are priced."""
        parts = np.stack([priced.group_ns(group) for group in Group])
        return cls(parts, priced.energy.parts_pj, priced.estimates)

    @property
    def time_ns(self) -> Floats:
        """(batches,) durations."""
        return self.parts_ns.sum(axis=0)

    def take(self, places: Ints) -> _Steps:
        """Return some of the steps."""
        return _Steps(self.parts_ns[:, places], self.energies_pj[:, places], self.estimates)

    def spread(self, places: Ints, steps: int) -> _Steps:
        """Return these steps at places among others that take nothing.

        Args:
            places: (batches,) their places, each once.
            steps: how many steps there are.
        """
        parts_ns = np.zeros((len(self.parts_ns), steps))
        energies_pj = np.zeros((len(self.energies_pj), steps))
        parts_ns[:, places], energies_pj[:, places] = self.parts_ns, self.energies_pj
        return _Steps(parts_ns, energies_pj, self.estimates)

    def minus(self, other: _Steps) -> _Steps:
        """Return what these steps take more than others."""
        return _Steps(
            self.parts_ns - other.parts_ns, self.energies_pj - other.energies_pj, self.estimates
        )

    def plus(self, other: _Steps, share: Floats) -> _Steps:
        """Return these steps with a share of others on top."""
        return _Steps(
            self.parts_ns + share * other.parts_ns,
            self.energies_pj + share * other.energies_pj,
            told(self.estimates, other.estimates),
        )


def _decode(
    pricer: Pricer,
    stream: Stream,
    sizes: Ints,
    need: Footprint,
    drawn: Drawn | None,
    *,
    also: tuple[int, ...] = (),
    arriving: Arriving | None = None,
) -> tuple[_Steps, _Steps]:
    """Return the mean decode steps of batches, and their steps at one more length.

    Args:
        pricer: prices the steps.
        stream: the requests.
        sizes: (batches,) requests that decode.
        need: what a request needs in memory.
        drawn: as in `steady_states`.
        also: a length within those of the stream, or none; then the second steps are empty.
        arriving: prompts that come from other GPUs meanwhile; None for none.
    """
    keys = np.array([*stream.lengths.lengths, *also], dtype=np.int64)
    weights = np.append(stream.lengths.weights, np.zeros(len(also)))
    each = _Steps.of(
        pricer.sized(
            np.repeat(sizes, keys.size),
            np.tile(keys, sizes.size),
            timed=_timed(stream, sizes),
            need=need,
            arriving=None if arriving is None else arriving.repeat(keys.size),
            drawn=None if drawn is None else drawn.repeat(keys.size),
        )
    )
    added = np.tile(np.arange(keys.size) >= keys.size - len(also), sizes.size)
    own = each.take(np.flatnonzero(added))

    def mean(values: Floats) -> Floats:
        return values.reshape(len(values), sizes.size, keys.size) @ weights

    return _Steps(mean(each.parts_ns), mean(each.energies_pj), each.estimates), own


def _timed(stream: Stream, sizes: Ints) -> Timed:
    """Return the batches for which attention on AttAccs is timed."""
    return Timed(tuple(timed_sizes(sizes)), stream.ends)


def _serial(
    pricer: Pricer,
    stream: Stream,
    sizes: Ints,
    need: Footprint,
    prefill: Prefill | None,
    drawn: Drawn | None,
) -> SteadyStates:
    """Return steady states whose steps prefill one prompt, or decode.

    Args:
        pricer: prices the steps.
        stream: the requests.
        sizes: (batches,) requests that decode.
        need: what a request needs in memory.
        prefill: on these GPUs; None where other GPUs prefill.
        drawn: as in `steady_states`.
    """
    arriving = None if prefill is not None else Arriving(sizes / stream.steps, stream.prompt)
    step, _ = _decode(pricer, stream, sizes, need, drawn, arriving=arriving)
    each = stream.steps / sizes
    mine = _Steps(each * step.parts_ns, each * step.energies_pj, step.estimates)
    prefill_ns: Floats = np.zeros(1)
    if prefill is not None:
        prefill_ns = prefill.steps.time_ns
        mine = mine.plus(prefill.steps, np.ones(sizes.size))
    request_ns = mine.time_ns
    # A request stays for as long as all that are in flight take together, and waits for prefills
    # of the others between its tokens.
    stay_ns = sizes * request_ns - prefill_ns
    tokens = stream.steps * pricer.speculation.tokens_per_step
    ended = sizes / stream.steps
    return SteadyStates(
        decoding=sizes,
        requests_per_s=NS_PER_S / request_ns,
        ttft_ns=np.broadcast_to(prefill_ns, sizes.shape),
        tpot_ns=stay_ns / tokens,
        prefill_share=np.zeros(sizes.size) if prefill is None else ended / (1 + ended),
        parts_ns=mine.parts_ns,
        energies_j=mine.energies_pj / PJ_PER_J,
        estimates=mine.estimates,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """The mean prefill of one request alone.

    Attributes:
        steps: of one prefill, or one for each draw.
    """

    steps: _Steps

    @property
    def time_ns(self) -> Floats:
        """(draws,) durations."""
        return self.steps.time_ns


def told(*notes: Sequence[str]) -> tuple[str, ...]:
    """Return notes, each once.

    Args:
        notes: of several prices.
    """
    return tuple(dict.fromkeys(note for some in notes for note in some))


def prefill_alone(pricer: Pricer, workload: Workload, drawn: Drawn | None = None) -> Prefill:
    """Return the mean prefill, one request at a time.

    Args:
        pricer: prices the steps of one replica.
        workload: the requests.
        drawn: as in `steady_states`.
    """
    priced, weights = pricer.prefills(workload, drawn)
    each, draws = _Steps.of(priced), priced.steps // len(weights)

    def mean(values: Floats) -> Floats:
        return values.reshape(len(values), draws, len(weights)) @ np.asarray(weights)

    return Prefill(_Steps(mean(each.parts_ns), mean(each.energies_pj), each.estimates))


def _mixed(
    pricer: Pricer,
    stream: Stream,
    sizes: Ints,
    need: Footprint,
    room: Ints,
    drawn: Drawn | None,
) -> SteadyStates:
    """Return steady states whose steps decode, and prefill in the room that is left.

    Args:
        pricer: prices the steps.
        stream: the requests.
        sizes: (batches,) requests that decode.
        need: what a request needs in memory.
        room: (batches,) tokens of prompts that fit into a step.
        drawn: as in `steady_states`.
    """
    middle = round(stream.lengths.mean_tokens)
    step, alone = _decode(pricer, stream, sizes, need, drawn, also=(middle,))
    ended = sizes / stream.steps
    pieces = -(-stream.prompt // room)
    new = -(-stream.prompt // pieces)
    past = stream.past + (stream.prompt - new) // 2
    whole = pieces == 1
    fewer = np.where(whole, np.floor(ended), 0).astype(np.int64)
    # Steps with one prompt (or chunk) more occur as often as it takes to prefill all that come.
    share = np.where(whole, ended - fewer, ended * pieces)

    # Steps with fewer chunks, then steps with one more. Steps without chunks are known already.
    place = np.concatenate([np.flatnonzero(fewer), np.arange(sizes.size)])
    chunks = np.concatenate([fewer[fewer > 0], fewer + 1])
    both = _Steps.of(
        pricer.sized(
            sizes[place],
            np.full(place.size, middle),
            timed=_timed(stream, sizes),
            need=need,
            beside=Prompts(new[place], past[place], chunks),
            drawn=None if drawn is None else drawn.take(place),
        )
    )
    added = both.minus(alone.take(place))
    some = place.size - sizes.size
    more = added.take(np.arange(some, place.size))
    mean = step.plus(more, share)
    if some:
        less = added.take(np.arange(some)).spread(place[:some], sizes.size)
        mean = mean.plus(less, 1 - share)
    energies_j = mean.energies_pj / ended / PJ_PER_J
    return SteadyStates(
        decoding=sizes,
        requests_per_s=ended / mean.time_ns * NS_PER_S,
        ttft_ns=pieces * (step.time_ns + more.time_ns),
        tpot_ns=mean.time_ns / pricer.speculation.tokens_per_step,
        prefill_share=np.where(fewer > 0, 1.0, np.minimum(1.0, share)),
        parts_ns=mean.parts_ns / ended,
        energies_j=energies_j,
        estimates=mean.estimates,
    )


def within(
    states: SteadyStates, *, slo_tpot_ms: float | None = None, slo_ttft_ms: float | None = None
) -> Ints:
    """Return the places of the states that keep latency targets.

    Args:
        states: the states.
        slo_tpot_ms: longest acceptable mean time per output token; None for any.
        slo_ttft_ms: longest acceptable time to the first token; None for any.
    """
    kept = np.ones(states.decoding.size, dtype=np.bool_)
    if slo_tpot_ms is not None:
        kept &= states.tpot_ns <= slo_tpot_ms * NS_PER_MS
    if slo_ttft_ms is not None:
        kept &= states.ttft_ns <= slo_ttft_ms * NS_PER_MS
    return np.flatnonzero(kept)
