"""How sure a speed-up is: what is drawn, and what a draw changes."""

from dataclasses import replace

import numpy as np
import pytest

from attacc.gpu.costs import PARTS, CostModel, Floats, GpuPart
from attacc.gpu.models import Engine, GpuModel, cost_model
from attacc.hardware.gpu import GpuSpec
from attacc.hardware.system import ResolvedSystem, load_system
from attacc.models.huggingface import load_model
from attacc.serving.candidates import BatchSearch, Served
from attacc.serving.disaggregated import Joined
from attacc.serving.policies import PrefillPolicy, ServingOptions
from attacc.study.ranges import (
    ACTIVATIONS,
    CADENCE,
    IDLE,
    POWERS,
    START,
    Draws,
    outcomes,
    range_of,
)
from attacc.system.doubts import Activations, activations, cadences
from attacc.system.layout import Layout
from attacc.system.pricer import Pricer
from attacc.workload.requests import fixed_lengths

MODEL = load_model("llama-3.1-8b")
REQUESTS = fixed_lengths(1024, 65)
ALONE = load_system("8xh100", name="two", gpus=2)
ATTACC = load_system("8xh100-attacc-hbm3", name="mine", **{"gpus": 2, "attacc.devices": 2})
OPTIONS = ServingOptions()
BEST = Draws(
    {part: np.zeros(1) for part in GpuPart},
    np.ones(1),
    np.zeros(1),
    np.ones(1),
    {name: np.ones(1) for name in POWERS},
)
"""One draw of the best estimates."""


def way(system: ResolvedSystem, options: ServingOptions = OPTIONS) -> Served:
    """Return how two GPUs serve 64 requests."""
    costs = cost_model(GpuModel.CALIBRATED, Engine.VLLM)
    layout = Layout(2)
    pricer = Pricer(MODEL, system, gpu_model=costs, layout=layout)
    return BatchSearch(pricer, REQUESTS, options, layout, Engine.VLLM, batch=64).best()


def rates(system: ResolvedSystem, draws: Draws, options: ServingOptions = OPTIONS) -> Floats:
    return outcomes(way(system, options), REQUESTS, options, draws).requests_per_s


# What is drawn.


def test_the_same_seed_draws_the_same() -> None:
    """Catches a range that differs from run to run, and a seed that is ignored."""
    first, again, other = Draws.of(50), Draws.of(50), Draws.of(50, seed=1)
    for name, values in first.columns().items():
        assert (values == again.columns()[name]).all()
        assert (values != other.columns()[name]).any()


def test_draws_lie_within_what_is_possible() -> None:
    """Catches ratios of other cadences and times, and a window that is never or always kept."""
    draws = Draws.of(2000)
    assert set(draws.columns()) == {*map(str, GpuPart), CADENCE, ACTIVATIONS, START, *POWERS}
    assert (draws.cadence >= 4 / 6).all()
    assert (draws.cadence <= 11 / 6).all()
    assert (4 * draws.start >= 1.5).all()
    assert (4 * draws.start <= 10).all()
    assert np.median(draws.start) == pytest.approx(np.sqrt(1.5 * 10) / 4, rel=0.05)
    values, counts = np.unique(draws.window, return_counts=True)
    assert values.tolist() == [0, 1, 2]
    assert counts == pytest.approx(2000 / 3, rel=0.1)


def test_half_of_the_errors_of_a_kind_are_as_large_as_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a measured mean error that is taken for a standard deviation."""
    seen: list[Floats] = []

    def kept(served: Served, *args: object) -> Joined:
        del served
        seen.append(args[-1].gpu[GpuPart.DECODE])  # type: ignore[attr-defined]
        return Joined(np.ones(4000), np.ones((len(PARTS), 4000)))

    monkeypatch.setattr("attacc.study.ranges.states_drawn", kept)
    served = way(ALONE)
    outcomes(served, REQUESTS, OPTIONS, Draws.of(4000))
    error = served.pricer.costs.errors(served.pricer.system.gpu)[GpuPart.DECODE]
    assert np.abs(np.log(seen[0])).mean() == pytest.approx(error, rel=0.05)


# What a draw changes.


def test_powers_in_doubt_reach_the_energy_of_their_side() -> None:
    """Catches a power that is drawn and reaches no energy, or reaches GPUs alone."""
    known = {name: outcomes(way(system), REQUESTS, OPTIONS, BEST).energy_j[0]
             for name, system in (("alone", ALONE), ("attacc", ATTACC))}  # fmt: skip
    assert known["alone"] == pytest.approx(way(ALONE).energy_j, rel=1e-12)
    for name in POWERS:
        drawn = replace(BEST, powers={**BEST.powers, name: np.array([2.0])})
        alone = outcomes(way(ALONE), REQUESTS, OPTIONS, drawn).energy_j[0]
        attacc = outcomes(way(ATTACC), REQUESTS, OPTIONS, drawn).energy_j[0]
        assert attacc > known["attacc"]
        assert bool(alone > known["alone"]) == (name == IDLE)


@pytest.mark.parametrize("system", [ALONE, ATTACC], ids=["alone", "attacc"])
@pytest.mark.parametrize("policy", [PrefillPolicy.MIXED, PrefillPolicy.SERIAL])
def test_a_draw_of_the_best_estimates_is_the_best_estimate(
    system: ResolvedSystem, policy: PrefillPolicy
) -> None:
    """Catches factors that are not 1 where nothing is off, and a draw of another batch."""
    options = replace(OPTIONS, prefill=policy)
    expected = way(system, options).requests_per_s
    assert rates(system, BEST, options) == pytest.approx(expected, rel=1e-12)


def test_exact_gpu_prices_leave_gpus_alone_without_a_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches doubts of AttAccs that reach systems without them."""

    def none(model: CostModel, gpu: GpuSpec) -> dict[GpuPart, float]:
        del model, gpu
        return dict.fromkeys(GpuPart, 0.0)

    monkeypatch.setattr("attacc.gpu.calibrated.costs.CalibratedCostModel.errors", none)
    draws, alone = Draws.of(20), way(ALONE).requests_per_s
    drawn = rates(ALONE, draws)
    assert drawn == pytest.approx(np.full(20, alone), rel=1e-12)
    spread = range_of(drawn / alone, draws)
    assert (spread.low, spread.high) == pytest.approx((1, 1))
    assert spread.depends_most_on is None
    assert np.ptp(rates(ATTACC, draws)) > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"cadence": np.array([11 / 6])},
        {"window": np.array([1.0])},
        {"window": np.array([2.0])},
        {"start": np.array([2.5])},
        {"gpu": {part: np.ones(1) for part in GpuPart}},
    ],
    ids=["cadence", "rank", "pseudo-channel", "start", "gpu"],
)
def test_each_doubt_slows_attaccs_down(changed: dict[str, Floats]) -> None:
    """Catches a doubt that is drawn and reaches no price, or the wrong way."""
    drawn = replace(BEST, **changed)  # type: ignore[arg-type]
    assert rates(ATTACC, drawn)[0] < rates(ATTACC, BEST)[0]


