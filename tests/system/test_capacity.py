from math import ceil

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attacc.errors import CapacityError, EngineError, InputError
from attacc.gpu.published.model import published_rates
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    AttaccTable,
    AttentionSite,
    CapacityRule,
    Heads,
    ResolvedSystem,
    SystemSpec,
    load_system,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.models.feedforward import Dense
from attacc.models.layers import Layer, LayeredModel
from attacc.models.mixers import Attention, CompressedAttention, DeltaNet, LatentAttention
from attacc.models.precision import Precision
from attacc.models.served import served_layers
from attacc.system.capacity import (
    Content,
    Footprint,
    StoredKind,
    StoredTokens,
    check_batch,
    copies_that_fit,
    footprint,
    footprint_of,
    largest_batch,
    preferred_batch,
    stores,
)
from attacc.workload.requests import fixed_lengths

STACK_BYTES = float(16 * 2**30)
RATES = published_rates(Placement.BANK, power_limited=True, stacks_per_device=5)
GPT3 = MODELS.load("gpt3-175b")


def with_attacc(
    capacity: CapacityRule = CapacityRule.SEPARATE,
    *,
    coprocessing: bool = False,
    heads: Heads | None = None,
) -> ResolvedSystem:
    table = AttaccTable(
        devices=8, stacks_per_device=5, placement=Placement.BANK, capacity=capacity, heads=heads
    )
    spec = SystemSpec(
        name="mine",
        gpu="a100a",
        gpus=8,
        link="nvlink3",
        attention=AttentionSite.ATTACC,
        attacc=table,
        ff_coprocessing=coprocessing,
    )
    return resolve_system(spec)


def of(model: str, gpus: int = 8, prompt: int = 2048, output: int = 2048) -> Footprint:
    workload = fixed_lengths(prompt, output)
    return footprint(MODELS.load(model), workload, tensor_parallel=gpus)


def test_a_request_keeps_every_token_but_the_last() -> None:
    """Catches a cache that is too small by a token, a layer, keys or values."""
    need = of("gpt3-175b")
    [kind] = need.stored
    assert (kind.kind, kind.pieces, kind.copies, kind.away) == ("full", 12, 1, True)
    assert kind.pieces * need.piece_bytes(kind, 1) * 8 == 2 * 96 * 12288 * 2 * 4095
    assert need.request_bytes(1, away=True) * 8 == 2 * 96 * 12288 * 2 * 4095
    assert need.request_bytes(1, away=False) == 0


@pytest.mark.parametrize(
    ("system", "model", "batch", "store"),
    [
        ("dgx-base", "gpt3-175b", 17, "memory of each GPU"),
        ("dgx-large", "gpt3-175b", 52, "memory of each GPU"),
        ("2xdgx", "gpt3-175b", 52, "memory of each GPU"),
        ("dgx-cpu", "gpt3-175b", 113, "memory of the CPUs"),
        ("dgx-attacc-bank", "gpt3-175b", 35, "memory of each AttAcc stack"),
        ("dgx-base", "llama-65b", 51, "memory of each GPU"),
        ("dgx-attacc-bank", "llama-65b", 63, "memory of each AttAcc stack"),
    ],
)
def test_largest_batches_of_the_systems_of_the_papers(
    system: str, model: str, batch: int, store: str
) -> None:
    """Catches a change of what counts; figures checked by hand in docs/model/system-model.md."""
    resolved = load_system(system)
    limit = largest_batch(of(model, resolved.gpus), resolved, stack_bytes=STACK_BYTES)
    assert (limit.batch, limit.store, limit.content) == (batch, store, Content.KV_CACHE)


def test_the_published_rule_pools_all_memory() -> None:
    """Catches pooling that is not as large as the DGX of the same capacity."""
    need = of("gpt3-175b")
    pooled = largest_batch(need, with_attacc(CapacityRule.POOLED), stack_bytes=STACK_BYTES)
    assert pooled.batch == largest_batch(need, load_system("dgx-large")).batch
    assert pooled.store == "memory of GPUs and AttAccs together"


def test_the_fullest_stack_decides() -> None:
    """Catches heads that are cut into pieces to fill stacks evenly."""
    need = of("gpt3-175b")
    _, stack = stores(need, with_attacc(), 35, stack_bytes=STACK_BYTES)
    [kind] = need.stored
    assert stack.kv_bytes == ceil(35 * 96 / 40) * need.piece_bytes(kind, 35)
    assert stack.fits
    assert stack.weights_bytes == 0


