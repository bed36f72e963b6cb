from pathlib import Path

from tests.uncompiled import printed

SCRIPT = str(Path(__file__).parent / "operator_small_cases.py")


def test_kernels_are_the_python_they_are_written_in() -> None:
    """Catches divisions, powers and comparisons that behave otherwise when compiled.

    The cases reach every line of the kernels; measured without compilation, so does coverage.
    """
    compiled = printed(SCRIPT, compiled=True)
    assert compiled == printed(SCRIPT, compiled=False)
    assert compiled.count("no kernel") == 2
