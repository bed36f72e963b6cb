"""The calibrated GPU model as a cost model: a library's kernels, priced operator by operator.

`Kernels` prices the operators of one library on one GPU. `CalibratedCostModel` prices whole steps
with them, and adds the host's time, energy and transfers. A price that is scaled, assumed or
outside the fitted range says so (`OperatorCost.estimates`). See docs/model/gpu-model.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeVar

import numpy as np

from attacc.errors import EngineError, InputError
from attacc.gpu.calibrated import layer_prices
from attacc.gpu.calibrated.attention_prices import (
    ABSORBED_ONLY,
    WITHIN_KEYS,
    expanded,
    heads_product,
    index_scan,
    latent_decode_attention,
    latent_prefill_attention,
    sparse_attention,
    windowed_attention,
    without_window,
)
from attacc.gpu.calibrated.coefficients import (
    CALIBRATIONS,
    CPU_CALIBRATIONS,
    CollectiveSeries,
    DecodeSeries,
    GemmSeries,
    PowerSpec,
    PrefillSeries,
    SeriesType,
)
from attacc.gpu.calibrated.kernels import (
    LARGEST_DIM,
    SMALLEST_DIM,
    TILES,
    AttentionShapes,
    CalibratedGpu,
    DecodeTimer,
    GemmShapes,
    attention_limits,
    collective_limits,
    collective_ns,
    gemm_limits,
    gemm_times,
    gemm_vector,
    prefill_ns,
    preset_of,
    wire_share,
)
from attacc.gpu.calibrated.limits import inside
from attacc.gpu.calibrated.machine import machine
from attacc.gpu.calibrated.power import Work, attention_work, gemm_work, power, power_on
from attacc.gpu.calibrated.priced import Priced, bound_of, column
from attacc.gpu.calibrated.records import Fitted
from attacc.gpu.costs import (
    BOUNDS,
    MIXED,
    PAST,
    RAGGED,
    UNMEASURED_ERROR,
    Bound,
    CostModel,
    Energies,
    Estimate,
    Floats,
    Fused,
    GpuPart,
    HostTime,
    OperatorCosts,
    either,
    only,
    over_distinct,
    ragged,
)
from attacc.gpu.frameworks import SERVING, ServingSpec, TokenCoefficients, serving_series
from attacc.gpu.published.model import PublishedCostModel
from attacc.hardware.cpu import CpuSpec
from attacc.hardware.gpu import GPUS, GpuSpec
from attacc.hardware.link import LINKS, LinkSpec
from attacc.models.operators import (
    AllReduce,
    Attention,
    Collective,
    Convolution,
    Experts,
    IndexScan,
    LatentAttention,
    MatMul,
    MatMulRole,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    StateUpdate,
    Step,
)
from attacc.models.precision import BlockFormat, ElementType, WeightType
from attacc.models.served import ServedModel, weight_type
from attacc.units import NS_PER_S

POINTWISE_SHARE: Final = 0.7
"""Share of the memory's bandwidth for norms and activations. It is assumed, and not measured."""
MATRICES_MOVED: Final = {
    PointwiseKind.SOFTMAX: 2,
    PointwiseKind.GELU: 2,
    PointwiseKind.RELU: 2,
    PointwiseKind.SWIGLU: 3,
    PointwiseKind.LAYER_NORM: 2,
    PointwiseKind.RMS_NORM: 2,
    PointwiseKind.EMBEDDING: 2,
}
"""Number of matrices of the result's size that an operator reads and writes."""
RESIDUAL_NORMS: Final = ("norm1", "norm2", "final_norm")
"""Norms that also add the residual, and so read and write it."""
LM_HEAD: Final = "lm_head"
GATE_AND_UP: Final = (("ff1", "ff2"), ("shared1", "shared2"), ("dense1", "dense2"))
"""Names of gate and up projections, which run as one product."""
SIXTEEN_BITS: Final = (ElementType.FP16, ElementType.BF16)
_SERVED_AS: Final[dict[WeightType, WeightType]] = {
    ElementType.FP16: ElementType.BF16,
    BlockFormat.FP8_BLOCK: ElementType.FP8,
}
"""Type of weights whose series gives the host's time, where it is another."""
OPERANDS: Final[frozenset[tuple[ElementType, WeightType]]] = frozenset(
    (left, right)
    for left, rights in {
        ElementType.BF16: (*ElementType, *BlockFormat),
        ElementType.FP8: (ElementType.FP8, ElementType.INT4, *BlockFormat),
        ElementType.INT8: (
            ElementType.INT8,
            ElementType.INT4,
            BlockFormat.INT4_G128,
            BlockFormat.INT4_G32,
        ),
    }.items()
    for right in rights
)
"""Types of activations and weights that libraries can multiply. bf16 stands for fp16, too."""
CONVERTED: Final = (ElementType.FP8, BlockFormat.FP8_BLOCK, BlockFormat.NVFP4)
"""Types of weights whose measured products convert activations to the same type."""
SOFTMAX_OPERATIONS: Final = 5
"""Operations of a softmax per score, as in the published model."""
PJ_PER_NS_PER_W: Final = 1e3
OTHER_VALUES: Final = (
    "attention with values of another size than keys: as heads of the mean size, never measured"
)
SHARED_KEYS: Final = "decode attention over shared keys: as of one request, never measured"
SUM: Final = "all_reduce"
"""The collective that every calibration of several GPUs has."""
OWN_HOSTS: Final = "host time of groups of GPUs: each for its own requests, never measured"
SEVERAL: Final = "decode attention of several tokens: as of more heads, never measured"
WAITS: Final = np.array(
    [BOUNDS.index(bound) for bound in (Bound.LATENCY, Bound.COMPUTE, Bound.MEMORY)], dtype=np.int8
)
"""Code of `BOUNDS` for each value that `gemm_times` returns for the bound of a product."""
PUBLISHED_INSTEAD: Final = 'the published GPU model (gpu_model = "published") prices it'
AS_BF16: Final = "as bf16 with fewer bytes, never measured"
CONVERTS: Final = "kernels that convert weights are slower at many rows"

