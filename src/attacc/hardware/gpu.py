"""GPUs: what a data sheet says of one, and which of its rates an operator computes at."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, field_validator

from attacc.documents import DocumentName, Presets, PresetSpec
from attacc.models.precision import BlockFormat, ElementType, WeightType
from attacc.units import (
    BytesPerSecond,
    Dollars,
    DollarsPerHour,
    OperationsPerSecond,
    Quantity,
)

Memory = Annotated[float, Quantity("bytes", "1 MB", "1 PB")]
"""What one GPU has of its own."""
_Level1 = Annotated[float, Quantity("bytes", "2 KiB", "1 GiB")]
"""An 8 x 8 tile of 2-byte elements over an inner dimension of 32 takes 1.1 KiB."""
_Level2 = Annotated[float, Quantity("bytes", "2 KiB", "1 TiB")]
_BoardPower = Annotated[float, Quantity("watts", "1 W", "1 MW")]

_COMPUTED_AS: Final[dict[WeightType, ElementType]] = {
    BlockFormat.FP8_BLOCK: ElementType.FP8,
    BlockFormat.NVFP4: ElementType.FP8,
    BlockFormat.MXFP4: ElementType.FP8,
    BlockFormat.INT4_G128: ElementType.INT4,
    BlockFormat.INT4_G32: ElementType.INT4,
}
"""Type in which a product with block formats is computed, where activations are as narrow."""


class GpuSpec(PresetSpec):
    """One GPU.

    Attributes:
        peak_flops: element type of the operands -> dense peak rate of matrix products; fp16 must
            be there. A type that is absent is computed in fp16.
        fp4_flops: dense peak rate of products of 4-bit floating point; None where it has no units
            for them.
        memory_bytes_per_s: bandwidth of its own memory.
        memory_bytes: capacity of its own memory.
        cores: streaming multiprocessors.
        l1_bytes: first-level cache and shared memory of one core.
        l2_bytes: second-level cache.
        board_power_w: most power of the board; None where it is not stated.
        link: preset of the link between boards of this GPU; None if not stated.
        calibration: calibration whose coefficients price its operators, scaled to this data sheet:
            a preset's name or a file. None for the calibration of this GPU's name.
        memory_stacks: DRAM stacks of its memory; None if not stated.
        price_usd: price of the board; None if not stated.
        build_cost_usd: what it costs to make the board; None if not stated.
        rent_usd_per_h: price of an hour of the GPU, on demand, with its share of the node; None if
            not stated.
    """

    peak_flops: dict[ElementType, OperationsPerSecond] = Field(validation_alias="peak")
    fp4_flops: OperationsPerSecond | None = Field(default=None, validation_alias="fp4_peak")
    memory_bytes_per_s: BytesPerSecond = Field(validation_alias="memory_bandwidth")
    memory_bytes: Memory = Field(validation_alias="memory")
    cores: int = Field(gt=0, le=100_000)
    l1_bytes: _Level1 = Field(validation_alias="l1")
    l2_bytes: _Level2 = Field(validation_alias="l2")
    board_power_w: _BoardPower | None = Field(default=None, validation_alias="board_power")
    link: str | None = None
    calibration: DocumentName | None = None
    memory_stacks: int | None = Field(default=None, ge=1, le=64)
    price_usd: Dollars | None = Field(default=None, validation_alias="price")
    build_cost_usd: Dollars | None = Field(default=None, validation_alias="build_cost")
    rent_usd_per_h: DollarsPerHour | None = Field(default=None, validation_alias="rent")

    @field_validator("peak_flops")
    @classmethod
    def _computes_in_16_bits(
        cls, peak: dict[ElementType, OperationsPerSecond]
    ) -> dict[ElementType, OperationsPerSecond]:
        if ElementType.FP16 not in peak:
            raise ValueError('the rate of fp16 is missing: add fp16 = "... TFLOPS"')
        return peak

    def peak_flops_per_s(self, *operands: WeightType) -> float:
        """Return the peak rate of a matrix product of operands of these types.

        The product is computed in the wider of the types, floating point before integers, and
        4-bit integers as 8-bit ones: 4-bit weights with 16-bit activations run at the 16-bit rate.
        Where the GPU has no rate for that type (8-bit floating point on an A100), it computes in
        16 bits.
        """
        kinds = {_COMPUTED_AS.get(operand, operand) for operand in operands}
        for element in (ElementType.FP16, ElementType.BF16, ElementType.FP8):
            if element in kinds:
                break
        else:
            element = ElementType.INT8
        return self.peak_flops.get(element, self.peak_flops[ElementType.FP16])


GPUS: Final = Presets("GPU", GpuSpec, "attacc.hardware", "presets/gpu")
