"""All formats, and which of them a file has. The content of a file tells its format.

A new format is a `TableFormat` or a `LineReader`, and an entry here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from attacc.errors import DocumentError
from attacc.files import MAX_DOCUMENT_BYTES, MAX_LIST_BYTES, json_of, text_of
from attacc.parquet import PARQUET_MAGIC, parquet_of
from attacc.workload.formats.azure import AZURE
from attacc.workload.formats.burstgpt import BURSTGPT
from attacc.workload.formats.columns import PAGE, Columns, Source
from attacc.workload.formats.lines import (
    LineReader,
    Record,
    lines_of,
    list_of,
    read_lines,
    record_of,
)
from attacc.workload.formats.llmservingsim import LlmServingSim, RecordedRun
from attacc.workload.formats.mooncake import Mooncake
from attacc.workload.formats.plain import LENGTHS, PLAIN, PlainLines, read_frame, refuse_text
from attacc.workload.formats.tables import TableFormat, read_table, table_format
from attacc.workload.formats.vidur import VIDUR
from attacc.workload.formats.vllm import TOLD, is_result, read_result

TABLES: Final[tuple[TableFormat, ...]] = (AZURE, BURSTGPT, VIDUR, PLAIN)
"""Formats of CSV tables. A header belongs to the format that shares most columns with it."""
LINES: Final[tuple[type[LineReader], ...]] = (Mooncake, RecordedRun, LlmServingSim, PlainLines)
"""Formats of JSON objects. A file belongs to the first that knows its first object."""
EXPECTED: Final = (
    f"expected the Azure CSV (first line {','.join(AZURE.columns)}) or the Mooncake JSONL "
    '(lines such as {"timestamp": 0, "input_length": 6758, "output_length": 500}), or another '
    f"format of {PAGE}"
)
"""What is expected of a file, for hints."""
_HEAD: Final = 2**16
"""First characters of a list in which the keys of its entries are searched."""


class Found(NamedTuple):
    """The requests of a file.

    Attributes:
        told: its format in words.
        columns: its requests.
    """

    told: str
    columns: Columns


def read_format(data: bytes, source: Source) -> Found:
    """Return the requests of a file of any known format.

    Args:
        data: its bytes, unpacked.
        source: its name, and how it is read.

    Raises:
        DocumentError: it is of no known format, or malformed.
    """
    if data.startswith(PARQUET_MAGIC):
        frame = parquet_of(data, where=source.where)
        return Found("requests", read_frame(frame, source))
    text = text_of(data, where=source.where)
    start = re.search(r"\S", text)
    if start and start.group() == "{":
        return _objects(text, source)
    if start and start.group() == "[":
        return _list(text, source)
    found, header, line = table_format(text, TABLES, source.where, EXPECTED)
    return Found(found.told, read_table(text, source, found, header, line))


def _objects(text: str, source: Source) -> Found:
    """Return the requests of a file that starts with a JSON object."""
    number, line = next(lines_of(text))
    at = f"{source.where}:{number}"
    try:
        first = record_of(json_of(line, where=at), at, EXPECTED)
    except DocumentError:
        whole = _one_object(text, source.where)
        if whole is None:
            raise
        if is_result(whole):
            return Found(TOLD, read_result(whole, source))
        raise DocumentError(
            "is one JSON object over several lines, not an object in each line",
            where=source.where,
            hint=f"write each request in a line, as jq -c . does; {EXPECTED}",
        ) from None
    if is_result(first):
        if text.strip() != line:
            raise DocumentError(
                f"holds more than one {TOLD}, or other lines behind it",
                where=source.where,
                hint="keep the line of one run",
            )
        return Found(TOLD, read_result(first, source))
    reader = _reader_of(first, source, at)
    return Found(reader.told, read_lines(text, source, reader, EXPECTED))


def _one_object(text: str, where: str) -> Record | None:
    """Return the object that a whole file is; None if it is none."""
    if len(text) > MAX_DOCUMENT_BYTES or "\n" not in text.strip():
        return None
    try:
        return record_of(json_of(text, where=where), where, EXPECTED)
    except DocumentError:
        return None


def _reader_of(record: Record, source: Source, at: str) -> LineReader:
    for reader in LINES:
        if reader.knows(record):
            return reader(source)
    keys = ", ".join(list(record)[:8]) or "no key"
    raise DocumentError(f"unknown format: an object with {keys:.120}", where=at, hint=EXPECTED)


def _list(text: str, source: Source) -> Found:
    """Return the requests of a JSON list of objects with numbers of tokens.

    The published lists of conversations are too large to be parsed as a whole, and hold no numbers
    of tokens. Their first keys tell that.
    """
    where = source.where
    keys = set[str](re.findall(r'"(\w+)"\s*:', text[:_HEAD]))
    refuse_text(keys & {"conversations", LENGTHS[0]}, where)
    if LENGTHS[0] not in keys:
        raise DocumentError(
            "is a JSON list, not an object in each line",
            where=where,
            hint=f"write each request in a line, as jq -c '.[]' does; {EXPECTED}",
        )
    if len(text) > MAX_LIST_BYTES:
        raise DocumentError(
            f"is a JSON list of more than {MAX_LIST_BYTES / 2**20:,.0f} MiB",
            where=where,
            hint="write each request in a line, as jq -c '.[]' does",
        )
    reader = PlainLines(source)
    for place, entry in enumerate(list_of(json_of(text, where=where), "it", where, EXPECTED), 1):
        at = f"{where}, entry {place}"
        reader.add(record_of(entry, at, EXPECTED), at)
    return Found(reader.told, reader.columns())
