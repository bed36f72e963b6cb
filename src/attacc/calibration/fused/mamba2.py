"""Measured convolutions of Mamba-2 layers. The recurrence itself is in no table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attacc.calibration.fused.states import kind_of_states
from attacc.calibration.series import MeasuredOperator, SeriesKey
from attacc.calibration.tables import Allowed
from attacc.gpu.calibrated.fused.state import StateRole, StateShapes
from attacc.gpu.calibrated.limits import Floats

ROLES: Final = {
    "causal_conv1d_fn": StateRole.CONVOLUTION_PREFILL,
    "causal_conv1d_update": StateRole.CONVOLUTION_DECODE,
}
"""Kernel in the column kernel_source -> what it does."""
_MOST: Final = 2.0**16


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> StateShapes:
    del key
    heads, groups = sizes["nheads"], sizes["n_groups"]
    columns, elements = sizes["d_state"], sizes["head_dim"]
    return StateShapes(
        batch=sizes["batch_size"],
        queries=sizes["seq_len"],
        channels=heads * elements + 2 * groups * columns,
        reach=sizes["d_conv"],
        heads=heads,
        key_heads=groups,
        key_dim=columns,
        value_dim=elements,
    )


MAMBA2: Final = kind_of_states(
    MeasuredOperator.MAMBA2,
    "mamba2",
    ROLES,
    {
        "d_state": Allowed(1, _MOST),
        "nheads": Allowed(1, _MOST),
        "head_dim": Allowed(1, _MOST),
        "n_groups": Allowed(1, _MOST),
        "chunk_size": Allowed(1, _MOST),
    },
    _shapes,
)
"""Convolutions of Mamba-2 layers, with 16-bit rows."""
