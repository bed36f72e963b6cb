"""What becomes of a command that is asked to end, whatever it does at that moment."""

import json
import random
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent, indent

import pytest

from benchmarks.interrupts import ENTRIES, SIGNALS, Stopping
from tests import share

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave coverage out of the processes, whose start it makes several times longer."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


COMMANDS = {
    "presets": ("presets", "gpu", "a100"),
    "trace build": ("trace", "build", "written.trace", "--heads", "2", "--length", "100"),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the /proc of Linux")
def test_random_moments(tmp_path: Path) -> None:
    """A traceback of a module that is being loaded, success after an interrupt, half a file.

    Python's own first milliseconds, in which it tells an interrupt itself, are left out.
    benchmarks/interrupts.py stops more commands, with their kernels, more often.
    """
    chance = random.Random(0)  # noqa: S311 - not a secret
    stopping = Stopping(tmp_path, COMMANDS, NUMBA_DISABLE_JIT="1")
    takes_s = {name: stopping.time(name) for name in COMMANDS}
    stopped = 0
    for turn in range(share.examples(__name__, 25, 12)):
        name = chance.choice(list(COMMANDS))
        after_s = chance.uniform(0, takes_s[name])
        stop = stopping.stop(name, SIGNALS[turn % 3], after_s, watched=True)
        assert stop.fault is None, stop
        assert stop.exit_code in (0, 128 + stop.number), stop
        stopped += stop.exit_code > 128
    assert stopped > 2, "the commands ended before they were stopped: this test tests nothing"


FRAME = """
import os, signal, sys, time
from attacc.cli import entry, main
from attacc.errors import InputError

def stop():
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)

def play():
{play}

main.app = lambda: sys.exit(main._exit_code(play))
entry.AGAIN_S = 0.2
entry.run()
"""
"""Runs something in the place of a command."""

CONVERTED = """
try:
    stop()
except KeyboardInterrupt:
    raise ImportError("numpy.core.multiarray failed to import") from None
"""
BLAMED_ON_INPUT = """
try:
    stop()
except BaseException:
    raise InputError("install a library") from None
"""
SWALLOWED_AT_THE_END = """
try:
    stop()
except:
    print("an answer")
"""
SWALLOWED = """
try:
    stop()
except:
    pass
time.sleep(60)
"""
CALLED_BACK = """
class Last:
    def __del__(self):
        stop()
del [Last()][0]
time.sleep(60)
"""
CLEANED_UP = """
open("temporary", "w").close()
try:
    stop()
finally:
    os.unlink("temporary")
"""
PARTLY_PRINTED = """
print("half of an answer", end="")
stop()
"""


def played(folder: Path, play: str, name: str) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr of a process with something for a command."""
    heeded = f"import signal; signal.signal(signal.{name}, signal.SIG_DFL)\n"  # if ours is not
    code = heeded + FRAME.format(name=name, play=indent(dedent(play).strip(), "    "))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=50,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("play", "name", "exit_code"),
    [
        (CONVERTED, "SIGINT", 130),
        (BLAMED_ON_INPUT, "SIGHUP", 129),
        (SWALLOWED, "SIGTERM", 143),
        (CALLED_BACK, "SIGINT", 130),
        (CLEANED_UP, "SIGTERM", 143),
        (PARTLY_PRINTED, "SIGINT", 130),
    ],
)
def test_exception_that_does_not_arrive(
    tmp_path: Path, play: str, name: str, exit_code: int
) -> None:
    """A library that makes another exception of the interrupt, or none; a file, or half an answer,
    that is left.
    """
    assert played(tmp_path, play, name) == (exit_code, "", "")
    assert not list(tmp_path.iterdir())


def test_swallowed_at_the_end(tmp_path: Path) -> None:
    """A command that was interrupted and says that all went well."""
    exit_code, _, stderr = played(tmp_path, SWALLOWED_AT_THE_END, "SIGINT")
    assert (exit_code, stderr) == (130, "")


def test_fault_after_no_signal(tmp_path: Path) -> None:
    """A bug that looks like an interrupt, because exceptions are taken for one."""
    exit_code, _, stderr = played(tmp_path, "raise ImportError('a bug')", "SIGINT")
    assert exit_code == 1
    assert "ImportError: a bug" in stderr


SERVED = """
import json, os, signal, sys
from attacc.serving.prices import steps
from attacc.cli import entry

steps_so_far = 0
own = steps.StepPrices.device_ps

def stopped(self, work):
    global steps_so_far
    steps_so_far += 1
    if steps_so_far == {at}:
        os.kill(os.getpid(), signal.{name})
    return own(self, work)

steps.StepPrices.device_ps = stopped
sys.argv = ["attacc", "serve", "--synthetic", "50", "--prompt", "100", "--output", "20",
            "--closed-loop", "4", "--model", "llama-3.1-8b", "--set", "gpus=1", "--json"]
entry.run()
"""
"""Serves requests, and is interrupted in the middle of a step."""


@pytest.mark.parametrize(
    ("name", "at", "exit_code"), [("SIGINT", 120, 130), ("SIGTERM", 120, 143), ("SIGINT", 3, 130)]
)
def test_an_interrupted_run_tells_what_it_has_played(name: str, at: int, exit_code: int) -> None:
    """Catches an hour of simulation that is lost, and half of a run that is taken for all of it.

    SIGTERM ends a run without an answer, and so does an interrupt before any request has ended.
    """
    heeded = f"import signal; signal.signal(signal.{name}, signal.SIG_DFL)\n"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", heeded + SERVED.format(name=name, at=at)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == exit_code
    if at == 3 or name == "SIGTERM":
        assert done.stdout == ""
        return
    told = json.loads(done.stdout)
    assert told["partial"] is True
    assert told["completed"] + told["unfinished"] == 50
    assert 0 < told["completed"] < 50
    assert 115 < told["steps"] <= 120
    assert told["busy_share"] <= 1


def test_ignored_signal(tmp_path: Path) -> None:
    """``nohup attacc ...`` must live on when its terminal is closed."""
    code = FRAME.format(name="SIGHUP", play="    os.kill(os.getpid(), signal.SIGHUP)\n    print(1)")
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", ignored + code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_light_entry() -> None:
    """Whatever is loaded before signals are watched answers an interrupt with a traceback."""
    sources = str(Path(__file__).parents[2] / "src")
    code = f"import sys; before = set(sys.modules); sys.path.insert(0, {sources!r}); "
    code += "import attacc.cli.entry; "
    code += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", "-c", "import os; " + code],  # os as ``site`` loads it
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    needed_by_signal = {
        "signal", "enum", "types", "functools", "collections", "operator", "_operator", "reprlib",
        "_functools", "_collections", "keyword", "itertools", "_signal",
    }  # fmt: skip
    ours = {"attacc", "attacc.cli", "attacc.cli.entry", "__future__"}
    assert loaded <= needed_by_signal | ours


def test_installed_command() -> None:
    """The installed script imports its entry point before it calls it: that must be the light one.

    What stands for it in benchmarks/interrupts.py must be the same.
    """
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["attacc"].partition(":")
    assert ENTRIES[1] == ("-c", f"from {module} import {function}; {function}()")
    assert module == "attacc.cli.entry"
