"""Two parts of a step that take turns: the schedule, the forms of a step, and what they cost."""

from dataclasses import replace
from math import isclose
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.documents import parse_document
from attacc.errors import DocumentError, EngineError
from attacc.gpu.costs import Floats
from attacc.gpu.models import GpuModel
from attacc.hardware.system import (
    SYSTEMS,
    Overlap,
    PrefillOverlap,
    ResolvedSystem,
    SystemSpec,
    resolve_system,
)
from attacc.models.architecture import MODELS
from attacc.models.operators import Phase
from attacc.system.batches import Batches, Chunk
from attacc.system.pricer import Pricer, Prompts, Timed
from attacc.system.schedule import TURNS, Form, LayerWork, fastest, plan_of, spread, waits_ns
from attacc.system.step import Group, StepCost, step_costs
from attacc.workload.lengths import LengthDistribution, LengthKind
from attacc.workload.requests import fixed_lengths
from tests.oracle.turns import Layer, play

GPT3 = MODELS.load("gpt3-175b")
LLAMA = MODELS.load("llama-3.1-70b")
MIXTRAL = MODELS.load("mixtral-8x7b")
BOTH = pytest.mark.parametrize("gpu_model", list(GpuModel))


def system(name: str = "dgx-attacc-bank", **changes: Any) -> ResolvedSystem:
    """A preset whose keys differ as stated."""
    document = SYSTEMS.load(name).model_dump(mode="json") | changes
    if document["memory_per_gpu_bytes"] is not None:
        del document["memory_per_gpu_bytes"]
    return resolve_system(parse_document(SystemSpec, document, where="mine"))


def pricer(overlap: str = "none", prefill: str = "none", **others: Any) -> Pricer:
    """GPT-3 on a DGX with AttAccs."""
    model, gpu_model = others.pop("model", GPT3), others.pop("gpu_model", GpuModel.CALIBRATED)
    own = system(overlap=overlap, prefill_overlap=prefill, **others)
    return Pricer(model, own, gpu_model=gpu_model)


def named(step: StepCost, name: str) -> Any:
    """The operator of a name in the first kind of layers that has it."""
    return next(op for op in step.operators if op.name == name)


def work(layers: list[Layer]) -> list[LayerWork]:
    """Layers as the schedule takes them."""

    def ns(ticks: int) -> Floats:
        return np.array([float(ticks)])

    return [
        LayerWork(
            ns(one.ahead), ns(one.prompts), None if one.away is None else ns(one.away),
            ns(one.behind),
        )
        for one in layers
    ]  # fmt: skip


ticks = st.integers(0, 40)
layer = st.builds(Layer, ahead=ticks, prompts=ticks, away=st.none() | ticks, behind=ticks)


@settings(max_examples=150)
@given(
    parts=st.lists(st.lists(layer, min_size=1, max_size=3), min_size=1, max_size=2),
    runs=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    beside=st.booleans(),
)
def test_the_schedule_is_that_of_two_resources_event_by_event(
    parts: list[list[Layer]], runs: list[int], beside: bool
) -> None:
    """Catches work that starts before what it needs, or a resource that does two things at once.

    The step is at least as long as either resource is busy, and at most as long as both together.
    """
    kinds = max(len(part) for part in parts)
    order = spread(runs[:kinds])
    end, gpus, away = play(parts, order, beside=beside)
    waited = waits_ns([work(part) for part in parts], order, beside=beside)
    assert gpus + float(waited[0]) == end
    assert max(gpus, away) <= end <= gpus + away


@given(ahead=ticks, away=ticks, behind=ticks, layers=st.integers(1, 9))
def test_equal_halves_follow_the_published_form(
    ahead: int, away: int, behind: int, layers: int
) -> None:
    """Catches a stage that is not the longer of GPU work and attention, or hidden ends.

    NeuPIMs: 2 (N - 1) stages inside, and one at either end, where only a part of a layer's work is
    left to hide attention; before and after them nothing runs beside the GPUs.
    """
    half = work([Layer(ahead, 0, away, behind)])
    waited = float(waits_ns([half, half], [0] * layers)[0])
    stages = 2 * (layers - 1) * max(ahead + behind, away)
    length = ahead + max(ahead, away) + stages + max(behind, away) + behind
    assert waited + 2 * layers * (ahead + behind) == length


