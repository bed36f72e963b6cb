from pathlib import Path

from tests.uncompiled import printed

SCRIPT = str(Path(__file__).parent / "small_cases.py")


def test_kernels_are_the_python_they_are_written_in() -> None:
    """Catches integers that overflow, and whatever else compiled code does and Python does not.

    The cases reach every line of the kernels; measured without compilation, so does coverage.
    """
    assert printed(SCRIPT, compiled=True) == printed(SCRIPT, compiled=False)
