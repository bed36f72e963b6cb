"""The AttAccs of a system: attention of a whole batch at every length it passes through.

Key/value heads of all requests are dealt out evenly, whole, to the stacks and there to the
channels, so that the fullest channel holds the rounded-up share; it decides the time, since layers
wait for all heads. The query heads that share a key/value head attend one after another in the
channel that holds it, each with a pass of its own over the keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from attacc.energy.dram import DRAM_ENERGIES
from attacc.errors import EngineError
from attacc.hardware.dram import DRAMS
from attacc.hardware.system import ResolvedSystem
from attacc.models.architecture import ModelSpec
from attacc.system.attention import AttaccAttention, AttaccRates
from attacc.system.costs import EnergyBreakdown
from attacc.system.stack import Stack, StackAttention
from attacc.units import BITS_PER_BYTE

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MULTIPLY_BUDGET: Final = 4_000_000
"""Multiplies per channel that a curve may simulate before it is sampled instead."""
FEWEST_SAMPLES: Final = 9
_GOLDEN: Final = 0.618033988749895


class CurveKind(StrEnum):
    """How attention at the lengths of a curve came about."""

    EXACT = "exact"
    """Every length's program was timed."""
    INTERPOLATED = "interpolated"
    """Some lengths were timed, the others lie on straight lines between them."""


@dataclass(frozen=True, eq=False)
class AttentionCurve:
    """Attention of one layer of a batch, over the length of its keys.

    Attributes:
        kind: exact, or interpolated.
        relative_error: estimate that bounds the error of a mean over the lengths; 0 if exact. The
            largest deviation of a timed length from the line between its neighbours. Time rises
            in steps, so that a single length may be off by several times as much.
        heads_per_stack: query heads of the fullest stack.
    """

    kind: CurveKind
    relative_error: float
    heads_per_stack: int
    _keys_per_part: F64
    _time_ns: F64
    _dram_pj: F64
    _alu_pj: F64
    _parts: int

    def at(self, length: int) -> AttaccAttention:
        """Return attention at a length that the curve covers."""
        x = float(-(-length // self._parts))
        return AttaccAttention(
            time_ns=float(np.interp(x, self._keys_per_part, self._time_ns)),
            energy=EnergyBreakdown(
                dram_pj=float(np.interp(x, self._keys_per_part, self._dram_pj)),
                alu_pj=float(np.interp(x, self._keys_per_part, self._alu_pj)),
            ),
        )


class Attaccs:
    """The AttAccs of a system, ready to attend.

    Args:
        system: a system whose attention runs on AttAccs.

    Raises:
        UnknownNameError: the system names a device that does not exist.
    """

    def __init__(self, system: ResolvedSystem) -> None:
        if system.attacc is None:
            raise EngineError(f"system {system.spec.name} has no AttAccs")
        table = system.attacc.table
        self._where = f"system {system.spec.name}: attacc.dram"
        device = DRAMS.load_name_or_file(table.dram, where=self._where)
        self.stacks = system.attacc.stacks
        self.stack_bytes = float(device.organization.stack_bytes)
        self._stack = Stack(device, table.placement, table.power_limited, table.schedule)
        energy = DRAM_ENERGIES.load(device.energy)
        cell_pj_per_bit = energy.activate + energy.cell + energy.cell_to_unit(table.placement)
        self.rates = AttaccRates(
            interface_bytes_per_s=device.external_bytes_per_s * table.stacks_per_device,
            internal_bytes_per_s=device.internal_bytes_per_s(
                table.placement, power_limited=table.power_limited
            )
            * table.stacks_per_device,
            read_pj_per_byte=cell_pj_per_bit * BITS_PER_BYTE,
            multiply_add_pj=energy.multiply_add,
        )

    def curve(self, model: ModelSpec, batch: int, lengths: Sequence[int]) -> AttentionCurve:
        """Time and cost one layer's attention of a batch at every length that occurs.

        Args:
            model: the model; each query head reads its keys and values once.
            batch: requests, all of the same length at a time.
            lengths: keys that the requests attend to; at least one.

        Raises:
            InputError: the heads of a stack do not fit into its banks.
        """
        element = model.precision.kv
        longest = self._stack.layout(max(lengths), model.head_dim, element)
        parts, channels = longest.sequence_parts, longest.organization.channels
        kv_heads = -(-batch * model.kv_heads // self.stacks)
        rounds = -(-kv_heads // channels) * model.group_size
        # Full rounds: channels that idle in a round change neither its time nor a head's energy.
        heads = rounds * channels
        share = batch * model.heads / heads
        needed: I64 = np.unique(-(-np.array(lengths, dtype=np.int64) // parts))
        per_run = rounds * (longest.score_multiplies + longest.context_multiplies)
        samples = max(FEWEST_SAMPLES, MULTIPLY_BUDGET // per_run)
        exact = len(needed) <= samples
        if not exact:
            needed = _sampled(int(needed[0]), int(needed[-1]), samples)
        timed = [
            self._stack.attend(
                heads=heads,
                length=keys * parts,
                head_dim=model.head_dim,
                element=element,
                queries_per_kv_head=model.group_size,
            )
            for keys in needed.tolist()
        ]
        x = needed.astype(np.float64)
        time_ns = np.array([run.time_ns for run in timed])
        return AttentionCurve(
            kind=CurveKind.EXACT if exact else CurveKind.INTERPOLATED,
            relative_error=0.0 if exact else _leave_one_out(x, time_ns),
            heads_per_stack=kv_heads * model.group_size,
            _keys_per_part=x,
            _time_ns=time_ns,
            _dram_pj=np.array([_dram_pj(run) * share for run in timed]),
            _alu_pj=np.array([_alu_pj(run) * share for run in timed]),
            _parts=parts,
        )


def _sampled(first: int, last: int, samples: int) -> I64:
    """Return about so many whole numbers from first to last, unevenly spaced.

    Time rises in steps, one per group of moves; an even spacing that is a multiple of a step
    would see all of them at the same phase, and no error.
    """
    index = np.arange(samples)
    spacing = (last - first) / (samples - 1)
    shift = 0.8 * (index * _GOLDEN % 1 - 0.5)
    shift[[0, -1]] = 0
    return np.unique(np.rint(first + spacing * (index + shift)).astype(np.int64))


def _dram_pj(run: StackAttention) -> float:
    e = run.energy
    return e.activate_pj + e.cell_pj + e.read_path_pj + e.move_pj


def _alu_pj(run: StackAttention) -> float:
    return run.energy.multiply_pj + run.energy.softmax_pj


def _leave_one_out(x: F64, y: F64) -> float:
    """Return how far, relatively, any inner point lies from the line between its neighbours."""
    slope = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
    line = y[:-2] + slope * (x[1:-1] - x[:-2])
    return float(np.max(np.abs(line / y[1:-1] - 1)))
