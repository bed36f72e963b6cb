"""Claims about the values that the commands compute."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from typing import Final

import numpy as np

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.formats import Format
from attacc.pim.numerics.plan import AttentionPlan
from attacc.study.accuracy import AccuracySpec, Data, measure_accuracy
from attacc.study.claims.validation import (
    Check,
    Claim,
    Figure,
    Measured,
    Needs,
    Room,
    Tolerance,
    Unit,
)
from attacc.study.plain_attention import PlainDevice
from attacc.study.walkthrough import walk_through

DEVICE: Final = "hbm3-5.2"
SEED: Final = 0
SHAPES: Final = ((1, 64), (37, 80), (100, 128))
"""Keys and elements of a head; every head has a channel to itself and is not cut."""
FORMATS: Final = (
    (ElementType.FP16, Format.E4M3),
    (ElementType.BF16, Format.E4M3),
    (ElementType.INT8, Format.E4M3),
    (ElementType.FP8, Format.E4M3),
    (ElementType.FP8, Format.E5M2),
)
"""Element type, and which fp8 it is where it is one."""
LENGTHS: Final = (128, 1024, 8192)


def executed_is_plain() -> Measured:
    """Count the elements of contexts whose bits differ between device and plain NumPy."""
    device = DRAMS.load(DEVICE)
    heads = device.organization.channels
    random = np.random.default_rng(SEED)
    other, elements, runs = 0, 0, 0
    for placement, (element, fp8), (length, head_dim) in product(Placement, FORMATS, SHAPES):
        arithmetic = Arithmetic.of(element, fp8=fp8)
        queries = random.standard_normal((heads, 1, head_dim))
        keys, values = (
            [random.standard_normal((length, head_dim)) for _ in range(heads)] for _ in range(2)
        )
        plan = AttentionPlan.of(device, placement, [length] * heads, head_dim, element)
        stored = plan.store(keys, values, arithmetic)
        ours = plan.attend(stored, queries, arithmetic).context[:, 0]
        plain = PlainDevice(device.organization, placement, arithmetic)
        theirs = np.stack([plain.attend(queries[i, 0], keys[i], values[i]) for i in range(heads)])
        other += int((ours.view(np.uint32) != theirs.view(np.uint32)).sum())
        elements, runs = elements + ours.size, runs + 1
    return Measured(other, elements, (Figure("stacks", runs, Unit.COUNT),))


def fp16_loses_less_than_bf16_inputs() -> Measured:
    """Return the largest error of fp16 arithmetic over that of exact attention of bf16 inputs."""
    spec = AccuracySpec(
        lengths=LENGTHS,
        data=(Data.GAUSSIAN, Data.PEAKED),
        kv=(Format.FP16,),
        accumulate=(Format.FP16,),
        seed=SEED,
    )
    result = measure_accuracy(spec)
    shares = [reach.worst_share for reach in result.reach]
    worst = max(math.inf if share is None else share for share in shares)
    errors = [row.computing.rms for row in result.rows if row.computing is not None]
    return Measured(worst, len(result.rows), (Figure("largest error of a context", max(errors)),))


def walked_head_is_near() -> Measured:
    """Return how far the context of the walked head is from float64 attention."""
    walk = walk_through()
    off = float(np.abs(walk.context - walk.exact).max() / np.abs(walk.exact).max())
    return Measured(off, walk.exact.size)


def _checks() -> Iterable[Check]:
    yield Check(
        Claim(
            id="numerics-bit-true",
            room=Room.NUMERICS,
            statement="The commands that are timed, executed on data in modelled banks and units, "
            "compute what plain NumPy computes, bit for bit.",
            data="attention in NumPy without commands or addresses (attacc.study.plain_attention); "
            f"normally distributed heads, seed {SEED}, of 1, 37 and 100 keys of 64, 80 and 128 "
            "elements; three placements; fp16, bf16, int8, fp8 e4m3 and e5m2",
            tolerance=Tolerance(
                0, Unit.CASES, "the order of every sum is stated, so that bits are determined"
            ),
            limits="Whole heads, one query, default arithmetic. NumPy's half precision and float32 "
            "are the witness for sums and products; rounding to bf16 and 8 bits is the project's "
            "on both sides. Cut heads, several queries and other orders: the tests.",
            tests=("tests/pim/numerics/test_execute.py", "tests/pim/numerics/test_formats.py"),
        ),
        measure=executed_is_plain,
    )
    yield Check(
        Claim(
            id="numerics-fp16-error",
            room=Room.NUMERICS,
            statement="fp16 arithmetic loses no more than exact attention does whose inputs are "
            "rounded to bf16.",
            data="attention in float64; heads of 128, 1,024 and 8,192 keys of 128 elements, scores "
            f"of standard deviation 1 and 4, eight contexts each, seed {SEED} "
            f"(docs/model/accuracy.md)",
            tolerance=Tolerance(
                1.0,
                Unit.SHARE,
                "of that error, which models trained and served in bf16 take at every layer",
            ),
            limits="Made-up data, units per bank, one attention: says nothing about the answers of "
            "a model.",
            tests=("tests/study/test_accuracy.py",),
        ),
        measure=fp16_loses_less_than_bf16_inputs,
    )
    yield Check(
        Claim(
            id="numerics-walk-through",
            room=Room.NUMERICS,
            statement="The head that docs/model/walk-through.md follows through banks, buffers "
            "and units "
            "ends near the exact context, and its first sum is that of the adder tree by hand.",
            data="attention in float64 of 32 keys of 8 elements, and the first unit's sum added "
            "up level by level",
            tolerance=Tolerance(
                2.0**-9,
                Unit.SHARE,
                "of the largest element; four times what one rounding to fp16 costs at most, as "
                "inputs, sums, probabilities and output are rounded",
            ),
            limits="One head of one seed; the page is compared with the code by the tests.",
            tests=("tests/study/test_walkthrough.py",),
        ),
        measure=walked_head_is_near,
    )
    yield Check(
        Claim(
            id="numerics-sessions",
            room=Room.NUMERICS,
            statement="Requests that come, grow token by token and leave get the contexts, bit for "
            "bit, that plain NumPy computes from their tokens, on one and two stacks.",
            data="random sessions; attention in NumPy (tests/oracle/attention.py)",
            tolerance=Tolerance(0, Unit.CASES, "as above"),
            limits="Sessions of a few requests.",
            needs=Needs.TESTS,
            tests=("tests/pim/host/test_host.py",),
        )
    )
    yield Check(
        Claim(
            id="numerics-language-model",
            room=Room.NUMERICS,
            statement="Language models of transformers whose attention runs on modelled AttAccs "
            "score tokens as with their own attention, within a bound for each format.",
            data="models of several families with random weights, and SmolLM2 135M; the models' "
            "own attention on the host",
            tolerance=Tolerance(
                0, Unit.CASES, "the bounds are those of the formats, and stated in the tests"
            ),
            limits="Small models; needs pip install 'attacc[torch]'.",
            needs=Needs.TESTS,
            tests=(
                "tests/integrations/test_huggingface_attention.py",
                "tests/integrations/test_bundled.py",
            ),
        )
    )


CHECKS: Final = tuple(_checks())