def test_coprocessing_copies_weights_into_the_stacks() -> None:
    """Catches weights that AttAcc multiplies without having them."""
    need = of("gpt3-175b")
    _, stack = stores(need, with_attacc(), 18, stack_bytes=STACK_BYTES, copied_share=0.25)
    assert stack.weights_bytes == 0.25 * 8 * need.feed_forward_bytes / 40


def test_requests_leave_room_for_the_copies_of_coprocessing() -> None:
    """Catches a batch that crowds out copies where some batch has all that are of use."""
    need, system = of("gpt3-175b"), with_attacc(coprocessing=True)
    preferred = preferred_batch(need, system, stack_bytes=STACK_BYTES, rates=RATES)
    assert preferred == 32
    # The share with which both end together, 9 times the bandwidth on 32 rows; 33 have no room.
    for batch, fits in ((32, True), (33, False)):
        useful = (9 / batch) / (1 + 9 / batch)
        assert (copies_that_fit(need, system, batch, stack_bytes=STACK_BYTES) >= useful) is fits
    plain = preferred_batch(need, with_attacc(), stack_bytes=STACK_BYTES)
    assert plain == largest_batch(need, system, stack_bytes=STACK_BYTES).batch == 35


def test_copies_fill_what_a_batch_leaves() -> None:
    """Catches copies that overflow a stack, or leave room that they have use for."""
    need, system = of("gpt3-175b"), with_attacc(coprocessing=True)
    _, stack = check_batch(need, system, 34, stack_bytes=STACK_BYTES)
    share = copies_that_fit(need, system, 34, stack_bytes=STACK_BYTES)
    assert share == pytest.approx(  # pyright: ignore[reportUnknownMemberType]
        (STACK_BYTES - stack.kv_bytes) / (8 * need.feed_forward_bytes / 40), rel=1e-11
    )
    assert 0 < share < (9 / 34) / (1 + 9 / 34)
    assert copies_that_fit(need, system, 1, stack_bytes=STACK_BYTES) == 1
    with pytest.raises(CapacityError, match="the largest batch that fits is 35"):
        copies_that_fit(need, system, 36, stack_bytes=STACK_BYTES)


SYSTEMS = [
    load_system("dgx-base"),
    load_system("dgx-cpu"),
    with_attacc(),
    with_attacc(coprocessing=True),
    with_attacc(CapacityRule.POOLED),
    with_attacc(CapacityRule.POOLED, coprocessing=True),
]


@given(
    system=st.sampled_from(SYSTEMS),
    weights=st.floats(1e9, 80e9),
    feed_forward=st.floats(0, 1),
    kv_heads=st.integers(1, 20),
    kv_head_token_bytes=st.floats(1e3, 1e6),
    window=st.integers(1, 3000),
    several=st.integers(1, 4),
    deviation=st.floats(0, 2000),
    activations=st.floats(0, 1e8),
)
def test_the_largest_batch_fits_as_do_all_below_and_none_above(
    system: ResolvedSystem,
    weights: float,
    feed_forward: float,
    kv_heads: int,
    kv_head_token_bytes: float,
    window: int,
    several: int,
    deviation: float,
    activations: float,
) -> None:
    """Catches a search that stops early, usage that does not grow, and copies that overflow.

    Before copies were limited by the room that is left, small batches overflowed stacks in which
    larger ones fitted, and the search for the largest did not notice.
    """
    kinds = (
        StoredKind("full", kv_heads, kv_head_token_bytes),
        StoredKind("window", kv_heads, kv_head_token_bytes, reach=window),
        StoredKind("latent", 1, kv_head_token_bytes, copies=8, away=False),
        StoredKind("state", 1, 0.0, state_bytes=1e3 * kv_head_token_bytes, away=False),
    )
    need = Footprint(
        weights, feed_forward * weights, 2.0, 1.0, activations, activations, kinds[:several],
        StoredTokens(1000.0, deviation, 8000),
    )  # fmt: skip

    def fits(batch: int, share: float = 0.0) -> bool:
        filled = stores(need, system, batch, stack_bytes=STACK_BYTES, copied_share=share)
        return all(store.fits for store in filled)

    try:
        limit = largest_batch(need, system, stack_bytes=STACK_BYTES)
    except CapacityError:
        assert not any(fits(batch) for batch in range(1, 100))
        return
    assume(limit.batch < 5000)
    assert not any(fits(batch) for batch in range(limit.batch + 1, limit.batch + 100))
    preferred = preferred_batch(need, system, stack_bytes=STACK_BYTES, rates=RATES)
    assert 1 <= preferred <= limit.batch
    below = 1.0
    for batch in sorted({*range(1, min(limit.batch, 50)), preferred, limit.batch}):
        share = copies_that_fit(need, system, batch, stack_bytes=STACK_BYTES)
        assert 0 <= share <= below <= 1
        assert fits(batch, share)
        below = share


