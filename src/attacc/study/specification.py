"""The specification of a comparison, as a document or as options of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from attacc.documents import (
    BASE,
    DocumentName,
    FileName,
    Presets,
    PresetSpec,
    Spec,
    folder_of,
    names_file,
    parse_document,
    read_document,
)
from attacc.errors import InputError, nearest_hint
from attacc.gpu.models import Engine, GpuModel
from attacc.hardware.system import MAX_DEVICES
from attacc.models.architecture import MODELS
from attacc.models.huggingface import load_model
from attacc.models.precision import ElementType, StoredWeights
from attacc.models.served import ServedModel
from attacc.serving.policies import TOKEN_BUDGET, PrefillPolicy
from attacc.system.layout import Layout
from attacc.system.sites import Site
from attacc.units import MAX_SIZE
from attacc.workload.requests import Workload, fixed_lengths
from attacc.workload.speculation import MOST_DRAFTS
from attacc.workload.synthetic import synthetic
from attacc.workload.traces import load_workload

DEFAULT_MODEL: Final = "llama-3.1-70b"
DEFAULT_PROMPT: Final = 8192
DEFAULT_OUTPUT: Final = 1024
DEFAULT_SYSTEMS: Final = (
    "8xh100",
    "8xh100-attacc-hbm3",
    "8xh100-attacc-hbm3-shared",
    "8xh200",
    "8xh200-attacc-hbm3",
    "8xh200-attacc-hbm3-shared",
    "8xb200",
    "8xb200-attacc-hbm3",
    "8xb200-attacc-hbm3-shared",
)
"""The study "today": the comparison that ``attacc compare`` makes without arguments."""

MAX_BATCH: Final = MAX_SIZE
"""Most requests of a batch for which a step can be priced, even if more would fit."""

Tokens = Annotated[int, Field(ge=1, le=2**24)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Batch = Annotated[int, Field(ge=1, le=MAX_BATCH)]
LatencyTarget = Annotated[float, Field(ge=1e-6, le=1e9)]


def _check_batch(value: object) -> object:
    if value == "max" or (type(value) is int and 1 <= value <= MAX_BATCH):
        return value
    raise ValueError(f'{value!r:.40} is no batch: use a number from 1 to {MAX_BATCH}, or "max"')


def _check_layout(text: str) -> str:
    try:
        Layout.stated(text)
    except InputError as refusal:
        raise ValueError(f"{refusal.message}: {refusal.hint}") from None
    return text


def _check_model(name: str, info: ValidationInfo) -> str:
    # The name of a folder without a slash would belong to the current folder, not to the study's.
    if folder_of(info) is None or names_file(name) or name in MODELS.names():
        return name
    raise ValueError(
        f"unknown model preset {name!r:.80}: {nearest_hint(name, MODELS.names())}; "
        "a folder with a config.json is written with a slash, as in ./folder"
    )


Drafts = Annotated[int, Field(ge=0, le=MOST_DRAFTS)]
Probability = Annotated[float, Field(ge=0, le=1)]


class WorkloadTable(Spec):
    """Which requests arrive: equal ones, those of a trace, or those of a fitted distribution.

    Attributes:
        prompt: prompt tokens of every request.
        output: output tokens of every request.
        trace: file of a recorded trace, relative to the study's folder.
        synthetic: name of a workload preset, or its file.
        seed: seed of the synthetic requests; 0 by default.
    """

    prompt: Tokens | None = None
    output: Tokens | None = None
    trace: FileName | None = None
    synthetic: DocumentName | None = None
    seed: Seed | None = None

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> Self:
        fixed = self.prompt is not None or self.output is not None
        if fixed + (self.trace is not None) + (self.synthetic is not None) > 1:
            raise ValueError("give prompt and output, or trace, or synthetic: only one of them")
        if self.seed is not None and self.synthetic is None:
            raise ValueError("seed is of no use without synthetic: remove it, or name a workload")
        return self


class PrecisionTable(Spec):
    """Element types in place of those that the model states.

    Attributes:
        weights: element type of every parameter, or a block format of the linear layers.
        activations: element type of the values between operators.
        kv: element type of the key/value cache.
    """

    weights: StoredWeights | None = None
    activations: ElementType | None = None
    kv: ElementType | None = None


class StudySpec(Spec):
    """A comparison of systems on one model and workload.

    Attributes:
        model: a preset's name, a TOML file, or a Hugging Face config.json.
        precision: element types in place of the model's.
        workload: which requests arrive.
        systems: presets' names or files. Decode is compared with the first one, whole requests of
            a system with AttAccs with those of the same GPUs alone.
        batch: requests in flight, or "max": decode takes as many as fit and meet the latency
            target, whole requests the batch that serves most requests.
        slo_ms: longest acceptable mean time per output token.
        gpu_model: model that prices the GPUs: the calibrated one, or the papers'.
        sites: kind of layers -> "gpu", "attacc" or "auto": where their mixers run on systems with a
            choice. Kinds that are not named leave the GPUs where they can.
        draft_tokens: drafts that every decode step verifies.
        acceptance: probability that a draft is accepted if those before it were: one for all, or
            one for each.
        shared_prefix: tokens at the beginning of all prompts that are the same.
        layout: numbers of the layout of whole requests that are given, as in "tp=4,replicas=2";
            the others, or all, are searched for the most requests per second.
        engine: serving engine whose kernels and host price whole requests; by default the better.
        prefill: how the GPUs prefill in whole requests.
        prefill_gpus: GPUs that prefill, with prefill = "disaggregated".
        token_budget: tokens of a step at most, with prefill = "mixed".
        slo_ttft_ms: longest acceptable time to the first token, without queueing.
        decode_only: whether whole requests are left out, with the search of their layouts.
    """

    model: Annotated[DocumentName, AfterValidator(_check_model)] = DEFAULT_MODEL
    precision: PrecisionTable = PrecisionTable()
    workload: WorkloadTable = WorkloadTable()
    systems: Annotated[tuple[DocumentName, ...], Field(min_length=1)] = DEFAULT_SYSTEMS
    batch: Annotated[Batch | Literal["max"], BeforeValidator(_check_batch)] = "max"
    slo_ms: LatencyTarget | None = None
    gpu_model: GpuModel = GpuModel.CALIBRATED
    sites: dict[str, Site] = Field(default_factory=dict)
    draft_tokens: Drafts | None = None
    acceptance: Probability | tuple[Probability, ...] | None = None
    shared_prefix: Annotated[int, Field(ge=0, le=MAX_SIZE)] | None = None
    layout: Annotated[str, AfterValidator(_check_layout)] | None = None
    engine: Engine | None = None
    prefill: PrefillPolicy = PrefillPolicy.MIXED
    prefill_gpus: Annotated[int, Field(ge=1, le=MAX_DEVICES)] | None = None
    token_budget: Annotated[int, Field(ge=1, le=MAX_SIZE)] = TOKEN_BUDGET
    slo_ttft_ms: LatencyTarget | None = None
    decode_only: bool = False

    @model_validator(mode="after")
    def _prefill_is_stated(self) -> Self:
        apart = self.prefill is PrefillPolicy.DISAGGREGATED
        if apart and self.prefill_gpus is None:
            raise ValueError(
                'prefill = "disaggregated" needs prefill_gpus: say how many GPUs prefill'
            )
        if not apart and self.prefill_gpus is not None:
            raise ValueError(
                f'prefill_gpus is of no use with prefill = "{self.prefill}": '
                'remove it, or write prefill = "disaggregated"'
            )
        return self

    @model_validator(mode="after")
    def _distinct_systems(self) -> Self:
        for name in self.systems:
            if self.systems.count(name) > 1:
                raise ValueError(f"system {name!r} is given twice: each needs a name of its own")
        return self

    def load_model(self) -> ServedModel:
        """Load the model, with the element types of this study.

        Raises:
            InputError: there is no such model, its file is malformed, or an element type is not
                possible in its place.
        """
        types = self.precision
        return load_model(
            self.model,
            weights=types.weights,
            activations=types.activations,
            kv=types.kv,
            where="model",
        )

    def load_workload(self) -> Workload:
        """Load or make the requests.

        Raises:
            InputError: there is no such workload, or its file is malformed.
        """
        table = self.workload
        if table.trace is not None:
            return load_workload(Path(table.trace))
        if table.synthetic is not None:
            return synthetic(table.synthetic, seed=table.seed or 0, where="workload.synthetic")
        prompt = DEFAULT_PROMPT if table.prompt is None else table.prompt
        output = DEFAULT_OUTPUT if table.output is None else table.output
        if output < 2:
            raise InputError(
                f"{output} output token leaves nothing to decode",
                where="workload.output",
                hint="the first output token comes from the prefill: use 2 or more",
            )
        return fixed_lengths(prompt, output)


class StudyPreset(PresetSpec, StudySpec):
    """A comparison that is shipped under a name; its other keys are those of a study."""


STUDIES: Final = Presets("study", StudyPreset, "attacc.study", "presets")


_OF_WORKLOAD: Final = ("prompt", "output", "trace", "synthetic", "seed")
_OF_PRECISION: Final = ("weights", "activations", "kv")


def load_study(source: str | Path | None = None, **options: object) -> StudySpec:
    """Load a study; the files that it names are relative to its folder.

    Args:
        source: a preset's name, as in "asplos2024", or the study file, whose ``base`` may name a
            preset; None for the study "today".
        options: keys in place of those of the study: those of `StudySpec` other than ``workload``
            and ``precision``, and those of these two tables by themselves, as in ``prompt=512``.
            An option that is None changes nothing. A trace, or a workload preset, takes the place
            of the study's whole workload; files are relative to where attacc runs.

    Raises:
        DocumentError: the file is absent or malformed, or an option is.
        UnknownNameError: there is no such preset.
    """
    given = {name: value for name, value in options.items() if value is not None}
    study = StudySpec() if source is None else _study_of(str(source))
    if not given:
        return study
    document = study.model_dump(mode="json", exclude_none=True)
    lengths = {name: given.pop(name) for name in _OF_WORKLOAD if name in given}
    if lengths.keys() & {"trace", "synthetic"}:
        document["workload"] = lengths
    elif lengths.keys() & {"prompt", "output"}:
        kept = {k: v for k, v in document["workload"].items() if k in ("prompt", "output")}
        document["workload"] = kept | lengths
    else:
        document["workload"] |= lengths
    document["precision"] |= {name: given.pop(name) for name in _OF_PRECISION if name in given}
    return parse_document(StudySpec, document | given, where="options")


def _study_of(source: str) -> StudySpec:
    """Return the study of a preset, or of a file."""
    if not names_file(source) and not Path(source).suffix:
        found = STUDIES.load(source, where="study")
    else:
        document = read_document(Path(source))
        if BASE not in document:
            return parse_document(StudySpec, document, where=source, folder=Path(source).parent)
        found = STUDIES.load_file(Path(source))
    return StudySpec(**{name: getattr(found, name) for name in StudySpec.model_fields})
