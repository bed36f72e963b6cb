"""Models as they are served: shares of devices, formats of weights, visits of experts."""

from pathlib import Path

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.models.architecture import MODELS
from attacc.models.checkpoint import Checkpoint
from attacc.models.feedforward import Dense, Mixture
from attacc.models.huggingface import load_layers, load_model
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import (
    Attention,
    BlockSelector,
    CompressedAttention,
    DeltaNet,
    LatentAttention,
    LinearMixer,
    Mamba2,
)
from attacc.models.operators import MatMul, expected_visits
from attacc.models.parameters import count_parameters, kv_bytes_per_token, weight_bytes
from attacc.models.precision import BlockFormat, ElementType, Precision
from attacc.models.served import (
    ServedModel,
    element_type,
    heads_words,
    served,
    served_layers,
    valid_tensor_parallel,
    weight_type,
)
from attacc.models.steps import decode_step
from attacc.models.storage.formats import (
    BF16,
    FORMATS,
    FP8,
    FP8_BLOCK,
    INT8,
    MXFP4,
    NVFP4,
    ElementFormat,
    Rule,
    WeightFormats,
    gptq,
    int_groups,
    mlx,
)

FULL = Attention(heads=8, kv_heads=4, head_dim=16)
WINDOW = FULL.model_copy(update={"window": 100})
LATENT = LatentAttention(heads=8, query_rank=64, latent=48, rope_dim=16, nope_dim=16, value_dim=16)
DELTA = DeltaNet(key_heads=4, value_heads=8, key_dim=16, value_dim=16, conv=4)
MAMBA = Mamba2(heads=8, head_dim=16, state=16, groups=4, conv=4)
RECORDS = CompressedAttention(
    heads=8, head_dim=32, rope_dim=8, query_rank=16, output_groups=4, output_rank=4, window=8
)
EXPERTS = Mixture(experts=4, experts_per_token=2, width=64, shared_width=32)
BLOCK = Dense(width=256)


def model_of(*layers: Layer, vocab: int = 1024) -> LayeredModel:
    return LayeredModel(
        name="m", family="f", hidden_size=128, vocab_size=vocab, tied_embeddings=False,
        layers=layers,
    )  # fmt: skip


ALL = model_of(
    *(
        Layer(mixer=mixer, feed_forward=block, repeat=repeat)
        for repeat, (mixer, block) in enumerate(
            (
                (FULL, BLOCK), (WINDOW, EXPERTS), (LATENT, EXPERTS), (DELTA, BLOCK), (MAMBA, None),
                (RECORDS, BLOCK), (LinearMixer(), None),
            ),
            start=1,
        )
    )
)  # fmt: skip


def plain(model: LayeredModel) -> ServedModel:
    return served_layers(model, Precision())


def test_a_share_of_a_share_is_a_share() -> None:
    """Catches devices that are counted twice, or a share that forgets what it is a share of."""
    whole = plain(ALL)
    quarter, half = whole.share(4), whole.share(2)
    again = half.share(2)
    assert again.model.layers == quarter.model.layers
    assert again.model.vocab_size == quarter.model.vocab_size == 256
    assert [group.layer for group in again.groups] == [group.layer for group in quarter.groups]
    assert again.weight_bytes == quarter.weight_bytes
    assert (half.devices, half.whole) == (2, whole)
    assert whole.share(1) is whole
    assert whole.share(2) is half


