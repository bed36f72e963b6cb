from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import share

settings.register_profile("few", derandomize=True, deadline=None, max_examples=40)
settings.register_profile("all", settings.get_profile("few"), max_examples=100)
settings.load_profile("few")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the option that has long statistical checks play all of their cases."""
    parser.addoption(share.OPTION, metavar="all|N/M", help="play all cases of long checks")


def pytest_configure(config: pytest.Config) -> None:
    """Tell tests which share plays all cases, before they are collected."""
    text = config.getoption(share.OPTION)
    share.chosen = share.Share.parse(text) if text else None
    if share.chosen is not None and share.chosen.of == 1:
        settings.load_profile("all")


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
