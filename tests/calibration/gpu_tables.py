"""Small tables of measurements, made with the calibrated model itself."""

from pathlib import Path

import numpy as np

from attacc.gpu.calibrated.kernels import (
    AttentionShapes,
    CalibratedGpu,
    GemmShapes,
    collective_ns,
    decode_ns,
    matmul_ns,
    prefill_ns,
)
from attacc.models.precision import ElementType

FRAMEWORK, VERSION = "VLLM", "0.24.0"


def gemm_csv(path: Path, *, gpu: str = "h100-sxm-80gb", rows: int = 400) -> Path:
    """Write times that the H100's preset predicts, of shapes drawn at random."""
    generator = np.random.default_rng(0)
    m, n, k = (np.floor(2 ** generator.uniform(low, 14, rows)) for low in (0, 6, 6))
    h100 = CalibratedGpu.load("h100")
    times = matmul_ns(
        h100.gemm(ElementType.BF16, FRAMEWORK, VERSION), h100.gpu, GemmShapes.of(m, n, k)
    )
    lines = ["gpu,framework,version,dtype,m,n,k,latency_ms,power_w"]
    lines += [
        f"{gpu},{FRAMEWORK},{VERSION},bfloat16,{a:.0f},{b:.0f},{c:.0f},{t / 1e6:.9f},"
        for a, b, c, t in zip(m, n, k, times, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def attention_csv(path: Path, *, decode: bool, rows: int = 300) -> Path:
    """Write times that the H100's preset predicts for attention."""
    generator = np.random.default_rng(1)
    batch = np.floor(2 ** generator.uniform(0, 8, rows))
    heads = generator.choice([8, 16, 32], rows)
    kv_heads = generator.choice([1, 4, 8], rows)
    dim = generator.choice([64, 128, 256], rows)
    length = np.floor(2 ** generator.uniform(1, 12, rows))
    h100 = CalibratedGpu.load("h100")
    shapes = AttentionShapes.of(batch, heads, kv_heads, dim, length)
    if decode:
        times = decode_ns(h100.decode(ElementType.BF16), h100.gpu, shapes)
    else:
        times = prefill_ns(h100.prefill(ElementType.BF16), None, h100.gpu, shapes)
    last = "kv_length" if decode else "prompt_length"
    sizes = f"batch_size,num_heads,num_key_value_heads,head_dim,{last}"
    lines = [f"gpu,framework,version,kernel_source,{sizes},kv_cache_dtype,latency_ms,power_w"]
    lines += [
        f"h100-sxm-80gb,{FRAMEWORK},{VERSION},x,{b:.0f},{h},{g},{d},{n:.0f},bfloat16,{t / 1e6:.9f},"
        for b, h, g, d, n, t in zip(batch, heads, kv_heads, dim, length, times, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def nccl_csv(path: Path) -> Path:
    """Write times that the H100's preset predicts for sums."""
    h100 = CalibratedGpu.load("h100")
    lines = ["gpu,op_name,num_gpus,message_elements,latency_ms"]
    for gpus in (2, 4, 8):
        elements = 2.0 ** np.arange(8, 29)
        times = collective_ns(h100.collective("all_reduce"), gpus, 2 * elements)
        lines += [
            f"h100-sxm-80gb,all_reduce,{gpus},{n:.0f},{t / 1e6:.9f}"
            for n, t in zip(elements, times, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path
