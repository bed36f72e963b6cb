"""The kinds of measured operators of this package."""

from __future__ import annotations

from typing import Final

from attacc.calibration.fused.custom_all_reduce import CUSTOM_ALL_REDUCE
from attacc.calibration.fused.gated_delta_net import GATED_DELTA_NET
from attacc.calibration.fused.head_products import MLA_BATCHED_MATMUL
from attacc.calibration.fused.kind import AnyKind
from attacc.calibration.fused.latent_attention import MLA_DECODE, MLA_PREFILL
from attacc.calibration.fused.mamba2 import MAMBA2
from attacc.calibration.fused.moe import MOE
from attacc.calibration.fused.sparse_decode import SPARSE_DECODE
from attacc.calibration.fused.windowed_attention import WINDOWED_DECODE, WINDOWED_PREFILL
from attacc.calibration.series import MeasuredOperator

KINDS: Final[dict[MeasuredOperator, AnyKind]] = {
    kind.operator: kind
    for kind in (
        CUSTOM_ALL_REDUCE,
        MOE,
        GATED_DELTA_NET,
        MAMBA2,
        WINDOWED_DECODE,
        WINDOWED_PREFILL,
        MLA_DECODE,
        MLA_PREFILL,
        MLA_BATCHED_MATMUL,
        SPARSE_DECODE,
    )
}
"""Operator -> what is known of it. A row of a table goes to the first kind that claims it."""
