"""Decode of SmolLM2-135M's attention on modelled AttAcc: tokens per second of this machine.

30 layers, 9 query heads that share 3 key/value heads of 64 elements, one request. A token is an
append and an attend in each layer; the plans that growing asks for are part of the time. In CPU
time of the thread, so that other work on the machine counts less.

    python benchmarks/host.py [--context 256] [--tokens 64]
"""

import argparse
import time

import numpy as np

from attacc.hardware.dram import DRAMS
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.host.device import AttendCost, HostDevice, KvShape
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format

SHAPE = KvShape(30, 3, 3, 64, ElementType.FP16)
ARITHMETICS = {
    "fp16": Arithmetic(),
    "fp32 sums": Arithmetic(
        multiplier=Format.FP32, adder=Format.FP32, accumulator=Format.FP32
    ),
}  # fmt: skip


def decode(placement: Placement, arithmetic: Arithmetic, context: int, tokens: int) -> str:
    host = HostDevice.of(
        DRAMS.load("hbm3-5.2"), placement, link=LINKS.load("nvlink3"), arithmetic=arithmetic
    )
    host.set_model(SHAPE)
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal((SHAPE.layers, *shape), dtype=np.float32)

    keys, values = draw(SHAPE.kv_heads, context, 64), draw(SHAPE.kv_heads, context, 64)
    for layer in range(SHAPE.layers):
        host.append(0, layer, keys[layer], values[layer])
    seconds: list[float] = []
    costs: list[AttendCost] = []
    for _ in range(tokens + 1):
        keys, values = draw(SHAPE.kv_heads, 1, 64), draw(SHAPE.kv_heads, 1, 64)
        queries = draw(1, SHAPE.heads, 64)
        begin = time.thread_time()
        costs = []
        for layer in range(SHAPE.layers):
            host.append(0, layer, keys[layer], values[layer])
            costs.append(host.attend(layer, [0], queries[layer]).cost)
        seconds.append(time.thread_time() - begin)
    # The first one compiles.
    mean, best = float(np.mean(seconds[1:])), min(seconds[1:])
    cost = AttendCost.total(costs)
    return (
        f"{mean * 1e3:8.1f} {best * 1e3:8.1f} {1 / mean:9.1f} {cost.cycles:9,d} "
        f"{cost.time_ns / 1e3:9.1f} {cost.energy_pj / 1e6:9.2f} {cost.link.total:9,d} "
        f"{cost.bank_read_bytes:12,d}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    print(
        f"{'placement':10} {'arithmetic':10} {'mean ms':>8} {'best ms':>8} {'tokens/s':>9} "
        f"{'cycles':>9} {'AttAcc us':>9} {'uJ':>9} {'link B':>9} {'bank B':>12}"
    )
    for placement in Placement:
        for name, arithmetic in ARITHMETICS.items():
            row = decode(placement, arithmetic, given.context, given.tokens)
            print(f"{placement:10} {name:10} {row}")


if __name__ == "__main__":
    main()
