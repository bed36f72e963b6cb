"""``attacc reproduce``: its documents, its report, and what it refuses."""

import re
from pathlib import Path

import pytest

from tests.cli.console import answer, document, invoke, refusal

QUICK = ("--exhibit", "cal2023-intensity", "--exhibit", "cal2023-kv-bytes")


def test_document() -> None:
    """Catches a table without units, a cell without a column, and exhibits of another paper."""
    made = document("reproduce", "all", *QUICK)
    assert made["gpu_model"] == "published"
    assert [e["id"] for e in made["exhibits"]] == ["cal2023-intensity", "cal2023-kv-bytes"]
    for exhibit in made["exhibits"]:
        assert exhibit["paper"] == "cal2023"
        assert exhibit["conditions"]
        assert all(len(row) == len(exhibit["columns"]) for row in exhibit["rows"])
        units = {column["key"]: column["unit"] for column in exhibit["columns"]}
        assert units.get("ours_ops_per_byte", "op/B") == "op/B"
        assert all(column["form"] for column in exhibit["columns"])


def test_tables() -> None:
    """Catches a table that is cut without a word, and notes that are left out."""
    text = answer("reproduce", *QUICK)
    assert "cal2023-kv-bytes: Keys and values against weights" in text
    assert "GPU model: published" in text
    assert "... and 12 rows more: see --report or --json" in text
    assert "* The reference holds no figures of the paper" in text


def test_report(tmp_path: Path) -> None:
    """Catches a page that needs a network, lacks a figure, or leaves something beside it."""
    pytest.importorskip("matplotlib", reason="needs the extra figures")
    path = tmp_path / "papers.html"
    path.write_text("old", encoding="utf-8")
    answer("reproduce", *QUICK, "--report", path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.count("<svg") == 2
    assert text.count("<section") == 2
    fetched = re.findall(r'(?:src|href)="(?!#)([^"]*)"', text)
    assert [address for address in fetched if not address.startswith("#")] == []
    assert "@import" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["papers.html"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("asplos2025",), "asplos2025"),
        (("--exhibit", "cal2023-kv"), "unknown exhibit 'cal2023-kv'"),
        (("--gpu-model", "guessed"), "guessed"),
        (("--report", "nowhere/papers.html"), "there is no folder nowhere"),
        (("--report", "papers.pdf"), "unknown kind of report '.pdf'"),
        (("--report", "."), "is a folder"),
        (("--reprt", "papers.html"), "--reprt"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """Catches a refusal after everything was computed, or a file that was written all the same."""
    monkeypatch.chdir(tmp_path)
    assert message in " ".join(refusal("reproduce", *options).split())
    assert not list(tmp_path.iterdir())


def test_a_report_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where the extra is not installed."""

    def absent(name: str) -> None:
        assert name == "matplotlib"

    monkeypatch.setattr("attacc.report.papers.html.find_spec", absent)
    told = refusal("reproduce", *QUICK, "--report", tmp_path / "papers.html")
    assert "pip install 'attacc[figures]'" in told


def test_a_report_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a half-written file, and an answer on stdout without its report."""
    pytest.importorskip("matplotlib", reason="needs the extra figures")

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("attacc.report.papers.html.Path.replace", fails)
    told = refusal("reproduce", *QUICK, "--report", tmp_path / "papers.html")
    assert "No space left on device" in told
    assert not list(tmp_path.iterdir())


def test_help() -> None:
    """Catches an option without a word."""
    text = invoke("reproduce", "--help").stdout
    assert all(option in text for option in ("--gpu-model", "--exhibit", "--report", "--json"))
