"""Sparse attention on AttAccs in whole steps: scan, choice, chosen keys, and their transfers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attacc as aa
from attacc.errors import InputError
from attacc.gpu.costs import BOUNDS
from attacc.hardware.system import Heads, ResolvedSystem, Schedule, load_system
from attacc.models.precision import ElementType
from attacc.pim.selection import SelectedHeads, selection_ends
from attacc.system.attaccs import Attaccs
from attacc.system.batches import Batches
from attacc.system.layer_attention import LayerHeads, Selection
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.system.sites import Site
from attacc.system.step import OperatorTime, StepCost
from attacc.workload.requests import workload_of

ROOT = Path(__file__).parents[2]
SYSTEM = ROOT / "examples" / "h200-attacc.toml"
INDEXER = {"heads": 64, "dim": 128, "chosen": 2048}
LATENT = {
    "kind": "latent", "heads": 128, "query_rank": 1536, "latent": 512, "rope_dim": 64,
    "nope_dim": 128, "value_dim": 128,
}  # fmt: skip
V32: dict[str, object] = {
    "name": "v32-like",
    "family": "v32-like",
    "hidden_size": 7168,
    "vocab_size": 32000,
    "tied_embeddings": False,
    "layers": [
        {
            "repeat": 4,
            "mixer": LATENT | {"indexer": INDEXER},
            "feed_forward": {"kind": "dense", "width": 4096},
        },
    ],
}
CHOICE = Selection(2048, 64, 128)
SPARSE = LayerHeads(
    1, 128, 576, ElementType.BF16, value_dim=512, one_copy=True, selection=CHOICE
)  # fmt: skip


def system() -> ResolvedSystem:
    return load_system(SYSTEM)


def pricer(**options: object) -> Pricer:
    given = {"sites": {"sparse": "attacc"}} | options
    return Pricer(aa.load_model(V32), system(), **given)  # pyright: ignore[reportArgumentType]


def ops(step: StepCost) -> dict[str, OperatorTime]:
    return {op.name: op for op in step.operators if op.layers}


def test_every_byte_of_a_choice_crosses_the_link_once() -> None:
    """Catches scores, indices or index keys that move for free, or once for every GPU.

    Eight GPUs share nine requests, two at most for each. Index queries and the new index key take
    132 bytes each, scores and indices four. A link carries 300 GB/s.
    """
    step = pricer().step(decode=[10_000] * 9)
    found = ops(step)
    link_ns = {
        "index_transfer": 2 * (64 + 1) * 132,
        "score_transfer": 2 * 10_000 * 4,
    }
    for name, size in link_ns.items():
        assert found[name].alone_ns == pytest.approx(size / 300, rel=1e-12)
        assert found[name].time_ns == found[name].alone_ns
    # Queries of 16 heads and the record of every request, and two choices of 2,048 tokens.
    least = 9 * (16 * 576 * 2 + 1152) + 2 * 2048 * 4
    heads = LayerHeads.of(aa.load_model(V32).groups[0].layer.mixer, ElementType.BF16)  # pyright: ignore[reportArgumentType]
    assert heads == SPARSE
    source = Attaccs(system())
    # Every part of a record's tokens gets the queries of all heads, from the GPUs that have them.
    parts = source.attend(SPARSE, [10_000] * 9).extra_parts
    queries = least + parts * 16 * 576 * 2
    assert found["qkv_transfer"].alone_ns == pytest.approx(queries / 300, rel=1e-12)


def test_gpus_keep_the_choice_and_what_runs_beside_it() -> None:
    """Catches kernels that vanish when attention leaves, and a scan that runs at both sites."""
    there, here = (pricer(sites={"sparse": s}).step(decode=[10_000] * 8) for s in ("attacc", "gpu"))
    moved, alone = ops(there), ops(here)
    assert {"index_choice", "beside_attention", "index_scan", "attention"} <= set(moved)
    assert not {"index_choice", "beside_attention", "score_transfer"} & set(alone)
    assert 0 < moved["index_choice"].time_ns < alone["index_scan"].time_ns
    assert 0 < moved["beside_attention"].time_ns < alone["attention"].time_ns
    notes = " ".join(there.estimates)
    assert "keys that lie beside each other take" in notes
    assert "on the buffer die" in notes
    for name in ("index_queries", "index_keys", "absorb_keys", "projection"):
        assert moved[name].time_ns == pytest.approx(alone[name].time_ns, rel=1e-12)


@pytest.mark.parametrize("length", [100, 4096, 32_768, 131_072])
def test_the_ends_are_in_order(length: int) -> None:
    """Catches a price below the cheaper end, or above that of attention to all keys."""
    source = Attaccs(system())
    found = source.attend(SPARSE, [length] * 8)
    every = source.attend(replace(SPARSE, selection=None), [length] * 8)
    assert found.chosen is not None
    assert found.chosen.clustered_ns[0] <= found.time_ns[0] <= every.time_ns[0]
    assert (found.chosen.clustered_ns[0] < found.time_ns[0]) == (length > 4096)


@pytest.mark.parametrize("lengths", [[2048] * 8, [2048, 700, 1, 1500]])
def test_a_choice_of_all_tokens_is_full_attention(lengths: list[int]) -> None:
    """Catches a choice that leaves keys out, or reads others, where all are chosen.

    Times are those of the same programs. Energy within 1e-5: the softmax of up to 15 padding keys
    of a head is counted.
    """
    source = Attaccs(system())
    found = source.attend(SPARSE, lengths)
    every = source.attend(replace(SPARSE, selection=None), lengths)
    assert found.chosen is not None
    assert found.time_ns[0] == every.time_ns[0]
    assert found.chosen.clustered_ns[0] == every.time_ns[0]
    assert found.extra_parts == every.extra_parts
    assert found.energy.total_pj[0] == pytest.approx(every.energy.total_pj[0], rel=1e-5)


def test_a_curve_is_the_attention_at_its_lengths() -> None:
    """Catches a curve that loses the scan, or mixes up its lengths."""
    source = Attaccs(system())
    lengths = [1024, 20_000, 50_000]
    curve = source.curve(SPARSE, 8, lengths).at(lengths)
    assert curve.chosen is not None
    for number, length in enumerate(lengths):
        one = source.attend(SPARSE, [length] * 8)
        assert one.chosen is not None
        assert curve.time_ns[number] == one.time_ns[0]
        assert curve.chosen.scan_ns[number] == one.chosen.scan_ns[0]
        assert curve.chosen.clustered_ns[number] == one.chosen.clustered_ns[0]
        assert curve.chosen.scan_energy.at(number) == one.chosen.scan_energy.at(0)


def test_steps_of_unequal_requests_join_those_of_equal_ones() -> None:
    """Catches a scan that is lost where steps are timed one by one."""
    mixed = pricer().steps(Batches.of([([9000] * 4, ()), ([9000, 300, 300, 300], ())]))
    alone = pricer().step(decode=[9000] * 4)
    equal, unequal = mixed.at(0), mixed.at(1)
    assert equal.time_ns == pytest.approx(alone.time_ns, rel=1e-12)
    assert ops(unequal)["index_scan"].time_ns <= ops(equal)["index_scan"].time_ns
    assert ops(unequal)["attention"].time_ns <= ops(equal)["attention"].time_ns
    # The fullest of forty stacks: a tenth of the keys of one request in equal steps.
    assert ops(equal)["index_scan"].time_ns > 0


def test_new_tokens_share_the_scan_and_not_the_choice() -> None:
    """Catches drafts that attend to each other's choice, and a scan for each of them."""
    source = Attaccs(system())
    one = source.attend(SPARSE, [20_000] * 8)
    three = source.attend(replace(SPARSE, tokens=3), [20_000] * 8)
    assert one.chosen is not None
    assert three.chosen is not None
    assert three.time_ns[0] == pytest.approx(3 * one.time_ns[0])
    assert three.energy.total_pj[0] == pytest.approx(3 * one.energy.total_pj[0])
    assert one.chosen.scan_ns[0] < three.chosen.scan_ns[0] <= 3 * one.chosen.scan_ns[0]
    unscanned = replace(SPARSE, selection=replace(CHOICE, heads=0))
    nothing = source.attend(unscanned, [20_000] * 8)
    assert nothing.chosen is not None
    assert (nothing.chosen.scan_ns[0], nothing.time_ns[0]) == (0, one.time_ns[0])


