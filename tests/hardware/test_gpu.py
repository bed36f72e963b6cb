from pathlib import Path

import pytest

from attacc.documents import load_document
from attacc.errors import DocumentError, UnknownNameError
from attacc.hardware.gpu import GPUS, GpuSpec
from attacc.models.precision import ElementType

GOOD = """
name = "mine"
memory_bandwidth = "1 TB/s"
memory = "16 GiB"
cores = 10
l1 = "128 KiB"
l2 = "6 MiB"
[peak]
fp16 = "100 TFLOPS"
"""


def load(tmp_path: Path, text: str) -> GpuSpec:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_document(GpuSpec, path)


@pytest.mark.parametrize("name", GPUS.names())
def test_every_preset_loads_and_names_its_sources(name: str) -> None:
    """Catches a preset that is malformed, misnamed, or without sources."""
    gpu = GPUS.load(name)
    assert gpu.name == name
    assert gpu.description
    assert {"default", "peak", "memory_bandwidth", "memory"} <= gpu.sources.keys()


def test_presets_are_those_of_the_papers() -> None:
    """Catches a changed figure of a preset that the published runs depend on."""
    a100a, h100 = GPUS.load("a100a"), GPUS.load("h100")
    assert (a100a.peak_flops_per_s(ElementType.FP16), a100a.memory_bytes_per_s) == (312e12, 3352e9)
    assert (h100.peak_flops_per_s(ElementType.FP16), h100.memory_bytes_per_s) == (989.4e12, 3352e9)
    assert a100a.memory_bytes == 5 * 16 * 2**30


@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        ((ElementType.FP16, ElementType.FP16), 312e12),
        ((ElementType.BF16, ElementType.INT4), 312e12),
        ((ElementType.FP16, ElementType.INT8), 312e12),
        ((ElementType.INT8, ElementType.INT8), 624e12),
        ((ElementType.INT8, ElementType.INT4), 624e12),
        ((ElementType.FP8, ElementType.FP8), 312e12),
    ],
)
def test_an_a100_computes_in_the_wider_type(
    operands: tuple[ElementType, ElementType], expected: float
) -> None:
    """Catches W4A16 at the rate of integers, and fp8 at a rate that an A100 does not have."""
    assert GPUS.load("a100").peak_flops_per_s(*operands) == expected


def test_an_h100_has_fp8() -> None:
    """Catches fp8 computed in 16 bits where the GPU has it."""
    h100 = GPUS.load("h100")
    assert h100.peak_flops_per_s(ElementType.FP8, ElementType.INT4) == 1978.8e12


def test_a_document_of_ones_own(tmp_path: Path) -> None:
    """Catches quantities that lose their unit."""
    gpu = load(tmp_path, GOOD)
    assert (gpu.memory_bytes, gpu.l2_bytes, gpu.cores) == (16 * 2**30, 6 * 2**20, 10)


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("cores = 10", "cores = 0", r"cores: 0 is out of range"),
        ("cores = 10", "corse = 10", r"corse: unknown key 'corse'.*did you mean 'cores'"),
        ("cores = 10", "", r"cores: missing key 'cores'"),
        ('memory = "16 GiB"', 'memory = "16 GB/s"', r"memory: unknown unit 'GB/s' for bytes"),
        ('memory = "16 GiB"', "memory = 16", r"memory: bytes must be text with a unit"),
        ('l1 = "128 KiB"', 'l1 = "1 KiB"', r"l1: '1 KiB' is not within 2 KiB to"),
        ('fp16 = "100 TFLOPS"', 'int8 = "100 TOPS"', r"peak: the rate of fp16 is missing"),
        ('fp16 = "100 TFLOPS"', 'fp15 = "100 TFLOPS"', r"peak.*fp16"),
        ('"1 TB/s"', '"-1 TB/s"', r"memory_bandwidth: .*must be a positive number"),
    ],
)
def test_a_fault_names_file_and_field(
    tmp_path: Path, line: str, replacement: str, message: str
) -> None:
    """Catches a fault that passes, or a message that does not say where it is."""
    with pytest.raises(DocumentError, match=message) as caught:
        load(tmp_path, GOOD.replace(line, replacement))
    assert "mine.toml" in str(caught.value)


def test_a_misspelt_preset_proposes_the_nearest() -> None:
    """Catches an unknown name without a way out."""
    with pytest.raises(UnknownNameError, match="did you mean 'a100'"):
        GPUS.load("a1000")
