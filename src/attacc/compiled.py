"""The one door to Numba.

A kernel takes plain arrays and integers and returns arrays and a status code: no input or output,
no Python objects. Modules that define kernels import this one, which loads Numba; they are
imported where they are first needed, so that ``import attacc`` and the command line's help stay
fast. With ``NUMBA_DISABLE_JIT=1`` a kernel is the plain Python function it decorates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba  # pyright: ignore[reportMissingTypeStubs]

A = ParamSpec("A")
R = TypeVar("R")


def kernel(function: Callable[A, R]) -> Callable[A, R]:
    """Compile a function on its first call, and keep the machine code on disk."""
    return cast("Callable[A, R]", numba.njit(cache=True)(function))  # pyright: ignore[reportUnknownMemberType]
