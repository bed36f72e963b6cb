"""Expert and attention data parallelism: what a device holds, computes and exchanges."""

import math
from itertools import combinations

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.models.exchanges import busiest_load, greatest_normal, parts_of_a_token
from attacc.models.feedforward import Dense, Mixture
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention, LatentAttention
from attacc.models.operators import (
    AllReduce,
    Collective,
    CollectiveKind,
    Experts,
    MatMul,
    Operator,
    Pointwise,
    expert_chances,
)
from attacc.models.operators import Attention as AttentionOperator
from attacc.models.parameters import activation_bytes
from attacc.models.precision import ElementType, Precision
from attacc.models.served import (
    ServedModel,
    served_layers,
    splits_of,
    valid_tensor_parallel,
)
from attacc.models.sharding import Split
from attacc.models.steps import Decoding, Prefilling, decode_step, model_step
from attacc.models.weights import Part

HIDDEN = 128
HEADS = Attention(heads=8, kv_heads=4, head_dim=16)
LATENT = LatentAttention(heads=8, query_rank=64, latent=48, rope_dim=16, nope_dim=16, value_dim=16)
BLOCK = Dense(width=256)
ROUTED = Mixture(experts=16, experts_per_token=2, width=64)
BESIDE = Mixture(experts=16, experts_per_token=2, width=64, shared_width=32, dense=BLOCK)


def model_of(*layers: Layer) -> ServedModel:
    """A model of some layers, with bf16 throughout."""
    model = LayeredModel(
        name="m", family="f", hidden_size=HIDDEN, vocab_size=1024, tied_embeddings=False,
        layers=layers,
    )  # fmt: skip
    bf16 = ElementType.BF16
    return served_layers(model, Precision(weights=bf16, activations=bf16, kv=bf16))


ALL = model_of(
    Layer(mixer=HEADS, feed_forward=BLOCK),
    Layer(mixer=LATENT, feed_forward=ROUTED, repeat=2),
    Layer(mixer=HEADS, feed_forward=BESIDE, repeat=3),
)


def layer_of(layer: Layer, split: Split, *, requests: int = 6) -> tuple[Operator, ...]:
    """The operators of a decode step of one layer."""
    step = model_step(model_of(layer), decode=Decoding(requests, 50), tensor_parallel=split)
    return step.layers[0].operators


def rows_of(operators: tuple[Operator, ...]) -> dict[str, float]:
    """Rows of the operators that have some, by name."""
    return {
        op.name: float(op.m)
        for op in operators
        if isinstance(op, AllReduce | Collective | MatMul | Pointwise)
    }


def exchanges(operators: tuple[Operator, ...]) -> list[tuple[object, ...]]:
    """What devices exchange: name, kind, rows, columns, devices."""
    return [
        (op.name, op.kind.value if isinstance(op, Collective) else "sum", op.m, op.n, op.devices)
        for op in operators
        if isinstance(op, AllReduce | Collective)
    ]


@pytest.mark.parametrize("split", [s for s in splits_of(ALL, 8) if s.expert_parts <= 8], ids=str)
def test_devices_hold_the_model_and_the_stated_copies(split: Split) -> None:
    """Catches a weight that no device has, or that more of them have than docs/parallelism says."""
    share = ALL.share(split)
    once = (Part.EMBEDDING, Part.FEED_FORWARD, Part.EXPERTS, Part.SHARED, Part.HEAD)
    for part in once:
        assert split.devices * share.bytes_by_part[part] == ALL.bytes_by_part[part], part
    for part in (Part.NORMS, Part.ROUTER):
        assert share.bytes_by_part[part] == ALL.bytes_by_part[part], part
    # A group of devices holds mixers as a replica of so many devices does.
    group = ALL.share(split.mixer_devices)
    assert share.bytes_by_part[Part.MIXER] == group.bytes_by_part[Part.MIXER]
    for whole, mine in zip(ALL.groups, share.groups, strict=True):
        assert (mine.count, mine.formats) == (whole.count, whole.formats)
        blocks = whole.layer.feed_forward, mine.layer.feed_forward
        if isinstance(blocks[0], Mixture) and isinstance(blocks[1], Mixture):
            assert blocks[1].here == 16 // split.expert_parts
            assert blocks[1].width == 64 // split.expert_devices
            assert blocks[1].experts == 16


