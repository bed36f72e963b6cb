"""Recorded traces of requests.

Two formats are read, plain or compressed with gzip. The content of a file tells its format:

- Azure LLM inference traces (Azure/AzurePublicDataset, 2023 and 2024): CSV with the columns
  TIMESTAMP (a date and time), ContextTokens, GeneratedTokens.
- Mooncake traces (kvcache-ai/Mooncake, FAST'25): one JSON object per line with timestamp (ms),
  input_length, output_length and, where given, hash_ids (blocks of shared prefixes).

Lengths, arrival times and shared prefixes are kept, in the order of the file. For known formats
that are not read, the error names the format and how to convert it.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from attacc.errors import DocumentError
from attacc.files import MAX_DOCUMENT_BYTES, Rows, header_of, json_of, read_data, rows_of, text_of
from attacc.units import MAX_SIZE, MS_PER_S
from attacc.workload.requests import I64, Requests, Workload, WorkloadKind

if TYPE_CHECKING:
    import polars as pl

F64 = NDArray[np.float64]

AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_KEYS: Final = ("timestamp", "input_length", "output_length", "hash_ids")
_BURSTGPT_COLUMNS: Final = {"Request tokens", "Response tokens"}
_DIGITS: Final = re.compile(rf"[0-9]{{1,{len(str(MAX_SIZE))}}}", re.ASCII)
_FORMATS: Final = (
    f"expected the Azure CSV (first line {','.join(AZURE_COLUMNS)}) or the Mooncake JSONL "
    '(lines such as {"timestamp": 0, "input_length": 6758, "output_length": 500})'
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SLICE: Final = 2**16
"""Number of rows that exist as Python objects at a time."""

_OTHER_JSON: Final = {
    "conversations": (
        "ShareGPT conversations, which hold text and no numbers of tokens",
        "count the tokens of prompts and answers with the model's tokenizer",
    ),
    "input_lens": (
        "a result of vLLM's benchmark, one object for all requests",
        "write a line for each request, with its entries of input_lens and output_lens",
    ),
}
"""A key of a JSON object -> the kind of file that has it, and the way out."""
_HEAD: Final = 2**16
"""First characters of a file in which such a key is searched."""


def load_workload(path: Path) -> Workload:
    """Read the lengths of a trace's requests, and how often each occurs.

    Args:
        path: the trace, plain or compressed with gzip.

    Raises:
        DocumentError: as in `read_requests`.
    """
    return read_requests(path).workload()


def read_requests(path: Path) -> Requests:
    """Read the requests of a trace.

    Args:
        path: the trace, plain or compressed with gzip.

    Raises:
        DocumentError: the file is absent, unreadable, empty, of no known format, or has a
            malformed line; names the file, the line, the value and what is expected.
    """
    where = str(path)
    text = text_of(read_data(path), where=where)
    start = re.search(r"\S", text)
    if start and start.group() in "{[":
        read, told = _mooncake, "trace in the Mooncake format"
    else:
        read, told = _azure, "trace in the Azure format"
    columns = read(text, where)
    if not len(columns.prompts):
        raise DocumentError("holds no requests", where=where, hint=_FORMATS)
    return Requests(
        name=path.name,
        kind=WorkloadKind.TRACE,
        source=f"{told}, {path.name}",
        prompt_tokens=columns.prompts,
        output_tokens=columns.outputs,
        arrival_s=columns.times_s - columns.times_s.min(),
        prefix_hashes=columns.hashes,
    )


class _Columns(NamedTuple):
    """The columns of a trace, one element per line."""

    prompts: I64
    outputs: I64
    times_s: F64
    hashes: tuple[tuple[int, ...], ...] | None


def _azure(text: str, where: str) -> _Columns:
    """Return every row of an Azure trace."""
    header, line = header_of(text, where=where)
    at = f"{where}:{line}"
    if set(header) <= {""}:
        raise DocumentError("holds no requests", where=where, hint=_FORMATS)
    if set(header) >= _BURSTGPT_COLUMNS:
        raise DocumentError(
            "is a BurstGPT trace, which is not read as it is",
            where=at,
            hint="keep Request tokens as ContextTokens and Response tokens as GeneratedTokens, "
            "without the rows that have 0 of them, and give TIMESTAMP as a date and time",
        )
    if not {name.lower() for name in header} & {name.lower() for name in AZURE_COLUMNS}:
        raise DocumentError(
            f"unknown format: {text.split(chr(10), line)[line - 1]!r:.60}", where=at, hint=_FORMATS
        )
    for column in AZURE_COLUMNS:
        if header.count(column) != 1:
            fault = f"column {column!r} is there twice" if column in header else None
            raise DocumentError(
                fault or f"missing column {column!r}",
                where=at,
                hint=f"the first line must be {','.join(AZURE_COLUMNS)}",
            )
    # Other columns may have any name, or none.
    columns = [name if name in AZURE_COLUMNS else f"{n}:{name}" for n, name in enumerate(header)]
    rows = rows_of(text, columns, where=where, after=line)
    time, prompt, output = (rows.cells[column] for column in AZURE_COLUMNS)
    prompts, outputs = _tokens_of_text(prompt), _tokens_of_text(output)
    wrong = np.flatnonzero((prompts < 1) | (outputs < 1))
    times_s = _dates(time, rows, int(wrong[0]) if len(wrong) else len(time) - 1, where)
    if len(wrong):
        row = int(wrong[0])
        name, values = (
            (AZURE_COLUMNS[1], prompt) if prompts[row] < 1 else (AZURE_COLUMNS[2], output)
        )
        value: str = values[row]
        number = int(value) if _DIGITS.fullmatch(value) else value
        raise _not_tokens(number, name, f"{where}:{rows.lines[row]}")
    return _Columns(prompts, outputs, times_s, None)


def _dates(column: pl.Series, rows: Rows, last: int, where: str) -> F64:
    """Return dates and times in seconds since 1970, up to a last row.

    Raises:
        DocumentError: a row has no date and time.
    """
    seconds = array("d")
    for start in range(0, last + 1, _SLICE):
        texts: list[str] = column[start : min(start + _SLICE, last + 1)].to_list()
        for row, text in enumerate(texts, start):
            try:
                time = datetime.fromisoformat(text)
            except ValueError:
                raise DocumentError(
                    f"{column.name} {text!r:.60} is not a date and time",
                    where=f"{where}:{rows.lines[row]}",
                    hint="expected one such as 2023-11-16 18:15:46.6805900",
                ) from None
            # A time without a zone is taken as UTC, so that no clock is ever set back.
            at = time if time.tzinfo else time.replace(tzinfo=UTC)
            seconds.append((at - _EPOCH).total_seconds())
    return np.frombuffer(seconds, dtype=np.float64)


def _tokens_of_text(column: pl.Series) -> I64:
    """Return the numbers of tokens in a column; 0 for a cell without a valid number."""
    import polars as pl

    cell = pl.col(column.name)
    # The cast alone would take signs too.
    number = pl.when(cell.str.contains(rf"^{_DIGITS.pattern}$")).then(cell).cast(pl.Int64)
    tokens = column.to_frame().select(number).to_series().fill_null(0)
    return tokens.set(tokens > MAX_SIZE, 0).to_numpy()


def _lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank with their numbers, counted from 1."""
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end].strip()
        if line:
            yield number, line
        start, number = end + 1, number + 1


