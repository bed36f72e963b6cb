"""Durations of an engine's steps within microseconds, from tables that the pricer fills.

`attacc.system.pricer.Pricer` is the only part that prices. It takes milliseconds for a step, and
hardly more for hundreds. So `StepPrices` asks it for blocks of steps at fixed nodes, and reads a
step off these tables. Where the parts of a step run one after the other, a mixed step is the sum of
its products, its decode attention and the attention of its prompts (docs/model/step-prices.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from attacc.gpu.costs import Floats
from attacc.serving.prices.decode import REQUESTS_IN_BLOCK, DecodeTable
from attacc.serving.prices.grid import MixedGrid
from attacc.serving.prices.parts import EQUAL, StepParts, StepSource
from attacc.serving.prices.tables import PromptTable, TokenTable
from attacc.serving.prices.totals import Totals, totals_of
from attacc.serving.prices.works import Works
from attacc.serving.work import Chunk, Work
from attacc.system.pricer import Pricer, Timed
from attacc.units import MAX_SIZE, PS_PER_NS, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ONE: Final = (Chunk(1, 0, 0, True),)
"""The least chunk, beside which tables of mixed steps are priced."""
REMEMBERED: Final = 2**16
"""Steps whose exact prices are kept; the least recently used ones are dropped."""
LINES: Final = "step times: attention on straight lines between priced lengths"
"""Note of all durations that are not exact."""
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


class StepPrices:
    """Prices steps of one replica by tables.

    Equal works in equal order get equal durations, whatever was asked for before. Instances are not
    for several threads.

    Args:
        pricer: prices the steps.
        seed: seed of the sample for `check`.
        exact: whether the pricer prices every step by itself, without tables.
        samples: steps of the sample, at least 1.

    Raises:
        InputError: the pricer verifies drafts, or requests share a prefix.
    """

    def __init__(
        self, pricer: Pricer, *, seed: int = 0, exact: bool = False, samples: int = 64
    ) -> None:
        self._source = StepSource(pricer)
        self._exact = exact
        self._samples = whole(samples, where="samples")
        self._random = Random(seed)  # noqa: S311 - a sample, no secret
        self._asked = 0
        self._sampled: list[Work] = []
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
        if self._source.equal:
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
            self._sampled.append(work)
        else:
            place = int(self._random.random() * self._asked)
            if place < self._samples:
                self._sampled[place] = work
        self._last, self._last_price = work, price
        return price

    def attention_ns(self, work: Work) -> float:
        """Return decode attention of a step, with transfers of its operands, in nanoseconds.

        On GPUs it follows from the number of requests, their mean and their longest keys. Away from
        GPUs all requests are taken to have the mean length.

        Args:
            work: of a system whose steps are sums of their parts.
        """
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
        deviation = self._deviation(Works.of(self._sampled)) if self._sampled else 0.0
        return PriceCheck(self._asked, len(self._sampled), deviation, self.bound)

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

    def _price(self, work: Work) -> Price:
        decoding, keys, longest, chunks = work
        if self._exact or (self._source.away and any(chunk.cached for chunk in chunks)):
            return self._alone(work)
        possible = decoding * longest >= keys >= longest + decoding - 1 and longest <= MAX_SIZE
        if not possible or not (decoding or chunks):
            return self._alone(work)  # which names the error
        if chunks:
            device_ns, host_ns = self._with_prompts(work)
        elif self._source.additive:
            device_ns = self._decode_others.at(decoding) + self.attention_ns(work)
            host_ns = self._decode_host.at(decoding)
        else:
            device_ns = self._decode.at(decoding, keys, longest)
            host_ns = self._hosts.at(decoding, keys, longest)
        return Price(round(device_ns * PS_PER_NS), round(host_ns * PS_PER_NS))

    def _with_prompts(self, work: Work) -> tuple[float, float]:
        """Return the device's and the host's time of a step with prompts."""
        decoding, keys, _, chunks = work
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
        parts = self._source.exact(Works.of([work]))
        return Price(
            round(float(parts.device_ns[0]) * PS_PER_NS), round(float(parts.host_ns[0]) * PS_PER_NS)
        )

    # What tables hold

    def _parts(self, works: Sequence[Work]) -> StepParts:
        """Return the parts of steps in which every request has one key."""
        columns = Works.of(works)
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
