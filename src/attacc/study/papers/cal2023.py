"""Exhibits of the CAL 2023 paper: why decode attention idles GPUs, and what caps the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from attacc.hardware.gpu import GpuSpec
from attacc.models.operators import Attention, MatMul, Step
from attacc.models.parameters import kv_bytes_per_token, weight_bytes
from attacc.models.precision import ElementType
from attacc.models.steps import decode_step, prefill_step
from attacc.study.papers.exhibits import (
    Cell,
    Column,
    Exhibit,
    Form,
    Mark,
    Panel,
    Paper,
    Series,
    deviation,
)
from attacc.study.papers.figures import paper_figures
from attacc.study.papers.platforms import Load, Served
from attacc.study.papers.setting import (
    LOADS,
    LONG,
    OWN_STACK,
    PUBLISHED_STACK,
    TARGETS_MS,
    Reasons,
    Setting,
    best,
)

BATCHES: Final = (1, 4, 16, 64, 256)
LENGTHS: Final = (512, 2048, 8192)
PROMPTS: Final = (128, 512, 2048)
LAYERS: Final = ("qkv", "score", "context", "projection", "ff1", "ff2")
ATTENTION: Final = ("score", "context")
ATTENTION_INTENSITY: Final = 1.0
"""Operations per byte of decode attention, about, whatever the batch (reference/attacc.md)."""


@dataclass(frozen=True, slots=True)
class _Point:
    """One layer on the roofline of a GPU."""

    phase: str
    layer: str
    batch: int
    length: int
    flops_per_byte: float
    attainable_flops_per_s: float
    share_of_peak: float


def intensity(setting: Setting) -> Exhibit:
    """Operations per byte of every layer of GPT-3, on the roofline of one GPU."""
    gpu, gpus = setting.base.system.gpu, setting.base.system.gpus
    model = setting.gpt3.spec
    points: list[_Point] = []
    for batch in BATCHES:
        for length in LENGTHS:
            step = decode_step(model, batch=batch, kv_length=length, tensor_parallel=gpus)
            names = LAYERS if length == LENGTHS[0] else ATTENTION
            points += _points(step, "decode", batch, length, names, gpu)
    for length in PROMPTS:
        step = prefill_step(model, batch=1, prompt_length=length, tensor_parallel=gpus)
        points += _points(step, "prefill", 1, length, LAYERS, gpu)
    peak, ridge = _roof(gpu)
    rows: list[tuple[Cell, ...]] = []
    for point in points:
        paper = None
        if point.phase == "decode" and point.layer in ATTENTION:
            paper = ATTENTION_INTENSITY
        rows.append(
            (
                point.phase,
                point.layer,
                point.batch,
                point.length if point.layer in ATTENTION or point.phase == "prefill" else None,
                paper,
                point.flops_per_byte,
                deviation(point.flops_per_byte, paper),
                point.attainable_flops_per_s / 1e12,
                point.share_of_peak,
            )
        )
    return Exhibit(
        id="cal2023-intensity",
        paper=Paper.CAL2023,
        title="Arithmetic intensity of each layer, and what one GPU can do with it",
        conditions=f"GPT-3 175B in fp16, tensor-parallel over 8 {setting.base.system.spec.gpu}; "
        f"peak {peak / 1e12:.0f} TFLOPS, ridge at {ridge:.1f} op/B",
        columns=(
            Column("phase", "phase", form=Form.TEXT),
            Column("layer", "layer", form=Form.TEXT),
            Column("batch", "batch", form=Form.COUNT),
            Column("length_tokens", "length", "tokens", Form.COUNT),
            Column("paper_ops_per_byte", "paper", "op/B"),
            Column("ours_ops_per_byte", "ours", "op/B"),
            Column("deviation", "off by", form=Form.DEVIATION),
            Column("attainable_tflops", "attainable", "TFLOPS"),
            Column("share_of_peak", "of peak", form=Form.SHARE),
        ),
        rows=tuple(rows),
        notes=(
            (
                "Operands and results moved once each, whatever the tiles. The length of decode is "
                "that of the cache; products with weights do not depend on it (empty)."
            ),
            (
                "The reference says that decode attention stays near 1 op/B; queries, scores and "
                "contexts, which are moved too, leave it a little below."
            ),
        ),
        panels=(_roofline(points, peak, ridge),),
    )


def _points(
    step: Step, phase: str, batch: int, length: int, names: Sequence[str], gpu: GpuSpec
) -> Iterator[_Point]:
    peak, ridge = _roof(gpu)
    for op in _products(step):
        if op.name in names:
            per_byte = float(op.flops / op.bytes)
            share = min(1.0, per_byte / ridge)
            yield _Point(phase, op.name, batch, length, per_byte, share * peak, share)


def _products(step: Step) -> Iterator[MatMul]:
    """Return the matrix products of a layer, those of attention among them."""
    for op in step.layers[0].operators:
        if isinstance(op, MatMul):
            yield op
        elif isinstance(op, Attention):
            yield from (op.score, op.context)


def _roof(gpu: GpuSpec) -> tuple[float, float]:
    """Return the peak rate in fp16 and the intensity from which on it can be reached."""
    peak = gpu.peak_flops_per_s(ElementType.FP16)
    return peak, peak / gpu.memory_bytes_per_s


def _roofline(points: Sequence[_Point], peak: float, ridge: float) -> Panel:
    least, most = 0.25, 16 * ridge
    roof = Series(
        "roofline", (least, ridge, most), (least / ridge * peak / 1e12, peak / 1e12, peak / 1e12),
        reference=True,
    )  # fmt: skip
    kinds = {
        "decode attention": [p for p in points if p.phase == "decode" and p.layer in ATTENTION],
        "decode, products with weights": [
            p for p in points if p.phase == "decode" and p.layer not in ATTENTION
        ],
        "prefill attention": [p for p in points if p.phase == "prefill" and p.layer in ATTENTION],
        "prefill, products with weights": [
            p for p in points if p.phase == "prefill" and p.layer not in ATTENTION
        ],
    }
    series = [
        Series(
            label,
            tuple(p.flops_per_byte for p in chosen),
            tuple(p.attainable_flops_per_s / 1e12 for p in chosen),
            Mark.POINTS,
        )
        for label, chosen in kinds.items()
    ]
    return Panel("", "arithmetic intensity, op/B", "attainable TFLOPS", (roof, *series), True, True)


def kv_bytes(setting: Setting) -> Exhibit:
    """Bytes of keys and values against bytes of weights."""
    lengths, batches = (512, 2048, 4096, 8192), (1, 8, 18, 54, 128, 256)
    rows: list[tuple[Cell, ...]] = []
    panels: list[Panel] = []
    for subject in setting.models:
        weights, token = weight_bytes(subject.spec), kv_bytes_per_token(subject.spec)
        for length in lengths:
            for batch in batches:
                kv = batch * length * token
                rows.append((subject.label, length, batch, weights / 1e9, kv / 1e9, kv / weights))
        lines = [
            Series(f"{n:,} tokens", batches, tuple(b * n * token / weights for b in batches))
            for n in lengths
        ]
        even = Series("as many", (batches[0], batches[-1]), (1.0, 1.0), reference=True)
        panels.append(
            Panel(subject.label, "batch", "KV bytes / weight bytes", (*lines, even), True, True)
        )
    return Exhibit(
        id="cal2023-kv-bytes",
        paper=Paper.CAL2023,
        title="Keys and values against weights",
        conditions="whole model, every request at the length; MT-NLG 530B in int8, others in fp16",
        columns=(
            Column("model", "model", form=Form.TEXT),
            Column("length_tokens", "length", "tokens", Form.COUNT),
            Column("batch", "batch", form=Form.COUNT),
            Column("weights_gb", "weights", "GB"),
            Column("kv_gb", "keys and values", "GB"),
            Column("kv_over_weights", "KV / weights", form=Form.RATIO),
        ),
        rows=tuple(rows),
        notes=("The reference holds no figures of the paper for this exhibit.",),
        panels=tuple(panels),
    )


def attention_share(setting: Setting) -> Exhibit:
    """Share of attention in a decode step on GPUs, by batch and length."""
    reasons = Reasons()
    lengths, batches = (512, 2048, 4096, 8192), (1, 8, 18, 32, 64, 128)
    rows: list[tuple[Cell, ...]] = []
    lines: list[Series] = []
    for length in lengths:
        load = Load(length - 1, 2)
        most = setting.pricers.largest(setting.base, setting.gpt3, load)
        shares: list[float | None] = []
        for batch in batches:
            served = reasons.attempt(
                setting.base.label,
                lambda load=load, batch=batch: setting.pricers.serve(
                    setting.base, setting.gpt3, load, batch
                ),
            )
            share = None if served is None else served.attention_ms / served.step_ms
            shares.append(share)
            rows.append((length, batch, *_step(served), share, "yes" if batch <= most else "no"))
        lines.append(Series(f"{length:,} tokens", batches, tuple(shares)))
    return Exhibit(
        id="cal2023-attention-share",
        paper=Paper.CAL2023,
        title="Share of attention in a decode step on GPUs",
        conditions="GPT-3 175B in fp16 on the 8 GPUs of DGX_Base, every request at the length",
        columns=(
            Column("length_tokens", "length", "tokens", Form.COUNT),
            Column("batch", "batch", form=Form.COUNT),
            Column("step_ms", "step", "ms"),
            Column("attention_ms", "attn.", "ms"),
            Column("attention_share", "share", form=Form.SHARE),
            Column("fits", "fits", form=Form.TEXT),
        ),
        rows=tuple(rows),
        notes=(
            "Batches that do not fit into 8 x 80 GiB are priced as if they did.",
            "The reference holds no figures of the paper for this exhibit.",
            *reasons.told,
        ),
        panels=(Panel("", "batch", "share of attention", tuple(lines), log_x=True),),
    )


def _step(served: Served | None) -> tuple[float | None, float | None]:
    return (None, None) if served is None else (served.step_ms, served.attention_ms)


def batches(setting: Setting) -> Exhibit:
    """Batches limited by capacity and by latency targets."""
    reasons = Reasons()
    limit = next(figure.value for figure in paper_figures() if figure.id == "batch-limit")
    published, own = setting.attacc(PUBLISHED_STACK), setting.attacc(OWN_STACK)
    platforms = (setting.base, setting.large, published, own)
    rows: list[tuple[Cell, ...]] = []
    at_long: list[Series] = []
    for load in LOADS:
        for platform in platforms:
            sizes: list[int | None] = []
            for slo_ms in TARGETS_MS:
                served = best(setting, reasons, platform, setting.gpt3, load, slo_ms).served
                sizes.append(served.batch if served else None)
            paper = limit if (platform, load) == (setting.base, LONG) else None
            rows.append(
                (
                    load.prompt,
                    load.output,
                    platform.label,
                    paper,
                    sizes[0],
                    deviation(sizes[0], paper),
                    *(0 if size is None else size for size in sizes[1:]),
                )
            )
            if load == LONG:
                names = tuple("no target" if ms is None else f"{ms:.0f} ms" for ms in TARGETS_MS)
                at_long.append(Series(platform.label, names, tuple(sizes), Mark.BARS))
    return Exhibit(
        id="cal2023-batch",
        paper=Paper.CAL2023,
        title="Largest batch by capacity and by latency target",
        conditions="GPT-3 175B in fp16; every request may reach its last token; target for the "
        "mean time per output token; AttAcc with both optimisations",
        columns=(
            Column("prompt_tokens", "Lin", "tokens", Form.COUNT),
            Column("output_tokens", "Lout", "tokens", Form.COUNT),
            Column("system", "system", form=Form.TEXT),
            Column("paper_batch", "paper", form=Form.COUNT),
            Column("capacity_batch", "capacity", form=Form.COUNT),
            Column("deviation", "off by", form=Form.DEVIATION),
            *(
                Column(f"slo_{ms:.0f}_ms_batch", f"{ms:.0f} ms", form=Form.COUNT)
                for ms in TARGETS_MS
                if ms is not None
            ),
        ),
        rows=tuple(rows),
        notes=(
            "0: not even one request keeps the target, or it has no price.",
            (
                "The paper's 18 counts weights and keys and values of the layers; here embedding, "
                "LM head and activations take memory too, which leaves room for 17."
            ),
            (
                "AttAcc, published: all memory as one pool, the papers' stack. AttAcc, own: "
                "keys and values in the stacks, which fill up first; the presets' stack."
            ),
            *reasons.told,
        ),
        panels=(Panel("(2,048, 2,048)", "", "requests", tuple(at_long)),),
    )
