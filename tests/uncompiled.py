"""Scripts of ours as processes of their own, with their kernels compiled or as plain Python."""

import os
import subprocess
import sys
from pathlib import Path


def printed(*arguments: str, compiled: bool) -> str:
    """Return what Python prints for some arguments, at the root of the project."""
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "error", *arguments],
        env=os.environ | {"NUMBA_DISABLE_JIT": "0" if compiled else "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
