"""How long a channel should attend to its chunks, told phase by phase: what the forecast must say.

Slow on purpose; see `attacc.pim.timing.dealing` for what it means. Rows are followed multiply by
multiply.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from attacc.hardware.dram import DramDevice
from attacc.hardware.placement import Placement
from attacc.pim.mapping.geometry import KeyLayout
from attacc.pim.program.schedule import head_commands


@dataclass(frozen=True)
class Expected:
    """A channel of a device, as far as the forecast knows it.

    Attributes:
        device: a device with a pipeline.
        layout: placement, head_dim and element type.
        interval: cycles between two multiplies.
        opening: cycles from the last multiply of a row to the first of the next one where one bank
            is read; between two activates where banks take turns.
        apart: cycles between two moves.
        passes: queries of every pass.
    """

    device: DramDevice
    layout: KeyLayout
    interval: int
    opening: int
    apart: int
    passes: Sequence[int]

    def opened(self, columns: Sequence[int], last: int) -> tuple[int, int]:
        """Return how many banks these multiplies open, and the row that is open at their end."""
        o, banks = self.layout.organization, self.layout.banks_in_turn
        each = o.columns if self.layout.placement is Placement.BANKGROUP else 1
        count = 0
        shut: set[int] = set()  # banks, once the row has changed
        current = last
        for x in columns:
            row, bank = x // (o.columns * banks), x // each % banks
            if row != current:
                shut, current = set(range(banks)), row
            if bank in shut:
                shut.remove(bank)
                count += 1
        return count, current

    def multiplying(self, length: int) -> tuple[int, int]:
        """Return the cycles of the multiplies of a chunk's score and context, for one pass."""
        one = self.layout.head(length)
        each = 1 if one.placement is not Placement.BANKGROUP else one.organization.columns
        adds = max(0, self.opening - each * self.interval)
        keys, segment = one.keys_per_part, self.words * one.elements_per_column
        score, _ = self.opened(range(one.score_multiplies), -1)
        context, last = 0, -1
        for first in range(0, keys, segment):
            for output in range(one.context_slices):
                together = one.slices_together
                begin = (output // together * keys + first) * together
                size = min(segment, keys - first) * together
                opened, last = self.opened(range(begin, begin + size), last)
                context += opened
        return (
            one.score_multiplies * self.interval + score * adds,
            one.context_multiplies * self.interval + context * adds,
        )

    @property
    def words(self) -> int:
        """Accesses of probabilities of a query that fit half a vector buffer."""
        pipeline = self.device.pipeline
        assert pipeline is not None
        return pipeline.buffer_words // self.passes[0]

    def softmax(self, length: int) -> int:
        """Return how long the lanes of a channel take for one query."""
        pipeline = self.device.pipeline
        assert pipeline is not None
        lanes = max(1, pipeline.softmax_lanes // self.layout.organization.channels)
        clocks = pipeline.softmax_passes * ceil(length / lanes)
        return ceil(clocks / pipeline.softmax_clock_hz * 1e9 / self.device.clock_ns)

    def channel(self, chunks: Sequence[int]) -> int:
        """Return how long a channel takes, without refresh."""
        pipeline = self.device.pipeline
        assert pipeline is not None
        places = head_commands(self.layout.head(1))
        slices, outputs = self.layout.key_slices, self.layout.context_slices
        turns = [
            (length, queries)
            for first in range(0, len(chunks), 2)
            for queries in self.passes
            for length in chunks[first : first + 2]
        ]
        phases = [(turn, "score") for turn in range(len(turns))]
        for turn in range(len(turns)):
            phases.insert(2 * turn + 2 if turn + 1 < len(turns) else len(phases), (turn, "context"))
        now = lanes = last_context = 0
        returned: dict[int, int] = {}
        for number, (turn, phase) in enumerate(phases):
            length, queries = turns[turn]
            score, context = self.multiplying(length)
            if phase == "score":
                fill = queries * len(places.q) * self.apart
                if number == 0:
                    now = fill // slices + pipeline.write_to_multiply + score
                else:
                    now += max(score, fill)
                ready = now + pipeline.multiply_to_move + pipeline.move_to_softmax
                ready += queries * len(places.score_moves) * self.apart
                lanes = max(lanes, ready) + queries * self.softmax(length)
                returned[turn] = lanes + pipeline.softmax_to_move
                continue
            words = self.layout.head(length).probability_words
            fill = min(words, self.words) * len(places.probabilities) * self.apart
            filled = max(returned[turn] + fill, last_context + queries * fill)
            away = ceil(words / self.words) * queries * outputs * len(places.context_moves)
            now = max(now, filled + pipeline.write_to_multiply) + max(context, away * self.apart)
            last_context = now
        queries = turns[-1][1]
        return now + pipeline.multiply_to_move + queries * len(places.context_moves) * self.apart