def test_a_cadence_is_that_over_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches cadences over the first one that costs no time, where faster ones gain nothing."""
    found = [(0.7, 1.0), (1.0, 1.0), (11 / 6, 3.0)]

    def at_cadences(pricer: Pricer, batch: int, length: int) -> list[tuple[float, float]]:
        del pricer, batch, length
        return found

    monkeypatch.setattr(Pricer, "at_cadences", at_cadences)
    slow = rates(ATTACC, replace(BEST, cadence=np.array([11 / 6])))
    found[:] = [(1.0, 3.0)]
    assert slow == pytest.approx(rates(ATTACC, BEST), rel=1e-12)


def test_the_range_encloses_the_best_estimate() -> None:
    """Catches draws of different unknowns for both systems, and percentiles that are swapped."""
    draws = Draws.of(64)
    ratio = rates(ATTACC, draws) / rates(ALONE, draws)
    spread = range_of(ratio, draws)
    best = way(ATTACC).requests_per_s / way(ALONE).requests_per_s
    assert spread.low < best < spread.high
    apart = rates(ATTACC, draws) / rates(ALONE, Draws.of(64, seed=1))
    assert np.ptp(ratio) < np.ptp(apart)


def test_what_a_range_depends_on_is_named() -> None:
    """Catches the weakest unknown, and an unknown that lowers the ratio."""
    draws = Draws.of(100)
    noise = np.linspace(0, 1e-3, 100)
    assert range_of(draws.cadence + noise, draws).depends_most_on == CADENCE
    assert range_of(1 / draws.start, draws).depends_most_on == START
    assert range_of(2 - draws.window, draws).depends_most_on == ACTIVATIONS
    decode = np.exp(draws.gpu[GpuPart.DECODE])
    assert range_of(decode, draws).depends_most_on == GpuPart.DECODE
    found = range_of(np.arange(101.0) + 1, Draws.of(101))
    assert (found.low, found.high) == (6, 96)


# Doubts of AttAccs.


def test_cadences_in_doubt() -> None:
    """Catches a cadence in doubt where no power budget sets it."""
    assert cadences(ATTACC) == (4, 11)
    assert cadences(load_system("8xh100-attacc-hbm4")) == (7, 18)
    assert cadences(ALONE) == ()
    assert cadences(load_system("dgx-attacc-buffer")) == ()
    free = load_system("8xh100-attacc-hbm3", name="free", **{"attacc.power_limited": False})
    assert cadences(free) == ()


def test_times_at_other_cadences() -> None:
    """Catches the published cadence under another name, and a slower one that is faster."""
    pricer = way(ATTACC).pricer
    ratios, factors = zip(*pricer.at_cadences(64, 1056), strict=True)
    assert ratios == pytest.approx((4 / 6, 1, 11 / 6))
    assert factors[0] < factors[1] == 1 < factors[2]
    # Multiplies take most of the time, and not all of it.
    assert 1.5 < factors[2] < 11 / 6
    assert way(ALONE).pricer.at_cadences(64, 1056) == []


def test_rows_that_open_by_fours_take_longer() -> None:
    """Catches windows of other banks: 19 + 32 x 6 + 8 + 19 cycles a row, and windows of 39."""
    found = activations(ATTACC, 16)
    assert found.per_rank == pytest.approx(1 + 3 * 39 / 238)  # 16 banks: 3 windows more
    assert found.per_pseudo_channel == pytest.approx(1 + 7 * 39 / 238)  # of two ranks
    near = activations(load_system("dgx-attacc-bankgroup"), 16)
    assert near.per_rank == 1 < near.per_pseudo_channel < found.per_pseudo_channel
    assert activations(load_system("dgx-attacc-buffer"), 16) == Activations()
    assert activations(ALONE, 16) == Activations()
