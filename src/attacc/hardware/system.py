"""Systems: GPUs, the links between them, and the devices that run decode attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from attacc.documents import DocumentName, Presets, PresetSpec, Spec
from attacc.hardware.cpu import CPUS, CpuSpec
from attacc.hardware.gpu import GPUS, GpuSpec, Memory
from attacc.hardware.link import LINKS, LinkSpec
from attacc.hardware.placement import Placement
from attacc.units import Dollars, Quantity

MAX_DEVICES: Final = 1024

_StartTime = Annotated[float, Quantity("nanoseconds", "0 s", "1 ms")]
_ConstantPower = Annotated[float, Quantity("watts", "0 W", "1 MW")]


class AttentionSite(StrEnum):
    """The devices that run the attention of decode steps and hold the key/value cache."""

    GPU = "gpu"
    CPU = "cpu"
    ATTACC = "attacc"


class Schedule(StrEnum):
    """The order in which the commands of attention are issued."""

    COMPLETE = "complete"
    """Every command of every head, once."""
    PUBLISHED = "published"
    """The commands of the trace generator released with AttAcc, which drops some of them."""
    INTERLEAVED = "interleaved"
    """Every command of every head, each waiting for its data, on a device with a pipeline."""


class CapacityRule(StrEnum):
    """Which memory of a GPU + AttAcc system may hold weights, activations, keys and values."""

    SEPARATE = "separate"
    """Weights and activations on the GPUs; keys and values in the stacks that attend to them."""
    POOLED = "pooled"
    """All memory of the system is one pool, as the published batch sizes presuppose; keys and
    values outside the stacks are attended to as if they were inside."""


class Heads(StrEnum):
    """How key/value heads are dealt out to the stacks of a system."""

    CUT = "cut"
    """Heads are cut where that makes the fullest stack less full."""
    WHOLE = "whole"
    """Every head lies in one stack, as in the papers."""
    REQUEST_PER_CHANNEL = "request_per_channel"
    """Every device takes an equal share of the heads of a request and keeps it in one channel."""


class Softmax(StrEnum):
    """Where the scores of attention on stacks become probabilities."""

    DEVICE = "device"
    """On the device that has the stacks, as on AttAcc's buffer dies."""
    GPU = "gpu"
    """On the GPUs: scores and probabilities cross the link."""


class PrefillKv(StrEnum):
    """Where the keys and values of a prompt are while its later chunks are processed."""

    GPU = "gpu"
    """They stay in GPU memory until the prefill ends; the stacks receive a copy layer by layer."""
    READ_BACK = "read_back"
    """They are in the stacks alone; every later chunk reads them back over the link."""


class Overlap(StrEnum):
    """How the requests of a step share the GPUs and the devices that run attention in time."""

    NONE = "none"
    """All requests together: the GPUs wait for attention, and attention for the GPUs."""
    HALVES = "halves"
    """Two halves take turns: the GPUs work on one while attention runs for the other (NeuPIMs,
    arXiv 2403.00579). Weights are read for each half."""
    AUTO = "auto"
    """The faster one of both, step by step."""


class PrefillOverlap(StrEnum):
    """What the GPUs do for prompts while other devices attend for the requests that decode."""

    NONE = "none"
    """Nothing."""
    ATTENTION = "attention"
    """They attend for the prompts of the step; nothing is read twice."""
    LAYERS = "layers"
    """They run whole layers of the prompts; weights are read for the prompts and for the other
    requests."""
    AUTO = "auto"
    """The faster one of both, step by step."""


class CpuTable(Spec):
    """The CPUs of a system.

    Attributes:
        preset: name of a CPU preset, or a file.
        count: sockets.
        link: name of a link preset, or a file: from each GPU to the CPUs.
    """

    preset: DocumentName
    count: int = Field(gt=0, le=MAX_DEVICES)
    link: DocumentName


class AttaccCostTable(Spec):
    """What AttAccs cost to make, beside the price of plain memory.

    Attributes:
        unit_share: share of a finished core die that units take; None for the rule of
            `attacc.pim.energy.area`, which knows units in every bank.
        stack_factor: factor on the price of a stack with units, for yield, test and low volume.
        controller_usd: controller die of a device.
        packaging_usd: packaging of a device with its stacks.
        board_usd: board, voltage regulators, assembly and test of a device.
    """

    unit_share: float | None = Field(default=None, ge=0, le=0.9)
    stack_factor: float = Field(default=1.2, ge=1, le=20)
    controller_usd: Dollars = Field(validation_alias="controller")
    packaging_usd: Dollars = Field(validation_alias="packaging")
    board_usd: Dollars = Field(validation_alias="board")