def test_shares_hold_the_model_together() -> None:
    """Catches a part that is split where it is copied, or the reverse.

    Copied to both devices: norms, routers, latents, indexers, and blocks that are one matrix.
    """
    whole = plain(ALL)
    half = whole.share(2)
    copied = 0
    for layer in ALL.layers:
        for weight, mine in zip(
            ALL.of_layer(layer), half.model.of_layer(half.model.layers[layer.repeat - 1]),
            strict=True,
        ):  # fmt: skip
            assert weight.name == mine.name
            assert mine.numbers in (weight.numbers, weight.numbers / 2), weight.name
            if mine.numbers == weight.numbers:
                copied += layer.repeat * weight.numbers
    assert 2 * half.model.parameters == ALL.parameters + copied + ALL.norm_width
    kept = {
        weight.name
        for layer, mine in zip(ALL.layers, half.model.layers, strict=True)
        for weight, own in zip(ALL.of_layer(layer), half.model.of_layer(mine), strict=True)
        if own.numbers == weight.numbers
    }
    assert kept == {
        "norm", "mlp.gate", "self_attn.linear_attn", "self_attn.q_a_proj",
        "self_attn.q_a_layernorm", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_a_layernorm",
        "linear_attn.norm", "attn.wq_a", "attn.q_norm", "attn.wkv", "attn.kv_norm",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "shares", "words"),
    [
        ((FULL, WINDOW), [1, 2, 4, 8], "8 query heads and 4 key/value heads"),
        ((FULL, LATENT.model_copy(update={"heads": 12})), [1, 2, 4],
         "8 query heads and 4 key/value heads, 12 query heads"),
        ((DELTA.model_copy(update={"key_heads": 3, "value_heads": 6}),), [1, 3, 6],
         "3 key heads and 6 value heads"),
        ((MAMBA.model_copy(update={"groups": 8}),), [1, 2, 4, 8], "8 heads and 8 groups"),
        ((RECORDS,), [1, 2, 4], "8 query heads"),
        ((LinearMixer(),), [1], "layers"),
    ],
)  # fmt: skip
def test_what_devices_can_share(
    layers: tuple[Attention, ...], shares: list[int], words: str
) -> None:
    """Catches heads cut into pieces in one of several kinds of layers."""
    model = plain(model_of(*(Layer(mixer=mixer) for mixer in layers)))
    assert valid_tensor_parallel(model) == shares
    assert heads_words(model.model) == words
    for devices in shares:
        assert model.share(devices).devices == devices
    with pytest.raises(InputError, match=f"tensor parallelism 5 does not split the {words} of m"):
        model.share(5)


