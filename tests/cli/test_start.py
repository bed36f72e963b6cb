"""What a user waits for before anything is computed: imports, and the first compilation."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = ("trace", "build", "my.trace", "--heads", "2", "--length", "40", "--json")
"""Needs functions that are compiled for several signatures, and little else."""


@pytest.mark.parametrize(
    "code",
    [
        "import attacc",
        "from attacc.cli.main import app; app(['--version'], standalone_mode=False)",
    ],
)
def test_light_imports(code: str) -> None:
    """Numba takes a second to load, NumPy and pydantic a tenth, and nobody needs them here."""
    heavy = "{'numba', 'numpy', 'pydantic', 'pandas'}"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"import sys; {code}; print(*{heavy} & sys.modules.keys())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


def test_numba_is_loaded_when_something_is_compiled() -> None:
    """It takes half a second, and commands on GPUs alone compile nothing."""
    modules = "attacc.service, attacc.comparison, attacc.attention, attacc.trace"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"import sys, {modules}; print('numba' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


class AtTerminal:
    """A command whose stderr is a terminal, and its stdout a pipe."""

    def __init__(self, folder: Path, cache: Path) -> None:
        import pty  # which Windows does not have

        folder.mkdir()
        self._trace = folder / COMMAND[2]
        self._terminal, its_end = pty.openpty()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "attacc", *COMMAND],
            stdout=subprocess.PIPE,
            stderr=its_end,
            text=True,
            cwd=folder,
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache), "NUMBA_DISABLE_JIT": "0"},
        )
        os.close(its_end)

    def ended(self) -> tuple[str, str, str]:
        """Return what it wrote to stdout and to the trace, and what the terminal shows."""
        stdout, _ = self._process.communicate(timeout=120)
        assert self._process.returncode == 0
        seen = b""
        while select.select([self._terminal], [], [], 0)[0]:
            try:
                part = os.read(self._terminal, 4096)
            except OSError:  # Linux tells the end so
                break
            if not part:
                break
            seen += part
        os.close(self._terminal)
        return stdout, self._trace.read_text(), seen.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals on Windows")
def test_first_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that start at once on an empty cache and spoil it for each other; a wait of many
    seconds without a word, or with a word in the answer; and a word where nothing is compiled.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # compiles a third faster
    cache = tmp_path / "cache"
    at_once = [AtTerminal(tmp_path / str(i), cache) for i in range(2)]
    ended = [process.ended() for process in at_once]
    stdout, trace, _ = ended[0]
    assert json.loads(stdout)["requests"]["softmax"] == 2
    for its_stdout, its_trace, seen in ended:
        assert (its_stdout, its_trace) == (stdout, trace)
        assert seen.count("compiling") == 1
        assert seen.endswith("\n")
    assert list(cache.rglob("*.nbc"))
    assert AtTerminal(tmp_path / "again", cache).ended() == (stdout, trace, "")
