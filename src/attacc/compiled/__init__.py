"""The one door to Numba.

A kernel takes plain arrays and integers and returns arrays and a status code: no input or output,
no Python objects. This module is light; modules that define kernels load Numba, and are imported
where they are first needed, so that ``import attacc`` and the command line's help stay fast. With
``NUMBA_DISABLE_JIT=1`` a kernel is the plain Python function it decorates.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

A = ParamSpec("A")
R = TypeVar("R")

_tell: ContextVar[Callable[[], None] | None] = ContextVar("tell", default=None)


def kernel(function: Callable[A, R]) -> Callable[A, R]:
    """Compile a function on its first call, and keep the machine code on disk.

    It allocates nothing, so that Numba need not count references to its arrays: counting them
    makes a kernel of small functions several times slower.

    What it calls and names is defined in its own file, or in a file of the same folder whose name
    ends in ``kernel.py``: the machine code is that of these files, and of no others.
    """
    from attacc.compiled import machine_code

    machine_code.watch(_compiling)
    return machine_code.kept(function)


def inlined(function: Callable[A, R]) -> Callable[A, R]:
    """Make a function part of the kernels that call it, rather than hand its arrays over."""
    from attacc.compiled import machine_code

    return machine_code.inlined(function)


@contextmanager
def told_of_compilation(tell: Callable[[], None]) -> Generator[None]:
    """Have something called before anything is compiled, rather than loaded from disk.

    Args:
        tell: called once for every function that is compiled, in the thread that needs it.
    """
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def _compiling() -> None:
    tell = _tell.get()
    if tell is not None:
        tell()
