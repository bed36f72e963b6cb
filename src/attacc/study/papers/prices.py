"""Batches on systems, priced once for all exhibits that ask for them.

As in a comparison (`attacc.study.compare`), the requests of a batch decode in lockstep, through
every length of the cache. Here a step is priced at `LENGTHS` lengths with the mean of all, and
attention on AttAcc is timed at those: docs/reproduce.md tells what that costs in accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from attacc.errors import CapacityError, InputError
from attacc.gpu.costs import CostModel
from attacc.gpu.models import GpuModel
from attacc.gpu.rates import AttaccRates
from attacc.hardware.system import AttaccTable, ResolvedSystem
from attacc.models.architecture import ModelSpec
from attacc.models.steps import decode_step
from attacc.pim.product import AttaccProducts
from attacc.study.compare import LARGEST_DIP, SEARCH_SLACK
from attacc.system.attaccs import Attaccs, AttentionCurve
from attacc.system.capacity import Footprint, copies_that_fit, footprint, preferred_batch
from attacc.system.pipelined_layer import OverlapComparison, simulate_decode_step
from attacc.system.step import DecodePricer, StepCost, average
from attacc.units import MS_PER_S, NS_PER_MS, PJ_PER_J
from attacc.workload.lengths import LengthDistribution, decode_lengths
from attacc.workload.lengths import condense as condense_lengths
from attacc.workload.requests import fixed_lengths

LENGTHS: Final = 16
"""Lengths of the cache at which the steps of a batch are priced."""

T = TypeVar("T")


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
    def label(self) -> str:
        """As the papers write it."""
        return f"({self.prompt:,}, {self.output:,})"


@dataclass(frozen=True, slots=True)
class Served:
    """A batch that decodes.

    Attributes:
        batch: requests in flight.
        step_ms: mean decode step, the time per output token.
        fc_ms: what products with weights add to it.
        attention_ms: what attention adds to it.
        communication_ms: what collectives and transfers add to it.
        other_ms: what is left.
        energy_per_token_j: of all devices, dynamic.
        estimates: what of it was neither published nor measured, in words.
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


