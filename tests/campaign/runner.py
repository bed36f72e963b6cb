"""Plays inputs through one reader, and writes down what must not happen.

Each input is made from ``(reader, seed, number)`` alone, so that a fault is replayed by its number.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Final, cast

import numpy as np
from pydantic import BaseModel

from attacc.errors import AttaccError, printable

MOST_SECONDS: Final = 2.0
"""Processor time that one input may take."""
MOST_MESSAGE: Final = 6000
"""Characters of the longest message that is still one."""
ROOM_BYTES: Final = 3 * 2**30
"""Address space that a campaign may take beyond what it starts with."""
HOSTILE_NAMES: Final = ("a b", "x [bold]", "\x1b[31mred", "\u202egnp", "caf\udce9", "-h", "é", "'")
"""Stems of file names, in place of the usual one now and then."""


class Wrong(Exception):  # noqa: N818 - it is no error of the reader, but a finding about it
    """What was read cannot be so."""


class TooSlow(BaseException):
    """An input took longer than it may; no reader may catch this."""


@dataclass(frozen=True)
class Reader:
    """One door through which bytes of others come in.

    Attributes:
        name: of the reader, as the page lists it.
        make: an input of a random generator: file name -> bytes; the first is the one to be read.
        read: reads it, from the path of the first file.
        follow: uses what was read, every ``every``-th time; raises `Wrong` for what cannot be, and
            may refuse as the reader may.
        every: how seldom ``follow`` is called.
        in_memory: there is no file: ``read`` gets a path that holds the text itself.
        refusals: what it may raise. Messages of readers of files name the file.
        finite: whether every number of what is read must be finite.
    """

    name: str
    make: Callable[[Random], Mapping[str, bytes]]
    read: Callable[[Path], object]
    follow: Callable[[object, Path, Random], None] | None = None
    every: int = 1
    in_memory: Callable[[str], object] | None = None
    refusals: tuple[type[Exception], ...] = (AttaccError,)
    finite: bool = True


@dataclass
class Fault:
    """An input that did what none may do.

    Attributes:
        reader: which one read it.
        number: of the input, with the seed all that is needed to make it again.
        kind: of fault, and where it arose: equal for what has one cause.
        detail: the last lines of the traceback.
        files: the input.
    """

    reader: str
    number: int
    kind: str
    detail: str
    files: dict[str, bytes]


@dataclass
class Outcome:
    """What became of the inputs of one reader.

    Attributes:
        reader: its name.
        seed: of the campaign.
        inputs: how many there were.
        accepted: how many were read.
        refused: how many were refused with a message.
        followed: how many were used further.
        slowest_s: processor time of the slowest.
        seconds: time of all.
        faults: the first of each kind.
        times: how often each kind of fault occurred.
    """

    reader: str
    seed: int
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    followed: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list[Fault])
    times: Counter[str] = field(default_factory=Counter[str])


def check_finite(value: object, where: str = "") -> None:
    """Raise `Wrong` if a number anywhere inside is not finite."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Wrong(f"{where} is {value}")
    elif isinstance(value, np.ndarray):
        array = cast("np.ndarray[tuple[int], np.dtype[np.generic]]", value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Wrong(f"{where} holds numbers that are not finite")
    elif isinstance(value, Mapping):
        for key, inner in cast(Mapping[object, object], value).items():
            check_finite(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in cast(tuple[object, ...], value):
            check_finite(inner, f"{where}[]")


def require(condition: object, what: str) -> None:
    """Raise `Wrong` unless a condition holds."""
    if not condition:
        raise Wrong(what)


@contextmanager
def _watched(seconds: float) -> Generator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"takes longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def bounded_memory() -> Generator[None]:
    """Let the process grow by `ROOM_BYTES` at most, so that a reader that wants more fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def random_of(reader: Reader, seed: int, number: int) -> Random:
    """Return the generator that makes one input."""
    return Random(f"{reader.name}/{seed}/{number}")


def input_of(reader: Reader, seed: int, number: int) -> dict[str, bytes]:
    """Return one input: file name -> bytes."""
    random = random_of(reader, seed, number)
    files = dict(reader.make(random))
    if reader.in_memory is None and random.random() < 0.02:
        first = next(iter(files))
        stem, dot, suffix = first.rpartition(".")
        if stem != "config":
            files = {random.choice(HOSTILE_NAMES) + dot + suffix: files.pop(first), **files}
    return files


def play(reader: Reader, folder: Path, *, seed: int, first: int, count: int) -> Outcome:
    """Play ``count`` inputs through a reader, from number ``first`` on.

    Args:
        reader: the reader.
        folder: an empty one, for the files.
        seed: of the campaign.
        first: number of the first input.
        count: how many.
    """
    outcome = Outcome(reader.name, seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        # What a library warns of reaches the user's terminal, and says nothing of the file.
        warnings.simplefilter("error")
        for number in range(first, first + count):
            _play_one(reader, folder, outcome, number)
    outcome.seconds = time.perf_counter() - began
    return outcome


def _play_one(reader: Reader, folder: Path, outcome: Outcome, number: int) -> None:
    files = input_of(reader, outcome.seed, number)
    name, data = next(iter(files.items()))
    path = folder / name
    named: list[str] = []
    if reader.in_memory is None:
        for beside, content in files.items():
            named.append(str(folder / beside))
            (folder / beside).write_bytes(content)
    outcome.inputs += 1
    began = time.process_time()
    try:
        with _watched(MOST_SECONDS):
            try:
                if reader.in_memory is None:
                    found = reader.read(path)
                else:
                    found = reader.in_memory(data.decode("utf-8", "surrogateescape"))
                outcome.accepted += 1
                if reader.finite:
                    check_finite(found)
            except reader.refusals as error:
                outcome.refused += 1
                _check_message(error, named)
            else:
                if reader.follow is not None and number % reader.every == 0:
                    outcome.followed += 1
                    try:
                        reader.follow(found, path, random_of(reader, outcome.seed, number))
                    except AttaccError as error:
                        _check_message(error, [])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever comes out is the finding
        kind = _kind(error)
        outcome.times[kind] += 1
        if outcome.times[kind] == 1:
            detail = "".join(traceback.format_exception(error)[-8:])[-3000:]
            outcome.faults.append(Fault(reader.name, number, kind, detail, files))
    finally:
        outcome.slowest_s = max(outcome.slowest_s, time.process_time() - began)
        if reader.in_memory is None:
            for beside in files:
                (folder / beside).unlink()


def _check_message(error: Exception, named: list[str]) -> None:
    text = str(error)
    require(text.strip(), f"an empty message of {type(error).__name__}")
    require(len(text) <= MOST_MESSAGE, f"a message of {len(text)} characters: {text:.60}")
    shown = printable(text, keep="\n")
    require(all(c == "\n" or c.isprintable() for c in shown), "a message that does not print")
    shown.encode()
    require(
        not named or any(where in text for where in named),
        f"a message without the file's name: {text:.200}",
    )


def _kind(error: BaseException) -> str:
    """Return what kind of fault this is: the error, and the innermost line of the package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/attacc/" in f.filename] or list(frames)
    place = f"{Path(own[-1].filename).name}:{own[-1].name}"
    if isinstance(error, Wrong):
        text = "".join("#" if c.isdigit() else c for c in str(error))
        return f"wrong ({place}): {text:.60}"
    return f"{type(error).__name__} in {place}"
