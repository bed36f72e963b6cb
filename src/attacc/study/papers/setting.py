"""The platforms and models of the papers, which all exhibits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeVar

from attacc.errors import InputError
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    SYSTEMS,
    CapacityRule,
    ResolvedSystem,
    Schedule,
    SystemSpec,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.models.precision import ElementType, Precision
from attacc.study.papers.platforms import Load, Platform, Pricers, Served, Subject

INT8: Final = Precision(weights=ElementType.INT8, activations=ElementType.INT8, kv=ElementType.INT8)
LONG: Final = Load(2048, 2048)
"""The lengths of the papers' headline figures."""
SIDES: Final = (128, 512, 2048)
LOADS: Final = tuple(Load(prompt, output) for prompt in SIDES for output in SIDES)
"""Prompt and output lengths of the papers' sweep."""
TARGETS_MS: Final = (None, 70.0, 50.0, 30.0)
"""Latency targets per output token; None for none."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Variant:
    """An AttAcc system that differs from ``dgx-attacc-bank``.

    Attributes:
        label: for people.
        as_published: the papers' stack, without latencies of its units, its commands ordered by
            barriers, and all memory counted as one pool; otherwise this project's stack, and keys
            and values in the stacks.
        placement: of the units.
        power_limited: whether the stacks keep to their power budget.
        pipelining: head-level pipelining.
        coprocessing: feed-forward co-processing.
        stacks_per_device: stacks of each of the 8 AttAccs.
        link: preset of the link between GPUs and AttAccs.
        queries_per_read: query heads that a read of shared keys and values serves.
    """

    label: str
    as_published: bool = False
    placement: Placement = Placement.BANK
    power_limited: bool = True
    pipelining: bool = True
    coprocessing: bool = True
    stacks_per_device: int = 5
    link: str = "nvlink3"
    queries_per_read: int = 1

    def system(self) -> ResolvedSystem:
        """Return the system."""
        preset = SYSTEMS.load("dgx-attacc-bank")
        document = preset.model_dump(exclude={"memory_per_gpu_bytes"})
        document |= {
            "name": self.label,
            "head_level_pipelining": self.pipelining,
            "ff_coprocessing": self.coprocessing,
        }
        document["attacc"] |= {
            "placement": self.placement,
            "power_limited": self.power_limited,
            "stacks_per_device": self.stacks_per_device,
            "link": self.link,
            "queries_per_read": self.queries_per_read,
        }
        if self.as_published:
            document["attacc"] |= {
                "dram": "hbm3-5.2-asplos24",
                "schedule": Schedule.COMPLETE,
                "capacity": CapacityRule.POOLED,
            }
        return resolve_system(SystemSpec.model_validate(document))


PUBLISHED_STACK: Final = Variant("AttAcc, published", as_published=True)
"""The papers' conditions with both optimisations."""
OWN_STACK: Final = Variant("AttAcc, own")
"""The presets' stack and capacity with both optimisations."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """Reasons why figures are missing, each kept once."""

    told: list[str] = field(default_factory=list[str])

    def attempt(self, what: str, make: Callable[[], T]) -> T | None:
        """Return what is made, or None and keep the reason."""
        try:
            return make()
        except InputError as error:
            self.tell(what, error)
            return None

    def tell(self, what: str, error: InputError) -> None:
        """Keep a reason."""
        reason = f"No figures for {what}: {error}"
        if reason not in self.told:
            self.told.append(reason)


@dataclass(frozen=True, eq=False)
class Setting:
    """Platforms and models, priced by one cost model.

    Attributes:
        pricers: pricers of models on the platforms.
    """

    pricers: Pricers
    _variants: dict[Variant, Platform] = field(
        init=False, repr=False, default_factory=dict[Variant, Platform]
    )

    def attacc(self, variant: Variant) -> Platform:
        """Return an AttAcc system; the same one every time."""
        if variant not in self._variants:
            self._variants[variant] = Platform(variant.label, variant.system())
        return self._variants[variant]

    @cached_property
    def base(self) -> Platform:
        """8 GPUs of 80 GiB."""
        return _preset("DGX_Base", "dgx-base")

    @cached_property
    def large(self) -> Platform:
        """8 GPUs of 160 GiB."""
        return _preset("DGX_Large", "dgx-large")

    @cached_property
    def two(self) -> Platform:
        """16 GPUs of 80 GiB."""
        return _preset("2xDGX", "2xdgx")

    @cached_property
    def cpu(self) -> Platform:
        """Attention on the CPUs."""
        return _preset("DGX, CPU offload", "dgx-cpu")

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms that the papers compare, with AttAcc as published and as modelled here."""
        published, own = self.attacc(PUBLISHED_STACK), self.attacc(OWN_STACK)
        return (self.base, self.large, self.two, self.cpu, published, own)

    @cached_property
    def gpt3(self) -> Subject:
        """GPT-3 175B in fp16."""
        return Subject("GPT-3 175B", MODELS.load("gpt3-175b"))

    @cached_property
    def gpt3_int8(self) -> Subject:
        """GPT-3 175B in int8."""
        return _in_int8("GPT-3 175B, INT8", "gpt3-175b")

    @cached_property
    def llama(self) -> Subject:
        """LLaMA-65B in fp16."""
        return Subject("LLaMA-65B", MODELS.load("llama-65b"))

    @cached_property
    def llama_int8(self) -> Subject:
        """LLaMA-65B in int8."""
        return _in_int8("LLaMA-65B, INT8", "llama-65b")

    @cached_property
    def mt_nlg(self) -> Subject:
        """MT-NLG 530B in int8, as the papers have it."""
        return _in_int8("MT-NLG 530B, INT8", "mt-nlg-530b")

    @property
    def models(self) -> tuple[Subject, ...]:
        """The three models of the papers, in their precisions."""
        return (self.gpt3, self.llama, self.mt_nlg)

    def published_model(self, name: str, word: int) -> Subject:
        """Return the model that a published run calls so, at this many bytes per element."""
        return {
            ("GPT-175B", 2): self.gpt3,
            ("GPT-175B", 1): self.gpt3_int8,
            ("LLAMA-65B", 2): self.llama,
            ("MT-530B", 1): self.mt_nlg,
        }[name, word]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A platform asked for its best batch.

    Attributes:
        served: the batch; None if there is none, or it has no price.
        limit: why the batch is not larger, or why there is none.
    """

    served: Served | None
    limit: str


def best(
    setting: Setting,
    reasons: Reasons,
    platform: Platform,
    subject: Subject,
    load: Load,
    slo_ms: float | None = None,
) -> Outcome:
    """Return the largest batch that fits and keeps a latency target."""
    pricers = setting.pricers
    most = pricers.largest(platform, subject, load)
    if most == 0:
        return Outcome(None, "does not fit")
    try:
        size = pricers.largest(platform, subject, load, slo_ms)
        served = pricers.serve(platform, subject, load, size) if size else None
    except InputError as error:
        reasons.tell(f"{platform.label}, {subject.label}", error)
        return Outcome(None, "no price")
    if served is None:
        return Outcome(None, "misses the target")
    return Outcome(served, "capacity" if served.batch == most else "target")


def _preset(label: str, name: str) -> Platform:
    return Platform(label, resolve_system(SYSTEMS.load(name)))


def _in_int8(label: str, name: str) -> Subject:
    return Subject(label, MODELS.load(name).model_copy(update={"precision": INT8}))
