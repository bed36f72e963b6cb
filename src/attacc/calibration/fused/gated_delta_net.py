"""Measured kernels of gated delta net (Qwen 3.5): convolutions, chunks, and single tokens."""

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
    "chunk_gated_delta_rule_flashinfer": StateRole.CHUNKS,
    "fused_recurrent_gated_delta_rule_packed_decode": StateRole.RECURRENT,
}
"""Kernel in the column kernel_source -> what it does."""
_MOST: Final = 2.0**16


def _shapes(key: SeriesKey, sizes: Mapping[str, Floats]) -> StateShapes:
    del key
    key_heads, heads = sizes["num_k_heads"], sizes["num_v_heads"]
    key_dim, value_dim = sizes["head_k_dim"], sizes["head_v_dim"]
    return StateShapes(
        batch=sizes["batch_size"],
        queries=sizes["seq_len"],
        channels=2 * key_heads * key_dim + heads * value_dim,
        reach=sizes["d_conv"],
        heads=heads,
        key_heads=key_heads,
        key_dim=key_dim,
        value_dim=value_dim,
    )


GATED_DELTA_NET: Final = kind_of_states(
    MeasuredOperator.GATED_DELTA_NET,
    "gdn",
    ROLES,
    {
        "num_k_heads": Allowed(1, _MOST),
        "head_k_dim": Allowed(1, _MOST),
        "num_v_heads": Allowed(1, _MOST),
        "head_v_dim": Allowed(1, _MOST),
    },
    _shapes,
)
"""Kernels of gated delta net. Rows have 16 bits, and states 32."""
