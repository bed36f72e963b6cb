"""The pages: links that lead somewhere, and reference pages that are those of the code."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def generator() -> ModuleType:
    path = ROOT / "docs" / "reference" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = generator()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Catches a page or a figure that moved, and a link that did not."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for named in re.findall(r"\bdocs/[\w/-]+\.(?:md|ipynb)", text):
        assert (ROOT / named).exists(), named


def test_pages_that_messages_and_docstrings_name_exist() -> None:
    """Catches a hint that names a page which is not there."""
    for path in (ROOT / "src").rglob("*.py"):
        for named in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / named).exists(), (path.name, named)


def test_every_page_is_in_the_index() -> None:
    """Catches a page that nobody finds."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*"):
        if page.suffix in (".md", ".ipynb") and page.name != "index.md":
            assert f"({page.relative_to(ROOT / 'docs').as_posix()})" in index, page


@pytest.mark.parametrize("name", sorted(GENERATED.PAGES))
def test_reference_pages_are_those_of_the_code(name: str) -> None:
    """Catches a key that was added and is not on its page: run docs/reference/generate.py."""
    written = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert written == GENERATED.page(name)
    _, spec = GENERATED.PAGES[name]
    for row in written.splitlines():
        if row.startswith("| `"):
            assert not row.endswith("|  |"), f"no meaning: {row}"
    assert all(f"`{key}`" in written for key in GENERATED.keys_of(spec))
