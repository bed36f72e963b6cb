"""Any batch's price: ragged, in chunks, mixed, many at once; and what fits."""

from math import isclose
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attacc.documents import parse_document
from attacc.errors import CapacityError, InputError
from attacc.gpu.models import GpuModel
from attacc.hardware.system import (
    SYSTEMS,
    Heads,
    ResolvedSystem,
    Schedule,
    SystemSpec,
    load_system,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.models.operators import Attention, Phase
from attacc.models.steps import model_step
from attacc.pim.stack import Stack
from attacc.system.attaccs import LayerHeads
from attacc.system.batches import PHASES, Batches, Chunk
from attacc.system.pricer import Limit, Pricer, Prompts, SplitError, Timed
from attacc.system.step import Group
from attacc.workload.requests import fixed_lengths

LLAMA = MODELS.load("llama-3.1-70b")
SMALL = MODELS.load("llama-3.1-8b")
GPT3 = MODELS.load("gpt3-175b")
BOTH = pytest.mark.parametrize("gpu_model", list(GpuModel))


def attacc(**table: Any) -> ResolvedSystem:
    """A system of the presets' devices whose keys differ as stated."""
    document = SYSTEMS.load("dgx-attacc-bank").model_dump(mode="json")
    document["attacc"] |= {"heads": None} | table
    del document["memory_per_gpu_bytes"]
    return resolve_system(parse_document(SystemSpec, document, where="mine"))


lengths = st.lists(st.integers(1, 6000), min_size=1, max_size=40)
chunk = st.builds(Chunk, new=st.integers(1, 3000), past=st.integers(0, 5000))


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.just([]) | lengths, st.lists(chunk, max_size=3)).filter(any),
        min_size=1,
        max_size=8,
    ),
    gpu_model=st.sampled_from(GpuModel),
)
@example(  # as many new tokens in both steps, and different numbers before them
    steps=[([], [Chunk(1), Chunk(1)]), ([], [Chunk(1), Chunk(1, past=1)])],
    gpu_model=GpuModel.CALIBRATED,
)
def test_many_steps_cost_what_each_costs(
    steps: list[tuple[list[int], list[Chunk]]], gpu_model: GpuModel
) -> None:
    """Catches a step that gets another's sums, phase or place when many are priced at once."""
    pricer = Pricer(SMALL, load_system("dgx-base"), gpu_model=gpu_model)
    together = pricer.steps(Batches.of(steps))
    for number, (decode, prefill) in enumerate(steps):
        alone = pricer.step(decode=decode, prefill=prefill)
        assert isclose(together.time_ns[number], alone.time_ns, rel_tol=1e-12)
        assert isclose(together.energy.total_pj[number], alone.energy.total_pj, rel_tol=1e-12)
        assert together.at(number) == alone


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(lengths, st.lists(chunk, max_size=3)), min_size=1, max_size=5))
def test_sums_over_requests(steps: list[tuple[list[int], list[Chunk]]]) -> None:
    """Catches a sum that runs into the next step, against sums in Python."""
    batches = Batches.of(steps)
    for number, (decode, prefill) in enumerate(steps):
        assert batches.requests[number] == len(decode)
        assert batches.keys[number] == sum(decode)
        assert (batches.shortest[number], batches.longest[number]) == (min(decode), max(decode))
        assert batches.chunks[number] == len(prefill)
        assert batches.new_tokens[number] == sum(one.new for one in prefill)
        assert batches.past_tokens[number] == sum(one.past for one in prefill)
        phase = Phase.MIXED if prefill else Phase.DECODE
        assert PHASES[batches.phases[number]] is phase
        assert sorted(batches.lengths_of(number)) == sorted(decode)
        work = batches.take(np.array([number])).prefilling()
        if work is not None:
            tokens = work.chunks * work.new
            pairs = sum(one.new * (one.past + one.new) for one in prefill)
            assert isclose(float(tokens), sum(one.new for one in prefill), rel_tol=1e-12)
            assert isclose(float(tokens * work.keys), pairs, rel_tol=1e-12)


