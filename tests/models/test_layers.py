"""Layers one by one: parameters, what is stored, and the work of decoding, by hand."""

import pytest
from pydantic import ValidationError

import attacc as aa
from attacc.models.architecture import MODELS
from attacc.models.feedforward import Dense, LinearBlock, Mixture
from attacc.models.layers import Draft, Layer, LayeredModel
from attacc.models.mixers import (
    Attention,
    BlockSelector,
    CompressedAttention,
    Decay,
    DeltaNet,
    Gate,
    LatentAttention,
    LinearMixer,
    Mamba2,
    Mixer,
    QkNorm,
    TokenIndexer,
)
from attacc.models.operators import Step
from attacc.models.parameters import count_parameters, kv_bytes_per_token
from attacc.models.precision import Precision
from attacc.models.readers.base import one_for_each, runs
from attacc.models.served import served_layers
from attacc.models.steps import decode_step
from attacc.models.uniform import layered
from attacc.models.weights import Part
from attacc.study.described import describe_layers

V3 = LatentAttention(
    heads=128, query_rank=1536, latent=512, rope_dim=64, nope_dim=128, value_dim=128
)
V32 = V3.model_copy(update={"indexer": TokenIndexer(heads=64, dim=128, chosen=2048)})
FLASH = CompressedAttention(
    heads=64, head_dim=512, rope_dim=64, query_rank=1024, output_groups=8, output_rank=1024,
    window=128,
)  # fmt: skip
CHOSEN = FLASH.model_copy(
    update={"ratio": 4, "indexer": TokenIndexer(heads=64, dim=128, chosen=512)}
)
HEAVY = FLASH.model_copy(update={"ratio": 128})
QWEN35 = DeltaNet(key_heads=16, value_heads=48, key_dim=128, value_dim=128, conv=4)
K3 = DeltaNet(key_heads=96, value_heads=96, key_dim=128, value_dim=128, conv=4, decay=Decay.CHANNEL)
NANO = Mamba2(heads=64, head_dim=64, state=128, groups=8, conv=4)
M3 = Attention(
    heads=64, kv_heads=4, head_dim=128, qk_norm=QkNorm.HEAD,
    selector=BlockSelector(heads=4, dim=128, block=128, blocks=16),
)  # fmt: skip


def numbers(mixer: Mixer, hidden: int) -> int:
    return sum(weight.numbers for weight in mixer.weights(hidden))


@pytest.mark.parametrize(
    ("mixer", "hidden", "expected"),
    [
        # h(H d + Hk d + Hk dv) + H dv h: 100 (8 + 4 + 6) + 4 x 3 x 100.
        (Attention(heads=4, kv_heads=2, head_dim=2, value_dim=3), 100, 1800 + 1200),
        (Attention(heads=4, kv_heads=2, head_dim=2, qkv_bias=True, out_bias=True), 10, 240 + 26),
        (Attention(heads=4, kv_heads=2, head_dim=2, gate=Gate.ELEMENT), 10, 240 + 80),
        (Attention(heads=4, kv_heads=2, head_dim=2, gate=Gate.HEAD, sinks=True), 10, 240 + 44),
        (Attention(heads=4, kv_heads=2, head_dim=2, qk_norm=QkNorm.HEAD), 10, 240 + 4),
        (Attention(heads=4, kv_heads=2, head_dim=2, qk_norm=QkNorm.WIDTH), 10, 240 + 12),
        (Attention(heads=4, kv_heads=2, head_dim=2, qk_norm=QkNorm.HEADS), 10, 240 + 12),
        (Attention(heads=4, kv_heads=2, head_dim=2, keys_as_values=True), 10, 240 - 40),
        (Attention(heads=4, kv_heads=2, head_dim=2, borrowed=True), 10, 240 - 80),
        (M3, 6144, 6144 * (8192 + 512 + 512) + 8192 * 6144 + 256 + 6144 * 640 + 256),
        (
            V3, 7168,
            7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256
            + 128 * 128 * 7168,
        ),
        (V3.model_copy(update={"query_rank": None}), 7168,
         7168 * 128 * 192 + 7168 * 576 + 512 + 512 * 128 * 256 + 128 * 128 * 7168),
        (LinearMixer(), 10, 100),
        (NANO, 2688, 2688 * (4096 + 6144 + 64) + 6144 * 5 + 192 + 4096 + 4096 * 2688),
    ],
)  # fmt: skip
def test_parameters_by_hand(mixer: Mixer, hidden: int, expected: int) -> None:
    """Catches a matrix that is left out, or has the size of another."""
    assert numbers(mixer, hidden) == expected


