"""Compiled functions that time GPU kernels from their shapes, any number of operators in one call.

Every function is an equation of docs/model/gpu-model.md. Coefficients come as flat arrays, in the
order of the fields of the coefficient records in `attacc.gpu.calibrated.coefficients`. Times are in
nanoseconds, rates in bytes or operations per nanosecond.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from attacc.compiled import inlined, kernel

Floats = NDArray[np.float64]

SPLITS: Final = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128], dtype=np.float64)
"""Numbers of parts into which a kernel may divide the inner dimension, or the keys."""

OPERAND_BYTES: Final = 0
CORES: Final = 1
PEAK_FLOPS_PER_NS: Final = 2
BYTES_PER_NS: Final = 3
L2_BYTES: Final = 4
RIGHT_BYTES: Final = 5
MACHINE_FIELDS: Final = 6
"""Number of fields of the array that describes the GPU; the last one is `RIGHT_BYTES`."""

SMALLEST_SPLIT_INNER: Final = 64.0
"""Inner elements below which a matrix product is not divided further."""
ROUNDS_TO_SPLIT: Final = 4.0
"""Blocks per core beyond which a matrix product is not divided further."""
ACCUMULATOR_BYTES: Final = 8.0
"""Bytes that a partial result moves: 4 bytes are written, and read again."""
RESULT_BYTES: Final = 2.0
TIE: Final = 1e-6
"""Weight of the work in the choice between ways: of equally long waits, the least work wins."""
LARGEST_RESIDENT_TILE: Final = 32768.0
"""Number of results of a tile that leaves no room for a second tile on a core."""

HIDES: Final = 4.0
"""How well the work of the host and of the GPU overlap."""

WAITS_LATENCY: Final = 0
WAITS_COMPUTE: Final = 1
WAITS_MEMORY: Final = 2


@inlined
def joined(a: float, b: float, c: float, sharpness: float) -> float:
    """Return the time of three activities that overlap, between their maximum and their sum.

    At least one of the three takes time, because every kernel moves data through the memory.
    """
    most = max(a, b, c)
    total = (a / most) ** sharpness + (b / most) ** sharpness + (c / most) ** sharpness
    return most * total ** (1.0 / sharpness)


@inlined
def slowed(time_ns: float, compute_ns: float, share: float, after_ns: float) -> float:
    """Return a time at the lower clock that the power limit leaves to arithmetic-bound kernels."""
    busy = min(1.0, compute_ns / time_ns) if time_ns > 0.0 else 0.0
    return time_ns / (1.0 - (1.0 - share) * busy * time_ns / (time_ns + after_ns))


@kernel
def matmul_times(
    m: Floats,
    n: Floats,
    k: Floats,
    machine: Floats,
    coefficients: Floats,
    tiles: Floats,
    splits: Floats,
    time_ns: Floats,
    waits: NDArray[np.int8],
) -> int:
    """Time products of an (m, k) with a (k, n) matrix.

    Args:
        m: rows.
        n: columns.
        k: inner dimension.
        machine: `MACHINE_FIELDS` numbers.
        coefficients: those of `GemmCoefficients`, then those of `QuantiseCoefficients`, or zeros if
            nothing is converted, then those of `HostCoefficients`, or zeros if the host is not
            waited for.
        tiles: one row for each kernel of the library: rows above and up to, columns above and up
            to, tile rows, tile columns, tiles of a cluster, most splits.
        splits: `SPLITS`.
        time_ns: array for the times, which the function writes.
        waits: array for the bound of each product, which the function writes.

    Returns:
        0, or the index of a product that no kernel of the library takes, plus 1.
    """
    launch, fill, share, core_load, l2_core = coefficients[:5]
    read_share, write_share, split_ns, split_core, step_ns = coefficients[5:10]
    sustained, after_ns, sharpness, resident = coefficients[10:14]
    row_ns, fast_gb, slow_gb, ragged, single_row = coefficients[14:19]
    host_ns, ragged_host = coefficients[19:21]
    left, cores, peak, bandwidth, l2_bytes, right = machine[:6]
    core_peak = share * peak / cores
    l2_rate = l2_core * cores
    split_rate = split_core * cores
    for i in range(m.size):
        rows, columns, inner = m[i], n[i], k[i]
        dram = (rows * left + columns * right) * inner / (bandwidth * read_share)
        dram += rows * columns * RESULT_BYTES / (bandwidth * write_share)
        best = math.inf
        best_compute = best_move = best_l2 = best_start = best_split = 0.0
        for t in range(tiles.shape[0]):
            if not (tiles[t, 0] < rows <= tiles[t, 1] and tiles[t, 2] < columns <= tiles[t, 3]):
                continue
            tm, tn, cluster = tiles[t, 4], tiles[t, 5], tiles[t, 6]
            high = np.ceil(rows / (tm * cluster)) * cluster
            if cluster > 1.0 and high * tm > rows and rows > tm:
                high += ragged * cluster
            blocks = high * np.ceil(columns / tn)
            tile_bytes = tm * left + tn * right
            all_l2 = blocks * tile_bytes * inner / l2_rate
            all_compute = blocks * tm * tn * inner * 2.0 / core_peak
            if max(all_l2, all_compute / cores) + fill >= best:
                continue  # even if nothing else took time
            at_once = min(resident, max(1.0, LARGEST_RESIDENT_TILE / (tm * tn)))
            best_of_tile = math.inf
            for j in range(splits.size):
                parts = splits[j]
                if parts > 1.0 and (
                    parts > tiles[t, 7]
                    or blocks * parts > ROUNDS_TO_SPLIT * cores
                    or inner / parts < SMALLEST_SPLIT_INNER
                ):
                    break
                depth = inner / parts
                queue = np.ceil(blocks * parts / cores)
                rounds = np.ceil(queue / at_once)
                compute = queue / (blocks * parts) * all_compute
                move = max(queue * tile_bytes * depth / core_load, rounds * depth * step_ns)
                l2 = all_l2
                start = rounds * fill
                split = 0.0
                if parts > 1.0:
                    split = split_ns + parts * rows * columns * ACCUMULATOR_BYTES / split_rate
                time = max(compute, move, l2, dram) + start + split
                time += TIE * (compute + move + l2)
                if time >= best_of_tile:
                    break
                best_of_tile = time
                if time < best:
                    best = time
                    best_compute, best_move, best_l2 = compute, move, l2
                    best_start, best_split = start, split
        if best == math.inf:
            return i + 1
        busy = joined(best_compute, max(best_move, best_l2), dram, sharpness)
        work = slowed(busy, best_compute, sustained, after_ns)
        start = launch + best_start + best_split
        if row_ns > 0.0:
            moved = rows * inner * 3.0
            away = min(1.0, max(0.0, moved / l2_bytes - 0.5))
            rate = moved * ((1.0 - away) / fast_gb + away / slow_gb)
            start += max(row_ns * rows / cores, rate)
            if rows == 1.0:
                start += single_row
        time_ns[i] = start + work
        host = host_ns
        if rows % 4.0 > 0.0 and columns % 64.0 == 0.0 and inner % 128.0 == 0.0:
            host += ragged_host
        if host > 0.0:
            time_ns[i] = ((start + work) ** HIDES + host**HIDES) ** (1.0 / HIDES)
        if start > work or host > start + work:
            waits[i] = WAITS_LATENCY
        else:
            waits[i] = WAITS_COMPUTE if best_compute >= max(best_l2, dram) else WAITS_MEMORY
    return 0


@kernel
def decode_times(
    batch: Floats,
    heads: Floats,
    kv_heads: Floats,
    dim: Floats,
    length: Floats,
    machine: Floats,
    coefficients: Floats,
    kernels: Floats,
    splits: Floats,
    time_ns: Floats,
    rounds: Floats,
) -> int:
    """Time decode attention: one query of every head over all keys and values.

    Args:
        batch: requests.
        heads: query heads.
        kv_heads: key/value heads.
        dim: elements of a head.
        length: keys of every request.
        machine: `MACHINE_FIELDS` numbers; the bytes of an operand are those of the cache.
        coefficients: those of `DecodeCoefficients`, one row for each kernel.
        kernels: one row for each kernel: smallest and largest group that it takes, fewest blocks of
            work that it takes, whether it reads keys once per group (1) or per query head (0),
            whether it divides the keys of a head (1), whether it does so also without groups (1),
            smallest and largest size of a head.
        splits: `SPLITS`.
        time_ns: array for the times, which the function writes.
        rounds: array for the blocks that a core works through one after another, which the function
            writes.

    Returns:
        0, or the index of a shape that no kernel takes, plus 1.
    """
    size, cores, peak, bandwidth = machine[:4]
    for i in range(batch.size):
        group = heads[i] / kv_heads[i]
        chosen = -1
        blocks_of_work = batch[i] * kv_heads[i] * max(1.0, np.floor(length[i] / 128.0))
        for c in range(kernels.shape[0]):
            takes = kernels[c, 6] <= dim[i] <= kernels[c, 7]
            takes = takes and kernels[c, 0] <= group <= kernels[c, 1]
            if takes and blocks_of_work >= kernels[c, 2]:
                chosen = c
                break
        if chosen < 0:
            return i + 1
        grouped, splittable = kernels[chosen, 3], kernels[chosen, 4]
        if group == 1.0:
            splittable = kernels[chosen, 5]
        launch, block_ns, block_dim_ns, core_load, key_ns = coefficients[chosen, :5]
        compute_share, row_ns, read_share, write_share, ramp_ns = coefficients[chosen, 5:10]
        ramp_bytes, l2_core, split_ns, split_core, split_keys = coefficients[chosen, 10:15]
        resident, regroup_ns, large, sharpness = coefficients[chosen, 15:19]
        if grouped > 0.0:
            base = batch[i] * kv_heads[i] * np.ceil(group / 64.0)
            rows = min(group, 64.0)
        else:
            base, rows = batch[i] * heads[i], 1.0
        wide = dim[i] / 128.0
        block = block_ns + block_dim_ns * wide + row_ns * rows * wide
        if batch[i] > 992.0:
            block *= large
        kv_bytes = 2.0 * batch[i] * kv_heads[i] * length[i] * dim[i] * size
        others = batch[i] * dim[i] * (4.0 * heads[i] + 2.0 * size * kv_heads[i])
        dram = kv_bytes / (bandwidth * read_share) + others / (bandwidth * write_share)
        dram += ramp_ns * kv_bytes / (kv_bytes + ramp_bytes)
        l2 = 2.0 * base * length[i] * dim[i] * size / (l2_core * cores)
        best = math.inf
        best_cores = best_split = best_queue = 0.0
        for j in range(splits.size):
            parts = splits[j]
            if parts > 1.0 and (
                splittable == 0.0
                or length[i] / parts < split_keys
                or base * (parts - 1.0) > 2.0 * max(resident, 1.0) * cores
            ):
                break
            queue = np.ceil(base * parts / (cores * resident))
            keys = np.ceil(length[i] / parts / 64.0) * 64.0
            load = queue * resident * 2.0 * keys * dim[i] * size / core_load
            load += queue * keys * key_ns
            compute = 0.0
            if grouped > 0.0:
                compute = queue * resident * 4.0 * max(rows, 16.0) * keys * dim[i]
                compute /= compute_share * peak / cores
            split = 0.0
            if parts > 1.0:
                split = split_ns + parts * batch[i] * heads[i] * dim[i] * ACCUMULATOR_BYTES / (
                    split_core * cores
                )
            on_cores = max(load, compute) + queue * block
            time = max(on_cores, dram, l2) + split
            if time >= best:
                continue
            best, best_cores, best_split, best_queue = time, on_cores, split, queue
        rounds[i] = best_queue
        time_ns[i] = launch + best_split + joined(best_cores, dram, l2, sharpness)
        if grouped > 0.0 and group > 1.0 and batch[i] > 1.0 and kv_heads[i] > 1.0:
            time_ns[i] += regroup_ns
    return 0


@kernel
def prefill_times(
    batch: Floats,
    heads: Floats,
    kv_heads: Floats,
    dim: Floats,
    length: Floats,
    past: Floats,
    within: Floats,
    machine: Floats,
    coefficients: Floats,
    pack: float,
    time_ns: Floats,
) -> int:
    """Time causal attention of prompts, or of chunks of them.

    Args:
        batch: requests.
        heads: query heads.
        kv_heads: key/value heads.
        dim: elements of a head, 64 to 256.
        length: new tokens of every prompt.
        past: keys before the new tokens.
        within: mean over the new tokens of the length of their own chunk; equal to ``length`` where
            all chunks are equal.
        machine: `MACHINE_FIELDS` numbers.
        coefficients: those of `PrefillCoefficients`.
        pack: 1 where the queries of a group fill the rows of a tile together, else 0.
        time_ns: array for the times, which the function writes.

    Returns:
        0.
    """
    launch, tile_ns, tile_rows, row_ns, key_ns, key_dim_ns = coefficients[:6]
    shares = coefficients[6:10]
    io_share, kv_passes, longest, sustained, after_ns = coefficients[10:15]
    cores, peak, bandwidth = machine[1:4]
    for i in range(batch.size):
        group = heads[i] / kv_heads[i] if pack > 0.0 else 1.0
        tile_keys = 128.0 if dim[i] <= 128.0 else 80.0
        high = 1.5 * tile_rows if dim[i] <= 64.0 and tile_rows == 128.0 else tile_rows
        tiles = np.ceil(length[i] * group / high)
        blocks = batch[i] * (heads[i] / group) * tiles
        tokens = high / group
        keys = past[i] + within[i]
        all_keys = np.ceil(keys / tile_keys) * tile_keys
        computed = min(all_keys, past[i] + within[i] / 2.0 + max(tokens, tile_keys) / 2.0)
        read = min(keys, past[i] + within[i] / 2.0 + tokens / 2.0)
        wide = dim[i] / 128.0
        # The shares are for 64, 128, 192 and 256 elements. Between them the share is interpolated.
        place = min(3.0, max(0.0, dim[i] / 64.0 - 1.0))
        below = min(2, int(place))
        share = shares[below] + (shares[below + 1] - shares[below]) * (place - below)
        compute = 4.0 * high * computed * dim[i] / (share * peak / cores)
        load = read * (key_ns + key_dim_ns * wide)
        rows = min(high, length[i] * group)
        block = tile_ns + max(compute, load) + rows * row_ns * wide
        last = block * all_keys / computed
        queue = np.ceil(blocks / cores)
        in_rounds = queue * block
        in_order = max(
            blocks * block / cores + longest * (last - block) * (1.0 - 1.0 / queue), last
        )
        on_cores = in_rounds if tiles == 1.0 else in_order
        moved = length[i] * heads[i] + keys * kv_passes * kv_heads[i]
        moved *= 4.0 * batch[i] * dim[i]
        time = on_cores + moved / (bandwidth * io_share)
        time_ns[i] = launch + slowed(time, on_cores, sustained, after_ns)
    return 0
