"""Sites of mixers: which kinds leave the GPUs, and what whole steps say of it."""

import numpy as np
import pytest

import attacc as aa
from attacc.errors import InputError, UnknownNameError
from attacc.system.batches import Batches
from attacc.system.pricer import Pricer
from attacc.system.sites import Site, assignments, kinds_of
from attacc.workload.requests import workload_of
from attacc.workload.speculation import Speculation

FULL = {
    "mixer": {"kind": "attention", "heads": 16, "kv_heads": 8, "head_dim": 64},
    "feed_forward": {"kind": "dense", "width": 4096},
}
MIXED: dict[str, object] = {
    "name": "mixed",
    "family": "mixed",
    "hidden_size": 1024,
    "vocab_size": 32000,
    "tied_embeddings": False,
    "layers": [
        {
            "repeat": 3,
            "mixer": {
                "kind": "attention", "heads": 16, "kv_heads": 8, "head_dim": 64, "window": 512,
            },
            "feed_forward": {"kind": "dense", "width": 4096},
        },
        FULL | {"repeat": 2},
        {
            "mixer": {
                "kind": "mamba2", "heads": 16, "head_dim": 64, "state": 128, "groups": 8, "conv": 4,
            },
        },
    ],
}  # fmt: skip
SYSTEM = "dgx-attacc-bank"


def pricer(**sites: str) -> Pricer:
    return Pricer(aa.load_model(MIXED), SYSTEM, sites=sites)


def test_kinds_that_can_leave_do() -> None:
    """Catches a state that is sent to AttAccs, and attention that stays without being asked."""
    assert kinds_of(aa.load_model(MIXED)) == ("window", "full", "state")
    assert pricer().sites == {"window": Site.ATTACC, "full": Site.ATTACC, "state": Site.GPU}
    assert pricer(window="gpu").home == {"window", "state"}
    on_gpus = Pricer(aa.load_model(MIXED), "dgx-base")
    assert set(on_gpus.sites.values()) == {Site.GPU}


def test_a_kind_that_stays_is_priced_as_on_gpus_alone() -> None:
    """Catches transfers of layers that stay, and attention on the wrong devices."""
    stays = pricer(window="gpu", full="gpu").step(decode=[3000] * 8)
    alone = Pricer(aa.load_model(MIXED), "dgx-base").step(decode=[3000] * 8)
    assert stays.time_ns == pytest.approx(alone.time_ns, rel=1e-12)
    one = pricer(window="gpu").step(decode=[3000] * 8)
    moved = [op.layers for op in one.operators if op.name == "qkv_transfer"]
    assert moved == ["full attention + dense"]


def test_memory_follows_the_sites() -> None:
    """Catches keys that are stored where nobody attends to them, or twice."""
    both, one = pricer(), pricer(window="gpu")
    requests = (4000, 96)
    here, there = (p.memory(workload_of(requests), 10) for p in (both, one))
    window = 3 * 10 * 512 * 8 * 2 * 64 * 2
    full = 2 * 10 * 4095 * 8 * 2 * 64 * 2
    state = 10 * (16 * 64 * 128 * 4 + (16 * 64 + 2 * 8 * 128) * 3 * 2) / 8
    assert here[0].kv_bytes == pytest.approx(state)
    assert here[1].kv_bytes * 40 >= window + full
    assert there[0].kv_bytes == pytest.approx(state + window / 8)
    assert there[1].kv_bytes < here[1].kv_bytes


@pytest.mark.untraced  # a dozen comparisons
def test_auto_tries_every_assignment() -> None:
    """Catches a choice that is fixed for all kinds together, or tried for kinds that stay."""
    model, system = aa.load_model(MIXED), aa.load_system(SYSTEM)
    found = assignments(model, system, {"window": "auto", "full": "auto", "state": "auto"})
    assert len(found) == 4
    assert {one["state"] for one in found} == {Site.GPU}
    auto = aa.compare(
        MIXED,
        (4000, 96),
        [SYSTEM],
        sites={"window": "auto", "full": "auto"},
        decode_only=True,
    )
    each = [aa.compare(MIXED, (4000, 96), [SYSTEM], sites=one, decode_only=True) for one in found]
    rates = [
        one.systems[0].performance.throughput_tokens_per_s
        for one in each
        if one.systems[0].performance is not None
    ]
    assert auto.systems[0].performance is not None
    assert auto.systems[0].performance.throughput_tokens_per_s == max(rates)


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        ({"latent": "gpu"}, UnknownNameError, "sites: unknown kind of layers 'latent'"),
        ({"full": "moon"}, UnknownNameError, "sites: full: unknown sites: full 'moon'"),
        ({"state": "attacc"}, InputError, "sites: state: state layers of mixed do not run"),
        ({"full": "auto"}, InputError, "sites: a pricer prices one assignment"),
    ],
)
def test_impossible_sites(sites: dict[str, str], error: type[InputError], message: str) -> None:
    """Catches a site that is ignored."""
    with pytest.raises(error) as refusal:
        pricer(**sites)
    assert str(refusal.value).startswith(message)


