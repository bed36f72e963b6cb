"""Attention within a window and over latents, products of heads and sparse modules, by hand."""

from math import isclose

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.gpu.calibrated.coefficients import CALIBRATIONS
from attacc.gpu.calibrated.fused.head_products import HeadShapes, head_product_times
from attacc.gpu.calibrated.fused.latent_attention import (
    LatentForm,
    LatentShapes,
    latent_decode,
    latent_decode_times,
    latent_prefill_times,
)
from attacc.gpu.calibrated.fused.sparse_decode import (
    SparseShapes,
    record_bytes,
    sparse_decode_ns,
    sparse_parts,
)
from attacc.gpu.calibrated.fused.windowed_attention import (
    WindowedShapes,
    mean_keys,
    windowed_decode,
    windowed_decode_times,
    windowed_prefill_ns,
)
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.machine import machine
from attacc.hardware.gpu import GPUS
from attacc.models.precision import ElementType

BF16, FP8 = ElementType.BF16, ElementType.FP8
FAST = 1e9
"""A rate at which nothing takes time."""
MAXIMUM = 500.0
"""A sharpness at which activities overlap entirely."""


def windowed(length: float, window: float, past: float = 0.0, batch: float = 4.0) -> WindowedShapes:
    sizes = {"batch": batch, "heads": 32, "kv_heads": 8, "head_dim": 128}
    return WindowedShapes.of(**sizes, length=length, past=past, window=window)


def latents(batch: float, heads: float, length: float) -> LatentShapes:
    sizes = {"past": 0, "latent": 512, "rope": 64, "nope": 128, "value": 128}
    return LatentShapes.of(batch=batch, heads=heads, length=length, **sizes)


@pytest.mark.parametrize(
    ("past", "keys", "cut"), [(0.0, 1.5, 0.5), (1.0, 1.875, 0.75), (9.0, 2.0, 1.0)]
)
def test_mean_keys_of_tokens_within_a_window(past: float, keys: float, cut: float) -> None:
    """Catches a window that counts earlier keys twice, or cuts the first tokens too.

    Four tokens, a window of two: keys grow to two, and stay there.
    """
    mean, share = mean_keys(windowed(4, 2, past))
    assert isclose(mean[0], keys)
    assert isclose(share[0], cut)


def test_a_window_that_cuts_adds_its_edge_its_search_and_its_blocks() -> None:
    """Catches an edge that is added without a cut, or a cut that reads no masked tile."""
    kernel = CALIBRATIONS.load("h100").windowed_decode_attention[0].kernels[0]
    at = machine(GPUS.load("h100"), BF16)
    vector, none = kernel.coefficients.vector(), np.zeros(3)

    def ns(shapes: WindowedShapes, window: Floats) -> float:
        return float(windowed_decode_times(shapes, at, vector, window)[0][0])

    edge = np.array([64.0, 700.0, 30.0])
    whole = ns(windowed(128, 128), edge)
    assert whole == ns(windowed(128, 4096), none)  # a window that cuts nothing
    longer, rounds = windowed_decode_times(windowed(192, 4096), at, vector, none)
    cut = ns(windowed(4096, 128), edge)
    assert isclose(cut, longer[0] + 700.0 + 30.0 * rounds[0])
    assert cut == ns(windowed(131072, 128), edge)  # however many keys lie before the window


def test_prefill_grows_with_tokens_and_not_with_their_square() -> None:
    """Catches a band of keys that is priced as a triangle."""
    h100 = CALIBRATIONS.load("h100")
    series = h100.windowed_prefill_attention[0]
    gpu = GPUS.load("h100")
    once, twice = (
        float(windowed_prefill_ns(series, gpu, windowed(tokens, 1024))[0])
        for tokens in (8192, 16384)
    )
    assert 1.8 < twice / once < 2.1
    everything = float(windowed_prefill_ns(series, gpu, windowed(16384, 16384))[0])
    assert everything > 4 * twice


