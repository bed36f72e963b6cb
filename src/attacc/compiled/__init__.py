"""The one door to Numba.

A kernel takes plain arrays and integers and returns arrays and a status code: no input or output,
no Python objects. This module is light; modules that define kernels load Numba, and are imported
where they are first needed, so that ``import attacc`` and the command line's help stay fast. With
``NUMBA_DISABLE_JIT=1`` a kernel is the plain Python function it decorates.
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
"""The message where machine code cannot be written to disk."""


class _Told(NamedTuple):
    """Who is told of compilation."""

    compiling: Callable[[], None]
    not_kept: Callable[[str], None]


def _nobody() -> None:
    """Take no notice."""


@functools.cache
def _log(reason: str) -> None:
    import logging  # takes longer to load than all else here

    logging.getLogger(__name__).warning(NOT_KEPT.format(reason=reason))


_told: ContextVar[_Told] = ContextVar("told", default=_Told(_nobody, _log))  # noqa: B039


def kernel(function: Callable[A, R]) -> Callable[A, R]:
    """Compile a function on its first call, and keep the machine code on disk.

    It allocates nothing, so that Numba need not count references to its arrays: counting them
    makes a kernel of small functions several times slower.

    What it calls and names is defined in its own file, or in a file of the same folder whose name
    ends in ``kernel.py``: the machine code is that of these files, and of no others.

    Where there is no folder that can be written, or a disk is full, it is compiled all the same,
    in every process that needs it. A broken file is replaced.
    """
    from attacc.compiled import machine_code

    machine_code.watch(_compiling)
    return machine_code.kept(function, _not_kept)


def inlined(function: Callable[A, R]) -> Callable[A, R]:
    """Make a function part of the kernels that call it, rather than hand its arrays over."""
    from attacc.compiled import machine_code

    return machine_code.inlined(function)


T = TypeVar("T", bound=tuple[object, ...])


def plain(named: T) -> T:
    """Return a named tuple as a plain one, for a kernel that is called thousands of times.

    Numba tells the type of a plain tuple at once, and takes ten microseconds for that of a named
    one. The kernel names it again, which costs nothing: ``state = State(*state)``.
    """
    return cast("T", tuple(named))


@contextmanager
def told_of_compilation(
    compiling: Callable[[], None], not_kept: Callable[[str], None] = _log
) -> Generator[None]:
    """Have something called before anything is compiled, rather than loaded from disk.

    Args:
        compiling: called once for every function that is compiled, in the thread that needs it.
        not_kept: called with the reason for every function that is compiled and cannot be kept on
            disk. By default each reason is logged once, as it is where nobody is told.
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
