"""Bytes of a decode step between one GPU and the AttAccs: queries and keys there, results back."""

from __future__ import annotations

from typing import Final

import numpy as np

from attacc.models.operators import Attention, IndexScan, LatentAttention, Size

SCORE_BYTES: Final = 4
"""Bytes of the score of a token that comes back from a scan of index keys: fp32."""
INDEX_BYTES: Final = 4
"""Bytes of the number of a chosen token."""
SOFTMAX_BYTES: Final = 2
"""Bytes of a score, and of a probability, that crosses a link."""
PARTIAL_SUM_BYTES: Final = 8
"""Bytes that a part of a head returns with its context: a maximum and a sum of four bytes each."""


def query_bytes(op: Attention | LatentAttention, extra_parts: Size = 0.0) -> Size:
    """Return the bytes that one GPU sends for decode attention: a layer's queries, keys, values.

    Args:
        op: the attention of one GPU.
        extra_parts: parts of its key/value heads beyond one a head; each needs the queries.
    """
    if isinstance(op, LatentAttention):
        width, group, record = op.latent + op.rope_dim, op.heads, op.record
    else:
        width, group = op.head_dim, op.heads // op.kv_heads
        record = op.kv_heads * (op.head_dim + op.values) * op.kv.bytes
    queries = op.heads * width * op.activation.bytes
    again = extra_parts * group * width * op.activation.bytes
    return op.batch * op.queries * (queries + record) + again


def context_bytes(op: Attention | LatentAttention, extra_parts: Size = 0.0) -> Size:
    """Return the bytes that one GPU gets back from decode attention: the contexts of a layer.

    Args:
        op: the attention of one GPU.
        extra_parts: parts of its key/value heads beyond one a head; each returns a context.
    """
    latent = isinstance(op, LatentAttention)
    each = (op.latent if latent else op.values) * op.activation.bytes
    group = op.heads if latent else op.heads // op.kv_heads
    again = extra_parts * group * (each + PARTIAL_SUM_BYTES)
    return op.batch * op.queries * op.heads * each + again


def own_requests(batch: Size, gpus: int) -> Size:
    """Return the requests for which one GPU chooses tokens: its share, rounded up."""
    found = np.ceil(np.asarray(batch, dtype=np.float64) / gpus)
    return float(found) if found.ndim == 0 else found


def scan_bytes(op: IndexScan, gpus: int) -> Size:
    """Return the bytes that one GPU sends for a scan: index queries and index keys of new tokens.

    A query of an index head has the size of a key. The scale of a query takes up the weight of its
    head.

    Args:
        op: the scan of all requests.
        gpus: GPUs that share out the requests.
    """
    return own_requests(op.batch, gpus) * op.queries * (op.heads + 1) * op.key_bytes


def score_bytes(op: IndexScan, gpus: int) -> Size:
    """Return the bytes that one GPU gets back from a scan: a score of every token.

    Args:
        op: as in `scan_bytes`.
        gpus: as in `scan_bytes`.
    """
    return own_requests(op.batch, gpus) * op.queries * op.keys * SCORE_BYTES


def choice_bytes(op: LatentAttention, gpus: int) -> Size:
    """Return the bytes that one GPU sends to tell which tokens were chosen.

    Args:
        op: the attention to the chosen tokens of all requests.
        gpus: as in `scan_bytes`.
    """
    return own_requests(op.batch, gpus) * op.queries * op.keys * INDEX_BYTES
