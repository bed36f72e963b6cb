"""Figures of the pages in docs/mixers: one for each mixer, and one for routed experts.

python benchmarks/mixer_figures.py [--write]

Prints the numbers behind the curves; ``--write`` also draws docs/figures/mixer-*.svg, which needs
matplotlib. Sizes are those of the published config.json files. Everything else is computed.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import attacc as aa
from attacc.gpu.models import GpuModel, cost_model
from attacc.hardware.gpu import GPUS
from attacc.models.feedforward import Mixture
from attacc.models.mixers import (
    Attention,
    BlockSelector,
    CompressedAttention,
    DeltaNet,
    LatentAttention,
    Mamba2,
    Mixer,
    TokenIndexer,
)
from attacc.models.operators import Experts, PointwiseKind, expected_visits
from attacc.models.precision import BlockFormat, ElementType, WeightType
from attacc.models.served import ServedModel
from attacc.pim.mapping.ring import NewTokens
from attacc.pim.product import AttaccProducts
from attacc.pim.program.product import ProductShape
from attacc.pim.selection import selection_bounds
from attacc.report.figures import write_figure
from attacc.system.layer_attention import LayerHeads

ROOT = Path(__file__).parents[1]
SYSTEM = ROOT / "examples" / "h200-attacc.toml"
LENGTHS: Final = tuple(2**power for power in range(10, 21))
SIXTEEN_BITS: Final = 2.0
EIGHT_BITS: Final = 1.0

GPT3: Final = Attention(heads=96, kv_heads=96, head_dim=128)
LLAMA: Final = Attention(heads=64, kv_heads=8, head_dim=128)
GEMMA_WINDOW: Final = Attention(heads=32, kv_heads=16, head_dim=256, window=1024)
GEMMA_FULL: Final = Attention(heads=32, kv_heads=4, head_dim=512)
GPT_OSS_WINDOW: Final = Attention(heads=64, kv_heads=8, head_dim=64, window=128)
GPT_OSS_FULL: Final = Attention(heads=64, kv_heads=8, head_dim=64)
LLAMA4_CHUNK: Final = Attention(heads=40, kv_heads=8, head_dim=128, chunk=8192)
V3: Final = LatentAttention(
    heads=128, query_rank=1536, latent=512, rope_dim=64, nope_dim=128, value_dim=128
)
V32: Final = V3.model_copy(update={"indexer": TokenIndexer(heads=64, dim=128, chosen=2048)})
M3: Final = Attention(
    heads=64,
    kv_heads=4,
    head_dim=128,
    selector=BlockSelector(heads=4, dim=128, block=128, blocks=16),
)
V4: Final = CompressedAttention(
    heads=64,
    head_dim=512,
    rope_dim=64,
    query_rank=1024,
    output_groups=8,
    output_rank=1024,
    window=128,
    ratio=4,
    indexer=TokenIndexer(heads=64, dim=128, chosen=512),
)
QWEN_STATE: Final = DeltaNet(key_heads=16, value_heads=64, key_dim=128, value_dim=128, conv=4)
QWEN_FULL: Final = Attention(heads=32, kv_heads=2, head_dim=256)
NEMOTRON_STATE: Final = Mamba2(heads=128, head_dim=64, state=128, groups=8, conv=4)
NEMOTRON_FULL: Final = Attention(heads=32, kv_heads=2, head_dim=128)
BF16: Final = ElementType.BF16
MIXTURES: Final[tuple[tuple[str, int, Mixture, WeightType], ...]] = (
    ("Mixtral 8x7B", 4096, Mixture(experts=8, experts_per_token=2, width=14336), BF16),
    ("gpt-oss 120B", 2880, Mixture(experts=128, experts_per_token=4, width=2880),
     BlockFormat.MXFP4),
    ("DeepSeek V3", 7168, Mixture(experts=256, experts_per_token=8, width=2048),
     BlockFormat.FP8_BLOCK),
    ("Qwen3.5 397B", 4096, Mixture(experts=512, experts_per_token=10, width=1024), BF16),
)  # fmt: skip
"""Name, elements of the residual stream, experts, type of their weights."""

Draw = Callable[[Any], None]
"""Draws on a figure of Matplotlib."""


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        cells = [f"{cell:,.4g}" if isinstance(cell, float) else f"{cell}" for cell in row]
        print("| " + " | ".join(cells) + " |")


def tokens_text(tokens: int) -> str:
    if tokens >= 2**20:
        return f"{tokens // 2**20}M"
    return f"{tokens // 2**10}k" if tokens >= 2**10 else str(tokens)


def powers(axis: Any, ticks: Sequence[int]) -> None:
    """Label powers of two on the x axis."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(ticks), [tokens_text(tick) for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)