def test_records_and_index_keys_lie_in_the_stacks() -> None:
    """Catches index keys that are stored nowhere, or on every GPU.

    A token has 1,152 bytes of a record and 132 of an index key in each of four layers.
    """
    there, here = (pricer(sites={"sparse": site}) for site in ("attacc", "gpu"))
    away, home = (p.memory(workload_of((4000, 97)), 10) for p in (there, here))
    token = 4 * (1152 + 132)
    assert away[0].kv_bytes == 0
    assert away[1].kv_bytes == pytest.approx(10 * 4096 * token / 40)
    assert home[0].kv_bytes == pytest.approx(10 * 4096 * token)


def test_heads_of_unequal_lengths_keep_their_distances() -> None:
    """Catches a bound that reads a long head as densely as a short one."""
    source = Attaccs(system())
    stack = source._stack  # pyright: ignore[reportPrivateUsage]
    sizes = SelectedHeads(128, ElementType.BF16)
    short, long = (1000, 500), (40_000, 500)
    both = selection_ends(stack, (short, long), sizes)
    assert len(both.scattered) == 2
    each = [selection_ends(stack, (one,), sizes) for one in (short, long)]
    assert both.scattered_ns == pytest.approx(sum(one.scattered_ns for one in each))
    assert both.clustered.keys == 1000
    alike = selection_ends(stack, (short, short), sizes)
    assert len(alike.scattered) == 1


