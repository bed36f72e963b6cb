"""Steps as the published release builds and prices them, for comparison with its output.

The steps of `attacc.models` differ on purpose: they round intermediate sizes to whole columns, and
count embedding and LM head. The release divides by the number of GPUs without rounding where the
intermediate size is 8/3 of the hidden size, so its sizes may be fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from attacc.gpu.costs import Bound, Energies, only
from attacc.gpu.published.model import PublishedCostModel, published_rates, published_softmax_ns
from attacc.gpu.rates import AttaccRates
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    AttaccTable,
    AttentionSite,
    ResolvedSystem,
    SystemSpec,
    resolve_system,
)
from attacc.models.operators import (
    AllReduce,
    Attention,
    LayerOperators,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    Size,
    Step,
)
from attacc.models.precision import ElementType
from attacc.system.attaccs import AttaccAttention
from attacc.system.step import Beside, LayerBeside, StepCost, step_costs

CLOCK_NS: Final = 0.769
STACKS_PER_DEVICE: Final = 5
ELEMENT: Final = {1: ElementType.INT8, 2: ElementType.FP16}
PLACEMENT: Final = {"bank": Placement.BANK, "bg": Placement.BANKGROUP, "buffer": Placement.BUFFER}


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model as the release describes it.

    Attributes:
        layers: number of layers.
        hidden: width of the activations.
        heads: number of query heads, and of key/value heads.
        head_dim: elements of a key.
        activation: activation function of the feed-forward block.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    activation: PointwiseKind


MODELS: Final = {
    "LLAMA-7B": PublishedModel(32, 4096, 32, 128, PointwiseKind.SWIGLU),
    "LLAMA-65B": PublishedModel(80, 8192, 64, 128, PointwiseKind.SWIGLU),
    "GPT-13B": PublishedModel(40, 5120, 40, 128, PointwiseKind.GELU),
    "GPT-175B": PublishedModel(96, 12288, 96, 128, PointwiseKind.GELU),
    "OPT-66B": PublishedModel(64, 9216, 72, 128, PointwiseKind.RELU),
    "MT-530B": PublishedModel(105, 20480, 128, 160, PointwiseKind.GELU),
}


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """One run of the release, by the options of its command line.

    Attributes:
        model: a key of `MODELS`.
        gpu: A100a or H100.
        gpus: number of GPUs, and of AttAccs.
        word: bytes of every element.
        batch: number of requests.
        prompt: prompt tokens of each request.
        output: output tokens of each request.
        placement: placement of the units, a key of `PLACEMENT`; empty for attention on the GPUs.
        power_limited: whether the stacks keep to their power budget.
        pipelining: head-level pipelining.
        coprocessing: feed-forward co-processing.
    """

    model: str
    gpu: str
    gpus: int
    word: int
    batch: int
    prompt: int
    output: int
    placement: str = ""
    power_limited: bool = True
    pipelining: bool = False
    coprocessing: bool = False

    @property
    def shape(self) -> PublishedModel:
        """The model's sizes."""
        return MODELS[self.model]

    @property
    def heads_per_stack(self) -> int:
        """Heads of all requests on the fullest stack."""
        return -(-self.shape.heads * self.batch // (self.gpus * STACKS_PER_DEVICE))

    def system(self) -> ResolvedSystem:
        """Return the system that it runs on."""
        attacc = None
        if self.placement:
            attacc = AttaccTable(
                devices=self.gpus,
                stacks_per_device=STACKS_PER_DEVICE,
                placement=PLACEMENT[self.placement],
                power_limited=self.power_limited,
            )
        spec = SystemSpec(
            name="published",
            gpu=self.gpu.lower(),
            gpus=self.gpus,
            link={"A100a": "nvlink3", "H100": "nvlink4"}[self.gpu],
            attention=AttentionSite.ATTACC if attacc else AttentionSite.GPU,
            attacc=attacc,
            head_level_pipelining=self.pipelining,
            ff_coprocessing=self.coprocessing,
        )
        return resolve_system(spec)

    def step(self, phase: Phase, length: Size) -> Step:
        """Return a decode step at this length of the cache, or a prefill of this many tokens.

        Args:
            phase: decode or prefill.
            length: tokens; an array for many steps.
        """
        m = self.shape
        per_gpu, heads, element = m.hidden // self.gpus, m.heads // self.gpus, ELEMENT[self.word]
        queries: Size = length if phase is Phase.PREFILL else 1
        rows = self.batch * queries

        def fc(name: str, n: float, k: float) -> MatMul:
            return MatMul(name, MatMulRole.FC, rows, n, k, 1, element, element, element)

        def norm(name: str) -> Pointwise:
            return Pointwise(name, PointwiseKind.LAYER_NORM, rows, m.hidden, 1, element)

        gated = m.activation is PointwiseKind.SWIGLU
        width = per_gpu * 8 / 3 if gated else 4 * m.hidden // self.gpus
        attention = Attention(
            phase, self.batch, heads, heads, m.head_dim, queries, length, element, element
        )
        layer: list[Operator] = [
            fc("qkv", 3 * m.hidden // self.gpus, m.hidden),
            attention,
            fc("projection", m.hidden, per_gpu),
            AllReduce("all_reduce1", rows, m.hidden, element),
            norm("norm1"),
            fc("ff1", width, m.hidden),
            *([fc("ff2", width, m.hidden)] if gated else []),
            Pointwise("activation", m.activation, rows, width, 1, element),
            fc("ff3" if gated else "ff2", m.hidden, width),
            AllReduce("all_reduce2", rows, m.hidden, element),
            norm("norm2"),
        ]
        decoding = self.batch if phase is Phase.DECODE else 0
        return Step(
            phase, decoding, self.gpus, (LayerOperators("decoder", m.layers, tuple(layer)),), ()
        )

    def attention(
        self, cycles: Mapping[int, int], lengths: Sequence[int], rates: AttaccRates
    ) -> AttaccAttention | None:
        """Return attention of one layer at several lengths, from the cycles of one stack."""
        if not self.placement:
            return None
        count, element = self.shape.heads // self.gpus * self.batch, ELEMENT[self.word]
        softmax_ns = [
            published_softmax_ns(
                Pointwise("softmax", PointwiseKind.SOFTMAX, 1, length, count, element), rates
            )
            for length in lengths
        ]
        time_ns = np.array([cycles[length] for length in lengths]) * CLOCK_NS
        return AttaccAttention(time_ns, Energies.of(), only(Bound.MEMORY), np.array(softmax_ns))

    def rates(self) -> AttaccRates:
        """Return the rates of one AttAcc, in the release's rounder figures."""
        placement = PLACEMENT[self.placement or "bank"]
        return published_rates(
            placement, power_limited=self.power_limited, stacks_per_device=STACKS_PER_DEVICE
        )


def prefill_of(run: PublishedRun) -> StepCost:
    """Price the prefill of a run's prompts, all at once.

    The release leaves out the transfer of keys and values; here it is hidden.
    """
    return step_costs(run.step(Phase.PREFILL, run.prompt), run.system(), _as_published()).one


def decode_of(
    run: PublishedRun, cycles: Mapping[int, int], weights: Mapping[int, float] | None = None
) -> StepCost:
    """Price the mean decode step of a run.

    Args:
        run: the run.
        cycles: of a stack's attention, by length of the cache; empty for attention on the GPUs.
        weights: how often each length of the cache counts; by default each that occurs, once.
    """
    if weights is None:
        weights = dict.fromkeys(range(run.prompt + 1, run.prompt + run.output), 1.0)
    rates, lengths = run.rates(), list(weights)
    step = run.step(Phase.DECODE, np.array(lengths, dtype=np.float64))
    beside = Beside(
        layers=(LayerBeside(attention=run.attention(cycles, lengths, rates)),), rates=rates
    )
    return step_costs(step, run.system(), _as_published(), beside).mean(list(weights.values()))


def _as_published() -> PublishedCostModel:
    return PublishedCostModel(repair_slips=False)
