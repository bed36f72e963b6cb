"""Numba, and the machine code that it keeps on disk."""

from __future__ import annotations

import functools
import hashlib
import pickle
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import llvmlite  # pyright: ignore[reportMissingTypeStubs]
import numba  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numba.core import event  # pyright: ignore[reportMissingTypeStubs]
from numba.core.caching import (  # pyright: ignore[reportMissingTypeStubs]
    FunctionCache,
    IndexDataCacheFile,
    NullCache,
)
from numba.core.serialize import (  # pyright: ignore[reportMissingTypeStubs]
    dumps,  # pyright: ignore[reportUnknownVariableType]
)

_njit: Any = numba.njit

A = ParamSpec("A")
R = TypeVar("R")

_CHECK_BYTES: Final = hashlib.sha256().digest_size
"""Of the checksum with which every file of machine code begins."""


class Entries(IndexDataCacheFile):
    """Files with the machine code of one function, one file for each signature.

    Numba names its files by number, in an index, and writes the index first. A process that is
    killed in between, or a disk that is full, then leaves an index that leads every later process
    to a file that is absent, half written, or of an older source. Here a file's name tells its
    source and its signature, and the file appears complete. A checksum tells what became broken
    later: that counts as absent, and the next compilation takes its place. So processes need
    neither an index nor locks.
    """

    _cache_path: str

    def __init__(self, folder: str, function: str, stamp: str) -> None:
        super().__init__(cache_path=folder, filename_base=function, source_stamp=stamp)
        self._function = function
        self._stamp = stamp

    def load(self, key: object) -> Any:
        """Return what was saved under a key; None if there is nothing, or nothing whole."""
        try:
            whole = self._file(key).read_bytes()
        except OSError:  # absent, or another user's who shows it to nobody
            return None
        check, data = whole[:_CHECK_BYTES], whole[_CHECK_BYTES:]
        if hashlib.sha256(data).digest() != check:
            return None
        stamp, kept_key, code = pickle.loads(data)  # noqa: S301 - as Numba does with its own files
        return code if (stamp, kept_key) == (self._stamp, key) else None

    def save(self, key: object, data: object) -> None:
        """Keep something under a key, and remove what is of other sources.

        Raises:
            OSError: it cannot be written; what was written of it is removed.
        """
        whole = dumps((self._stamp, key, data))
        with self._open_for_write(str(self._file(key))) as file:  # pyright: ignore[reportUnknownMemberType]
            file.write(hashlib.sha256(whole).digest())
            file.write(whole)
        ours = f"{self._function}.{self._stamp[:16]}."
        for file in Path(self._cache_path).iterdir():
            if file.name.startswith(f"{self._function}.") and not file.name.startswith(ours):
                with suppress(OSError):  # another process was faster, or another user owns it
                    file.unlink()

    def _file(self, key: object) -> Path:
        signature = hashlib.sha256(repr(key).encode()).hexdigest()
        name = f"{self._function}.{self._stamp[:16]}.{signature[:16]}.nbc"
        return Path(self._cache_path) / name


class KeptOnDisk(FunctionCache):
    """Machine code of one function, in the folder that Numba finds for it.

    Numba knows a source by its own file only, not by those whose functions and constants become
    part of it.

    Args:
        function: what is compiled.
        not_kept: told why, where machine code could not be written.

    Raises:
        RuntimeError: Numba finds no folder that can be written.
    """

    _impl: Any
    _cache_path: str

    def __init__(self, function: Callable[..., object], not_kept: Callable[[str], None]) -> None:
        super().__init__(function)
        self._not_kept = not_kept
        self._cache_file = Entries(
            self._cache_path,
            self._impl.filename_base,
            _stamp(Path(function.__code__.co_filename)),
        )

    def save_overload(self, sig: object, data: object) -> None:
        """Keep the machine code of a signature, where that is possible."""
        try:
            cast("Any", super()).save_overload(sig, data)
        except OSError as error:
            self._not_kept(f"{self._cache_path}: {error.strerror or error}")


class NotKept(NullCache):
    """In place of a cache where there is no folder for one.

    Args:
        reason: why.
        not_kept: told the reason before anything is compiled.
    """

    def __init__(self, reason: str, not_kept: Callable[[str], None]) -> None:
        self._reason = reason
        self._not_kept = not_kept

    def load_overload(self, sig: object, target_context: object) -> None:  # noqa: ARG002
        """Tell that a signature has to be compiled, and will be again."""
        self._not_kept(self._reason)


def kept(function: Callable[A, R], not_kept: Callable[[str], None]) -> Callable[A, R]:
    """Return a function that is compiled on its first call, and kept on disk if that is possible.

    Args:
        function: what is compiled.
        not_kept: told why, when something is compiled and cannot be kept.
    """
    compiled: Any = _njit(_nrt=False)(function)
    if compiled is not function:  # as it is without compilation
        # What ``cache=True`` does, with our own class.
        compiled._cache = _cache(function, not_kept)  # noqa: SLF001
    return compiled


def _cache(
    function: Callable[..., object], not_kept: Callable[[str], None]
) -> KeptOnDisk | NotKept:
    try:
        return KeptOnDisk(function, not_kept)
    except (RuntimeError, OSError) as error:
        # Numba's message is of a function and its file, unless somebody chose where it looks.
        chosen = cast("Any", numba).config.CACHE_LOCATOR_CLASSES
        reason = str(error) if chosen else "there is no folder for it that can be written"
        return NotKept(reason, not_kept)


def inlined(function: Callable[A, R]) -> Callable[A, R]:
    """Return a function that becomes part of those that call it."""
    return _njit(inline="always", _nrt=False)(function)


@functools.cache
def watch(compiling: Callable[[], None]) -> None:
    """Have something called, from now on, before any function is compiled."""
    event.register("numba:compile", _Watcher(compiling))  # pyright: ignore[reportUnknownMemberType]


class _Watcher(event.Listener):
    def __init__(self, compiling: Callable[[], None]) -> None:
        self._compiling = compiling

    def on_start(self, event: object) -> None:  # noqa: ARG002 - the base class's signature
        self._compiling()

    def on_end(self, event: object) -> None:
        """Nobody waits for that."""


@functools.cache
def _stamp(source: Path) -> str:
    """Return what changes with all that decides what a kernel of a file is compiled to.

    That is any file whose functions it may contain, and whatever compiles and runs it; the
    processor and the types of the arguments are part of the key.
    """
    digest = hashlib.sha256()
    for version in (
        platform.python_version(),
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
    ):
        digest.update(f"{version}\0".encode())
    files = {source, *source.parent.glob("*kernel.py")}
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
