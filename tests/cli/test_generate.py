"""``attacc generate``. What needs no model is tested without torch, too."""

import importlib.util
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.cli.console import DEVICE_FILE, answer, document, invoke, refusal

KEYS = [
    "model", "host_dtype", "device", "placement", "devices", "stacks_per_device", "link",
    "power_limited", "queries_per_read", "kv", "accumulate", "temperature", "seed", "prompt",
    "text", "tokens", "ended", "prefill", "steps",
]  # fmt: skip
STEP = [
    "token", "text", "keys", "cycles", "time_ns", "energy_pj", "link_ns", "link_pj", "bytes_in",
    "bytes_out", "bank_read_bytes", "read_over_link", "saturated", "host_wall_s",
]  # fmt: skip
PROMPT = "w5 w6 w7 w8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason='needs pip install "attacc[torch]"')
    from tests.integrations.models import model_of, save_with_tokenizer

    return save_with_tokenizer(model_of(), tmp_path_factory.mktemp("model"))


def generated(folder: Path, *options: str) -> Any:
    return document("generate", PROMPT, "--model", folder, "--raw", "--max-tokens", "5", *options)


def test_the_document(folder: Path) -> None:
    """A key that is renamed, a figure of another field, a token that is not counted."""
    got = generated(folder)
    assert list(got) == KEYS
    assert list(got["prefill"]) == ["tokens", "bytes_in", "link_ns", "saturated", "host_wall_s"]
    assert (got["kv"], got["accumulate"], got["host_dtype"]) == ("fp16", "fp16", "fp32")
    assert (got["device"], got["placement"], got["link"]) == ("hbm3-5.2", "bank", "nvlink3")
    kv = 3 * 2 * 2 * 16 * 2  # of a token: keys and values of 3 layers, 2 heads of 16 fp16
    queries = 3 * 8 * 16 * 2
    assert got["prefill"]["bytes_in"] == 4 * kv
    assert got["tokens"] == len(got["steps"]) + 1
    words = got["text"].split()
    assert len(words) == got["tokens"] - got["ended"]
    assert [step["text"] for step in got["steps"]] == words[: len(got["steps"])]
    for index, step in enumerate(got["steps"]):
        assert list(step) == STEP
        assert step["keys"] == 5 + index
        assert step["text"] == f"w{step['token']}"
        assert (step["bytes_in"], step["bytes_out"]) == (queries + kv, queries)
        on_link = step["bytes_in"] + step["bytes_out"]
        assert step["read_over_link"] == step["bank_read_bytes"] / on_link
        assert step["time_ns"] == pytest.approx(step["cycles"] * 0.769, rel=1e-3)
        assert min(step[key] for key in STEP if key not in ("text", "saturated")) > 0


def test_options_reach_the_device(folder: Path) -> None:
    """An option without effect."""
    plain = generated(folder)
    step = plain["steps"][0]
    shared = generated(folder, "--queries-per-read", "4")["steps"][0]
    assert shared["bank_read_bytes"] < step["bank_read_bytes"]
    assert generated(folder, "--placement", "buffer")["steps"][0]["cycles"] != step["cycles"]
    assert not generated(folder, "--no-power-limit")["power_limited"]
    assert generated(folder, "--link", "pcie4-x16")["steps"][0]["link_ns"] > step["link_ns"]
    several = generated(folder, "--devices", "2", "--stacks", "2")
    assert (several["devices"], several["stacks_per_device"]) == (2, 2)
    assert generated(folder, "--temperature", "5", "--seed", "1")["text"] != plain["text"]
    for kv, accumulate in (("fp16", "fp32"), ("bf16", "fp32"), ("int8", "fp32"), ("fp8", "fp32")):
        other = generated(folder, "--kv", kv, "--accumulate", accumulate)
        assert (other["kv"], other["accumulate"]) == (kv, accumulate)
    assert generated(folder, "--host-dtype", "bf16")["host_dtype"] == "bf16"
    assert generated(folder, "--threads", "1")["text"] == plain["text"]