def test_where_agrees_with_whole_steps() -> None:
    """Catches a ratio of other steps than those that the pricer prices."""
    found = aa.where(MIXED, SYSTEM, lengths=[2000], batches=[16], queries=[1, 3])
    row = next(row for row in found.rows if (row.kind, row.queries) == ("full", 3))
    batches = Batches.equal(16, 2000, queries=3)
    gpu, there = (
        pricer(window="gpu", full=site).steps(batches).time_ns[0] for site in ("gpu", "attacc")
    )
    assert row.ratio == pytest.approx(gpu / there)
    assert (row.site is Site.ATTACC) == (gpu > there)
    state = next(row for row in found.rows if row.kind == "state")
    assert (state.site, state.ratio) == (Site.GPU, None)
    with pytest.raises(InputError, match="no AttAccs"):
        aa.where(MIXED, "dgx-base")


def test_keys_that_do_not_fit_into_stacks_are_said_so() -> None:
    """Catches a map that ends with an error at its longest lengths."""
    found = aa.where("gpt3-175b", SYSTEM, lengths=[2000, 1_000_000], batches=[64])
    short, long = found.rows
    assert short.ratio is not None
    assert (long.ratio, long.site) == (None, Site.GPU)
    assert "rows of every bank" in long.reason


def test_drafts_are_verified_in_one_step() -> None:
    """Catches drafts whose products, keys or queries are not counted."""
    drafts = Speculation.of(3, 0.5)
    model = aa.load_model(MIXED)
    plain, drafted = (
        Pricer(model, "dgx-base", speculation=s).decode_operators(8, 100)
        for s in (Speculation(), drafts)
    )
    assert plain == drafted, "one step without drafts"
    step = Pricer(model, SYSTEM).steps(Batches.equal(8, 103, queries=4)).at(0)
    qkv = [op for op in step.operators if op.name == "qkv"]
    once = Pricer(model, SYSTEM).step(decode=[103] * 8)
    assert step.time_ns > once.time_ns
    assert len(qkv) == 3
    result = aa.compare(MIXED, (1000, 96), ["dgx-base"], batch=8, draft_tokens=3, acceptance=0.5)
    performance = result.systems[0].performance
    assert performance is not None
    assert result.tokens_per_step == 1.875
    assert performance.throughput_tokens_per_s == pytest.approx(8e3 / performance.tpot_ms)
    assert any("drafts: making them costs nothing" in note for note in performance.estimates)
    assert any("states of rejected tokens" in note for note in performance.estimates)


def test_draft_layers_are_priced_and_stored() -> None:
    """Catches a model's own draft layers that cost no time, or no memory."""
    with_draft = MIXED | {"draft": {"modules": 1, "layers": [FULL]}}
    drafts = Speculation.of(2, 0.8)
    own, none = (
        Pricer(aa.load_model(document), "dgx-base", speculation=drafts)
        for document in (with_draft, MIXED)
    )
    batches = Batches.equal(4, 500, queries=3)
    step = own.steps(batches).at(0)
    kinds = {op.layers for op in step.operators if op.layers.startswith("draft")}
    assert kinds == {"draft", "draft: full attention + dense"}
    assert next(op.runs for op in step.operators if op.name == "draft_projection") == 2
    assert step.time_ns > none.steps(batches).at(0).time_ns
    draft = aa.load_model(with_draft).model.draft_parameters
    grown = own.need((1000, 96)).weight_bytes - none.need((1000, 96)).weight_bytes
    assert grown > 2 * draft / 8


def test_a_shared_prefix_is_stored_and_read_once() -> None:
    """Catches a prefix that is read for every request on GPUs, or stored for each."""
    model = aa.load_model("llama-3.1-8b")
    plain, shared = (Pricer(model, "dgx-base", shared_prefix=n) for n in (0, 3000))
    equal, prefix = (Batches.equal(64, 4000, shared=n) for n in (0, 3000))
    before = sum(op.time_ns for op in plain.steps(equal).at(0).operators if "attention" in op.name)
    found = [op for op in shared.steps(prefix).at(0).operators if "attention" in op.name]
    assert [op.name for op in found] == ["shared_attention", "attention"]
    assert sum(op.time_ns for op in found) < before
    once, each = (p.memory(workload_of((3900, 101)), 10)[0] for p in (shared, plain))
    assert once.kv_bytes / each.kv_bytes == pytest.approx((3000 + 10 * 1000) / (10 * 4000))
    with pytest.raises(InputError, match="3900 keys are shared, by requests of 3000"):
        Batches.equal(np.array([1]), np.array([3000]), shared=3900)
    with pytest.raises(InputError, match="3,000 tokens are shared, by prompts of 10"):
        shared.need((10, 10))