def test_no_kernel_for_a_head() -> None:
    """Catches a head that no kernel takes, and that gets the price of an empty array."""
    series = CALIBRATIONS.load("b200").windowed_decode_attention[0]
    narrow = series.model_copy(
        update={"kernels": (series.kernels[0].model_copy(update={"head_dims": (64, 64)}),)}
    )
    with pytest.raises(InputError, match="takes heads of 128 elements"):
        windowed_decode(narrow, GPUS.load("b200"), windowed(1024, 128))
    with pytest.raises(InputError, match="-1 is no size"):
        windowed(-1, 128)


DECODE = np.array(
    [1000, 100, 10, 1, 1, 2, 0.5, 1, 0, 1, FAST, 50, FAST, FAST, MAXIMUM, 0, 0, 0], dtype=np.float64
)
"""Launch, block, bytes per nanosecond of a core, key, share, row, and no other limit."""
TEN_CORES = np.array([2.0, 10.0, FAST, FAST, FAST, 2.0])


def decode_ns(shapes: LatentShapes, parts: int = 0, **changed: float) -> float:
    names = {"resident": 15, "convert": 16, "host": 17}
    vector = DECODE.copy()
    for name, value in changed.items():
        vector[names[name]] = value
    times, _ = latent_decode_times(shapes, TEN_CORES, vector, (64, 64, parts), 1.0)
    return float(times[0])


def test_decode_over_latents_by_hand() -> None:
    """Catches records that are read for keys and values apart, and blocks that share no round."""
    block = 64 * (576 * 2 / 10 + 1) + 100 + 2 * 3  # 64 records, 3 heads
    assert isclose(decode_ns(latents(5, 3, 64)), 1000 + block, rel_tol=1e-6)
    assert isclose(decode_ns(latents(11, 3, 64)), 1000 + 2 * block, rel_tol=1e-6)
    # 65 heads are two blocks, and the second has no fewer records.
    wide = 64 * (576 * 2 / 10 + 1) + 100 + 2 * 64
    assert isclose(decode_ns(latents(11, 65, 64)), 1000 + 3 * wide, rel_tol=1e-6)
    parts = 11 * 3 * 512 * 8 * 2 / (FAST * 10)
    divided = 1000 + 3 * block + 50 + parts  # 22 blocks of at least 64 keys, on 10 cores
    assert isclose(decode_ns(latents(11, 3, 64), parts=2), divided, rel_tol=1e-6)


def test_decode_over_latents_converts_and_waits() -> None:
    """Catches an 8-bit cache that is converted at 16 bits, and a host that is added to the GPU."""
    alone = decode_ns(latents(5, 3, 64))
    assert isclose(decode_ns(latents(5, 3, 64), convert=10.0), alone + 5 * 64 * 576 / 10)
    assert isclose(decode_ns(latents(5, 3, 64), host=alone), alone * 2**0.25)
    assert isclose(decode_ns(latents(5, 3, 64), host=100 * alone), 100 * alone, rel_tol=1e-6)


def test_no_kernel_for_so_many_heads() -> None:
    """Catches heads outside every kernel that get a price of nothing."""
    series = CALIBRATIONS.load("b200").mla_decode[0]
    with pytest.raises(InputError, match="no kernel of SGLang takes 33 heads"):
        latent_decode(
            series.model_copy(update={"kernels": series.kernels[:1]}),
            GPUS.load("b200"),
            latents(1, 33, 64),
        )


PREFILL = np.array([10, 5, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0], dtype=np.float64)
ONE_CORE = np.array([2.0, 1.0, 1.0, 1e15, FAST, 2.0])


def test_prefill_over_latents_by_hand() -> None:
    """Catches a form that is priced as the other one: 1,088 or 320 elements for a pair.

    Two tokens, tiles of two rows and two keys. Expanded, they are one tile. Absorbed, two heads
    are one row each, so that four rows are two tiles.
    """
    wide = latents(1, 1, 2)
    one = latent_prefill_times(wide, ONE_CORE, PREFILL, LatentForm.EXPANDED, (2, 2))
    assert isclose(one[0], 10 + 5 + 2 * 2 * 2 * 320, rel_tol=1e-9)
    two = latent_prefill_times(latents(1, 2, 2), ONE_CORE, PREFILL, LatentForm.ABSORBED, (2, 2))
    assert isclose(two[0], 10 + 2 * (5 + 2 * 2 * 2 * 1088), rel_tol=1e-9)


