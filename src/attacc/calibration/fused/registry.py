"""The kinds of measured operators of this package."""

from __future__ import annotations

from typing import Final

from attacc.calibration.fused.custom_all_reduce import CUSTOM_ALL_REDUCE
from attacc.calibration.fused.gated_delta_net import GATED_DELTA_NET
from attacc.calibration.fused.kind import AnyKind
from attacc.calibration.fused.mamba2 import MAMBA2
from attacc.calibration.fused.moe import MOE
from attacc.calibration.series import MeasuredOperator

KINDS: Final[dict[MeasuredOperator, AnyKind]] = {
    kind.operator: kind for kind in (CUSTOM_ALL_REDUCE, MOE, GATED_DELTA_NET, MAMBA2)
}
"""Operator -> what is known of it. A row of a table goes to the first kind that claims it."""
