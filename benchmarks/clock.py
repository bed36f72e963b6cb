"""What the benchmarks measure with: time of a call, of a process, and the machine they ran on."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, thread_time
from typing import NamedTuple, ParamSpec, TypeVar

A = ParamSpec("A")
T = TypeVar("T")


class Time(NamedTuple):
    """Seconds on the processor, which other work on the machine hardly lengthens, and of wall."""

    cpu_s: float
    wall_s: float

    def plus(self, other: "Time") -> "Time":
        return Time(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s)


NO_TIME = Time(0.0, 0.0)


def least(times: Sequence[Time]) -> Time:
    """The least of either."""
    return Time(min(t.cpu_s for t in times), min(t.wall_s for t in times))


def timed(call: Callable[A, T], *args: A.args, **options: A.kwargs) -> tuple[T, Time]:
    """Call once, in this thread."""
    cpu, wall = thread_time(), perf_counter()
    result = call(*args, **options)
    return result, Time(thread_time() - cpu, perf_counter() - wall)


def fastest(repeat: int, prepare: Callable[[], T], call: Callable[[T], object]) -> Time:
    """The fastest of several calls, each on something prepared for it beforehand."""
    return least([timed(call, prepare())[1] for _ in range(repeat)])


class Process(NamedTuple):
    """A process that has ended."""

    stdout: str
    time: Time


def process(arguments: Sequence[str], environment: dict[str, str] | None = None) -> Process:
    """Run Python with these arguments; the processor time is that of all its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
    )
    wall_s = perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Process(done.stdout, Time(cpu_s, wall_s))


@dataclass(frozen=True)
class Machine:
    """Where figures were measured."""

    processor: str
    cores: int
    load_average: float
    system: str
    python: str
    numpy: str
    numba: str

    @classmethod
    def this(cls) -> "Machine":
        return cls(
            processor=_processor(),
            cores=os.cpu_count() or 1,
            load_average=os.getloadavg()[0],
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            numpy=version("numpy"),
            numba=version("numba"),
        )

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores (load {self.load_average:.1f}), {self.system}, "
            f"Python {self.python}, NumPy {self.numpy}, Numba {self.numba}"
        )


def _processor() -> str:
    """Model, and family and model number where virtual machines hide the name."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    lines = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    entries = {key.strip(): value.strip() for key, _, value in lines}
    name = entries.get("model name", platform.machine())
    if "cpu family" not in entries:
        return name
    return f"{name} (family {entries['cpu family']}, model {entries['model']})"


def peak_bytes() -> int:
    """Most memory that this process ever held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike ru_maxrss, not that of the process from which this one was started.
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    # macOS counts in bytes, other systems in KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(document: object) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2))
