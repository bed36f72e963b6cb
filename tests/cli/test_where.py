"""``attacc where``: its tables, its JSON, and what it refuses."""

import pytest

from tests.cli.console import answer, document, refusal

SMALL = ("--length", "512,4096", "--batch", "1,8")


def test_the_tables_tell_who_wins() -> None:
    """Catches a table without the winner, the reason, or the way to read it."""
    text = answer("where", "llama-3.1-8b", *SMALL)
    assert "full layers, 1 query token a request" in text
    assert "AttAccs read inside at 10.6 times" in text
    assert "AttAcc" in text.splitlines()[6]
    assert "AttAccs read the keys 4 times" in text
    assert "above 1, AttAccs win" in " ".join(text.split())


def test_lengths_beyond_the_context_are_told() -> None:
    """Catches a map of lengths that the model was not made for, without a word."""
    told = document("where", "llama-2-7b", "--length", "512,8192", "--batch", "1")
    note = "requests of up to 8,192 tokens, of a model that was made for 4,096"
    assert note in told["estimates"]


def test_rows_of_the_document() -> None:
    """Catches a point that is missing, or numbers that are not those of its row."""
    told = document("where", "llama-3.1-8b", *SMALL, "--draft-tokens", "3", "--acceptance", "0.5")
    points = {(row["length"], row["batch"], row["queries"]) for row in told["rows"]}
    assert points == {(n, b, q) for n in (512, 4096) for b in (1, 8) for q in (1, 4)}
    for row in told["rows"]:
        assert row["ratio"] == pytest.approx(row["gpu_ms"] / row["attacc_ms"])
        assert row["site"] == ("attacc" if row["ratio"] > 1 else "gpu")
        assert row["passes"] == 4 * row["queries"]
        assert row["tokens"] == (1 if row["queries"] == 1 else 1.875)
        assert row["flops_per_byte"] == pytest.approx(4 * row["queries"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--system", "dgx-base"), "--system: system dgx-base has no AttAccs"),
        (("--length", "12,x"), "--length: 'x' is no whole number"),
        (("--queries", "99"), "--queries: 99 is out of range"),
        (("--draft-tokens", "2"), "--acceptance: how many of 2 drafts"),
        (
            ("--queries", "2", "--draft-tokens", "2", "--acceptance", "0.5"),
            "--queries: queries and",
        ),
        (("--acceptance", "0.5"), "--acceptance: there are no drafts"),
        (("--gpu-model", "none"), "--gpu-model: unknown gpu model 'none'"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], message: str) -> None:
    """Catches an option that is ignored, or an error that does not name it."""
    assert message in refusal("where", "llama-3.1-8b", *options)
