"""Durations of an engine's steps within microseconds, from tables that the pricer fills.

`attacc.system.pricer.Pricer` is the only part that prices. It takes milliseconds for a step, and
hardly more for hundreds. So `StepPrices` asks it for blocks of steps at fixed nodes, and reads a
step off these tables. Where the parts of a step run one after the other, a mixed step is the sum of
its products, its decode attention and the attention of its prompts (docs/model/step-prices.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from attacc.gpu.costs import Floats
from attacc.pim.mapping.resident_counts import Policy
from attacc.serving.prices.decode import REQUESTS_IN_BLOCK, DecodeTable
from attacc.serving.prices.grid import MixedGrid
from attacc.serving.prices.parts import EQUAL, StepParts, StepSource
from attacc.serving.prices.tables import PromptTable, TokenTable
from attacc.serving.prices.totals import Totals, totals_of
from attacc.serving.prices.works import Works
from attacc.serving.work import Chunk, Work, forgotten
from attacc.system.pricer import Pricer, Timed
from attacc.units import MAX_SIZE, PS_PER_NS, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attacc.serving.prices.residents import Residents
    from attacc.system.batches import Ints
    from attacc.system.residents import Channels
    from attacc.system.step import StepCosts

ONE: Final = (Chunk(1, 0, 0, True),)
"""The least chunk, beside which tables of mixed steps are priced."""
REMEMBERED: Final = 2**16
"""Steps whose exact prices are kept; the least recently used ones are dropped."""
SAMPLES: Final = 64
"""Steps of a sample that is priced exactly."""
PLAYED_SAMPLES: Final = 16
"""The same where the engine plays what AttAccs held, which takes a tenth of a second for each."""
BLOCK_TOKENS: Final = 16
"""Tokens of a block in which beginnings of prompts are compared, where an engine has no blocks."""
READ_BACK: Final = 1024, 65536
"""Cached tokens at which reading keys and values back is priced; it is a line between them."""
LINES: Final = "step times: attention on straight lines between priced lengths"
"""Note of all durations that are not exact."""
HELD: Final = (
    "attention on AttAccs: on lines through the keys and chunks of the fullest channel, which are "
    "within {:.0%} of the engine's times"
)
"""Note of attention that follows from what the channels hold."""
WHOLE: Final = "steps with prompts: on straight lines between whole steps of equal requests"
"""Note of steps whose parts overlap."""


class Price(NamedTuple):
    """Duration of a step.

    Attributes:
        device_ps: picoseconds of all devices, the host's time apart.
        host_ps: picoseconds that the host adds.
    """

    device_ps: int
    host_ps: int


@dataclass(frozen=True, slots=True)
class PriceCheck:
    """How far durations are from the pricer's.

    Attributes:
        asked_steps: steps whose durations were asked for.
        sampled_steps: of these, steps that were drawn at random and priced exactly.
        max_deviation: largest relative deviation of a duration among them.
        bound: sum of the largest relative deviations of every table, at the centres of its cells.
    """

    asked_steps: int
    sampled_steps: int
    max_deviation: float
    bound: float


class _Sampled(NamedTuple):
    """A step that is priced exactly, too.

    Attributes:
        work: what it computes.
        lists: what the channels of AttAccs held then.
    """

    work: Work
    lists: tuple[Channels, ...] | None

    @classmethod
    def of(cls, work: Work) -> _Sampled:
        # Steps of a record no longer know what the channels held.
        known = work.held is not None and work.held.lists is not forgotten
        return cls(work, work.held.lists() if work.held is not None and known else None)


class StepPrices:
    """Prices steps of one replica by tables.

    Equal works in equal order get equal durations, whatever was asked for before. Instances are not
    for several threads.

    Args:
        pricer: prices the steps.
        seed: seed of the sample for `check`.
        exact: whether the pricer prices every step by itself, without tables.
        samples: steps of the sample, at least 1. None for 64, or for 16 where the engine plays what
            AttAccs held in them.
        residence: where keys go in the channels of AttAccs.

    Raises:
        InputError: the pricer verifies drafts, or requests share a prefix.
    """

    def __init__(
        self,
        pricer: Pricer,
        *,
        seed: int = 0,
        exact: bool = False,
        samples: int | None = None,
        residence: Policy = Policy.RESIDENT,
    ) -> None:
        self._source = StepSource(pricer, residence)
        self._exact = exact
        usual = SAMPLES if self._source.residing is None else PLAYED_SAMPLES
        self._samples = whole(usual if samples is None else samples, where="samples")
        self._random = Random(seed)  # noqa: S311 - a sample, no secret
        self._asked = 0
        self._follows = False
        self._sampled: list[_Sampled] = []
        self._last: Work | None = None
        self._last_price = Price(0, 0)
        self._alone = lru_cache(maxsize=REMEMBERED)(self._price_alone)
        self._make_tables()

    def _make_tables(self) -> None:
        """Make empty tables."""
        source = self._source
        self._grid = MixedGrid(source)
        self._prompts = PromptTable(source, lambda parts: parts.attention_ns)
        if source.additive:
            decode, mixed = _attention, self._mixed_attention
        else:
            decode, mixed = _device, _device
        self._decode = DecodeTable(source, decode)
        self._beside = DecodeTable(source, mixed, ONE)
        self._hosts = DecodeTable(source, _host)
        self._decode_others = TokenTable(self._of_requests(_others, ()), 1)
        self._decode_host = TokenTable(self._of_requests(_host, ()), 1)
        self._sent = TokenTable(self._of_requests(_attention, ()), 1)
        self._mixed_sent = TokenTable(self._of_requests(self._mixed_attention, ONE), 1)
        self._mixed_host = TokenTable(self._of_requests(_host, ONE), 1)
        self._mixed_others = TokenTable(self._mixed_tokens, 2)
        self._mixed_rows = TokenTable(self._mixed_positions, 2)
        self._prefill_others = TokenTable(self._prefill_tokens, 1)
        self._prefill_rows = TokenTable(self._prefill_positions, 1, REQUESTS_IN_BLOCK)
        self._errors = {"decode": 0.0, "beside": 0.0, "prompts": 0.0, "grid": 0.0}

    @property
    def calls(self) -> int:
        """Calls of the pricer so far."""
        return self._source.calls

    @property
    def estimates(self) -> tuple[str, ...]:
        """What durations are estimated by, beyond the estimates of the pricer."""
        if self._exact:
            return ()
        notes = [LINES]
        if self._follows:
            notes.append(HELD.format(self._source.held_times.error))
        elif self._source.equal:
            notes.append(EQUAL)
        if not self._source.additive:
            notes.append(WHOLE)
        return tuple(notes)

    def time_ps(self, work: Work) -> int:
        """Return the duration of a step in picoseconds: `device_ps` and `host_ps`.

        Args:
            work: what the step computes.

        Raises:
            InputError: the step is empty, or its requests cannot have its keys.
        """
        price = self.price(work)
        return price.device_ps + price.host_ps

    def device_ps(self, work: Work) -> int:
        """Return the duration of a step in picoseconds, without the time of the host.

        Args:
            work: as in `time_ps`.

        Raises:
            InputError: as in `time_ps`.
        """
        return self.price(work).device_ps

    def host_ps(self, work: Work) -> int:
        """Return the picoseconds that the host adds to a step.

        Args:
            work: as in `time_ps`.

        Raises:
            InputError: as in `time_ps`.
        """
        return self.price(work).host_ps

    def price(self, work: Work) -> Price:
        """Return both parts of the duration of a step.

        A work that is asked for again right away is one step: it is sampled once.

        Args:
            work: as in `time_ps`.

        Raises:
            InputError: as in `time_ps`.
        """
        if work is self._last:
            return self._last_price
        price = self._price(work)
        self._asked += 1
        if self._asked <= self._samples:
            self._sampled.append(_Sampled.of(work))
        else:
            place = int(self._random.random() * self._asked)
            if place < self._samples:
                self._sampled[place] = _Sampled.of(work)
        self._last, self._last_price = work, price
        return price

    def attention_ns(self, work: Work) -> float:
        """Return decode attention of a step, with transfers of its operands, in nanoseconds.

        On GPUs it follows from the number of requests, their mean and their longest keys. Away from
        GPUs it follows from what the channels hold. Where the work does not tell that, all requests
        are taken to have the mean length.

        Args:
            work: of a system whose steps are sums of their parts.
        """
        held = work.held
        if held is not None and self._source.residing is not None:
            layer_ns = self._source.held_times.ns_of(held.keys, held.chunks)
            sent = self._mixed_sent if work.chunks else self._sent
            return sent.at(work.decoding) + self._source.residing[1] * layer_ns
        table = self._beside if work.chunks else self._decode
        return table.at(work.decoding, work.keys, work.longest)

    @property
    def bound(self) -> float:
        """Sum of the largest relative deviations of every table, at the centres of its cells.

        The tables in use are checked when this is read. Times of kernels rise in steps, so that the
        centre of a cell is not always its worst point: the number is an estimate of a bound.
        """
        for name, checks in (
            ("decode", self._decode.checks),
            ("beside", self._beside.checks),
            ("prompts", self._prompts.checks),
            ("grid", self._grid.checks),
        ):
            if checks:
                works = Works.joined([centres() for centres in checks])
                checks.clear()
                self._errors[name] = max(self._errors[name], self._deviation(works))
        return sum(self._errors.values())

    def check(self) -> PriceCheck:
        """Price a random sample of the steps so far exactly, and return how far tables are off."""
        deviation = self._sample_deviation() if self._sampled and not self._exact else 0.0
        bound = self.bound + self._held_bound()
        return PriceCheck(self._asked, len(self._sampled), deviation, bound)

    def _held_bound(self) -> float:
        """Return what the lines of channels add to the bound, at the sampled steps."""
        residing = self._source.residing
        if residing is None or self._exact:
            return 0.0
        times, shares = self._source.held_times, [0.0]
        for work, _ in self._sampled:
            if work.held is not None:
                ns = residing[1] * times.ns_of(work.held.keys, work.held.chunks)
                shares.append(ns * PS_PER_NS / sum(self._price(work)))
        return times.error * max(shares)

    def channel_ns(self, works: Works) -> tuple[float, float]:
        """Return times of channels of AttAccs over a run, for one layer.

        Args:
            works: all steps of the run.

        Returns:
            Nanoseconds of the fullest channels, and of mean ones; zeros where the works do not tell
            what channels hold.
        """
        pricer, residing = self._source.pricer, self._source.residing
        held, some = works.held, works.decoding > 0
        if pricer.attaccs is None or residing is None or held is None or not some.any():
            return 0.0, 0.0
        times, channels = self._source.held_times, pricer.attaccs.channels
        keys, chunks, all_chunks = held[:, some]
        all_keys = works.keys[some] * residing[0].kv_heads
        mean = times.times(all_keys / channels, all_chunks / channels)
        return float(times.times(keys, chunks).sum()), float(mean.sum())

    @property
    def pricer(self) -> Pricer:
        """What prices the steps."""
        return self._source.pricer

    def costs(self, works: Works) -> list[tuple[Ints, StepCosts]]:
        """Return numbers of steps, and the pricer's costs of their operators.

        Args:
            works: the steps.

        Raises:
            InputError: as in `time_ps`.
        """
        return self._source.groups(works)

    def totals(self, works: Works) -> Totals:
        """Return energy and busy time of a run.

        Args:
            works: all steps of the run.

        Raises:
            InputError: as in `time_ps`.
        """
        return totals_of(self._source, works)

    def _deviation(self, works: Works) -> float:
        """Return the largest relative deviation from the pricer's durations."""
        parts = self._source.exact(works)
        own = np.array([sum(self._price(work)) for work in works.rows()]) / PS_PER_NS
        return float(np.abs(own / (parts.device_ns + parts.host_ns) - 1.0).max())

    def _sample_deviation(self) -> float:
        """Return the largest relative deviation among the sampled steps.

        Attention on AttAccs is that of the engine, to the chunks that the channels held.
        """
        source, works = self._source, [one.work for one in self._sampled]
        layer_ns = None
        if source.residing is not None:
            layer_ns = np.array([self._layer_ns(one) for one in self._sampled])
        parts = source.exact(Works.of(works), layer_ns)
        own = np.array([sum(self._price(work)) for work in works]) / PS_PER_NS
        return float(np.abs(own / (parts.device_ns + parts.host_ns) - 1.0).max())

    def _layer_ns(self, one: _Sampled) -> float:
        """Return attention of a sampled step's layer on AttAccs, by the engine where it can."""
        if one.lists is not None:
            return self._source.played_ns(one.lists)
        held = one.work.held
        return 0.0 if held is None else self._source.held_times.ns_of(held.keys, held.chunks)

    def residents(self, block_tokens: int = BLOCK_TOKENS) -> Residents | None:
        """Return the channels of AttAccs for a run; None where nothing depends on them.

        A run's steps then tell what the channels hold (`Work.held`).

        Args:
            block_tokens: tokens of a block of the engine's prefix cache; 1 where it has none.
        """
        self._follows = self._source.residing is not None
        return self._source.residents(block_tokens if block_tokens > 1 else BLOCK_TOKENS)

    def _price(self, work: Work) -> Price:
        decoding, keys, longest, chunks, _ = work
        reads = self._source.away and any(chunk.cached for chunk in chunks)
        if self._exact or (reads and not self._source.additive):
            # What the channels hold is known now, and only now.
            return self._alone(work) if work.held is None else self._price_alone(work)
        possible = decoding * longest >= keys >= longest + decoding - 1 and longest <= MAX_SIZE
        if not possible or not (decoding or chunks):
            return self._alone(work)  # which names the error
        if chunks:
            device_ns, host_ns = self._with_prompts(work)
            if reads:
                least, each = self._read_back
                device_ns += least + each * sum(chunk.cached for chunk in chunks)
        elif self._source.additive:
            device_ns = self._decode_others.at(decoding) + self.attention_ns(work)
            host_ns = self._decode_host.at(decoding)
        else:
            device_ns = self._decode.at(decoding, keys, longest)
            host_ns = self._hosts.at(decoding, keys, longest)
        return Price(round(device_ns * PS_PER_NS), round(host_ns * PS_PER_NS))

    @cached_property
    def _read_back(self) -> tuple[float, float]:
        """Time of reading cached keys and values back from AttAccs: once, and of each token."""
        works = [
            Work(0, 0, 0, (Chunk(1, n, cached, True),)) for n in READ_BACK for cached in (0, n)
        ]
        few, few_read, many, many_read = self._source.exact(Works.of(works)).attention_ns.tolist()
        each = (many_read - many - few_read + few) / (READ_BACK[1] - READ_BACK[0])
        return few_read - few - each * READ_BACK[0], each

    def _with_prompts(self, work: Work) -> tuple[float, float]:
        """Return the device's and the host's time of a step with prompts."""
        decoding, keys, _, chunks, _ = work
        many, new, squares, pairs = len(chunks), 0, 0, 0
        for own, past, _, _ in chunks:
            if not 0 < own <= MAX_SIZE >= past >= 0:
                Works.of([work])  # which names the error
            new += own
            squares += own * own
            pairs += own * past
        if not self._source.additive:
            return self._grid.at(decoding, keys, many, new, pairs)
        prompts_ns = self._prompts.at(many, new, squares, pairs)
        if not decoding:
            others_ns = self._prefill_others.at(new)
            if many > 1:
                others_ns += self._prefill_rows.at(many)
            return others_ns + prompts_ns, 0.0
        others_ns = self._mixed_others.at(decoding + new) + self._mixed_rows.at(decoding + many)
        host_ns = self._mixed_host.at(decoding)
        return others_ns + prompts_ns + self.attention_ns(work), host_ns

    def _price_alone(self, work: Work) -> Price:
        """Price one step by the pricer."""
        layer_ns = None
        if self._exact and work.held is not None:
            layer_ns = np.array([self._source.played_ns(work.held.lists())])
        parts = self._source.exact(Works.of([work]), layer_ns)
        return Price(
            round(float(parts.device_ns[0]) * PS_PER_NS), round(float(parts.host_ns[0]) * PS_PER_NS)
        )

    # What tables hold

    def _parts(self, works: Sequence[Work]) -> StepParts:
        """Return the parts of steps in which every request has one key."""
        columns = Works.of(works)
        if self._source.residing is not None:
            return self._source.exact(columns, np.zeros(len(columns)))
        ends = max(1, int(columns.decoding.min())), max(1, int(columns.decoding.max()))
        return self._source.parts_in_block(columns, Timed(tuple(sorted({*ends})), (1, 1)))

    def _of_requests(
        self, taken: Callable[[StepParts], Floats], beside: tuple[Chunk, ...]
    ) -> Callable[[Sequence[int]], Floats]:
        """Return a function of the number of requests with one key each."""
        return partial(self._requests, taken, beside)

    def _requests(
        self,
        taken: Callable[[StepParts], Floats],
        beside: tuple[Chunk, ...],
        numbers: Sequence[int],
    ) -> Floats:
        return taken(self._parts([Work(n, n, 1, beside) for n in numbers]))

    def _mixed_tokens(self, numbers: Sequence[int]) -> Floats:
        """Return all but attention of one request beside a chunk."""
        works = [Work(1, 1, 1, (Chunk(n - 1, 0, 0, True),)) for n in numbers]
        return self._parts(works).others_ns

    def _mixed_positions(self, numbers: Sequence[int]) -> Floats:
        """Return what positions with logits add to as many tokens with two of them."""
        several = self._parts([Work(n - 1, n - 1, 1, ONE) for n in numbers]).others_ns
        return several - np.array([self._mixed_others.at(n) for n in numbers])

    def _prefill_tokens(self, numbers: Sequence[int]) -> Floats:
        """Return all but attention of one chunk."""
        return self._parts([Work(0, 0, 0, (Chunk(n, 0, 0, True),)) for n in numbers]).others_ns

    def _prefill_positions(self, numbers: Sequence[int]) -> Floats:
        """Return what positions with logits add to as many tokens with one of them."""
        several = self._parts([Work(0, 0, 0, ONE * n) for n in numbers]).others_ns
        return several - np.array([self._prefill_others.at(n) for n in numbers])

    def _mixed_attention(self, parts: StepParts) -> Floats:
        """Return decode attention of steps beside the least chunk."""
        return parts.attention_ns - self._prompts.at(1, 1, 1, 0)


def _attention(parts: StepParts) -> Floats:
    return parts.attention_ns


def _others(parts: StepParts) -> Floats:
    return parts.others_ns


def _device(parts: StepParts) -> Floats:
    return parts.device_ns


def _host(parts: StepParts) -> Floats:
    return parts.host_ns
