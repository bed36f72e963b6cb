"""Links between GPUs, and from GPUs to CPUs and AttAcc devices."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from attacc.documents import Presets, PresetSpec, Spec
from attacc.units import BytesPerSecond, Nanoseconds, NanosecondsPerByte, PicojoulesPerByte


class CollectiveLatency(Spec):
    """Time of one step of a collective, as a line fitted to measurements.

    Attributes:
        start_ns: time of a step without data.
        ns_per_byte: additional time for each byte that one device sends in the step.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    ns_per_byte: NanosecondsPerByte = Field(validation_alias="per_byte")


class LinkSpec(PresetSpec):
    """The link of one device.

    Attributes:
        both_ways_bytes_per_s: bandwidth of both directions together, as data sheets state it.
        energy_pj_per_byte: energy of every byte moved.
        collective: latency of a collective's steps; absent where nothing is published. The
            published GPU model prices collectives with it. The calibrated GPU model only asks
            whether it is there, and scales measured collectives by the link's bandwidth.
    """

    both_ways_bytes_per_s: BytesPerSecond = Field(validation_alias="bandwidth")
    energy_pj_per_byte: PicojoulesPerByte = Field(validation_alias="energy")
    collective: CollectiveLatency | None = None

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth of one direction."""
        return self.both_ways_bytes_per_s / 2


LINKS: Final = Presets("link", LinkSpec, "attacc.hardware", "presets/link")
