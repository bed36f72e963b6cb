"""Recorded traces of requests.

Two formats are read, plain or compressed with gzip, and told apart by what the file holds:

- Azure LLM inference traces (Azure/AzurePublicDataset, 2023 and 2024): CSV with the columns
  TIMESTAMP (a date and time), ContextTokens, GeneratedTokens.
- Mooncake traces (kvcache-ai/Mooncake, FAST'25): one JSON object per line with timestamp (ms),
  input_length, output_length and, where given, hash_ids (blocks of shared prefixes).

Arrival times and shared prefixes are checked for form but only the lengths are kept.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from attacc.errors import DocumentError, nearest_hint
from attacc.models.architecture import MAX_SIZE
from attacc.workload.requests import Request, Workload, WorkloadKind

AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_KEYS: Final = ("timestamp", "input_length", "output_length", "hash_ids")
_GZIP_MAGIC: Final = b"\x1f\x8b"
_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)
_FORMATS: Final = (
    f"expected the Azure CSV (first line {','.join(AZURE_COLUMNS)}) or the Mooncake JSONL "
    '(lines such as {"timestamp": 0, "input_length": 6758, "output_length": 500})'
)


def load_workload(path: Path) -> Workload:
    """Read the requests of a trace.

    Args:
        path: the trace.

    Raises:
        DocumentError: the file is absent, unreadable, empty, of no known format, or has a
            malformed line; names the file, the line, the value and what is expected.
    """
    lines = _read_lines(path)
    first = next((number for number, line in enumerate(lines, 1) if line.strip()), None)
    if first is None:
        raise DocumentError("holds no requests", where=str(path), hint=_FORMATS)
    if lines[first - 1].lstrip().startswith("{"):
        requests, source = _mooncake_requests(lines, path), "trace in the Mooncake format"
    elif _looks_like_azure(lines[first - 1]):
        requests, source = _azure_requests(lines, first, path), "trace in the Azure format"
    else:
        raise DocumentError(
            f"unknown format: {lines[first - 1]!r:.60}", where=f"{path}:{first}", hint=_FORMATS
        )
    found = list(requests)
    if not found:
        raise DocumentError("holds no requests", where=str(path), hint=_FORMATS)
    return Workload.of(
        found, name=path.name, kind=WorkloadKind.TRACE, source=f"{source}, {path.name}"
    )


def _read_lines(path: Path) -> list[str]:
    where = str(path)
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
    except FileNotFoundError:
        hint = nearest_hint(path.name, _siblings(path))
        raise DocumentError("no such file", where=where, hint=hint) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DocumentError(f"is not a sound gzip file: {error}", where=where) from None
    except (OSError, ValueError) as error:  # a folder, say, or a null byte in the name
        raise DocumentError(f"cannot be read: {error}", where=where) from None
    lines: list[str] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            message = f"is not UTF-8 text: {error.reason} at byte {error.start + 1}"
            raise DocumentError(message, where=f"{where}:{number}") from None
    return lines


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []


def _looks_like_azure(line: str) -> bool:
    columns = {column.strip().lower() for column in line.split(",")}
    return any(column.lower() in columns for column in AZURE_COLUMNS)


def _azure_requests(lines: list[str], first: int, path: Path) -> Iterator[Request]:
    header = [column.strip() for column in lines[first - 1].split(",")]
    for column in AZURE_COLUMNS:
        if column not in header:
            raise DocumentError(
                f"missing column {column!r}",
                where=f"{path}:{first}",
                hint=f"the first line must be {','.join(AZURE_COLUMNS)}",
            )
    time, prompt, output = (header.index(column) for column in AZURE_COLUMNS)
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            fields = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise DocumentError(f"is not valid CSV: {error}", where=where) from None
        if len(fields) != len(header):
            raise DocumentError(
                f"{len(fields)} fields in {line!r:.60}",
                where=where,
                hint=f"expected {len(header)}: {','.join(header)}",
            )
        _check_date(fields[time].strip(), where=where)
        yield Request(
            _tokens_of_text(fields[prompt].strip(), "ContextTokens", where),
            _tokens_of_text(fields[output].strip(), "GeneratedTokens", where),
        )


def _check_date(text: str, *, where: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise DocumentError(
            f"TIMESTAMP {text!r:.60} is not a date and time",
            where=where,
            hint="expected one such as 2023-11-16 18:15:46.6805900",
        ) from None


def _tokens_of_text(text: str, name: str, where: str) -> int:
    # Longer numbers than this are out of range, and Python refuses to convert very long ones.
    if not _DIGITS.fullmatch(text) or len(text) > len(str(MAX_SIZE)):
        raise _not_tokens(text, name, where)
    return _tokens(int(text), name, where)


def _mooncake_requests(lines: list[str], path: Path) -> Iterator[Request]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"is not valid JSON: {error}", where=where) from None
        if not isinstance(record, dict):
            raise DocumentError(f"{_shown(record)} is not an object", where=where, hint=_FORMATS)
        yield _mooncake_request(cast(dict[str, object], record), where)


def _mooncake_request(record: dict[str, object], where: str) -> Request:
    for key in MOONCAKE_KEYS[:3]:
        if key not in record:
            raise DocumentError(
                f"missing key {key!r}",
                where=where,
                hint=f"expected {', '.join(MOONCAKE_KEYS[:3])}",
            )
    time = record["timestamp"]
    if type(time) not in (int, float) or not 0 <= cast(float, time) < math.inf:
        raise DocumentError(
            f"timestamp {_shown(time)} is not a time", where=where, hint="expected ms, 0 or more"
        )
    if not isinstance(record.get("hash_ids", []), list):
        raise DocumentError(
            f"hash_ids {_shown(record['hash_ids'])} is not a list",
            where=where,
            hint="leave it out, or list the ids of the prompt's blocks",
        )
    lengths = (_tokens(record[key], key, where) for key in ("input_length", "output_length"))
    return Request(*lengths)


def _tokens(value: object, name: str, where: str) -> int:
    # bool is a kind of int in Python, yet true is no number of tokens.
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        raise _not_tokens(value, name, where)
    return value


def _not_tokens(value: object, name: str, where: str) -> DocumentError:
    return DocumentError(
        f"{name} {_shown(value)} is not a number of tokens",
        where=where,
        hint=f"expected a whole number from 1 to {MAX_SIZE}",
    )


def _shown(value: object) -> str:
    """Return a value as messages show it: scalars in short, and nested ones by their kind."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return f"{value!r:.60}"
