"""Machine code on disk: whose it is, and what becomes of processes that need it at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from attacc.compiled.machine_code import Entries
from tests import unprivileged

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
TOLD = """
from attacc.compiled import told_of_compilation
with told_of_compilation(lambda: print("compiled", end=" "), lambda _: print("unkept", end=" ")):
    from my_kernel import more
    print(more(40))
"""
SLOW = """
import time
from contextlib import contextmanager
from pathlib import Path
from numba.core.caching import IndexDataCacheFile

write = IndexDataCacheFile._open_for_write

@contextmanager
def slowly(self, path):
    with write(self, path) as file:
        yield file
        file.flush()
        Path("saving").touch()
        time.sleep(3)

IndexDataCacheFile._open_for_write = slowly
"""
"""Stops when all is written, and is not yet where a process looks for it."""
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import atexit
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
# Whoever measures coverage writes its own file after the command: that disk is not full.
no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, no_limit)
with open("probe", "wb", buffering=0) as file:
    assert file.write(bytes(1001)) == 1000, "no disk is full: this test tests nothing"
"""
"""A disk on which no file grows beyond 1000 bytes, which is less than any machine code."""


def write(folder: Path, amount: int) -> None:
    (folder / "my_kernel.py").write_text(dedent(KERNEL))
    (folder / "helper_kernel.py").write_text(dedent(HELPER.format(amount=amount)))


@contextmanager
def started(folder: Path, code: str, **environment: str) -> Generator[subprocess.Popen[str]]:
    settings = {
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "NUMBA_DISABLE_JIT": "0",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",  # sources that change within a second look the same to it
    }
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | settings | environment,
        cwd=folder,
        text=True,
    ) as process:
        yield process


def spoken(folder: Path, code: str = SHOW, **environment: str) -> tuple[str, str]:
    """Return what a process says on stdout and on stderr."""
    with started(folder, code, **environment) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout.strip(), stderr.strip()


def shown(folder: Path, code: str = SHOW, **environment: str) -> str:
    """Return what a process says on stdout, and nothing on stderr."""
    stdout, stderr = spoken(folder, code, **environment)
    assert stderr == ""
    return stdout


def wait_for(file: Path) -> None:
    until = time.monotonic() + 30
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert file.exists()


def kept_files(folder: Path) -> list[Path]:
    """Return the files with machine code, and any that were begun."""
    return [file for file in (folder / "cache").rglob("*") if file.is_file()]


def test_compiled_once(tmp_path: Path) -> None:
    """Kernels that are compiled in every process, or of which nobody is told; and a broken file
    that ends every command until somebody removes it by hand.
    """
    write(tmp_path, 2)
    assert shown(tmp_path, TOLD) == "compiled 42"
    [file] = kept_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    assert shown(tmp_path, TOLD) == "compiled 42"
    assert shown(tmp_path, TOLD) == "42"


@pytest.mark.untraced  # the processes load and compile, as in test_compiled_once
def test_changed_helper(tmp_path: Path) -> None:
    """Machine code that outlives a function, in another file, that was made part of it."""
    write(tmp_path, 2)
    assert shown(tmp_path) == "42"
    write(tmp_path, 3)
    assert shown(tmp_path) == "43"
    assert len(kept_files(tmp_path)) == 1  # and what is of no use any more is removed


@pytest.mark.untraced  # the processes load and compile, as in test_compiled_once
@pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be replaced on Windows")
def test_while_another_process_writes(tmp_path: Path) -> None:
    """A process that runs an older version's code, or half of the new, while another writes it."""
    write(tmp_path, 2)
    assert shown(tmp_path) == "42"
    write(tmp_path, 3)
    with started(tmp_path, SLOW + SHOW) as writer:
        wait_for(tmp_path / "saving")
        assert writer.poll() is None
        assert shown(tmp_path) == "43"
        assert writer.communicate()[0].strip() == "43"


@pytest.mark.untraced  # the processes load and compile, as in test_compiled_once
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal on Windows")
def test_killed_while_writing(tmp_path: Path) -> None:
    """Numba's index names machine code that was never written: every later process fails."""
    write(tmp_path, 2)
    with started(tmp_path, SLOW + SHOW) as writer:
        wait_for(tmp_path / "saving")
        writer.send_signal(signal.SIGKILL)
    assert kept_files(tmp_path)  # what it had begun
    assert shown(tmp_path, TOLD) == "compiled 42"
    assert shown(tmp_path, TOLD) == "42"