class AttaccTable(Spec):
    """The AttAcc devices of a system.

    Attributes:
        devices: number of AttAcc devices.
        stacks_per_device: DRAM stacks of each device.
        dram: name of a DRAM device preset, or a file.
        placement: where the GEMV units of a stack sit.
        power_limited: whether multiply commands keep to the stack's power budget.
        schedule: order of the commands.
        queries_per_read: query heads that one read of their shared keys and values serves at most;
            1 is the unit of the papers.
        heads: whether key/value heads may be cut over stacks, or those of a request stay in one
            channel of each device. By default the interleaved schedule cuts them; the other
            schedules take whole heads only.
        softmax: where scores become probabilities. On the GPUs, every score crosses the link in two
            bytes, and comes back as a probability; the GPUs' own work on them is not priced.
        prefill_kv: where the keys and values of a prompt are while its later chunks are processed.
        link: name of a link preset, or a file: from each GPU to the AttAccs.
        capacity: which memory may hold weights, activations, keys and values.
        start_ns: time to start the attention of one layer on the AttAccs and to learn that it is
            done, in each step; None for none.
        writes: whether it takes time and energy to write keys and values into the stacks: those of
            prompts beside attention, and those of requests that decode before it.
        standby: whether the standby power of the stacks and their refresh are counted, at any time
            of a step.
        base_power_w: power of one device at any time, besides that of its stacks and its link;
            None where it is not counted.
        link_power_w: power of one device's end of its link at any time, besides the energy of the
            bytes that it moves; None where it is not counted.
        cost: what the devices cost to make; None where nobody asks.
    """

    devices: int = Field(gt=0, le=MAX_DEVICES)
    stacks_per_device: int = Field(gt=0, le=MAX_DEVICES)
    dram: DocumentName = "hbm3-5.2"
    placement: Placement
    power_limited: bool = True
    schedule: Schedule = Schedule.INTERLEAVED
    queries_per_read: int = Field(default=1, gt=0, le=1024)
    heads: Heads | None = None
    softmax: Softmax = Softmax.DEVICE
    prefill_kv: PrefillKv = PrefillKv.GPU
    link: DocumentName = "nvlink3"
    capacity: CapacityRule = CapacityRule.SEPARATE
    start_ns: _StartTime | None = Field(default=None, validation_alias="start")
    writes: bool = False
    standby: bool = False
    base_power_w: _ConstantPower | None = Field(default=None, validation_alias="base_power")
    link_power_w: _ConstantPower | None = Field(default=None, validation_alias="link_power")
    cost: AttaccCostTable | None = None

    @property
    def device_power_w(self) -> float:
        """Power of one device at any time, its stacks apart."""
        return (self.base_power_w or 0.0) + (self.link_power_w or 0.0)

    @property
    def cuts_heads(self) -> bool:
        """Whether key/value heads are cut over stacks."""
        free = self.heads is None or self.heads is Heads.CUT
        return free and self.schedule is Schedule.INTERLEAVED

    def heads_of_channel(self, heads: int) -> int | None:
        """Return the key/value heads of a request that one channel holds; None where any may.

        They are the least equal share of the heads that leaves no share without a device.

        Args:
            heads: key/value heads of a request, of all devices.
        """
        if self.heads is not Heads.REQUEST_PER_CHANNEL:
            return None
        return next(n for n in range(1, heads + 1) if heads % n == 0 and n * self.devices >= heads)