def test_sparse_layers_stay_unless_asked() -> None:
    """Catches a default that is slower."""
    model = aa.load_model(V32)
    assert Pricer(model, system()).sites == {"sparse": Site.GPU}
    asked: list[dict[str, Site | str] | None] = [{"sparse": "auto"}, None, {"sparse": "attacc"}]
    found = [
        aa.compare(V32, (8192, 64), [system()], batch=8, sites=sites, decode_only=True)
        for sites in asked
    ]
    times = [one.systems[0].performance for one in found]
    assert all(one is not None for one in times)
    auto, gpu, attacc = (one.tpot_ms for one in times if one is not None)
    assert auto == min(gpu, attacc)


def test_the_map_tells_where_sparse_layers_run() -> None:
    """Catches a map that still refuses them, or that compares other steps."""
    found = aa.where(V32, SYSTEM, lengths=[8192, 65_536], batches=[8])
    for row in found.rows:
        gpu, there = (
            pricer(sites={"sparse": s}).step(decode=[row.length] * 8) for s in ("gpu", "attacc")
        )
        assert row.ratio == pytest.approx(gpu.time_ns / there.time_ns)
        assert row.passes == 128
        assert "left on the GPUs" in row.reason


COMPRESSED = {
    "kind": "compressed", "heads": 64, "head_dim": 512, "rope_dim": 64, "query_rank": 1024,
    "output_groups": 8, "output_rank": 1024, "window": 128, "ratio": 4,
    "indexer": {"heads": 64, "dim": 128, "chosen": 512},
}  # fmt: skip
BLOCKS = {
    "kind": "attention", "heads": 64, "kv_heads": 8, "head_dim": 128,
    "selector": {"heads": 8, "dim": 128, "block": 128, "blocks": 16},
}  # fmt: skip