@pytest.mark.parametrize("size", [0, 1, 33, -1])
def test_truncated_file(tmp_path: Path, size: int) -> None:
    """A crash of the machine, or a full disk, leaves a part: no process could load the rest."""
    entries = Entries(str(tmp_path), "more", "stamp")
    entries.save("key", "code")
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:size])
    assert entries.load("key") is None
    entries.save("key", "code")
    assert entries.load("key") == "code"


def test_changed_bytes(tmp_path: Path) -> None:
    """One bit of machine code that flips may compute anything, or end the process."""
    entries = Entries(str(tmp_path), "more", "stamp")
    entries.save("key", "code")
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert entries.load("key") is None
    file.write_bytes(whole)
    assert entries.load("key") == "code"


def test_files_of_another_name(tmp_path: Path) -> None:
    """A file that was copied to the name of another source's, or another signature's."""
    old, new = (Entries(str(tmp_path), "more", stamp) for stamp in ("old", "new"))
    old.save("key", "old code")
    [old_file] = tmp_path.iterdir()
    whole = old_file.read_bytes()
    new.save("key", "code")
    new.save("other key", "other code")
    assert not old_file.exists()
    for file in tmp_path.iterdir():
        file.write_bytes(whole)
    assert new.load("key") is None
    assert new.load("other key") is None


def test_nowhere_to_keep(tmp_path: Path) -> None:
    """A package and a home that cannot be written: Numba raises when a kernel is defined.

    The folders lie below files, which denies them to a superuser too.
    """
    write(tmp_path, 2)
    file = tmp_path / "__pycache__"  # so that there is no such folder beside the sources either
    file.touch()
    home = str(file / "home")
    nowhere = {"HOME": home, "XDG_CACHE_HOME": home, "LOCALAPPDATA": home}
    nowhere |= {"NUMBA_CACHE_DIR": str(file / "cache")}
    for folder in ("home", "cache"):
        with pytest.raises(OSError, match="directory"):
            (file / folder).mkdir(parents=True)
    with pytest.raises(FileExistsError):
        file.mkdir(exist_ok=True)
    assert shown(tmp_path, TOLD, **nowhere) == "unkept compiled 42"
    # Where nobody listens it is logged, however many signatures are compiled.
    stdout, stderr = spoken(tmp_path, SHOW + "; print(more(40.5))", **nowhere)
    assert stdout.split() == ["42", "42.5"]
    assert "cannot be kept" in stderr
    assert stderr.count("\n") == 0
    assert shown(tmp_path, **nowhere | {"NUMBA_DISABLE_JIT": "1"}) == "42"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other ones on Windows")
def test_permission_bits(tmp_path: Path) -> None:
    """A package and a home that are read-only, or machine code that another user may read alone."""
    write(tmp_path, 2)
    denied = unprivileged.PRELUDE + dedent("""
        try:
            open("cache/probe", "w")
        except PermissionError:
            print("denied", end=" ")
    """)
    folders = [tmp_path / name for name in ("cache", "__pycache__", "home")]
    for folder in folders:
        folder.mkdir(mode=0o555)
    tmp_path.chmod(0o555)
    home = str(tmp_path / "home")
    homes = {"HOME": home, "XDG_CACHE_HOME": home}
    assert shown(tmp_path, denied + TOLD, **homes) == "denied unkept compiled 42"
    assert kept_files(tmp_path) == []
    folders[0].chmod(0o755)
    assert shown(tmp_path, TOLD, **homes) == "compiled 42"
    [file] = kept_files(tmp_path)
    file.chmod(0o000)
    file.parent.chmod(0o555)
    folders[0].chmod(0o555)
    assert shown(tmp_path, denied + TOLD, **homes) == "denied unkept compiled 42"
    file.parent.chmod(0o755)
    folders[0].chmod(0o755)
    assert shown(tmp_path, unprivileged.PRELUDE + TOLD, **homes) == "compiled 42"
    assert shown(tmp_path, unprivileged.PRELUDE + TOLD, **homes) == "42"
    tmp_path.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit on Windows")
def test_full_disk(tmp_path: Path) -> None:
    """A disk that fills up ends the command that compiles, or leaves the next one half a file."""
    write(tmp_path, 2)
    assert shown(tmp_path, FULL + TOLD) == "compiled unkept 42"
    assert not kept_files(tmp_path)
    assert shown(tmp_path, TOLD) == "compiled 42"
    assert shown(tmp_path, FULL + TOLD) == "42"


def test_folder_that_vanishes(tmp_path: Path) -> None:
    """Somebody who empties the cache while a process is about to read or write it."""
    write(tmp_path, 2)
    code = "import shutil; from my_kernel import more; shutil.rmtree('cache'); print(more(40))"
    assert shown(tmp_path, code) == "42"
    assert shown(tmp_path, TOLD) == "42"
