"""Systems whose GPUs share a model by tensor, expert and attention data parallelism."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.gpu.calibrated.costs import CalibratedCostModel
from attacc.gpu.calibrated.kernels import collective_ns
from attacc.gpu.models import GpuModel
from attacc.gpu.published.model import PublishedCostModel
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.hardware.system import ResolvedSystem, load_system
from attacc.models.huggingface import load_model
from attacc.models.operators import AllReduce, Collective, CollectiveKind, Experts, Phase
from attacc.models.precision import ElementType
from attacc.models.sharding import Split
from attacc.models.steps import decode_step
from attacc.models.weights import Part
from attacc.system.batches import Batches, Chunk
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer, SplitError
from attacc.system.step import Group, StepCost
from attacc.workload.requests import fixed_lengths

BOTH = pytest.mark.parametrize("gpu_model", list(GpuModel))
WORK = fixed_lengths(1024, 256)
BF16 = ElementType.BF16


def h200(gpus: int) -> ResolvedSystem:
    """H200 in one NVLink domain."""
    link = {} if gpus == 1 else {"link": "nvlink4"}
    return load_system({"name": "mine", "gpu": "h200", "gpus": gpus, "attention": "gpu"} | link)


def config(reference: Path, name: str) -> Path:
    """A published configuration."""
    return reference / "data" / "model_configs" / f"{name}_config.json"


class Recorded(NamedTuple):
    """What a plain layout cost before there were others (commit 9a13043)."""

    model: str
    system: str
    decode_ns: float
    mixed_ns: float
    largest: int
    weights: float
    activations: float
    kv: float
    last_kv: float


PLAIN = [
    Recorded("gpt3-175b", "dgx-base", 29814505.78619703, 143921953.670815, 55,
             43707555840.0, 63221760.0, 3771924480.0, 3771924480.0),
    Recorded("gpt3-175b", "dgx-attacc-bank", 28094931.39586936, 143022202.73710728, 113,
             43707555840.0, 63221760.0, 0.0, 754384896.0),
    Recorded("llama-65b", "dgx-cpu", 68633649.45211466, 76601246.91365537, 655,
             16323723264.0, 45045504.0, 0.0, 16764108800.0),
    Recorded("llama-3.1-70b", "4", 15974694.05940431, 45342808.60836752, 1007,
             35278831616.0, 63637760.0, 523878400.0, 523878400.0),
    Recorded("mixtral-8x7b", "2", 12045489.666237023, 18564622.835602332, 1122,
             46704107520.0, 96940032.0, 419102720.0, 419102720.0),
    Recorded("qwen3-32b", "1", 20305277.45588706, 55681909.39188292, 224,
             65524246528.0, 170862080.0, 1676410880.0, 1676410880.0),
    Recorded("llama-2-70b", "16", 20441086.686827924, 39740636.43707147, 2520,
             8792326144.0, 41094144.0, 261939200.0, 261939200.0),
]  # fmt: skip
PUBLISHED = [
    Recorded("deepseek-ai--DeepSeek-R1", "8", 13599671.834142394, 41861675.806643076, 619,
             85140071456.0, 141195264.0, 449389440.0, 449389440.0),
    Recorded("Qwen--Qwen3-235B-A22B-FP8", "4", 14489091.248388186, 40313475.363253556, 1324,
             59186485760.0, 88881024.0, 307778560.0, 307778560.0),
    Recorded("openai--gpt-oss-120b", "2", 3506432.2484054025, 13293699.62179895, 4111,
             32651268480.0, 55123840.0, 129669120.0, 129669120.0),
    Recorded("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "2", 4141557.7598213553,
             11544542.989936955, 3805, 31585993280.0, 51276032.0, 142351360.0, 142351360.0),
    Recorded("google--gemma-4-26B-A4B", "2", 6518727.547197316, 15856859.925905067, 976,
             25244655616.0, 66088448.0, 589772800.0, 589772800.0),
]  # fmt: skip


def check_recorded(model: str | Path, recorded: Recorded) -> None:
    """Price with the published GPU model, whose constants no fit changes."""
    known = recorded.system
    system = h200(int(known)) if known.isdecimal() else load_system(known)
    pricer = Pricer(model, system, gpu_model="published", layout=Layout(system.gpus))
    mixed = pricer.step(decode=[500] * 3, prefill=[Chunk(new=512)])
    stores = pricer.memory(WORK, 5)
    found = Recorded(
        recorded.model,
        known,
        pricer.step(decode=[1000] * 7).time_ns,
        mixed.time_ns,
        pricer.largest_batch(WORK).size,
        stores[0].weights_bytes,
        stores[0].activations_bytes,
        stores[0].kv_bytes,
        stores[-1].kv_bytes,
    )
    assert found[:2] == recorded[:2]
    assert found[2:] == pytest.approx(recorded[2:], rel=1e-12)


@pytest.mark.parametrize("recorded", PLAIN, ids=lambda one: f"{one.model} on {one.system}")
def test_tensor_parallelism_alone_costs_what_it_did(recorded: Recorded) -> None:
    """Catches a price or a memory of plain layouts that other layouts have changed."""
    check_recorded(recorded.model, recorded)


@pytest.mark.reference
@pytest.mark.parametrize("recorded", PUBLISHED, ids=lambda one: one.model)
def test_published_models_under_tensor_parallelism_cost_what_they_did(
    recorded: Recorded, reference: Path
) -> None:
    """Catches the same, of latents, experts, windows and states."""
    check_recorded(config(reference, recorded.model), recorded)


@pytest.mark.reference
def test_latents_are_stored_once(reference: Path) -> None:
    """Catches eight copies of a latent, or weights of mixers that stay split.

    A token of DeepSeek V3 stores 61 records of 576 elements of two bytes. Eight GPUs that split
    heads store each record eight times; eight groups of one GPU store it once. They store whole
    mixers in exchange.
    """
    model = load_model(config(reference, "deepseek-ai--DeepSeek-R1"))
    kv = 61 * 576 * model.kv.bytes
    plain = Pricer(model, h200(8))
    dealt = Pricer(model, h200(8), layout=Layout(8, ep=8, dp=8))
    for pricer, requests in ((plain, 64), (dealt, 8)):
        [store] = pricer.memory(WORK, 64)
        assert store.kv_bytes == pytest.approx(requests * kv * 1279)
    before, after = plain.need(WORK), dealt.need(WORK)
    shares = [model.share(8), model.share(Split(8, 8, 8))]
    more = [share.bytes_by_part[Part.MIXER] for share in shares]
    assert after.weight_bytes - before.weight_bytes == pytest.approx(more[1] - more[0])
    assert more[1] == model.bytes_by_part[Part.MIXER]
    assert dealt.largest_batch(WORK).size > 6 * plain.largest_batch(WORK).size
    # 65 requests: nine in the fullest group.
    [store] = dealt.memory(WORK, 65)
    assert store.kv_bytes == pytest.approx(9 * kv * 1279)


def test_groups_need_no_copies_of_heads() -> None:
    """Catches copies of key/value heads where each group has one device for each of them."""
    model, system = "llama-3.1-70b", h200(16)
    copied = Pricer(model, system).memory(WORK, 32)[0].kv_bytes
    dealt = Pricer(model, system, layout=Layout(16, dp=2)).memory(WORK, 32)[0].kv_bytes
    assert dealt == copied / 2


@pytest.mark.reference
@pytest.mark.parametrize(("distribution", "most", "tolerance"),
                         [("balanced", 1024, 0.12), ("power_law_1.01", 256, 0.09)])  # fmt: skip
def test_experts_in_eight_parts_take_what_was_measured(
    reference: Path, distribution: str, most: int, tolerance: float
) -> None:
    """Catches experts of eight parts that are priced as slices of all experts.

    Measured on one of eight H200 that each hold 16 of Qwen3 235B's 128 experts in fp8 blocks. The
    tolerance is that of the mean absolute error, whose part in the fit is 8 %. Even choices also
    make the busiest GPU busier than balanced ones: by 4 % at 1,024 tokens, and more below. Loads
    of the power law outgrow even choices beyond 256 tokens.
    """
    import polars as pl

    table = pl.read_parquet(reference / "data" / "silicon" / "moe.parquet").filter(
        gpu="h200-sxm-141gb", dtype="fp8_block", hidden_size=4096, inter_size=1536, topk=8,
        num_experts=128, moe_ep_size=8, moe_tp_size=1, distribution=distribution,
    )  # fmt: skip
    table = table.filter(pl.col("num_tokens") <= most)
    model = load_model(config(reference, "Qwen--Qwen3-235B-A22B-FP8"))
    kernels = CalibratedCostModel().kernels(GPUS.load("h200"))
    errors: list[float] = []
    for tokens, latency_ms in table.select("num_tokens", "latency_ms").rows():
        step = decode_step(
            model, batch=tokens, kv_length=1000, tensor_parallel=Split(8, expert_parts=8)
        )
        [experts] = [op for op in step.layers[0].operators if isinstance(op, Experts)]
        assert (experts.here, experts.width) == (16, 1536)
        priced = kernels.experts(experts)
        assert not any("outside those fitted" in e.what and e.holds.any() for e in priced.estimates)
        errors.append(float(priced.time_ns[0]) / 1e6 / latency_ms - 1)
    assert len(errors) >= 9
    assert float(np.mean(np.abs(errors))) < tolerance


@pytest.mark.reference
def test_bytes_and_time_of_the_all_to_all(reference: Path) -> None:
    """Catches bytes of a dispatch, worked by hand, or its price by another collective.

    64 requests on eight H200: eight tokens on each. A token of Qwen3 235B chooses 8 of 128 experts,
    16 on each GPU. It has none on a GPU with chance C(112, 8) / C(128, 8) = 0.333, so it goes to
    5.34 GPUs on average, and a GPU sends 8 x 5.34 rows of 4,096 elements of two bytes: 350 kB.
    """
    model = config(reference, "Qwen--Qwen3-235B-A22B-FP8")
    layout = Layout(8, ep=8, dp=8)
    pricer = Pricer(model, h200(8), layout=layout)
    message = 8 * 8 * (1 - math.comb(112, 8) / math.comb(128, 8)) * 4096 * 2
    assert message == pytest.approx(349.9e3, rel=1e-3)
    step = pricer.step(decode=[1000] * 64)
    series = CalibratedCostModel().kernels(GPUS.load("h200")).gpu.collective("alltoall")
    for name in ("dispatch", "combine"):
        [op] = [op for op in step.operators if op.name == name]
        assert (op.group, op.runs) == (Group.COMMUNICATION, 94)
        assert op.time_ns == pytest.approx(collective_ns(series, 8, message)[0])
        energy = 8 * message * 7 / 8 * LINKS.load("nvlink4").energy_pj_per_byte
        assert op.energy.link_pj == pytest.approx(energy)
    assert any("busiest" in what for what in step.estimates)
    assert not any("alltoall" in what for what in step.estimates)


def names_of(step: StepCost) -> list[str]:
    """Names of what GPUs exchange."""
    return [op.name for op in step.operators if op.group is Group.COMMUNICATION]


@BOTH
def test_many_steps_cost_what_each_costs(gpu_model: GpuModel) -> None:
    """Catches requests that are dealt out to groups by the wrong step's number."""
    pricer = Pricer("mixtral-8x7b", h200(4), gpu_model=gpu_model, layout=Layout(4, ep=4, dp=2))
    steps: list[tuple[list[int], list[Chunk]]] = [
        ([100], []), ([100, 2000, 300], []), ([50] * 9, [Chunk(300), Chunk(40, past=10)]),
        ([], [Chunk(500)]), ([], [Chunk(64)] * 3), ([700] * 5, [Chunk(16)]),
    ]  # fmt: skip
    together = pricer.steps(Batches.of(steps))
    for number, (decode, prefill) in enumerate(steps):
        alone = pricer.step(decode=decode, prefill=prefill)
        assert together.time_ns[number] == pytest.approx(alone.time_ns, rel=1e-12)
        assert together.energy.total_pj[number] == pytest.approx(alone.energy.total_pj, rel=1e-12)


