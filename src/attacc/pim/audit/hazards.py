"""Proves that no command of a log used data before they arrived, or overwrote data still needed.

The checker knows only the meaning of commands. It reads a log, never the program's own
`attacc.pim.program.program.Dependences`. The address of a command tells what the command does to
which chunk (reference/attacc.md, mapping of one head):

- a WRGB into the keys of a chunk writes one access of a query into a half of the vector buffers;
- a multiply of keys uses one access of the query of every bank, and sums up scores of 16 keys per
  part: one *unit* of work, which fills one of the two sets of accumulators;
- an MVSB from keys carries away the next unit's scores of one rank and bank group;
- an SFM is the channel's next softmax;
- an MVGB into values writes one access of probabilities of a rank and bank group into a half of
  the vector buffers;
- a multiply of values uses one access of probabilities of every part, and sums up a slice of the
  output over the keys whose probabilities one half of the buffer holds; this, too, is a unit;
- an MVSB from values carries away the next unit's slice of one rank (and bank).

Where queries share keys and values, the fewest possible *passes* read these. Queries,
probabilities and sums then exist once per query of the pass. The number of earlier commands of its
kind tells which pass a command belongs to. Softmaxes alternate between two chunks, pass by pass,
query by query.

Data arrive some cycles after the command that makes them (`attacc.hardware.dram.Pipeline`). An
operand may be read from its buffer until the sums of its multiply are done, so it must not be
overwritten before. The scores of a chunk occupy the softmax buffer from the arrival of the first
score to the return of the last probability; probabilities take the place of scores.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Final

from attacc.errors import InputError
from attacc.hardware.dram import DramDevice
from attacc.hardware.placement import Placement
from attacc.pim.log import LoggedCommand
from attacc.pim.mapping.geometry import ChannelChunks, HeadLayout
from attacc.units import NS_PER_S

BUFFER_WORDS: Final = 16
"""Accesses of half a vector buffer of a device without a pipeline: as in AttAcc's units."""
SOFTMAX_BUFFER_BYTES: Final = 512 * 1024
"""Softmax buffer of a stack without a pipeline: as on AttAcc's die (reference/attacc.md)."""
SCORE_BYTES: Final = 4
"""Bytes of a score in the softmax buffer, in fp32."""
ACCUMULATOR_SETS: Final = 2
BUFFER_HALVES: Final = 2