class SystemSpec(PresetSpec):
    """A system that serves one model with tensor parallelism over all its GPUs.

    Attributes:
        gpu: name of a GPU preset, or a file.
        gpus: number of GPUs.
        memory_per_gpu_bytes: memory of one GPU, in place of that of the GPU's preset.
        link: name of a link preset, or a file: between the GPUs; needed for more than one GPU.
        attention: the devices that run the attention of decode steps.
        cpu: the CPUs, where attention = "cpu".
        attacc: the AttAccs, where attention = "attacc".
        head_level_pipelining: whether QKV generation and projection of other heads overlap the
            attention of a head (AttAcc, ASPLOS 2024).
        ff_coprocessing: whether AttAccs compute part of the feed-forward products (AttAcc, ASPLOS
            2024).
        overlap: whether two halves of the requests take turns on the GPUs and on the devices that
            run attention.
        prefill_overlap: what the GPUs do for the prompts of a step while other devices attend for
            its decoding requests.
        transfer_overlap: whether transfers pass while attention, or the work of a layer, goes on:
            queries and contexts head by head, keys and values of prompts behind the layer.
        memory_reserve: share of every GPU's memory that the runtime keeps from weights,
            activations, keys and values.
        host_power_w: power at any time of what belongs to the node beside its boards: CPUs and
            their memory, network, switches, fans, losses of power supplies; None where it is not
            counted.
        host_price_usd: price of what belongs to the node beside its boards; None if not stated.
    """

    gpu: DocumentName
    gpus: int = Field(gt=0, le=MAX_DEVICES)
    memory_per_gpu_bytes: Memory | None = Field(default=None, validation_alias="memory_per_gpu")
    link: DocumentName | None = None
    attention: AttentionSite
    cpu: CpuTable | None = None
    attacc: AttaccTable | None = None
    head_level_pipelining: bool = False
    ff_coprocessing: bool = False
    overlap: Overlap = Overlap.NONE
    prefill_overlap: PrefillOverlap = PrefillOverlap.NONE
    transfer_overlap: bool = True
    memory_reserve: float = Field(default=0.0, ge=0, le=0.9)
    host_power_w: _ConstantPower | None = Field(default=None, validation_alias="host_power")
    host_price_usd: Dollars | None = Field(default=None, validation_alias="host_price")

    @model_validator(mode="after")
    def _has_what_attention_needs(self) -> Self:
        tables = {AttentionSite.CPU: self.cpu, AttentionSite.ATTACC: self.attacc}
        for site, table in tables.items():
            if (site is self.attention) == (table is not None):
                continue
            if table is None:
                raise ValueError(f'attention = "{site}" needs a table [{site}]: add it')
            raise ValueError(
                f'the table [{site}] is of no use with attention = "{self.attention}": '
                f'remove it, or write attention = "{site}"'
            )
        return self

    @model_validator(mode="after")
    def _switches_apply(self) -> Self:
        for switch in ("head_level_pipelining", "ff_coprocessing"):
            if getattr(self, switch) and self.attention is not AttentionSite.ATTACC:
                raise ValueError(
                    f'{switch} = true needs attention = "attacc", not "{self.attention}": '
                    f"write {switch} = false"
                )
        return self

    @model_validator(mode="after")
    def _overlaps_apply(self) -> Self:
        away = self.attention is not AttentionSite.GPU
        halves = self.overlap is not Overlap.NONE
        prefill = self.prefill_overlap is not PrefillOverlap.NONE
        for key, value, applies in (
            ("overlap", self.overlap, halves),
            ("prefill_overlap", self.prefill_overlap, prefill),
        ):
            if applies and not away:
                raise ValueError(
                    f'{key} = "{value}" needs attention that leaves the GPUs, not attention = '
                    f'"{self.attention}": write "none"'
                )
            if applies and self.head_level_pipelining:
                raise ValueError(
                    f'{key} = "{value}" needs head_level_pipelining = false, since attention hides '
                    f"other work already: change one of both"
                )
        if halves and self.ff_coprocessing:
            raise ValueError(
                f'overlap = "{self.overlap}" needs ff_coprocessing = false, since the AttAccs '
                f"attend while the GPUs run feed-forward products: change one of both"
            )
        if self.head_level_pipelining and not self.transfer_overlap:
            raise ValueError(
                "head_level_pipelining = true needs transfer_overlap = true: change one of both"
            )
        return self

    @model_validator(mode="after")
    def _reads_can_be_shared(self) -> Self:
        table = self.attacc
        if (
            table is not None
            and table.queries_per_read > 1
            and table.schedule is not Schedule.INTERLEAVED
        ):
            raise ValueError(
                f"attacc.queries_per_read = {table.queries_per_read} needs attacc.schedule = "
                f'"{Schedule.INTERLEAVED}", not "{table.schedule}": write 1, or that schedule'
            )
        return self

    @model_validator(mode="after")
    def _heads_can_be_cut(self) -> Self:
        table = self.attacc
        if (
            table is not None
            and table.heads in (Heads.CUT, Heads.REQUEST_PER_CHANNEL)
            and table.schedule is not Schedule.INTERLEAVED
        ):
            raise ValueError(
                f'attacc.heads = "{table.heads}" needs attacc.schedule = "{Schedule.INTERLEAVED}", '
                f'not "{table.schedule}": write "{Heads.WHOLE}", or that schedule'
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_linked(self) -> Self:
        if self.gpus > 1 and self.link is None:
            raise ValueError(f'{self.gpus} GPUs need a link: add link = "nvlink3" or another')
        return self


@dataclass(frozen=True, slots=True)
class Host:
    """The CPUs of a resolved system.

    Attributes:
        cpu: one socket.
        count: sockets.
        link: from each GPU to the CPUs.
    """

    cpu: CpuSpec
    count: int
    link: LinkSpec

    @property
    def memory_bytes(self) -> float:
        """Memory of all sockets."""
        return self.count * self.cpu.memory_bytes


@dataclass(frozen=True, slots=True)
class AttaccPool:
    """The AttAccs of a resolved system; their DRAM device stays a name, for `DRAMS` to load.

    Attributes:
        table: the table `[attacc]` of the system.
        link: from each GPU to the AttAccs.
    """

    table: AttaccTable
    link: LinkSpec

    @property
    def stacks(self) -> int:
        """Stacks of all devices."""
        return self.table.devices * self.table.stacks_per_device


@dataclass(frozen=True, slots=True)
class ResolvedSystem:
    """A system with every preset that it names loaded.

    Attributes:
        spec: the system as written.
        gpu: one GPU, with the memory that the system states.
        link: link between the GPUs; None with a single GPU.
        host: the CPUs, where they run attention.
        attacc: the AttAccs, where they run attention.
    """

    spec: SystemSpec
    gpu: GpuSpec
    link: LinkSpec | None
    host: Host | None
    attacc: AttaccPool | None

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def description(self) -> str:
        """What it is, in one sentence."""
        return self.spec.description

    def __repr__(self) -> str:
        return f"ResolvedSystem({self.name!r})"

    @property
    def gpus(self) -> int:
        """Number of GPUs, which is also the degree of tensor parallelism."""
        return self.spec.gpus

    @property
    def gpu_memory_bytes(self) -> float:
        """Memory of all GPUs."""
        return self.gpus * self.gpu.memory_bytes


SYSTEMS: Final = Presets("system", SystemSpec, "attacc.hardware", "presets/system")


Source = str | Path | Mapping[str, object] | SystemSpec | ResolvedSystem
"""A system as callers give it: a preset's name, a path, a document, or a loaded system."""


def load_system(source: Source, **changes: object) -> ResolvedSystem:
    """Load a system, and every preset it names.

    Args:
        source: a preset's name, a path, a document as a mapping, or a loaded system.
        changes: keys of the document to change: ``gpus=4``, ``attacc={"devices": 4}``, or with a
            dot, as in ``**{"attacc.devices": 4}``.

    Raises:
        DocumentError: a file, or the document, is malformed.
        UnknownNameError: there is no such preset, or a preset that the system names does not exist.
        InputError: `changes` are given for a loaded system.
    """
    return changed_system(source, changes)


def changed_system(
    source: Source, changes: Mapping[str, object] | None = None, *, where: str | None = None
) -> ResolvedSystem:
    """Load a system as `load_system` does.

    Args:
        source: as in `load_system`.
        changes: key -> value, as in `load_system`.
        where: the option or field that the name came from, for messages.

    Raises:
        InputError: as in `load_system`.
    """
    if isinstance(source, ResolvedSystem):
        return replace(source, spec=SYSTEMS.load_any(source.spec, changes, where=where))
    return resolve_system(SYSTEMS.load_any(source, changes, where=where))


def resolve_system(spec: SystemSpec) -> ResolvedSystem:
    """Load every preset that a system names.

    Raises:
        DocumentError: a file that the system names is malformed.
        UnknownNameError: a preset that the system names does not exist.
    """

    def link(name: str, field: str) -> LinkSpec:
        return LINKS.load_name_or_file(name, where=f"system {spec.name}: {field}")

    gpu = GPUS.load_name_or_file(spec.gpu, where=f"system {spec.name}: gpu")
    if spec.memory_per_gpu_bytes is not None:
        gpu = gpu.model_copy(update={"memory_bytes": spec.memory_per_gpu_bytes})
    host = attacc = None
    if spec.cpu is not None:
        cpu = CPUS.load_name_or_file(spec.cpu.preset, where=f"system {spec.name}: cpu.preset")
        host = Host(cpu, spec.cpu.count, link(spec.cpu.link, "cpu.link"))
    if spec.attacc is not None:
        attacc = AttaccPool(spec.attacc, link(spec.attacc.link, "attacc.link"))
    between_gpus = None if spec.link is None else link(spec.link, "link")
    return ResolvedSystem(spec, gpu, between_gpus, host, attacc)


OVERLAPS_OFF: Final[Mapping[str, object]] = {
    "head_level_pipelining": False,
    "ff_coprocessing": False,
    "overlap": Overlap.NONE,
    "prefill_overlap": PrefillOverlap.NONE,
}
"""Keys of a system without overlaps beyond that of transfers."""


def with_keys(system: ResolvedSystem, changes: Mapping[str, object]) -> ResolvedSystem:
    """Return a system with other keys, of the same GPU, even if no preset holds that GPU.

    Args:
        system: the system.
        changes: fields of `SystemSpec`, with values that are valid already.
    """
    return replace(resolve_system(system.spec.model_copy(update=changes)), gpu=system.gpu)


def gpus_alone(system: ResolvedSystem) -> ResolvedSystem:
    """Return the GPUs of a system without the devices that run attention.

    Args:
        system: the system.
    """
    plain = {"attention": AttentionSite.GPU, "attacc": None, "cpu": None}
    return with_keys(system, {**OVERLAPS_OFF, **plain})
