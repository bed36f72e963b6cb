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
from attacc.system.pricer import Drawn, Pricer, Prompts
from attacc.units import NS_PER_MS, NS_PER_S, PJ_PER_J
from attacc.workload.lengths import LengthDistribution, condense, decode_lengths
from attacc.workload.requests import Workload

LENGTH_BINS = 4
"""Lengths that represent the lengths of a slot."""
TIMED_SIZES = 5
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
        energy_j: energy of one request.
        prefill_share: share of the steps that prefill.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    decoding: Ints
    requests_per_s: Floats
    ttft_ns: Floats
    tpot_ns: Floats
    energy_j: Floats
    prefill_share: Floats
    estimates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests as a steady state takes them.

    Attributes:
        prompt: mean tokens of a prompt that are prefilled.
        past: tokens before them, so that prompts of the mean size have as many pairs of a query and
            a key as those of the workload.
        steps: mean decode steps of a request.
        lengths: lengths that a slot of the batch sees.
    """

    prompt: int
    past: int
    steps: float
    lengths: LengthDistribution

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
        lengths = condense(decode_lengths(workload, 4 * LENGTH_BINS), LENGTH_BINS)
        return cls(
            prompt=max(1, round(mean)),
            past=known + round(max(0.0, spread) / (2 * mean)),
            steps=decoded / tokens_per_step,
            lengths=lengths,
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
        time_ns: (batches,) durations.
        energy_pj: (batches,) energies.
        estimates: parts of the prices that are scaled, assumed, or beyond the fitted range.
    """

    time_ns: Floats
    energy_pj: Floats
    estimates: tuple[str, ...] = ()


def _decode(
    pricer: Pricer, stream: Stream, sizes: Ints, need: Footprint, drawn: Drawn | None
) -> _Steps:
    """Return the mean decode steps of batches."""
    keys = np.asarray(stream.lengths.lengths, dtype=np.int64)
    weights = np.asarray(stream.lengths.weights)
    priced = pricer.sized(
        np.repeat(sizes, keys.size),
        np.tile(keys, sizes.size),
        timed=timed_sizes(sizes),
        need=need,
        drawn=None if drawn is None else drawn.repeat(keys.size),
    )
    shape = sizes.size, keys.size
    time_ns = np.broadcast_to(priced.time_ns, (sizes.size * keys.size,))
    energy_pj = priced.energy.total_pj.reshape(shape) @ weights
    return _Steps(time_ns.reshape(shape) @ weights, energy_pj, priced.estimates)


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
    step = _decode(pricer, stream, sizes, need, drawn)
    step_ns, step_pj = step.time_ns, step.energy_pj
    prefill_ns = np.zeros(1) if prefill is None else prefill.time_ns
    prefill_pj = 0.0 if prefill is None else prefill.energy_pj
    request_ns = prefill_ns + stream.steps * step_ns / sizes
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
        energy_j=(prefill_pj + stream.steps * step_pj / sizes) / PJ_PER_J,
        prefill_share=np.zeros(sizes.size) if prefill is None else ended / (1 + ended),
        estimates=told(step.estimates, () if prefill is None else prefill.estimates),
    )


@dataclass(frozen=True, slots=True)
class Prefill:
    """The mean prefill of one request alone.

    Attributes:
        time_ns: (draws,) its time.
        energy_pj: its energy, by the best estimates.
        estimates: parts of the price that are scaled, assumed, or beyond the fitted range.
    """

    time_ns: Floats
    energy_pj: float
    estimates: tuple[str, ...]


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
    mean = pricer.prefill(workload)
    time_ns = np.array([mean.time_ns])
    if drawn is not None:
        time_ns = pricer.prefill_drawn(workload, drawn)
    return Prefill(time_ns, mean.energy.total_pj, mean.estimates)


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
    step = _decode(pricer, stream, sizes, need, drawn)
    middle = np.full(sizes.size, round(stream.lengths.mean_tokens))
    ended = sizes / stream.steps
    pieces = -(-stream.prompt // room)
    new = -(-stream.prompt // pieces)
    past = stream.past + (stream.prompt - new) // 2
    whole = pieces == 1
    fewer = np.where(whole, np.floor(ended), 0).astype(np.int64)
    # Steps with one prompt (or chunk) more occur as often as it takes to prefill all that come.
    share = np.where(whole, ended - fewer, ended * pieces)

    def extra(chunks: Ints) -> _Steps:
        """Return what so many chunks add to a step."""
        time_ns, energy_pj = np.zeros(sizes.size), np.zeros(sizes.size)
        some = chunks > 0
        if not some.any():
            return _Steps(time_ns, energy_pj)
        beside = Prompts(new[some], past[some], chunks[some])
        at_sizes, keys = sizes[some], middle[some]
        timed = timed_sizes(at_sizes)
        alone = pricer.sized(at_sizes, keys, timed=timed, need=need, drawn=drawn)
        both = pricer.sized(at_sizes, keys, timed=timed, need=need, beside=beside, drawn=drawn)
        time_ns[some] = both.time_ns - alone.time_ns
        energy_pj[some] = both.energy.total_pj - alone.energy.total_pj
        return _Steps(time_ns, energy_pj, both.estimates)

    less, more = extra(fewer), extra(fewer + 1)
    mean_ns = step.time_ns + (1 - share) * less.time_ns + share * more.time_ns
    mean_pj = step.energy_pj + (1 - share) * less.energy_pj + share * more.energy_pj
    return SteadyStates(
        decoding=sizes,
        requests_per_s=ended / mean_ns * NS_PER_S,
        ttft_ns=pieces * (step.time_ns + more.time_ns),
        tpot_ns=mean_ns / pricer.speculation.tokens_per_step,
        energy_j=mean_pj / ended / PJ_PER_J,
        prefill_share=np.where(fewer > 0, 1.0, np.minimum(1.0, share)),
        estimates=told(step.estimates, more.estimates),
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