def test_a_batch_that_does_not_fit_says_by_how_much_and_what_would() -> None:
    """Catches an error without the shortfall or the way out."""
    need, system = of("gpt3-175b"), load_system("dgx-base")
    assert all(store.fits for store in check_batch(need, system, 17))
    with pytest.raises(CapacityError, match="largest batch that fits is 17") as caught:
        check_batch(need, system, 18)
    shortfall = caught.value.shortfall
    assert shortfall.what == "memory of each GPU, for a batch of 18"
    assert shortfall.needed_bytes > shortfall.available_bytes == 80 * 2**30
    assert "system dgx-base" in str(caught.value)


def test_the_runtime_keeps_a_share_of_the_memory_of_gpus_alone() -> None:
    """Catches a reserve that is counted nowhere, or in stacks too; an error without it."""
    need, plain = of("gpt3-175b"), load_system("dgx-base")
    kept = load_system("dgx-base", memory_reserve=0.1)
    (store,) = stores(need, kept, 3)
    assert store.available_bytes == 80 * 2**30 - store.reserved_bytes
    assert store.reserved_bytes == pytest.approx(8 * 2**30)
    assert store.used_bytes == stores(need, plain, 3)[0].used_bytes
    with pytest.raises(CapacityError) as caught:
        check_batch(need, kept, 18)
    assert caught.value.shortfall.what == (
        "memory of each GPU beside the 8.6 GB that the runtime keeps, for a batch of 18"
    )
    gpu, stack = stores(need, load_system("8xa100-attacc-hbm3"), 3, stack_bytes=STACK_BYTES)
    assert gpu.available_bytes == pytest.approx(72 * 2**30)
    assert (stack.available_bytes, stack.reserved_bytes) == (STACK_BYTES, 0)
    pooled = {"memory_reserve": 0.25, "attacc.capacity": "pooled"}
    (pool,) = stores(need, load_system("dgx-attacc-bank", **pooled), 3, stack_bytes=STACK_BYTES)
    assert pool.available_bytes == 8 * 60 * 2**30 + 40 * STACK_BYTES
    assert pool.reserved_bytes == 8 * 20 * 2**30


def test_activations_can_be_what_fills_a_gpu() -> None:
    """Catches a limit that always blames the cache."""
    kinds = (StoredKind("full", 1, 1e3),)
    need = Footprint(1e9, 0.0, 2.0, 1.0, 1e6, 1e9, kinds, StoredTokens(1000.0, 0.0, 1000))
    assert largest_batch(need, load_system("dgx-base")).content is Content.ACTIVATIONS


def test_a_model_that_does_not_fit_says_so() -> None:
    """Catches a batch of zero, and hints that would not help."""
    with pytest.raises(CapacityError, match=r"the weights take 1,060.0 GB on 8 GPUs: use more"):
        largest_batch(of("mt-nlg-530b"), load_system("dgx-base"))
    with pytest.raises(CapacityError, match=r"the weights take 1,060.0 GB on 8 GPUs: use more"):
        check_batch(of("mt-nlg-530b"), load_system("dgx-base"), 3)
    long = of("gpt3-175b", prompt=10**6)
    with pytest.raises(CapacityError, match=r"not even one request fits: .*or shorter requests\)"):
        largest_batch(long, with_attacc(), stack_bytes=STACK_BYTES)


def test_coprocessing_refuses_no_model_that_fits_without_it() -> None:
    """Catches copies that no batch has room for in whole, and that are not cut down."""
    need = of("mt-nlg-530b")
    plain = with_attacc(CapacityRule.POOLED)
    shared = with_attacc(CapacityRule.POOLED, coprocessing=True)
    most = largest_batch(need, plain, stack_bytes=STACK_BYTES).batch
    assert preferred_batch(need, shared, stack_bytes=STACK_BYTES, rates=RATES) == most > 1
    assert 0 < copies_that_fit(need, shared, 1, stack_bytes=STACK_BYTES) < 0.5


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_below_one_is_refused(batch: int) -> None:
    """Catches an empty batch that fits everywhere."""
    with pytest.raises(InputError, match=f"batch: {batch} is out of range"):
        check_batch(of("gpt3-175b"), load_system("dgx-base"), batch)


