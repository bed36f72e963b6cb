"""What a study may ask for, and what it says of what it may not."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import DocumentError, InputError, UnknownNameError
from attacc.hardware.system import load_system
from attacc.models.precision import ElementType
from attacc.models.served import weight_type
from attacc.study.specification import (
    DEFAULT_SYSTEMS,
    STUDIES,
    StudySpec,
    WorkloadTable,
    load_study,
)
from attacc.workload.requests import Request
from tests.study.comparisons import PAPERS, study

FULL = """\
model = "llama-2-7b"
systems = ["dgx-large", "mine/system.toml"]
batch = 12
slo_ms = 50
gpu_model = "calibrated"
draft_tokens = 3
shared_prefix = 100
acceptance = [0.9, 0.8, 0.7]
layout = "tp=4,replicas=2"
engine = "trtllm"
prefill = "disaggregated"
prefill_gpus = 4
token_budget = 4096
slo_ttft_ms = 900
decode_only = true

[sites]
full = "attacc"

[precision]
weights = "int8"
activations = "bf16"
kv = "fp8"

[workload]
prompt = 300
output = 40
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_reaches_the_study(tmp_path: Path) -> None:
    """Catches a key that is read and then forgotten."""
    spec = load_study(written(tmp_path, FULL))
    assert spec.model == "llama-2-7b"
    assert spec.systems == ("dgx-large", str(tmp_path / "mine" / "system.toml"))
    assert (spec.batch, spec.slo_ms, spec.gpu_model) == (12, 50, "calibrated")
    assert (spec.sites, spec.draft_tokens, spec.acceptance, spec.shared_prefix) == (
        {"full": "attacc"}, 3, (0.9, 0.8, 0.7), 100
    )  # fmt: skip
    assert (spec.layout, spec.engine, spec.decode_only) == ("tp=4,replicas=2", "trtllm", True)
    whole = (spec.prefill, spec.prefill_gpus, spec.token_budget, spec.slo_ttft_ms)
    assert whole == ("disaggregated", 4, 4096, 900)
    model = spec.load_model()
    assert weight_type(model.formats.default) is ElementType.INT8
    assert weight_type(model.formats.wide) is ElementType.INT8
    assert model.activations is ElementType.BF16
    assert model.kv is ElementType.FP8
    workload = spec.load_workload()
    assert workload.name == "300+40"
    assert set(StudySpec.model_fields) == {
        "model", "precision", "workload", "systems", "batch", "slo_ms", "gpu_model", "sites",
        "draft_tokens", "acceptance", "shared_prefix", "layout", "engine", "prefill",
        "prefill_gpus", "token_budget", "slo_ttft_ms", "decode_only",
    }  # fmt: skip
    assert set(WorkloadTable.model_fields) == {"prompt", "output", "trace", "synthetic", "seed"}


def test_an_empty_study_is_the_default_one(tmp_path: Path) -> None:
    """Catches defaults of the document that are not those of the command."""
    spec = load_study(written(tmp_path, ""))
    assert spec == StudySpec()
    assert (spec.model, spec.systems, spec.batch) == ("llama-3.1-70b", DEFAULT_SYSTEMS, "max")
    assert spec.load_workload().name == "8192+1024"


def test_the_study_of_today_is_the_default_comparison() -> None:
    """Catches a shipped study that asks another question than the command without arguments."""
    named, default = load_study("today"), load_study()
    assert named.model_copy(update={"workload": default.workload}) == default
    assert named.load_workload().name == default.load_workload().name == "8192+1024"


def test_the_study_of_the_papers() -> None:
    """Catches a platform, the model or a length of the papers that is lost."""
    papers = load_study("asplos2024")
    assert (papers.model, papers.systems) == ("gpt3-175b", PAPERS)
    assert papers.load_workload().name == "2048+2048"
    assert not papers.decode_only


def test_the_studies_of_today() -> None:
    """Catches a baseline with AttAccs, a system without its partner, and swapped lengths."""
    assert STUDIES.names() == ["asplos2024", "reasoning", "rivals", "today"]
    today, reasoning = load_study("today"), load_study("reasoning")
    assert today.load_workload().name == "8192+1024"
    assert reasoning.load_workload().name == "1024+8192"
    assert today.model_copy(update={"workload": reasoning.workload}) == reasoning
    assert today.load_model().name == "llama-3.1-70b"
    assert today.systems == tuple(
        f"8x{gpu}{attacc}"
        for gpu in ("h100", "h200", "b200")
        for attacc in ("", "-attacc-hbm3", "-attacc-hbm3-shared")
    )
    assert all(load_system(name).spec.memory_reserve for name in today.systems)


