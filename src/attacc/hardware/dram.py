"""DRAM devices: organisation, clock, timing parameters, and timing rules as data.

A rule says "B issues no sooner than `latency` cycles after A on the same instance of a scope". A
scope is a set of address fields; two commands are on the same instance if these fields are equal.
Rules and parameters stay symbolic here; ``timing.tables`` resolves them once into integer tables.
Changed parameters apply before anything is derived from them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from enum import StrEnum
from math import ceil, isfinite, prod
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from attacc.documents import Presets, PresetSpec, Spec
from attacc.errors import InputError, UnknownNameError, nearest_hint
from attacc.hardware.placement import Placement
from attacc.units import (
    BITS_PER_BYTE,
    NS_PER_S,
    DollarsPerGigabyte,
    Quantity,
    SquareMillimetres,
)

MAX_CYCLES: Final = 10_000_000
MAX_STACK_BYTES: Final = 2**48

_Cycles = Annotated[int, Field(ge=0, le=MAX_CYCLES)]
_Clock = Annotated[float, Quantity("hertz", "1 MHz", "100 GHz")]
_Period = Annotated[float, Quantity("nanoseconds", "10 ps", "1 us")]
_PinRate = Annotated[float, Quantity("bits per second", "1 Mb/s", "10 Tb/s")]
_Buffer = Annotated[float, Quantity("bytes", "1 B", "1 TiB")]

CONTROLLER_PARAMETERS: Final = ("nBL", "nREFI", "nRFC")
"""Timing parameters that the controller itself needs, whatever the rules name."""

DERIVED_CADENCE: Final = "nCCDPB"
"""MACPB to MACPB: derived from nBL and the clock of the units, never written."""

MULTIPLY_OPENING: Final = "nRCDMAC"
"""Activate to multiply. A device may state it; by default it is nRCDRD."""

DERIVED_WINDOWS: Final = {"nFAWAB": Placement.BANK, "nFAWSB": Placement.BANKGROUP}
"""Cycles of the windows of four activates that one ACTAB, or one ACTSB, takes.

