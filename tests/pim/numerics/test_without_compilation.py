from pathlib import Path

from tests.uncompiled import printed

SCRIPT = str(Path(__file__).parent / "small_cases.py")


def test_kernels_compute_what_python_does() -> None:
    """Catches fused multiply-adds, and integers or casts that behave otherwise when compiled.

    Measured without compilation, coverage sees the kernels.
    """
    assert printed(SCRIPT, compiled=True) == printed(SCRIPT, compiled=False)
