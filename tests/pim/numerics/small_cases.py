"""Small heads that reach every line of the kernels; prints the bits of what results."""

import numpy as np

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType
from attacc.pim.numerics.arithmetic import Arithmetic, Exponential, Normalization, Order
from attacc.pim.numerics.plan import AttentionPlan

OTHERS = Arithmetic(
    exponential=Exponential.TABLE,
    tree=Order.SEQUENTIAL,
    groups=Order.PAIRWISE,
    merge=Order.PAIRWISE,
    softmax_lanes=3,
    lanes=8,
    normalization=Normalization.AFTER,
)


def answer(
    placement: Placement,
    arithmetic: Arithmetic,
    queries: int,
    schedule: Schedule,
    lengths: list[int],
) -> str:
    barriers = schedule is not Schedule.INTERLEAVED
    device = DRAMS.load("hbm3-5.2-asplos24" if barriers else "hbm3-5.2")
    organization = device.organization.model_copy(update={"channels": 1})
    device = device.model_copy(update={"organization": organization})
    plan = AttentionPlan.of(
        device,
        placement,
        lengths,
        16,
        ElementType.FP16,
        queries=queries,
        queries_per_read=2,
        schedule=schedule,
    )
    random = np.random.default_rng(7)
    keys, values = [[random.standard_normal((length, 16)) for length in lengths] for _ in range(2)]
    asked = random.standard_normal((len(lengths), queries, 16))
    contexts = plan.attend(plan.store(keys, values, arithmetic), asked, arithmetic)
    return contexts.context.tobytes().hex()


def latent(placement: Placement) -> str:
    """One copy of cut keys in a ring, and two new tokens, of which one sees less than the other."""
    device = DRAMS.load("hbm3-5.2")
    organization = device.organization.model_copy(update={"channels": 1})
    device = device.model_copy(update={"organization": organization})
    plan = AttentionPlan.of(
        device, placement, [70, 9], 136, ElementType.FP16, value_dim=72, key_slices=2,
        one_copy=True, window=40, query_tokens=2, queries_per_read=2,
    )  # fmt: skip
    random = np.random.default_rng(7)
    keys = [random.standard_normal((length, 136)) for length in plan.lengths]
    asked = random.standard_normal((2, 2, 136))
    stored = plan.store(keys, [key[:, :72] for key in keys], OTHERS)
    return plan.attend(stored, asked, OTHERS).context.tobytes().hex()


if __name__ == "__main__":
    for where in Placement:
        some = [20, 7] if where is Placement.BUFFER else [300, 20]
        print(answer(where, Arithmetic(), 1, Schedule.INTERLEAVED, some))  # noqa: T201
        print(answer(where, OTHERS, 3, Schedule.INTERLEAVED, some[1:]))  # noqa: T201
        print(answer(where, OTHERS, 1, Schedule.PUBLISHED, [19] * 3))  # noqa: T201
        print(latent(where))  # noqa: T201