def _mooncake(text: str, where: str) -> _Columns:
    """Return every line of a Mooncake trace."""
    if text.lstrip().startswith("["):
        _refuse_other_json(text, where)
    prompts, outputs, times_s = array("q"), array("q"), array("d")
    hashes: list[tuple[int, ...]] = []
    for number, line in _lines_of(text):
        at = f"{where}:{number}"
        try:
            request = _mooncake_request(json_of(line, where=at), at)
        except DocumentError as error:
            if not prompts:
                _refuse_other_json(text, where)
            raise error from None
        prompts.append(request.prompt)
        outputs.append(request.output)
        times_s.append(request.time_ms / MS_PER_S)
        hashes.append(request.hashes)
    return _Columns(
        np.frombuffer(prompts, dtype=np.int64),
        np.frombuffer(outputs, dtype=np.int64),
        np.frombuffer(times_s, dtype=np.float64),
        tuple(hashes) if any(hashes) else None,
    )


def _refuse_other_json(text: str, where: str) -> None:
    """Refuse a JSON file of a known other kind, which has no request in its first line.

    Raises:
        DocumentError: the file is a known format, a list, or one value over several lines.
    """
    for key in cast(list[str], re.findall(r'"(\w+)"\s*:', text[:_HEAD])):
        if key in _OTHER_JSON:
            what, way_out = _OTHER_JSON[key]
            raise DocumentError(f"is {what}", where=where, hint=f"{way_out}; {_FORMATS}")
    is_list = text.lstrip().startswith("[")
    if not is_list:
        if len(text) > MAX_DOCUMENT_BYTES or "\n" not in text.strip():
            return
        try:
            json_of(text, where=where)
        except DocumentError:  # not one value either
            return
    kind = "a JSON list" if is_list else "one JSON object over several lines"
    way_out = "jq -c '.[]'" if is_list else "jq -c ."
    raise DocumentError(
        f"is {kind}, not an object in each line",
        where=where,
        hint=f"write each request in a line, as {way_out} does; {_FORMATS}",
    )


class _MooncakeRequest(NamedTuple):
    """One line of a Mooncake trace."""

    prompt: int
    output: int
    time_ms: float
    hashes: tuple[int, ...]


def _mooncake_request(value: object, where: str) -> _MooncakeRequest:
    if not isinstance(value, dict):
        raise DocumentError(f"{_shown(value)} is not an object", where=where, hint=_FORMATS)
    record = cast(dict[str, object], value)
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
    hashes = record.get("hash_ids", [])
    if not isinstance(hashes, list):
        raise DocumentError(
            f"hash_ids {_shown(record['hash_ids'])} is not a list",
            where=where,
            hint="leave it out, or list the ids of the prompt's blocks",
        )
    for block in cast(list[object], hashes):
        if type(block) is not int or not -(2**63) <= block < 2**63:
            raise DocumentError(
                f"hash_ids has {_shown(block)}, which is no id of a block",
                where=where,
                hint="expected whole numbers of 64 bits",
            )
    return _MooncakeRequest(
        _tokens(record["input_length"], "input_length", where),
        _tokens(record["output_length"], "output_length", where),
        float(cast(float, time)),
        tuple(cast(list[int], hashes)),
    )


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
    """Return a value as messages show it: a short scalar, or the kind of a nested value."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return f"{value!r:.60}"
