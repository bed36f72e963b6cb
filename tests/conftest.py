import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from coverage import Coverage
from hypothesis import settings

from tests import share

settings.register_profile("few", derandomize=True, deadline=None, max_examples=30)
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


# Commands that a busy machine slows down say so on stderr, where tests expect nothing.
os.environ["ATTACC_PROGRESS"] = "off"

REFERENCE = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The shared reference folder; tests that need it skip on machines without it."""
    if not (REFERENCE / "reference" / "golden").is_dir():
        pytest.skip(f"no shared reference data at {REFERENCE.name}/ beside the project")
    return REFERENCE


MANY = 1000
"""Tests of a run that will need most kernels."""


@contextmanager
def untraced() -> Generator[None]:
    """Pause coverage, here and in the processes that are started meanwhile.

    In a process of pytest-xdist coverage is started more than once, and whichever is stopped hands
    over to the one before it: as every process of ours, and by pytest-cov.
    """
    of_processes = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    stopped: list[Coverage] = []
    while (started := Coverage.current()) is not None:
        started.stop()
        stopped.append(started)
    try:
        yield
    finally:
        for started in reversed(stopped):
            started.start()
        if of_processes is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = of_processes


@pytest.fixture(scope="session", autouse=True)
def _compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have a long run's processes share the compilation, and not trace it, which takes longer."""
    if len(request.session.items) < MANY:
        return
    from tests import warm

    ours = tmp_path_factory.getbasetemp()
    with untraced():
        warm.compile_parts(ours.parent if hasattr(request.config, "workerinput") else ours)


@pytest.fixture(autouse=True)
def _untraced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pause coverage in tests marked so."""
    if request.node.get_closest_marker("untraced") is None:
        yield
        return
    with untraced():
        yield
