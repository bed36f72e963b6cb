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
    ResolvedSystem,
    SystemSpec,
    load_system,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.system.capacity import (
    Content,
    Footprint,
    StoredTokens,
    check_batch,
    copies_that_fit,
    footprint,
    largest_batch,
    preferred_batch,
    stores,
)
from attacc.workload.requests import fixed_lengths

STACK_BYTES = float(16 * 2**30)
RATES = published_rates(Placement.BANK, power_limited=True, stacks_per_device=5)
GPT3 = MODELS.load("gpt3-175b")


def with_attacc(
    capacity: CapacityRule = CapacityRule.SEPARATE, *, coprocessing: bool = False
) -> ResolvedSystem:
    table = AttaccTable(devices=8, stacks_per_device=5, placement=Placement.BANK, capacity=capacity)
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
    assert need.kv_heads == 12
    assert need.kv_heads * need.kv_head_bytes(1) * 8 == 2 * 96 * 12288 * 2 * 4095


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
    assert stack.kv_bytes == ceil(35 * 96 / 40) * need.kv_head_bytes(35)
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
    deviation=st.floats(0, 2000),
    activations=st.floats(0, 1e8),
)
def test_the_largest_batch_fits_as_do_all_below_and_none_above(
    system: ResolvedSystem,
    weights: float,
    feed_forward: float,
    kv_heads: int,
    kv_head_token_bytes: float,
    deviation: float,
    activations: float,
) -> None:
    """Catches a search that stops early, usage that does not grow, and copies that overflow.

    Before copies were limited by the room that is left, small batches overflowed stacks in which
    larger ones fitted, and the search for the largest did not notice.
    """
    need = Footprint(
        weights, feed_forward * weights, 2.0, 1.0, activations, activations, kv_heads,
        kv_head_token_bytes, StoredTokens(1000.0, deviation, 8000),
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


def test_activations_can_be_what_fills_a_gpu() -> None:
    """Catches a limit that always blames the cache."""
    need = Footprint(1e9, 0.0, 2.0, 1.0, 1e6, 1e9, 1, 1e3, StoredTokens(1000.0, 0.0, 1000))
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


def test_experts_have_fewer_rows() -> None:
    """Catches the share of a dense model for experts, whose weights fewer tokens visit."""
    assert of("mixtral-8x7b").feed_forward_rows_per_request == 2 / 8
    assert of("gpt3-175b").feed_forward_rows_per_request == 1
