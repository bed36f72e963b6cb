"""``attacc accuracy``: options, JSON, figures, and what is refused."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.console import answer, document, invoke, refusal

SHORT = ("accuracy", "--length", "64,128", "--kv", "fp16", "--steps", "1")


def save(path: Path) -> Path:
    random = np.random.default_rng(0)
    shape = (2, 40, 16)
    np.savez(
        path,
        keys=random.standard_normal(shape),
        values=random.standard_normal(shape),
        queries=random.standard_normal((2, 3, 40, 16)),
    )
    return path


def test_json_and_table_agree() -> None:
    """A table of other figures than the document, a row or a unit that is missing."""
    result = document(*SHORT)
    assert (result["model"], result["head_dim"], result["queries_per_kv_head"]) == (
        "gpt3-175b",
        128,
        1,
    )
    assert [(row["data"], row["length"], row["accumulate"]) for row in result["rows"]] == [
        (data, length, accumulate)
        for data in ("gaussian", "peaked")
        for length in (64, 128)
        for accumulate in ("fp16", "fp32")
    ]
    table = answer(*SHORT)
    for row in result["rows"]:
        for error in (row["total"], row["computing"]):
            assert f"{100 * error['rms']:.2g}%" in table


def test_narrow_terminal() -> None:
    """Cells cut short, or lines that wrap, at 80 columns with all formats."""
    result = invoke(
        "accuracy", "--length", "16384", "--steps", "1", "--data", "gaussian", "--placement",
        "bankgroup", columns=80,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "…" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_options_reach_the_study(tmp_path: Path) -> None:
    """An option that is parsed and forgotten."""
    base = document(*SHORT, "--data", "gaussian")["rows"]
    shared = document(*SHORT, "--data", "gaussian", "--model", "llama-3.1-8b")
    assert shared["queries_per_kv_head"] == 4
    assert [row["contexts"] for row in shared["rows"]] == [4] * 4
    for options in (
        ("--seed", "1"),
        ("--heads", "2"),
        ("--placement", "buffer"),
        ("--tree", "sequential"),
        ("--normalization", "after"),
        ("--sum-keys", "32", "--length", "64,2048"),
        ("--chunk-keys", "32"),
        ("--probability", "bf16"),
    ):
        other = document(*SHORT, "--data", "gaussian", *options)["rows"]
        assert [row["computing"] for row in other] != [row["computing"] for row in base]
    only = document(*SHORT, "--accumulate", "fp32", "--kv", "int8,fp16")["rows"]
    assert {(row["kv"], row["accumulate"]) for row in only} == {("int8", "fp32"), ("fp16", "fp32")}
    path = save(tmp_path / "qkv.npz")
    recorded = document("accuracy", "--data", str(path), "--kv", "fp16", "--queries-per-read", "3")
    assert (recorded["model"], recorded["seed"], recorded["heads"]) == (str(path), None, 2)
    assert {row["length"] for row in recorded["rows"]} == {40}
    assert "recorded data" in answer("accuracy", "--data", str(path), "--kv", "fp16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kv", "fp17"), "--kv: 'fp17' is unknown\n"),
        (("--kv", "fp32"), "keys and values in fp32 are not stored"),
        (("--kv", "fp16,,int8"), "--kv: 'fp16,,int8' has an empty entry"),
        (("--accumulate", "bf16"), "choose fp16 or fp32"),
        (("--kv", "int8", "--accumulate", "fp16"), "add fp16 to kv"),
        (("--probability", "int8"), "as wide as none of the keys and values"),
        (("--probability", "fp8"), "--probability: 'fp8' is unknown"),
        (("--length", "0"), "--length: 0 is out of range"),
        (("--length", "128,x"), "--length: 'x' is no whole number"),
        (("--length", "16777216"), "exceeds a channel, which holds a head of"),
        (("--placement", "banks"), "did you mean 'bank'"),
        (("--data", "normal"), "--data: 'normal' is unknown\n"),
        (("--data", "recorded"), "need a file"),
        (("--data", "absent.npz"), "absent.npz: no such file"),
        (("--model", "gpt"), "unknown model preset 'gpt'"),
        (("--seed", "-1"), "--seed: -1 is out of range"),
        (("--sum-keys", "100"), "use a multiple of 16"),
        (("--figure", "a.txt"), "'.txt' tells no format of figures"),
        (("--figure", "nowhere/a.svg"), "there is no folder nowhere"),
        (("--device", "hbm3-5.2-asplos24"), "models no latencies"),
    ],
)
def test_refusals(options: tuple[str, ...], message: str) -> None:
    """A traceback, a wrong name taken for the default, or a figure refused after all the work."""
    assert message in refusal(*SHORT, *options)


def test_figure_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError after minutes of work, in place of the name of the extra."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = refusal(*SHORT, "--figure", tmp_path / "a.svg")
    assert "matplotlib, which is not installed" in text
    assert "pip install 'attacc[figures]'" in text
    assert not list(tmp_path.iterdir())


def test_figure(tmp_path: Path) -> None:
    """A figure that lacks a curve or an axis label, or differs from one run to the next."""
    pytest.importorskip("matplotlib")
    options = (*SHORT, "--kv", "fp16,int8")
    drawn = [tmp_path / name for name in ("a.svg", "b.svg", "c.png")]
    for path in drawn:
        answer(*options, "--figure", path)
    text = drawn[0].read_text(encoding="utf-8")
    assert text == drawn[1].read_text(encoding="utf-8")
    for words in ("keys of the head", "relative RMS error of the context", "fp16, sums in fp16",
                  "int8, sums in fp32", "Gaussian", "Peaked"):  # fmt: skip
        assert words in text
    assert re.search(r"stroke: #d55e00", text)
    assert drawn[2].read_bytes().startswith(b"\x89PNG")
