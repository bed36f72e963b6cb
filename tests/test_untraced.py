"""The marker that spares long tests the tracing of coverage."""

import pytest
from coverage import Coverage


@pytest.mark.untraced
def test_an_untraced_test_is_not_traced() -> None:
    """Catches a second tracer beneath the paused one, as every process of pytest-xdist starts."""
    assert Coverage.current() is None