def test_index_heads_of_blocks_follow_their_key_value_heads() -> None:
    """Catches index heads that scan for key/value heads of other devices."""
    selector = BlockSelector(heads=4, dim=8, block=16, blocks=4)
    model = plain(model_of(Layer(mixer=FULL.model_copy(update={"selector": selector}))))
    for devices, heads in ((1, 4), (2, 2), (4, 1), (8, 1)):
        mixer = model.share(devices).full_attention()
        assert mixer.selector is not None
        assert (mixer.kv_heads, mixer.selector.heads) == (max(1, 4 // devices), heads)


MIXED = WeightFormats(
    default=FP8,
    rules=(
        Rule(name="mlp.up_proj", format=NVFP4, first=1, last=2),
        Rule(name="self_attn.*", format=None),
        Rule(name="lm_head", format=INT8),
    ),
)


def test_layers_of_different_formats_are_groups_of_their_own() -> None:
    """Catches a format of one layer that is taken for all of a run, in bytes and in prices."""
    found = ServedModel(
        model_of(Layer(mixer=FULL, feed_forward=BLOCK, repeat=4), Layer(mixer=WINDOW)),
        MIXED, ElementType.BF16, ElementType.FP8,
    )  # fmt: skip
    for model in (found, found.share(2), found.share(2).share(2)):
        up = [(one.count, one.stored_as("mlp.up_proj", "self_attn.q_proj")) for one in model.groups]
        assert up == [(2, ElementType.FP8), (2, BlockFormat.NVFP4), (1, ElementType.BF16)]
        step = decode_step(model, batch=1, kv_length=10, tensor_parallel=1)
        products = [
            {op.name: op.right for op in layer.operators if isinstance(op, MatMul)}
            for layer in step.layers
        ]
        wide = {"qkv": ElementType.BF16, "projection": ElementType.BF16}
        narrow = {"ff1": ElementType.FP8, "ff2": ElementType.FP8, "ff3": ElementType.FP8}
        assert [layer.runs for layer in step.layers] == [2, 2, 1]
        assert products[0] == wide | narrow
        assert products[2] == wide
        # Gate and up are one product of libraries, and priced alike.
        up_gate = {"ff1": BlockFormat.NVFP4, "ff2": BlockFormat.NVFP4}
        assert products[1] == wide | narrow | up_gate
        [head] = [op for op in step.outside if op.name == "lm_head"]
        assert isinstance(head, MatMul)
        assert head.right is ElementType.INT8
    block, matrix = 3 * 128 * 256, 128 * 256
    attention = 128 * (8 + 2 * 4) * 16 + 128 * 128
    scales = 2 * (matrix / 16 + 4)  # of NVFP4: one byte for 16 numbers, and four for a matrix
    scales += 4 * (4 * 3 - 2)  # of FP8: four bytes for each other matrix of the blocks
    expected = 4 * block - 2 * matrix / 2 + scales + 2 * 5 * attention
    expected += 2 * 1024 * 128 + 1024 * 128 + 4  # the embedding, and a head of int8 with one scale
    expected += 2 * (2 * 5 + 1) * 128
    assert found.weight_bytes == expected
    assert weight_bytes(found) == expected


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (BF16, ElementType.BF16),
        (FORMATS["fp16"], ElementType.FP16),
        (FP8, ElementType.FP8),
        (FP8_BLOCK, BlockFormat.FP8_BLOCK),
        (INT8, ElementType.INT8),
        (int_groups(8, None), ElementType.INT8),
        (int_groups(8, 128), ElementType.INT8),
        (mlx(8, 64), ElementType.INT8),
        (NVFP4, BlockFormat.NVFP4),
        (MXFP4, BlockFormat.MXFP4),
        (gptq(4, 128), BlockFormat.INT4_G128),
        (gptq(4, 32), BlockFormat.INT4_G32),
        (mlx(4, 64), BlockFormat.INT4_G32),
        (int_groups(4, 128), BlockFormat.INT4_G128),
        (int_groups(4, None), ElementType.INT4),
    ],
)
def test_formats_are_priced_as_their_nearest_type(
    stored: ElementFormat, expected: ElementType | BlockFormat
) -> None:
    """Catches products that read other bytes than the checkpoint stores."""
    found = weight_type(stored)
    assert found is expected
    # Scales of whole rows are not in a type, and groups of 64 count as those of 32.
    assert stored.bits / 8 <= found.bytes + 1e-9
    assert abs(found.bytes - stored.element_bytes) <= 0.07 * stored.element_bytes


@pytest.mark.parametrize("bits", [2, 3, 5, 6])
def test_formats_that_are_not_priced_are_refused(bits: int) -> None:
    """Catches weights of few bits that are priced as those of another format."""
    with pytest.raises(InputError, match=f"weights in mlx_int{bits}_g64 are described but not pr"):
        weight_type(mlx(bits, 64))
    with pytest.raises(InputError, match="keys and values in nvfp4 are described but not priced"):
        element_type(NVFP4, "keys and values")