@BOTH
def test_groups_with_equal_requests_cost_the_same(gpu_model: GpuModel) -> None:
    """Catches a group that waits for requests it does not have.

    The mixers of five requests in two groups take as long as those of six.
    """
    pricer = Pricer("llama-3.1-70b", h200(4), gpu_model=gpu_model, layout=Layout(4, dp=2))
    four, five, six = (
        sum(op.time_ns for op in pricer.step(decode=[900] * n).operators
            if op.group is Group.ATTENTION)
        for n in (4, 5, 6)
    )  # fmt: skip
    assert four <= five == six
    assert names_of(pricer.step(decode=[900] * 5)) == [
        "all_reduce1", "all_gather", "reduce_scatter", "all_reduce2",
        "embedding_reduce_scatter", "embedding_all_reduce", "head_gather",
    ]  # fmt: skip


@BOTH
def test_energy_is_that_of_what_every_group_does(gpu_model: GpuModel) -> None:
    """Catches groups without requests that work as much as the largest one.

    A group of one GPU has the mixers of a GPU that has the model by itself.
    """
    dealt = Pricer("llama-3.1-8b", h200(8), gpu_model=gpu_model, layout=Layout(8, dp=8))
    alone = Pricer("llama-3.1-8b", h200(1), gpu_model=gpu_model)

    def energies(pricer: Pricer, decode: int, chunks: int = 0) -> dict[str, float]:
        step = pricer.step(decode=[900] * decode, prefill=[Chunk(600, past=100)] * chunks)
        return {op.name: op.energy.total_pj for op in step.operators}

    for requests, chunks, each, groups in ((1, 0, (1, 0), 1), (0, 1, (0, 1), 1), (0, 3, (0, 1), 3),
                                           (16, 0, (2, 0), 8), (3, 3, (1, 1), 3)):  # fmt: skip
        found, own = energies(dealt, requests, chunks), energies(alone, *each)
        for name in own.keys() & {"qkv", "projection", "norm1", "attention", "prefill_attention"}:
            assert found[name] == pytest.approx(groups * own[name]), name
    # Nine requests: one group has two. Each reads its weights, and the keys of its requests.
    nine, two = energies(dealt, 9), energies(alone, 2)
    assert nine["qkv"] == pytest.approx(8 * two["qkv"])
    kernels = two.keys() & {"score", "context", "attention"}
    assert kernels
    for name in kernels:
        assert nine[name] == pytest.approx(4.5 * two[name])
    # What all groups do together does not depend on how requests are dealt out.
    together = Pricer("llama-3.1-8b", h200(8), gpu_model=gpu_model)
    assert energies(dealt, 9)["lm_head"] == energies(together, 9)["lm_head"]


