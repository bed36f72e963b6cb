"""Platforms of the papers under the names that exhibits give them, and batches that they serve.

As in a comparison (`attacc.study.compare`), the requests of a batch decode in lockstep, through
every length of the cache. Here a step is priced at `LENGTHS` lengths that have the mean of all
lengths, and attention on AttAcc is timed at these. docs/evidence/reproduce.md tells the resulting
error. All prices come from `attacc.system.pricer`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TypeVar

from attacc.errors import CapacityError, InputError
from attacc.gpu.costs import CostModel
from attacc.hardware.system import ResolvedSystem
from attacc.models.architecture import ModelSpec
from attacc.models.steps import decode_step
from attacc.pim.product import AttaccProducts
from attacc.study.papers.pipelined_layer import OverlapComparison, simulate_decode_step
from attacc.system.pricer import DecodePrice, Pricer
from attacc.units import MS_PER_S, NS_PER_MS, PJ_PER_J
from attacc.workload.lengths import LengthDistribution, condense, decode_lengths
from attacc.workload.requests import Workload, fixed_lengths

LENGTHS: Final = 16
"""Lengths of the cache at which the steps of a batch are priced."""


@dataclass(frozen=True, eq=False)
class Platform:
    """A system under the name that an exhibit gives it.

    Attributes:
        label: for people.
        system: the system.
    """

    label: str
    system: ResolvedSystem


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under the name that an exhibit gives it.

    Attributes:
        label: for people.
        spec: the model.
    """

    label: str
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Load:
    """What is decoded.

    Attributes:
        prompt: tokens of every request.
        output: tokens of every request, 2 or more.
    """

    prompt: int
    output: int

    @property
    def workload(self) -> Workload:
        """The requests."""
        return fixed_lengths(self.prompt, self.output)

    @property
    def lengths(self) -> LengthDistribution:
        """The lengths of the cache at which a step is priced, and their weights."""
        return condense(decode_lengths(self.workload, LENGTHS), LENGTHS)

    @property
    def label(self) -> str:
        """As the papers write it."""
        return f"({self.prompt:,}, {self.output:,})"


@dataclass(frozen=True, slots=True)
class Served:
    """A batch that decodes.

    Attributes:
        batch: requests in flight.
        step_ms: mean decode step, the time per output token.
        fc_ms: time that products with weights add to the step.
        attention_ms: time that attention adds to the step.
        communication_ms: time that collectives and transfers add to the step.
        other_ms: the remaining time of the step.
        energy_per_token_j: dynamic energy of all devices.
        estimates: parts of the prices that were neither published nor measured, in words.
    """

    batch: int
    step_ms: float
    fc_ms: float
    attention_ms: float
    communication_ms: float
    other_ms: float
    energy_per_token_j: float
    estimates: tuple[str, ...]

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of the whole batch."""
        return self.batch / self.step_ms * MS_PER_S


class Pricers:
    """Prices of models on platforms, by one cost model; each is priced once for all exhibits.

    Args:
        costs: the cost model.
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self._pricers: dict[tuple[Platform, Subject], Pricer] = {}
        self._decoded: dict[tuple[Platform, Subject, Load, int], DecodePrice] = {}
        self._choices: dict[tuple[Platform, Subject, Load, float | None], int] = {}
        self._products: dict[Platform, AttaccProducts] = {}

    @property
    def estimates(self) -> tuple[str, ...]:
        """Estimates in all prices so far, each once."""
        notes = (note for priced in self._decoded.values() for note in priced.mean.estimates)
        return tuple(dict.fromkeys(notes))

    def pricer(self, platform: Platform, subject: Subject) -> Pricer:
        """Return the pricer of a model on a platform.

        Raises:
            InputError: the model cannot be split over the platform's GPUs.
        """
        return _once(
            self._pricers,
            (platform, subject),
            lambda: Pricer(subject.spec, platform.system, gpu_model=self.costs),
        )

    def decode(self, platform: Platform, subject: Subject, load: Load, batch: int) -> DecodePrice:
        """Price the decode steps of a batch, whether it fits or not.

        With co-processing, copies of weights get the memory that a batch leaves. A batch that does
        not fit is priced as in the papers, where copies take no memory.

        Raises:
            InputError: the cost model cannot price a step, or the AttAccs cannot hold a head.
        """

        def price() -> DecodePrice:
            pricer = self.pricer(platform, subject)
            workload = load.workload if pricer.fits(load.workload, batch) else None
            return pricer.decode(batch, load.lengths, workload)

        return _once(self._decoded, (platform, subject, load, batch), price)

    def serve(self, platform: Platform, subject: Subject, load: Load, batch: int) -> Served:
        """Return time and energy of a batch, whether it fits or not.

        Raises:
            InputError: as in `decode`.
        """
        step = self.decode(platform, subject, load, batch).mean
        return Served(
            batch=batch,
            step_ms=step.time_ns / NS_PER_MS,
            fc_ms=step.fc.time_ns / NS_PER_MS,
            attention_ms=step.attention.time_ns / NS_PER_MS,
            communication_ms=step.communication.time_ns / NS_PER_MS,
            other_ms=step.other.time_ns / NS_PER_MS,
            energy_per_token_j=step.energy.total_pj / batch / PJ_PER_J,
            estimates=step.estimates,
        )

    def largest(
        self, platform: Platform, subject: Subject, load: Load, slo_ms: float | None = None
    ) -> int:
        """Return the batch that a comparison takes, 0 if none fits or keeps the target.

        Raises:
            InputError: as in `decode`.
        """

        def search() -> int:
            pricer = self.pricer(platform, subject)
            try:
                return pricer.largest_batch(load.workload, slo_ms, lengths=load.lengths).size
            except CapacityError:
                return 0

        return _once(self._choices, (platform, subject, load, slo_ms), search)

    def overlap(
        self, platform: Platform, subject: Subject, load: Load, batch: int
    ) -> OverlapComparison:
        """Compare closed forms and schedules of a decode step at the mean length of the cache.

        Raises:
            InputError: as in `decode`, or the AttAccs cannot multiply with weights.
        """
        length = round(load.lengths.mean_tokens)
        pricer = self.pricer(platform, subject)
        if pricer.attaccs is None:
            raise InputError(f"{platform.label} has no AttAccs")
        return simulate_decode_step(
            decode_step(
                subject.spec,
                batch=batch,
                kv_length=length,
                tensor_parallel=platform.system.gpus,
            ),
            platform.system,
            self.costs,
            pricer.curve(batch, [length]).at([length]),
            pricer.attaccs.rates,
            model=subject.spec,
            products=_once(self._products, platform, lambda: AttaccProducts.of(platform.system)),
        )


K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def _once(known: dict[K, T], key: K, make: Callable[[], T]) -> T:
    if key not in known:
        known[key] = make()
    return known[key]