def test_an_indexer_that_is_shared_has_nothing_of_its_own() -> None:
    """Catches weights and keys of layers that take the choice of an earlier one."""
    own = 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    assert numbers(V32, 7168) - numbers(V3, 7168) == own
    assert V32.indexer is not None
    shared = V32.model_copy(update={"indexer": V32.indexer.model_copy(update={"shared": True})})
    assert numbers(shared, 7168) == numbers(V3, 7168)
    assert V32.stored(1).per_token - shared.stored(1).per_token == 132
    work = shared.decode_work(100_000, 1)
    assert work.bytes == 2048 * 656
    assert V32.decode_work(100_000, 1).bytes == 2048 * 656 + 100_000 * 132


@pytest.mark.parametrize(
    ("mixer", "kv_bytes", "per_token", "per_request", "state"),
    [
        (Attention(heads=64, kv_heads=8, head_dim=128), 2, 4096, 0, 0),
        (Attention(heads=64, kv_heads=8, head_dim=192, value_dim=128, window=128), 2, 0, 655360, 0),
        (Attention(heads=40, kv_heads=8, head_dim=128, chunk=8192), 2, 0, 8192 * 4096, 0),
        (Attention(heads=4, kv_heads=4, head_dim=4, borrowed=True), 2, 0, 0, 0),
        (M3, 2, 2048 + 256, 0, 0),
        (V3, 2, 1152, 0, 0),
        (V3, 1, 576, 0, 0),
        (V32, 2, 1152 + 132, 0, 0),
        (V32, 1, 656 + 132, 0, 0),
        (FLASH, 1, 0, 128 * 584, 0),
        (FLASH, 2, 0, 128 * 1024, 0),
        (CHOSEN, 1, 179, 128 * 584, 65_536 + 16_384),
        (HEAVY, 1, 584 / 128, 128 * 584, 524_288),
        (QWEN35, 2, 0, 0, 3_145_728 + 61_440),
        (K3, 2, 0, 0, 6_291_456 + 221_184),
        (NANO, 2, 0, 0, 2_097_152 + 36_864),
        (LinearMixer(), 2, 0, 0, 0),
    ],
)
def test_what_is_stored_by_hand(
    mixer: Mixer, kv_bytes: float, per_token: float, per_request: float, state: float
) -> None:
    """Catches a scale, an index key or a ring that is not counted, or counted twice."""
    found = mixer.stored(kv_bytes)
    assert (found.per_token, found.per_request, found.state) == (per_token, per_request, state)


@pytest.mark.parametrize(
    ("mixer", "kv_bytes", "keys", "ratio"),
    [
        (Attention(heads=64, kv_heads=8, head_dim=128), 2, 1000, 8),
        (Attention(heads=64, kv_heads=8, head_dim=128), 1, 1000, 16),
        (Attention(heads=64, kv_heads=8, head_dim=128, window=128), 2, 10**6, 8),
        (V3, 2, 1000, 2 * 128 * 1088 / 1152),
        (FLASH, 1, 100, 4 * 64 * 512 / 584),
        (QWEN35, 2, 10**6, 0.875),
        (NANO, 2, 1, 0.75),
    ],
)
def test_work_for_a_byte_by_hand(mixer: Mixer, kv_bytes: float, keys: int, ratio: float) -> None:
    """Catches an intensity that decides on which side a layer runs, and is off."""
    work = mixer.decode_work(keys, kv_bytes)
    assert work.flops / work.bytes == pytest.approx(ratio)