def test_splits_that_exist() -> None:
    """Catches heads, experts or widths cut into pieces, and a split that is left out."""
    assert splits_of(ALL, 4) == [
        Split(4, groups, parts) for groups in (1, 2, 4) for parts in (1, 2, 4)
    ]
    # Eight query heads; sixteen devices need two groups, or more.
    assert valid_tensor_parallel(ALL) == [1, 2, 4, 8]
    assert valid_tensor_parallel(ALL, mixer_groups=2) == [2, 4, 8, 16]
    assert valid_tensor_parallel(ALL, mixer_groups=2, expert_parts=8) == [8, 16]
    odd = model_of(Layer(mixer=HEADS, feed_forward=ROUTED.model_copy(update={"width": 66})))
    # 66 elements divide among 2 devices, and not among 4. Undivided experts may be uneven.
    assert valid_tensor_parallel(odd, expert_parts=2) == [2, 4]
    assert valid_tensor_parallel(odd) == [1, 2, 4, 8]
    none = model_of(Layer(mixer=HEADS, feed_forward=BLOCK))
    assert splits_of(none, 2) == [Split(2), Split(2, 2)]


@pytest.mark.parametrize(
    ("split", "where", "message", "hint"),
    [
        (Split(3, 3, 3), "ep", "3 parts of 1 devices do not divide the 16 experts of width 64 of m",
         "use one of 1"),
        (Split(16, 1, 16), "tensor_parallel",
         "tensor parallelism 16 does not split the 8 query heads and 4 key/value heads, 8 query",
         "use one of 1, 2, 4, 8"),
        (Split(48, 2), "dp", "groups of 24 devices do not split the 8 query heads and 4 key/value",
         "use groups of one of 1, 2, 4, 8 devices"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_says_so(split: Split, where: str, message: str, hint: str) -> None:
    """Catches a split that is refused for another reason than its own."""
    with pytest.raises(InputError) as caught:
        ALL.share(split)
    assert (caught.value.where, caught.value.hint) == (where, hint)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(("groups", "parts", "where"), [(3, 1, "dp"), (1, 0, "ep")])
def test_parts_divide_devices(groups: int, parts: int, where: str) -> None:
    """Catches devices that belong to no group."""
    with pytest.raises(InputError, match="parts do not divide 8 devices") as caught:
        Split(8, groups, parts)
    assert caught.value.where == where


def test_a_number_of_devices_is_tensor_parallelism() -> None:
    """Catches a second path: a number and the split of that number are one share."""
    assert ALL.share(4) is ALL.share(Split(4))
    number = decode_step(ALL, batch=5, kv_length=9, tensor_parallel=4)
    assert number == decode_step(ALL, batch=5, kv_length=9, tensor_parallel=Split(4))
    assert not any(isinstance(op, Collective) for layer in number.layers for op in layer.operators)
    nested = ALL.share(Split(4, 2, 2)).share(Split(2, 1, 2))
    assert nested.model.layers == ALL.share(Split(8, 2, 4)).model.layers


def test_groups_gather_tokens_and_get_their_own_sums_back() -> None:
    """Catches tokens that never reach a feed-forward part, or sums over the wrong devices.

    Six requests in two groups of two devices. Each group sums its three rows over its two devices;
    six rows are gathered over two groups, and come back as three, which two devices still sum.
    """
    gathered = [
        ("all_reduce1", "sum", 3, HIDDEN, 2),
        ("all_gather", "all_gather", 6, HIDDEN, 2),
        ("reduce_scatter", "reduce_scatter", 6, HIDDEN, 2),
        ("all_reduce2", "sum", 3, HIDDEN, 2),
    ]
    for block in (BLOCK, ROUTED, BESIDE):
        split = Split(4, 2)
        found = layer_of(Layer(mixer=HEADS, feed_forward=block), split)
        assert exchanges(found) == gathered
        [attention] = [op for op in found if isinstance(op, AttentionOperator)]
        assert (attention.batch, attention.heads, attention.kv_heads) == (3, 4, 2)
        rows = {name: m for name, m in rows_of(found).items() if "_" not in name}
        own = {"qkv", "projection", "norm1", "norm2"}
        assert {rows[name] for name in own} == {3}
        assert {rows[name] for name in set(rows) - own} == {6}
    # With a parallel residual, partial sums of both parts are summed once.
    one = layer_of(Layer(mixer=HEADS, feed_forward=BLOCK, parallel=True), Split(4, 2))
    assert exchanges(one) == gathered[1:]
    # One device has a whole mixer.
    alone = layer_of(Layer(mixer=HEADS, feed_forward=BLOCK), Split(4, 4), requests=5)
    assert exchanges(alone) == [
        ("all_gather", "all_gather", 5, HIDDEN, 4),
        ("reduce_scatter", "reduce_scatter", 5, HIDDEN, 4),
    ]
    [attention] = [op for op in alone if isinstance(op, AttentionOperator)]
    assert (attention.batch, attention.heads) == (2, 8)


def test_tokens_travel_to_whole_experts() -> None:
    """Catches bytes of the all-to-all, worked by hand.

    Ten requests in two groups of two devices: five tokens a group, three of them on the fuller
    device. Each token chooses 2 of 16 experts, which lie in fours: both are in one part with
    chance 3/15, so a token has 1.8 parts on average. A device sends 3 x 1.8 rows of 128 elements of
    two bytes: 1,382.4 bytes. A quarter of them stays where it is.
    """
    split = Split(4, 2, 4)
    found = layer_of(Layer(mixer=HEADS, feed_forward=ROUTED), split, requests=10)
    kinds = [op.kind for op in found if isinstance(op, Collective)]
    assert kinds == [CollectiveKind.ALL_TO_ALL] * 2 + [CollectiveKind.ALL_GATHER]
    dispatch, combine, gathered = (op for op in found if isinstance(op, Collective))
    for op in (dispatch, combine):
        assert (op.n, op.devices) == (HIDDEN, 4)
        assert op.bytes == pytest.approx(1382.4)
    assert (dispatch.name, combine.name) == ("dispatch", "combine")
    assert (gathered.name, gathered.m, gathered.devices) == ("group_gather", 5, 2)
    names = [op.name for op in found]
    assert names[names.index("router") :] == [
        "router", "dispatch", "experts", "combine", "group_gather", "norm2",
    ]  # fmt: skip
    [router] = [op for op in found if isinstance(op, MatMul) and op.name == "router"]
    assert router.m == 5
    [experts] = [op for op in found if isinstance(op, Experts)]
    assert (experts.tokens, experts.here, experts.width, experts.dispatched) == (10, 4, 64, True)
    # 10 tokens visit 20 experts, 5 of them on the mean device.
    assert experts.visits == pytest.approx(5 * experts.load)
    assert experts.present * experts.per_token == experts.visits
    # A parallel residual cannot wait for sums of parts that travel.
    both = layer_of(Layer(mixer=HEADS, feed_forward=ROUTED, parallel=True), split)
    assert exchanges(both)[0] == ("all_reduce1", "sum", 3, HIDDEN, 2)


def test_latents_of_experts_travel_instead_of_the_residual_stream() -> None:
    """Catches rows of the residual stream on the way to experts that take narrower ones."""
    narrow = ROUTED.model_copy(update={"latent": 32})
    found = layer_of(Layer(mixer=HEADS, feed_forward=narrow), Split(4, 2, 4))
    names = [op.name for op in found]
    assert names[names.index("router") :] == [
        "router", "latent_in", "dispatch", "experts", "combine", "group_gather", "latent_out",
        "norm2",
    ]  # fmt: skip
    assert {float(op.n) for op in found if isinstance(op, Collective)} == {32}


def test_experts_in_parts_see_all_tokens_under_tensor_parallel_mixers() -> None:
    """Catches an exchange where every device has all tokens already."""
    found = layer_of(Layer(mixer=HEADS, feed_forward=ROUTED), Split(4, 1, 2))
    assert exchanges(found) == [
        ("all_reduce1", "sum", 6, HIDDEN, None), ("all_reduce2", "sum", 6, HIDDEN, None),
    ]  # fmt: skip
    [experts] = [op for op in found if isinstance(op, Experts)]
    assert (experts.here, experts.width, experts.present, experts.dispatched) == (8, 32, 6, False)
    assert experts.load == busiest_load(16, 2, 6, 2) > 1
    whole = layer_of(Layer(mixer=HEADS, feed_forward=ROUTED), Split(4))
    [plain] = [op for op in whole if isinstance(op, Experts)]
    assert (plain.here, plain.load) == (16, 1.0)


def test_experts_are_priced_product_by_product_where_few_are_visited() -> None:
    """Catches a device that multiplies with as many experts as a token visits, of which it has 1.

    One token visits 2 of 16 experts. Of the two on this device, at least none is visited, and one
    product is priced.
    """
    [experts] = [
        op
        for op in layer_of(Layer(mixer=HEADS, feed_forward=ROUTED), Split(8, 1, 8), requests=1)
        if isinstance(op, Experts)
    ]
    counts = {float(part.count) for part in experts.products()}
    assert counts == {1}


def test_chunks_are_dealt_out_like_requests() -> None:
    """Catches prompts that every group computes, and logits of one group only."""
    step = model_step(
        ALL, tensor_parallel=Split(4, 2), decode=Decoding(4, 9), prefill=Prefilling(3, 20, 20)
    )
    # 64 tokens in all; two chunks and two requests in the largest group.
    assert rows_of(step.outside) == {
        "embedding": 64, "embedding_reduce_scatter": 64, "embedding_all_reduce": 42,
        "final_norm": 4, "head_gather": 7, "lm_head": 7,
    }  # fmt: skip
    assert (step.decoding, step.mixer_groups, step.tensor_parallel) == (2, 2, 4)


def test_many_steps_are_arrays() -> None:
    """Catches a size that is rounded for one step and not for many."""
    requests, keys = np.array([1.0, 6.0, 7.0]), np.array([10.0, 20.0, 30.0])
    split = Split(4, 2, 4)
    together = model_step(ALL, tensor_parallel=split, decode=Decoding(requests, keys))
    for number in range(3):
        alone = model_step(
            ALL, tensor_parallel=split, decode=Decoding(int(requests[number]), float(keys[number]))
        )
        for whole, one in zip(together.layers, alone.layers, strict=True):
            for many, single in zip(whole.operators, one.operators, strict=True):
                if isinstance(many, Collective) and isinstance(single, Collective):
                    assert np.broadcast_to(many.bytes, 3)[number] == single.bytes
                if isinstance(many, Experts) and isinstance(single, Experts):
                    assert np.broadcast_to(many.visited, 3)[number] == pytest.approx(single.visited)


def test_activations_of_groups_are_those_of_whole_mixers() -> None:
    """Catches mixers whose heads lie on fewer devices, with activations of all of them."""
    wide = model_of(Layer(mixer=HEADS.model_copy(update={"head_dim": 512}), feed_forward=BLOCK))
    small, large = (
        activation_bytes(wide, tokens=100, sequences=1, tensor_parallel=split)
        for split in (Split(4), Split(4, 4))
    )
    # 8 + 2 x 4 heads of 512 elements and the contexts of 8: 12,288 beside 128 of the stream.
    assert large == 100 * (HIDDEN + 12288) * 2
    assert small == 100 * (HIDDEN + 12288 // 4) * 2


def drawn_load(
    experts: int, per_token: int, tokens: int, parts: int, skew: float, draws: int
) -> float:
    """The mean load of the busiest part, from draws."""
    random = np.random.default_rng(3)
    chances = expert_chances(experts, per_token, skew)
    total = 0.0
    for _ in range(draws):
        if skew == 0:
            scores = random.random((tokens, experts))
            chosen = scores.argpartition(per_token, axis=1)[:, :per_token].ravel()
            visits = np.bincount(chosen, minlength=experts)
        else:
            visits = random.binomial(tokens, chances)
        placed = random.permutation(visits).reshape(parts, -1).sum(axis=1)
        total += float(placed.max()) / (tokens * per_token / parts)
    return total / draws


@pytest.mark.parametrize(
    ("experts", "per_token", "parts", "tokens", "skew", "tolerance"),
    [
        (8, 2, 8, 1, 0.0, 0.01),  # two visits on eight parts: exactly one at most
        (8, 2, 8, 16, 0.0, 0.03),
        (128, 8, 8, 4, 0.0, 0.04),
        (128, 8, 8, 64, 0.0, 0.02),
        (256, 8, 16, 64, 0.0, 0.03),
        (256, 8, 64, 4, 0.0, 0.22),  # few visits are no normal distribution
        (128, 1, 8, 4, 0.0, 0.10),
        (128, 8, 8, 512, 0.5, 0.05),
    ],
)
def test_the_busiest_part_is_as_busy_as_draws(
    experts: int, per_token: int, parts: int, tokens: int, skew: float, tolerance: float
) -> None:
    """Catches a load that is off by more than docs/model/parallelism.md states.

    Draws of 2,000 steps have a standard error below 1 %; the rest is the normal approximation.
    """
    drawn = drawn_load(experts, per_token, tokens, parts, skew, draws=2000)
    found = busiest_load(experts, per_token, tokens, parts, skew)
    assert found == pytest.approx(drawn, rel=tolerance)


def test_limits_of_the_busiest_part() -> None:
    """Catches a part with more visits than there are, or fewer than the mean."""
    assert busiest_load(16, 2, 100, 1) == 1
    assert busiest_load(2, 2, 5, 2) == 1  # every token visits every expert
    loads = busiest_load(128, 8, np.array([1.0, 10.0, 1e3, 1e6]), 8)
    assert np.all(np.diff(loads) < 0)
    assert np.asarray(loads)[-1] == pytest.approx(1, abs=2e-3)
    assert busiest_load(16, 1, 1, 4) == 4  # one visit, on one of four parts


def test_the_greatest_of_normal_variables() -> None:
    """Catches an integral that is cut short, against closed forms."""
    assert greatest_normal(1) == pytest.approx(0, abs=1e-9)
    assert greatest_normal(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-6)
    assert greatest_normal(3) == pytest.approx(1.5 / math.sqrt(math.pi), rel=1e-6)


def test_parts_of_a_token_are_counted_over_all_choices() -> None:
    """Catches a copy of a token for every expert, rather than for every device."""
    choices = list(combinations(range(8), 3))
    counted = sum(len({expert // 2 for expert in chosen}) for chosen in choices) / len(choices)
    assert parts_of_a_token(8, 3, 4) == pytest.approx(counted)
    assert parts_of_a_token(8, 8, 4) == 4
    assert parts_of_a_token(8, 1, 8) == 1