def test_text_and_table(folder: Path) -> None:
    """Text that is not on stdout, or a table that is cut off."""
    expected = generated(folder)
    text = answer("generate", PROMPT, "--model", folder, "--raw", "--max-tokens", "5")
    assert text.startswith(expected["text"] + "\n")
    assert "prompt: 4 tokens on the host" in text
    assert f"written: {expected['tokens']} tokens" in text
    for row in ("cycles", "time in stacks", "bytes in", "read in banks", "read / on link"):
        assert f"\n{row} " in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_single_token(folder: Path) -> None:
    """A mean of nothing."""
    text = answer("generate", PROMPT, "--model", folder, "--raw", "--max-tokens", "1")
    assert "none was attended from" in text


def test_conversations_need_a_template(folder: Path) -> None:
    assert "--raw" in refusal("generate", PROMPT, "--model", folder)


def test_refused_with_a_model(folder: Path, tmp_path: Path) -> None:
    """Input that fails only after some text, or as a fault of attacc."""
    asked = ("generate", PROMPT, "--model", folder, "--raw")
    assert "beyond the 64 positions" in refusal(*asked, "--max-tokens", "64")
    assert "unknown host dtype 'fp4'" in refusal(*asked, "--host-dtype", "fp4")
    assert "no such folder" in refusal("generate", PROMPT, "--model", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refusal("generate", PROMPT, "--model", tmp_path / "empty")


def test_room(folder: Path, tmp_path: Path) -> None:
    """A text that breaks off where memory ends, rather than not to begin."""
    from attacc.hardware.dram import DRAMS

    device = DRAMS.load("hbm3-5.2")
    assert device.organization.rows > 2
    small = tmp_path / "small.toml"
    text = (files("attacc.hardware") / "presets/dram/hbm3-5.2.toml").read_text(encoding="utf-8")
    small.write_text(text.replace(f"rows = {device.organization.rows}", "rows = 2"))
    message = refusal(
        "generate", PROMPT, "--model", folder, "--raw", "--max-tokens", "50", "--device", small
    )
    assert "GB needed" in message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--kv", "fp4"), "unknown format of keys and values 'fp4'"),
        (("--accumulate", "fp64"), "unknown format of sums 'fp64'"),
        (("--kv", "int8", "--accumulate", "fp16"), "int8 is not summed in fp16"),
        (("--device", "hbm9"), "unknown device preset 'hbm9'"),
        (("--device", "hbm3-5.2-asplos24"), "pipeline"),
        (("--placement", "moon"), "unknown placement 'moon'"),
        (("--link", "rope"), "unknown link preset 'rope'"),
        (("--max-tokens", "0"), "--max-tokens"),
        (("--temperature", "-1"), "is negative"),
        (("--seed", "-1"), "out of range"),
    ],
)
def test_refused_before_anything_is_loaded(options: tuple[str, ...], named: str) -> None:
    """A misspelt option that costs the time of loading a model, or that torch has to refuse."""
    assert named in refusal("generate", "hello", *options)


@pytest.mark.parametrize("missing", ["torch", "transformers", "gguf"])
def test_the_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ModuleNotFoundError where a hint would do."""
    found = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name == missing else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    if missing != "torch" and found("torch") is None:
        pytest.skip("torch is missing before")
    message = refusal("generate", "hello")
    assert f"needs {missing}" in message
    assert 'pip install "attacc[torch]"' in message


def test_own_devices(folder: Path, tmp_path: Path) -> None:
    """A device file that is taken for a preset; this one has no pipeline."""
    mine = tmp_path / "mine.toml"
    mine.write_text(DEVICE_FILE, encoding="utf-8")
    result = invoke("generate", PROMPT, "--model", folder, "--raw", "--device", mine)
    assert result.exit_code == 2
    assert "mine" in result.stderr