They are derived from nFAW, the organisation and `four_activate_window`, never written. They are 0
where no window holds these commands back."""


class Scope(StrEnum):
    """The address fields (below the channel) in which two commands of a rule are equal."""

    CHANNEL = "channel"
    PSEUDO_CHANNEL = "pseudo_channel"
    RANK = "rank"
    BANK_GROUP = "bank_group"
    BANK = "bank"
    BANK_INDEX = "bank_index"
    """The same bank of every bank group of the channel, as one MACSB addresses them."""
    BANK_PAIR = "bank_pair"
    """The same bank of both pseudo-channels, as one MACPB addresses them."""
    BANK_GROUP_PAIR = "bank_group_pair"
    """The same bank group of both pseudo-channels, which one MACPB keeps busy."""
    RANK_PAIR = "rank_pair"
    """The same rank of both pseudo-channels, which one MACPB keeps busy."""

    @property
    def fields(self) -> tuple[bool, bool, bool, bool]:
        """Whether (pseudo-channel, rank, bank group, bank) belong to the scope."""
        return {
            "channel": (False, False, False, False),
            "pseudo_channel": (True, False, False, False),
            "rank": (True, True, False, False),
            "bank_group": (True, True, True, False),
            "bank": (True, True, True, True),
            "bank_index": (False, False, False, True),
            "bank_pair": (False, True, True, True),
            "bank_group_pair": (False, True, True, False),
            "rank_pair": (False, True, False, False),
        }[self.value]


class ActivateWindow(StrEnum):
    """The banks that share a window of four activates when one command opens rows in many banks."""

    NONE = "none"
    """The command opens all its banks at once."""
    RANK = "rank"
    """The banks of a rank open four at a time, nFAW apart; ranks do not wait for each other."""
    PSEUDO_CHANNEL = "pseudo_channel"
    """The banks of all ranks of a pseudo-channel open four at a time, nFAW apart."""


class Bus(StrEnum):
    """The two command buses; each takes one command per cycle."""

    ROW = "row"
    COLUMN = "column"


class Organization(Spec):
    """The parts of one stack; every count is a power of two.

    Attributes:
        channels: independent channels of the stack.
        pseudo_channels: per channel.
        ranks: per pseudo-channel (stack identifiers in HBM).
        bank_groups: per rank.
        banks: per bank group.
        rows: per bank.
        columns: accesses per row.
        access_bytes: bytes that one column access of one bank moves.
    """

    channels: int = Field(gt=0, le=1024)
    pseudo_channels: int = Field(gt=0, le=16)
    ranks: int = Field(gt=0, le=16)
    bank_groups: int = Field(gt=0, le=16)
    banks: int = Field(gt=0, le=16)
    rows: int = Field(gt=0, le=2**24)
    columns: int = Field(gt=0, le=2**16)
    access_bytes: int = Field(ge=2, le=1024)

    @model_validator(mode="after")
    def _powers_of_two(self) -> Self:
        for name, value in self:
            if value & (value - 1):
                raise ValueError(f"{name} = {value} is not a power of two")
        if self.stack_bytes > MAX_STACK_BYTES:
            raise ValueError(
                f"a stack of {self.stack_bytes} bytes is larger than {MAX_STACK_BYTES}"
            )
        return self

    @property
    def banks_per_channel(self) -> int:
        """Banks of one channel, in all pseudo-channels and ranks."""
        return self.pseudo_channels * self.ranks * self.bank_groups * self.banks

    @property
    def bank_bytes(self) -> int:
        """Capacity of one bank."""
        return self.rows * self.columns * self.access_bytes

    @property
    def stack_bytes(self) -> int:
        """Capacity of the stack."""
        return self.channels * self.banks_per_channel * self.bank_bytes


class Rule(Spec):
    """``after`` at least ``latency`` cycles after ``before`` on the same instance of ``scope``.

    Attributes:
        scope: the address fields that are equal in the two commands.
        before: preceding commands.
        after: following commands.
        latency: cycles, as an expression of timing parameters, as in "nCWL + nBL + nWR".
        window: the preceding command from which the cycles count: 1 is the last one, 4 the fourth
            last, as in "at most four activates within nFAW". All commands of ``before`` are counted
            together.
    """

    scope: Scope
    before: tuple[str, ...] = Field(min_length=1)
    after: tuple[str, ...] = Field(min_length=1)
    latency: str
    window: int = Field(default=1, gt=0, le=64)


class CommandFamily(Spec):
    """The commands of one placement of the units.

    Attributes:
        activate: opens a row in all banks that a multiply reads.
        multiply: reads one column of each of these banks, multiplies and accumulates.
        precharge: closes the row.
        row_scope: the banks that share one open row; one activate or precharge addresses all of
            them.
    """

    activate: str
    multiply: str
    precharge: str
    row_scope: Scope


class OrdinaryFamily(Spec):
    """The commands of ordinary traffic; each addresses one bank.

    Attributes:
        activate: opens a row.
        read: moves an access of the open row out.
        write: moves an access into the open row.
        precharge: closes the row again.
    """

    activate: str
    read: str
    write: str
    precharge: str


class RuleSet(PresetSpec):
    """Commands and timing rules that devices share.

    Attributes:
        row_commands: commands on the row command bus.
        column_commands: commands on the column command bus.
        precharge_all: the command that closes every bank before a refresh.
        refresh: the all-bank refresh.
        refresh_bank: the refresh of one bank; None if there is no such command.
        families: per placement, its commands.
        ordinary: the commands of ordinary reads and writes; None if there are no such commands.
        rules: every timing rule.
    """

    row_commands: tuple[str, ...]
    column_commands: tuple[str, ...]
    precharge_all: str
    refresh: str
    refresh_bank: str | None = None
    families: dict[Placement, CommandFamily]
    ordinary: OrdinaryFamily | None = None
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _known_commands(self) -> Self:
        known = set(self.row_commands) | set(self.column_commands)
        by_bus = {
            Bus.ROW: {self.precharge_all, self.refresh},
            Bus.COLUMN: {family.multiply for family in self.families.values()},
        }
        for family in self.families.values():
            by_bus[Bus.ROW] |= {family.activate, family.precharge}
        if self.refresh_bank is not None:
            by_bus[Bus.ROW].add(self.refresh_bank)
        if self.ordinary is not None:
            by_bus[Bus.ROW] |= {self.ordinary.activate, self.ordinary.precharge}
            by_bus[Bus.COLUMN] |= {self.ordinary.read, self.ordinary.write}
        named = by_bus[Bus.ROW] | by_bus[Bus.COLUMN]
        for rule in self.rules:
            named |= set(rule.before) | set(rule.after)
        for name in sorted(named - known):
            raise ValueError(f"unknown command {name!r}: {nearest_hint(name, known)}")
        for name in sorted(set(self.row_commands) & set(self.column_commands)):
            raise ValueError(f"command {name!r} is on both buses")
        for bus, listed in ((Bus.ROW, self.row_commands), (Bus.COLUMN, self.column_commands)):
            for name in sorted(by_bus[bus] - set(listed)):
                raise ValueError(f"command {name!r} belongs into {bus}_commands, by its role")
        return self


class Cadence(Spec):
    """Least cycles between two multiply commands of a channel.

    Attributes:
        nCCDAB: MACAB to MACAB.
        nCCDSB: MACSB to MACSB.
    """

    nCCDAB: int = Field(gt=0, le=10_000)  # noqa: N815 - the name of the literature
    nCCDSB: int = Field(gt=0, le=10_000)  # noqa: N815


class Pipeline(Spec):
    """Latencies and buffers of the units of a stack.

    Attributes:
        write_to_multiply: cycles from a WRGB or MVGB until a multiply can use the written data.
        multiply_to_move: cycles from a multiply until its sums can be moved (column access,
            multiplier, adder tree, accumulator).
        move_to_softmax: cycles from an MVSB until the softmax has the scores.
        softmax_to_move: cycles from the end of a softmax until an MVGB can take its output.
        unit_clock_hz: clock of the units.
        products_16_bits: products of 16-bit elements that a unit forms in a cycle of its clock.
        products_8_bits: the same of 8-bit elements. A unit without wider arithmetic for narrow
            elements forms as many as of 16 bits.
        products_4_bits: the same of 4-bit elements, as weights may have them.
        softmax_lanes: exponent, add and multiply lanes of the stack, shared by its channels.
        softmax_clock_hz: clock of the softmax lanes.
        softmax_passes: how often each score passes through a lane.
        buffer_words: accesses that each of the two halves of a unit's vector buffer holds.
        softmax_buffer_bytes: size of the stack's softmax buffer, shared by its channels.
    """

    write_to_multiply: int = Field(ge=0, le=10_000)
    multiply_to_move: int = Field(ge=0, le=10_000)
    move_to_softmax: int = Field(ge=0, le=10_000)
    softmax_to_move: int = Field(ge=0, le=10_000)
    unit_clock_hz: _Clock = Field(validation_alias="unit_clock")
    products_16_bits: int = Field(default=16, gt=0, le=4096)
    products_8_bits: int = Field(default=16, gt=0, le=4096)
    products_4_bits: int = Field(default=16, gt=0, le=4096)
    softmax_lanes: int = Field(gt=0, le=2**20)
    softmax_clock_hz: _Clock = Field(validation_alias="softmax_clock")
    softmax_passes: int = Field(gt=0, le=100)
    buffer_words: int = Field(gt=0, le=2**16)
    softmax_buffer_bytes: _Buffer = Field(validation_alias="softmax_buffer")

    def unit_cycles(self, access_bytes: int, element_bits: int, queries: int) -> int:
        """Return the cycles of a unit's clock in which it multiplies an access by its queries.

        A unit that forms more products in a cycle than an access has elements multiplies the access
        by several queries in that cycle.

        Args:
            access_bytes: bytes of a column access.
            element_bits: bits of an element: 16, 8 or 4.
            queries: queries that the read serves.

        Raises:
            InputError: elements have other bits.
        """
        known = {
            16: self.products_16_bits,
            8: self.products_8_bits,
            4: self.products_4_bits,
        }
        if element_bits not in known:
            raise InputError(f"element_bits = {element_bits} is not one of 16, 8 and 4")
        elements, products = access_bytes * BITS_PER_BYTE // element_bits, known[element_bits]
        if elements >= products:
            return queries * -(-elements // products)
        return -(-queries // (products // elements))


class RefreshMode(StrEnum):
    """The banks that one refresh command refreshes."""

    ALL_BANK = "all_bank"
    """All banks of a pseudo-channel."""
    PER_BANK = "per_bank"
    """One bank of a pseudo-channel; the other banks continue to serve commands."""


class Refresh(Spec):
    """How a device is refreshed.

    Attributes:
        mode: all banks of a pseudo-channel at once, or one after the other.
        hot_above_c: temperature above which cells leak faster, in degrees Celsius.
        hot_rate: factor of the rate of refreshes above that temperature.
    """

    mode: RefreshMode = RefreshMode.ALL_BANK
    hot_above_c: float = Field(default=85.0, ge=-100, le=1000)
    hot_rate: float = Field(default=2.0, ge=1, le=64)


class DramDevice(PresetSpec):
    """One stack of a DRAM standard with compute units, as the memory controller sees it.

    Attributes:
        organization: channels, banks, and the sizes of rows and columns.
        pin_rate_bits_per_s: data rate of one pin.
        clock_ns: period of the command clock, tCK.
        rules: name of the rule set preset.
        timing: parameter -> cycles of the command clock, as in nRCD = 19.
        power_limited: cadence of multiply commands within the stack's power budget.
        unlimited: cadence without a power budget.
        energy: name of the energy preset.
        refresh: the banks that a refresh command refreshes, and how the rate depends on the
            temperature.
        pipeline: latencies and buffers of the units; None for a controller that ignores them.
        dies: core dies of the stack, without its base die; None if not stated.
        die_area_mm2: area of a core die without units; None if not stated.
        price_usd_per_gb: price of the stack without units, for each 2^30 bytes; None if not stated.
        moves_pass_hits: whether a ready move may issue while a multiply that finds its row open
            on the same bank address is queued; the reference controller holds it back.
        four_activate_window: the banks that share a window of four activates when one command opens
            rows in many banks. Ordinary activates keep nFAW in any case.
    """

    organization: Organization
    pin_rate_bits_per_s: _PinRate = Field(validation_alias="pin_rate")
    clock_ns: _Period = Field(validation_alias="clock")
    rules: str
    timing: dict[str, _Cycles]
    power_limited: Cadence
    unlimited: Cadence
    energy: str
    refresh: Refresh = Refresh()
    pipeline: Pipeline | None = None
    moves_pass_hits: bool = False
    four_activate_window: ActivateWindow = ActivateWindow.NONE
    dies: int | None = Field(default=None, ge=1, le=64)
    die_area_mm2: SquareMillimetres | None = Field(default=None, validation_alias="die_area")
    price_usd_per_gb: DollarsPerGigabyte | None = Field(default=None, validation_alias="price")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        try:
            for rule in self.rule_set.rules:
                evaluate_cycles(rule.latency, self.parameters(power_limited=True))
        except InputError as error:
            raise ValueError(str(error)) from None
        for name in CONTROLLER_PARAMETERS:
            if self.timing.get(name, 0) < 1:
                raise ValueError(f"timing.{name} is missing or 0: give it in cycles")
        for name in Cadence.model_fields:
            if name in self.timing:
                raise ValueError(f"timing.{name} belongs into power_limited and unlimited")
        if DERIVED_CADENCE in self.timing:
            raise ValueError(
                f"timing.{DERIVED_CADENCE} is derived from nBL and pipeline.unit_clock"
            )
        for name in DERIVED_WINDOWS:
            if name in self.timing:
                raise ValueError(f"timing.{name} is derived from nFAW and four_activate_window")
        used = {*CONTROLLER_PARAMETERS}.union(
            *(parameters_of(rule.latency) for rule in self.rule_set.rules)
        )
        if self.four_activate_window is not ActivateWindow.NONE and not (
            used & DERIVED_WINDOWS.keys()
        ):
            raise ValueError(
                f"four_activate_window = {self.four_activate_window}, but rules {self.rules!r} "
                f"have no such window: choose {ActivateWindow.NONE}, or rules with nFAWAB"
            )
        derived = {DERIVED_CADENCE, *DERIVED_WINDOWS}
        for name in sorted(self.timing.keys() - used):
            hint = nearest_hint(name, used - Cadence.model_fields.keys() - derived)
            raise ValueError(f"timing.{name} is a parameter of no rule: {hint}")
        self._check_refresh(self.timing["nREFI"])
        return self

    def _check_refresh(self, interval: int) -> None:
        """Raise ValueError if refreshing every `interval` cycles leaves no time for the rest."""
        o = self.organization
        if self.refresh.mode is RefreshMode.ALL_BANK:
            cycles = o.pseudo_channels * self.timing["nRFC"]
            if cycles >= interval:
                raise ValueError(
                    f"refreshing takes {cycles} cycles of every nREFI = {interval}: "
                    "nothing else would ever be served"
                )
            return
        name = self.rule_set.refresh_bank
        if name is None:
            raise ValueError(
                f"refresh.mode = {self.refresh.mode}, but rules {self.rules!r} have no refresh of "
                f"one bank: choose {RefreshMode.ALL_BANK}, or rules with a refresh_bank"
            )
        banks = o.banks_per_channel // o.pseudo_channels
        parameters = self.parameters(power_limited=True)
        distances = [1] + [
            evaluate_cycles(rule.latency, parameters)
            for rule in self.rule_set.rules
            if name in rule.before and name in rule.after and not any(rule.scope.fields[1:])
        ]
        # A cycle of the row bus must be left for other commands.
        least = max(*distances, o.pseudo_channels + 1)
        if interval // banks < least:
            raise ValueError(
                f"one of {banks} banks is due every {interval // banks} cycles (nREFI = "
                f"{interval}), and refreshes lie at least {least} apart: give a longer nREFI"
            )

    @property
    def rule_set(self) -> RuleSet:
        """The commands and rules of this device."""
        return RULE_SETS.load(self.rules)

    def parameters(
        self,
        *,
        power_limited: bool,
        queries_per_read: int = 1,
        element_bits: int = 16,
        temperature_c: float | None = None,
    ) -> dict[str, int]:
        """Return every timing parameter, the cadence of the multiply commands included.

        Args:
            power_limited: whether multiplies keep the power-limited cadence.
            queries_per_read: queries by which a unit multiplies each access that it reads.
            element_bits: bits of an element of an access: 16, 8 or 4. For each query a unit needs
                the cycles of its own clock in which it forms all products of an access.
            temperature_c: temperature of the device in degrees Celsius; None for a device that is
                not hot.

        Returns:
            Cycles of the command clock by name: those of ``timing``, with nREFI for the
            temperature, nCCDAB, nCCDSB and nCCDPB, nRCDMAC, nFAWAB and nFAWSB.

        Raises:
            InputError: units should multiply by several queries, but the device has no pipeline;
                the temperature is no number; or at this temperature refreshes leave no time for
                other commands.
        """
        cadence = self.power_limited if power_limited else self.unlimited
        unit = self.unit_interval(queries_per_read, element_bits)
        opening = {MULTIPLY_OPENING: self.timing["nRCDRD"]} if "nRCDRD" in self.timing else {}
        windows = {
            name: self._windows(place)
            for name, place in DERIVED_WINDOWS.items()
            if "nFAW" in self.timing
        }
        return (
            opening
            | self.timing
            | windows
            | {
                "nREFI": self._refresh_interval(temperature_c),
                "nCCDAB": max(cadence.nCCDAB, unit),
                "nCCDSB": max(cadence.nCCDSB, unit),
                DERIVED_CADENCE: max(self.timing.get("nBL", 1), unit),
            }
        )

    def _windows(self, placement: Placement) -> int:
        """Return the cycles of the windows of four activates that one activate of units takes."""
        if self.four_activate_window is ActivateWindow.NONE:
            return 0
        apart = self.rule_set.families[placement].row_scope.fields
        o = self.organization
        sizes = [(o.bank_groups, apart[2]), (o.banks, apart[3])]
        if self.four_activate_window is ActivateWindow.PSEUDO_CHANNEL:
            sizes.append((o.ranks, apart[1]))
        banks = prod(size for size, told_apart in sizes if not told_apart)
        return -(-banks // 4) * self.timing["nFAW"]

    def column_interval(self, placement: Placement) -> int:
        """Return the least cycles between two multiplies that the DRAM alone would allow.

        A multiply at a bank or bank group reads the column beside that of the multiply before, in
        the same bank. On the buffer die consecutive multiplies read other bank groups.
        """
        burst = self.timing["nBL"]
        name = "nCCDS" if placement is Placement.BUFFER else "nCCDL"
        return max(1, burst, self.timing.get(name, burst))

    def unit_interval(self, queries_per_read: int, element_bits: int) -> int:
        """Return the command clock cycles in which a unit multiplies an access by its queries.

        Args:
            queries_per_read: as for `parameters`.
            element_bits: as for `parameters`.

        Returns:
            Cycles; 0 for a device without a pipeline, whose units are never too slow.

        Raises:
            InputError: units should multiply by several queries, but the device has no pipeline.
        """
        if queries_per_read < 1:
            raise InputError(f"queries_per_read = {queries_per_read} is not 1 or more")
        if self.pipeline is None:
            if queries_per_read > 1:
                raise InputError(
                    f"queries_per_read = {queries_per_read}, but how long a unit takes for a "
                    "query is unknown",
                    where=self.name,
                    hint="choose a device with a [pipeline] table, as hbm3-5.2",
                )
            return 0
        unit_cycles = self.pipeline.unit_cycles(
            self.organization.access_bytes, element_bits, queries_per_read
        )
        cycles = unit_cycles * NS_PER_S / self.pipeline.unit_clock_hz / self.clock_ns
        # A millionth of a cycle, so that a unit at the command clock itself is not rounded up.
        return ceil(cycles - 1e-6)

    def _refresh_interval(self, temperature_c: float | None) -> int:
        interval = self.timing.get("nREFI", 0)
        if temperature_c is None:
            return interval
        if not isfinite(temperature_c):
            raise InputError(f"temperature_c = {temperature_c} is no temperature", where=self.name)
        if temperature_c <= self.refresh.hot_above_c:
            return interval
        hot = int(interval / self.refresh.hot_rate)
        try:
            self._check_refresh(hot)
        except ValueError as error:
            raise InputError(
                f"at {temperature_c:g} degrees Celsius {error}",
                where=self.name,
                hint=f"refresh.hot_rate is {self.refresh.hot_rate:g} above "
                f"{self.refresh.hot_above_c:g} degrees",
            ) from None
        return hot

    def banks_per_command(self, placement: Placement) -> int:
        """Return the number of banks of a channel that one multiply of a placement reads."""
        o = self.organization
        sizes = (o.pseudo_channels, o.ranks, o.bank_groups, o.banks)
        told_apart = self.rule_set.families[placement].row_scope.fields
        return prod(size for size, apart in zip(sizes, told_apart, strict=True) if not apart)

    @property
    def external_bytes_per_s(self) -> float:
        """Peak bandwidth of the stack's interface: every pseudo-channel moves an access per nBL."""
        o = self.organization
        bytes_per_burst = o.channels * o.pseudo_channels * o.access_bytes
        return bytes_per_burst / (self.timing["nBL"] * self.clock_ns) * 1e9

    def internal_bytes_per_s(
        self, placement: Placement, *, power_limited: bool, element_bits: int = 16
    ) -> float:
        """Peak bandwidth at which the units of a placement read elements of their banks."""
        parameters = self.parameters(power_limited=power_limited, element_bits=element_bits)
        cycles = {
            Placement.BANK: parameters["nCCDAB"],
            Placement.BANKGROUP: parameters["nCCDSB"],
            Placement.BUFFER: parameters[DERIVED_CADENCE],
        }[placement]
        o = self.organization
        bytes_per_command = o.channels * self.banks_per_command(placement) * o.access_bytes
        return bytes_per_command / (cycles * self.clock_ns) * 1e9

    @property
    def pins(self) -> float:
        """Data pins of the stack, from its interface bandwidth and the rate of a pin."""
        return self.external_bytes_per_s * BITS_PER_BYTE / self.pin_rate_bits_per_s


