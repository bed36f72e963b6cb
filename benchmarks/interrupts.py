"""Stops commands at random moments, and counts what becomes of them.

    python benchmarks/interrupts.py [--runs 500] [--seed 0]

Every run starts a command, sends it SIGINT, SIGTERM or SIGHUP after a random part of the time that
it takes, and looks at the exit code, at stderr and at the files that are left. A command that is
stopped exits with 128 and the number of the signal, says at most one line, and leaves no file that
is temporary or half written. The first milliseconds are Python's own, before any line of attacc:
then the signal itself ends the process. Ctrl-C ends the runs, and counts those that were made.
POSIX only.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WRITTEN = "written.trace"
"""The one file that a command below writes."""
COMMANDS = {
    "help": ("--help",),
    "presets": ("presets", "--json"),
    "attention": ("attention", "--heads", "20", "--length", "2048"),
    "compare": ("compare", "--model", "llama-2-7b", "--system", "dgx-base", "--batch", "1"),
    "trace build": ("trace", "build", WRITTEN, "--heads", "64", "--length", "2048"),
    "gpu check": ("gpu", "check", "measured.csv"),
}
MEASURED = """\
gpu,framework,version,dtype,m,n,k,latency_ms,power_w
h100-sxm-80gb,VLLM,0.24.0,bfloat16,4096,4096,4096,0.2,
"""
ENTRIES = (("-m", "attacc"), ("-c", "from attacc.cli.entry import run; run()"))
"""The second is what the installed command is."""
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Stop:
    """What became of a command.

    Attributes:
        command: its name.
        number: the signal.
        after_s: seconds between its start and the signal.
        lasted_s: seconds between the signal and its end.
        exit_code: as Python reports it: negative for a process that the signal itself ended.
        stderr: what it said.
        left: files that it left, other than those that it should leave.
    """

    command: str
    number: signal.Signals
    after_s: float
    lasted_s: float
    exit_code: int
    stderr: str
    left: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """What is not as it should be; None if all is."""
        if self.left:
            return f"left {', '.join(self.left)}"
        if self.exit_code in (-self.number, 1) and not self._in_attacc:
            return None  # Python had not come to attacc
        if self.exit_code not in (0, 128 + self.number):
            return f"exit code {self.exit_code}"
        if self.stderr.count("\n") > 1:
            return "more than one line on stderr"
        return None

    @property
    def _in_attacc(self) -> bool:
        """Whether a traceback shows a line of attacc, or an error is told."""
        own = (f"{os.sep}attacc{os.sep}__", f"{os.sep}attacc{os.sep}cli", "\nerror: ")
        shown = any(part in "\n" + self.stderr for part in own)
        return shown or (self.exit_code == 1 and "Fatal Python error" not in self.stderr)


class Stopping:
    """Commands that are stopped, in a folder of their own.

    Args:
        folder: an empty one.
        commands: their arguments, by name.
        environment: what they have in theirs beside ours.
    """

    def __init__(
        self, folder: Path, commands: dict[str, tuple[str, ...]], **environment: str
    ) -> None:
        self._folder = folder
        self._commands = commands
        self._environment = environment
        self._entry = ENTRIES[0]
        (folder / "measured.csv").write_text(MEASURED)
        (folder / "temporary").mkdir()
        self._before = self._files()
        self._whole: bytes | None = None

    def time(self, name: str) -> float:
        """Return the seconds that a command takes once its kernels are compiled."""
        self._finish(name)
        start = time.perf_counter()
        self._finish(name)
        taken_s = time.perf_counter() - start
        written = self._folder / WRITTEN
        if written.exists():
            self._whole = written.read_bytes()
            written.unlink()
        return taken_s

    def _finish(self, name: str) -> None:
        with self._started(name) as process:
            _, stderr = process.communicate(timeout=10 * LIMIT_S)
        assert process.returncode == 0, (name, stderr)

    def stop(
        self, name: str, number: signal.Signals, after_s: float, *, watched: bool = False
    ) -> Stop:
        """Send a command a signal after some seconds, of its start or of watching for signals."""
        self._entry = ENTRIES[self._entry == ENTRIES[0]]  # by turns
        with self._started(name) as process:
            while watched and not _watches(process):
                time.sleep(0.001)
            time.sleep(after_s)
            sent = time.perf_counter()
            process.send_signal(number)
            _, stderr = process.communicate(timeout=LIMIT_S)
        lasted_s = time.perf_counter() - sent
        return Stop(name, number, after_s, lasted_s, process.returncode, stderr, self._left())

    def _started(self, name: str) -> subprocess.Popen[str]:
        settings = {
            "TMPDIR": str(self._folder / "temporary"),
            "NUMBA_CACHE_DIR": str(self._folder / "cache"),
        }
        return subprocess.Popen(
            [sys.executable, *self._entry, *self._commands[name]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=os.environ | settings | self._environment,
        )

    def _files(self) -> set[Path]:
        return {
            file
            for file in self._folder.rglob("*")
            if "cache" not in file.parts or ".tmp." in file.name
        }

    def _left(self) -> tuple[str, ...]:
        """Remove what a command left, and return the names of what it should not have left."""
        left: list[str] = []
        for file in self._files() - self._before:
            if file.name != WRITTEN or file.read_bytes() != self._whole:
                left.append(file.name)
            file.unlink()
        return tuple(left)


def _watches(process: subprocess.Popen[str]) -> bool:
    """Return whether a process takes SIGTERM, or has ended. Linux only."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is None or bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for number in SIGNALS:  # a shell's background command ignores some, and so would its commands
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        stopping = Stopping(Path(folder), COMMANDS)
        takes_s = {name: stopping.time(name) for name in COMMANDS}
        print({name: round(seconds, 2) for name, seconds in takes_s.items()}, "seconds undisturbed")
        stops: list[Stop] = []
        try:
            while len(stops) < options.runs:
                name = chance.choice(list(COMMANDS))
                after_s = chance.uniform(0, 1.05 * takes_s[name])
                stops.append(stopping.stop(name, chance.choice(SIGNALS), after_s))
        except KeyboardInterrupt:
            pass
    for name in COMMANDS:
        codes = Counter(stop.exit_code for stop in stops if stop.command == name)
        longest_s = max((stop.lasted_s for stop in stops if stop.command == name), default=0.0)
        counts = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        print(f"{name:12} exit codes {counts}; longest to end {longest_s:.2f} s")
    faulty = [stop for stop in stops if stop.fault]
    print(f"{len(stops)} runs, {len(faulty)} with a fault")
    for stop in faulty:
        print(f"{stop.command}, {stop.number.name} after {stop.after_s:.3f} s: {stop.fault}")
        print(stop.stderr[-2000:])
    sys.exit(bool(faulty))


if __name__ == "__main__":
    main()
