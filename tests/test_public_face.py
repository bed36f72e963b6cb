"""``import attacc as aa``: every name, by name, file or object, and the errors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import attacc as aa
from attacc.errors import AttaccError, DocumentError, InputError, UnknownNameError
from attacc.hardware.system import ResolvedSystem
from attacc.results import Listing, Result
from tests.cli.console import document

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there() -> None:
    """Catches a name that is announced and not found, and a place that nobody is told of."""
    assert set(aa._PLACES) == set(aa.__all__) - {"__version__"}  # pyright: ignore[reportPrivateUsage]
    for name in aa.__all__:
        if name == "attach":
            pytest.importorskip("torch")
        assert getattr(aa, name) is not None
    assert dir(aa) == sorted(aa.__all__)
    for name in aa.__all__:
        assert name in (aa.__doc__ or "") or name == "__version__"
    with pytest.raises(AttributeError, match="no attribute 'compared'"):
        _ = aa.compared  # pyright: ignore[reportAttributeAccessIssue,reportUnknownVariableType]


def test_importing_loads_nothing_heavy() -> None:
    """Catches an import of the face that loads NumPy, pydantic, Numba or Polars at once."""
    code = "import attacc, sys; print(*sys.modules)"
    loaded = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "pydantic", "numba", "polars", "rich", "typer"} & set(loaded)


def test_names_files_documents_and_objects_alike(tmp_path: Path) -> None:
    """Catches a source that is read otherwise than the others."""
    text = 'base = "dgx-attacc-bank"\nname = "mine"\n[attacc]\nstacks_per_device = 8\n'
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    by_file, by_path = aa.load_system(str(path)), aa.load_system(path)
    document = {"base": "dgx-attacc-bank", "name": "mine", "attacc": {"stacks_per_device": 8}}
    by_document = aa.load_system(document)
    changed = aa.load_system("dgx-attacc-bank", name="mine", **{"attacc.stacks_per_device": 8})
    nested = aa.load_system("dgx-attacc-bank", name="mine", attacc={"stacks_per_device": 8})
    for system in (by_file, by_path, by_document, changed, nested, aa.load_system(by_file)):
        assert isinstance(system, ResolvedSystem)
        assert system.spec.attacc is not None
        assert (system.spec.name, system.spec.attacc.stacks_per_device) == ("mine", 8)
        assert system.spec.attacc.heads == "whole", "what is not changed stays"
    with pytest.raises(InputError, match="loaded already is not changed"):
        aa.load_system(by_file, gpus=4)
    model = aa.load_model("llama-3.1-8b", kv="int8")
    assert (model.kv, aa.load_model(model).kv) == ("int8", "int8")
    device = aa.load_device("hbm3-5.2", name="slow", **{"timing.nRCDRD": 40})
    assert device.name == "slow"
    slow, fast = (aa.Stack(one).attend(heads=16, length=100) for one in (device, "hbm3-5.2"))
    assert slow.cycles > fast.cycles


def test_changes_before_derivation() -> None:
    """Catches a change that reaches the document and not what follows from it."""
    whole, half = (aa.load_system("dgx-base", gpus=gpus).gpu_memory_bytes for gpus in (8, 4))
    assert half == whole / 2


def test_a_comparison() -> None:
    """Catches a face that compares otherwise than the command line."""
    asked = ["--model", "llama-3.1-8b", "--prompt", "256", "--output", "16", "--batch", "4"]
    layout = "tp=8,replicas=1"
    systems = ["dgx-base", "dgx-attacc-bank"]
    asked += [f"--layout={layout}", "--engine=vllm", *(f"--system={one}" for one in systems)]
    told = document("compare", *asked)
    found = aa.compare("llama-3.1-8b", (256, 16), systems, batch=4, layout=layout, engine="vllm")
    assert json.loads(json.dumps(found.to_dict())) == told
    loaded = aa.compare(
        aa.load_model("llama-3.1-8b"),
        aa.Requests.fixed(256, 16),
        [aa.load_system(system) for system in systems],
        batch=4,
        layout=layout,
        engine="vllm",
    )
    assert loaded.to_dict() == found.to_dict()
    frame = found.to_frame()
    assert frame["system"].to_list() == systems
    step_ms = frame["performance.tpot_ms"].to_list()
    parts = [f"performance.{part}_ms" for part in ("fc", "attention", "communication", "other")]
    for row, whole in enumerate(step_ms):
        assert sum(frame[part][row] for part in parts) == pytest.approx(whole)
    assert "<table" in found._repr_html_()  # pyright: ignore[reportPrivateUsage]


def test_attention_is_that_of_the_command() -> None:
    """Catches a result that says less, or something else, than the command prints."""
    told = document("attention", "--heads", "130", "--length", "3072", "--stacks", "2")
    from attacc.attention import attend_over

    found = attend_over(
        aa.Stack(), [3072] * 130, stacks=2, head_dim=128, element="fp16", window_ns=1000
    )
    assert json.loads(json.dumps(found.to_dict())) == told
    assert found.to_frame().height == 2
    one = aa.Stack().attend(heads=65, length=3072)
    assert one.time_ns <= told["time_ns"]
    assert one.to_frame().height == 1


def test_every_answer_is_a_document_and_a_table() -> None:
    """Catches a result without a table, or with a document that is no JSON."""
    answers = [
        aa.presets("system"),
        aa.presets("gpu", "h100"),
        aa.accuracy(lengths=[128], kv=["fp16"], placements=["bank"]),
        aa.reproduce(exhibits=["cal2023-kv-bytes"]),
        aa.validate(["energy-row"]),
        aa.Stack().attend(heads=2, length=64),
    ]
    for answer in answers:
        assert isinstance(answer, Result)
        json.dumps(answer.to_dict())
        frame = answer.to_frame()
        assert isinstance(frame, pl.DataFrame)
        assert frame.height > 0
    kinds = aa.presets()
    assert isinstance(kinds, Listing)
    assert "system" in [kind.kind for kind in kinds]
    assert json.loads(kinds.to_json()) == document("presets")
    assert kinds.to_frame().height == sum(len(kind.presets) for kind in kinds)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda: aa.load_model("gpt5"), UnknownNameError, "unknown model preset 'gpt5'"),
        (lambda: aa.load_model("gpt3-175b", kv="fp5"), InputError, "kv: 'fp5' is unknown"),
        (lambda: aa.load_system("dgx"), UnknownNameError, "unknown system preset 'dgx'"),
        (lambda: aa.load_system({"gpus": 4}), DocumentError, "missing key"),
        (
            lambda: aa.load_system("dgx-base", gpu=4),
            DocumentError,
            "gpu: 4 is no text .put it in quotation marks",
        ),
        (
            lambda: aa.load_system("dgx-base", **{"attac.devices": 4}),
            DocumentError,
            "unknown key 'attac' .did you mean 'attacc'",
        ),
        (lambda: aa.Stack(placement="bnk"), UnknownNameError, "did you mean 'bank'"),
        (lambda: aa.Stack().attend(heads=1, length=9, element="fp9"), UnknownNameError, "'fp9'"),
        (lambda: aa.Pricer("opt-66b", "dgx-bas"), UnknownNameError, "did you mean 'dgx-base'"),
        (lambda: aa.Pricer("opt-66b", "dgx-base", gpu_model="own"), UnknownNameError, "'own'"),
        (lambda: aa.compare(batch=0), InputError, "batch: 0 is no batch"),
        (lambda: aa.compare(slo_ms=-1), InputError, "slo_ms: -1 is out of range .use at least"),
        (lambda: aa.compare(systems=[]), InputError, "no systems to compare"),
        (lambda: aa.compare(systems=["2xdgx", "2xdgx"]), InputError, "two systems called"),
        (lambda: aa.accuracy(length=[1]), InputError, "unknown key 'length'"),
        (lambda: aa.reproduce(["cal2022"]), UnknownNameError, "did you mean 'cal2023'"),
        (lambda: aa.validate(["energy-rows"]), UnknownNameError, "did you mean 'energy-row'"),
        (lambda: aa.presets("systems"), UnknownNameError, "did you mean 'system'"),
        (lambda: aa.Requests.from_trace("no.csv"), DocumentError, "no such file"),
    ],
)
def test_errors_are_the_packages_own(ask: object, error: type[AttaccError], message: str) -> None:
    """Catches an error of another library, or one that names no way out."""
    assert callable(ask)
    with pytest.raises(error, match=message) as raised:
        ask()
    assert "pydantic" not in str(raised.value)
    assert "Input should" not in str(raised.value)


def test_requests_and_systems_are_given_alike_everywhere() -> None:
    """Catches a question that takes requests, or one system, in fewer forms than another."""
    pricer = aa.Pricer("llama-3.1-8b", "dgx-base")
    assert pricer.largest_batch((64, 4)) == pricer.largest_batch(aa.Requests.fixed(64, 4))
    mixed = aa.Requests.synthetic("azure-code-2023")
    assert pricer.largest_batch("azure-code-2023") == pricer.largest_batch(mixed)
    one = aa.compare("llama-3.1-8b", (64, 4), "dgx-base", batch=2, decode_only=True)
    assert (
        one.systems
        == aa.compare("llama-3.1-8b", (64, 4), ["dgx-base"], batch=2, decode_only=True).systems
    )


def test_prices_are_answers() -> None:
    """Catches a price without a document or a table, or whose parts do not sum up to it."""
    pricer = aa.Pricer("llama-3.1-8b", "dgx-attacc-bank")
    step = pricer.step(decode=[100, 200], prefill=[aa.Chunk(32)])
    told = json.loads(step.to_json())
    assert sum(part["time_ns"] for part in told["parts"].values()) == pytest.approx(step.time_ns)
    frame = step.to_frame()
    assert (frame["runs"] * frame["time_ns"]).sum() == pytest.approx(step.time_ns)
    assert len(repr(step)) < 100
    several = pricer.steps(aa.Batches.equal(4, [100, 200]))
    assert several.to_frame()["time_ns"].to_list() == several.time_ns.tolist()
    assert pricer.largest_batch((64, 4)).to_dict()["limit"] == "kv_capacity"


def test_a_changed_system_says_so() -> None:
    """Catches a description that still tells of the preset."""
    changed = aa.load_system("dgx-attacc-bank", attacc={"placement": "buffer"})
    assert changed.name == "dgx-attacc-bank"
    assert changed.description.endswith(", changed by hand")


def test_a_longer_context_than_the_models_is_said() -> None:
    """Catches a figure at lengths that the model was not made for, without a word.

    Prompts that are too long by themselves are prefilled at such lengths, too.
    """
    long = aa.compare("llama-3.1-8b", (200_000, 4), "dgx-base", batch=1, decode_only=True)
    said = "requests of up to 200,004 tokens, of a model that was made for 131,072"
    assert f"prompts of up to 200,000 tokens and {said}" in long.estimates
    grown = aa.compare("llama-3.1-8b", (131_000, 100), "dgx-base", batch=1, decode_only=True)
    assert said.replace("200,004", "131,100") in grown.estimates
    short = aa.compare("llama-3.1-8b", (2000, 4), "dgx-base", batch=1, decode_only=True)
    assert not any("made for" in note for note in short.estimates)


def test_a_gpu_of_ones_own_takes_a_calibration(tmp_path: Path) -> None:
    """Before, a data sheet under a new name had no calibration, and no way to name one."""
    gpu = tmp_path / "mine.toml"
    gpu.write_text('base = "h100"\nmemory_bandwidth = "2 TB/s"\n', encoding="utf-8")
    with pytest.raises(InputError, match='calibration = "h100"'):
        aa.compare("llama-3.1-8b", (64, 4), {"base": "dgx-base", "name": "x", "gpu": str(gpu)})
    named = gpu.read_text(encoding="utf-8") + 'calibration = "h100"\n'
    gpu.write_text(named, encoding="utf-8")
    own = aa.load_system("dgx-base", gpu=str(gpu), name="own")
    same = aa.load_system("dgx-base", gpu="h100", name="same")
    slow, fast = aa.compare(
        "llama-3.1-8b", (64, 4), [own, same], batch=64, decode_only=True
    ).systems
    assert slow.performance is not None
    assert fast.performance is not None
    assert slow.performance.tpot_ms > fast.performance.tpot_ms
    assert any("scaled" in note for note in slow.performance.estimates)


def test_a_system_that_cannot_do_the_job_becomes_a_row() -> None:
    """Catches one system that ends the comparison of the others."""
    unknown = aa.load_system("dgx-base", name="mine", link="pcie5-x16")
    found = aa.compare("llama-3.1-8b", (64, 4), ["dgx-base", unknown], batch=1, decode_only=True)
    assert [row.status for row in found.systems] == ["ok", "refused"]
    assert "nothing is known of collectives over pcie5-x16" in (found.systems[1].reason or "")
    with pytest.raises(InputError, match="nothing is known of collectives"):
        aa.compare("llama-3.1-8b", (64, 4), [unknown], batch=1, decode_only=True)


PAGES = [ROOT / "docs" / "model" / "pricer.md", ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_pages_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches an example that was written and not run."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)  # noqa: S102


NOTEBOOKS = sorted((ROOT / "docs" / "tutorial").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(notebook: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a notebook that uses more than the public face, or that no longer runs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    imported = set(re.findall(r"^(?:from|import) (\S+)", "\n".join(code), re.MULTILINE))
    assert imported <= {"attacc", "attacc.attention", "attacc.trace", "pathlib", "polars"}
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, cell in enumerate(code):
        exec(compile(cell, f"{notebook.name}, cell {number}", "exec"), names)  # noqa: S102