@BOTH
def test_energy_of_experts_is_that_of_all_visits(gpu_model: GpuModel) -> None:
    """Catches experts of all GPUs that get as many visits as those of the busiest one."""
    pricer = Pricer("mixtral-8x7b", h200(8), gpu_model=gpu_model, layout=Layout(8, ep=8))
    step = pricer.step(decode=[500] * 40)
    [op] = [
        op for op in pricer.decode_operators(40, 500).layers[0].operators if isinstance(op, Experts)
    ]
    assert op.load > 1.05
    costs = pricer.costs.for_steps(Phase.DECODE, pricer.model)
    busiest, mean = (costs.fused(one, pricer.system.gpu) for one in (op, replace(op, load=1.0)))
    names = {cost.name for cost in busiest}
    found = [one for one in step.operators if one.name in names and one.layers]
    assert sum(one.time_ns for one in found) == pytest.approx(
        sum(cost.one.time_ns for cost in busiest)
    )
    assert sum(one.energy.total_pj for one in found) == pytest.approx(
        8 * sum(cost.one.energy.total_pj for cost in mean)
    )


def test_attaccs_see_the_same_heads() -> None:
    """Catches attention on AttAccs, or their memory, that depends on how GPUs are dealt out."""
    system = load_system("dgx-attacc-bank")
    plain = Pricer("llama-3.1-70b", system)
    dealt = Pricer("llama-3.1-70b", system, layout=Layout(8, dp=8))
    operators = [
        {op.name: op for op in pricer.step(decode=[1000] * 16).operators}
        for pricer in (plain, dealt)
    ]
    for name in ("attention", "qkv_transfer", "context_transfer"):
        assert operators[0][name].alone_ns == pytest.approx(operators[1][name].alone_ns)
        assert operators[0][name].energy.total_pj == pytest.approx(
            operators[1][name].energy.total_pj
        )
    # The largest group of nine requests has two, but nine requests' bytes cross all links.
    nine = [
        {op.name: op.energy.link_pj for op in pricer.step(decode=[1000] * 9).operators}
        for pricer in (plain, dealt)
    ]
    assert nine[0]["qkv_transfer"] == pytest.approx(nine[1]["qkv_transfer"])
    stacks = [pricer.memory(WORK, 16)[1] for pricer in (plain, dealt)]
    assert stacks[0].kv_bytes == pytest.approx(stacks[1].kv_bytes)
    # A prompt is prefilled by one group, which sends all of its keys and values.
    sent = [
        {op.name: op for op in pricer.step(prefill=[Chunk(2000)]).operators}["kv_transfer"]
        for pricer in (plain, dealt)
    ]
    assert sent[1].alone_ns == pytest.approx(8 * sent[0].alone_ns)
    assert sent[1].energy.link_pj == pytest.approx(sent[0].energy.link_pj)


