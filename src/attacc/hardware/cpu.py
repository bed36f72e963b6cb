"""CPUs that attention can be offloaded to."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from attacc.documents import Presets, PresetSpec
from attacc.units import Bytes, BytesPerSecond, OperationsPerSecond, PicojoulesPerByte


class CpuSpec(PresetSpec):
    """One socket with its memory.

    Attributes:
        peak_flops_per_s: fp32 vector arithmetic, to which narrower operands are converted.
        memory_bytes_per_s: bandwidth of its memory.
        memory_bytes: capacity of its memory.
        memory_pj_per_byte: energy of every byte read.
    """

    peak_flops_per_s: OperationsPerSecond = Field(validation_alias="peak")
    memory_bytes_per_s: BytesPerSecond = Field(validation_alias="memory_bandwidth")
    memory_bytes: Bytes = Field(validation_alias="memory")
    memory_pj_per_byte: PicojoulesPerByte = Field(validation_alias="memory_energy")


CPUS: Final = Presets("CPU", CpuSpec, "attacc.hardware", "presets/cpu")
