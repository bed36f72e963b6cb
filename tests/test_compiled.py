"""Machine code on disk: whose it is, and what becomes of processes that need it at once."""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

KERNEL = """
from attacc.compiled import kernel
from helper_kernel import amount

@kernel
def more(n: int) -> int:
    return n + amount(n)
"""
HELPER = """
from attacc.compiled import inlined

@inlined
def amount(n: int) -> int:
    return {amount}
"""
SHOW = "from my_kernel import more; print(more(40))"
SLOW = """
import sys, time
from pathlib import Path
from numba.core.caching import IndexDataCacheFile

save = IndexDataCacheFile._save_data

def slowly(self, name, data):
    Path("saving").touch()
    time.sleep(3)
    save(self, name, data)

IndexDataCacheFile._save_data = slowly
"""
"""Stops between Numba's two files: the index names the machine code, which is not yet there."""


def write(folder: Path, amount: int) -> None:
    (folder / "my_kernel.py").write_text(dedent(KERNEL))
    (folder / "helper_kernel.py").write_text(dedent(HELPER.format(amount=amount)))


@contextmanager
def started(folder: Path, code: str) -> Generator[subprocess.Popen[str]]:
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "NUMBA_DISABLE_JIT": "0",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",  # sources that change within a second look the same to it
    }
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, cwd=folder, text=True
    ) as process:
        yield process


def shown(folder: Path, code: str = SHOW) -> str:
    with started(folder, code) as process:
        return process.communicate()[0].strip()


def test_compiled_once(tmp_path: Path) -> None:
    """Kernels that are compiled in every process, or of which nobody is told."""
    code = """
        from attacc.compiled import told_of_compilation
        from my_kernel import more
        told = []
        with told_of_compilation(lambda: told.append(1)):
            print(more(40), end=" ")
        with told_of_compilation(lambda: told.append(1)):
            print(more(41), len(told))
    """
    write(tmp_path, 2)
    assert shown(tmp_path, dedent(code)) == "42 43 1"
    assert shown(tmp_path, dedent(code)) == "42 43 0"


def test_changed_helper(tmp_path: Path) -> None:
    """Machine code that outlives a function, in another file, that was made part of it."""
    write(tmp_path, 2)
    assert shown(tmp_path) == "42"
    write(tmp_path, 3)
    assert shown(tmp_path) == "43"


@pytest.mark.skipif(sys.platform == "win32", reason="processes take no turns on Windows")
def test_code_of_an_older_version(tmp_path: Path) -> None:
    """A process that runs an older version's code, while another one writes the new."""
    write(tmp_path, 2)
    assert shown(tmp_path) == "42"
    write(tmp_path, 3)
    with started(tmp_path, SLOW + SHOW) as writer:
        until = time.monotonic() + 30
        while not (tmp_path / "saving").exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / "saving").exists()
        assert writer.poll() is None
        assert shown(tmp_path) == "43"
        assert writer.communicate()[0].strip() == "43"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")
def test_file_system_without_locks(tmp_path: Path) -> None:
    """A traceback on file systems that know no locks, or code kept there unguarded."""
    code = """
        import fcntl
        def flock(*_):
            raise OSError("no locks available")
        fcntl.flock = flock
    """
    write(tmp_path, 2)
    assert shown(tmp_path, dedent(code) + SHOW) == "42"
    assert not list((tmp_path / "cache").rglob("*.nbc"))