RULE_SETS: Final = Presets("rule set", RuleSet, "attacc.hardware", "presets/rules")
DRAMS: Final = Presets("device", DramDevice, "attacc.hardware", "presets/dram")


def evaluate_cycles(expression: str, parameters: Mapping[str, int]) -> int:
    """Evaluate a latency expression: integers, parameter names, ``+``, ``-``, ``*`` and ``max``.

    Raises:
        InputError: the expression is malformed, or negative.
        UnknownNameError: it names a parameter that the device does not have.
    """

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name):
                if name not in parameters:
                    raise UnknownNameError(
                        "timing parameter", name, parameters, where=f"latency {expression!r}"
                    )
                return parameters[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return value(left) * value(right)
            case ast.Call(func=ast.Name(id="max"), args=args, keywords=[]) if args:
                return max(value(argument) for argument in args)
            case _:
                raise InputError(
                    f"latency {expression!r} is no expression of parameters",
                    hint="use integers, parameter names, +, -, * and max()",
                )

    try:
        cycles = value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(
            f"latency {expression!r} is no expression of parameters",
            hint="use integers, parameter names, +, -, * and max()",
        ) from None
    if not 0 <= cycles <= MAX_CYCLES:
        raise InputError(f"latency {expression!r} is {cycles} cycles, not 0 to {MAX_CYCLES}")
    return cycles


def parameters_of(expression: str) -> set[str]:
    """Return the timing parameters that a well-formed latency expression names."""
    nodes = ast.walk(ast.parse(expression, mode="eval"))
    return {node.id for node in nodes if isinstance(node, ast.Name)} - {"max"}


def load_device(
    source: str | Path | Mapping[str, object] | DramDevice, **changes: object
) -> DramDevice:
    """Load a DRAM device.

    Args:
        source: a preset's name, a path, a document as a mapping, or a loaded device.
        changes: keys of the document to change, as in ``**{"timing.nRCDRD": 20}``.

    Raises:
        DocumentError: a file, or the document, is malformed.
        UnknownNameError: there is no such preset.
        InputError: `changes` are given for a loaded device.
    """
    return DRAMS.load_any(source, changes, where="device")