@settings(max_examples=100)
@given(
    lengths=lengths,
    gpu_model=st.sampled_from(GpuModel),
    model=st.sampled_from([LLAMA, GPT3]),
    system=st.sampled_from(["dgx-base", "dgx-cpu"]),
)
def test_unequal_lengths_lie_between_the_mean_and_the_longest(
    lengths: list[int], gpu_model: GpuModel, model: Any, system: str
) -> None:
    """Catches a ragged batch cheaper than its sum of work, or dearer than its longest request."""
    pricer = Pricer(model, load_system(system), gpu_model=gpu_model)
    ragged = pricer.step(decode=lengths)
    count = len(lengths)
    longest = pricer.step(decode=[max(lengths)] * count)
    # The mean need not be whole: its price lies between those of its neighbours.
    below, above = sum(lengths) // count, -(-sum(lengths) // count)
    least = min(pricer.step(decode=[mean] * count).attention.time_ns for mean in (below, above))
    slack = 1 + 1e-9
    assert least <= ragged.attention.time_ns * slack
    assert ragged.attention.time_ns <= max(longest.attention.time_ns, least) * slack
    unequal = min(lengths) != max(lengths)
    told = any("unequal lengths" in note for note in ragged.estimates)
    assert told is (unequal and system == "dgx-base")


@BOTH
def test_equal_lengths_are_no_estimate(gpu_model: GpuModel) -> None:
    """Catches equal requests that are priced as ragged ones: the price changes, or a note shows."""
    pricer = Pricer(LLAMA, load_system("dgx-base"), gpu_model=gpu_model)
    listed = pricer.step(decode=[3000] * 17)
    at_once = pricer.steps(Batches.equal(17, [3000, 100])).at(0)
    assert listed == at_once
    assert not any("unequal" in note for note in listed.estimates)


@BOTH
@pytest.mark.parametrize("parts", [2, 4])
def test_a_prompt_in_chunks(gpu_model: GpuModel, parts: int) -> None:
    """Catches past tokens that cost nothing, and chunks that attend to what comes after them."""
    pricer = Pricer(SMALL, load_system("dgx-base"), gpu_model=gpu_model)
    size = 8192 // parts
    whole = pricer.step(prefill=[Chunk(8192)])
    chunks = [pricer.step(prefill=[Chunk(size, past=size * part)]) for part in range(parts)]
    times = [step.attention.time_ns for step in chunks]
    assert times == sorted(times)
    # Later chunks attend to more keys: the last one to about twice those of a middle one.
    assert times[-1] > 1.3 * times[0]
    assert 0.5 < sum(times) / whole.attention.time_ns < 2
    assert not any("earlier keys" in note for note in chunks[0].estimates)
    assert any("earlier keys" in note for note in chunks[-1].estimates)


@BOTH
def test_a_chunk_of_one_token_reads_its_past(gpu_model: GpuModel) -> None:
    """Catches the last token of a prompt that attends to itself alone."""
    pricer = Pricer(SMALL, load_system("dgx-base"), gpu_model=gpu_model)
    short, long = (
        pricer.step(prefill=[Chunk(1, past=past)]).attention.time_ns for past in (10, 100_000)
    )
    assert long > 2 * short


@BOTH
def test_a_mixed_step(gpu_model: GpuModel) -> None:
    """Catches weights that are read once for each kind of request, and attention of one kind."""
    pricer = Pricer(LLAMA, load_system("dgx-base"), gpu_model=gpu_model)
    decode, prefill = [2000] * 30, [Chunk(512, past=1024)]
    mixed = pricer.step(decode=decode, prefill=prefill)
    apart = pricer.step(decode=decode), pricer.step(prefill=prefill)
    assert mixed.fc.time_ns < 0.99 * sum(step.fc.time_ns for step in apart)
    assert isclose(
        mixed.attention.time_ns,
        sum(step.attention.time_ns for step in apart),
        rel_tol=0.1,  # Graphs of kernels save a part of the launches of decode steps.
    )
    kinds = {op.name.startswith("prefill_") for op in mixed.operators if op.group == "attention"}
    assert kinds == {True, False}
    hosts = [op.name for op in mixed.operators if op.name.startswith("host")]
    assert hosts == (["host_layer", "host_step"] if gpu_model == "calibrated" else [])


