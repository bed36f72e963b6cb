"""Requests of a run that were rejected, in columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, overload

from attacc.serving.engines.policy import Refusal, Request

if TYPE_CHECKING:
    import polars as pl

_REASONS: Final = tuple(Refusal)


class Rejected(NamedTuple):
    """A request that was rejected.

    Attributes:
        number: its number.
        arrival_ps: when it arrived.
        rejected_ps: when it was rejected.
        prompt: tokens of its prompt.
        outputs: tokens that it asked for.
        preemptions: how often it lost its memory before.
        reason: why.
    """

    number: int
    arrival_ps: int
    rejected_ps: int
    prompt: int
    outputs: int
    preemptions: int
    reason: Refusal


class Rejections(Sequence[Rejected]):
    """All requests that were rejected, in order."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("q")

    def add(self, request: Request, reason: Refusal, now_ps: int) -> None:
        """Add a request.

        Args:
            request: the request.
            reason: why it is rejected.
            now_ps: when.
        """
        self._numbers.extend(
            (
                request.index, request.arrival_ps, now_ps, request.prompt, request.outputs,
                request.preemptions, _REASONS.index(reason),
            )
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._numbers) // len(Rejected._fields)

    @overload
    def __getitem__(self, index: int) -> Rejected: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rejected]: ...
    def __getitem__(self, index: int | slice) -> Rejected | list[Rejected]:
        """Return a request, or some of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        first = range(len(self))[index] * len(Rejected._fields)
        number, arrival, rejected, prompt, outputs, preemptions, code = self._numbers[
            first : first + len(Rejected._fields)
        ]
        return Rejected(number, arrival, rejected, prompt, outputs, preemptions, _REASONS[code])

    def __iter__(self) -> Iterator[Rejected]:
        return (self[place] for place in range(len(self)))

    def frame(self) -> pl.DataFrame:
        """Return a row for each request, with the reason in words of `Refusal`."""
        import polars as pl

        columns = {name: self._numbers[i :: len(Rejected._fields)] for i, name in _FIELDS}
        reasons = [str(_REASONS[code]) for code in columns.pop("reason")]
        numbers = {name: pl.Series(column, dtype=pl.Int64) for name, column in columns.items()}
        return pl.DataFrame(numbers | {"reason": pl.Series(reasons, dtype=pl.String)})


_FIELDS: Final = tuple(enumerate(Rejected._fields))
