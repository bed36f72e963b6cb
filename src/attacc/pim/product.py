"""Products with weights on AttAcc: their program timed on the device, and costed in energy.

Feed-forward co-processing uses such products (AttAcc, ASPLOS 2024). The published model takes the
units' peak rate of reading. Here every command is timed, so that the opening of rows, refresh,
writing activations into the vector buffers, and units without a column cost time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from attacc.errors import EngineError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.hardware.system import ResolvedSystem
from attacc.models.precision import ElementType
from attacc.pim.energy.dram import DRAM_ENERGIES, AttentionEnergy, attention_energy
from attacc.pim.limits import BusyShares, Limiter, busy_shares
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.program.interleaved import QueryPasses
from attacc.pim.program.product import ProductLayout, ProductShape, product_program
from attacc.pim.program.schedule import head_commands
from attacc.pim.timing.engine import CommandCount, run
from attacc.pim.timing.tables import Code, resolve_timing
from attacc.units import NS_PER_S

TRIED: Final = 3
"""Layouts of a product that are timed: those with the best estimates."""
REMEMBERED: Final = 4096
"""Products whose timing is kept; the least recently used ones are dropped."""


@dataclass(frozen=True, slots=True)
class StackProduct:
    """A product of activations with weights on one stack.

    Attributes:
        shape: the product that the stack computes.
        inner_ways: channels among which the inner dimension is cut.
        segments: parts of a channel's inner dimension, one after the other.
        columns_per_channel: columns of the fullest channel.
        passes: how often the weights are read for all rows.
        cycles: duration in cycles of the command clock.
        time_ns: duration in nanoseconds.
        commands: how often each command issued.
        busy: how long the resources of a channel are busy; a product has no softmax.
        useful_share: multiplications of the product over those that were done; the others are
            padding to whole accesses, parts and channels.
        achieved_bytes_per_s: bytes of weights, counted once per row, over time; comparable with
            the published model's internal bandwidth.
        internal_bytes_per_s: peak rate at which the units can read.
        energy: energy by component, without softmax, refresh and standby.
    """

    shape: ProductShape
    inner_ways: int
    segments: int
    columns_per_channel: int
    passes: int
    cycles: int
    time_ns: float
    commands: tuple[CommandCount, ...]
    busy: BusyShares
    useful_share: float
    achieved_bytes_per_s: float
    internal_bytes_per_s: float
    energy: AttentionEnergy

    @property
    def limiter(self) -> Limiter:
        """The resource of the stack that limits the time, or two that do so nearly alike."""
        return self.busy.limiter

    @property
    def rate(self) -> float:
        """Achieved rate over peak rate of reading the weights."""
        return self.achieved_bytes_per_s / self.internal_bytes_per_s


class AttaccProducts:
    """Stacks that multiply activations with weights; results are remembered by shape.

    Args:
        device: the DRAM device of one stack; it must have a pipeline.
        placement: where its units sit.
        power_limited: whether multiplies keep a cadence that limits power.
        stacks_per_gpu: stacks that share the columns of one GPU's product.
        rows_per_read: rows of the activations that a read of the weights serves, at most.
    """

    def __init__(
        self,
        device: DramDevice,
        placement: Placement,
        *,
        power_limited: bool = True,
        stacks_per_gpu: float = 1.0,
        rows_per_read: int = 1,
    ) -> None:
        self.device = device
        self.placement = placement
        self.stacks_per_gpu = stacks_per_gpu
        self.rows_per_read = rows_per_read
        self._power_limited = power_limited
        self._energies = DRAM_ENERGIES.load(device.energy)
        self._known = lru_cache(maxsize=REMEMBERED)(self._play)

    @classmethod
    def of(cls, system: ResolvedSystem) -> AttaccProducts:
        """Return the stacks of a system.

        Raises:
            UnknownNameError: the system names a device that does not exist.
            EngineError: the system has no AttAccs.
        """
        if system.attacc is None:
            raise EngineError(f"system {system.spec.name} has no AttAccs")
        table = system.attacc.table
        return cls(
            DRAMS.load_name_or_file(table.dram, where=f"system {system.spec.name}: attacc.dram"),
            table.placement,
            power_limited=table.power_limited,
            stacks_per_gpu=system.attacc.stacks / system.gpus,
            rows_per_read=table.queries_per_read,
        )

    def column_grain(self, element: ElementType) -> int:
        """Return how many columns a stack computes at a time: the parts of a sequence."""
        layout = KeyLayout(self.device.organization, self.placement, 1, element)
        return layout.sequence_parts

    def multiply(self, shape: ProductShape, *, inner_ways: int | None = None) -> StackProduct:
        """Time and cost a product on one stack.

        Args:
            shape: the product that the stack computes.
            inner_ways: channels among which the inner dimension is cut; by default the number
                with which the product is fastest.

        Raises:
            InputError: the device models no pipeline; the weights do not fit into the banks, or
                rows into the vector buffers; or the channels cannot be grouped so.
        """
        return self._known(shape, inner_ways)

    def _play(self, shape: ProductShape, inner_ways: int | None) -> StackProduct:
        o = self.device.organization
        ways = [inner_ways] if inner_ways is not None else _divisors(o.channels)
        rows_per_read = min(self.rows_per_read, shape.rows)
        passes = QueryPasses.of(shape.rows, rows_per_read)
        layouts = {
            ProductLayout.of(
                self.device,
                self.placement,
                shape,
                inner_ways=each,
                rows_per_read=rows_per_read,
                row_kept_open=kept,
            )
            for each in ways
            for kept in (False, True)
        }
        tables = resolve_timing(
            self.device,
            self.placement,
            power_limited=self._power_limited,
            queries_per_read=passes.most,
            element_bits=shape.element.bits,
        )
        likely = sorted(
            layouts,
            key=lambda one: (
                estimated_cycles(self.device, one, tables.multiply_interval),
                one.inner_ways,
                one.segments,
            ),
        )
        played = [
            (run(product_program(self.device, one, multiply_interval=interval), tables), one)
            for interval in [tables.multiply_interval]
            for one in likely[:TRIED]
        ]
        timed, layout = min(played, key=lambda each: each[0].cycles)
        reads = shape.rows * shape.inner * shape.columns * shape.element.bytes
        return StackProduct(
            shape=shape,
            inner_ways=layout.inner_ways,
            segments=layout.segments,
            columns_per_channel=layout.columns_per_channel,
            passes=layout.passes.passes,
            cycles=timed.cycles,
            time_ns=timed.time_ns,
            commands=timed.commands,
            busy=busy_shares(
                timed,
                self.device,
                layout.segment.of_any_length,
                tables,
                queries_per_read=passes.most,
                fullest=layout.multiplies / timed.count(tables.names[Code.MULTIPLY]),
            ),
            useful_share=layout.useful_share,
            achieved_bytes_per_s=reads / timed.time_ns * NS_PER_S,
            internal_bytes_per_s=self.device.internal_bytes_per_s(
                self.placement,
                power_limited=self._power_limited,
                element_bits=shape.element.bits,
            ),
            energy=attention_energy(
                timed,
                layout.segment,
                0,  # scores
                self._energies,
                banks_per_multiply=self.device.banks_per_command(self.placement),
                queries_per_read=shape.rows / layout.passes.passes,
            ),
        )


def estimated_cycles(device: DramDevice, layout: ProductLayout, multiply_interval: int) -> float:
    """Return about how many cycles a product takes, to choose which layouts to time.

    The estimate adds the multiplies, or the moves if these take longer, to the opening of rows. A
    segment of one row opens it once; a segment of several rows opens them anew for every pass.
    """
    segment, passes = layout.segment, layout.passes.passes
    commands = head_commands(segment.head(1))
    per_row = len(commands.q) + segment.score_groups * len(commands.score_moves)
    moves = layout.shape.rows * layout.segments * per_row
    opened = layout.rows_per_segment * (1 if layout.rows_per_segment == 1 else passes)
    timing = device.timing
    return max(
        layout.multiplies * multiply_interval, moves * timing["nCCDL"]
    ) + layout.segments * opened * (timing["nRCDRD"] + timing["nRP"])


def _divisors(number: int) -> list[int]:
    return [ways for ways in range(1, number + 1) if number % ways == 0]