S = TypeVar("S", GemmSeries, DecodeSeries, PrefillSeries)


@dataclass(frozen=True, slots=True)
class Operands:
    """The element types of a product.

    Attributes:
        series: element type of the series whose coefficients the product takes.
        left: element type of the left matrix as it is read.
        right: element type of the weights as they are read.
        estimates: parts of the price that were never measured, in words.
    """

    series: SeriesType
    left: WeightType
    right: WeightType
    estimates: tuple[str, ...] = ()


def as_run(step: Step) -> Step:
    """Return the operators that serving libraries run for a step.

    Gate and up projections are one product, with their weights side by side. The LM head has 16
    bits also where the layers' weights have 8 or 4 bits.
    """
    layers = tuple(replace(one, operators=_joined(one.operators)) for one in step.layers)
    outside = [_in_16_bits(op) if op.name == LM_HEAD else op for op in step.outside]
    return replace(step, layers=layers, outside=tuple(outside))


def _joined(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """Return the operators of a layer with gate and up projections as one product."""
    found: list[Operator] = []
    for op in operators:
        last = found[-1] if found else None
        if (
            isinstance(op, MatMul)
            and isinstance(last, MatMul)
            and (last.name, op.name) in GATE_AND_UP
            and (last.n, last.k) == (op.n, op.k)
        ):
            found[-1] = replace(last, n=2 * last.n)
        else:
            found.append(op)
    return tuple(found)


def _in_16_bits(op: Operator) -> Operator:
    if isinstance(op, MatMul) and op.right not in SIXTEEN_BITS:
        bf16 = ElementType.BF16
        return replace(op, left=bf16, right=bf16, out=bf16)
    return op


@dataclass(frozen=True)
class Kernels:
    """The operators of one library on one GPU.

    Attributes:
        gpu: the GPU.
        framework: framework of the kernels; None for the GPU's reference.
        products: another calibration that prices the products, where the GPU's own calibration has
            no products of this framework.
        missing: framework that the GPU's reference stands for; None for none.
    """

    gpu: CalibratedGpu
    framework: str | None = None
    products: CalibratedGpu | None = None
    missing: str | None = None

    @cached_property
    def _timers(self) -> dict[ElementType, tuple[DecodeSeries, DecodeTimer, ElementType]]:
        return {}

    @cached_property
    def _scaled(self) -> tuple[str, ...]:
        notes: list[str] = []
        if self.gpu.scaled_from is not None:
            notes.append(f"operators on {self.gpu.gpu.name}: scaled from {self.gpu.scaled_from}")
        if self.missing is not None:
            instead = self.gpu.calibration.reference
            notes.append(f"operators on {self.gpu.gpu.name}: those of {instead} for {self.missing}")
        return tuple(notes)

    def product(self, op: MatMul) -> Priced:
        """Price a product with weights.

        Several products, of the experts of a mixture or of heads, are priced as one product over
        the columns of all. Grouped kernels work in this way: the tiles of all share the cores.

        Raises:
            InputError: the time of products of these element types on this GPU is not known.
        """
        if op.role is MatMulRole.HEADS:
            return heads_product(self.gpu, self.framework, op)
        if op.role is not MatMulRole.FC:
            raise EngineError(f"{op.name} is part of attention, which is priced as a whole")
        source = self.products or self.gpu
        operands = self._operands(op, source)
        series = self._series(operands.series, source.gemm)
        at = machine(self.gpu.gpu, operands.left, operands.right)
        vector = gemm_vector(series.coefficients, series.quantise, series.host)

        def timed(sizes: tuple[Floats, ...]) -> tuple[Floats, ...]:
            m, n, k, count = sizes
            shapes = GemmShapes.of(m, n * count, k)
            times, waits = gemm_times(shapes, at, vector, TILES[series.library])
            outside = ~inside(gemm_limits(series.range, shapes))
            return times, WAITS[waits].astype(np.float64), outside.astype(np.float64)

        time_ns, codes, outside = over_distinct(timed, (op.m, op.n, op.k, op.count))
        estimates = [Estimate.always(what) for what in (*self._scaled, *operands.estimates)]
        sheet = self.gpu.gpu.name
        if self.products is not None:
            scaled = f"products on {sheet}: scaled from {self.products.scaled_from}"
            estimates.append(Estimate.always(scaled))
        several = column(op.count) > 1
        grouped = "products of experts: as one over all columns, never measured"
        estimates += [
            Estimate(grouped, several),
            Estimate(f"products on {sheet}: shapes outside those fitted", ~several & (outside > 0)),
        ]
        shapes = GemmShapes(*np.broadcast_arrays(column(op.m), column(op.n * op.count), op.k))
        return Priced(
            time_ns,
            series.coefficients.launch_ns,
            codes.astype(np.int8),
            gemm_work(shapes, operands.left, operands.right),
            tuple(estimates),
        )

    def attention(self, op: Attention) -> Priced:
        """Price attention of one layer.

        A cache of a type that was not measured is priced with the kernels of bf16. It has fewer
        bytes, and the same arithmetic in 16 bits. A prompt is attended to before it is cached.

        Values of another size than keys are priced as heads of the mean size.

        Raises:
            InputError: the time of attention on this GPU is not known.
        """
        notes: list[Estimate] = []
        if op.values != op.head_dim:
            op = replace(op, head_dim=(op.head_dim + op.values) // 2, value_dim=None)
            notes.append(Estimate.always(OTHER_VALUES))
        if op.shared:
            notes.append(Estimate.always(SHARED_KEYS))
        elif op.phase is Phase.DECODE and not np.array_equal(op.queries, 1):
            notes.append(Estimate.always(SEVERAL))
        priced = self._to_all(op) if op.window is None else self._windowed(op)
        return replace(priced, estimates=(*priced.estimates, *notes)) if notes else priced

    def _to_all(self, op: Attention) -> Priced:
        """Price attention to all keys."""
        sheet, cache = self.gpu.gpu, op.kv
        # Several tokens of a request read its keys together, like the heads of a group.
        heads = op.heads * op.queries if op.phase is Phase.DECODE else op.heads
        sizes = op.batch, heads, op.kv_heads, op.head_dim
        if op.phase is Phase.DECODE:
            shapes = AttentionShapes.of(*sizes, op.keys)
            decode, timer, computed = self._decode(cache)
            time_ns, rounds = timer.timed(shapes)
            estimates = [Estimate.always(what) for what in self._scaled]
            if op.longest is not None:
                longest = AttentionShapes.of(*sizes, op.longest)
                time_ns = ragged(time_ns, timer.ns(longest), rounds)
                estimates.append(Estimate(RAGGED, column(op.longest) > column(op.keys)))
            launch_ns = decode.kernels[-1].coefficients.launch_ns
            fits = inside(attention_limits(decode.range, shapes))
        else:
            # Steps may differ in what came before, with as many new tokens each.
            queries = column(op.queries) + np.zeros_like(column(op.past))
            shapes = AttentionShapes.of(*sizes, queries)
            past = np.broadcast_to(column(op.past), shapes.length.shape)
            shapes = replace(shapes, past=past, within=column(op.keys) - past)
            computed = self._computed(cache, self.gpu.prefill)
            prefill = self._series(computed, self.gpu.prefill)
            single, _, _ = self._decode(cache)
            time_ns = self._prefill_ns(prefill, single, shapes)
            estimates = [Estimate.always(what) for what in self._scaled]
            estimates.append(Estimate(PAST, past > 0))
            launch_ns = prefill.coefficients.launch_ns
            fits = inside(attention_limits(prefill.range, shapes))
        if computed is not cache and cache not in SIXTEEN_BITS:
            what = f"{op.phase} attention with an {cache} cache: {AS_BF16}"
            estimates.append(Estimate.always(what))
        what = f"{op.phase} attention on {sheet.name}: shapes outside those fitted"
        estimates.append(Estimate(what, ~fits))
        work = attention_work(shapes, cache, prefill=op.phase is Phase.PREFILL)
        bound = bound_of(work, time_ns, launch_ns, sheet, computed)
        return Priced(time_ns, launch_ns, bound, work, tuple(estimates))

    def _windowed(self, op: Attention) -> Priced:
        """Price attention within a window; where none was measured, as attention to its keys."""
        priced = windowed_attention(self.gpu, self.framework, op)
        if priced is not None:
            return priced
        priced = self._to_all(without_window(op))
        return replace(priced, estimates=(*priced.estimates, Estimate.always(WITHIN_KEYS)))

    def latent(self, op: LatentAttention) -> Priced:
        """Price attention over latents of one layer, without the products that absorb or expand.

        Prefill over expanded latents, where only the absorbed form was measured, or none, is priced
        as attention with heads of the mean size of keys and values.

        Raises:
            InputError: the time of attention on this GPU is not known.
        """
        if op.gathers:
            return sparse_attention(self.gpu, self.framework, op)
        if op.phase is Phase.DECODE:
            return latent_decode_attention(self.gpu, self.framework, op)
        priced = latent_prefill_attention(self.gpu, self.framework, op)
        if priced is not None:
            return priced
        priced = self.attention(expanded(op))
        return replace(priced, estimates=(*priced.estimates, Estimate.always(ABSORBED_ONLY)))

    def index_scan(self, op: IndexScan) -> Priced:
        """Price the scores of index keys, and the choice of the best tokens."""
        return index_scan(self.gpu, self.framework, op)

    def experts(self, op: Experts) -> Priced:
        """Price the experts of one layer."""
        return layer_prices.experts(self.gpu, self.framework, op)

    def state(self, op: StateUpdate) -> Priced:
        """Price a recurrent state."""
        return layer_prices.state(self.gpu, self.framework, op)

    def convolution(self, op: Convolution) -> Priced:
        """Price the short convolution before a recurrent state."""
        return layer_prices.convolution(self.gpu, self.framework, op)

    def custom_all_reduce(
        self, op: AllReduce, gpus: int, link: LinkSpec | None = None, *, in_graph: bool = True
    ) -> Priced:
        """Price the sum of one matrix over several GPUs as vLLM runs it.

        Short messages take its own kernel, and others NCCL. So do messages over a link on which
        nothing was measured.

        Args:
            op: the sum.
            gpus: number of GPUs.
            link: link between the GPUs; by default that of the measured GPU.
            in_graph: whether the kernel runs in a graph, and is not started by the host.

        Raises:
            InputError: the time of collectives over this link is not known.
        """

        def by_nccl() -> Priced:
            return self.all_reduce(op, gpus, link)

        measured = GPUS.load_name_or_file(self.gpu.calibration.gpu).link
        if link is not None and link.name != measured:
            return by_nccl()
        return layer_prices.custom_all_reduce(self.gpu, op, gpus, by_nccl, in_graph=in_graph)

    def fused(self, op: Fused) -> Priced:
        """Price an operator that no product and no plain attention describes."""
        match op:
            case Experts():
                return self.experts(op)
            case StateUpdate():
                return self.state(op)
            case Convolution():
                return self.convolution(op)
            case LatentAttention():
                return self.latent(op)
            case IndexScan():
                return self.index_scan(op)

    def pointwise(self, op: Pointwise) -> Priced:
        """Price an operator that acts on every element, by its memory traffic."""
        matrices = 4 if op.name in RESIDUAL_NORMS else MATRICES_MOVED[op.kind]
        moved = matrices * column(1.0 * op.m * op.n * op.count) * op.element.bytes
        time_ns = moved / (POINTWISE_SHARE * self.gpu.gpu.memory_bytes_per_s) * NS_PER_S
        return Priced(time_ns, 0.0, only(Bound.MEMORY), _traffic(moved), ())

    def all_reduce(self, op: AllReduce, gpus: int, link: LinkSpec | None = None) -> Priced:
        """Price the sum of one matrix over several GPUs.

        For a number of GPUs that was not measured, the sum takes a ring of that many hops. Its
        share of the rate is interpolated between the measured numbers, or is that of the nearest
        one. Over a link that was not measured, data move in proportion to the link's bandwidth.

        Args:
            op: the sum.
            gpus: number of GPUs.
            link: link between the GPUs; by default that of the measured GPU.

        Raises:
            InputError: the time of collectives over this link is not known.
        """
        return self._over_gpus(SUM, op, gpus, link)

    def collective(self, op: Collective, gpus: int, link: LinkSpec | None = None) -> Priced:
        """Price an exchange of rows among several GPUs, as `all_reduce` prices a sum.

        An exchange that was not measured takes the latency and the bandwidth of the sum, with its
        own bytes.

        Args:
            op: the exchange.
            gpus: as in `all_reduce`.
            link: as in `all_reduce`.

        Raises:
            InputError: the time of collectives over this link is not known.
        """
        return self._over_gpus(op.kind, op, gpus, link)

    def _over_gpus(
        self, operation: str, op: AllReduce | Collective, gpus: int, link: LinkSpec | None
    ) -> Priced:
        known = {series.operation for series in self.gpu.calibration.collectives}
        series = self.gpu.collective(operation if operation in known else SUM)
        message = column(op.bytes)
        estimates: list[Estimate] = []
        if series.operation != operation:
            series = series.model_copy(update={"operation": operation})
            what = f"{operation}: with latency and bandwidth of {SUM}, never measured"
            estimates.append(Estimate.always(what))
        measured = GPUS.load_name_or_file(self.gpu.calibration.gpu).link
        if link is not None and link.name != measured:
            series = _over(series, link, measured, op.name)
            what = f"collectives over {link.name}: scaled from {measured} by bandwidth"
            estimates.append(Estimate.always(what))
        if gpus not in series.gpus:
            series = _among(series, gpus)
            what = f"collectives of {gpus} GPUs: scaled, as in one NVLink domain"
            estimates.append(Estimate.always(what))
        count = np.full(message.size, float(gpus))
        time_ns = collective_ns(series, count, message)
        outside = ~inside(collective_limits(series, count, message))
        estimates.append(Estimate("collectives: messages outside those measured", outside))
        fastest = max(protocol.bytes_per_s for protocol in series.protocols)
        on_wire = message * wire_share(series.operation, count)
        waits_for_data = on_wire / fastest * NS_PER_S > time_ns / 2
        return Priced(
            time_ns,
            0.0,
            either(waits_for_data, Bound.LINK, Bound.LATENCY),
            _traffic(2 * message),
            tuple(estimates),
        )

    def _decode(self, cache: ElementType) -> tuple[DecodeSeries, DecodeTimer, ElementType]:
        """Return the series and the timer of decode attention over a cache, and its compute type.

        The timer is made once and kept, since attention is timed at many lengths.
        """
        if cache not in self._timers:
            computed = self._computed(cache, self.gpu.decode)
            series = self._series(computed, self.gpu.decode)
            read = None if cache in SIXTEEN_BITS else cache
            self._timers[cache] = series, DecodeTimer.of(series, self.gpu.gpu, read), computed
        return self._timers[cache]

    def _computed(
        self,
        cache: ElementType,
        find: Callable[[SeriesType, str | None], DecodeSeries | PrefillSeries],
    ) -> ElementType:
        """Return the element type of the series that prices attention over a cache."""
        known = cache not in SIXTEEN_BITS and self._knows(find, cache)
        return cache if known else ElementType.BF16

    def _prefill_ns(
        self, prefill: PrefillSeries, single: DecodeSeries, shapes: AttentionShapes
    ) -> Floats:
        """Return the time of prefill attention, also for sizes of heads that were not measured.

        Kernels pad smaller heads to the smallest measured size. Larger heads take the time of the
        largest measured size, in proportion to their elements.
        """
        dims = np.clip(shapes.head_dim, SMALLEST_DIM, LARGEST_DIM)
        filled = replace(shapes, head_dim=dims)
        time_ns = prefill_ns(prefill, single, self.gpu.gpu, filled)
        return time_ns * np.maximum(1.0, shapes.head_dim / dims)

    def _operands(self, op: MatMul, source: CalibratedGpu) -> Operands:
        """Return the element types of a product.

        Weights may have fewer bits than activations. Where no kernel of such types was measured,
        the product takes the coefficients of bf16 and the real bytes of each operand.
        """
        bf16, fp8 = ElementType.BF16, ElementType.FP8
        left = bf16 if op.left in SIXTEEN_BITS else op.left
        right = bf16 if op.right in SIXTEEN_BITS else op.right
        if (left, right) not in OPERANDS:
            raise InputError(
                f"no kernel multiplies {op.left} activations with {op.right} weights",
                where="precision",
                hint="use activations as wide as the weights or wider, and fp8 or int8, not both; "
                f"{PUBLISHED_INSTEAD}",
            )
        if left is right is bf16:
            return Operands(bf16, bf16, bf16)
        # The measured narrow products take the left matrix in 16 bits and convert it.
        if right in CONVERTED and self._knows(source.gemm, right) and _computes(source, right):
            return Operands(right, right, right)
        if right is BlockFormat.FP8_BLOCK:
            if self._knows(source.gemm, fp8):
                note = "products of fp8_block weights: as fp8 with one scale, never measured"
                return Operands(fp8, fp8, fp8, (note,))
            right = fp8
        if left is right is ElementType.INT8:
            note = "int8 products: scaled from bf16, never measured"
            return Operands(bf16, left, right, (note,))
        kept = "16-bit" if left is bf16 else left
        what = f"products of {kept} activations with {right} weights"
        if left is right:
            return Operands(bf16, left, right, (f"{what}: {AS_BF16}",))
        return Operands(
            bf16,
            left,
            right,
            (f"{what}: as bf16 with smaller weights, never measured; {CONVERTS}",),
        )

    def _knows(
        self,
        find: Callable[[SeriesType, str | None], GemmSeries | DecodeSeries | PrefillSeries],
        element: SeriesType,
    ) -> bool:
        """Return whether a series of an element type exists."""
        try:
            find(element, self.framework)
        except InputError:
            return False
        return True

    def _series(self, element: SeriesType, find: Callable[[SeriesType, str | None], S]) -> S:
        """Return the series of an element type.

        Raises:
            InputError: this library has no such series.
        """
        try:
            return find(element, self.framework)
        except InputError as refusal:
            raise InputError(
                refusal.message, where=refusal.where, hint=f"{refusal.hint}; {PUBLISHED_INSTEAD}"
            ) from None


def _computes(source: CalibratedGpu, kind: SeriesType) -> bool:
    """Say whether a GPU has units for products of a type."""
    return kind is not BlockFormat.NVFP4 or source.gpu.fp4_flops is not None


def _traffic(moved_bytes: Floats) -> Work:
    """Return the work of a kernel that only moves data."""
    none = np.zeros_like(moved_bytes)
    return Work(none, moved_bytes, none, none, none)


def _over(
    series: CollectiveSeries, link: LinkSpec, measured: str | None, name: str
) -> CollectiveSeries:
    """Return a collective over a link on which it was not measured."""
    if measured is None or link.collective is None:
        raise InputError(
            f"nothing is known of collectives over {link.name}, over which GPUs sum {name}",
            where="link",
            hint="use an NVLink, or a link of your own with a table [collective]",
        )
    ratio = link.bytes_per_s / LINKS.load(measured).bytes_per_s
    protocols = tuple(
        protocol.model_copy(update={"bytes_per_s": ratio * protocol.bytes_per_s})
        for protocol in series.protocols
    )
    return series.model_copy(update={"protocols": protocols})


def _among(series: CollectiveSeries, gpus: int) -> CollectiveSeries:
    """Return a collective for a number of GPUs that was not measured."""
    share = float(np.interp(gpus, series.gpus, series.full_share))
    return series.model_copy(update={"gpus": (gpus,), "full_share": (share,)})


class CalibratedCostModel(CostModel):
    """Steps as a GPU library runs them, priced from its calibrated operators.

    Decode steps run as graphs of kernels, which hide part of the launches. Sums over GPUs in decode
    steps run on the library's own kernels. Both effects, and the host's time, are fitted to serving
    runs (`attacc.gpu.frameworks`). Prefills, and steps with decode and prefill, run kernel by
    kernel, with NCCL's sums.

    Args:
        framework: framework of the kernels; by default each GPU's reference.
        serving: preset of the framework whose host adds time; None for the operators alone.
        products_from: calibration -> calibration that prices its products, where the former has no
            products of the framework.
        falls_back: whether a GPU's reference kernels stand for those of a framework that was not
            measured on it. The estimates say so.
    """

    def __init__(
        self,
        *,
        framework: str | None = None,
        serving: str | None = "vllm",
        products_from: Mapping[str, str] | None = None,
        falls_back: bool = False,
    ) -> None:
        self._framework = framework
        self._falls_back = falls_back
        self._serving: ServingSpec | None = None if serving is None else SERVING.load(serving)
        self._products_from = dict(products_from or {})
        self._phase: Phase | None = None
        self._token: TokenCoefficients | None = None
        self._host_estimates: tuple[Estimate, ...] = ()
        self._published = PublishedCostModel()
        self._kernels: dict[_DataSheet, Kernels] = {}
        self._powers: dict[_DataSheet, tuple[PowerSpec, tuple[str, ...]]] = {}

    @property
    def kind(self) -> str:
        """Name of the model."""
        return "calibrated"

    def as_run(self, step: Step) -> Step:
        """Return the operators that serving libraries run for a step."""
        return as_run(step)

    def for_steps(self, phase: Phase, model: ServedModel | None = None) -> CalibratedCostModel:
        """Return the cost model for steps of a phase, with the host's time for the model's types.

        Where no run with the weights' type was measured, the series of bf16 gives the host's time,
        and the estimates say so.
        """
        chosen = copy(self)
        chosen.runs_as(phase, model)
        return chosen

    def runs_as(self, phase: Phase, model: ServedModel | None) -> None:
        """Set the phase, and the framework's coefficients for steps of it."""
        self._phase, self._token, self._host_estimates = phase, None, ()
        if self._serving is None or phase is Phase.PREFILL:
            return
        weights = ElementType.BF16 if model is None else weight_type(model.weights_format)
        wanted = _SERVED_AS.get(weights, weights)
        notes: list[Estimate] = []
        series = serving_series(self._serving, None, wanted)
        if series is None:
            what = f"host time of {self._serving.name} with {weights} weights: that of bf16"
            notes.append(Estimate.always(what))
            series = serving_series(self._serving, None, ElementType.BF16)
        if series is None:
            raise EngineError(f"no series of {self._serving.name} in bf16")
        if phase is Phase.MIXED:
            notes.append(Estimate.always(MIXED))
        self._token, self._host_estimates = series.token, tuple(notes)

    def host(self, step: Step) -> HostTime | None:
        """Return the time that the host adds to steps with decode; None for prefills."""
        of = self._token
        if of is None:
            return None
        step_ns = column(of.step_ns + of.request_ns * step.decoding)
        notes = self._host_estimates
        if step.mixer_groups > 1:
            notes = (*notes, Estimate.always(OWN_HOSTS))
        return HostTime(of.layer_ns, step_ns, notes)

    @property
    def _graphs(self) -> TokenCoefficients | None:
        """Coefficients of graphs of kernels; None where kernels are started one by one."""
        return self._token if self._phase is Phase.DECODE else None

    def static_w(self, gpu: GpuSpec) -> float:
        """Return the idle power of a GPU with raised clocks."""
        return self._power(gpu)[0].idle_w

    def errors(self, gpu: GpuSpec) -> dict[GpuPart, float]:
        """Return the errors of cross-validation, the largest of the types that were measured.

        The error of a GPU whose coefficients are scaled from another one was not measured: twice
        the other one's is assumed.
        """
        kernels = self.kernels(gpu)
        known, framework = kernels.gpu.calibration, kernels.framework

        def largest(*found: Sequence[Fitted]) -> float:
            every = [series for some in found for series in some]
            own = [s for s in every if getattr(s, "framework", None) == framework]
            return max((s.error for s in own or every), default=UNMEASURED_ERROR)

        serving = [] if self._serving is None else [s.tpot_error for s in self._serving.series]
        errors = {
            GpuPart.PRODUCTS: largest(known.gemm),
            GpuPart.DECODE: largest(known.decode),
            GpuPart.PREFILL: largest(known.prefill),
            GpuPart.FUSED: largest(
                known.moe, known.mla_decode, known.gated_delta_net, known.sparse_decode
            ),
            GpuPart.COLLECTIVES: largest(known.collectives),
            GpuPart.HOST: max(serving, default=UNMEASURED_ERROR),
            GpuPart.LINK: UNMEASURED_ERROR,
        }
        if kernels.gpu.scaled_from is None:
            return errors
        return {part: 2 * error for part, error in errors.items()}

    def matmul(self, op: MatMul, gpu: GpuSpec) -> OperatorCosts:
        """Price a product with weights."""
        return self._cost(op.name, self.kernels(gpu).product(op), gpu)

    def attention(self, op: Attention, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price attention as one fused kernel."""
        return (self._cost(op.name, self.kernels(gpu).attention(op), gpu),)

    def products(self, op: Experts) -> tuple[MatMul | Pointwise, ...]:
        """Return the experts as products, with gate and up projections as one."""
        joined = _joined(op.products())
        return tuple(part for part in joined if isinstance(part, MatMul | Pointwise))

    def pointwise(self, op: Pointwise, gpu: GpuSpec) -> OperatorCosts:
        """Price an operator that acts on every element, by its memory traffic."""
        return self._cost(op.name, self.kernels(gpu).pointwise(op), gpu)

    def fused(self, op: Fused, gpu: GpuSpec) -> tuple[OperatorCosts, ...]:
        """Price experts, recurrent states, convolutions, or attention over latents.

        Experts in 8 bits of an engine whose own kernels were not measured take the faster of the
        two kinds of kernels that were, with one scale for a matrix or one for each block.
        """
        kernels = self.kernels(gpu)
        priced = kernels.fused(op)
        if self._falls_back and isinstance(op, Experts) and op.weights is ElementType.FP8:
            try:
                other = kernels.fused(replace(op, weights=BlockFormat.FP8_BLOCK))
            except InputError:
                other = None
            if other is not None and other.time_ns.sum() < priced.time_ns.sum():
                note = Estimate.always(f"experts on {gpu.name}: the faster kernels of 8 bits")
                priced = replace(other, estimates=(*other.estimates, note))
        return (self._cost(op.name, priced, gpu),)

    def coprocessing_peak_flops_per_s(self, op: MatMul, gpu: GpuSpec) -> Floats:
        """Return the rate that the product reaches."""
        return op.flops / self.matmul(op, gpu).time_ns * NS_PER_S

    def coprocessing_bytes_per_s(self, op: MatMul, gpu: GpuSpec) -> Floats:
        """Return the rate at which the product reads its weights."""
        weights = 1.0 * op.n * op.k * op.count * op.right.bytes
        return weights / self.matmul(op, gpu).time_ns * NS_PER_S

    def all_reduce(self, op: AllReduce, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price the sum of one matrix over several GPUs."""
        priced = self.kernels(gpu).all_reduce(op, gpus, link)
        if self._graphs is not None:
            priced = replace(priced, time_ns=priced.time_ns * self._graphs.reduce_share)
        cost = self._cost(op.name, priced, gpu)
        return _with_link(cost, SUM, op, gpus, link)

    def collective(self, op: Collective, gpu: GpuSpec, link: LinkSpec, gpus: int) -> OperatorCosts:
        """Price an exchange of rows among several GPUs, by NCCL's measured exchanges."""
        cost = self._cost(op.name, self.kernels(gpu).collective(op, gpus, link), gpu)
        return _with_link(cost, op.kind, op, gpus, link)

    def transfer(
        self, name: str, transferred_bytes: float | Floats, link: LinkSpec
    ) -> OperatorCosts:
        """Price moving bytes over one device's link, as the published model does."""
        return self._published.transfer(name, transferred_bytes, link)

    def cpu_attention(self, op: Attention, gpus: int, cpu: CpuSpec, sockets: int) -> OperatorCosts:
        """Price attention on CPUs at shares of their data sheet.

        Raises:
            InputError: the CPU has no calibration.
        """
        if cpu.name not in CPU_CALIBRATIONS.names():
            raise InputError(
                f"the CPU {cpu.name} has no calibration",
                where="cpu.preset",
                hint=f"use one of {', '.join(CPU_CALIBRATIONS.names())}; {PUBLISHED_INSTEAD}",
            )
        shares = CPU_CALIBRATIONS.load(cpu.name)
        assumed = f"{shares.memory_share:.0%} of the data sheet's bandwidth, assumed"
        scores = 1.0 * op.batch * op.heads * op.queries * op.keys
        flops = gpus * (op.flops + SOFTMAX_OPERATIONS * scores)
        moved = gpus * op.bytes
        compute_s = column(flops / (shares.compute_share * cpu.peak_flops_per_s * sockets))
        memory_s = column(moved / (shares.memory_share * cpu.memory_bytes_per_s * sockets))
        return OperatorCosts(
            op.name,
            np.maximum(compute_s, memory_s) * NS_PER_S,
            either(compute_s > memory_s, Bound.COMPUTE, Bound.MEMORY),
            Energies.of(dram_pj=moved * cpu.memory_pj_per_byte),
            estimates=(Estimate.always(f"attention on {cpu.name}: {assumed}"),),
        )

    def kernels(self, gpu: GpuSpec) -> Kernels:
        """Return the operators on a GPU.

        Raises:
            InputError: the GPU has no calibration.
        """
        sheet = _data_sheet(gpu)
        if sheet not in self._kernels:
            own = _calibrated(gpu)
            other = self._products_from.get(own.calibration.name)
            products = None if other is None else CalibratedGpu.load(other).on(own.gpu)
            framework, missing = self._framework, None
            measured = {series.framework for series in own.calibration.decode}
            if self._falls_back and framework not in measured:
                framework, missing = None, framework
            self._kernels[sheet] = Kernels(own, framework, products, missing)
        return self._kernels[sheet]

    def _power(self, gpu: GpuSpec) -> tuple[PowerSpec, tuple[str, ...]]:
        sheet = _data_sheet(gpu)
        if sheet not in self._powers:
            self._powers[sheet] = power_on(self.kernels(gpu).gpu)
        return self._powers[sheet]

    def _cost(self, name: str, priced: Priced, gpu: GpuSpec) -> OperatorCosts:
        time_ns = priced.time_ns
        if self._graphs is not None:
            time_ns = time_ns - self._graphs.graph_share * priced.launch_ns
        spec, scaled = self._power(gpu)
        parts = power(spec, priced.work, time_ns)
        wanted_w = parts.dynamic_w + parts.memory_w
        # Near the board's limit the clock falls, and with it every part except idle power.
        at_clock = (parts.total_w - parts.idle_w) / wanted_w * time_ns * PJ_PER_NS_PER_W
        dram_w = spec.dram_pj_per_byte * priced.work.dram_bytes / time_ns * 1e-3
        l2_w = spec.l2_pj_per_byte * priced.work.l2_bytes / time_ns * 1e-3
        energy = Energies.of(
            dram_pj=dram_w * at_clock,
            l2_pj=l2_w * at_clock,
            alu_pj=(parts.dynamic_w - spec.active_w) * at_clock,
            static_pj=spec.active_w * at_clock,
        )
        return OperatorCosts(
            name,
            time_ns,
            priced.bound,
            energy,
            priced.launch_ns,
            (*priced.estimates, *(Estimate.always(what) for what in scaled)),
        )


_DataSheet = tuple[str | float | None, ...]


def _data_sheet(gpu: GpuSpec) -> _DataSheet:
    """Return all of a data sheet that prices depend on: GPUs of equal names may differ."""
    return (
        gpu.name,
        gpu.calibration,
        gpu.memory_bytes_per_s,
        gpu.memory_bytes,
        gpu.cores,
        gpu.l1_bytes,
        gpu.l2_bytes,
        gpu.board_power_w,
        gpu.fp4_flops,
        *gpu.peak_flops,
        *gpu.peak_flops.values(),
    )


def _with_link(
    cost: OperatorCosts, operation: str, op: AllReduce | Collective, gpus: int, link: LinkSpec
) -> OperatorCosts:
    """Return the price of a collective with the energy of the bytes that one GPU sends."""
    moved = column(op.bytes) * wire_share(operation, np.array([float(gpus)]))
    energy = Energies.of(link_pj=moved * link.energy_pj_per_byte)
    return replace(cost, energy=cost.energy + energy)


_NOT_TIMED: Final = (
    "memory_bytes",
    "description",
    "calibration",
    "memory_stacks",
    "price_usd",
    "build_cost_usd",
    "rent_usd_per_h",
)
"""Fields of a GPU on which no time depends."""


def _calibrated(gpu: GpuSpec) -> CalibratedGpu:
    name = gpu.calibration or preset_of(gpu.name)
    if gpu.calibration is None and name not in CALIBRATIONS.names():
        raise InputError(
            f"the GPU {gpu.name} has no calibration",
            where="gpu",
            hint='name one to be scaled to its data sheet, as in calibration = "h100" '
            f"(known are {', '.join(CALIBRATIONS.names())}); {PUBLISHED_INSTEAD}",
        )
    known = CalibratedGpu.load(name, where=f"GPU {gpu.name}: calibration")
    # A system may change the memory size of a GPU, and anybody its price; the coefficients stay
    # those of that GPU. For any other difference of the data sheet they are scaled.
    same = known.gpu.model_copy(update={name: getattr(gpu, name) for name in _NOT_TIMED})
    return replace(known, gpu=gpu) if same == gpu else known.on(gpu)
