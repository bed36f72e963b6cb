"""How work on AttAcc and work on the GPUs hide each other, as in the published system model.

With r = 1 / (heads of one GPU), a = attention, x = transfers and f = qkv + projection, heads form
a pipeline in which all but the first of each stage's parts overlap the longest stage
(reference/system-model.md, "Overlap"). Times may be arrays with one element for each step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""Nanoseconds, one for each step."""


@dataclass(frozen=True, slots=True, eq=False)
class Visible:
    """The part of each stage that attention does not hide, in nanoseconds, for each step.

    Attributes:
        transfer_ns: visible part of the transfers.
        qkv_ns: visible part of the QKV generation.
        projection_ns: visible part of the projection.
    """

    transfer_ns: Times
    qkv_ns: Times
    projection_ns: Times


def basic_overlap(*, attention_ns: float | Times, transfer_ns: float | Times, r: float) -> Times:
    """Return the transfer time that attention does not hide.

    The transfers of all heads but one pass while attention works on other heads.
    """
    hidden_ns = attention_ns * (1 - r)
    return np.where(attention_ns > transfer_ns, r * transfer_ns, transfer_ns - hidden_ns)


def head_level_pipelining(
    *,
    attention_ns: float | Times,
    transfer_ns: float | Times,
    qkv_ns: float | Times,
    projection_ns: float | Times,
    qkv_share: float,
    r: float,
) -> Visible:
    """Return the parts of the surrounding stages that attention, head by head, does not hide.

    Args:
        attention_ns: attention of one layer.
        transfer_ns: transfers to and from AttAcc.
        qkv_ns: QKV generation.
        projection_ns: projection.
        qkv_share: share of the QKV generation in the work that attention hides; in the published
            model 3/4, the share of its weights with as many key/value heads as query heads.
        r: 1 / heads of one GPU.
    """
    fc_ns = qkv_ns + projection_ns
    hidden_ns = attention_ns * (1 - r)
    covers = np.asarray(attention_ns > fc_ns)
    outlasts = np.asarray(fc_ns > transfer_ns)
    overlapped_ns = basic_overlap(attention_ns=attention_ns, transfer_ns=transfer_ns, r=r)
    beside_ns = np.where(outlasts, r * transfer_ns, transfer_ns - hidden_ns)
    # Where QKV or projection is too short for its share, the other one hides the rest.
    of_projection_ns = np.minimum(
        projection_ns, hidden_ns - np.minimum(qkv_ns, qkv_share * hidden_ns)
    )
    of_qkv_ns = hidden_ns - of_projection_ns
    shared = ~covers & outlasts
    return Visible(
        np.where(covers, overlapped_ns, beside_ns),
        np.where(shared, qkv_ns - of_qkv_ns, r * qkv_ns),
        np.where(shared, projection_ns - of_projection_ns, r * projection_ns),
    )


def coprocessed_share(
    *,
    compute_bound: bool | NDArray[np.bool_],
    rows: float | Times,
    weight_bytes: float,
    peak_flops_per_s: float | Times,
    memory_bytes_per_s: float | Times,
    internal_bytes_per_s: float,
) -> Times:
    """Return the share of a product's columns that AttAcc computes while the GPU does the rest.

    Both sides end together. A memory-bound GPU reads a weight once for all rows, while AttAcc reads
    it once per row. So their rates are as 1 to w/rows, with w the ratio of bandwidths. On a
    compute-bound GPU, AttAcc adds the arithmetic of its units, two operations per weight read.

    Args:
        compute_bound: whether the product is compute-bound on the GPU.
        rows: rows of the left matrix.
        weight_bytes: bytes of one weight.
        peak_flops_per_s: peak rate of the GPU.
        memory_bytes_per_s: memory bandwidth of the GPU.
        internal_bytes_per_s: internal bandwidth of the AttAccs that serve one GPU.
    """
    w = internal_bytes_per_s / memory_bytes_per_s
    units_flops_per_s = 2 * memory_bytes_per_s * w / weight_bytes
    return np.where(
        compute_bound,
        units_flops_per_s / (peak_flops_per_s + units_flops_per_s),
        (w / rows) / (1 + w / rows),
    )