class Hazard(StrEnum):
    """Kinds of faults of a command."""

    OVERLAP = "overlap in the banks"
    NOWHERE = "belongs to nothing"
    EARLY = "uses data not yet produced"
    OVERWRITES = "overwrites data still needed"
    EXCEEDS = "exceeds a buffer"
    REPEATED = "repeats what was done"
    MISSING = "never issued"


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a log.

    Attributes:
        hazard: kind of the fault.
        command: the command; None for a command that never issued, and for data that overlap.
        channel: channel of the fault.
        cycle: cycle of the fault; the last cycle of the log for a command that never issued.
        needs: the data or buffer that the command needed, or the result that is missing.
        ready: first cycle in which these would be available; None for never.
    """

    hazard: Hazard
    command: LoggedCommand | None
    channel: int
    cycle: int
    needs: str
    ready: int | None

    def __str__(self) -> str:
        """Return the fault in one line."""
        where = f"cycle {self.cycle}, channel {self.channel}"
        if self.command is None:
            return f"{where}: {self.needs} {self.hazard}"
        c = self.command
        place = f"rank {c.rank} group {c.bank_group} bank {c.bank} row {c.row} column {c.column}"
        text = f"{where}: {c.command} ({place}) {self.hazard}: {self.needs}"
        if self.hazard in (Hazard.EARLY, Hazard.OVERWRITES, Hazard.EXCEEDS):
            text += ", never" if self.ready is None else f", from cycle {self.ready}"
        return text


@dataclass(frozen=True, slots=True)
class HazardReport:
    """The result of checking a log.

    Attributes:
        commands: number of commands that were checked; these move or use data.
        violations: the faults, in order of time.
    """

    commands: int
    violations: tuple[Violation, ...]

    @property
    def first(self) -> Violation | None:
        """The first violation, if there is one."""
        return self.violations[0] if self.violations else None

    def count(self, hazard: Hazard) -> int:
        """Return how many violations are of one kind."""
        return sum(violation.hazard is hazard for violation in self.violations)


def check_hazards(
    log: Iterable[LoggedCommand],
    device: DramDevice,
    channels: Sequence[ChannelChunks],
    *,
    queries: int = 1,
    queries_per_read: int = 1,
) -> HazardReport:
    """Check all data of a stack's attention, and that every result was computed exactly once.

    Commands that neither move nor use data (rows, refresh, barriers, ordinary reads and writes)
    are passed over.

    Args:
        log: every command of the stack.
        device: the device with its latencies and buffers. A device without a pipeline has no
            latencies, and the buffers of AttAcc's units.
        channels: the chunks of each channel.
        queries: queries that share the keys and values of each chunk.
        queries_per_read: queries that a read serves at most.

    Raises:
        InputError: a number of queries is below 1; the log, the device and the channels do not
            belong together; or the log does not tell the accesses of a vector buffer apart.
    """
    if len(channels) != device.organization.channels:
        raise InputError(
            f"chunks of {len(channels)} channels are given, the device has "
            f"{device.organization.channels}",
            where=device.name,
            hint="give every channel its chunks, if only none",
        )
    if min(queries, queries_per_read) < 1:
        raise InputError(
            f"queries = {queries} and queries_per_read = {queries_per_read} must be at least 1"
        )
    passes = -(-queries // queries_per_read)
    sets = tuple(len(range(which, queries, passes)) for which in range(passes))
    limits = _Limits.of(device)
    families = device.rule_set.families
    multiplies = {family.multiply: placement for placement, family in families.items()}
    by_channel: list[list[LoggedCommand]] = [[] for _ in channels]
    commands = 0
    last = 0
    for command in log:
        last = max(last, command.cycle)
        if command.command not in multiplies and command.command not in _MOVES:
            continue
        if not 0 <= command.channel < len(channels):
            raise InputError(f"the log names channel {command.channel}", where=device.name)
        placement = channels[command.channel].layout.placement
        if multiplies.get(command.command, placement) != placement:
            raise InputError(
                f"the log holds {command.command}, the chunks are laid out for {placement} units",
                hint="give the placement that the log was made for",
            )
        if command.offset < 0 and command.command in _FILLS:
            raise InputError(
                f"{command.command} in cycle {command.cycle} does not say which access of the "
                "vector buffer it writes",
                hint="use a log that has the offset within a column",
            )
        commands += 1
        by_channel[command.channel].append(command)
    violations: list[Violation] = []
    for number, (chunks, issued) in enumerate(zip(channels, by_channel, strict=True)):
        issued.sort(key=lambda command: command.cycle)
        violations += _Channel(number, chunks, limits, sets).check(issued, last)
    violations.sort(key=lambda v: (v.hazard is Hazard.MISSING, v.cycle, v.channel))
    return HazardReport(commands, tuple(violations))


_FILLS: Final = ("WRGB", "MVGB")
_MOVES: Final = (*_FILLS, "MVSB", "SFM")

_Place = tuple[int, ...]
"""Address of units that are filled, or sums that are moved, by one command."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """Latencies in cycles, and sizes of the buffers of one channel.

    Attributes:
        write: cycles from a WRGB or MVGB to a multiply.
        multiply: cycles from a multiply to an MVSB.
        move: cycles from an MVSB to the softmax.
        output: cycles from the end of a softmax to an MVGB.
        pass_cycles: cycles of one pass of one lane over one score.
        lanes: softmax lanes.
        words: accesses of half a vector buffer.
        scores: scores that the softmax buffer holds.
    """

    write: int
    multiply: int
    move: int
    output: int
    pass_cycles: Fraction
    lanes: int
    words: int
    scores: int

    @classmethod
    def of(cls, device: DramDevice) -> _Limits:
        channels = device.organization.channels
        pipeline = device.pipeline
        if pipeline is None:
            scores = SOFTMAX_BUFFER_BYTES // (SCORE_BYTES * channels)
            return cls(0, 0, 0, 0, Fraction(0), 1, BUFFER_WORDS, scores)
        lane_clocks = Fraction(pipeline.softmax_clock_hz) * Fraction(device.clock_ns)
        return cls(
            write=pipeline.write_to_multiply,
            multiply=pipeline.multiply_to_move,
            move=pipeline.move_to_softmax,
            output=pipeline.softmax_to_move,
            pass_cycles=pipeline.softmax_passes * Fraction(NS_PER_S) / lane_clocks,
            lanes=max(1, pipeline.softmax_lanes // channels),
            words=pipeline.buffer_words,
            scores=int(pipeline.softmax_buffer_bytes) // (SCORE_BYTES * channels),
        )

    def softmax_cycles(self, length: int) -> int:
        """Return how long the lanes of a channel are busy with a chunk."""
        return math.ceil(-(-length // self.lanes) * self.pass_cycles)


@dataclass(slots=True, eq=False)
class _Fill:
    """The content of one half of the vector buffers: queries, or some probabilities.

    Attributes:
        name: name of the content, for messages.
        words: accesses per unit, query by query.
        per_query: accesses of each query.
        uses: number of multiplies that have not used it yet.
        used: cycle of the last use.
        written: per access, the cycle in which each unit received it.
    """

    name: str
    words: int
    per_query: int
    uses: int
    used: int = 0
    written: list[dict[_Place, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.written = [{} for _ in range(self.words)]

    def ready(self, word: int, places: int, latency: int) -> int | None:
        """Return the cycle in which all units have an access; None for never."""
        cycles = self.written[word].values()
        return max(cycles) + latency if len(cycles) == places else None

    def of_all_queries(self, word: int) -> range:
        """Return, for every query, the access that corresponds to this one of the first query."""
        return range(word, self.words, self.per_query)

    def free(self, latency: int) -> int | None:
        """Return the cycle from which the content may be overwritten; None for never."""
        return None if self.uses else self.used + latency


@dataclass(slots=True, eq=False)
class _Sums:
    """The sums of one set of accumulators: 16 scores per part, or an output slice.

    Attributes:
        name: name of the sums, for messages.
        multiplies: number of multiplies that have not issued yet.
        last: cycle of the last multiply that has issued, 0 for none.
        moved: cycle of the last move of the sums; None if some never issue.
    """

    name: str
    multiplies: int
    last: int = 0
    moved: int | None = None


@dataclass(frozen=True, slots=True)
class _Turn:
    """One pass over one chunk.

    Attributes:
        place: place among the turns of the channel.
        chunk: shape of the chunk.
        room: shape of the chunk if it had all the keys for which it has room.
        rotation: key of each part with which reading the chunk begins, and from which it goes
            around.
        apart: keys of each part from one key that is read to the next.
        number: place of the chunk among the chunks of the channel.
        queries: number of queries of the pass.
        first_softmax: place of the turn's first query among the softmaxes of the channel.
        name: name of the pass and the chunk, for messages.
    """

    place: int
    chunk: HeadLayout
    room: HeadLayout
    rotation: int
    apart: int
    number: int
    queries: int
    first_softmax: int
    name: str

    @property
    def scores(self) -> int:
        """Number of scores of the turn in the softmax buffer."""
        return self.queries * self.chunk.length


class _Product:
    """The score or the context of a turn: data in the banks times operands in the buffers.

    Attributes:
        turn: the turn.
        chunk: shape of the turn's chunk.
        sets: number of queries; each query has sums of its own.
        name: name of the product, for messages.
        data: the data in the banks, keys or values, for messages.
        begin: first byte, in every bank, of the keys or values.
        end: one past the last byte.
        multiplied: cycle in which each multiply issued; 0 for not yet.
        fills: contents of the vector buffers for the product, one after the other.
        fill_places: number of units that are filled by commands of their own; every other unit
            receives the same data as one of these.
        sums: units of work, in the order in which they move.
        moves: per place whose sums move by a command of their own, the cycles of its moves.
        move_places: number of such places.
    """

    def __init__(self, turn: _Turn, begin: int, *, kind: str, data: str, count: int, room: int):
        chunk = turn.chunk
        o = chunk.organization
        self.turn = turn
        self.chunk = chunk
        self.sets = turn.queries
        self.name = f"{kind} of {turn.name}"
        self.data = f"the {data} of chunk {turn.number}"
        self.begin = begin
        # The reserved bytes end where the last multiply of a full chunk would end.
        in_bank = chunk.multiply_addresses(room) % o.bank_bytes
        self.end = begin + int(in_bank.max()) + o.access_bytes
        self.multiplied = [0] * count
        self.fills: list[_Fill] = []
        self.fill_places = 1
        self.sums: list[_Sums] = []
        self.moves: dict[_Place, list[int]] = {}
        self.move_places = 1

    def place_number(self, command: LoggedCommand, offset: int) -> int:
        """Return the number of the place, among those of consecutive multiplies, of an address."""
        o = self.chunk.organization
        column = offset // o.access_bytes
        match self.chunk.placement:
            case Placement.BANK:
                return column
            case Placement.BANKGROUP:
                row, column = divmod(column, o.columns)
                return (row * o.banks + command.bank) * o.columns + column
            case Placement.BUFFER:
                groups = o.ranks * o.bank_groups
                group = command.rank * o.bank_groups + command.bank_group
                return (column * o.banks + command.bank) * groups + group

    def moved(self) -> int | None:
        """Return the cycle in which all sums have moved; None for never."""
        return self.moved_unit(len(self.sums) - 1)

    def moved_unit(self, unit: int) -> int | None:
        """Return when a unit's sums have moved for all queries, as a cycle; None for never."""
        last = (unit + 1) * self.sets
        cycles = [cycles[last - 1] for cycles in self.moves.values() if len(cycles) >= last]
        return max(cycles) if len(cycles) == self.move_places else None