class Prices:
    """Prices batches with one cost model, and remembers them.

    Args:
        costs: the cost model.
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs
        self._known: dict[Hashable, Any] = {}

    @property
    def estimates(self) -> tuple[str, ...]:
        """Estimates in all that was priced so far, each once."""
        served = (value for value in self._known.values() if isinstance(value, Served))
        return tuple(dict.fromkeys(note for one in served for note in one.estimates))

    def serve(self, platform: Platform, subject: Subject, load: Load, batch: int) -> Served:
        """Price a batch, whether it fits or not.

        Where co-processing is on, a batch that fits leaves its copies of weights the memory that
        is left; one that does not fit is priced as the papers do, whose copies take no memory.

        Raises:
            InputError: the cost model cannot price a step, or the AttAccs cannot hold a head.
        """
        key = (platform, subject, load, batch)
        return self._once(key, lambda: self._serve(platform, subject, load, batch))

    def largest(self, platform: Platform, subject: Subject, load: Load) -> int:
        """Return the batch that a comparison takes without a target, 0 if none fits."""
        return self._once((platform, subject, load), lambda: self._largest(platform, subject, load))

    def within(
        self, platform: Platform, subject: Subject, load: Load, slo_ms: float | None
    ) -> Served | None:
        """Return the largest batch that fits and whose mean step keeps a target; None if none.

        As in a comparison: bisection finds where steps exceed the target by `LARGEST_DIP`, and
        from there all batches are looked at, downwards. Both go by an estimate, of one step at
        the mean length with the attention on AttAcc in proportion to the heads; what that finds
        is priced in full, and taken if it keeps the target.

        Raises:
            InputError: as in `serve`.
        """
        most = self.largest(platform, subject, load)
        if most == 0:
            return None
        full = self.serve(platform, subject, load, most)
        if slo_ms is None or full.step_ms <= slo_ms:
            return full
        target_ms = LARGEST_DIP[GpuModel(self.costs.kind)] * slo_ms
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            if self._estimate_ms(platform, subject, load, middle, most) <= target_ms:
                low = middle
            else:
                high = middle
        for batch in range(low, 0, -1):
            estimate_ms = self._estimate_ms(platform, subject, load, batch, most)
            if estimate_ms <= SEARCH_SLACK * slo_ms:
                served = self.serve(platform, subject, load, batch)
                if served.step_ms <= slo_ms:
                    return served
        return None

    def curve(self, platform: Platform, subject: Subject, load: Load, batch: int) -> AttentionCurve:
        """Return attention of one layer on the AttAccs of a platform."""
        attaccs = self._attaccs(platform.system)
        if attaccs is None:
            raise InputError(f"{platform.label} has no AttAccs")
        return self._once(
            (platform, subject, load, batch, "curve"),
            lambda: attaccs.curve(subject.spec, batch, self.lengths(load).lengths),
        )

    def lengths(self, load: Load) -> LengthDistribution:
        """Return the lengths of the cache at which a step is priced, and their weights."""

        def condensed() -> LengthDistribution:
            workload = fixed_lengths(load.prompt, load.output)
            return condense_lengths(decode_lengths(workload, LENGTHS), LENGTHS)

        return self._once((load,), condensed)

    def mean_step(self, platform: Platform, subject: Subject, load: Load, batch: int) -> StepCost:
        """Return the mean decode step of a batch.

        Raises:
            InputError: as in `serve`.
        """
        lengths = self.lengths(load)
        pricer = self._pricer(platform, subject, load, batch)
        curve = (
            None if platform.system.attacc is None else self.curve(platform, subject, load, batch)
        )
        steps = [
            pricer.cost(kv_length=length, attention=curve.at(length) if curve else None)
            for length in lengths.lengths
        ]
        return average(steps, lengths.weights)

    def overlap(
        self, platform: Platform, subject: Subject, load: Load, batch: int
    ) -> OverlapComparison:
        """Compare closed forms and schedules of a decode step at the mean length of the cache.

        Raises:
            InputError: as in `serve`, or the AttAccs cannot multiply with weights.
        """
        length = round(self.lengths(load).mean_tokens)
        system = platform.system
        attaccs = self._attaccs(system)
        if attaccs is None:
            raise InputError(f"{platform.label} has no AttAccs")
        step = decode_step(subject.spec, batch=batch, kv_length=length, tensor_parallel=system.gpus)
        attention = attaccs.curve(subject.spec, batch, [length]).at(length)
        products = self._once((platform, "products"), lambda: AttaccProducts.of(system))
        return simulate_decode_step(
            step, system, self.costs, attention, attaccs.rates, products=products
        )

    def _serve(self, platform: Platform, subject: Subject, load: Load, batch: int) -> Served:
        step = self.mean_step(platform, subject, load, batch)
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

    def _estimate_ms(
        self, platform: Platform, subject: Subject, load: Load, batch: int, most: int
    ) -> float:
        """Return about what a step of a batch takes; ``most`` is a batch that has been priced."""

        def estimate() -> float:
            length = round(self.lengths(load).mean_tokens)
            pricer = self._pricer(platform, subject, load, batch)
            attention = None
            if platform.system.attacc is not None:
                full = self.curve(platform, subject, load, most).at(length)
                share = batch / most
                attention = type(full)(full.time_ns * share, full.energy.times(share))
            return pricer.cost(kv_length=length, attention=attention).time_ns / NS_PER_MS

        return self._once((platform, subject, load, batch, "estimate"), estimate)

    def _pricer(self, platform: Platform, subject: Subject, load: Load, batch: int) -> DecodePricer:
        system = platform.system
        step = decode_step(
            subject.spec,
            batch=batch,
            kv_length=load.prompt + 1,
            tensor_parallel=system.gpus,
        )
        need, stack_bytes = self._need(platform, subject, load)
        try:
            copies = copies_that_fit(need, system, batch, stack_bytes=stack_bytes)
        except CapacityError:
            copies = 1.0
        return DecodePricer(step, system, self.costs, self._rates(system), copies)

    def _largest(self, platform: Platform, subject: Subject, load: Load) -> int:
        system = platform.system
        need, stack_bytes = self._need(platform, subject, load)
        try:
            return preferred_batch(need, system, stack_bytes=stack_bytes, rates=self._rates(system))
        except CapacityError:
            return 0

    def _need(self, platform: Platform, subject: Subject, load: Load) -> tuple[Footprint, float]:
        """Return what a load needs in memory, and the memory of an AttAcc stack."""

        def counted() -> tuple[Footprint, float]:
            system, workload = platform.system, fixed_lengths(load.prompt, load.output)
            attaccs = self._attaccs(system)
            need = footprint(subject.spec, workload, tensor_parallel=system.gpus)
            return need, attaccs.stack_bytes if attaccs else 0.0

        return self._once((platform, subject, load, "need"), counted)

    def _rates(self, system: ResolvedSystem) -> AttaccRates | None:
        attaccs = self._attaccs(system)
        return attaccs.rates if attaccs else None

    def _attaccs(self, system: ResolvedSystem) -> Attaccs | None:
        if system.attacc is None:
            return None
        # Stacks do not depend on links and capacity rules: programs are timed once for all.
        table = system.attacc.table
        return self._once((_engine(table),), lambda: Attaccs(system))

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        value: T = self._known[key]
        return value


def _engine(table: AttaccTable) -> AttaccTable:
    """Return a table with only what times and costs of a stack, and its number, depend on."""
    return table.model_copy(update={"link": "", "capacity": "separate"})