def test_a_schedule_by_hand() -> None:
    """Catches an exchanged order of the parts, in a case of unequal parts worked out by hand.

    A: 2 ahead, 5 away, 3 behind. B: 1 ahead, 4 away, 1 behind. Two layers. GPUs: A 0-2, B 2-3, A
    7-12 (attention of A 2-7), B 12-14 (attention of B 7-11), then attention of A 12-17, of B 17-21;
    A 17-20, B 21-22. So the GPUs work for 14 and wait for 8.
    """
    a, b = work([Layer(2, 0, 5, 3)]), work([Layer(1, 0, 4, 1)])
    assert waits_ns([a, b], [0, 0]).tolist() == [8.0]


def test_prompts_hide_attention_by_hand() -> None:
    """Catches attention that starts behind its own prompts although it may run beside them."""
    one = work([Layer(2, 4, 6, 1)])
    assert waits_ns([one], [0, 0]).tolist() == [12.0]
    assert waits_ns([one], [0, 0], beside=True).tolist() == [4.0]


def test_many_steps_at_once_wait_as_each_does() -> None:
    """Catches a step that gets another's waits."""
    rng = np.random.default_rng(5)

    def drawn() -> LayerWork:
        return LayerWork(*(rng.uniform(0, 9, 50) for _ in range(4)))

    parts = [[drawn(), drawn()], [drawn(), drawn()]]
    order = spread([5, 3])
    together = waits_ns(parts, order)
    for step in range(50):
        alone = [
            [
                LayerWork(
                    one.ahead_ns[step : step + 1],
                    one.prompts_ns[step : step + 1],
                    None if one.away_ns is None else one.away_ns[step : step + 1],
                    one.behind_ns[step : step + 1],
                )
                for one in part
            ]
            for part in parts
        ]
        assert waits_ns(alone, order)[0] == together[step]


def test_kinds_of_layers_are_spread() -> None:
    """Catches kinds that stand in blocks, so that nothing hides the attention of one of them."""
    assert spread([6, 2]) == [0, 0, 1, 0, 0, 0, 1, 0]
    assert spread([1]) == [0]


lengths = st.lists(st.integers(1, 6000), max_size=30)
chunk = st.builds(Chunk, new=st.integers(1, 3000), past=st.integers(0, 5000))


@settings(max_examples=80)
@given(
    steps=st.lists(
        st.tuples(lengths, st.lists(chunk, max_size=3)).filter(any), min_size=1, max_size=5
    )
)
def test_halves_make_up_the_step(steps: list[tuple[list[int], list[Chunk]]]) -> None:
    """Catches a request or token that is lost, in both halves, or in another step's half."""
    whole = Batches.of(steps)
    first, second, possible = whole.halves()
    for number, (decode, prefill) in enumerate(steps):
        own = [half.take(np.array([number])) for half in (first, second)]
        if not possible[number]:
            assert len(decode) < 2 or sum(one.new for one in prefill) == len(prefill)
            assert all(sorted(half.lengths_of(0)) == sorted(decode) for half in own)
            assert all(half.new_tokens[0] == sum(c.new for c in prefill) for half in own)
            continue
        assert sorted(own[0].lengths_of(0) + own[1].lengths_of(0)) == sorted(decode)
        assert 0 <= len(own[0].lengths_of(0)) - len(own[1].lengths_of(0)) <= 1
        tokens = [half.new_tokens[0] for half in own]
        assert sum(tokens) == sum(one.new for one in prefill)
        assert 0 <= tokens[0] - tokens[1] <= len(prefill)
        pieces = [
            (past + i) for half in own for past, new in zip(half.past, half.new, strict=True)
            for i in range(new)
        ]  # fmt: skip
        assert sorted(pieces) == sorted(one.past + i for one in prefill for i in range(one.new))
        assert own[0].phases[0] == own[1].phases[0] == whole.phases[number]


def test_short_and_long_requests_are_in_both_halves() -> None:
    """Catches halves of which one has the long requests, so that the other waits for it."""
    first, second, _ = Batches.of([([8, 1, 7, 2, 6, 3, 5, 4], [])]).halves()
    assert first.lengths_of(0) == [1, 3, 5, 7]
    assert second.lengths_of(0) == [2, 4, 6, 8]


