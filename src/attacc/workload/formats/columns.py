"""What every format gives: columns of requests, and checked numbers of tokens and times."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from attacc.errors import DocumentError
from attacc.units import MAX_SIZE
from attacc.workload.prefixes import MOONCAKE_BLOCK_TOKENS, PrefixHashes
from attacc.workload.requests import I64, ZeroOutput

F64 = NDArray[np.float64]

MOST_TIME: Final = 2.0**63
"""Times are below this number in any unit, which nanoseconds since 1970 reach in the year 2262."""
PAGE: Final = "docs/reference/request-files.md"
"""The page that lists the formats."""


class Source(NamedTuple):
    """A file that is read.

    Attributes:
        where: the file's name, for messages.
        zero_output: what becomes of requests that generated no token.
    """

    where: str
    zero_output: ZeroOutput


class Columns(NamedTuple):
    """The requests of a file, in its order.

    Attributes:
        prompts: (requests,) tokens of each prompt.
        outputs: (requests,) tokens that each request generated; some may be 0, except where a file
            with such requests is refused.
        times_s: (requests,) seconds from any one time; None where the file has no times.
        hashes: ids of the blocks of each prompt; None where the file has none.
        notes: what else a reader of results must know of the file.
    """

    prompts: I64
    outputs: I64
    times_s: F64 | None
    hashes: PrefixHashes | None = None
    notes: tuple[str, ...] = ()


class RequestRows:
    """The requests of a file while its rows are read, in arrays of numbers.

    Args:
        source: the file.
        per_s: units of time in a second.
        block_tokens: tokens of a block that has an id.
    """

    def __init__(
        self, source: Source, *, per_s: float = 1, block_tokens: int = MOONCAKE_BLOCK_TOKENS
    ) -> None:
        self.source = source
        self._per_s = per_s
        self._block_tokens = block_tokens
        self._prompts, self._outputs = array("q"), array("q")
        self._times = Times(per_s)
        self._ids, self._starts = array("q"), array("q", [0])

    def __len__(self) -> int:
        """Return the number of requests so far."""
        return len(self._prompts)

    @property
    def is_timed(self) -> bool:
        """Whether the requests so far have times."""
        return len(self._times) > 0

    def add(
        self, prompt: int, output: int, time: float | None = None, ids: Sequence[int] = ()
    ) -> None:
        """Add a request.

        Args:
            prompt: tokens of its prompt.
            output: tokens that it generated.
            time: when it arrived, in the file's unit; None if the file does not say.
            ids: ids of the blocks of its prompt.
        """
        self._prompts.append(prompt)
        self._outputs.append(output)
        if time is not None:
            self._times.add(time)
        self._ids.extend(ids)
        self._starts.append(len(self._ids))

    def columns(self, *notes: str) -> Columns:
        """Return the requests. Times are left out if a request has none.

        Args:
            notes: what else a reader of results must know of the file.
        """
        hashes = None
        if self._ids:
            hashes = PrefixHashes(
                np.frombuffer(self._ids, dtype=np.int64),
                np.frombuffer(self._starts, dtype=np.int64),
                self._block_tokens,
            )
        has_times = 0 < len(self._times) == len(self)
        return Columns(
            np.array(self._prompts, dtype=np.int64),
            np.array(self._outputs, dtype=np.int64),
            self._times.seconds() if has_times else None,
            hashes,
            notes,
        )


class Times:
    """Times in seconds from the first one that was added.

    The difference is taken in the file's unit: whole nanoseconds since 1970 keep each nanosecond,
    which a binary number of seconds since 1970 would round to a quarter of a microsecond.

    Args:
        per_s: units of time in a second.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._first: float | None = None
        self._seconds = array("d")

    def __len__(self) -> int:
        """Return the number of times."""
        return len(self._seconds)

    def add(self, time: float) -> None:
        """Add a time, as an int or a float."""
        if self._first is None:
            self._first = time
        self._seconds.append((time - self._first) / self._per_s)

    def seconds(self) -> F64:
        """Return the times: (times,) seconds from the first one that was added."""
        return np.array(self._seconds, dtype=np.float64)


def tokens(value: object, name: str, where: str) -> int:
    """Return a number of tokens, at least one.

    Args:
        value: a value of a JSON text.
        name: its key.
        where: its file and line.

    Raises:
        DocumentError: it is no number of tokens.
    """
    # bool is a kind of int in Python, yet true is no number of tokens.
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        raise not_tokens(value, name, where)
    return value


def output_tokens(value: object, name: str, where: str, source: Source, *, hint: str = "") -> int:
    """Return the number of tokens that a request generated; 0 only where the caller allows it.

    Args:
        value: a value of a JSON text.
        name: its key.
        where: its file and line.
        source: the file, with what becomes of requests without output.
        hint: why the format has such requests.

    Raises:
        DocumentError: it is no number of tokens, or 0 where such a file is refused.
    """
    if type(value) is int and value == 0:
        if source.zero_output is not ZeroOutput.ERROR:
            return 0
        raise no_output(name, where, hint)
    return tokens(value, name, where)


def prompt_of(value: object, output: int, name: str, where: str, source: Source) -> int:
    """Return the number of tokens of a prompt; 0 only for a request that will be left out.

    Raises:
        DocumentError: it is no number of tokens.
    """
    is_skipped = output == 0 and source.zero_output is ZeroOutput.SKIP
    if is_skipped and type(value) is int and value == 0:
        return 0
    return tokens(value, name, where)


def time_of(value: object, name: str, unit: str, where: str) -> float:
    """Return a time: the int or the float that a JSON text has.

    Args:
        value: a value of a JSON text.
        name: its key.
        unit: unit of the times, for messages.
        where: its file and line.

    Raises:
        DocumentError: it is no number, negative, or out of all proportion.
    """
    if type(value) not in (int, float) or not 0 <= cast(float, value) < MOST_TIME:
        raise DocumentError(
            f"{name} {shown(value)} is not a time", where=where, hint=f"expected {unit}, 0 or more"
        )
    return cast(float, value)


def not_tokens(value: object, name: str, where: str) -> DocumentError:
    """Return the error of a value that is no number of tokens."""
    return DocumentError(
        f"{name} {shown(value)} is not a number of tokens",
        where=where,
        hint=f"expected a whole number from 1 to {MAX_SIZE}",
    )


def no_output(name: str, where: str, hint: str = "") -> DocumentError:
    """Return the error of a request that generated no token.

    Args:
        name: column or key.
        where: file and line.
        hint: why the format has such requests.
    """
    return DocumentError(
        f"{name} 0 is not a number of tokens",
        where=where,
        hint=f"expected a whole number from 1 to {MAX_SIZE}; {hint}take such requests out of the "
        "file, or read it with zero_output='skip' (left out) or zero_output='one' (one token)",
    )


def shown(value: object) -> str:
    """Return a value as messages show it: a short scalar, or the kind of a nested value."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return f"{value!r:.60}"


def number(requests: int) -> str:
    """Return a number of requests in words, as in "1 request"."""
    return f"{requests:,} request{'' if requests == 1 else 's'}"
