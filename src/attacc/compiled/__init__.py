"""All use of Numba goes through this package.

A kernel takes plain arrays and integers and returns arrays and a status code; it does no input or
output and uses no Python objects. This module does not load Numba. Modules that define kernels do,
and they are imported where they are first needed, so that ``import attacc`` and the command line's
help stay fast. With ``NUMBA_DISABLE_JIT=1`` a kernel is the plain Python function it decorates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple, ParamSpec, TypeVar, cast

A = ParamSpec("A")
R = TypeVar("R")


NOT_KEPT: Final = (
    "machine code cannot be kept, so every process compiles anew: {reason}; "
    "set NUMBA_CACHE_DIR to a folder that can be written"
)
"""The message for machine code that cannot be written to disk."""


class _Told(NamedTuple):
    """Functions that are called when something is compiled, or cannot be kept."""

    compiling: Callable[[], None]
    not_kept: Callable[[str], None]


def _nobody() -> None:
    """Ignore that something is compiled."""


@functools.cache
def _log(reason: str) -> None:
    import logging  # takes longer to load than all else here

    logging.getLogger(__name__).warning(NOT_KEPT.format(reason=reason))


_told: ContextVar[_Told] = ContextVar("told", default=_Told(_nobody, _log))  # noqa: B039


def kernel(function: Callable[A, R]) -> Callable[A, R]:
    """Compile a function on its first call, and keep the machine code on disk.

    A kernel allocates nothing, so that Numba need not count references to its arrays. Counting
    would make a kernel of small functions several times slower.

    The functions and constants that a kernel uses must be defined in its own file, or in a file of
    the same folder whose name ends in ``kernel.py``. Kept machine code is renewed only when one of
    these files changes.

    Where there is no folder that can be written, or the disk is full, the kernel is compiled in
    every process that needs it. A broken file is replaced.
    """
    from attacc.compiled import machine_code

    machine_code.watch(_compiling)
    return machine_code.kept(function, _not_kept)


def inlined(function: Callable[A, R]) -> Callable[A, R]:
    """Inline a function into the kernels that call it, so that no arrays are handed over."""
    from attacc.compiled import machine_code

    return machine_code.inlined(function)


T = TypeVar("T", bound=tuple[object, ...])


def plain(named: T) -> T:
    """Return a named tuple as a plain one, for a kernel that is called thousands of times.

    Numba finds the type of a plain tuple at once; the type of a named tuple takes ten microseconds.
    The kernel makes a named tuple again, which costs nothing: ``state = State(*state)``.
    """
    return cast("T", tuple(named))


@contextmanager
def told_of_compilation(
    compiling: Callable[[], None], not_kept: Callable[[str], None] = _log
) -> Generator[None]:
    """Have a function called whenever a kernel is compiled, rather than loaded from disk.

    Args:
        compiling: called once for every function that is compiled, in the thread that needs it.
        not_kept: called with the reason for every function that is compiled and cannot be kept on
            disk. By default each reason is logged once, as it is outside of this context.
    """
    token = _told.set(_Told(compiling, not_kept))
    try:
        yield
    finally:
        _told.reset(token)


def _compiling() -> None:
    _told.get().compiling()


def _not_kept(reason: str) -> None:
    _told.get().not_kept(reason)