def test_rivals_answer_the_question_of_today() -> None:
    """Catches rivals beside other GPUs, or asked about other requests."""
    today, rivals = load_study("today"), load_study("rivals")
    assert rivals.model_copy(update={"systems": today.systems}) == today
    assert rivals.systems == (
        "8xh100", "8xh100-attacc-hbm3", "8xh100-hbm-pim", "8xh100-aim", "8xh100-logic-die",
        "8xh100-neupims",
    )  # fmt: skip


def test_a_file_changes_a_shipped_study(tmp_path: Path) -> None:
    """Catches a base that is ignored, or whose other keys are lost, and names beside the file."""
    spec = load_study(written(tmp_path, 'base = "today"\nsystems = ["./mine.toml"]\nbatch = 7'))
    assert spec.systems == (str(tmp_path / "mine.toml"),)
    assert (spec.model, spec.batch, spec.load_workload().name) == ("llama-3.1-70b", 7, "8192+1024")
    assert type(spec) is StudySpec
    assert load_study("today", batch=7, prompt=100).load_workload().name == "100+1024"
    with pytest.raises(UnknownNameError, match=r"study preset 'tomorow'.*today"):
        load_study("tomorow")


def test_one_length_leaves_the_other_at_its_default() -> None:
    """Catches an output that is taken for the prompt."""
    assert study(workload={"prompt": 5}).load_workload().name == "5+2048"
    assert study(workload={"output": 5}).load_workload().name == "2048+5"


@pytest.mark.parametrize(
    "text",
    ['[workload]\ntrace = "requests.jsonl"', '[workload]\ntrace = "./requests.jsonl"'],
)
def test_a_trace_is_looked_for_beside_the_study(tmp_path: Path, text: str) -> None:
    """Catches a path that depends on where the command is started."""
    line = '{"timestamp": 0, "input_length": 30, "output_length": 2}\n'
    (tmp_path / "requests.jsonl").write_text(line, encoding="utf-8")
    assert load_study(written(tmp_path, text)).load_workload().name == "requests.jsonl"


def test_other_files_are_looked_for_beside_the_study(tmp_path: Path) -> None:
    """Catches a path that is resolved for one kind of file only, or a preset's name that is."""
    text = """\
model = "models/config.json"
systems = ["dgx-base", "system.json"]
workload.synthetic = "lengths.toml"
"""
    spec = load_study(written(tmp_path, text))
    assert spec.model == str(tmp_path / "models" / "config.json")
    assert spec.systems == ("dgx-base", str(tmp_path / "system.json"))
    assert spec.workload.synthetic == str(tmp_path / "lengths.toml")
    absolute = load_study(written(tmp_path, f'model = "{tmp_path}/config.json"'))
    assert absolute.model == f"{tmp_path}/config.json"
    named = load_study(written(tmp_path, 'model = "llama-3.1-8b"\nworkload.synthetic = "azure"'))
    assert (named.model, named.workload.synthetic) == ("llama-3.1-8b", "azure")