def test_a_mixed_step_on_attaccs() -> None:
    """Catches a chunk whose keys stay behind, and decode attention that goes to the GPUs."""
    pricer = Pricer(LLAMA, attacc(), gpu_model="published")
    mixed = pricer.step(decode=[3000, 40, 900], prefill=[Chunk(256, past=64)])
    names = [op.name for op in mixed.operators]
    assert [name for name in names if "transfer" in name] == [
        "qkv_transfer",
        "context_transfer",
        "kv_transfer",
    ]
    assert "kv_read_back" not in names
    alone = pricer.step(decode=[3000, 40, 900])
    attention = next(op for op in mixed.operators if op.name == "attention")
    assert attention == next(op for op in alone.operators if op.name == "attention")


def test_what_later_chunks_read_back() -> None:
    """Catches past keys that are free although they lie in the stacks, or read back twice."""

    def read_back_ns(chunk: Chunk, **table: Any) -> float:
        step = Pricer(LLAMA, attacc(**table), gpu_model="published").step(prefill=[chunk])
        return sum(op.alone_ns for op in step.operators if op.name == "kv_read_back")

    in_stacks: dict[str, Any] = {"prefill_kv": "read_back"}
    assert read_back_ns(Chunk(100, past=900)) == 0
    bytes_per_gpu = 900 * 2 * 128 * 2  # One of eight key/value heads, in 16 bits.
    expected_ns = bytes_per_gpu / 300e9 * 1e9
    assert isclose(read_back_ns(Chunk(100, past=900), **in_stacks), expected_ns)
    # A prefix that another request left lies in the stacks alone.
    assert isclose(read_back_ns(Chunk(100, past=900, cached=900)), expected_ns)
    assert isclose(read_back_ns(Chunk(100, past=900, cached=450)), expected_ns / 2)


def test_prompts_in_chunks_need_memory_until_they_are_done() -> None:
    """Catches a prompt that lies in the stacks and in GPU memory, and is counted once."""
    workload = fixed_lengths(30_000, 100)
    kept, read = (
        Pricer(LLAMA, attacc(prefill_kv=where), gpu_model="published")
        for where in ("gpu", "read_back")
    )
    token_bytes = 2 * 128 * 2 * 80  # One of eight key/value heads on each GPU, all layers.
    assert kept.need(workload, chunk_tokens=512).prefill_kv_bytes == 30_000 * token_bytes
    assert kept.need(workload).prefill_kv_bytes == 0
    assert read.need(workload, chunk_tokens=512).prefill_kv_bytes == 0


def test_a_single_long_request_uses_every_stack() -> None:
    """Catches heads that stay whole where cutting them pays: 8 heads on 40 stacks.

    The papers' systems keep heads whole and stay as they were.
    """
    cut, whole = (
        Pricer(LLAMA, attacc(heads=heads), gpu_model="published") for heads in ("cut", "whole")
    )
    step, slow = (pricer.step(decode=[32_768]) for pricer in (cut, whole))
    assert slow.attention.time_ns > 4 * step.attention.time_ns
    moved, less = (
        sum(op.energy.link_pj for op in one.operators if op.name == "context_transfer")
        for one in (step, slow)
    )
    assert moved > less, "every part of a head returns a context"
    assert load_system("dgx-attacc-bank").spec.attacc is not None
    paper = Pricer(LLAMA, load_system("dgx-attacc-bank"), gpu_model="published")
    assert paper.step(decode=[32_768]).attention == slow.attention


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    heads=st.sampled_from(Heads),
    queries=st.sampled_from([1, 4]),
)
def test_ragged_attention_is_that_of_the_stacks(
    lengths: list[int], heads: Heads, queries: int
) -> None:
    """Catches a stack that is left out: the slowest of any deal takes at least a fair share."""
    system = attacc(heads=heads, queries_per_read=queries)
    pricer = Pricer(LLAMA, system, gpu_model="published")
    assert pricer.attaccs is not None
    found = pricer.attaccs.attend(LayerHeads.of_model(LLAMA), lengths)
    one = Stack(
        pricer.attaccs._stack.device,  # pyright: ignore[reportPrivateUsage]
        pricer.attaccs._stack.placement,  # pyright: ignore[reportPrivateUsage]
        power_limited=True,
        schedule=Schedule.INTERLEAVED,
    )
    everything = [length for length in lengths for _ in range(8)]
    alone = one.attend_to(
        everything,
        head_dim=128,
        element=LLAMA.precision.kv,
        queries_per_kv_head=8,
        queries_per_read=queries,
    )
    longest = one.attend_to(
        [max(lengths)],
        head_dim=128,
        element=LLAMA.precision.kv,
        queries_per_kv_head=8,
        queries_per_read=queries,
        together=1 if heads is Heads.REQUEST_PER_CHANNEL else None,
    )
    time_ns = float(found.time_ns[0])
    # A request that has a channel to itself leaves the 15 others of its stack idle.
    idle = 16 if heads is Heads.REQUEST_PER_CHANNEL else 1
    assert alone.time_ns / 40 <= time_ns <= idle * alone.time_ns * 1.001
    if heads is not Heads.CUT:
        assert time_ns >= longest.time_ns * 0.999
        assert found.extra_parts == 0