@pytest.mark.parametrize(
    ("experts", "chosen", "tokens"), [(8, 2, 1), (8, 2, 5), (64, 6, 20), (128, 8, 3), (16, 16, 4)]
)
@pytest.mark.parametrize("skew", [0.0, 0.6, 1.2])
def test_expected_visits_are_those_of_many_draws(
    experts: int, chosen: int, tokens: int, skew: float
) -> None:
    """Catches another expectation than that of tokens which choose experts at random.

    Each draw includes every expert by its own chance, which is what the formula states. The mean of
    20,000 draws lies within four standard errors; the seed is fixed.
    """
    weights = np.arange(1, experts + 1) ** -skew
    # Chances that sum to the number of chosen experts, none above 1
    certain = np.zeros(experts, dtype=bool)
    chance = chosen * weights / weights.sum()
    while (chance > 1 + 1e-12).any():
        certain |= chance > 1
        rest = np.where(certain, 0, weights)
        chance = np.where(certain, 1, (chosen - certain.sum()) * rest / max(rest.sum(), 1e-300))
    draws = np.random.default_rng(11).random((20_000, tokens, experts)) < chance
    visited = draws.any(axis=1).sum(axis=1)
    error = visited.std() / np.sqrt(visited.size)
    found = float(expected_visits(experts, chosen, tokens, skew))
    assert abs(found - visited.mean()) <= 4 * error + 1e-9
    if skew == 0:
        # Exactly k experts for each token give the same expectation.
        few = (
            np.random.default_rng(12).random((4000, tokens, experts)).argsort(axis=2)[..., :chosen]
        )
        exact = np.array([np.unique(draw).size for draw in few])
        assert abs(found - exact.mean()) <= 4 * exact.std() / np.sqrt(exact.size) + 1e-9


def test_expected_visits_of_many_steps_at_once() -> None:
    """Catches an array of steps that is priced as one step."""
    tokens = np.array([1.0, 2.0, 300.0])
    for skew in (0.0, 1.0):
        each = [float(expected_visits(32, 4, one, skew)) for one in tokens.tolist()]
        assert np.allclose(expected_visits(32, 4, tokens, skew), each, rtol=1e-14)
        assert each[0] == pytest.approx(4)  # pyright: ignore[reportUnknownMemberType]
        assert each == sorted(each)
    # Tokens that prefer the same experts visit fewer.
    assert float(expected_visits(32, 4, 8, 1.0)) < float(expected_visits(32, 4, 8))


@pytest.mark.untraced  # of 58 models
@pytest.mark.reference
def test_bytes_are_those_of_the_checkpoint(reference: Path) -> None:
    """Catches a weight that is stored and not served, or the reverse, in any published file."""
    compared = 0
    for path in sorted((reference / "data" / "model_configs").glob("*_config.json")):
        if path.name.endswith("_hf_quant_config.json"):
            continue
        checkpoint, model = load_layers(path), load_model(path)
        assert isinstance(checkpoint, Checkpoint)
        stored = sum(checkpoint.weight_bytes().values())
        assert model.share(1).weight_bytes == stored, path.name
        assert sum(model.bytes_by_part.values()) == stored
        assert sum(group.count for group in model.groups) == checkpoint.model.layer_count
        assert count_parameters(model).total == checkpoint.model.parameters
        compared += 1
    assert compared == 58


@pytest.mark.untraced  # of 58 models
@pytest.mark.reference
def test_devices_hold_shares_of_published_models(reference: Path) -> None:
    """Catches a share that is more than the whole, or less than its part of it."""
    for path in sorted((reference / "data" / "model_configs").glob("*_config.json")):
        if path.name.endswith("_hf_quant_config.json"):
            continue
        model = load_model(path)
        for devices in (t for t in valid_tensor_parallel(model) if t <= 16):
            part = model.share(devices)
            assert model.weight_bytes / devices <= part.weight_bytes <= model.weight_bytes
            token = kv_bytes_per_token(model)
            assert token / devices <= kv_bytes_per_token(model, devices) <= token
            assert len(part.groups) == len(model.groups)


def test_presets_are_served_as_they_are() -> None:
    """Catches an element type that is lost, or a preset that is converted again each time."""
    for name in MODELS.names():
        spec = MODELS.load(name)
        model = served(spec)
        assert served(spec) is model
        assert served(model) is model
        assert (model.name, model.activations, model.kv) == (
            name, spec.precision.activations, spec.precision.kv
        )  # fmt: skip
        assert weight_type(model.formats.default) is spec.precision.weights
        assert weight_type(model.formats.wide) is spec.precision.weights
