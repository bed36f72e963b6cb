"""The operators of one layer of every kind, worked out by hand.

Sizes are small and differ, so that one taken for another shows. The residual stream has 10
elements; weights and keys have 8 bits, activations 16.
"""

import pytest

from attacc.models.feedforward import AnyFeedForward, Dense, LinearBlock, Mixture
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import (
    AnyMixer,
    Attention,
    BlockSelector,
    CompressedAttention,
    Decay,
    DeltaNet,
    Gate,
    LatentAttention,
    LinearMixer,
    Mamba2,
    QkNorm,
    TokenIndexer,
)
from attacc.models.operators import (
    AllReduce,
    Collective,
    Convolution,
    Experts,
    IndexScan,
    MatMul,
    Operator,
    Phase,
    Pointwise,
    PointwiseKind,
    StateKind,
    StateUpdate,
)
from attacc.models.operators import Attention as AttentionOperator
from attacc.models.operators import LatentAttention as LatentOperator
from attacc.models.precision import ElementType, Precision
from attacc.models.served import ServedModel, served_layers
from attacc.models.steps import Decoding, Prefilling, model_step

BF16, FP8 = ElementType.BF16, ElementType.FP8
PRECISION = Precision(weights=FP8, activations=BF16, kv=FP8)
HIDDEN = 10
DECODE = Decoding(3, 50)
"""Three requests with 50 keys."""
PROMPTS = Prefilling(2, 50, 50)
"""Two prompts of 50 tokens."""
CHUNKS = Prefilling(2, 20, 50, 30)
"""Two chunks of 20 tokens behind 30 others."""

Row = tuple[object, ...]


def model_of(*layers: Layer, precision: Precision = PRECISION) -> ServedModel:
    """A model of some layers."""
    model = LayeredModel(
        name="m", family="f", hidden_size=HIDDEN, vocab_size=50, tied_embeddings=True,
        layers=layers,
    )  # fmt: skip
    return served_layers(model, precision)


def layer_of(
    mixer: AnyMixer | None = None,
    block: AnyFeedForward | None = None,
    *,
    devices: int = 1,
    decode: Decoding | None = None,
    prefill: Prefilling | None = None,
    norms: int = 0,
) -> tuple[Operator, ...]:
    """The operators of one layer without norms, on one of the devices."""
    layer = Layer(mixer=mixer, feed_forward=block, norms=norms)
    step = model_step(model_of(layer), decode=decode, prefill=prefill, tensor_parallel=devices)
    [found] = step.layers
    return found.operators


def told(operators: tuple[Operator, ...]) -> list[Row]:
    """Operators as rows: name, then sizes; element types are checked on the way."""
    rows: list[Row] = []
    for op in operators:
        match op:
            case MatMul():
                assert (op.left, op.right, op.out) == (BF16, FP8, BF16)
                rows.append((op.name, op.m, op.n, op.k, op.count))
            case Pointwise():
                rows.append((op.name, op.kind.value, op.m, op.n))
            case AllReduce() | Collective():
                rows.append((op.name, op.m, op.n))
            case AttentionOperator():
                assert (op.activation, op.kv) == (BF16, FP8)
                rows.append((op.phase.value, op.batch, op.heads, op.kv_heads, op.queries, op.keys))
            case LatentOperator():
                assert (op.activation, op.kv) == (BF16, FP8)
                rows.append((op.phase.value, op.batch, op.heads, op.queries, op.keys))
            case IndexScan():
                rows.append((op.name, op.batch, op.heads, op.dim, op.queries, op.keys))
            case Convolution():
                rows.append((op.name, op.batch, op.queries, op.channels, op.width))
            case StateUpdate():
                rows.append((op.name, op.batch, op.queries, op.heads, op.key_heads))
            case Experts():
                rows.append((op.name, op.tokens, op.hidden, op.width, op.experts, op.per_token))
    return rows