def test_work_grows_with_queries_and_reading_does_not() -> None:
    """Catches drafts that read the cache once more; a state is written for each of them."""
    for mixer in (M3, V3, V32, CHOSEN, HEAVY):
        one, four = (mixer.decode_work(5000, 1, queries) for queries in (1, 4))
        assert four.flops == pytest.approx(4 * one.flops)
        assert four.bytes == one.bytes
    assert QWEN35.decode_work(1, 2, 4).bytes == 4 * QWEN35.decode_work(1, 2).bytes


def test_seen_keys_end_where_the_choice_does() -> None:
    """Catches a sparse layer whose attention grows with the context, or whose scan does not."""
    for mixer, scan in ((V32, 132.0), (M3, 256.0), (CHOSEN, 132 / 4)):
        near, far = (mixer.decode_work(keys, 1).bytes for keys in (400_000, 800_000))
        assert far - near == pytest.approx(400_000 * scan)
    assert HEAVY.decode_work(128 * 1000, 1).bytes == (128 + 1000) * 584


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Dense(width=30), 900),
        (Dense(width=30, gated=False, bias=True), 600 + 40),
        (LinearBlock(), 100),
        (Mixture(experts=4, experts_per_token=2, width=3), 40 + 4 * 90),
        (Mixture(experts=4, experts_per_token=2, width=3, bias=True, router_bias=True),
         40 + 4 + 4 * (90 + 16)),
        (Mixture(experts=4, experts_per_token=2, width=3, shared_width=5, shared_gate=True),
         40 + 360 + 150 + 10),
        (Mixture(experts=4, experts_per_token=2, width=3, gated=False, latent=6, shared_width=5),
         40 + 4 * 36 + 100 + 120),
        (Mixture(experts=4, experts_per_token=2, width=3, latent=6, latent_norm=True),
         40 + 4 * 54 + 120 + 6),
        (Mixture(experts=4, experts_per_token=2, width=3, dense=Dense(width=7), scales=True),
         40 + 360 + 210 + 14),
    ],
)  # fmt: skip
def test_feed_forward_by_hand(block: Dense | Mixture | LinearBlock, expected: int) -> None:
    """Catches an expert, a bias or a projection that is not counted."""
    assert sum(weight.numbers for weight in block.weights(10)) == expected


@pytest.mark.parametrize("name", MODELS.names())
def test_shipped_models_count_alike(name: str) -> None:
    """Catches two counts of one model."""
    model = MODELS.load(name)
    counts, layers = count_parameters(model), layered(model)
    assert (layers.parameters, layers.active_parameters) == (counts.total, counts.active)
    described = describe_layers(
        layers, kv=model.precision.kv, kv_bytes=model.precision.kv.bytes, weight_bytes={}
    )
    assert described.kv_bytes_per_token == kv_bytes_per_token(model)
    assert sum(described.parameters_by_part.values()) == counts.total


def test_equal_layers_are_stated_once() -> None:
    """Catches a list of layers that is told one by one, or in another order."""
    one, other = Layer(mixer=V3), Layer(mixer=V32, repeat=2)
    assert runs([one, one, other, one]) == (
        one.model_copy(update={"repeat": 2}), other, one,
    )  # fmt: skip
    assert one_for_each("types", [1, 2, 3], 2, more=1) == [1, 2]
    with pytest.raises(ValueError, match="types has 3 entries, and the model 2 layers"):
        one_for_each("types", [1, 2, 3], 2)


def test_kinds_are_told_in_words() -> None:
    """Catches two kinds of layers that are told as one."""
    window = Attention(heads=4, kv_heads=2, head_dim=2, window=4096)
    chunk = window.model_copy(update={"window": None, "chunk": 8192})
    experts = Mixture(experts=4, experts_per_token=2, width=3)
    layers = (
        Layer(mixer=window, feed_forward=Dense(width=3)),
        Layer(mixer=chunk, feed_forward=experts),
        Layer(mixer=V3), Layer(mixer=V32), Layer(mixer=FLASH), Layer(mixer=CHOSEN),
        Layer(mixer=M3), Layer(mixer=QWEN35), Layer(mixer=NANO), Layer(mixer=LinearMixer()),
        Layer(feed_forward=LinearBlock()), Layer(),
    )  # fmt: skip
    assert [layer.kind for layer in layers] == [
        "sliding window of 4,096 + dense", "chunks of 8,192 + experts", "latent attention",
        "sparse latent attention", "window of records", "window + records of 4",
        "block-sparse attention", "gated delta net", "Mamba-2", "linear", "linear block", "nothing",
    ]  # fmt: skip


