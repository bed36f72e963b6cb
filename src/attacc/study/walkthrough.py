"""One small head walked through a stack, with the contents of banks, buffers and units.

The contents of the units after a command come from executing the program up to this command
(`attacc.pim.numerics.execute.ChannelState`). Nothing is computed here in another way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.errors import EngineError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.execute import ChannelState, Machine
from attacc.pim.numerics.formats import Codes, Floats
from attacc.pim.numerics.issue import IssuedSteps
from attacc.pim.numerics.memory import BankMemory
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.numerics.quantize import quantize
from attacc.pim.program.program import Kind

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

DEVICE: Final = "hbm3-5.2"
LENGTH: Final = 32
HEAD_DIM: Final = 8
SEED: Final = 0


@dataclass(frozen=True, eq=False)
class Walk:
    """One head on one channel, with all intermediate values.

    Attributes:
        layout: layout of the head.
        arithmetic: arithmetic of the units.
        channels: number of channels of the stack; one of them has the head.
        channel: number of that channel.
        query: (head_dim,) query as given.
        keys: (length, head_dim) keys as given.
        values: (length, head_dim) values as given.
        query_bits: (head_dim,) bits of the query in the vector buffer.
        memory: the banks.
        keys_at: first byte of the keys, in every bank.
        values_at: first byte of the values.
        issued: the commands of the channel.
        states: contents of the units before the first command, and after each command.
        tree: products of the first key in the first unit, which enter its adder tree, and the sums
            of each level of the tree. They are computed here, and equal the unit's.
        context: (head_dim,) context of the device.
        scores: (length,) exact scores of the given inputs, scaled.
        probabilities: (length,) exact probabilities.
        exact: (head_dim,) exact context.
    """

    layout: HeadLayout
    arithmetic: Arithmetic
    channels: int
    channel: int
    query: F64
    keys: F64
    values: F64
    query_bits: Codes
    memory: BankMemory
    keys_at: int
    values_at: int
    issued: IssuedSteps
    states: tuple[ChannelState, ...]
    tree: tuple[F64, ...]
    context: F32
    scores: F64
    probabilities: F64
    exact: F64

    def access(self, row: int, column: int) -> Codes:
        """Return the contents of one access of every bank of the channel.

        Returns:
            (pseudo-channels, ranks, bank groups, banks, elements of an access) bits.
        """
        o = self.layout.organization
        slot = int(self.memory.slots[self.channel][row])
        held = self.memory.accesses(self.channel, self.layout.element.bits)
        shape = (o.pseudo_channels, o.ranks, o.bank_groups, o.banks)
        return held[slot * o.columns + column].reshape(*shape, -1)


def walk_through(
    length: int = LENGTH, head_dim: int = HEAD_DIM, *, device: str = DEVICE, seed: int = SEED
) -> Walk:
    """Attend to one head at `Placement.BANK`, and keep all intermediate values.

    Args:
        length: number of keys, small enough that the head is not cut.
        head_dim: elements of a key.
        device: preset of the stack.
        seed: seed of the inputs, which are normally distributed numbers of two decimals.
    """
    stack = DRAMS.load(device)
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> F64:
        return np.round(random.standard_normal(shape), 2)

    query, keys, values = draw(head_dim), draw(length, head_dim), draw(length, head_dim)
    arithmetic = Arithmetic()
    plan = AttentionPlan.of(stack, Placement.BANK, [length], head_dim, ElementType.FP16)
    stored = plan.store([keys], [values], arithmetic)
    chosen = [(at, steps) for at, steps in enumerate(plan.issued) if steps is not None]
    if len(chosen) != 1:
        raise EngineError(f"a head of {length} keys is cut over {len(chosen)} channels")
    channel, issued = chosen[0]
    machine = Machine.of(arithmetic, plan.layout, plan.buffer_words)
    asked: Floats = query[np.newaxis, np.newaxis]
    codes = quantize(asked, arithmetic.operand, name="queries", own=2).codes
    factor = np.full((1, 1), 1 / math.sqrt(head_dim), dtype=np.float32)
    states = tuple(
        ChannelState.after(
            issued, plan.shapes[channel], machine, stored.memory, channel,
            arithmetic.operand.from_bits(codes), factor, commands=commands,
        )
        for commands in range(len(issued.kind) + 1)
    )  # fmt: skip
    first_unit = slice(0, plan.layout.columns_per_key * plan.layout.elements_per_column)
    tree = _tree(arithmetic, query[first_unit], keys[0, first_unit])
    if float(tree[-1][0]) != float(_after_first_multiply(issued, states).sums[0, 0, 0]):
        raise EngineError(f"the first unit has another sum than {tree[-1][0]}")
    scores = keys @ query / math.sqrt(head_dim)
    weights = np.exp(scores - scores.max())
    probabilities = weights / weights.sum()
    regions = plan.regions[channel]
    return Walk(
        layout=plan.layout.head(length),
        arithmetic=arithmetic,
        channels=stack.organization.channels,
        channel=channel,
        query=query,
        keys=keys,
        values=values,
        query_bits=codes[0, 0],
        memory=stored.memory,
        keys_at=int(regions.keys[0]),
        values_at=int(regions.values[0]),
        issued=issued,
        states=states,
        tree=tree,
        context=plan.attend(stored, asked, arithmetic).context[0, 0],
        scores=scores,
        probabilities=probabilities,
        exact=probabilities @ values,
    )


def _tree(arithmetic: Arithmetic, query: F64, key: F64) -> tuple[F64, ...]:
    """Return products, and the levels of a pairwise tree."""
    a = arithmetic
    products = a.multiplier.rounded(a.operand.rounded(query) * a.operand.rounded(key))
    levels = [np.concatenate([products, np.zeros(a.lanes - len(products))])]
    while len(levels[-1]) > 1:
        levels.append(a.adder.rounded(levels[-1][::2] + levels[-1][1::2]))
    return tuple(levels)


def _after_first_multiply(issued: IssuedSteps, states: tuple[ChannelState, ...]) -> ChannelState:
    return states[1 + int(np.flatnonzero(issued.kind == Kind.MACAB)[0])]