def test_what_no_pricer_prices() -> None:
    """Catches a layout of another system, of several, or of a model that it cannot split."""
    system = h200(8)
    for layout, where, words in (
        (Layout(8, replicas=2), "layout: replicas", "2 replicas are 2 systems of 8 GPUs each"),
        (Layout(4), "layout: tp", "a layout of 4 GPUs, for a system of 8"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            Pricer("llama-3.1-70b", system, layout=layout)
        assert caught.value.where == where
    with pytest.raises(SplitError, match="8 parts of 1 devices do not divide the layers") as split:
        Pricer("llama-3.1-70b", system, layout=Layout(8, ep=8))
    assert split.value.where == "layout: ep"
    thirty_two = h200(32)
    with pytest.raises(SplitError, match="groups of 16 devices do not split the 40 query") as heads:
        Pricer("gpt3-13b", thirty_two, layout=Layout(32, dp=2))
    assert heads.value.where == "layout: dp"
    with pytest.raises(SplitError, match="32 GPUs cannot share the 40 query heads") as gpus:
        Pricer("gpt3-13b", thirty_two)
    assert gpus.value.where == "system mine: gpus"
    assert Pricer("gpt3-13b", thirty_two, layout=Layout(32, dp=4)).split == Split(32, 4)
    assert Pricer("gpt3-13b", h200(2)).layout == Layout(2)


def test_the_published_model_exchanges_by_its_rule_of_sums() -> None:
    """Catches another rule than the stated one: as many steps as there are other GPUs."""
    model, link, gpu = PublishedCostModel(), LINKS.load("nvlink4"), GPUS.load("h200")
    total = model.all_reduce(AllReduce("sum", 100, 4096, BF16), gpu, link, 8).one
    for kind in CollectiveKind:
        exchange = Collective("mine", kind, 100, 4096, BF16)
        found = model.collective(exchange, gpu, link, 8).one
        assert (found.time_ns, found.bound, found.energy) == (
            total.time_ns, total.bound, total.energy
        )  # fmt: skip
        [note] = found.estimates
        assert "by the published rule of all-reduces" in note
    with pytest.raises(InputError, match="over which 8 GPUs exchange mine"):
        model.collective(
            Collective("mine", CollectiveKind.ALL_GATHER, 1, 1, BF16),
            gpu, LINKS.load("pcie5-x16"), 8,
        )  # fmt: skip


def test_an_exchange_that_was_not_measured_says_so() -> None:
    """Catches an exchange that is priced as a sum, with twice its bytes, or without a word."""
    kernels = CalibratedCostModel().kernels(GPUS.load("h200"))
    calibration = kernels.gpu.calibration
    sums = tuple(one for one in calibration.collectives if one.operation == "all_reduce")
    fewer = calibration.model_copy(update={"collectives": sums})
    lacking = replace(kernels, gpu=replace(kernels.gpu, calibration=fewer))
    op = Collective("mine", CollectiveKind.REDUCE_SCATTER, 100_000, 8192, BF16)
    found, known = lacking.collective(op, 8), kernels.collective(op, 8)
    whole = lacking.all_reduce(AllReduce("sum", 100_000, 8192, BF16), 8)
    notes = [e.what for e in found.estimates if e.holds.any()]
    assert "reduce_scatter: with latency and bandwidth of all_reduce, never measured" in notes
    assert not any("reduce_scatter" in e.what for e in known.estimates)
    # Half of the bytes of a sum, and long messages wait for bytes alone.
    assert found.time_ns[0] == pytest.approx(whole.time_ns[0] / 2, rel=0.02)
    assert found.time_ns[0] == pytest.approx(known.time_ns[0], rel=0.5)