def test_mixed_lengths_reserve_more_than_their_mean_and_less_than_the_longest() -> None:
    """Catches a batch sized for average requests, and one in which all are the longest."""
    tokens = StoredTokens(1000.0, 500.0, 8000)
    assert tokens.reserved(100) == pytest.approx(1000 + 3.0902 * 50)  # pyright: ignore[reportUnknownMemberType]
    assert tokens.reserved(1) == pytest.approx(1000 + 3.0902 * 500)  # pyright: ignore[reportUnknownMemberType]
    assert StoredTokens(1000.0, 500.0, 1200).reserved(1) == 1200
    # A sum of 100 independent lengths of two values stays below in 999 of 1000 draws.
    draws = np.random.default_rng(7).choice([500, 1500], size=(100_000, 100)).sum(axis=1)
    reserved = 100 * StoredTokens(1000.0, 500.0, 8000).reserved(100)
    within = np.count_nonzero(draws <= reserved) / len(draws)
    assert 0.998 < within < 0.9999


def test_faults_of_the_caller_are_engine_errors() -> None:
    """Catches stacks of unknown size, or co-processing of unknown rate, that hold anything."""
    with pytest.raises(EngineError, match="memory of an AttAcc stack"):
        largest_batch(of("gpt3-175b"), with_attacc())
    with pytest.raises(EngineError, match="needs the rates"):
        preferred_batch(of("gpt3-175b"), with_attacc(coprocessing=True), stack_bytes=STACK_BYTES)


HEADS = Attention(heads=8, kv_heads=8, head_dim=16)
WINDOW = HEADS.model_copy(update={"kv_heads": 2, "window": 100})
LATENT = LatentAttention(heads=8, query_rank=64, latent=48, rope_dim=16, nope_dim=16, value_dim=16)
STATE = DeltaNet(key_heads=4, value_heads=8, key_dim=16, value_dim=16, conv=4)
KINDS = served_layers(
    LayeredModel(
        name="kinds", family="f", hidden_size=128, vocab_size=1000, tied_embeddings=True,
        layers=tuple(
            Layer(mixer=mixer, feed_forward=Dense(width=256), repeat=repeat)
            for mixer, repeat in ((HEADS, 1), (WINDOW, 3), (LATENT, 4), (STATE, 5), (HEADS, 1))
        ),
    ),
    Precision(),
)  # fmt: skip
"""2 layers of full attention, 3 of a window, 4 of latents, 5 of states; keys have 16 bits."""


HOME = ("latent", "state", "compressed")


def of_kinds(
    tokens: int = 1000, *, gpus: int = 8, home: tuple[str, ...] = HOME, kept: int = 0
) -> Footprint:
    stored = StoredTokens(tokens, 0.0, tokens)
    return footprint_of(
        KINDS, stored, prefill_tokens=1, kept_tokens=kept, tensor_parallel=gpus, home=home
    )


def test_every_kind_of_layers_stores_what_it_keeps() -> None:
    """Catches a window that grows without end, a latent that is split, a state for each token.

    On each of 8 GPUs: one full head, 2 layers x 32 numbers; a copy of a window's head, of which 4
    GPUs have the same, 3 x 32; the whole latent, 4 x 64, on all of them; one head of a state, 5 x
    (16 x 16 numbers of fp32, and 3 columns of 16 + 16 + 16 channels).
    """
    need = of_kinds()
    full, window, latent, state = need.stored
    assert full == StoredKind("full", 1, 128.0)
    assert window == StoredKind("window", 1, 192.0, reach=100, copies=4)
    assert latent == StoredKind("latent", 1, 512.0, copies=8, away=False)
    held = 5.0 * (16 * 16 * 4 + 3 * 48 * 2)
    assert state == StoredKind("state", 1, 0.0, state_bytes=held, away=False)
    for tokens, windowed in ((1000, 100), (100, 100), (99, 99), (1, 1)):
        some = of_kinds(tokens)
        assert some.request_bytes(1, away=True) == 128 * tokens + 192 * windowed
        assert some.request_bytes(1, away=False) == 512 * tokens + held
        once = some.request_bytes(1, away=True, copies=False)
        assert once == 128 * tokens + 192 * windowed / 4
    whole = of_kinds(gpus=1)
    assert [kind.pieces for kind in whole.stored] == [8, 2, 1, 1]
    assert [kind.copies for kind in whole.stored] == [1, 1, 1, 1]
    assert whole.request_bytes(1, away=True) == 8 * 128_000 + 2 * 19_200
    assert whole.request_bytes(1, away=False) == 512_000 + 5 * (
        8 * 16 * 16 * 4 + 3 * (2 * 4 * 16 + 8 * 16) * 2
    )


