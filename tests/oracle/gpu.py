"""The equations of docs/model/gpu-model.md, one shape at a time, in the plainest Python.

Coefficients come by name, times are in nanoseconds, rates in bytes per nanosecond. Nothing here
is compiled, and no choice is cut short: every tile and every division of the work is tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Numbers = Mapping[str, float]
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def joined(times: Sequence[float], sharpness: float) -> float:
    most = max(times)
    return most * sum((time / most) ** sharpness for time in times) ** (1 / sharpness)


def slowed(time: float, compute: float, share: float, after: float) -> float:
    busy = min(1.0, compute / time)
    return time / (1 - (1 - share) * busy * time / (time + after))


def matmul(
    m: int,
    n: int,
    k: int,
    gpu: Numbers,
    c: Numbers,
    quantise: Numbers | None,
    tiles: Sequence[Sequence[float]],
    host: Numbers | None = None,
) -> float:
    left_bytes, right_bytes, cores = gpu["operand_bytes"], gpu["right_bytes"], gpu["cores"]
    dram = (m * left_bytes + n * right_bytes) * k / (gpu["bandwidth"] * c["read_share"])
    dram += m * n * 2 / (gpu["bandwidth"] * c["write_share"])
    candidates: list[tuple[float, float]] = []
    for low, high, left, right, tm, tn, cluster, most in tiles:
        if not (low < m <= high and left < n <= right):
            continue
        rows = math.ceil(m / (tm * cluster)) * cluster
        if cluster > 1 and rows * tm > m > tm and quantise is not None:
            rows += quantise["ragged_tiles"] * cluster
        blocks = rows * math.ceil(n / tn)
        previous = math.inf
        for parts in SPLITS:
            if parts > 1 and (parts > most or blocks * parts > 4 * cores or k / parts < 64):
                break
            depth = k / parts
            queue = math.ceil(blocks * parts / cores)
            rounds = math.ceil(queue / min(c["resident"], max(1, 32768 / (tm * tn))))
            compute = queue * tm * tn * depth * 2 / (c["compute_share"] * gpu["peak"] / cores)
            load = queue * (tm * left_bytes + tn * right_bytes) * depth / c["core"]
            move = max(load, rounds * depth * c["step"])
            l2 = blocks * (tm * left_bytes + tn * right_bytes) * k / (c["l2_core"] * cores)
            split = 0.0
            if parts > 1:
                split = c["split"] + parts * m * n * 8 / (c["split_core"] * cores)
            chosen_by = max(compute, move, l2, dram) + rounds * c["tile"] + split
            chosen_by += 1e-6 * (compute + move + l2)
            if chosen_by >= previous:
                break  # the model stops dividing where it no longer helps
            previous = chosen_by
            work = joined((compute, max(move, l2), dram), c["sharpness"])
            work = slowed(work, compute, c["sustained_share"], c["sustained_after"])
            candidates.append((chosen_by, work + rounds * c["tile"] + split))
    time = c["launch"] + min(candidates, key=lambda pair: pair[0])[1]
    if quantise is not None:
        moved = 3 * m * k
        away = min(1.0, max(0.0, moved / gpu["l2"] - 0.5))
        traffic = moved * ((1 - away) / quantise["fast"] + away / quantise["slow"])
        time += max(quantise["row"] * m / cores, traffic)
        time += quantise["single_row"] if m == 1 else 0.0
    if host is not None:
        ragged = m % 4 > 0 and n % 64 == 0 and k % 128 == 0
        started = host["host"] + (host["ragged_rows"] if ragged else 0.0)
        time = (time**4 + started**4) ** 0.25
    return time


def decode(
    batch: int, heads: int, kv_heads: int, dim: int, length: int, gpu: Numbers, c: Numbers
) -> float:
    """One kernel that reads keys once per group and divides them."""
    size, cores = gpu["operand_bytes"], gpu["cores"]
    group = heads / kv_heads
    base = batch * kv_heads * math.ceil(group / 64)
    rows, wide = min(group, 64), dim / 128
    block = c["block"] + c["block_dim"] * wide + c["row"] * rows * wide
    if batch > 992:
        block *= c["large_batch"]
    kv_bytes = 2 * batch * kv_heads * length * dim * size
    others = batch * dim * (4 * heads + 2 * size * kv_heads)
    dram = kv_bytes / (gpu["bandwidth"] * c["read_share"])
    dram += others / (gpu["bandwidth"] * c["write_share"])
    dram += c["ramp"] * kv_bytes / (kv_bytes + c["ramp_bytes"])
    l2 = 2 * base * length * dim * size / (c["l2_core"] * cores)
    candidates: list[tuple[float, float]] = []
    for parts in SPLITS:
        if parts > 1 and (
            length / parts < c["split_keys"]
            or base * (parts - 1) > 2 * max(c["resident"], 1) * cores
        ):
            break
        queue = math.ceil(base * parts / (cores * c["resident"]))
        keys = math.ceil(length / parts / 64) * 64
        load = queue * c["resident"] * 2 * keys * dim * size / c["core"] + queue * keys * c["key"]
        compute = queue * c["resident"] * 4 * max(rows, 16) * keys * dim
        compute /= c["compute_share"] * gpu["peak"] / cores
        split = 0.0
        if parts > 1:
            split = c["split"] + parts * batch * heads * dim * 8 / (c["split_core"] * cores)
        on_cores = max(load, compute) + queue * block
        chosen_by = max(on_cores, dram, l2) + split
        candidates.append((chosen_by, split + joined((on_cores, dram, l2), c["sharpness"])))
    time = c["launch"] + min(candidates, key=lambda pair: pair[0])[1]
    return time + (c["regroup"] if group > 1 and batch > 1 and kv_heads > 1 else 0.0)


def prefill(
    batch: int,
    heads: int,
    kv_heads: int,
    dim: int,
    length: int,
    gpu: Numbers,
    c: Numbers,
    *,
    pack: bool,
) -> float:
    cores = gpu["cores"]
    group = heads / kv_heads if pack else 1
    tile_keys = 128 if dim <= 128 else 80
    high = c["tile_rows"] * (1.5 if dim <= 64 and c["tile_rows"] == 128 else 1)
    tiles = math.ceil(length * group / high)
    blocks = batch * heads / group * tiles
    tokens = high / group
    all_keys = math.ceil(length / tile_keys) * tile_keys
    computed = min(all_keys, length / 2 + max(tokens, tile_keys) / 2)
    read = min(length, length / 2 + tokens / 2)
    share = c[f"share_{dim}"]
    compute = 4 * high * computed * dim / (share * gpu["peak"] / cores)
    load = read * (c["key"] + c["key_dim"] * dim / 128)
    rows = min(high, length * group)
    block = c["tile"] + max(compute, load) + rows * c["row"] * dim / 128
    last = block * all_keys / computed
    queue = math.ceil(blocks / cores)
    if tiles == 1:
        on_cores = queue * block
    else:
        in_order = blocks * block / cores + c["longest"] * (last - block) * (1 - 1 / queue)
        on_cores = max(in_order, last)
    moved = batch * length * dim * (4 * heads + 4 * c["kv_passes"] * kv_heads)
    time = on_cores + moved / (gpu["bandwidth"] * c["io_share"])
    return c["launch"] + slowed(time, on_cores, c["sustained_share"], c["sustained_after"])
