"""Compilation with Numba, and machine code that is kept on disk."""

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
"""Size of the checksum at the begin of every file of machine code."""


class Entries(IndexDataCacheFile):
    """Files with the machine code of one function, one file for each signature.

    Numba's own cache numbers its files in an index, and writes the index first. If a process is
    killed in between, or the disk is full, the index leads every later process to a file that is
    absent, half written, or of an older source. Here the name of a file tells its source and its
    signature, and the file appears only when it is complete. A checksum detects a file that was
    damaged later. Such a file counts as absent, and the next compilation replaces it. So processes
    need neither an index nor locks.
    """

    _cache_path: str

    def __init__(self, folder: str, function: str, stamp: str) -> None:
        super().__init__(cache_path=folder, filename_base=function, source_stamp=stamp)
        self._function = function
        self._stamp = stamp

    def load(self, key: object) -> Any:
        """Return the machine code saved under a key; None if there is none, or a damaged file."""
        try:
            whole = self._file(key).read_bytes()
        except OSError:  # absent, or another user's file that nobody else may read
            return None
        check, data = whole[:_CHECK_BYTES], whole[_CHECK_BYTES:]
        if hashlib.sha256(data).digest() != check:
            return None
        stamp, kept_key, code = pickle.loads(data)  # noqa: S301 - as Numba does with its own files
        return code if (stamp, kept_key) == (self._stamp, key) else None

    def save(self, key: object, data: object) -> None:
        """Keep machine code under a key, and remove files of older sources.

        Raises:
            OSError: the file cannot be written; a partly written file is removed.
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

    Numba's own cache watches only the file of a function, not the files whose functions and
    constants become part of its machine code. This class watches all of them.

    Args:
        function: the function to compile.
        not_kept: called with the reason, where machine code could not be written.

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
        """Keep the machine code of a signature, if it can be written."""
        try:
            cast("Any", super()).save_overload(sig, data)
        except OSError as error:
            self._not_kept(f"{self._cache_path}: {error.strerror or error}")


class NotKept(NullCache):
    """Stands for a cache where there is no folder for one.

    Args:
        reason: why there is no folder.
        not_kept: called with the reason before a function is compiled.
    """

    def __init__(self, reason: str, not_kept: Callable[[str], None]) -> None:
        self._reason = reason
        self._not_kept = not_kept

    def load_overload(self, sig: object, target_context: object) -> None:  # noqa: ARG002
        """Report that a signature is compiled, and will be compiled again in other processes."""
        self._not_kept(self._reason)


def kept(function: Callable[A, R], not_kept: Callable[[str], None]) -> Callable[A, R]:
    """Return a function that is compiled on its first call, and kept on disk if that is possible.

    Args:
        function: the function to compile.
        not_kept: called with the reason, when machine code cannot be kept.
    """
    compiled: Any = _njit(_nrt=False)(function)
    if compiled is not function:  # they are the same where compilation is disabled
        # This is what ``cache=True`` does, with our own class.
        compiled._cache = _cache(function, not_kept)  # noqa: SLF001
    return compiled


def _cache(
    function: Callable[..., object], not_kept: Callable[[str], None]
) -> KeptOnDisk | NotKept:
    try:
        return KeptOnDisk(function, not_kept)
    except (RuntimeError, OSError) as error:
        # Numba's message names a function and its file, unless the user chose the folders.
        chosen = cast("Any", numba).config.CACHE_LOCATOR_CLASSES
        reason = str(error) if chosen else "there is no folder for it that can be written"
        return NotKept(reason, not_kept)


def inlined(function: Callable[A, R]) -> Callable[A, R]:
    """Return a function that is inlined into the kernels that call it."""
    return _njit(inline="always", _nrt=False)(function)


@functools.cache
def watch(compiling: Callable[[], None]) -> None:
    """Have a function called, from now on, before any kernel is compiled."""
    event.register("numba:compile", _Watcher(compiling))  # pyright: ignore[reportUnknownMemberType]


class _Watcher(event.Listener):
    def __init__(self, compiling: Callable[[], None]) -> None:
        self._compiling = compiling

    def on_start(self, event: object) -> None:  # noqa: ARG002 - the base class's signature
        self._compiling()

    def on_end(self, event: object) -> None:
        """Do nothing; nobody needs the end of a compilation."""


@functools.cache
def _stamp(source: Path) -> str:
    """Return a digest of everything that decides the machine code of a file's kernels.

    These are all files whose functions a kernel may contain, and the versions of Python, Numba and
    NumPy. The processor and the types of the arguments are part of the key instead.
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
