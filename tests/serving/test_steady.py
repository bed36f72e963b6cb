"""Steady states, against figures worked by hand for prices that are straight lines."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.gpu.costs import PARTS, Floats
from attacc.hardware.system import load_system
from attacc.serving.policies import PrefillPolicy
from attacc.serving.steady import SteadyStates, Stream, steady_states, timed_sizes, within
from attacc.system.batches import Chunk, Ints
from attacc.system.pricer import Drawn, Pricer, Prompts
from attacc.system.step import Group
from attacc.workload.requests import Request, Workload, WorkloadKind, fixed_lengths

STEP, REQUEST, KEY, TOKEN, PAIR, ALONE = 1000.0, 10.0, 0.01, 2.0, 0.001, 700.0
REQUESTS = fixed_lengths(100, 11)
"""100 prompt tokens, and 10 steps after the first output token, at 101 to 110 keys."""


def priced(time_ns: Floats, watts: float, *estimates: str) -> Any:
    """Return steps that take so long, half of it for products, at so many milliwatts."""
    halves = {Group.FC: 0.5 * time_ns, Group.ATTENTION: 0.5 * time_ns}

    def group_ns(group: Group) -> Floats:
        return halves.get(group, np.zeros(time_ns.size))

    parts_pj = np.zeros((len(PARTS), time_ns.size))
    parts_pj[0] = watts * time_ns
    return SimpleNamespace(
        time_ns=time_ns,
        steps=time_ns.size,
        group_ns=group_ns,
        energy=SimpleNamespace(parts_pj=parts_pj, total_pj=watts * time_ns),
        estimates=estimates,
    )


@dataclass(frozen=True)
class Lines:
    """A pricer whose steps take so long for each request, key, and new token of a prompt."""

    tokens_per_step: float = 1.0
    queries: int = 1
    shared_prefix: int = 0

    @property
    def speculation(self) -> Any:
        return SimpleNamespace(tokens_per_step=self.tokens_per_step, queries=self.queries)

    def sized(
        self, sizes: Ints, keys: Ints, *, beside: Prompts | None = None, **others: object
    ) -> Any:
        del others
        time_ns = STEP + REQUEST * sizes + KEY * sizes * keys
        if beside is not None:
            pairs = beside.new * (beside.past + beside.new / 2)
            time_ns = time_ns + beside.chunks * (TOKEN * beside.new + PAIR * pairs)
        return priced(time_ns, 3)

    def prefills(self, workload: Workload, drawn: Drawn | None = None) -> Any:
        del workload, drawn
        return priced(np.array([ALONE]), 5, "prefill"), (1.0,)


def states(
    *sizes: int,
    policy: PrefillPolicy = PrefillPolicy.MIXED,
    budget: int = 8192,
    workload: Workload = REQUESTS,
    **lines: Any,
) -> SteadyStates:
    """Return steady states of straight lines."""
    pricer = cast("Pricer", Lines(**lines))
    need = cast("Any", None)
    return steady_states(
        pricer, workload, np.array(sizes), need, policy=policy, token_budget=budget
    )


def step_ns(size: int) -> float:
    """Return the mean decode step: the mean of 101 to 110 keys is 105.5."""
    return STEP + REQUEST * size + KEY * size * 105.5


def extra_ns(new: int, past: int = 0) -> float:
    """Return what a chunk adds to a step."""
    return TOKEN * new + PAIR * new * (past + new / 2)


def test_serial_steps_prefill_or_decode() -> None:
    """Catches a prefill that is counted for each step, not for each request, and a lost wait."""
    found = states(5, 20, policy=PrefillPolicy.SERIAL)
    for place, size in enumerate((5, 20)):
        request_ns = ALONE + 10 * step_ns(size) / size
        assert found.requests_per_s[place] == pytest.approx(1e9 / request_ns)
        assert found.ttft_ns[place] == ALONE
        assert found.tpot_ns[place] == pytest.approx((size * request_ns - ALONE) / 10)
        energy_pj = 5 * ALONE + 10 * 3 * step_ns(size) / size
        assert found.energy_j[place] == pytest.approx(energy_pj / 1e12)
        prefills, steps = size / 10, 1
        assert found.prefill_share[place] == pytest.approx(prefills / (prefills + steps))
    assert found.estimates == ("prefill",)


def test_other_gpus_leave_decode_alone() -> None:
    """Catches prefill that is counted on GPUs that do none."""
    found = states(5, policy=PrefillPolicy.DISAGGREGATED)
    assert found.requests_per_s[0] == pytest.approx(1e9 / (10 * step_ns(5) / 5))
    assert found.tpot_ns[0] == pytest.approx(step_ns(5))
    assert (found.ttft_ns[0], found.prefill_share[0]) == (0, 0)


@pytest.mark.parametrize(
    ("size", "prompts", "share"),
    # So many prompts come for each step; a step with one more than whole steps hold.
    [(5, 0.5, 0.5), (10, 1.0, 1.0), (15, 1.5, 1.0), (20, 2.0, 1.0)],
)
def test_mixed_steps_prefill_as_many_prompts_as_end(
    size: int, prompts: float, share: float
) -> None:
    """Catches prompts that are rounded, and steps that prefill none where some must."""
    found = states(size)
    mean_ns = step_ns(size) + prompts * extra_ns(100)
    assert found.requests_per_s[0] == pytest.approx(prompts / mean_ns * 1e9)
    assert found.tpot_ns[0] == pytest.approx(mean_ns)
    assert found.energy_j[0] == pytest.approx(3 * mean_ns / prompts / 1e12)
    assert found.prefill_share[0] == pytest.approx(share)
    most = np.floor(prompts) + 1
    assert found.ttft_ns[0] == pytest.approx(step_ns(size) + most * extra_ns(100))


def test_mixing_saves_the_steps_that_only_prefill() -> None:
    """Catches mixed and serial steady states of different requests or lengths."""
    serial, mixed = states(5, policy=PrefillPolicy.SERIAL), states(5)
    saved_ns = ALONE - extra_ns(100)
    each_ns = 1e9 / serial.requests_per_s[0] - 1e9 / mixed.requests_per_s[0]
    assert each_ns == pytest.approx(saved_ns)


def test_long_prompts_are_cut_into_equal_chunks() -> None:
    """Catches chunks beyond the budget, a chunk too many, and keys of earlier chunks."""
    found = states(2, budget=32)  # room for 30 tokens: 4 chunks of 25, with 37 tokens before
    extra = extra_ns(25, past=37)
    mean_ns = step_ns(2) + 4 * 2 / 10 * extra
    assert found.tpot_ns[0] == pytest.approx(mean_ns)
    assert found.requests_per_s[0] == pytest.approx(2 / 10 / mean_ns * 1e9)
    assert found.prefill_share[0] == pytest.approx(0.8)
    assert found.ttft_ns[0] == pytest.approx(4 * (step_ns(2) + extra))


def test_steps_may_prefill_more_than_a_chunk_of_a_prompt() -> None:
    """Catches more steps that prefill than there are: room for 60 tokens, and chunks of 50."""
    found = states(6, budget=66)
    mean_ns = step_ns(6) + 1.2 * extra_ns(50, past=25)
    assert found.tpot_ns[0] == pytest.approx(mean_ns)
    assert found.prefill_share[0] == 1


def test_more_requests_than_the_budget_has_room_for_are_left_out() -> None:
    """Catches a batch whose prompts would queue up: each request needs 1 + 100 / 10 tokens."""
    assert states(5, 10, 11, budget=110).decoding.tolist() == [5, 10]
    with pytest.raises(InputError, match="10 tokens of a step have no room") as caught:
        states(1, 2, budget=10)
    assert caught.value.where == "token_budget"


def test_drafts_shorten_a_request_and_fill_the_budget() -> None:
    """Catches steps that are counted as tokens: 5 steps of 3 queries, for 10 tokens."""
    found = states(5, tokens_per_step=2.0, queries=3)
    mean_ns = step_ns(5) + extra_ns(100)
    assert found.tpot_ns[0] == pytest.approx(mean_ns / 2)
    assert found.requests_per_s[0] == pytest.approx(1 / mean_ns * 1e9)
    few = states(2, 3, tokens_per_step=2.0, queries=3, budget=2 * (3 + 20))
    assert few.decoding.tolist() == [2]
    serial = states(5, policy=PrefillPolicy.SERIAL, tokens_per_step=2.0, queries=3)
    assert serial.tpot_ns[0] == pytest.approx((5 * ALONE + 5 * step_ns(5) - ALONE) / 10)


def test_a_shared_prefix_is_not_prefilled_again() -> None:
    """Catches known tokens that are prefilled, and new ones that do not attend to them."""
    found = states(5, shared_prefix=40)
    assert found.tpot_ns[0] == pytest.approx(step_ns(5) + 0.5 * extra_ns(60, past=40))


def test_prompts_of_different_lengths_keep_their_tokens_and_pairs() -> None:
    """Catches a mean prompt with fewer pairs of a query and a key than the prompts have."""
    mixed = Workload.of(
        [Request(100, 11), Request(300, 11)], name="two", kind=WorkloadKind.TRACE, source="test"
    )
    stream = Stream.of(mixed)
    assert (stream.prompt, stream.steps) == (200, 10)
    pairs = stream.prompt * (stream.past + stream.prompt / 2)
    assert pairs == (100**2 / 2 + 300**2 / 2) / 2


def test_states_within_targets() -> None:
    """Catches a target in other units, or one that is held against the other time."""
    found = states(5, 20, policy=PrefillPolicy.SERIAL)
    times_ms = found.tpot_ns / 1e6
    assert within(found).tolist() == [0, 1]
    assert within(found, slo_tpot_ms=float(times_ms[0])).tolist() == [0]
    assert within(found, slo_ttft_ms=ALONE / 1e6).tolist() == [0, 1]
    assert within(found, slo_ttft_ms=0.99 * ALONE / 1e6).tolist() == []


def test_few_sizes_are_timed_the_ends_among_them() -> None:
    """Catches sizes beyond those that are timed, which would be extrapolated."""
    assert timed_sizes(np.array([3, 1, 3, 2])) == [1, 2, 3]
    chosen = timed_sizes(np.arange(1, 101))
    assert (chosen[0], chosen[-1], len(chosen)) == (1, 100, 3)


def test_real_steps_are_those_of_the_pricer() -> None:
    """Catches lengths, batches or chunks that reach the pricer as others.

    1e-3, since 4 lengths stand for 16, and kernels' times are not straight lines of the length.
    """
    pricer = Pricer("llama-3.1-8b", load_system("8xh100", name="one", gpus=1))
    asked, need = fixed_lengths(512, 17), pricer.need((512, 17))
    alone = pricer.step(prefill=[Chunk(512)]).time_ns
    mean_ns = np.mean([pricer.step(decode=[512 + n] * 8).time_ns for n in range(1, 17)])
    sizes = np.array([8])
    serial = steady_states(pricer, asked, sizes, need, policy=PrefillPolicy.SERIAL, token_budget=1)
    assert 1e9 / serial.requests_per_s[0] == pytest.approx(alone + 2 * mean_ns, rel=1e-3)
    mixed = steady_states(pricer, asked, sizes, need, policy=PrefillPolicy.MIXED, token_budget=264)
    beside = pricer.step(decode=[520] * 8, prefill=[Chunk(256, past=128)]).time_ns
    extra = beside - pricer.step(decode=[520] * 8).time_ns
    assert mixed.tpot_ns[0] == pytest.approx(mean_ns + extra, rel=1e-3)
    assert mixed.prefill_share[0] == 1