@BOTH
@pytest.mark.parametrize("model", [GPT3, MIXTRAL])
def test_halves_cost_what_half_batches_cost(gpu_model: GpuModel, model: Any) -> None:
    """Catches weights that are read once for both halves, in time or in energy, and collectives
    that are not doubled. What runs once a step stays."""
    halves = pricer("halves", gpu_model=gpu_model, model=model).step(decode=[3000] * 64)
    alone = pricer(gpu_model=gpu_model, model=model)
    whole, half = alone.step(decode=[3000] * 64), alone.step(decode=[3000] * 32)
    assert [op.name for op in halves.operators] == [op.name for op in whole.operators]
    for op, own, once in zip(halves.operators, half.operators, whole.operators, strict=True):
        if op.runs == 1:
            assert op == once
            continue
        assert isclose(op.alone_ns, 2 * own.alone_ns, rel_tol=1e-12)
        assert isclose(op.energy.total_pj, 2 * own.energy.total_pj, rel_tol=1e-12, abs_tol=1e-9)
        assert isclose(op.launch_ns, 2 * own.launch_ns, rel_tol=1e-12)
        if op.name not in ("attention_start", "qkv_transfer", "attention", "context_transfer"):
            assert op.time_ns == op.alone_ns
        else:
            assert op.time_ns <= op.alone_ns
    assert TURNS in halves.estimates
    assert TURNS not in whole.estimates


def test_the_length_of_halves_is_that_of_the_schedule() -> None:
    """Catches times of operators that do not add up to the schedule, or power at any time that
    does not follow its length."""
    halves = pricer("halves").step(decode=[3000] * 64)
    half = pricer().step(decode=[3000] * 32)
    layer = [op for op in half.operators if op.layers]
    away = ("attention_start", "qkv_transfer", "attention", "context_transfer")
    place = [op.name for op in layer].index("qkv_transfer")
    ahead = sum(op.time_ns for op in layer[:place] if op.name not in away)
    behind = sum(op.time_ns for op in layer[place:] if op.name not in away)
    attention = sum(op.time_ns for op in layer if op.name in away)
    stages = 2 * 95 * max(ahead + behind, attention)
    length = ahead + max(ahead, attention) + stages + max(behind, attention) + behind
    found = sum(op.runs * op.time_ns for op in halves.operators if op.layers)
    assert isclose(found, length, rel_tol=1e-12)
    assert isclose(
        halves.energy.static_pj - sum(op.runs * op.energy.static_pj for op in halves.operators),
        halves.constant.gpus_w * 1e3 * halves.time_ns,
        rel_tol=1e-9,
    )
    alone = sum(op.runs * op.alone_ns for op in halves.operators)
    assert isclose(halves.hidden_ns, alone - halves.time_ns, rel_tol=1e-9)
    assert halves.hidden_ns > 0.9 * 95 * min(ahead + behind, attention)


@settings(max_examples=25, deadline=None)
@given(
    decode=st.lists(st.integers(100, 4000), min_size=1, max_size=60),
    prefill=st.lists(
        st.builds(Chunk, new=st.integers(1, 900), past=st.integers(0, 900)), max_size=2
    ),
    gpu_model=st.sampled_from(GpuModel),
)
def test_the_fastest_form_is_taken(
    decode: list[int], prefill: list[Chunk], gpu_model: GpuModel
) -> None:
    """Catches a form that is slower than another one, or shorter than what the GPUs have to do."""
    every = pricer("auto", "auto", gpu_model=gpu_model).step(decode=decode, prefill=prefill)
    forms = [
        pricer(overlap, prefills, gpu_model=gpu_model).step(decode=decode, prefill=prefill)
        for overlap, prefills in (
            ("none", "none"), ("none", "attention"), ("halves", "attention"), ("none", "layers"),
        )
    ]  # fmt: skip
    best = min(forms, key=lambda form: form.time_ns)
    assert isclose(every.time_ns, best.time_ns, rel_tol=1e-12)
    assert isclose(every.energy.total_pj, best.energy.total_pj, rel_tol=1e-12)
    for form in forms:
        away = [op for op in form.operators if op.name in ("attention", "attention_start")]
        assert form.time_ns >= sum(op.runs * op.alone_ns for op in away)
        assert all(0 <= op.time_ns <= op.alone_ns * (1 + 1e-12) for op in form.operators)