def test_ragged_and_equal_steps_in_one_go_on_attaccs() -> None:
    """Catches attention of one step in another's place."""
    pricer = Pricer(LLAMA, attacc(), gpu_model="published")
    steps: list[tuple[list[int], list[Chunk]]] = [
        ([500] * 4, []), ([10, 3000], []), ([500] * 8, [Chunk(10)]), ([700] * 4, []), ([5], []),
    ]  # fmt: skip
    together = pricer.steps(Batches.of(steps))
    for number, (decode, prefill) in enumerate(steps):
        assert together.at(number) == pricer.step(decode=decode, prefill=prefill)
    assert together.attention_error == 0


def test_copies_leave_the_requests_their_room() -> None:
    """Catches a single step that shares products with more copies than fit beside its requests."""
    spec = attacc(stacks_per_device=1).spec.model_copy(update={"ff_coprocessing": True})
    pricer = Pricer(LLAMA, resolve_system(spec), gpu_model="published")
    few, many = (pricer.step(decode=[length] * 4).fc for length in (100, 90_000))
    assert few.time_ns < many.time_ns
    with pytest.raises(CapacityError, match="largest batch that fits"):
        pricer.step(decode=[110_000] * 4)


def test_remembered_steps_are_those_of_the_same_requests() -> None:
    """Catches a price that is remembered for too many, or for a list in another order only."""
    pricer = Pricer(SMALL, load_system("dgx-base"), gpu_model="published")
    first = pricer.step(decode=[3, 1, 2])
    assert pricer.step(decode=[1, 2, 3]) is first
    assert pricer.step(decode=[1, 2, 4]) is not first
    assert pricer.step(decode=[1, 2, 3], prefill=[Chunk(1)]) is not first


@pytest.mark.parametrize(
    ("decode", "prefill", "message"),
    [
        ([], [], "step 0 has no requests"),
        ([0], [], "decode: 0 is out of range"),
        ([1, -5], [], "decode: -5 is out of range"),
        ([2**24 + 1], [], "decode: 16777217 is out of range"),
        ([], [(0,)], "new: 0 is out of range"),
        ([], [(1, -1)], "past: -1 is out of range"),
        ([], [(1, 5, 6)], "cached: 6 tokens are cached, of 5 past tokens"),
    ],
)
def test_requests_that_cannot_be(
    decode: list[int], prefill: list[tuple[int, ...]], message: str
) -> None:
    """Catches a price of nothing, and of less than nothing."""
    pricer = Pricer(SMALL, load_system("dgx-base"))
    with pytest.raises(InputError, match=message):
        pricer.step(decode=decode, prefill=[Chunk(*sizes) for sizes in prefill])


