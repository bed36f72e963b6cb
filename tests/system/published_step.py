"""Steps as the published release builds them, for comparison with its output.

The product's own steps differ on purpose: they round intermediate sizes to whole columns and count
embedding and LM head. The release divides by the number of GPUs without rounding where the
intermediate size is 8/3 of the hidden size, so its sizes may be fractions.
"""

from dataclasses import dataclass
from typing import cast

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
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    Step,
)
from attacc.models.precision import ElementType
from attacc.system.attention import AttaccAttention, AttaccRates, published_softmax_ns
from attacc.system.costs import EnergyBreakdown
from attacc.system.published import published_rates

CLOCK_NS = 0.769
ELEMENT = {1: ElementType.INT8, 2: ElementType.FP16}
PLACEMENT = {"bank": Placement.BANK, "bg": Placement.BANKGROUP, "buffer": Placement.BUFFER}


@dataclass(frozen=True)
class PublishedModel:
    layers: int
    hidden: int
    heads: int
    head_dim: int
    activation: PointwiseKind


MODELS = {
    "LLAMA-7B": PublishedModel(32, 4096, 32, 128, PointwiseKind.SWIGLU),
    "LLAMA-65B": PublishedModel(80, 8192, 64, 128, PointwiseKind.SWIGLU),
    "GPT-13B": PublishedModel(40, 5120, 40, 128, PointwiseKind.GELU),
    "GPT-175B": PublishedModel(96, 12288, 96, 128, PointwiseKind.GELU),
    "OPT-66B": PublishedModel(64, 9216, 72, 128, PointwiseKind.RELU),
    "MT-530B": PublishedModel(105, 20480, 128, 160, PointwiseKind.GELU),
}


@dataclass(frozen=True)
class PublishedRun:
    """One run of the release: what its command line says."""

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
        return MODELS[self.model]

    @property
    def heads_per_stack(self) -> int:
        return -(-self.shape.heads * self.batch // (self.gpus * 5))

    def system(self) -> ResolvedSystem:
        attacc = None
        if self.placement:
            attacc = AttaccTable(
                devices=self.gpus,
                stacks_per_device=5,
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

    def step(self, phase: Phase, length: int) -> Step:
        """A decode step at this length of the cache, or a prefill of this many tokens."""
        m = self.shape
        per_gpu, heads, element = m.hidden // self.gpus, m.heads // self.gpus, ELEMENT[self.word]
        rows = self.batch * (length if phase is Phase.PREFILL else 1)
        queries = length if phase is Phase.PREFILL else 1

        def fc(name: str, n: float, k: float) -> MatMul:
            sizes = rows, cast(int, n), cast(int, k), 1
            return MatMul(name, MatMulRole.FC, *sizes, element, element, element)

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
            Pointwise("activation", m.activation, rows, cast(int, width), 1, element),
            fc("ff3" if gated else "ff2", m.hidden, width),
            AllReduce("all_reduce2", rows, m.hidden, element),
            norm("norm2"),
        ]
        return Step(phase, self.batch, self.gpus, m.layers, tuple(layer), ())

    def attention(self, cycles: int, length: int, rates: AttaccRates) -> AttaccAttention | None:
        """Attention of one layer from the cycles of one stack."""
        if not self.placement:
            return None
        count, element = self.shape.heads // self.gpus * self.batch, ELEMENT[self.word]
        softmax = Pointwise("softmax", PointwiseKind.SOFTMAX, 1, length, count, element)
        softmax_ns = published_softmax_ns(softmax, rates)
        return AttaccAttention(cycles * CLOCK_NS, EnergyBreakdown(), softmax_ns)

    def rates(self) -> AttaccRates:
        placement = PLACEMENT[self.placement or "bank"]
        return published_rates(placement, power_limited=self.power_limited, stacks_per_device=5)
