import os
import subprocess
import sys
from pathlib import Path


def bits(*, compiled: bool) -> str:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "0" if compiled else "1"}
    script = Path(__file__).parent / "small_cases.py"
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-W", "error", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_compute_what_python_does() -> None:
    """Catches fused multiply-adds, and integers or casts that behave otherwise when compiled.

    Measured without compilation, coverage sees the kernels.
    """
    assert bits(compiled=True) == bits(compiled=False)