# Full attention: what the queries that share a key decide.

FULL_LENGTHS: Final = (1024, 4096, 16_384, 65_536)
FULL_BATCH: Final = 16
FULL_CASES: Final = ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4))
"""Query heads for each key/value head, and tokens of a step."""


def with_groups(group: int) -> ServedModel:
    """Return Llama 3.1 70B with so many query heads for each key/value head."""
    known = aa.load_model("llama-3.1-70b")
    layers = tuple(
        layer.model_copy(
            update={"mixer": LLAMA.model_copy(update={"kv_heads": LLAMA.heads // group})}
        )
        for layer in known.model.layers
    )
    return dataclasses.replace(known, model=known.model.model_copy(update={"layers": layers}))


def full() -> Draw:
    """Return the figure of full attention: gains over queries for each key."""
    alone: dict[int, list[float]] = {length: [] for length in FULL_LENGTHS}
    whole: dict[int, list[float]] = {length: [] for length in FULL_LENGTHS}
    shared = [group * queries for group, queries in FULL_CASES]
    bandwidth = 0.0
    for group, queries in FULL_CASES:
        found = aa.where(
            with_groups(group), SYSTEM,
            lengths=FULL_LENGTHS, batches=[FULL_BATCH], queries=[queries],
        )  # fmt: skip
        bandwidth = found.bandwidth_ratio
        for row in found.rows:
            there, gpu_ms = row.attacc_ms, row.share * row.gpu_ms
            if there is None or row.ratio is None:
                alone[row.length].append(math.nan)
                whole[row.length].append(math.nan)
                continue
            alone[row.length].append(gpu_ms / (there - row.gpu_ms + gpu_ms))
            whole[row.length].append(row.ratio)
    head = ["queries for each key", *map(tokens_text, FULL_LENGTHS)]
    for title, values in (("Attention alone", alone), ("Whole step", whole)):
        rows = [[n, *(values[length][i] for length in FULL_LENGTHS)] for i, n in enumerate(shared)]
        table(f"{title}: GPUs over AttAccs, {FULL_BATCH} requests", head, rows)
    print(f"\nAttAccs read inside at {bandwidth:.2f} times the bandwidth of the GPUs")

    def draw(figure: Any) -> None:
        for axis, values, title in zip(
            figure.subplots(1, 2), (alone, whole), ("attention alone", "whole step"), strict=True
        ):
            powers(axis, shared)
            for length, style in zip(FULL_LENGTHS, ("o-", "s-", "^-", "d-"), strict=True):
                axis.plot(shared, values[length], style, ms=4, label=f"{tokens_text(length)} keys")
            if values is alone:
                ideal = [bandwidth / n for n in shared]
                axis.plot(shared, ideal, "k--", label=f"bandwidth: {bandwidth:.1f} / queries")
            axis.axhline(1, color="k", lw=0.8)
            axis.set_yscale("log")
            ticks = (0.2, 0.5, 1, 2, 5, 10) if values is alone else (0.5, 1, 2, 4)
            axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.set_xlabel("queries for each key (group x tokens of a step)")
            axis.set_title(title, fontsize=10)
            axis.legend(fontsize=8)
        figure.axes[0].set_ylabel("time on GPUs / time on AttAccs")

    return draw


# Windows: the ring, and the bytes that are read.


def windows() -> Draw:
    """Return the figure of windows: places of tokens in a bank, and bytes over the length."""
    window = GEMMA_WINDOW.window
    assert window is not None
    stack, new = aa.Stack(), NewTokens(window)
    layout = stack.layout(window, GEMMA_WINDOW.head_dim, ElementType.FP8)
    columns = stack.device.organization.columns
    tokens = np.arange(3 * window + 1)
    places = np.array([new.oldest(int(n) + window) for n in tokens])
    column = places // layout.sequence_parts * layout.columns_per_key
    print(
        f"\nRing of {window} keys of {GEMMA_WINDOW.head_dim} fp8 elements: "
        f"{layout.sequence_parts} parts of {layout.keys_per_part} keys, "
        f"{layout.columns_per_key} columns for each key, {layout.rows} rows of {columns} columns"
    )
    curves: tuple[tuple[str, str, Mixer, float], ...] = (
        ("Gemma 4, full layer", "C0-", GEMMA_FULL, EIGHT_BITS),
        ("Gemma 4, window of 1,024", "C0--", GEMMA_WINDOW, EIGHT_BITS),
        ("gpt-oss, full layer", "C1-", GPT_OSS_FULL, SIXTEEN_BITS),
        ("gpt-oss, window of 128", "C1--", GPT_OSS_WINDOW, SIXTEEN_BITS),
        ("Llama 4, chunks of 8,192 (full)", "C2:", LLAMA4_CHUNK, SIXTEEN_BITS),
    )
    lengths = [2**power for power in range(6, 21)]
    read = {
        name: [mixer.decode_work(n, kv).bytes for n in lengths] for name, _, mixer, kv in curves
    }
    table(
        "Bytes that one layer reads for one request in a step, MB",
        ["layer", "1k", "32k", "1M"],
        [[name, *(read[name][lengths.index(n)] / 1e6 for n in (2**10, 2**15, 2**20))]
         for name in read],
    )  # fmt: skip

    def draw(figure: Any) -> None:
        ring, axis = figure.subplots(1, 2)
        for lap in range(0, 3 * window, window):
            ring.plot(tokens[lap : lap + window], column[lap : lap + window], "C0-")
        for row in range(layout.rows + 1):
            ring.axhline(row * columns, color="k", lw=0.6)
        for row in range(layout.rows):
            ring.text(-60, (row + 0.5) * columns, f"row {row}", ha="right", va="center", fontsize=9)
        marked = [0, window, 2 * window, 3 * window]
        ring.plot(marked, column[marked], "o", color="C3", ms=5, clip_on=False)
        ring.set_xticks(marked, ["token 1", "W + 1", "2 W + 1", "3 W + 1"])
        ring.set_yticks([])
        ring.set_xlim(0, 3 * window)
        ring.set_ylim(0, layout.rows * columns)
        ring.set_title(f"column of a bank that holds a token's key, W = {window:,}", fontsize=10)
        powers(axis, lengths[::2])
        for name, style, _, _ in curves:
            axis.plot(lengths, [value / 1e6 for value in read[name]], style, label=name)
        axis.set_yscale("log")
        axis.set_xlabel("tokens of the context")
        axis.set_title("MB that one layer reads for one request", fontsize=10)
        axis.legend(fontsize=8)

    return draw


# Latent attention: two rooflines, and what more queries for each read buy.

READS: Final = (1, 2, 4, 8, 16)
LATENT_REQUESTS: Final = 4
LATENT_LENGTH: Final = 4096
LATENT_SLICES: Final = 9
"""Slices of a record of 576 elements: each is one access of a bank."""


def latent() -> Draw:
    """Return the figure of latent attention."""
    gpu = GPUS.load("h200")
    system, stack = aa.load_system(SYSTEM), aa.Stack()
    assert system.attacc is not None
    stacks = system.attacc.stacks / system.gpus
    found = {
        q: stack.attend(
            heads=LATENT_REQUESTS * V3.heads, length=LATENT_LENGTH, head_dim=V3.width,
            value_dim=V3.latent, queries_per_kv_head=V3.heads, queries_per_read=q,
            key_slices=LATENT_SLICES, one_copy=True,
        )
        for q in READS
    }  # fmt: skip
    work = V3.decode_work(LATENT_LENGTH, SIXTEEN_BITS)
    flops = LATENT_REQUESTS * work.flops
    clock_roof = max(flops / one.time_ns for one in found.values())
    table(
        f"Latent attention of {LATENT_REQUESTS} requests of {LATENT_LENGTH:,} on one stack",
        ["queries for each read", "cycles", "multiply every", "TFLOP/s", "mJ", "MB read"],
        [[q, f"{one.cycles:,}", one.multiply_interval, flops / one.time_ns / 1e3,
          one.energy.total_pj / 1e9, one.read_bytes / 1e6] for q, one in found.items()],
    )  # fmt: skip
    peak, bandwidth = gpu.peak_flops_per_s(ElementType.BF16) / 1e12, gpu.memory_bytes_per_s / 1e12
    inside = found[1].internal_bytes_per_s * stacks / 1e12
    print(
        f"\nOne H200: {peak:.1f} TFLOP/s, {bandwidth:.2f} TB/s, ridge {peak / bandwidth:.0f}; "
        f"its {stacks:g} stacks: {inside:.1f} TB/s inside, "
        f"{clock_roof * stacks / 1e3:.0f} TFLOP/s at most in latent attention"
    )
    marks: tuple[tuple[str, Mixer], ...] = (
        ("MHA: GPT-3", GPT3), ("GQA: Llama 3.1", LLAMA), ("latent: V3", V3),
    )  # fmt: skip

    def draw(figure: Any) -> None:
        roof, axis = figure.subplots(1, 2, width_ratios=(1.4, 1))
        x = np.geomspace(0.5, 1000, 200)
        roof.loglog(x, np.minimum(peak, bandwidth * x), "k-", label="H200")
        for q, style in zip((1, 4, 8), ("C0-", "C0--", "C0:"), strict=True):
            one = found[q]
            slower = one.multiply_interval / found[1].multiply_interval
            rate = one.internal_bytes_per_s / slower * stacks / 1e12
            # An element of 16 bits meets q queries: q FLOPs for each byte that the banks yield.
            label = f"5 stacks, {q} quer{'y' if q == 1 else 'ies'} a read"
            roof.loglog(x, np.minimum(x, q) * rate, style, label=label)
        for name, mixer in marks:
            one_work = mixer.decode_work(LATENT_LENGTH, SIXTEEN_BITS)
            at = one_work.flops / one_work.bytes
            roof.axvline(at, color="C3", lw=0.8)
            roof.text(at * 0.93, 2.5e4, name, rotation=90, ha="right", va="top", fontsize=8)
        roof.set_xlim(0.5, 1000)
        roof.set_ylim(2, 3e4)
        roof.set_xlabel("FLOPs of a step per byte that is stored")
        roof.set_ylabel("TFLOP/s that can be reached")
        roof.grid(alpha=0.3)
        roof.legend(fontsize=8, loc="lower right")
        powers(axis, READS)
        axis.plot(READS, [one.cycles / 1e6 for one in found.values()], "o-")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("queries for each read")
        axis.set_title("cycles of a stack, millions", fontsize=10)

    return draw


# Sparse attention: the scan and the attention.


def scan_bytes(mixer: LatentAttention | Attention | CompressedAttention, keys: int) -> float:
    """Return the bytes of the index keys that a step reads for one request."""
    match mixer:
        case LatentAttention(indexer=TokenIndexer() as indexer):
            return keys * indexer.key_bytes
        case CompressedAttention():
            return keys // mixer.ratio * mixer.index_key_bytes(SIXTEEN_BITS)
        case Attention(selector=BlockSelector()):
            every = mixer.stored(SIXTEEN_BITS).per_token
            full = mixer.model_copy(update={"selector": None}).stored(SIXTEEN_BITS).per_token
            return keys * (every - full)
        case _:
            return 0.0


SPARSE_LENGTH: Final = 65_536
SPARSE_CHOSEN: Final = 2048
SPARSE_READS: Final = (1, 4)


def sparse_stack() -> None:
    """Print what one request of two models costs on one stack."""
    stack = aa.Stack()
    products = {
        q: AttaccProducts(stack.device, stack.placement, rows_per_read=q) for q in SPARSE_READS
    }
    sizes: dict[str, dict[str, Any]] = {
        "DeepSeek V3.2": {
            "heads": V32.heads, "queries_per_kv_head": V32.heads, "head_dim": V32.width,
            "value_dim": V32.latent, "one_copy": True, "key_slices": LATENT_SLICES,
        },
        "MiniMax M3": {
            "heads": M3.heads, "queries_per_kv_head": M3.heads // M3.kv_heads,
            "head_dim": M3.head_dim,
        },
    }  # fmt: skip
    scans = {
        "DeepSeek V3.2": ProductShape(64, 128, SPARSE_LENGTH, ElementType.FP8),
        "MiniMax M3": ProductShape(4, 128, SPARSE_LENGTH, ElementType.FP16),
    }
    rows: list[list[object]] = []
    for name, own in sizes.items():
        for q in SPARSE_READS:
            bounds = selection_bounds(
                stack, length=SPARSE_LENGTH, selected=SPARSE_CHOSEN, queries_per_read=q, **own
            )
            every = stack.attend(length=SPARSE_LENGTH, queries_per_read=q, **own)
            scan = products[q].multiply(scans[name])
            ends = (scan, bounds.clustered, bounds.scattered, every)
            rows.append([name, q, *(f"{one.cycles:,}" for one in ends)])
    table(
        f"One request of {SPARSE_LENGTH:,} tokens on one stack, cycles; {SPARSE_CHOSEN:,} chosen",
        ["model", "queries for each read", "scan", "clustered", "scattered", "all keys"],
        rows,
    )


SPARSE_BATCH: Final = 8
SPARSE_LENGTHS: Final = tuple(2**power for power in range(10, 18))
SPARSE_LAYER: Final[dict[str, object]] = {
    "name": "V3.2", "family": "V3.2", "hidden_size": 7168, "vocab_size": 1024,
    "tied_embeddings": True,
    "layers": [{"mixer": V32.model_dump(mode="json"), "norms": 1}],
}  # fmt: skip
"""A layer of DeepSeek V3.2, without its feed-forward part."""
ON_GPUS: Final = ("index_choice", "beside_attention")
MIXER_PARTS: Final = ("index_scan", "attention", *ON_GPUS)
TRANSFERS: Final = ("index_transfer", "score_transfer", "qkv_transfer", "context_transfer")


def sparse_site(site: str, reads: int) -> list[dict[str, float]]:
    """Return the microseconds of each part of a layer of V3.2 at every length.

    ``clustered`` is the attention if the chosen tokens were neighbours.
    """
    spec = aa.load_system(SYSTEM).spec
    assert spec.attacc is not None
    table_ = spec.attacc.model_copy(update={"queries_per_read": reads})
    system = aa.load_system(spec.model_copy(update={"attacc": table_}).model_dump(mode="json"))
    pricer = aa.Pricer(SPARSE_LAYER, system, sites={"sparse": site})
    heads = LayerHeads.of(V32, ElementType.BF16)
    assert heads is not None
    assert pricer.attaccs is not None
    found: list[dict[str, float]] = []
    for length in SPARSE_LENGTHS:
        step = pricer.step(decode=[length] * SPARSE_BATCH)
        times = {op.name: op.time_ns / 1e3 for op in step.operators}
        chosen = pricer.attaccs.attend(heads, [length] * SPARSE_BATCH).chosen
        assert chosen is not None
        times["clustered"] = float(chosen.clustered_ns[0]) / 1e3
        found.append(times)
    return found


def sparse_layers() -> dict[str, list[float]]:
    """Print a layer of V3.2 on each site; return the time of its mixer, in microseconds."""
    gpu = sparse_site("gpu", 1)
    curves = {"GPUs": [sum(one.get(name, 0.0) for name in MIXER_PARTS) for one in gpu]}
    rows: list[list[object]] = [
        [n, "GPUs", one["index_scan"], "-", one["attention"], "-", "-", whole]
        for n, one, whole in zip(SPARSE_LENGTHS, gpu, curves["GPUs"], strict=True)
    ]
    for reads in SPARSE_READS:
        there = sparse_site("attacc", reads)
        for end in ("apart", "neighbours"):
            curves[f"AttAccs, {reads} a read, {end}"] = []
        for n, one in zip(SPARSE_LENGTHS, there, strict=True):
            left, moved = (sum(one[name] for name in names) for names in (ON_GPUS, TRANSFERS))
            whole = one["index_scan"] + one["attention"] + left + moved
            curves[f"AttAccs, {reads} a read, apart"].append(whole)
            least = whole - one["attention"] + one["clustered"]
            curves[f"AttAccs, {reads} a read, neighbours"].append(least)
            rows.append(
                [n, f"AttAccs, {reads} a read", one["index_scan"], one["clustered"],
                 one["attention"], left, moved, whole]
            )  # fmt: skip
    table(
        f"Mixer of one layer of V3.2, {SPARSE_BATCH} requests, microseconds",
        ["tokens", "site", "scan", "neighbours", "attention", "left on GPUs", "transfers", "all"],
        rows,
    )
    return curves


def sparse() -> Draw:
    """Return the figure of sparse attention: bytes, and the time of a layer on each site."""
    cases: tuple[tuple[str, LatentAttention | Attention | CompressedAttention, Mixer], ...] = (
        ("DeepSeek V3.2: 2,048 tokens", V32, V3),
        ("MiniMax M3: 16 blocks of 128", M3, M3.model_copy(update={"selector": None})),
        (
            "DeepSeek V4 Flash: 512 records of 4",
            V4,
            V4.model_copy(update={"ratio": 0, "indexer": None, "window": LENGTHS[-1]}),
        ),
    )
    sparse_stack()
    layers = sparse_layers()
    curves: list[tuple[str, list[float], list[float], list[float]]] = []
    for name, mixer, dense in cases:
        scan = [scan_bytes(mixer, n) for n in LENGTHS]
        works = [mixer.decode_work(n, SIXTEEN_BITS) for n in LENGTHS]
        rest = [work.bytes - own for work, own in zip(works, scan, strict=True)]
        every = [dense.decode_work(n, SIXTEEN_BITS).bytes for n in LENGTHS]
        curves.append((name, scan, rest, every))
        table(
            f"{name}: MB of one layer and one request",
            ["tokens", "scan", "attention", "attention to all", "FLOPs per byte"],
            [[tokens_text(n), scan[i] / 1e6, rest[i] / 1e6, every[i] / 1e6,
              works[i].flops / works[i].bytes] for i, n in enumerate(LENGTHS) if i % 2 == 0],
        )  # fmt: skip

    def draw(figure: Any) -> None:
        *axes, last = figure.subplots(1, 4)
        for axis in axes[1:]:
            axis.sharey(axes[0])
        styles = ("k-", "C0-", "C0--", "C1-", "C1--")
        for (name, times), style in zip(layers.items(), styles, strict=True):
            last.plot(SPARSE_LENGTHS, times, style, label=name)
        powers(last, SPARSE_LENGTHS[::2])
        last.set_ylim(bottom=0)
        last.set_title("V3.2: mixer of one layer, 8 requests, µs", fontsize=10)
        last.set_xlabel("tokens of each request")
        last.legend(fontsize=8)
        for axis, (name, scan, rest, every) in zip(axes, curves, strict=True):
            powers(axis, LENGTHS[::2])
            axis.plot(LENGTHS, [value / 1e6 for value in every], "k--", label="attention to all")
            axis.plot(LENGTHS, [value / 1e6 for value in scan], "C0-", label="scan")
            axis.plot(LENGTHS, [value / 1e6 for value in rest], "C1-", label="attention")
            axis.set_yscale("log")
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("tokens of the context")
            axis.legend(fontsize=8)
        figure.axes[0].set_ylabel("MB that one layer reads for one request")

    return draw


# States: bytes beside those of keys and values.


def states() -> Draw:
    """Return the figure of states: bytes moved by a layer, and bytes stored by a model."""
    cases = (
        ("Qwen3.5 397B", QWEN_STATE, 45, QWEN_FULL, 15, SIXTEEN_BITS),
        ("Nemotron 3 Super", NEMOTRON_STATE, 40, NEMOTRON_FULL, 8, EIGHT_BITS),
    )
    rows: list[list[object]] = []
    for name, state, layers, full_, full_layers, kv in cases:
        moved = state.decode_work(1, kv).bytes
        one = full_.decode_work(1, kv).bytes
        held = layers * state.stored(kv).state
        token = full_layers * full_.stored(kv).per_token
        crossings = (f"{moved / one:,.0f}", f"{held / token:,.0f}")
        rows.append([name, moved / 1e6, one, crossings[0], held / 1e6, token / 1e3, crossings[1]])
    table(
        "States beside keys and values",
        ["model", "MB moved by a state", "bytes of a key and value", "moves as much as keys",
         "MB of all states", "kB a token of all full layers", "stores as much as tokens"],
        rows,
    )  # fmt: skip

    def draw(figure: Any) -> None:
        moved, held = figure.subplots(1, 2)
        lengths = [2**power for power in range(8, 21)]
        for (colour, thick), (name, state, layers, full_, full_layers, kv) in zip(
            (("C0", 3.5), ("C1", 1.5)), cases, strict=True
        ):
            works = [state.decode_work(n, kv).bytes / 1e6 for n in lengths]
            keys = [full_.decode_work(n, kv).bytes / 1e6 for n in lengths]
            moved.plot(lengths, works, f"{colour}-", lw=thick, label=f"{name}: state")
            moved.plot(lengths, keys, f"{colour}--", label=f"{name}: full attention")
            tokens = [full_layers * full_.stored(kv).per_token * n / 1e6 for n in lengths]
            all_states = [layers * state.stored(kv).state / 1e6] * len(lengths)
            held.plot(lengths, all_states, f"{colour}-", label=f"{name}: {layers} states")
            held.plot(lengths, tokens, f"{colour}--", label=f"{name}: {full_layers} full layers")
        for axis, title in ((moved, "MB that one layer moves in a step"), (held, "MB stored")):
            powers(axis, lengths[::2])
            axis.set_yscale("log")
            axis.set_xlabel("tokens of the context")
            axis.set_title(f"{title}, one request", fontsize=10)
            axis.legend(fontsize=8)

    return draw


# Experts.

SKEW: Final = 0.7
EXPERT_TOKENS: Final = tuple(2**power for power in range(13))
TENSOR_PARALLEL: Final = 8


def experts() -> Draw:
    """Return the figure of experts: distinct ones over tokens, and the time of a layer."""
    gpu, costs = GPUS.load("h200"), cost_model(GpuModel.CALIBRATED)
    tokens = np.array(EXPERT_TOKENS, dtype=np.float64)
    shares: dict[tuple[str, float], list[float]] = {}
    times: dict[tuple[str, float], list[float]] = {}
    for name, hidden, mixture, weights in MIXTURES:
        for skew in (0.0, SKEW):
            visits = [
                expected_visits(mixture.experts, mixture.experts_per_token, n, skew)
                for n in EXPERT_TOKENS
            ]
            shares[name, skew] = [float(one) for one in visits]
            operator = Experts(
                tokens=tokens, hidden=hidden, width=mixture.width // TENSOR_PARALLEL,
                experts=mixture.experts, here=mixture.experts,
                per_token=mixture.experts_per_token, gated=True, function=PointwiseKind.SWIGLU,
                activation=BF16, weights=weights, skew=skew,
            )  # fmt: skip
            (cost,) = costs.fused(operator, gpu)
            times[name, skew] = [float(one) / 1e3 for one in np.broadcast_to(
                cost.time_ns, tokens.shape)]  # fmt: skip
    shown = (1, 8, 64, 512, 4096)
    for title, values in (
        ("Distinct experts that tokens visit", shares),
        (f"Experts of one layer on one of {TENSOR_PARALLEL} H200, microseconds", times),
    ):
        table(
            title,
            ["model", "skew", *map(str, shown)],
            [[name, skew, *(found[EXPERT_TOKENS.index(n)] for n in shown)]
             for (name, skew), found in values.items()],
        )  # fmt: skip

    def draw(figure: Any) -> None:
        visits, axis = figure.subplots(1, 2)
        for number, (name, _, mixture, _) in enumerate(MIXTURES):
            for skew, style in ((0.0, "-"), (SKEW, "--")):
                label = name if skew == 0 else None
                share = [one / mixture.experts for one in shares[name, skew]]
                look = {"color": f"C{number}", "ls": style, "lw": 2.8 - 0.5 * number}
                visits.plot(EXPERT_TOKENS, share, label=label, **look)
                axis.plot(EXPERT_TOKENS, times[name, skew], label=label, **look)
        visits.plot([], [], "k--", label=f"skew {SKEW}")
        axis.set_yscale("log")
        for one, title in (
            (visits, "share of a layer's experts that are visited"),
            (axis, f"experts of one layer, µs, one of {TENSOR_PARALLEL} H200"),
        ):
            powers(one, EXPERT_TOKENS[::2])
            one.set_xlabel("tokens of the step")
            one.set_title(title, fontsize=10)
            one.legend(fontsize=8)

    return draw


FIGURES: Final[dict[str, tuple[Callable[[], Draw], tuple[float, float]]]] = {
    "full": (full, (9, 3.8)),
    "windows": (windows, (10, 3.8)),
    "latent": (latent, (10, 3.8)),
    "sparse": (sparse, (14, 3.8)),
    "states": (states, (10, 3.8)),
    "experts": (experts, (10, 3.8)),
}


def main() -> None:
    write = "--write" in sys.argv[1:]
    for name, (build, size) in FIGURES.items():
        draw = build()
        if write:
            import matplotlib as mpl
            from matplotlib.figure import Figure

            settings: Any = mpl.rcParams
            settings.update({"svg.fonttype": "none"})
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            write_figure(figure, ROOT / "docs" / "figures" / f"mixer-{name}.svg")


if __name__ == "__main__":
    main()
