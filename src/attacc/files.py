"""Files that people give and receive. They are read within bounds, and written as a whole.

`read_data` reads every file that somebody else wrote. It reads regular files and pipes, unpacks
gzip, and stops at a size limit. It refuses folders, devices and sockets by name, because some of
them never end. `text_of` decodes the bytes of a file; `json_of` and `rows_of` parse its text.

`write_whole` writes every file that attacc writes. A reader of such a file finds the old content or
the new content, and never a part of either.
"""

from __future__ import annotations

import csv
import difflib
import errno
import gzip
import json
import os
import re
import secrets
import select
import stat
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attacc.errors import DocumentError, InputError, nearest_hint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

GZIP_MAGIC: Final = b"\x1f\x8b"
MAX_DOCUMENT_BYTES: Final = 16 * 2**20
"""Most bytes of a document that people write in JSON: published lists of layers take 3 MiB."""
MAX_TOML_BYTES: Final = 2**20
"""Most bytes of a document that people write in TOML, whose parser is slow."""
MAX_LIST_BYTES: Final = 64 * 2**20
"""Most bytes of a plain list, such as a list of lengths."""
MAX_DATA_BYTES: Final = 4 * 2**30
"""Most bytes of a trace, a log or a table, after it is unpacked."""
PIPE_PATIENCE_S: Final = 5.0
"""Seconds within which somebody has to open a pipe to write."""
LISTED_FILES: Final = 20
"""Most files of a folder that a hint lists for a name that does not exist."""
_PIECE_BYTES: Final = 2**20

