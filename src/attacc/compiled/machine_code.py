"""Numba, and the machine code that it keeps on disk."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba  # pyright: ignore[reportMissingTypeStubs]
from numba.core import event  # pyright: ignore[reportMissingTypeStubs]
from numba.core.caching import (  # pyright: ignore[reportMissingTypeStubs]
    FunctionCache,
    IndexDataCacheFile,
)

_njit: Any = numba.njit

A = ParamSpec("A")
R = TypeVar("R")


class SharedCache(FunctionCache):
    """Machine code of one function, in files that processes read and write by turns.

    Numba names a file in its index before it writes it, and numbers the files of a function by
    the signatures in the index. A process that looks at it in between would run the code of an
    older source, or of another signature. It also knows a source by its own file only, not by
    those whose functions and constants become part of it.

    Where the file system has no locks nothing is kept. On Windows there are no turns.
    """

    _impl: Any
    _cache_path: str

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=_digest(Path(function.__code__.co_filename)),
        )

    def load_overload(self, sig: object, target_context: object) -> Any:
        """Return the machine code of a signature; None if there is none."""
        if not Path(self._cache_path).exists():
            return None
        with self._turn() as allowed:
            return cast("Any", super()).load_overload(sig, target_context) if allowed else None

    def save_overload(self, sig: object, data: object) -> None:
        """Keep the machine code of a signature."""
        self._impl.locator.ensure_cache_path()
        with self._turn() as allowed:
            if allowed:
                cast("Any", super()).save_overload(sig, data)

    @contextmanager
    def _turn(self) -> Generator[bool]:
        if sys.platform == "win32":
            yield True
            return
        import fcntl

        with (Path(self._cache_path) / "attacc.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                yield False
            else:
                yield True


def kept(function: Callable[A, R]) -> Callable[A, R]:
    """Return a function that is compiled on its first call, and kept on disk."""
    compiled: Any = _njit(_nrt=False)(function)
    if compiled is not function:  # as it is without compilation
        # What ``cache=True`` does, with Numba's own class.
        compiled._cache = SharedCache(function)  # noqa: SLF001
    return compiled


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
def _digest(source: Path) -> str:
    """Return what changes with any file whose functions a kernel of this one may contain."""
    files = {source, *source.parent.glob("*kernel.py")}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
