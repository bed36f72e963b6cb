"""Single steps and single kernels, priced for tests."""

from dataclasses import dataclass

from attacc.gpu.calibrated.costs import Priced
from attacc.gpu.costs import BOUNDS, Bound, CostModel, noted
from attacc.gpu.rates import AttaccRates
from attacc.hardware.system import ResolvedSystem
from attacc.models.operators import Step
from attacc.system.attaccs import AttaccAttention
from attacc.system.step import Beside, LayerBeside, StepCost, step_costs


def step_cost(
    step: Step,
    system: ResolvedSystem,
    costs: CostModel,
    rates: AttaccRates | None = None,
    *,
    attention: AttaccAttention | None = None,
    copies: float = 1.0,
    kv_bytes: float = 0.0,
) -> StepCost:
    """Price one step from its operators."""
    own = LayerBeside(attention=attention, written_bytes=kv_bytes)
    beside = Beside(layers=(own,), rates=rates, copies=copies)
    return step_costs(step, system, costs, beside).one


@dataclass(frozen=True)
class Kernel:
    """A kernel's price in one step."""

    time_ns: float
    launch_ns: float
    bound: Bound
    flops: float
    dram_bytes: float
    estimates: tuple[str, ...]


def kernel(priced: Priced) -> Kernel:
    """Return the only price of a kernel."""
    assert priced.time_ns.size == 1
    return Kernel(
        float(priced.time_ns[0]),
        priced.launch_ns,
        BOUNDS[int(priced.bound[0])],
        float(priced.work.flops[0]),
        float(priced.work.dram_bytes[0]),
        noted(priced.estimates, 0),
    )