def test_the_time_of_the_host_counts_in_the_choice() -> None:
    """Catches a choice that forgets what the host adds for each part."""
    step = pricer().step(decode=[100])
    costs = pricer().steps(Batches.of([([100], [])])).groups[0][1]
    layers = [op for op in costs.operators if op.layers]
    whole = sum(op.runs * op.time_ns for op in step.operators if op.layers)
    faster = [replace(op, time_ns=0.9 * op.time_ns) for op in layers]
    always = np.ones(1, dtype=np.bool_)
    forms = [Form(layers, always, 1), Form(faster, always, 2)]
    assert fastest(forms, np.array([0.09 * whole])).tolist() == [1]
    assert fastest(forms, np.array([0.11 * whole])).tolist() == [0]
    assert fastest([forms[0], replace(forms[1], allowed=~always)], np.zeros(1)).tolist() == [0]


def test_steps_of_all_forms_at_once() -> None:
    """Catches a step that gets another's form, and one that has no halves."""
    asked: list[tuple[list[int], list[Chunk]]] = [
        ([3000] * 200, []), ([3000], []), ([50] * 3, []), (list(range(2000, 3000, 9)), []),
        ([3000] * 150, [Chunk(512)]), ([100], [Chunk(64)]), ([100] * 9, [Chunk(1)]),
        ([], [Chunk(700)]),
    ]  # fmt: skip
    for own in (pricer("auto", "auto"), pricer("halves"), pricer("none", "layers")):
        together = own.steps(Batches.of(asked))
        for number, (decode, prefill) in enumerate(asked):
            alone = own.step(decode=decode, prefill=prefill)
            assert isclose(together.time_ns[number], alone.time_ns, rel_tol=1e-12)
            assert isclose(together.energy.total_pj[number], alone.energy.total_pj, rel_tol=1e-12)
            assert together.at(number).estimates == alone.estimates
            assert isclose(together.at(number).hidden_ns, alone.hidden_ns, rel_tol=1e-9, abs_tol=1)


def test_every_way_to_a_price_takes_turns() -> None:
    """Catches a path to a price that forgets the overlap: mean decode steps, and searches."""
    own = pricer("halves")
    step = own.step(decode=[3000] * 64)
    mean = own.decode(64, LengthDistribution(LengthKind.EXACT, (3000,), (1.0,))).mean
    need = own.need(fixed_lengths(2000, 2000))
    keys = np.array([3000, 3000])
    sized = own.sized(np.array([64, 2]), keys, timed=Timed((2, 64), (3000, 3000)), need=need)
    assert isclose(mean.time_ns, step.time_ns, rel_tol=1e-12)
    assert isclose(sized.time_ns[0], step.time_ns, rel_tol=1e-12)
    assert isclose(sized.energy.total_pj[0], step.energy.total_pj, rel_tol=1e-12)
    two = own.step(decode=[3000] * 2)
    assert isclose(sized.time_ns[1], two.time_ns, rel_tol=1e-12)
    assert isclose(sized.energy.total_pj[1], two.energy.total_pj, rel_tol=1e-12)
    chunks = Prompts(np.array([64]), np.array([0]), np.array([1]))
    beside = pricer("auto", "auto")
    mixed = beside.sized(
        np.array([64]), keys[:1], timed=Timed((64,), (3000, 3000)), need=need, beside=chunks
    )  # fmt: skip
    expected = beside.step(decode=[3000] * 64, prefill=[Chunk(64)])
    assert isclose(mixed.time_ns[0], expected.time_ns, rel_tol=1e-12)


def test_prompts_attend_beside_attention() -> None:
    """Catches attention of prompts that adds to a step although longer attention covers it."""
    decode, prefill = [3000] * 64, [Chunk(512, past=1000)]
    none, beside = (
        pricer().step(decode=decode, prefill=prefill),
        pricer(prefill="attention").step(decode=decode, prefill=prefill),
    )
    prompts = sum(op.runs * op.alone_ns for op in none.operators if op.name.startswith("prefill_"))
    away = sum(
        op.runs * op.time_ns
        for op in none.operators
        if op.name in ("attention", "qkv_transfer", "context_transfer")
    )
    assert isclose(none.time_ns - beside.time_ns, min(prompts, away), rel_tol=1e-9)
    # Nothing is computed twice: dynamic energy is the same.
    own = [sum(op.runs * op.energy.total_pj for op in step.operators) for step in (none, beside)]
    assert isclose(*own, rel_tol=1e-12)
    layers = pricer(prefill="layers").step(decode=decode, prefill=prefill)
    assert layers.group(Group.FC).energy.dram_pj > 1.1 * none.group(Group.FC).energy.dram_pj


