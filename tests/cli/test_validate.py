"""``attacc validate``: answers, the page, exit codes."""

from pathlib import Path

import pytest

from attacc.study.claims import registry
from attacc.study.claims.validation import Check, Claim, Measured, Room, Tolerance, Unit
from tests.cli.console import answer, document, invoke, refusal

TWO = ("validate", "--claim", "energy-row", "--claim", "gpu-gemm-a100")


def test_json_and_table_agree() -> None:
    """A key renamed, a share that is printed as a percentage of a percentage."""
    result = document(*TWO)
    assert (result["version"], result["with_reference"]) == ("0.1.0", False)
    row, gemm = result["outcomes"]
    assert row["status"] == "held"
    assert 0.08 < row["measured"] < row["claim"]["tolerance"]["most"] == 0.15
    assert [figure["unit"] for figure in row["figures"]] == ["pJ", "pJ"]
    assert (gemm["status"], gemm["claim"]["needs"]) == ("recorded", "reference data")
    table = answer(*TWO)
    assert "8.8 %" in table
    assert "recorded" in table
    assert "2 claims: 1 held, 0 failed, 1 recorded, 0 not run here." in table


def test_a_narrow_terminal() -> None:
    """Cells cut short at 80 columns."""
    text = invoke("validate", "--claim", "energy-row", "--claim", "system-steps", columns=80).stdout
    assert "…" not in text
    assert "by the project's tests: system-steps" in text


def claims(*errors: float) -> tuple[Check, ...]:
    tolerance = Tolerance(0.1, Unit.SHARE, "because")
    return tuple(
        Check(
            Claim(f"claim-{number}", Room.TIMING, "It is so.", "data", tolerance, "limits"),
            measure=lambda error=error: Measured(error, 1),
        )
        for number, error in enumerate(errors)
    )


def test_a_failed_claim_is_answered_and_exits_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure that scripts do not notice, or that is not on the page."""
    monkeypatch.setattr(registry, "all_checks", lambda: claims(0.05, 0.2))
    page = tmp_path / "validation.md"
    result = invoke("validate", "-o", page)
    assert (result.exit_code, result.stderr) == (3, "")
    assert "1 held, 1 failed" in result.stdout
    assert "| 20 % | limits | **failed** |" in page.read_text()
    monkeypatch.setattr(registry, "all_checks", lambda: claims(0.05))
    assert invoke("validate", "-o", page).exit_code == 0
    first = page.read_bytes()
    invoke("validate", "-o", page)
    assert page.read_bytes() == first
    assert str(tmp_path) not in page.read_text()


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    """A page of some claims that passes for one of all, and data that are none."""
    for told, arguments in (
        ("did you mean 'energy-row'", ("--claim", "energy-rows")),
        ("the page states all claims", ("--claim", "energy-row", "-o", tmp_path / "a.md")),
        ("neither reference/golden nor data/silicon", ("--reference", tmp_path)),
        ("there is no folder", ("-o", tmp_path / "no" / "a.md")),
    ):
        assert told in refusal("validate", *arguments)
    assert list(tmp_path.iterdir()) == []