@BOTH
def test_a_window_is_priced_as_the_keys_that_it_leaves(gpu_model: GpuModel) -> None:
    """Catches a window that is left out: attention would grow with the context without end."""
    wide, narrow = (
        Pricer(
            SMALL.model_copy(update={"sliding_window": window}),
            load_system("dgx-base"),
            gpu_model=gpu_model,
        )
        for window in (None, 1000)
    )
    full = narrow.step(decode=[1000] * 64).time_ns
    assert narrow.step(decode=[1001] * 64).time_ns == full
    assert narrow.step(decode=[100_000] * 64).time_ns == full
    assert narrow.step(decode=[500] * 64).time_ns < full < wide.step(decode=[2000] * 64).time_ns
    assert wide.step(decode=[1000] * 64).time_ns == full
    chunk = narrow.step(prefill=[Chunk(600, past=1000)]).time_ns
    assert narrow.step(prefill=[Chunk(600, past=50_000)]).time_ns == chunk
    assert chunk < wide.step(prefill=[Chunk(600, past=50_000)]).time_ns


@BOTH
def test_the_mean_of_a_window_is_that_of_every_request(gpu_model: GpuModel) -> None:
    """Catches the window of the mean length, which is more where requests differ.

    Of 800, 7,200 and 50,000 keys a window of 8,000 leaves 800, 7,200 and 8,000: 16,000 in all. The
    mean length is beyond the window, so three times the window would be 24,000.
    """
    wide, narrow = (
        Pricer(
            SMALL.model_copy(update={"sliding_window": window}),
            load_system("dgx-base"),
            gpu_model=gpu_model,
        )
        for window in (None, 8000)
    )
    mixed = Batches.of([([800, 7200, 50_000], []), ([9000, 8000, 4], []), ([7000] * 3, [])])
    decode = mixed.decoding()
    assert decode is not None
    step = model_step(narrow.model, decode=decode, tensor_parallel=8)
    [attention] = [op for op in step.layers[0].operators if isinstance(op, Attention)]
    assert np.array_equal(attention.keys, np.array([16_000, 16_004, 21_000]) / 3)
    assert attention.longest is not None
    assert np.array_equal(attention.longest, [8000, 8000, 7000])
    cut = Batches.of([([800, 7200, 8000], []), ([8000, 8000, 4], []), ([7000] * 3, [])])
    found, expected = narrow.steps(mixed), wide.steps(cut)
    assert np.array_equal(found.time_ns, expected.time_ns)
    assert np.array_equal(found.energy.parts_pj, expected.energy.parts_pj)
    full = narrow.step(decode=[8000] * 3)
    assert found.time_ns[0] <= full.time_ns
    assert found.energy.total_pj[0] < full.energy.total_pj


def test_models_and_systems_that_do_not_go_together() -> None:
    """Catches a model split unevenly, heads cut behind barriers."""
    with pytest.raises(SplitError, match="8 GPUs cannot share the 12 query heads"):
        Pricer(GPT3.model_copy(update={"heads": 12, "kv_heads": 12}), load_system("dgx-base"))
    with pytest.raises(InputError, match=r'attacc.heads = "cut" needs attacc.schedule'):
        attacc(heads="cut", schedule="complete")
    barriers = attacc(schedule="complete").spec.attacc
    assert barriers is not None
    assert not barriers.cuts_heads


def test_the_largest_batch() -> None:
    """Catches a search that stops early: every batch above is too slow, by the same prices."""
    pricer = Pricer(SMALL, load_system("dgx-base"), gpu_model="published")
    workload = fixed_lengths(1000, 100)
    most = pricer.largest_batch(workload)
    assert pricer.fits(workload, most.size)
    assert not pricer.fits(workload, most.size + 1)
    within = pricer.largest_batch(workload, slo_ms=5.0)
    assert within.limit is Limit.LATENCY
    keys = np.arange(1001, 1100)
    sizes = np.arange(1, 1200)
    batches = Batches.equal(np.repeat(sizes, keys.size), np.tile(keys, sizes.size))
    means_ms = pricer.steps(batches).time_ns.reshape(sizes.size, keys.size).mean(axis=1) / 1e6
    assert within.size == sizes[means_ms <= 5.0].max()
    assert pricer.largest_batch(workload, slo_ms=1e-3).size == 0


