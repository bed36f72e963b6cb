from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("ci")

REFERENCE = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The shared reference folder; tests that need it skip on machines without it."""
    if not (REFERENCE / "reference" / "golden").is_dir():
        pytest.skip(f"no shared reference data at {REFERENCE.name}/ beside the project")
    return REFERENCE


@pytest.fixture(autouse=True)
def _untraced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pause coverage in tests marked so; pytest-cov's own marker fails where there is none."""
    controller = getattr(request.config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    if controller is None or request.node.get_closest_marker("untraced") is None:
        yield
        return
    controller.pause()
    try:
        yield
    finally:
        controller.resume()