class _Score(_Product):
    """Keys times the queries, one slice of the elements of the keys after the other."""

    def __init__(self, turn: _Turn, begin: int, half: int) -> None:
        chunk = turn.chunk
        super().__init__(
            turn,
            begin,
            kind="the score",
            data="keys",
            count=chunk.score_multiplies,
            room=turn.room.score_multiplies,
        )
        o = chunk.organization
        width = chunk.columns_per_slice
        if chunk.key_slices > 1:
            # Addresses of fills may exceed those of a short chunk, within the same row.
            self.end = max(self.end, begin + chunk.key_slices * half)
        for which in range(chunk.key_slices):
            of = f"slice {which} of " if chunk.key_slices > 1 else ""
            self.fills.append(
                _Fill(
                    f"{of}the quer{'y' if self.sets == 1 else 'ies'} of {turn.name}",
                    self.sets * width,
                    width,
                    chunk.keys_per_part * width,
                )
            )
            for first in range(0, chunk.keys_per_part, chunk.keys_per_move):
                keys = min(chunk.keys_per_move, chunk.keys_per_part - first)
                name = f"{of}scores {first} to {first + keys - 1} per part of {turn.name}"
                self.sums.append(_Sums(name, keys * width))
        if chunk.placement is Placement.BANK:
            self.fill_places = o.banks
        if chunk.placement is not Placement.BUFFER:
            self.move_places = o.ranks * o.bank_groups

    def fill_place(self, command: LoggedCommand) -> _Place:
        """Return which units a WRGB fills: banks hold different parts of a query."""
        return (command.bank,) if self.chunk.placement is Placement.BANK else ()

    def move_place(self, command: LoggedCommand) -> _Place:
        """Return the place of the units whose scores an MVSB moves."""
        if self.chunk.placement is Placement.BUFFER:
            return ()
        return (command.rank, command.bank_group)

    def operand(self, x: int) -> tuple[_Fill, int, int]:
        """Return from which access of what a multiply takes its operand, and its unit of work."""
        chunk = self.chunk
        which, x = divmod(x, chunk.keys_per_part * chunk.columns_per_slice)
        key, word = divmod(x, chunk.columns_per_slice)
        return self.fills[which], word, which * chunk.score_groups + key // chunk.keys_per_move

    def multiply_number(self, command: LoggedCommand, offset: int) -> int:
        """Return the number of the multiply in the order of reading.

        The room of the chunk separates slices of keys.
        """
        width = self.chunk.columns_per_slice
        room = self.turn.room.keys_per_part * width
        which, x = divmod(self.place_number(command, offset), room)
        own = self.chunk.keys_per_part * width
        key, column = divmod(x, width)
        key, between = divmod(key, self.turn.apart)
        x = key * width + column
        if between or x >= own:
            return len(self.multiplied)
        return which * own + (x - self.turn.rotation * width) % own