@pytest.mark.parametrize(
    ("mixer", "kind", "reason"),
    [
        (COMPRESSED, "compressed", "attends to a window and to compressed records"),
        (BLOCKS, "blocks", "chooses blocks of its own"),
    ],
)
def test_what_cannot_leave_says_why(mixer: dict[str, object], kind: str, reason: str) -> None:
    """Catches a refusal without a reason, here and in the map."""
    layers = [{"mixer": mixer, "feed_forward": {"kind": "dense", "width": 4096}}]
    model = aa.load_model(V32 | {"layers": layers})
    with pytest.raises(InputError, match=reason) as refusal:
        Pricer(model, system(), sites={kind: "attacc"})
    assert str(refusal.value).startswith(f"sites: {kind}: {kind} layers of v32-like do not run")
    (row,) = aa.where(model, SYSTEM, lengths=[1000], batches=[1]).rows
    assert row.ratio is None
    assert reason in row.reason


def test_other_schedules_read_all_keys() -> None:
    """Catches chosen keys that are timed by a schedule without them."""
    spec = system().spec
    assert spec.attacc is not None
    table = spec.attacc.model_copy(
        update={"schedule": Schedule.COMPLETE, "heads": Heads.WHOLE, "dram": "hbm3-5.2"}
    )
    other = aa.load_system(spec.model_copy(update={"attacc": table}).model_dump(mode="json"))
    with pytest.raises(InputError, match="need the interleaved schedule"):
        Pricer(aa.load_model(V32), other, sites={"sparse": "attacc"})


@pytest.mark.parametrize("placement", ["bank", "bankgroup", "buffer"])
@pytest.mark.parametrize("together", [False, True])
def test_systems_of_all_kinds_run_sparse_layers(placement: str, together: bool) -> None:
    """Catches head-level pipelining that looks for other operators, feed-forward products that are
    not shared, and a GPU on which sparse attention was not measured."""
    base = aa.load_system(f"dgx-attacc-{placement}").spec
    spec = base.model_copy(update={"head_level_pipelining": together, "ff_coprocessing": together})
    given = aa.load_system(spec.model_dump(mode="json"))
    step = Pricer(aa.load_model(V32), given, sites={"sparse": "attacc"}).step(decode=[5000] * 4)
    found = ops(step)
    assert all(op.time_ns >= 0 for op in step.operators)
    assert found["attention"].time_ns > 0
    assert found["index_scan"].energy.total_pj > 0
    assert found["beside_attention"].time_ns > 0
    assert np.isfinite(step.energy.total_pj)


def test_groups_of_gpus_choose_for_their_own_requests() -> None:
    """Catches scores of requests of other groups, and a choice that is shared out twice.

    With eight groups of one GPU, each chooses for a request of its own, as eight GPUs that share
    all requests do. Either way scores of 10,000 tokens cross a link.
    """
    grouped, shared = (
        ops(pricer(layout=Layout(8, dp=dp)).step(decode=[10_000] * 8)) for dp in (8, 1)
    )
    for name in ("index_transfer", "score_transfer", "index_choice", "index_scan"):
        assert grouped[name].time_ns == pytest.approx(shared[name].time_ns, rel=1e-12)
    assert grouped["score_transfer"].alone_ns == pytest.approx(4 * 10_000 / 300, rel=1e-12)


def test_the_published_gpu_model_prices_what_is_left() -> None:
    """Catches a cost model that cannot tell the choice from the scan."""
    step = pricer(gpu_model="published").step(decode=[10_000] * 8)
    found = ops(step)
    alone = ops(pricer(gpu_model="published", sites={"sparse": "gpu"}).step(decode=[10_000] * 8))
    assert 0 < found["index_choice"].time_ns < alone["index_scan"].time_ns
    assert 0 < found["beside_attention"].time_ns < alone["attention"].time_ns
    assert np.isfinite(step.energy.total_pj)


@pytest.mark.parametrize(("length", "limit"), [(8192, "units"), (131_072, "reads and units")])
def test_chosen_keys_far_apart_wait_for_rows(length: int, limit: str) -> None:
    """Catches limits of neighbouring keys in place of those that lie apart, or a lost scan's."""
    found = Attaccs(system()).curve(SPARSE, 8, [length]).at([length])
    assert found.chosen is not None
    codes = (*found.bound, *found.chosen.scan_bound)
    assert [str(BOUNDS[int(code)]) for code in codes] == [limit, "units"]
