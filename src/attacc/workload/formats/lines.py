"""Requests as JSON objects, one in each line or in a list; the first object tells the format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, cast

from attacc.errors import DocumentError
from attacc.files import json_of
from attacc.workload.formats.columns import Columns, Source, shown

Record = dict[str, object]


class LineReader(ABC):
    """Reads the requests of one format, object by object. A subclass is a format.

    Args:
        source: the file.

    Attributes:
        told: the format in words, as in "trace in the Mooncake format".
    """

    told: ClassVar[str]

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    @abstractmethod
    def knows(cls, record: Record) -> bool:
        """Return whether the first object of a file is of this format."""

    @abstractmethod
    def add(self, record: Record, at: str) -> None:
        """Read an object.

        Args:
            record: the object.
            at: its file and place, for messages.

        Raises:
            DocumentError: it is malformed.
        """

    @abstractmethod
    def columns(self) -> Columns:
        """Return the requests so far."""


class Ids:
    """The ids of requests so far. No id may come twice.

    Args:
        key: the key of the ids.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._places: dict[str, str] = {}

    def check(self, record: Record, at: str) -> None:
        """Refuse an id that an earlier request has; a request may have none.

        Raises:
            DocumentError: two requests have the same id.
        """
        value = record.get(self._key)
        if value is None:
            return
        first = self._places.setdefault(repr(value), at)
        if first != at:
            raise DocumentError(
                f"{self._key} {shown(value)} is there twice, first at {first}",
                where=at,
                hint="keep one of the two requests, or give them different ids",
            )


def need(record: Record, keys: Sequence[str], at: str, *, listed: Sequence[str] = ()) -> None:
    """Refuse an object that lacks a key.

    Args:
        record: the object.
        keys: the keys that must be there.
        at: its file and place, for messages.
        listed: the keys that the hint lists; the needed ones by default.

    Raises:
        DocumentError: one is missing.
    """
    for key in keys:
        if key not in record:
            raise DocumentError(
                f"missing key {key!r}", where=at, hint=f"expected {', '.join(listed or keys)}"
            )


def list_of(value: object, name: str, at: str, hint: str) -> list[object]:
    """Return a list of a JSON text.

    Raises:
        DocumentError: the value is none.
    """
    if not isinstance(value, list):
        raise DocumentError(f"{name} {shown(value)} is not a list", where=at, hint=hint)
    return cast(list[object], value)


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, counted from 1."""
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].strip()
        if line:
            yield number, line
        start, number = end + 1, number + 1


def read_lines(text: str, source: Source, reader: LineReader, expected: str) -> Columns:
    """Return the requests of a file that has one object in each line.

    Args:
        text: the file.
        source: the same, for messages.
        reader: the format of its first object.
        expected: what is expected, for hints.

    Raises:
        DocumentError: a line is malformed; names its number and the value.
    """
    for number, line in lines_of(text):
        at = f"{source.where}:{number}"
        reader.add(record_of(json_of(line, where=at), at, expected), at)
    return reader.columns()


def record_of(value: object, at: str, expected: str) -> Record:
    """Return an object of a JSON text.

    Raises:
        DocumentError: the value is none.
    """
    if not isinstance(value, dict):
        raise DocumentError(f"{shown(value)} is not an object", where=at, hint=expected)
    return cast(Record, value)