HEADS = Attention(heads=8, kv_heads=4, head_dim=6)
LATENT = LatentAttention(heads=4, query_rank=7, latent=8, rope_dim=2, nope_dim=3, value_dim=5)
SPARSE = LATENT.model_copy(update={"indexer": TokenIndexer(heads=4, dim=3, chosen=16)})
DELTA = DeltaNet(key_heads=2, value_heads=4, key_dim=3, value_dim=5, conv=4)
MAMBA = Mamba2(heads=4, head_dim=3, state=5, groups=2, conv=4)
RECORDS = CompressedAttention(
    heads=4, head_dim=6, rope_dim=2, query_rank=7, output_groups=2, output_rank=3, window=8
)
CHOSEN = RECORDS.model_copy(update={"ratio": 4, "indexer": TokenIndexer(heads=2, dim=3, chosen=5)})
SUM = ("all_reduce1", 3, HIDDEN)

DECODED: dict[str, tuple[AnyMixer, list[Row], list[Row]]] = {
    # 8 query and 2 x 4 key/value heads of 6; the newest 20 keys
    "window": (
        HEADS.model_copy(update={"window": 20}),
        [("qkv", 3, 96, 10, 1), ("decode", 3, 8, 4, 1, 20), ("projection", 3, 10, 48, 1)],
        [("qkv", 3, 48, 10, 1), ("decode", 3, 4, 2, 1, 20), ("projection", 3, 10, 24, 1), SUM],
    ),
    # Key 50 is the second of the fourth chunk of 16.
    "chunk": (
        HEADS.model_copy(update={"chunk": 16}),
        [("qkv", 3, 96, 10, 1), ("decode", 3, 8, 4, 1, 2), ("projection", 3, 10, 48, 1)],
        [("qkv", 3, 48, 10, 1), ("decode", 3, 4, 2, 1, 2), ("projection", 3, 10, 24, 1), SUM],
    ),
    # A second query projection; norms of 6 for each of 8 + 4 heads
    "gate of elements": (
        HEADS.model_copy(update={"gate": Gate.ELEMENT, "qk_norm": QkNorm.HEAD}),
        [
            ("qkv", 3, 144, 10, 1), ("qk_norm", "rms_norm", 36, 6), ("decode", 3, 8, 4, 1, 50),
            ("gating", "swiglu", 3, 48), ("projection", 3, 10, 48, 1),
        ],
        [
            ("qkv", 3, 72, 10, 1), ("qk_norm", "rms_norm", 18, 6), ("decode", 3, 4, 2, 1, 50),
            ("gating", "swiglu", 3, 24), ("projection", 3, 10, 24, 1), SUM,
        ],
    ),
    "gate of heads": (
        HEADS.model_copy(update={"gate": Gate.HEAD, "qk_norm": QkNorm.WIDTH}),
        [
            ("qkv", 3, 96, 10, 1), ("gate", 3, 8, 10, 1), ("qk_norm", "rms_norm", 3, 72),
            ("decode", 3, 8, 4, 1, 50), ("gating", "swiglu", 3, 48), ("projection", 3, 10, 48, 1),
        ],
        [
            ("qkv", 3, 48, 10, 1), ("gate", 3, 4, 10, 1), ("qk_norm", "rms_norm", 3, 36),
            ("decode", 3, 4, 2, 1, 50), ("gating", "swiglu", 3, 24), ("projection", 3, 10, 24, 1),
            SUM,
        ],
    ),
    "narrow values": (
        HEADS.model_copy(update={"value_dim": 5}),
        [("qkv", 3, 92, 10, 1), ("decode", 3, 8, 4, 1, 50), ("projection", 3, 10, 40, 1)],
        [("qkv", 3, 46, 10, 1), ("decode", 3, 4, 2, 1, 50), ("projection", 3, 10, 20, 1), SUM],
    ),
    "keys as values": (
        HEADS.model_copy(update={"keys_as_values": True}),
        [("qkv", 3, 72, 10, 1), ("decode", 3, 8, 4, 1, 50), ("projection", 3, 10, 48, 1)],
        [("qkv", 3, 36, 10, 1), ("decode", 3, 4, 2, 1, 50), ("projection", 3, 10, 24, 1), SUM],
    ),
    "borrowed keys": (
        HEADS.model_copy(update={"borrowed": True}),
        [("qkv", 3, 48, 10, 1), ("decode", 3, 8, 4, 1, 50), ("projection", 3, 10, 48, 1)],
        [("qkv", 3, 24, 10, 1), ("decode", 3, 4, 2, 1, 50), ("projection", 3, 10, 24, 1), SUM],
    ),
    # 4 index heads of 3 and one index key; 2 blocks of 4 keys
    "blocks": (
        HEADS.model_copy(update={"selector": BlockSelector(heads=4, dim=3, block=4, blocks=2)}),
        [
            ("qkv", 3, 96, 10, 1), ("index", 3, 15, 10, 1), ("index_scan", 3, 4, 3, 1, 50),
            ("decode", 3, 8, 4, 1, 8), ("projection", 3, 10, 48, 1),
        ],
        [
            ("qkv", 3, 48, 10, 1), ("index", 3, 9, 10, 1), ("index_scan", 3, 2, 3, 1, 50),
            ("decode", 3, 4, 2, 1, 8), ("projection", 3, 10, 24, 1), SUM,
        ],
    ),
    # 7 of queries, 8 + 2 of keys; a query has 3 + 2 elements, 3 of which become 8, and 8 become 5
    "latent": (
        LATENT,
        [
            ("latents", 3, 17, 10, 1), ("latent_norm", "rms_norm", 3, 15), ("qkv", 3, 20, 7, 1),
            ("absorb_keys", 3, 8, 3, 4), ("decode", 3, 4, 1, 50), ("absorb_values", 3, 5, 8, 4),
            ("projection", 3, 10, 20, 1),
        ],
        [
            ("latents", 3, 17, 10, 1), ("latent_norm", "rms_norm", 3, 15), ("qkv", 3, 10, 7, 1),
            ("absorb_keys", 3, 8, 3, 2), ("decode", 3, 2, 1, 50), ("absorb_values", 3, 5, 8, 2),
            ("projection", 3, 10, 10, 1), SUM,
        ],
    ),
    "latent without one of queries": (
        LATENT.model_copy(update={"query_rank": None, "gate": True}),
        [
            ("qkv", 3, 30, 10, 1), ("latent_norm", "rms_norm", 3, 8), ("gate", 3, 20, 10, 1),
            ("absorb_keys", 3, 8, 3, 4), ("decode", 3, 4, 1, 50), ("absorb_values", 3, 5, 8, 4),
            ("gating", "swiglu", 3, 20), ("projection", 3, 10, 20, 1),
        ],
        [
            ("qkv", 3, 20, 10, 1), ("latent_norm", "rms_norm", 3, 8), ("gate", 3, 10, 10, 1),
            ("absorb_keys", 3, 8, 3, 2), ("decode", 3, 2, 1, 50), ("absorb_values", 3, 5, 8, 2),
            ("gating", "swiglu", 3, 10), ("projection", 3, 10, 10, 1), SUM,
        ],
    ),
    # Every device scans for all heads, since they choose together.
    "sparse latent": (
        SPARSE,
        [
            ("latents", 3, 17, 10, 1), ("latent_norm", "rms_norm", 3, 15), ("qkv", 3, 20, 7, 1),
            ("index_queries", 3, 12, 7, 1), ("index_keys", 3, 7, 10, 1),
            ("index_scan", 3, 4, 3, 1, 50),
            ("absorb_keys", 3, 8, 3, 4), ("decode", 3, 4, 1, 16), ("absorb_values", 3, 5, 8, 4),
            ("projection", 3, 10, 20, 1),
        ],
        [
            ("latents", 3, 17, 10, 1), ("latent_norm", "rms_norm", 3, 15), ("qkv", 3, 10, 7, 1),
            ("index_queries", 3, 12, 7, 1), ("index_keys", 3, 7, 10, 1),
            ("index_scan", 3, 4, 3, 1, 50),
            ("absorb_keys", 3, 8, 3, 2), ("decode", 3, 2, 1, 16), ("absorb_values", 3, 5, 8, 2),
            ("projection", 3, 10, 10, 1), SUM,
        ],
    ),
    "sparse latent with the choice of another layer": (
        LATENT.model_copy(
            update={"indexer": TokenIndexer(heads=4, dim=3, chosen=16, shared=True)}
        ),
        [
            ("latents", 3, 17, 10, 1), ("latent_norm", "rms_norm", 3, 15), ("qkv", 3, 20, 7, 1),
            ("absorb_keys", 3, 8, 3, 4), ("decode", 3, 4, 1, 16), ("absorb_values", 3, 5, 8, 4),
            ("projection", 3, 10, 20, 1),
        ],
        [
            ("latents", 3, 17, 10, 1), ("latent_norm", "rms_norm", 3, 15), ("qkv", 3, 10, 7, 1),
            ("absorb_keys", 3, 8, 3, 2), ("decode", 3, 2, 1, 16), ("absorb_values", 3, 5, 8, 2),
            ("projection", 3, 10, 10, 1), SUM,
        ],
    ),
    # Queries and keys 2 x 6, values 20, their gates 20, two numbers for each of 4 heads
    "delta net": (
        DELTA,
        [
            ("qkv", 3, 60, 10, 1), ("convolution", 3, 1, 32, 4), ("state", 3, 1, 4, 2),
            ("state_norm", "rms_norm", 12, 5), ("projection", 3, 10, 20, 1),
        ],
        [
            ("qkv", 3, 30, 10, 1), ("convolution", 3, 1, 16, 4), ("state", 3, 1, 2, 1),
            ("state_norm", "rms_norm", 6, 5), ("projection", 3, 10, 10, 1), SUM,
        ],
    ),
    "delta net with matrices of low rank": (
        DELTA.model_copy(update={"decay": Decay.CHANNEL, "gate_rank": 2}),
        [
            ("decay_latent", 3, 3, 10, 1), ("decay", 3, 6, 3, 1), ("gate_latent", 3, 2, 10, 1),
            ("gate", 3, 20, 2, 1), ("qkv", 3, 36, 10, 1), ("convolution", 3, 1, 32, 4),
            ("state", 3, 1, 4, 2), ("state_norm", "rms_norm", 12, 5), ("projection", 3, 10, 20, 1),
        ],
        [
            ("decay_latent", 3, 3, 10, 1), ("decay", 3, 3, 3, 1), ("gate_latent", 3, 2, 10, 1),
            ("gate", 3, 10, 2, 1), ("qkv", 3, 18, 10, 1), ("convolution", 3, 1, 16, 4),
            ("state", 3, 1, 2, 1), ("state_norm", "rms_norm", 6, 5), ("projection", 3, 10, 10, 1),
            SUM,
        ],
    ),
    # 12 of the gate, 12 + 2 x 2 x 5 of x, B and C, a step for each of 4 heads
    "mamba": (
        MAMBA,
        [
            ("qkv", 3, 48, 10, 1), ("convolution", 3, 1, 32, 4), ("state", 3, 1, 4, 2),
            ("state_norm", "rms_norm", 3, 12), ("projection", 3, 10, 12, 1),
        ],
        [
            ("qkv", 3, 24, 10, 1), ("convolution", 3, 1, 16, 4), ("state", 3, 1, 2, 1),
            ("state_norm", "rms_norm", 3, 6), ("projection", 3, 10, 6, 1), SUM,
        ],
    ),
    "records": (
        RECORDS,
        [
            ("latents", 3, 13, 10, 1), ("latent_norm", "rms_norm", 3, 13), ("qkv", 3, 24, 7, 1),
            ("decode", 3, 4, 1, 8), ("output_groups", 3, 3, 12, 2), ("projection", 3, 10, 6, 1),
        ],
        [
            ("latents", 3, 13, 10, 1), ("latent_norm", "rms_norm", 3, 13), ("qkv", 3, 12, 7, 1),
            ("decode", 3, 2, 1, 8), ("output_groups", 3, 3, 12, 1), ("projection", 3, 10, 3, 1),
            SUM,
        ],
    ),
    # 3 whole records of 16 tokens beside the window of 8
    "compressed records": (
        RECORDS.model_copy(update={"ratio": 16}),
        [
            ("latents", 3, 13, 10, 1), ("latent_norm", "rms_norm", 3, 13), ("qkv", 3, 24, 7, 1),
            ("compressor", 3, 12, 10, 1), ("decode", 3, 4, 1, 11),
            ("output_groups", 3, 3, 12, 2), ("projection", 3, 10, 6, 1),
        ],
        [
            ("latents", 3, 13, 10, 1), ("latent_norm", "rms_norm", 3, 13), ("qkv", 3, 12, 7, 1),
            ("compressor", 3, 12, 10, 1), ("decode", 3, 2, 1, 11),
            ("output_groups", 3, 3, 12, 1), ("projection", 3, 10, 3, 1), SUM,
        ],
    ),
    # 12 records of 4 tokens are scanned, and 5 of them chosen.
    "chosen records": (
        CHOSEN,
        [
            ("latents", 3, 13, 10, 1), ("latent_norm", "rms_norm", 3, 13), ("qkv", 3, 24, 7, 1),
            ("compressor", 3, 24, 10, 1), ("index_compressor", 3, 12, 10, 1),
            ("index_queries", 3, 6, 7, 1), ("index_weights", 3, 2, 10, 1),
            ("index_scan", 3, 2, 3, 1, 12), ("decode", 3, 4, 1, 13),
            ("output_groups", 3, 3, 12, 2), ("projection", 3, 10, 6, 1),
        ],
        [
            ("latents", 3, 13, 10, 1), ("latent_norm", "rms_norm", 3, 13), ("qkv", 3, 12, 7, 1),
            ("compressor", 3, 24, 10, 1), ("index_compressor", 3, 12, 10, 1),
            ("index_queries", 3, 6, 7, 1), ("index_weights", 3, 2, 10, 1),
            ("index_scan", 3, 2, 3, 1, 12), ("decode", 3, 2, 1, 13),
            ("output_groups", 3, 3, 12, 1), ("projection", 3, 10, 3, 1), SUM,
        ],
    ),
    "linear": (
        LinearMixer(),
        [("linear", 3, 10, 10, 1)],
        [("linear", 3, 10, 10, 1), SUM],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DECODED)
def test_decode_by_hand(kind: str) -> None:
    """Catches a product that is missing, of another size, or split where it is copied."""
    mixer, alone, shared = DECODED[kind]
    assert told(layer_of(mixer, decode=DECODE)) == alone
    if kind != "linear":
        assert told(layer_of(mixer, decode=DECODE, devices=2)) == shared


PREFILLED: list[tuple[AnyMixer, Prefilling, list[Row]]] = [
    (
        HEADS.model_copy(update={"window": 20}), PROMPTS,
        [("qkv", 100, 96, 10, 1), ("prefill", 2, 8, 4, 50, 20), ("projection", 100, 10, 48, 1)],
    ),
    (
        HEADS.model_copy(update={"window": 70}), CHUNKS,
        [("qkv", 40, 96, 10, 1), ("prefill", 2, 8, 4, 20, 50), ("projection", 40, 10, 48, 1)],
    ),
    (
        HEADS.model_copy(update={"chunk": 16}), PROMPTS,
        [("qkv", 100, 96, 10, 1), ("prefill", 2, 8, 4, 50, 16), ("projection", 100, 10, 48, 1)],
    ),
    (
        HEADS.model_copy(update={"selector": BlockSelector(heads=4, dim=3, block=4, blocks=2)}),
        CHUNKS,
        [
            ("qkv", 40, 96, 10, 1), ("index", 40, 15, 10, 1), ("index_scan", 2, 4, 3, 20, 50),
            ("prefill", 2, 8, 4, 20, 8), ("projection", 40, 10, 48, 1),
        ],
    ),
    # Keys and values of the 30 earlier tokens are expanded again: 2 x 50 rows.
    (
        LATENT, CHUNKS,
        [
            ("latents", 40, 17, 10, 1), ("latent_norm", "rms_norm", 40, 15), ("qkv", 40, 20, 7, 1),
            ("expansion", 100, 32, 8, 1), ("prefill", 2, 4, 20, 50), ("projection", 40, 10, 20, 1),
        ],
    ),
    (
        SPARSE, CHUNKS,
        [
            ("latents", 40, 17, 10, 1), ("latent_norm", "rms_norm", 40, 15), ("qkv", 40, 20, 7, 1),
            ("index_queries", 40, 12, 7, 1), ("index_keys", 40, 7, 10, 1),
            ("index_scan", 2, 4, 3, 20, 50), ("prefill_absorb_keys", 40, 8, 3, 4),
            ("prefill", 2, 4, 20, 16), ("prefill_absorb_values", 40, 5, 8, 4),
            ("projection", 40, 10, 20, 1),
        ],
    ),
    (
        DELTA, CHUNKS,
        [
            ("qkv", 40, 60, 10, 1), ("convolution", 2, 20, 32, 4), ("state", 2, 20, 4, 2),
            ("state_norm", "rms_norm", 160, 5), ("projection", 40, 10, 20, 1),
        ],
    ),
    (
        MAMBA, PROMPTS,
        [
            ("qkv", 100, 48, 10, 1), ("convolution", 2, 50, 32, 4), ("state", 2, 50, 4, 2),
            ("state_norm", "rms_norm", 100, 12), ("projection", 100, 10, 12, 1),
        ],
    ),
    (
        CHOSEN, PROMPTS,
        [
            ("latents", 100, 13, 10, 1), ("latent_norm", "rms_norm", 100, 13),
            ("qkv", 100, 24, 7, 1), ("compressor", 100, 24, 10, 1),
            ("index_compressor", 100, 12, 10, 1), ("index_queries", 100, 6, 7, 1),
            ("index_weights", 100, 2, 10, 1), ("index_scan", 2, 2, 3, 50, 12),
            ("prefill", 2, 4, 50, 13), ("output_groups", 100, 3, 12, 2),
            ("projection", 100, 10, 6, 1),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("mixer", "prefill", "expected"), PREFILLED)
def test_prefill_by_hand(mixer: AnyMixer, prefill: Prefilling, expected: list[Row]) -> None:
    """Catches rows of a batch or of a prompt that are lost, and earlier tokens left out."""
    assert told(layer_of(mixer, prefill=prefill)) == expected


def test_the_past_of_a_window_is_within_it() -> None:
    """Catches a prefill that reads the keys of a whole prompt under a window."""
    for window, past in ((10, 10), (40, 30)):
        windowed = HEADS.model_copy(update={"window": window})
        [op] = (
            op for op in layer_of(windowed, prefill=CHUNKS) if isinstance(op, AttentionOperator)
        )
        assert (op.past, op.keys, op.window) == (past, min(window, 50), window)
    [op] = (op for op in layer_of(LATENT, prefill=CHUNKS) if isinstance(op, LatentOperator))
    assert (op.past, op.gathers) == (30, False)


def test_both_phases_share_the_products() -> None:
    """Catches tokens of one phase that are left out of products, or attention that is mixed."""
    both = told(layer_of(LATENT, decode=DECODE, prefill=CHUNKS))
    assert both == [
        ("latents", 43, 17, 10, 1), ("latent_norm", "rms_norm", 43, 15), ("qkv", 43, 20, 7, 1),
        ("expansion", 100, 32, 8, 1), ("prefill", 2, 4, 20, 50),
        ("absorb_keys", 3, 8, 3, 4), ("decode", 3, 4, 1, 50), ("absorb_values", 3, 5, 8, 4),
        ("projection", 43, 10, 20, 1),
    ]  # fmt: skip
    mixed = told(layer_of(DELTA, decode=DECODE, prefill=CHUNKS))
    assert mixed == [
        ("qkv", 43, 60, 10, 1), ("convolution", 2, 20, 32, 4), ("state", 2, 20, 4, 2),
        ("convolution", 3, 1, 32, 4), ("state", 3, 1, 4, 2),
        ("state_norm", "rms_norm", 172, 5), ("projection", 43, 10, 20, 1),
    ]  # fmt: skip


WIDE = Mixture(
    experts=8, experts_per_token=2, width=12, shared_width=6, shared_gate=True,
    dense=Dense(width=4, gated=False, activation="relu"), latent=5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("block", "alone", "shared"),
    [
        (
            WIDE,
            [
                ("router", 3, 8, 10, 1), ("latent_in", 3, 5, 10, 1), ("experts", 3, 5, 12, 8, 2),
                ("latent_out", 3, 10, 5, 1), ("shared1", 3, 6, 10, 1), ("shared2", 3, 6, 10, 1),
                ("shared_activation", "swiglu", 3, 6), ("shared3", 3, 10, 6, 1),
                ("shared_gate", 3, 1, 10, 1), ("dense1", 3, 4, 10, 1),
                ("dense_activation", "relu", 3, 4), ("dense2", 3, 10, 4, 1),
            ],
            [
                ("router", 3, 8, 10, 1), ("latent_in", 3, 5, 10, 1), ("experts", 3, 5, 6, 8, 2),
                ("latent_out", 3, 10, 5, 1), ("shared1", 3, 3, 10, 1), ("shared2", 3, 3, 10, 1),
                ("shared_activation", "swiglu", 3, 3), ("shared3", 3, 10, 3, 1),
                ("shared_gate", 3, 1, 10, 1), ("dense1", 3, 2, 10, 1),
                ("dense_activation", "relu", 3, 2), ("dense2", 3, 10, 2, 1),
                ("all_reduce2", 3, 10),
            ],
        ),
        (
            Dense(width=7),
            [
                ("ff1", 3, 7, 10, 1), ("ff2", 3, 7, 10, 1), ("activation", "swiglu", 3, 7),
                ("ff3", 3, 10, 7, 1),
            ],
            [
                ("ff1", 3, 4, 10, 1), ("ff2", 3, 4, 10, 1), ("activation", "swiglu", 3, 4),
                ("ff3", 3, 10, 4, 1), ("all_reduce2", 3, 10),
            ],
        ),
        (
            LinearBlock(),
            [("linear_block", 3, 10, 10, 1)],
            [("linear_block", 3, 10, 10, 1), ("all_reduce2", 3, 10)],
        ),
    ],
)  # fmt: skip
def test_feed_forward_by_hand(block: AnyFeedForward, alone: list[Row], shared: list[Row]) -> None:
    """Catches shared experts, gates or projections left out, or copied instead of split."""
    assert routed(told(layer_of(HEADS, block, decode=DECODE))) == alone
    found = routed(told(layer_of(HEADS, block, decode=DECODE, devices=2)))
    assert found == shared


def routed(rows: list[Row]) -> list[Row]:
    """The rows behind those of the mixer."""
    names = [row[0] for row in rows]
    last = names.index("all_reduce1" if "all_reduce1" in names else "projection")
    return rows[last + 1 :]


def test_experts_by_hand() -> None:
    """Catches experts that nobody visits but that are read, or visits that are lost.

    Three tokens visit 2 of 8 experts each: 6 visits, of 8 (1 - (3/4)^3) = 4.625 experts.
    """
    [op] = (op for op in layer_of(HEADS, WIDE, decode=DECODE) if isinstance(op, Experts))
    assert (op.visits, op.visited, op.matrices) == (6, 4.625, 3)
    assert op.flops == 2 * 3 * 6 * 5 * 12
    assert op.bytes == 4.625 * 3 * 5 * 12 + 6 * (2 * 5 + 4 * 12) * 2
    plain = Mixture(experts=4, experts_per_token=4, width=3, gated=False, activation="relu2")
    [op] = (op for op in layer_of(HEADS, plain, decode=DECODE) if isinstance(op, Experts))
    assert (op.visits, op.visited, op.matrices, op.function) == (12, 4, 2, PointwiseKind.RELU)
    assert op.flops == 2 * 2 * 12 * 10 * 3
    assert op.bytes == 4 * 2 * 10 * 3 + 12 * (2 * 10 + 3 * 3) * 2


def test_work_of_states_by_hand() -> None:
    """Catches a state that is read and not written, or whose size is that of another."""
    [convolution, state] = (
        op for op in layer_of(DELTA, decode=DECODE) if isinstance(op, Convolution | StateUpdate)
    )
    assert isinstance(state, StateUpdate)
    assert (state.kind, state.key_dim, state.value_dim) == (StateKind.DELTA_NET, 3, 5)
    assert state.flops == 7 * 3 * 4 * 15
    assert state.bytes == 3 * (2 * 4 * 15 * 4 + (2 * 2 * 3 + 2 * 4 * 5) * 2)
    assert convolution.flops == 2 * 3 * 32 * 4
    assert convolution.bytes == 3 * 32 * (2 + 2 * 3) * 2
    [state] = (op for op in layer_of(MAMBA, prefill=CHUNKS) if isinstance(op, StateUpdate))
    assert (state.kind, state.key_dim, state.value_dim) == (StateKind.MAMBA2, 5, 3)
    assert state.flops == 6 * 2 * 20 * 4 * 15
    assert state.bytes == 2 * (2 * 4 * 15 * 4 + 20 * (2 * 2 * 5 + 2 * 4 * 3) * 2)


def test_work_of_latents_by_hand() -> None:
    """Catches records that are read once for each head, or keys expanded in a decode step."""
    [op] = (op for op in layer_of(LATENT, decode=DECODE) if isinstance(op, LatentOperator))
    assert op.flops == 2 * 3 * 4 * 50 * (8 + 2 + 8)
    assert op.bytes == 3 * (4 * (10 + 8) * 2 + 50 * 10 * 1)
    [op] = (op for op in layer_of(LATENT, prefill=PROMPTS) if isinstance(op, LatentOperator))
    assert op.flops == 2 * 2 * 4 * 50 * 50 * (3 + 2 + 5)
    assert op.bytes == 2 * (4 * 50 * (5 + 5) * 2 + 4 * 50 * (5 + 5) * 2)
    [op] = (op for op in layer_of(RECORDS, decode=DECODE) if isinstance(op, LatentOperator))
    assert op.flops == 2 * 3 * 4 * 8 * (6 + 6)  # one vector is key and value
    [op] = (
        op
        for op in layer_of(HEADS.model_copy(update={"value_dim": 5}), decode=DECODE)
        if isinstance(op, AttentionOperator)
    )
    assert op.flops == 2 * 3 * 8 * 50 * (6 + 5)
    assert op.bytes == 3 * (6 + 5) * (8 * 2 + 4 * 50 * 1)


@pytest.mark.parametrize("kv", [ElementType.BF16, ElementType.FP8])
@pytest.mark.parametrize("keys", [1, 7, 50, 1000])
@pytest.mark.parametrize("kind", [kind for kind in DECODED if kind != "linear"])
def test_operators_do_the_work_that_mixers_state(kind: str, keys: int, kv: ElementType) -> None:
    """Catches a description (`attacc model`) and a price that disagree on the work of a layer."""
    mixer = DECODED[kind][0]
    model = model_of(Layer(mixer=mixer), precision=Precision(activations=BF16, kv=kv))
    step = model_step(model, decode=Decoding(1, keys), tensor_parallel=1)
    work = [
        op
        for op in step.layers[0].operators
        if isinstance(op, AttentionOperator | LatentOperator | IndexScan | StateUpdate)
    ]
    stated = mixer.decode_work(keys, kv.bytes)
    if mixer.kind == "attention" and mixer.chunk is not None:
        return  # stated for a full chunk, and priced for the part of it that is filled
    assert sum(float(op.flops) for op in work) == stated.flops
    read = sum(float(op.keys * op.key_bytes) for op in work if isinstance(op, IndexScan))
    for op in work:
        match op:
            case AttentionOperator():
                read += float(op.keys) * op.kv_heads * (op.head_dim + op.values) * op.kv.bytes
            case LatentOperator():
                read += float(op.bytes) - op.heads * (2 * op.latent + op.rope_dim) * BF16.bytes
            case StateUpdate():
                read += 2 * op.heads * op.key_dim * op.value_dim * op.state_bytes
            case _:
                pass
    assert read == stated.bytes


def test_norms_and_streams() -> None:
    """Catches norms of one part behind the other, and paths of the residual stream left out."""
    block = Dense(width=7)
    for norms, before, behind in ((2, ["norm1"], ["norm2"]),
                                  (4, ["norm1", "norm2"], ["norm3", "norm4"])):  # fmt: skip
        names = [row[0] for row in told(layer_of(HEADS, block, decode=DECODE, norms=norms))]
        assert names == [
            "qkv", "decode", "projection", *before, "ff1", "ff2", "activation", "ff3", *behind,
        ]  # fmt: skip
    names = [row[0] for row in told(layer_of(MAMBA, decode=DECODE, norms=1))]
    assert names == ["qkv", "convolution", "state", "state_norm", "projection", "norm1"]
    layer = Layer(mixer=HEADS, feed_forward=block, other=35)
    step = model_step(model_of(layer), decode=DECODE, tensor_parallel=1)
    [streams] = (op for op in step.layers[0].operators if op.name == "streams")
    assert isinstance(streams, MatMul)
    assert (streams.m, streams.n, streams.k, streams.right) == (3, 4, 10, BF16)


def test_layers_of_one_kind_stand_together() -> None:
    """Catches a layer that is run once where it occurs twice, or in the place of another."""
    full, window = (
        Layer(mixer=HEADS.model_copy(update={"window": size}), feed_forward=Dense(width=7))
        for size in (None, 20)
    )
    model = model_of(
        full, window.model_copy(update={"repeat": 3}), full,
        window.model_copy(update={"repeat": 3}),
    )  # fmt: skip
    step = model_step(model, decode=DECODE, tensor_parallel=2)
    assert step.phase is Phase.DECODE
    assert [(layer.kind, layer.runs) for layer in step.layers] == [
        ("full attention + dense", 2),
        ("sliding window of 20 + dense", 6),
    ]