def test_keys_and_values_move_behind_both_parts() -> None:
    """Catches keys and values of prompts that are sent twice, or not at all, in parts."""
    decode, prefill = [3000] * 64, [Chunk(512, past=1000, cached=200)]
    none = pricer().step(decode=decode, prefill=prefill)
    for own in (pricer("halves"), pricer(prefill="layers")):
        found = own.step(decode=decode, prefill=prefill)
        for name in ("kv_transfer", "kv_read_back"):
            assert named(found, name).time_ns == 0
            assert named(found, name).alone_ns == named(none, name).alone_ns
            assert named(found, name).energy == named(none, name).energy


def test_transfers_may_not_overlap() -> None:
    """Catches a switch that leaves transfers hidden."""
    decode, prefill = [3000] * 64, [Chunk(512)]
    hidden, plain = (
        pricer().step(decode=decode, prefill=prefill),
        pricer(transfer_overlap=False).step(decode=decode, prefill=prefill),
    )
    names = ("qkv_transfer", "context_transfer", "kv_transfer")
    for name in names:
        assert named(plain, name).time_ns == named(plain, name).alone_ns
        assert named(hidden, name).time_ns < named(hidden, name).alone_ns
    more = sum(op.runs * (op.alone_ns - op.time_ns) for op in hidden.operators if op.name in names)
    assert isclose(plain.time_ns, hidden.time_ns + more, rel_tol=1e-12)


def test_attention_on_gpus_takes_no_turns() -> None:
    """Catches halves of a step in which nothing leaves the GPUs: they would only cost weights."""
    own = system(overlap="halves")
    home = Pricer(LLAMA, own, sites={"full": "gpu"})
    whole = Pricer(LLAMA, system(), sites={"full": "gpu"})
    assert home.step(decode=[500] * 9) == whole.step(decode=[500] * 9)


def test_cpus_take_turns_too() -> None:
    """Catches a switch that works with AttAccs only."""
    whole = Pricer(LLAMA, system("dgx-cpu")).step(decode=[3000] * 64)
    halves = Pricer(LLAMA, system("dgx-cpu", overlap="halves")).step(decode=[3000] * 64)
    assert halves.time_ns < whole.time_ns
    assert halves.attention.time_ns > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "dgx-base", "overlap": "halves"}, "attention that leaves the GPUs"),
        ({"name": "dgx-base", "prefill_overlap": "layers"}, "attention that leaves the GPUs"),
        ({"overlap": "auto", "ff_coprocessing": True}, "needs ff_coprocessing = false"),
        ({"overlap": "halves", "head_level_pipelining": True}, "head_level_pipelining = false"),
        ({"transfer_overlap": False, "head_level_pipelining": True}, "transfer_overlap = true"),
    ],
)
def test_switches_that_exclude_each_other(changes: dict[str, Any], words: str) -> None:
    """Catches two overlaps that would hide the same work twice."""
    with pytest.raises(DocumentError, match=words):
        system(**{"name": "dgx-attacc-bank"} | changes)


def test_the_forms_that_a_system_allows() -> None:
    """Catches a form that a switch excludes, and a prefill that takes turns."""

    def plan(overlap: Overlap, prefill: PrefillOverlap, phase: Phase) -> tuple[bool, ...]:
        spec = system(overlap=overlap, prefill_overlap=prefill).spec
        found = plan_of(spec, phase)
        return found.whole, found.halves, found.prompts, found.beside

    off, on = Overlap.NONE, Overlap.HALVES
    assert plan(on, PrefillOverlap.AUTO, Phase.PREFILL) == (True, False, False, False)
    assert plan(off, PrefillOverlap.LAYERS, Phase.DECODE) == (True, False, False, False)
    assert plan(on, PrefillOverlap.LAYERS, Phase.DECODE) == (False, True, False, False)
    assert plan(on, PrefillOverlap.LAYERS, Phase.MIXED) == (False, False, True, True)
    assert plan(Overlap.AUTO, PrefillOverlap.AUTO, Phase.MIXED) == (True, True, True, True)
    assert plan(on, PrefillOverlap.NONE, Phase.MIXED) == (False, True, False, False)


def test_parts_are_needed() -> None:
    """Catches a price without the overlap that the system states."""
    own = pricer("halves")
    with pytest.raises(EngineError, match="their parts are needed"):
        step_costs(own.decode_operators(8, 100), own.system, own.costs)