HEADS = np.array([7, 3, 1, 10, FAST, 1, 1, MAXIMUM, 1], dtype=np.float64)


def test_products_of_heads_by_hand() -> None:
    """Catches weights that stay in the cache in a step, where other layers drive them out."""
    four = HeadShapes.of(m=16, n=64, k=16, heads=4)
    at = np.array([2.0, 4.0, FAST, 8.192, FAST, 2.0])
    kept = head_product_times(four, at, HEADS, weights_cached=True)
    tile = (16 + 64) * 2 * 16 / 10  # bytes of a tile of 16 x 64, one round on four cores
    assert isclose(kept[0], 7 + 3 + tile, rel_tol=1e-6)
    cold = head_product_times(four, at, HEADS, weights_cached=False)
    assert isclose(cold[0], 7 + 3 + 4 * 64 * 16 * 2 / 8.192, rel_tol=1e-6)
    five = HeadShapes.of(m=16, n=64, k=16, heads=5)
    again = head_product_times(five, at, HEADS, weights_cached=True)
    assert isclose(again[0], 7 + 2 * (3 + tile), rel_tol=1e-6)


def module(batch: float, heads: float, length: float) -> SparseShapes:
    sizes = {"hidden": 7168, "query_rank": 1536, "latent": 512, "rope": 64, "nope": 128}
    others = {"value": 128, "index_heads": 64, "index_dim": 128, "chosen": 2048}
    return SparseShapes.of(batch=batch, heads=heads, length=length, **sizes, **others)


def test_records_of_a_sparse_cache() -> None:
    """Catches an 8-bit record without its scales, or with 8-bit rotated elements."""
    latent, rope = np.array([512.0]), np.array([64.0])
    assert record_bytes(latent, rope, FP8)[0] == 656
    assert record_bytes(latent, rope, BF16)[0] == 1152


def test_parts_of_a_sparse_module_by_hand() -> None:
    """Catches a scan of the chosen tokens alone, a choice where all are taken, lost heads."""
    gpu = GPUS.load("h100")
    vector = np.array([1000, 10, 1, 1, 1, 1, 500, 20, 2, 1, 1], dtype=np.float64)
    short = sparse_parts(module(3, 16, 1000), gpu, vector, (BF16, BF16), pads=False)
    long = sparse_parts(module(3, 16, 4000), gpu, vector, (BF16, BF16), pads=False)
    assert short.others_ns[0] == 1000 + 3 * (10 + 16)
    bandwidth = gpu.memory_bytes_per_s * 1e-9
    assert isclose(short.scan_ns[0], 3 * 1000 * (132 + 8) / bandwidth)
    assert isclose(long.scan_ns[0], 3 * 4000 * (132 + 8) / bandwidth + 500)
    assert isclose(long.products_ns[0], short.products_ns[0])
    traffic = 3 * 2048 * 1152 / bandwidth
    arithmetic = 2 * 3 * 64 * 2048 * 1088 / (gpu.peak_flops_per_s(BF16) * 1e-9)
    both = (traffic**3 + arithmetic**3) ** (1 / 3)
    assert isclose(long.attention_ns[0], 20 + 2 * 2048 + both)
    padded = sparse_parts(module(3, 16, 5), gpu, vector, (BF16, FP8), pads=True)
    full = sparse_parts(module(3, 64, 2048), gpu, vector, (BF16, FP8), pads=True)
    assert padded.attention_ns[0] == full.attention_ns[0]


@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
def test_sparse_modules_grow_with_the_scan_only(name: str) -> None:
    """Catches sparse attention that grows with all keys, and a scan that does not."""
    for series in CALIBRATIONS.load(name).sparse_decode:
        gpu = GPUS.load(name)
        near, far, farther = (
            float(sparse_decode_ns(series, gpu, module(64, 64, length))[0])
            for length in (4096, 32768, 61440)
        )
        assert isclose(farther - far, far - near, rel_tol=1e-9)
        assert far > near