class _Context(_Product):
    """Values times probabilities, where half a buffer holds some of the probabilities at a time.

    Attributes:
        half: accesses of each query that half a buffer holds.
    """

    def __init__(self, turn: _Turn, begin: int, half: int) -> None:
        chunk = turn.chunk
        super().__init__(
            turn,
            begin,
            kind="the context",
            data="values",
            count=chunk.context_multiplies,
            room=turn.room.value_places,
        )
        o = chunk.organization
        self.half = half
        for first in range(0, chunk.probability_words, half):
            words = min(half, chunk.probability_words - first)
            keys = min(
                words * chunk.elements_per_column,
                chunk.keys_per_part - first * chunk.elements_per_column,
            )
            name = f"probability words {first} to {first + words - 1} of {turn.name}"
            uses = keys * chunk.context_slices
            self.fills.append(_Fill(name, self.sets * words, words, uses))
            for output in range(chunk.context_slices):
                self.sums.append(_Sums(f"output slice {output} over {name}", keys))
        if chunk.placement is not Placement.BUFFER:
            self.fill_places = o.ranks * o.bank_groups
            self.move_places = o.ranks
        if chunk.placement is Placement.BANK:
            self.move_places = o.ranks * o.banks

    def fill_place(self, command: LoggedCommand) -> _Place:
        """Return which units an MVGB fills: parts hold different keys."""
        if self.chunk.placement is Placement.BUFFER:
            return ()
        return (command.rank, command.bank_group)

    def move_place(self, command: LoggedCommand) -> _Place:
        """Return the place of the units whose slice an MVSB moves."""
        match self.chunk.placement:
            case Placement.BANK:
                return (command.rank, command.bank)
            case Placement.BANKGROUP:
                return (command.rank,)
            case Placement.BUFFER:
                return ()

    def multiply_number(self, command: LoggedCommand, offset: int) -> int:
        """Return the number of the multiply in the order of reading.

        The room of the chunk separates its slices.
        """
        keys, together = self.chunk.keys_per_part, self.chunk.slices_together
        room = self.turn.room.keys_per_part * together
        before, x = divmod(self.place_number(command, offset), room)
        p, which = divmod(x, together)
        p, between = divmod(p, self.turn.apart)
        if between or p >= keys:
            return len(self.multiplied)
        return (before * together + which) * keys + (p - self.turn.rotation) % keys

    def operand(self, x: int) -> tuple[_Fill, int, int]:
        """Return from which access of what a multiply takes its operand, and its unit of work."""
        output, p = divmod(x, self.chunk.keys_per_part)
        fill, word = divmod(p // self.chunk.elements_per_column, self.half)
        return self.fills[fill], word, fill * self.chunk.context_slices + output


def _turns(chunks: ChannelChunks, sets: Sequence[int]) -> list[_Turn]:
    """Return the turns of a channel in the order of their softmaxes.

    Args:
        chunks: the chunks of the channel.
        sets: number of queries of every pass.
    """
    turns: list[_Turn] = []
    softmaxes = 0
    for first in range(0, len(chunks.lengths), 2):
        pair = range(first, min(first + 2, len(chunks.lengths)))
        for which, queries in enumerate(sets):
            for number in pair:
                name = f"chunk {number}" if len(sets) == 1 else f"pass {which} of chunk {number}"
                chunk = chunks.layout.head(chunks.lengths[number])
                room = chunks.layout.head(chunks.room[number])
                rotation = chunks.turned[number]
                turns.append(
                    _Turn(
                        len(turns), chunk, room, rotation, chunks.apart, number, queries, softmaxes,
                        name,
                    )
                )  # fmt: skip
                softmaxes += queries
    return turns


class _Channel:
    """Checks one channel: first notes when each command issued, then judges every command."""

    def __init__(
        self, number: int, chunks: ChannelChunks, limits: _Limits, sets: Sequence[int]
    ) -> None:
        self.number = number
        self.limits = limits
        self.organization = chunks.layout.organization
        self.turns = _turns(chunks, sets)
        self.softmax_turns = [turn for turn in self.turns for _ in range(turn.queries)]
        half = max(1, limits.words // max(sets))
        keys, values = chunks.regions.keys.tolist(), chunks.regions.values.tolist()
        self.scores = [_Score(turn, keys[turn.number], limits.words) for turn in self.turns]
        self.contexts = [_Context(turn, values[turn.number], half) for turn in self.turns]
        # Products that use the keys, or the values, of each chunk, pass by pass.
        self.products: list[list[_Score | _Context]] = [
            [product for product in products if product.turn.number == chunk]
            for products in (self.scores, self.contexts)
            for chunk in range(len(chunks.lengths))
        ]
        self.products.sort(key=lambda passes: passes[0].begin)
        self.begins = [passes[0].begin for passes in self.products]
        self.softmaxes: list[int] = []
        self.halves: list[_Fill] = []
        self.accumulators: list[_Sums] = []
        self.in_flight: list[_Turn] = []
        self.violations: list[Violation] = []

    def check(self, issued: Sequence[LoggedCommand], last: int) -> list[Violation]:
        """Return the faults of the channel's commands, in order of time."""
        for (before, *_), (after, *_) in pairwise(self.products):
            if after.begin < before.end:
                text = f"{before.data} and {after.data}"
                self.violations.append(Violation(Hazard.OVERLAP, None, self.number, 0, text, None))
        if self.violations:
            return self.violations  # an address does not tell what is meant
        judge = [self._note(command) for command in issued]
        for product in (*self.scores, *self.contexts):
            for unit, sums in enumerate(product.sums):
                sums.moved = product.moved_unit(unit)
        for step in judge:
            step()
        self._find_missing(last)
        return self.violations

    def _say(
        self, hazard: Hazard, command: LoggedCommand, needs: str, ready: int | None = None
    ) -> None:
        self.violations.append(Violation(hazard, command, self.number, command.cycle, needs, ready))

    def _await(self, command: LoggedCommand, needs: str, ready: int | None) -> None:
        """Note a violation if a command came before the cycle in which its need is ready."""
        if ready is None or command.cycle < ready:
            self._say(Hazard.EARLY, command, needs, ready)

    def _note(self, command: LoggedCommand) -> Callable[[], None]:
        """Note what a command does; return the function that judges it when all times are known."""
        if command.command == "SFM":
            if len(self.softmaxes) == len(self.softmax_turns):
                return partial(self._say, Hazard.REPEATED, command, "all chunks had their softmax")
            self.softmaxes.append(command.cycle)
            return partial(self._judge_softmax, command, len(self.softmaxes) - 1)
        columns = command.row * self.organization.columns + command.column
        offset = columns * self.organization.access_bytes + max(0, command.offset)
        at = bisect_right(self.begins, offset) - 1
        if at < 0 or offset >= self.products[at][0].end:
            return partial(self._say, Hazard.NOWHERE, command, "no keys or values lie there")
        passes = self.products[at]
        offset -= self.begins[at]
        if command.command in _FILLS:
            return self._note_fill(command, passes, offset)
        if command.command == "MVSB":
            return self._note_move(command, passes)
        return self._note_multiply(command, passes, offset)

    def _note_fill(
        self, command: LoggedCommand, passes: Sequence[_Score | _Context], offset: int
    ) -> Callable[[], None]:
        product = passes[0]
        fits = isinstance(product, _Score) == (command.command == "WRGB")
        # Slots of an uncut query may exceed half a buffer, which is a fault of its own.
        cut = len(product.fills) > 1 or isinstance(product, _Context)
        which, word = divmod(offset, self.limits.words if cut else product.fills[0].words)
        if not fits or which >= len(product.fills) or word >= product.fills[which].words:
            return partial(
                self._say, Hazard.NOWHERE, command, f"{product.name} has no access {offset}"
            )
        place = product.fill_place(command)
        for product in passes:
            fill = product.fills[which]
            if word < fill.words and place not in fill.written[word]:
                opens = not any(fill.written)
                fill.written[word][place] = command.cycle
                query = word // fill.per_query
                return partial(self._judge_fill, command, product, fill, query, opens=opens)
        return partial(self._say, Hazard.REPEATED, command, f"access {offset} for {product.name}")

    def _note_multiply(
        self, command: LoggedCommand, passes: Sequence[_Score | _Context], offset: int
    ) -> Callable[[], None]:
        product = passes[-1]
        x = product.multiply_number(command, offset)
        if x >= len(product.multiplied):
            return partial(
                self._say, Hazard.NOWHERE, command, f"{product.name} has no multiply {x}"
            )
        if product.multiplied[x]:
            return partial(self._say, Hazard.REPEATED, command, f"multiply {x} of {product.name}")
        product = next(product for product in passes if not product.multiplied[x])
        product.multiplied[x] = command.cycle
        fill, word, unit = product.operand(x)
        fill.uses -= 1
        fill.used = command.cycle
        sums = product.sums[unit]
        opens = not sums.last
        sums.multiplies -= 1
        sums.last = command.cycle
        return partial(
            self._judge_multiply, command, product.fill_places, fill, word, sums, opens=opens
        )

    def _note_move(
        self, command: LoggedCommand, passes: Sequence[_Score | _Context]
    ) -> Callable[[], None]:
        place = passes[0].move_place(command)
        for product in passes:
            opens = isinstance(product, _Score) and not product.moves
            cycles = product.moves.setdefault(place, [])
            if len(cycles) < len(product.sums) * product.sets:
                cycles.append(command.cycle)
                unit = (len(cycles) - 1) // product.sets
                return partial(self._judge_move, command, product, unit, opens=opens)
        return partial(
            self._say, Hazard.REPEATED, command, f"all of {passes[-1].name} has moved from there"
        )

    def _judge_fill(
        self, command: LoggedCommand, product: _Score | _Context, fill: _Fill, query: int, *,
        opens: bool,
    ) -> None:  # fmt: skip
        turn = product.turn
        if isinstance(product, _Context):
            ready = None
            which = turn.first_softmax + query
            if len(self.softmaxes) > which:
                ready = self.softmaxes[which] + self.limits.output
                ready += self.limits.softmax_cycles(turn.chunk.length)
            self._await(command, f"the softmax of {self._query(which)}", ready)
        if not opens:
            return
        if fill.words > self.limits.words:
            needs = f"{fill.name} takes {fill.words} accesses, half a buffer holds "
            self._say(Hazard.EXCEEDS, command, f"{needs}{self.limits.words}")
        free = {other: other.free(self.limits.multiply) for other in self.halves}
        self.halves = [
            other for other in self.halves if (end := free[other]) is None or command.cycle < end
        ]
        if len(self.halves) == BUFFER_HALVES:
            # One of the two has to give way.
            ends = [end for other in self.halves if (end := free[other]) is not None]
            names = " and ".join(other.name for other in self.halves)
            self._say(Hazard.OVERWRITES, command, names, min(ends, default=None))
            del self.halves[0]
        self.halves.append(fill)

    def _judge_multiply(
        self, command: LoggedCommand, places: int, fill: _Fill, word: int, sums: _Sums, *,
        opens: bool,
    ) -> None:  # fmt: skip
        for same in fill.of_all_queries(word):
            ready = fill.ready(same, places, self.limits.write)
            if ready is None or command.cycle < ready:
                self._say(Hazard.EARLY, command, f"access {same} of {fill.name}", ready)
                break
        if not opens:
            return
        self.accumulators = [
            other
            for other in self.accumulators
            if other.moved is None or command.cycle <= other.moved
        ]
        if len(self.accumulators) == ACCUMULATOR_SETS:
            ends = [other.moved + 1 for other in self.accumulators if other.moved is not None]
            names = " and ".join(other.name for other in self.accumulators)
            self._say(Hazard.OVERWRITES, command, names, min(ends, default=None))
            del self.accumulators[0]
        self.accumulators.append(sums)

    def _judge_move(
        self, command: LoggedCommand, product: _Score | _Context, which: int, *, opens: bool
    ) -> None:
        sums = product.sums[which]
        ready = None if sums.multiplies else sums.last + self.limits.multiply
        self._await(command, sums.name, ready)
        if opens:
            self._enter_softmax(command, product.turn)

    def _enter_softmax(self, command: LoggedCommand, turn: _Turn) -> None:
        """Take room in the softmax buffer, from the first scores of a turn on."""
        free = {other: self._returned(other) for other in (*self.in_flight, turn)}
        self.in_flight = [
            other for other in self.in_flight if (end := free[other]) is None or command.cycle < end
        ]
        self.in_flight.append(turn)
        while (scores := sum(other.scores for other in self.in_flight)) > self.limits.scores:
            chunks = ", ".join(str(other.number) for other in self.in_flight)
            needs = f"{scores} scores of chunks {chunks} where {self.limits.scores} have room"
            ends = [end for other in self.in_flight[:-1] if (end := free[other]) is not None]
            self._say(Hazard.EXCEEDS, command, needs, min(ends, default=None))
            del self.in_flight[0]

    def _returned(self, turn: _Turn) -> int | None:
        """Return when the last probability of a turn has left the softmax buffer."""
        context = self.contexts[turn.place]
        ready = [
            fill.ready(word, context.fill_places, 1)
            for fill in context.fills
            for word in range(fill.words)
        ]
        cycles = [cycle for cycle in ready if cycle is not None]
        return max(cycles) if len(cycles) == len(ready) else None

    def _judge_softmax(self, command: LoggedCommand, which: int) -> None:
        turn = self.softmax_turns[which]
        moved = self.scores[turn.place].moved()
        ready = None if moved is None else moved + self.limits.move
        self._await(command, f"all scores of {turn.name}", ready)
        if which > 0:
            busy = self.limits.softmax_cycles(self.softmax_turns[which - 1].chunk.length)
            ready = self.softmaxes[which - 1] + busy
            self._await(command, f"the lanes that {self._query(which - 1)} occupies", ready)

    def _query(self, which: int) -> str:
        """Return the name of the query and the turn of a softmax."""
        turn = self.softmax_turns[which]
        query = f"query {which - turn.first_softmax} of " if turn.queries > 1 else ""
        return query + turn.name

    def _find_missing(self, last: int) -> None:
        def missing(count: int, of: int, what: str) -> None:
            if count:
                text = f"{count} of {of} {what}"
                self.violations.append(
                    Violation(Hazard.MISSING, None, self.number, last, text, None)
                )

        for score, context in zip(self.scores, self.contexts, strict=True):
            for product, fills in ((score, "query"), (context, "probability")):
                places = product.fill_places
                moves = product.move_places * product.sets * len(product.sums)
                words = sum(fill.words for fill in product.fills) * places
                written = sum(len(word) for fill in product.fills for word in fill.written)
                missing(words - written, words, f"{fills} accesses of {product.turn.name}")
                total = len(product.multiplied)
                missing(product.multiplied.count(0), total, f"multiplies of {product.name}")
                moved = sum(map(len, product.moves.values()))
                missing(moves - moved, moves, f"moves of {product.name}")
        total = len(self.softmax_turns)
        missing(total - len(self.softmaxes), total, "softmaxes")