def test_a_seed_reaches_the_random_numbers() -> None:
    """Catches a seed that is ignored."""

    def made(seed: int) -> tuple[Request, ...]:
        chosen = study(workload={"synthetic": "azure-conv-2023", "seed": seed})
        return chosen.load_workload().requests

    assert made(5) == made(5) != made(6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "x"', r"study\.toml: modle: unknown key 'modle' \(did you mean 'model'"),
        ("[workload]\nprompts = 3", r"workload\.prompts: unknown key.*did you mean 'prompt'"),
        ('[precision]\nweight = "int8"', r"precision\.weight: unknown key.*'weights'"),
        ('[precision]\nweights = "fp32"', r"precision\.weights: 'fp32'"),
        ("systems = []", "systems: .*too short"),
        ('systems = ["dgx-base", "dgx-base"]', "system 'dgx-base' is given twice"),
        ('systems = "dgx-base"', "systems: 'dgx-base'"),
        ("[workload]\nprompt = 0", r"workload\.prompt: 0 is out of range"),
        ("[workload]\nprompt = -5", r"workload\.prompt: -5"),
        ("[workload]\noutput = 99999999999999999999", r"workload\.output: 9999"),
        ("[workload]\noutput = 2.5", r"workload\.output: 2\.5"),
        ("[workload]\nprompt = nan", r"workload\.prompt: "),
        ("[workload]\nprompt = true", r"workload\.prompt: True"),
        ('[workload]\nprompt = 3\ntrace = "a.csv"', "only one of them"),
        ('[workload]\nsynthetic = "azure-conv-2023"\ntrace = "a.csv"', "only one of them"),
        ('[workload]\nsynthetic = "azure-conv-2023"\noutput = 3', "only one of them"),
        ("[workload]\nseed = -1", r"workload\.seed: -1"),
        ("[workload]\nseed = 1", r"workload: seed is of no use without synthetic"),
        ("batch = 0", 'batch: 0 is no batch: use a number from 1 to 16777216, or "max"$'),
        ("batch = 1.5", r"batch: 1\.5 is no batch"),
        ("batch = true", "batch: True is no batch"),
        ('batch = "most"', "batch: 'most' is no batch"),
        ("batch = 16777217", "batch: 16777217 is no batch"),
        ("slo_ms = 0", "slo_ms: 0 is out of range"),
        ("slo_ms = -1", "slo_ms: -1"),
        ("slo_ms = nan", "slo_ms: nan is no"),
        ("slo_ms = inf", "slo_ms: inf is no"),
        ('slo_ms = "50 ms"', "slo_ms: '50 ms' is no number"),
        ("model = 3", "model: 3 is no text"),
        ("batch = ", "is not valid TOML"),
    ],
)
def test_what_a_study_may_not_hold(tmp_path: Path, text: str, message: str) -> None:
    """Catches a value that is accepted, or a message without field, value and way out."""
    path = written(tmp_path, text)
    with pytest.raises(DocumentError, match=message) as caught:
        load_study(path)
    assert str(path) in str(caught.value)


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    """Catches a traceback, and a proposal that is missing."""
    written(tmp_path, "")
    with pytest.raises(DocumentError, match=r"no such file \(did you mean 'study.toml'"):
        load_study(tmp_path / "studi.toml")
    with pytest.raises(DocumentError, match=r"unknown file kind '\.yaml'"):
        load_study(tmp_path / "study.yaml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(DocumentError, match="is a folder"):
        load_study(tmp_path / "folder.toml")


@pytest.mark.parametrize("part", ["activations", "kv"])
def test_only_weights_are_stored_in_four_bits(part: str) -> None:
    """Catches an error of another library in place of one message."""
    spec = study(precision={part: "int4"})
    with pytest.raises(InputError, match=f"precision: {part}: only weights are stored in int4"):
        spec.load_model()


def test_a_single_output_token_is_no_decode() -> None:
    """Catches a division by no steps."""
    with pytest.raises(InputError, match=r"workload\.output: 1 output token leaves nothing"):
        study(workload={"output": 1}).load_workload()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model": "gpt3-157b"}, "model: unknown model preset 'gpt3-157b'.*'gpt3-175b'"),
        ({"workload": {"synthetic": "azure-conv"}}, r"workload\.synthetic: .*'azure-conv-2023'"),
    ],
)
def test_names_that_do_not_exist(document: dict[str, Any], message: str) -> None:
    """Catches a message that does not name the field and the nearest choice."""
    with pytest.raises(UnknownNameError, match=message):
        load_all(study(**document))


def load_all(spec: StudySpec) -> None:
    spec.load_model()
    spec.load_workload()


KEYS = st.one_of(
    st.sampled_from(
        ["model", "systems", "batch", "slo_ms", "precision", "workload", "prompt", "weights", "kv"]
    ),
    st.text(max_size=8),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["max", "int4", "int8", "gpt3-175b", "dgx-base", "nowhere.csv", "a/b", "\0"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda nested: st.lists(nested, max_size=3) | st.dictionaries(KEYS, nested, max_size=3),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "model": LEAVES,
        "systems": st.lists(LEAVES, max_size=3) | LEAVES,
        "batch": LEAVES,
        "slo_ms": LEAVES,
        "precision": st.dictionaries(st.sampled_from(["weights", "activations", "kv"]), LEAVES),
        "workload": st.dictionaries(
            st.sampled_from(["prompt", "output", "trace", "synthetic", "seed"]), LEAVES
        ),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[object], Path]:
    path = tmp_path_factory.mktemp("studies") / "study.json"

    def write(document: object) -> Path:
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    return write


@given(document=st.one_of(NEARLY, VALUES, st.dictionaries(KEYS, VALUES, max_size=4)))
def test_random_documents_are_studies_or_refused(
    folder: Callable[[object], Path], document: object
) -> None:
    """Catches any error but the project's own, whatever a document holds."""
    with contextlib.suppress(InputError):
        load_all(load_study(folder(document)))