def test_drafts_are_counted_apart() -> None:
    """Catches draft layers that are counted as layers of the model."""
    layer = Layer(mixer=Attention(heads=4, kv_heads=2, head_dim=2), feed_forward=Dense(width=30))
    model = LayeredModel(
        name="m", family="f", hidden_size=10, vocab_size=100, tied_embeddings=True,
        layers=(layer.model_copy(update={"repeat": 3}),),
    )  # fmt: skip
    assert model.parameters == 3 * (20 + 240 + 900) + 1000 + 10
    drafting = model.model_copy(update={"draft": Draft(modules=2, layers=(layer,), other=7)})
    assert drafting.parameters == model.parameters
    assert drafting.draft_parameters == 2 * (1160 + 200 + 30 + 7)
    assert model.by_part()[Part.NORMS] == 3 * 20 + 10


FULL = Attention(heads=2, kv_heads=2, head_dim=2)


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([Layer(mixer=V3, feed_forward=Dense(width=9))], [("latent attention + dense", 1)]),
        (
            [
                Layer(mixer=FULL, feed_forward=block)
                for block in (Dense(width=9), Mixture(experts=4, experts_per_token=2, width=3))
            ],
            [("full attention + dense", 1), ("full attention + experts", 1)],
        ),
        (
            [Layer(mixer=FULL, feed_forward=Dense(width=width)) for width in (9, 8)],
            [("full attention + dense", 1)] * 2,
        ),
        (
            [
                Layer(mixer=FULL, feed_forward=Dense(width=9), repeat=3),
                Layer(mixer=FULL.model_copy(update={"sinks": True}), feed_forward=Dense(width=9)),
                Layer(mixer=FULL, feed_forward=Dense(width=9), repeat=2),
            ],
            [("full attention + dense", 5), ("full attention + dense", 1)],
        ),
    ],
)
def test_layers_that_differ_are_priced_apart(
    layers: list[Layer], kinds: list[tuple[str, int]]
) -> None:
    """Catches a layer that is priced as if it were another one, and equal ones twice."""
    model = LayeredModel(
        name="m", family="f", hidden_size=4, vocab_size=9, tied_embeddings=True,
        layers=tuple(layers),
    )  # fmt: skip

    def step_of(one: LayeredModel) -> Step:
        return decode_step(served_layers(one, Precision()), batch=1, kv_length=8, tensor_parallel=1)

    step = step_of(model)
    assert [(layer.kind, layer.runs) for layer in step.layers] == kinds
    assert step.layer_count == model.layer_count
    for found, layer in zip(step.layers, layers, strict=False):  # each kind occurs first in turn
        alone = step_of(model.model_copy(update={"layers": (layer,)}))
        assert found.operators == alone.layers[0].operators


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(heads=5, kv_heads=2, head_dim=2), "does not divide heads = 5"),
        (lambda: Attention(heads=4, kv_heads=2, head_dim=2, window=3, chunk=3), "one of them"),
        (lambda: Mixture(experts=4, experts_per_token=5, width=3), "is more than experts = 4"),
        (lambda: CompressedAttention.model_validate({**FLASH.model_dump(), "ratio": 4}), "indexer"),
        (
            lambda: CompressedAttention.model_validate({**FLASH.model_dump(), "output_groups": 7}),
            "does not divide the context",
        ),
    ],
)
def test_contradictions_are_refused(make: object, message: str) -> None:
    """Catches a layer that cannot be."""
    assert callable(make)
    with pytest.raises(ValidationError, match=message):
        make()


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b"])
def test_a_loaded_model_is_described_as_its_name_is(name: str) -> None:
    """Catches a description that takes names and files, and not what `load_model` returns."""
    assert aa.describe(aa.load_model(name)) == aa.describe(name)
    assert aa.describe(aa.load_model(name, kv="fp8")) == aa.describe(name, kv="fp8")