def test_a_step_is_made_of_its_groups() -> None:
    """Catches an operator of a mixed step that no group counts."""
    step = Pricer(LLAMA, attacc()).step(decode=[100, 2000], prefill=[Chunk(50, 10, 10)])
    assert isclose(step.time_ns, sum(step.group(group).time_ns for group in Group))
    assert "steps that prefill and decode: sums of both, never measured" in step.estimates


def test_a_window_over_chunks_of_different_sizes() -> None:
    """Catches a mean of keys that is cut at the window, in place of the mean of what is cut."""
    batches = Batches.of([((), (Chunk(100), Chunk(2000, past=300)))])
    found = batches.prefilling()
    assert found is not None
    assert found.mean is not None
    assert found.mean(lambda keys: np.minimum(keys, 512)) == (100 * 100 + 2000 * 512) / 2100
    assert found.keys == (100 * 100 + 2000 * 2300) / 2100


# Steps of many sizes, with chunks beside them.


def test_chunks_are_put_beside_decode_steps() -> None:
    """Catches chunks of another step, and a number of chunks that is taken for tokens."""
    steps = Batches.equal([3, 5], [100, 200]).beside([64, 32], [10, 0], [1, 3])
    assert steps.chunks.tolist() == [1, 3]
    assert steps.new_tokens.tolist() == [64, 3 * 32]
    assert steps.past_tokens.tolist() == [10, 0]
    assert (steps.requests.tolist(), steps.keys.tolist()) == ([3, 5], [300, 1000])
    assert steps.cached_tokens.tolist() == [0, 0]
    one = Batches.equal(3, [100, 200]).beside(64, 10, 2)
    assert (one.chunks.tolist(), one.past_tokens.tolist()) == ([2, 2], [20, 20])
    for new, past, chunks in ((0, 0, 1), (1, -1, 1), (1, 0, 0)):
        with pytest.raises(InputError):
            Batches.equal(3, 100).beside(new, past, chunks)


@pytest.mark.parametrize("name", ["8xh100", "8xh100-attacc-hbm3"])
def test_many_sizes_in_one_go_cost_what_each_step_costs(name: str) -> None:
    """Catches a size with the attention of another one, and chunks beside the wrong step.

    Attention on AttAccs is timed at all three sizes here, so that nothing is interpolated.
    """
    pricer = Pricer("llama-3.1-8b", load_system(name))
    sizes, keys = np.array([4, 16, 40]), np.array([300, 300, 700])
    beside = Prompts(np.array([64, 64, 32]), np.array([0, 16, 8]), np.array([1, 2, 1]))
    priced = pricer.sized(
        sizes,
        keys,
        timed=Timed((4, 16, 40), (300, 700)),
        need=pricer.need((256, 512)),
        beside=beside,
    )
    for place, (size, length) in enumerate(zip(sizes.tolist(), keys.tolist(), strict=True)):
        chunk = Chunk(int(beside.new[place]), past=int(beside.past[place]), cached=0)
        step = pricer.step(decode=[length] * size, prefill=[chunk] * int(beside.chunks[place]))
        assert priced.time_ns[place] == pytest.approx(step.time_ns, rel=1e-9)
        assert priced.energy.total_pj[place] == pytest.approx(step.energy.total_pj, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "system"),
    [
        ("llama-3.1-70b", "8xh100-attacc-hbm3"),
        ("llama-3.1-70b", "8xh100-attacc-hbm3-shared"),
        ("gpt3-175b", "dgx-attacc-bankgroup"),
    ],
)
def test_no_step_undercuts_its_multiplies(model: str, system: str) -> None:
    """Catches a bound that is too high, by which batches that keep a target are left out."""
    pricer = Pricer(model, system)
    sizes = np.array([1, 7, 40])
    least = pricer.least_ns(sizes, 1500)
    attention = [pricer.step(decode=[1500] * size).attention.time_ns for size in sizes.tolist()]
    assert (least > 0).all()
    assert (least <= attention).all()
    # Starts of layers and unused channels count in the step alone. A bound of no use is far lower.
    assert least[-1] > 0.25 * attention[-1]


def test_attention_on_gpus_has_no_bound() -> None:
    """Catches a bound of AttAccs that a system does not have."""
    assert not Pricer("llama-3.1-70b", "8xh100").least_ns(np.array([1, 100]), 1500).any()
