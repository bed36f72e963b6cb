"""A small session with a host that reaches every line of its kernels; prints the bits."""

import numpy as np

from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.host.device import KvShape
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format
from tests.pim.host.cases import Mirror, host_of, small

SINGLE = Arithmetic(multiplier=Format.FP16, adder=Format.FP32, accumulator=Format.FP32)


def answer(placement: Placement, element: ElementType, arithmetic: Arithmetic | None) -> str:
    host = host_of(
        small(1, longest=16),
        placement,
        KvShape(1, 1, 2, 8, element),
        arithmetic=arithmetic,
        growing_keys=1,
    )
    mirror = Mirror(host)
    mirror.append(3, 15)
    mirror.append(3, 2)
    mirror.append(4, 1)
    attended, _ = mirror.attend(0, [4, 3])
    assert np.isfinite(attended.context).all()
    return f"{attended.context.tobytes().hex()} {attended.cost}"


def windowed() -> str:
    """Keys that are cut, values of another size, a ring that goes around, and sinks."""
    shape = KvShape(1, 1, 2, 576, ElementType.FP16, value_dim=8, windows=(12,))
    mirror = Mirror(host_of(small(1, longest=16), Placement.BANKGROUP, shape))
    mirror.append(3, 10)
    mirror.append(3, 5)
    attended, _ = mirror.attend(0, [3], np.array([0.5, 9], dtype=np.float32))
    assert np.isfinite(attended.context).all()
    return f"{attended.context.tobytes().hex()} {attended.cost}"


if __name__ == "__main__":
    print(windowed())  # noqa: T201
    for where in Placement:
        print(answer(where, ElementType.FP16, None))  # noqa: T201
    print(answer(Placement.BANK, ElementType.FP16, SINGLE))  # noqa: T201
    for of in (ElementType.INT8, ElementType.BF16):
        print(answer(Placement.BUFFER, of, None))  # noqa: T201