def test_kinds_of_layers_lie_where_they_are_attended_to() -> None:
    """Catches latents or states in stacks, heads that are copied there, and a cache left out."""
    need, batch, held = of_kinds(), 35, 5 * (1024 + 288)
    here, there = batch * (512_000 + held), batch * (128_000 + 19_200)
    [gpu] = stores(need, load_system("dgx-base"), batch)
    assert gpu.kv_bytes == here + there
    gpu, cpus = stores(need, load_system("dgx-cpu"), batch)
    assert (gpu.kv_bytes, cpus.kv_bytes) == (here, 8 * batch * (128_000 + 19_200 / 4))
    # 35 x 8 full heads and 35 x 2 of the window on 40 stacks: 7 and 2 whole ones of each
    for heads, windows in ((Heads.WHOLE, 2), (Heads.CUT, 1.75)):
        gpu, stack = stores(need, with_attacc(heads=heads), batch, stack_bytes=STACK_BYTES)
        assert (gpu.kv_bytes, stack.kv_bytes) == (here, 7 * 128_000 + windows * 19_200)
    [pool] = stores(need, with_attacc(CapacityRule.POOLED), batch, stack_bytes=STACK_BYTES)
    assert pool.kv_bytes == here * 8 + cpus.kv_bytes


def test_kinds_that_stay_home_are_in_gpu_memory() -> None:
    """Catches a kind of layers that is counted in two places, or in none."""
    need = of_kinds(home=("window", *HOME), kept=500)
    assert [kind.away for kind in need.stored] == [True, False, False, False]
    gpu, stack = stores(need, with_attacc(), 35, stack_bytes=STACK_BYTES)
    kept = 128 * 500  # of a prompt, whose keys go to the stacks when its prefill ends
    assert need.prefill_kv_bytes == kept
    assert gpu.kv_bytes == 35 * (19_200 + 512_000 + 5 * (1024 + 288)) + kept
    assert stack.kv_bytes == 7 * 128_000
    assert of_kinds(kept=500).prefill_kv_bytes == kept + 192 * 100
    assert all(kind.away for kind in of_kinds(home=()).stored)
    assert not any(kind.away for kind in of_kinds(home=("full", "window", *HOME)).stored)


def test_compressed_records_keep_a_full_ring() -> None:
    """Catches the window of compressed attention left out, or a record stored for each token.

    16 bits: a record of 32 numbers for 128 tokens, a ring of 8 of them, and an open record of twice
    32 numbers of fp32 for each of the 128 tokens. Every GPU has all of it.
    """
    mixer = CompressedAttention(
        heads=8, head_dim=32, rope_dim=8, query_rank=16, output_groups=8, output_rank=4, window=8,
        ratio=128,
    )  # fmt: skip
    layers = (Layer(mixer=mixer, feed_forward=Dense(width=256), repeat=2),)
    model = served_layers(KINDS.model.model_copy(update={"layers": layers}), Precision())
    tokens = StoredTokens(1280, 0.0, 1280)
    for gpus in (1, 8):
        need = footprint_of(model, tokens, prefill_tokens=1, tensor_parallel=gpus, home=HOME)
        [kind] = need.stored
        assert (kind.kind, kind.pieces, kind.copies, kind.away) == ("compressed", 1, gpus, False)
        assert need.request_bytes(1, away=False) == 2 * (
            10 * 32 * 2 + 8 * 32 * 2 + 128 * 2 * 32 * 4
        )


def test_experts_have_fewer_rows() -> None:
    """Catches the share of a dense model for experts, whose weights fewer tokens visit."""
    assert of("mixtral-8x7b").feed_forward_rows_per_request == 2 / 8
    assert of("gpt3-175b").feed_forward_rows_per_request == 1
