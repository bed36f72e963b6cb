"""Steps of a run in columns: 84 bytes for each step, and 16 for each chunk of a prompt."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from attacc.serving.prices.works import Works
from attacc.serving.work import Chunk, Held, Work

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]

PAGE_STEPS: Final = 2**20
"""Steps that are kept in one piece."""
_TIMES: Final = ("scheduled_ps", "launched_ps", "start_ps", "end_ps")
_HELD: Final = ("channel_keys", "channel_chunks", "all_chunks")
_COUNTS: Final = (
    "decoding", "longest", "chunk_end", "running", "waiting", "free", "preempted", *_HELD,
)  # fmt: skip
COLUMNS: Final = (
    *_TIMES, "decoding", "keys", "longest", "chunks", "new_tokens", "running", "waiting", "free",
    "preempted", "ended",
)  # fmt: skip
"""Columns of steps, as `StepTimes` and `Work` name them."""
_NONE: Final = (0, 0, 0)
_ROW: Final = Struct(f"<{len(_TIMES) + 1}q{len(_COUNTS)}I")
_CHUNK_END: Final = len(_TIMES) + 1 + _COUNTS.index("chunk_end")
_DTYPE: Final = np.dtype(
    {
        "names": [*_TIMES, "keys", *_COUNTS],
        "formats": ["<i8"] * (len(_TIMES) + 1) + ["<u4"] * len(_COUNTS),
        "itemsize": _ROW.size,
    }
)


class StepTimes(NamedTuple):
    """One step of a run.

    Attributes:
        work: what it computed.
        scheduled_ps: when the call decided on it.
        launched_ps: when the host had launched it.
        start_ps: when the device began.
        end_ps: when the device ended.
        running: requests that had memory.
        waiting: requests in the queue.
        free: blocks, or tokens, of memory that were free.
        preempted: requests that lost their memory when the step was scheduled.
        ended: requests that ended with its results.
    """

    work: Work
    scheduled_ps: int
    launched_ps: int
    start_ps: int
    end_ps: int
    running: int
    waiting: int
    free: int
    preempted: int
    ended: int


@dataclass(frozen=True, slots=True, eq=False)
class StepPage:
    """Consecutive steps of a run.

    Attributes:
        rows: (steps,) a record for each step.
        chunks: (chunks, 4) the numbers of `Chunk`, those of the first step first.
        ended: (steps,) requests that ended with each step.
    """

    rows: NDArray[np.void]
    chunks: NDArray[np.uint32]
    ended: NDArray[np.uint32]

    def __len__(self) -> int:
        return self.rows.size

    def column(self, name: str) -> Ints:
        """Return a column.

        Args:
            name: of a number of `StepTimes` or of `Work`, ``chunks`` for the number of chunks,
                or ``new_tokens`` for the tokens that steps compute. ``channel_keys``,
                ``channel_chunks`` and ``all_chunks`` are numbers of `Held`, 0 where they are not
                known.
        """
        if name == "ended":
            return self.ended.astype(np.int64)
        if name == "chunks":
            return np.diff(self.rows["chunk_end"].astype(np.int64), prepend=0)
        if name == "new_tokens":
            sums = np.concatenate([[0], np.cumsum(self.chunks[:, 0], dtype=np.int64)])
            ends = self.rows["chunk_end"]
            return self.column("decoding") + np.diff(sums[ends], prepend=0)
        return self.rows[name].astype(np.int64)

    def works(self) -> Works:
        """Return what the steps computed."""
        new, past, cached, _ = self.chunks.astype(np.int64).T
        own = {name: self.column(name) for name in ("decoding", "keys", "longest")}
        held = np.stack([self.column(name) for name in _HELD])
        return Works(
            **own,
            new=new,
            past=past,
            cached=cached,
            chunk_ends=self.column("chunk_end"),
            held=held if held.any() else None,
        )


class Steps(Sequence[StepTimes]):
    """All steps of a run, in order. A step is made as an object only when it is looked at."""

    __slots__ = ("_chunks", "_ended", "_pages", "_rows")

    def __init__(self) -> None:
        # Rows and chunks of each page. The last page is being filled.
        self._rows = bytearray()
        self._chunks: array[int] = array("I")
        self._pages = [(self._rows, self._chunks)]
        self._ended: array[int] = array("I")

    def add(
        self,
        work: Work,
        times_ps: tuple[int, int, int, int],
        held: tuple[int, int, int],
        preempted: int,
    ) -> None:
        """Add the next step.

        Args:
            work: what it computes.
            times_ps: when it was scheduled and launched, when it starts and when it ends.
            held: requests with memory, requests that wait, and free memory.
            preempted: requests that lost their memory for it.
        """
        decoding, keys, longest, chunks, channels = work
        if chunks:
            for chunk in chunks:
                self._chunks.extend(chunk)
        self._rows += _ROW.pack(
            *times_ps,
            keys,
            decoding,
            longest,
            len(self._chunks) // 4,
            *held,
            preempted,
            *(_NONE if channels is None else channels[:3]),
        )
        if len(self._rows) == PAGE_STEPS * _ROW.size:
            self._pages.append((bytearray(), array("I")))
            self._rows, self._chunks = self._pages[-1]

    def end(self, requests: int) -> None:
        """Tell how many requests ended with the oldest step of which that is not told."""
        self._ended.append(requests)

    def __len__(self) -> int:
        return (len(self._pages) - 1) * PAGE_STEPS + len(self._rows) // _ROW.size

    @overload
    def __getitem__(self, index: int) -> StepTimes: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepTimes]: ...
    def __getitem__(self, index: int | slice) -> StepTimes | list[StepTimes]:
        """Return a step, or some of them."""
        if isinstance(index, slice):
            return [self[step] for step in range(*index.indices(len(self)))]
        step = range(len(self))[index]
        page, place = divmod(step, PAGE_STEPS)
        rows, pieces = self._pages[page]
        first = _ROW.unpack_from(rows, (place - 1) * _ROW.size)[_CHUNK_END] if place else 0
        (
            scheduled, launched, start, end, keys, decoding, longest, last, running, waiting, free,
            preempted, *channels,
        ) = _ROW.unpack_from(rows, place * _ROW.size)  # fmt: skip
        chunks = tuple(
            Chunk(pieces[at], pieces[at + 1], pieces[at + 2], bool(pieces[at + 3]))
            for at in range(4 * first, 4 * last, 4)
        )
        held = Held(*channels) if channels[-1] else None
        work = Work(decoding, keys, longest, chunks, held)
        # Results of the last steps are not known while they run.
        ended = self._ended[step] if step < len(self._ended) else 0
        return StepTimes(
            work, scheduled, launched, start, end, running, waiting, free, preempted, ended
        )

    def __iter__(self) -> Iterator[StepTimes]:
        return (self[step] for step in range(len(self)))

    def pages(self) -> Iterator[StepPage]:
        """Yield all steps in pieces."""
        for page, (rows, _) in enumerate(self._pages):
            if rows:
                yield self._piece(page)

    def column(self, name: str) -> Ints:
        """Return a column of all steps, as `StepPage.column` does."""
        return np.concatenate(
            [np.zeros(0, dtype=np.int64), *(page.column(name) for page in self.pages())]
        )

    def frame(self) -> pl.DataFrame:
        """Return a row for each step: its number, and the columns of `COLUMNS`."""
        import polars as pl

        numbers = {"step": np.arange(len(self))}
        return pl.DataFrame(numbers | {name: self.column(name) for name in COLUMNS})

    def _piece(self, page: int) -> StepPage:
        """Return a page that holds a step."""
        own, pieces = self._pages[page]
        rows = np.frombuffer(own, dtype=_DTYPE)
        # An interrupt may come between the chunks of a step and its row.
        chunks = np.frombuffer(pieces, dtype=np.uint32)[: 4 * int(rows[-1]["chunk_end"])]
        if own is self._rows:
            # What is being filled cannot grow while something looks at it.
            rows, chunks = rows.copy(), chunks.copy()
        # Results of the last steps are not known while they run.
        ended = np.zeros(rows.size, dtype=np.uint32)
        told = np.frombuffer(self._ended, dtype=np.uint32)[page * PAGE_STEPS :][: rows.size]
        ended[: told.size] = told
        return StepPage(rows, chunks.reshape(-1, 4), ended)