_MAGIC: Final = (
    (b"PK\x03\x04", "a zip archive", "unpack it, and name the file inside"),
    (b"PK\x05\x06", "an empty zip archive", None),
    (b"GGUF", "a GGUF file of weights", "name the model's config.json"),
    (b"PAR1", "a Parquet file", None),
    (b"ARROW1", "an Arrow file", None),
    (b"\x28\xb5\x2f\xfd", "a file compressed with zstd", "unpack it with zstd -d"),
    (b"\xfd7zXZ\x00", "a file compressed with xz", "unpack it with xz -d"),
    (b"BZh", "a file compressed with bzip2", "unpack it with bzip2 -d"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and name the file inside"),
    (b"%PDF", "a PDF file", None),
    (b"\x89PNG", "a picture", None),
    (b"\x7fELF", "a program", None),
    (b"SQLite format 3\x00", "an SQLite database", None),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
)
"""First bytes of a file -> the kind of file, and the way out."""
_UTF8_MARK: Final = b"\xef\xbb\xbf"


def read_data(
    path: Path,
    *,
    limit: int = MAX_DATA_BYTES,
    suffixes: Iterable[str] = (),
) -> bytes:
    """Return the bytes of a file.

    Args:
        path: a regular file, a link to one, or a pipe.
        limit: most bytes that are read, and most bytes that a gzip file may unpack to.
        suffixes: suffixes of the files that a hint proposes where this one is absent; without any,
            all files are proposed.

    Raises:
        DocumentError: the file is absent, unreadable, no regular file and no pipe, larger than
            the limit, or a damaged gzip file.
    """
    where = str(path)
    try:
        data = _read_bounded(path, limit)
    except FileNotFoundError:
        raise no_such_file(path, suffixes) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(f"cannot be read: {reason}", where=where) from None
    if data.startswith(GZIP_MAGIC):
        return _unpacked(data, limit, where)
    return data


def no_such_file(path: Path, suffixes: Iterable[str] = ()) -> DocumentError:
    """Return the error for a file that does not exist; its hint proposes similar names.

    Args:
        path: the file.
        suffixes: suffixes of the files of its folder that are possible; if these are few, all of
            them are listed. Without suffixes all files are possible, and only similar names are
            listed.
    """
    wanted = tuple(suffixes)
    try:
        names = [p.name for p in path.parent.iterdir() if not wanted or p.suffix in wanted]
    except (OSError, ValueError):
        names = []
    if wanted and len(names) <= LISTED_FILES:
        hint = nearest_hint(path.name, names)
    else:
        near = difflib.get_close_matches(path.name, names, n=2)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else None
    return DocumentError("no such file", where=str(path), hint=hint)


def check_source(path: Path) -> None:
    """Refuse a file that does not exist, and propose similar names.

    Raises:
        DocumentError: there is no such file.
    """
    try:
        found = path.exists()
    except OSError:  # a name too long, or a folder that may not be read: reading will raise it
        return
    if not found:
        raise no_such_file(path)


def check_target(path: Path, where: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output file that cannot be written, before anything is computed.

    Args:
        path: the file.
        where: the option or argument that named it.
        inputs: files that are read, and must not be overwritten.

    Raises:
        InputError: the file is a folder, its folder does not exist, or it is one of the inputs,
            possibly under another name.
    """
    try:
        # A link is followed: the file that it names is written, and need not exist yet.
        target = path.resolve()
        folder = target.parent if path.is_symlink() else path.parent
        is_folder, has_folder = target.is_dir(), folder.is_dir()
        is_read = any(_is_same_file(target, file) for file in inputs)
    except (OSError, RuntimeError) as error:  # a name too long, a folder not to be looked into
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be written: {reason}", where=f"{where} {path}") from None
    if is_folder:
        raise InputError("is a folder", where=f"{where} {path}", hint="name a file in it")
    if not has_folder:
        raise InputError(
            f"there is no folder {folder}", where=f"{where} {path}", hint="create it first"
        )
    if is_read:
        raise InputError("is also read", where=f"{where} {path}", hint="name another file")


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)  # by hard links too
    except FileNotFoundError:
        return one == other.resolve()


def _read_bounded(path: Path, limit: int) -> bytes:
    # Opening a pipe normally waits for its writer. Here it does not, so that its kind is checked.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        os.close(descriptor)
        raise DocumentError(f"is {_kind_of(mode)}, not a file", where=str(path))
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, no path
        pieces = [_first_of_pipe(descriptor, path)] if stat.S_ISFIFO(mode) else []
        left = limit + 1 - sum(map(len, pieces))
        while piece := file.read(min(_PIECE_BYTES, left)):
            pieces.append(piece)
            left -= len(piece)
            if not left:
                raise _too_large(limit, "holds", str(path))
        return b"".join(pieces)


def _first_of_pipe(descriptor: int, path: Path) -> bytes:
    """Wait until a pipe has a writer, and make later reads wait for its data.

    Returns:
        The bytes that were read to detect the writer: one byte, or none.
    """
    patience = time.monotonic() + PIPE_PATIENCE_S
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    first = b""
    while not poll.poll(50):
        try:
            # A pipe without a writer reads as ended; a pipe with a silent writer does not.
            first = os.read(descriptor, 1)
        except BlockingIOError:
            break
        if first:
            break
        if time.monotonic() > patience:
            raise DocumentError(
                "is a pipe that nobody writes to",
                where=str(path),
                hint="start its writer first, or name a file",
            )
    os.set_blocking(descriptor, True)
    return first


def _kind_of(mode: int) -> str:
    """Return the kind of a file that is no regular file."""
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISFIFO, "a pipe"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")


def _unpacked(data: bytes, limit: int, where: str) -> bytes:
    """Return the content of a gzip file of one or more members."""
    pieces: list[bytes] = []
    left = limit + 1
    try:
        while data:
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            while not member.eof:
                piece = member.decompress(data, min(_PIECE_BYTES, left))
                data = member.unconsumed_tail
                if not piece and not data and not member.eof:
                    raise DocumentError("is a gzip file that was cut off", where=where)
                pieces.append(piece)
                left -= len(piece)
                if not left:
                    raise _too_large(limit, "unpacks to", where)
            # Zeros may fill a file up behind its last member.
            data = member.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise DocumentError(f"is a damaged gzip file: {error}", where=where) from None
    return b"".join(pieces)


def _too_large(limit: int, verb: str, where: str) -> DocumentError:
    return DocumentError(
        f"{verb} more than {limit / 2**20:,.0f} MiB, the most that is read",
        where=where,
        hint="split it, or name another file",
    )


def text_of(data: bytes, *, where: str) -> str:
    """Return the text of a file that was read.

    The text has no byte-order mark, and its lines end with a line feed only.

    Args:
        data: UTF-8, with any ends of lines.
        where: the file's name, for messages.

    Raises:
        DocumentError: it is no text: an archive, weights, another encoding; says what it is.
    """
    refuse_known(data, where=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"is not UTF-8 text: {error.reason} at byte {error.start + 1}",
            where=f"{where}:{line}",
            hint="save it as UTF-8",
        ) from None
    if "\0" in text:
        raise DocumentError("is no text: it holds null bytes", where=where)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoded_text_of(data: bytes, *, where: str) -> bytes:
    """Return the text of `text_of` as bytes, for readers of bytes, which refuse other than ASCII.

    Args:
        data: ASCII, with any ends of lines.
        where: the file's name, for messages.

    Raises:
        DocumentError: it is no text: an archive, weights, another encoding; says what it is.
    """
    refuse_known(data, where=where)
    if b"\0" in data:
        raise DocumentError("is no text: it holds null bytes", where=where)
    return data.removeprefix(_UTF8_MARK).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def refuse_known(data: bytes, *, where: str) -> None:
    """Refuse a file whose first bytes belong to a kind of file without text.

    Raises:
        DocumentError: it is an archive, weights, a picture, or text in another encoding.
    """
    for magic, kind, hint in _MAGIC:
        if data.startswith(magic):
            raise DocumentError(f"is {kind}", where=where, hint=hint)


class _RepeatedKeyError(ValueError):
    """A key that occurs twice in one object of a JSON text."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise _RepeatedKeyError(next(key for key in times if times[key] > 1))
    return found


def _constant(constant: str) -> float:
    # Published configurations have infinite limits in unused keys; used fields refuse infinity.
    if constant == "NaN":
        raise ValueError(f"{constant} is no number of JSON")
    return float(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits:.40} is too large a number")
    return number


# The decoder is made once, because traces have a JSON text in each of a million lines.
_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite
)


def json_of(text: str, *, where: str) -> object:
    """Return the value of a JSON text.

    Args:
        text: one value.
        where: the file's name, for messages.

    Raises:
        DocumentError: it is no JSON, a key occurs twice in one object, or a number is NaN
            or too large.
    """
    try:
        return _JSON.decode(text)
    except _RepeatedKeyError as error:
        raise DocumentError(
            f"the key {str(error)!r:.60} occurs twice in one object",
            where=where,
            hint="remove one of the two",
        ) from None
    except (ValueError, RecursionError) as error:  # malformed, too deep, or too many digits
        raise DocumentError(f"is not valid JSON: {error}", where=where) from None


def name_as_text(name: str) -> str:
    """Return the name of a file as text; bytes of the name that are not UTF-8 become escapes.

    The name of a file may be any bytes, but messages, and objects named after a file, need text.
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def header_of(text: str, *, where: str) -> tuple[list[str], int]:
    """Return the names of the columns of a comma-separated table, and the number of their line.

    The header is the first line that holds more than commas and spaces.

    Args:
        text: the table, as `text_of` returns it.
        where: the file's name, for messages.

    Raises:
        DocumentError: the line is not valid CSV.
    """
    blank = re.match(r"(?:[ \t,]*\n)*", text)
    start = blank.end() if blank else 0
    number = text.count("\n", 0, start) + 1
    line = text[start:].partition("\n")[0]
    try:
        rows = csv.reader([line], strict=True, skipinitialspace=True)
        return [name.strip() for row in rows for name in row], number
    except csv.Error as error:
        raise DocumentError(f"is not valid CSV: {error}", where=f"{where}:{number}") from None


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a comma-separated table that are not empty.

    Attributes:
        cells: a column of strings for each name, without surrounding spaces.
        lines: (rows,) number of each row's line in the file, counted from 1.
    """

    cells: pl.DataFrame
    lines: npt.NDArray[np.int64]


def rows_of(text: str, columns: Sequence[str], *, where: str, after: int = 0) -> Rows:
    """Return the rows of a comma-separated table.

    Cells may be quoted; a row is one line. Rows of empty cells only, as spreadsheets append
    them, and blank lines are left out.

    Args:
        text: the table, as `text_of` returns it.
        columns: names of the columns, at least two, all different.
        where: the file's name, for messages.
        after: number of lines at the start that are not rows.

    Raises:
        DocumentError: a row has another number of cells, or is not valid CSV.
    """
    import numpy as np
    import polars as pl

    start = 0
    for _ in range(after):
        start = text.find("\n", start) + 1 or len(text)
    # A header tells the parser the number of columns; otherwise the first row would.
    names = ",".join(map(str, range(len(columns)))) + "\n"
    data = (names + text[start:]).encode()
    if b' "' in data:  # a quoted cell may have spaces in front
        data = re.sub(rb'(^|,) +"', rb'\1"', data, flags=re.MULTILINE)
    if not data.endswith(b"\n"):
        data += b"\n"
    try:
        cells = pl.read_csv(data, infer_schema=False, truncate_ragged_lines=True)
    except pl.exceptions.PolarsError as error:
        raise _invalid_row(text, after, str(error), where) from None
    bytes_ = np.frombuffer(data, dtype=np.uint8)[len(names) :]
    ends = np.flatnonzero(bytes_ == ord("\n"))
    if len(cells) != len(ends):
        raise _invalid_row(text, after, "a cell goes over several lines", where)
    commas = np.diff(np.searchsorted(np.flatnonzero(bytes_ == ord(",")), ends), prepend=0)
    has_quotes = b'"' in data
    del data, bytes_, ends  # of a large table, before it is copied
    cells = cells.rename(lambda name: columns[int(name)])
    for name in columns:  # one by one, which takes less memory
        cells = cells.with_columns(pl.col(name).str.strip_chars().fill_null(""))
    if has_quotes:
        quoted = pl.sum_horizontal(pl.all().str.count_matches(",", literal=True))
        commas -= cells.select(quoted).to_series().to_numpy()
    is_empty = cells.select(pl.all_horizontal(pl.all() == "")).to_series().to_numpy()
    # The parser has added empty cells to rows that are too short, and cut rows that are too long.
    expected = len(columns) - 1
    wrong = np.where(is_empty, commas > expected, commas != expected)
    if wrong.any():
        row = int(np.argmax(wrong))
        found, line = int(commas[row]) + 1, text.split("\n")[after + row]
        raise DocumentError(
            f"{found} field{'s' if found > 1 else ''} in {line!r:.60}",
            where=f"{where}:{after + row + 1}",
            hint=f"expected {len(columns)}: {','.join(columns):.400}",
        )
    lines = np.arange(after + 1, after + 1 + len(cells))
    if is_empty.any():
        return Rows(cells.filter(pl.Series(~is_empty)), lines[~is_empty])
    return Rows(cells, lines)


def _invalid_row(text: str, after: int, reason: str, where: str) -> DocumentError:
    """Return the error of the first line that is not a row of valid CSV by itself."""
    for number, line in enumerate(text.split("\n")[after:], after + 1):
        try:
            next(csv.reader([line], strict=True), None)
        except csv.Error as error:
            return DocumentError(f"is not valid CSV: {error}", where=f"{where}:{number}")
    return DocumentError(f"is not valid CSV: {reason.partition(chr(10))[0]:.80}", where=where)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears complete or not at all.

    The data is compressed if the file's name ends in ``.gz``; the same data gives the same bytes
    at any time. A regular file is replaced at once and keeps its permissions; a new file gets those
    of the process's umask. A link is followed. A device, or a pipe that somebody reads, receives
    the data directly.

    Raises:
        DocumentError: the path is a folder, a socket or a pipe without a reader, or it cannot be
            written. The old file is not changed then.
    """
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    try:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is None or (stat.S_ISREG(mode) and not _is_open_file(path)):
            # The file that a link names need not exist yet.
            _replace(Path(os.path.realpath(path)), data, mode)
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISREG(mode):
            _write_through(path, data)
        else:
            raise DocumentError(
                f"is {_kind_of(mode)}, not a file", where=str(path), hint="name a file"
            )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(f"cannot be written: {reason}", where=str(path)) from None


def _is_open_file(path: Path) -> bool:
    """Return whether a name such as /dev/stdout stands for a file that a process has open."""
    return os.path.realpath(path.parent).startswith(("/dev", "/proc"))


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # The name is chosen first, so that the file can be removed whenever an interrupt comes.
    temporary = target.parent / f".attacc-{secrets.token_hex(8)}.tmp"
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
        )
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, no path
            file.write(data)
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)  # at once, on every platform
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_through(target: Path, data: bytes) -> None:
    # Opening a pipe that nobody reads fails at once, instead of waiting.
    try:
        descriptor = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise DocumentError(
                "is a pipe that nobody reads",
                where=str(target),
                hint="start its reader first, or name a file",
            ) from None
        raise
    os.set_blocking(descriptor, True)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, no path
        file.write(data)
