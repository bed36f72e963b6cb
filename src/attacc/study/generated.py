"""A text that a language model wrote with its attention on AttAccs, and the costs of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from attacc.errors import InputError
from attacc.hardware.placement import Placement
from attacc.results import Result


class HostType(StrEnum):
    """The type in which the host keeps weights and activations."""

    AUTO = "auto"
    """The type in which they are stored; weights of GGUF files are unpacked to fp16."""
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: divisor of the scores before a token is drawn; 0 takes the likeliest token.
        seed: seed of the draws.

    Raises:
        InputError: the temperature is negative.
    """

    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(
                f"{self.temperature} is negative", where="temperature", hint="use 0, or more than 0"
            )


@dataclass(frozen=True, slots=True)
class GeneratedStep:
    """Attention of one token, in all layers.

    Attributes:
        token: number of the token in the vocabulary.
        text: text of the token by itself.
        keys: keys that the token attended to, its own included.
        cycles: cycles of the stacks' command clock, summed over layers, each of its slowest stack.
        time_ns: the same duration in nanoseconds.
        energy_pj: energy of commands and units of all stacks, without refresh and standby.
        link_ns: time on the link: queries and new keys and values inwards, contexts outwards.
        link_pj: energy of the link.
        bytes_in: bytes over the link into the AttAccs.
        bytes_out: bytes over the link out of the AttAccs.
        bank_read_bytes: bytes that the units read in the banks.
        read_over_link: `bank_read_bytes` over the bytes on the link, both ways.
        saturated: new elements of keys and values that were clipped to the scale of an 8-bit
            format.
        host_wall_s: wall time of the whole step on this machine, simulation included.
    """

    token: int
    text: str
    keys: int
    cycles: int
    time_ns: float
    energy_pj: float
    link_ns: float
    link_pj: float
    bytes_in: int
    bytes_out: int
    bank_read_bytes: int
    read_over_link: float
    saturated: int
    host_wall_s: float


@dataclass(frozen=True, slots=True)
class GeneratedPrefill:
    """The prompt, computed on the host.

    Attributes:
        tokens: number of tokens of the prompt.
        bytes_in: bytes of keys and values of all layers, into the AttAccs.
        link_ns: time of these bytes on the link.
        saturated: elements that were clipped to the scale of an 8-bit format.
        host_wall_s: wall time on this machine, first use of compiled kernels included.
    """

    tokens: int
    bytes_in: int
    link_ns: float
    saturated: int
    host_wall_s: float


@dataclass(frozen=True, slots=True)
class Generated(Result):
    """A text that was written with attention on AttAccs.

    Attributes:
        model: name of the model's file or folder.
        host_dtype: type of weights and activations on the host.
        device: the DRAM device's name.
        placement: where the units sit.
        devices: number of AttAccs.
        stacks_per_device: stacks of each AttAcc.
        link: name of the link between host and each AttAcc.
        power_limited: whether multiplies keep the cadence of the power budget.
        queries_per_read: queries that a read serves at most.
        kv: format of keys and values in the banks.
        accumulate: format of the units' sums.
        temperature: temperature at which tokens were drawn; 0 for the likeliest ones.
        seed: seed of the draws.
        prompt: the prompt as given.
        text: the written text.
        tokens: number of written tokens, including the one that ended the text.
        ended: whether the model ended its text.
        prefill: costs of the prompt.
        steps: attention of each written token except the last, which never attends. A prompt of one
            token adds one step for this token.
    """

    model: str
    host_dtype: str
    device: str
    placement: Placement
    devices: int
    stacks_per_device: int
    link: str
    power_limited: bool
    queries_per_read: int
    kv: str
    accumulate: str
    temperature: float
    seed: int
    prompt: str
    text: str
    tokens: int
    ended: bool
    prefill: GeneratedPrefill
    steps: tuple[GeneratedStep, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for the attention of each token."""
        return [dataclasses.asdict(step) for step in self.steps]
