import os
import subprocess
import sys
from pathlib import Path


def outcomes(*, compiled: bool) -> str:
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


def test_kernels_are_the_python_they_are_written_in() -> None:
    """Catches integers that overflow, and whatever else compiled code does and Python does not.

    The cases reach every line of the kernels; measured without compilation, so does coverage.
    """
    assert outcomes(compiled=True) == outcomes(compiled=False)
