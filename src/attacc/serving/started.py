"""How engines are started: options under names that users know, and defaults of each engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from attacc.errors import InputError, member
from attacc.pim.mapping.resident_counts import Policy as Residence
from attacc.serving.engines.policy import Policy
from attacc.serving.engines.sarathi import Sarathi, SarathiSettings
from attacc.serving.engines.sglang import Sglang, SglangSettings
from attacc.serving.engines.static import Static, StaticSettings
from attacc.serving.engines.vllm_v0 import VllmV0, VllmV0Settings
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.system.pricer import Pricer
from attacc.units import finite, whole
from attacc.workload.requests import Requests

LARGE_GPU_BYTES: Final = 70 * 2**30
"""Memory of a GPU from which on vLLM's server takes larger steps; A100 is left out."""
NO_LIMIT: Final = 2**31


class PolicyName(StrEnum):
    """A batching policy."""

    VLLM_V1 = "vllm-v1"
    DISAGGREGATED = "disaggregated"
    """vLLM V1 on some GPUs that prefill, and on others that decode."""
    VLLM_V0 = "vllm-v0"
    SARATHI = "sarathi"
    SGLANG = "sglang"
    STATIC = "static"


VERSIONS: Final = {
    PolicyName.VLLM_V1: "0.16",
    PolicyName.DISAGGREGATED: "0.16",
    PolicyName.VLLM_V0: "0.6",
    PolicyName.SARATHI: "7d47513",
    PolicyName.SGLANG: "0.5.8",
    PolicyName.STATIC: "7d47513",
}
"""Versions whose rules are played; those of Sarathi and static batching are commits of Vidur."""
V1: Final = (PolicyName.VLLM_V1, PolicyName.DISAGGREGATED)
"""Policies whose engines are of vLLM V1."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """Times of an engine that neither the price of a step nor the host's coefficients hold.

    Attributes:
        layer_us: microseconds of the devices for each layer in every step: small kernels that no
            price counts, and gaps between kernels.
        request_ms: milliseconds of a request outside the engine: HTTP, tokenising, and messages
            between processes. They count in TTFT and E2EL, and take no time of the engine. In a
            closed loop, a client does not send its next request later for them.
    """

    layer_us: float = 0.0
    request_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("layer_us", "request_ms"):
            finite(getattr(self, name), where=name, least=0, most=MOST_OVERHEAD)

    @property
    def estimates(self) -> tuple[str, ...]:
        """What they are estimated by: nothing where they are none."""
        if self == NO_OVERHEADS:
            return ()
        told = f"{self.layer_us:g} us for each layer and step, {self.request_ms:g} ms for a request"
        measured = self in (ASYNCHRONOUS, SYNCHRONOUS)
        return (f"overheads of the engine: {told}{MEASURED_ON if measured else ', as given'}",)


MOST_OVERHEAD: Final = 1e4
"""Most microseconds of a layer, and most milliseconds of a request."""
MEASURED_ON: Final = ", as fitted to vLLM 0.15.1 on H100"
NO_OVERHEADS: Final = Overheads()
ASYNCHRONOUS: Final = Overheads(layer_us=35.3, request_ms=13.8)
"""Overheads of vLLM V1 that schedules a step ahead. Fitted by ``benchmarks/open_loop.py`` to eight
runs of dense models on vLLM 0.15.1 and H100 (docs/evidence/open-loop.md)."""
SYNCHRONOUS: Final = Overheads(request_ms=ASYNCHRONOUS.request_ms)
"""Overheads of vLLM V1 with one step in flight. Its host's coefficients were fitted to whole steps,
and hold the time of the layers."""
ASYNCHRONOUS_FROM: Final = (0, 14)
"""Version of vLLM that schedules a step ahead by default."""


def policy_of(name: str) -> PolicyName:
    """Return a batching policy by its name.

    Args:
        name: as users give it.

    Raises:
        UnknownNameError: there is no such policy.
    """
    return member(PolicyName, name, where="policy")


def residence_of(name: str) -> Residence:
    """Return where keys go in the channels of AttAccs, by its name.

    Args:
        name: as users give it.

    Raises:
        UnknownNameError: there is no such policy.
    """
    return member(Residence, name, where="residence")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a policy of one's own has to keep.

    Attributes:
        blocks: blocks of memory.
        block_tokens: tokens of a block.
        max_num_seqs: most running requests.
        max_num_batched_tokens: most tokens of a step.
        max_model_len: most tokens of a request.
    """

    blocks: int
    block_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is started with, under vLLM's names; None for the engine's default.

    Attributes:
        policy: the batching policy.
        engine_version: version of vLLM V1 whose rules are played.
        max_num_seqs: most running requests.
        max_num_batched_tokens: most tokens of a step; tokens of a chunk for Sarathi and SGLang.
        block_tokens: tokens of a block of memory.
        kv_blocks: blocks of memory.
        kv_memory_fraction: share of each GPU's memory that the engine may use
            (``gpu_memory_utilization``), where blocks are not given.
        max_model_len: most tokens of a request. By default there is no limit: a model's context is
            told, and not enforced.
        prefix_caching: whether requests find what others have computed; vLLM V1 alone.
        prefill_gpus: GPUs of each system that prefill, with the policy "disaggregated".
        overheads: of the engine beside priced steps; None for those measured of vLLM V1, and for
            none with any other engine, since none were measured.
        residence: where keys go in the channels of AttAccs that attend.
        own: makes a policy of one's own from its limits, in place of `policy`
            (docs/howto/policies.md). Limits that are not given are 256 requests, and 8,192 tokens
            of a step.
    """

    policy: PolicyName = PolicyName.VLLM_V1
    engine_version: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_tokens: int = 16
    kv_blocks: int | None = None
    kv_memory_fraction: float = 0.9
    max_model_len: int | None = None
    prefix_caching: bool = True
    prefill_gpus: int | None = None
    overheads: Overheads | None = None
    residence: Residence = Residence.RESIDENT
    own: Callable[[Limits], Policy] | None = None

    def __post_init__(self) -> None:
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "kv_blocks",
            "max_model_len",
            "prefill_gpus",
        ):
            if getattr(self, name) is not None:
                whole(getattr(self, name), where=name)
        whole(self.block_tokens, where="block_tokens")
        share = finite(self.kv_memory_fraction, where="kv_memory_fraction", least=0)
        if not 0 < share <= 1:
            raise InputError(
                f"{share:g} is out of range",
                where="kv_memory_fraction",
                hint="use a share above 0 and up to 1, as 0.9",
            )
        apart = self.policy is PolicyName.DISAGGREGATED
        if apart and self.prefill_gpus is None:
            raise InputError(
                "how many GPUs prefill is not said",
                where="prefill_gpus",
                hint="give a part of the system's GPUs; the others decode",
            )
        if not apart and self.prefill_gpus is not None:
            raise InputError(
                f"GPUs that only prefill ({self.prefill_gpus}) are of no use with {self.policy}",
                where="prefill_gpus",
                hint="leave it out, or use disaggregated",
            )
        if self.own is not None and (self.engine_version is not None or apart):
            raise InputError(
                "a policy of your own is played in place of an engine's",
                where="own",
                hint="leave out policy and engine_version",
            )
        if self.engine_version is not None and self.policy not in V1:
            raise InputError(
                f"{self.policy} is played as of {VERSIONS[self.policy]} alone",
                where="engine_version",
                hint="leave it out, or use vllm-v1",
            )

    @property
    def version(self) -> str:
        """The version whose rules are played."""
        return self.engine_version or VERSIONS[self.policy]

    @property
    def title(self) -> str:
        """The policy and its version, for people."""
        if self.own is not None:
            return str(getattr(self.own, "name", None) or getattr(self.own, "__name__", "own"))
        return f"{self.policy} {self.version}"


def overheads_of(options: EngineOptions) -> Overheads:
    """Return the overheads of an engine.

    Args:
        options: what it is started with.

    Raises:
        InputError: the version is none.
    """
    if options.overheads is not None:
        return options.overheads
    if options.own is not None or options.policy not in V1:
        return NO_OVERHEADS
    return ASYNCHRONOUS if version_of(options.version) >= ASYNCHRONOUS_FROM else SYNCHRONOUS


def version_of(text: str) -> tuple[int, int]:
    """Return the first two numbers of an engine's version.

    Args:
        text: as in "0.15.1".

    Raises:
        InputError: it is none.
    """
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        raise InputError(
            f"{text!r:.40} is no version", where="engine_version", hint="write it as in 0.16"
        )
    return int(parts[0]), int(parts[1])


@dataclass(frozen=True, slots=True)
class Started:
    """An engine that is started.

    Attributes:
        policy: the engine.
        capacity: blocks, or tokens for SGLang, of memory that requests can have.
        unit_tokens: tokens of one of them.
    """

    policy: Policy
    capacity: int
    unit_tokens: int


def start(pricer: Pricer, requests: Requests, options: EngineOptions) -> Started:
    """Start an engine on the GPUs of a pricer.

    Args:
        pricer: prices its steps, and knows the memory.
        requests: what it will serve.
        options: what is asked.

    Raises:
        CapacityError: not even one token fits.
        InputError: the version is none.
    """
    seqs, tokens = options.max_num_seqs, options.max_num_batched_tokens
    longest, size = options.max_model_len or NO_LIMIT, options.block_tokens

    def blocks(step_tokens: int, requests_at_once: int) -> int:
        return _blocks(pricer, requests, options, step_tokens, requests_at_once)

    if options.own is not None:
        most, budget = seqs or 256, tokens or 8192
        count = blocks(budget, most)
        return Started(options.own(Limits(count, size, most, budget, longest)), count, size)
    match options.policy:
        case PolicyName.VLLM_V1:
            settings = v1_settings(pricer, requests, options)
            return Started(VllmV1(settings), settings.blocks - 1, size)
        case PolicyName.DISAGGREGATED:
            raise InputError(
                "two engines serve together, and one was to be started",
                where="policy",
                hint="use attacc.service.Server, or vllm-v1",
            )
        case PolicyName.VLLM_V0:
            most, limit = seqs or 256, min(longest, int(requests.workload().max_final_tokens))
            count = blocks(tokens or max(limit, 2048), most)
            v0 = VllmV0Settings(
                count, limit, size, max_num_batched_tokens=tokens, max_num_seqs=most
            )
            return Started(VllmV0(v0), count, size)
        case PolicyName.SARATHI:
            most, chunk = seqs or 128, tokens or 512
            count = blocks(chunk, most)
            sarathi = SarathiSettings(count, size, batch_size_cap=most, chunk_size=chunk)
            return Started(Sarathi(sarathi), count, size)
        case PolicyName.SGLANG:
            most, chunk = seqs or 2048, tokens or 8192
            slots = blocks(chunk, most) * size
            most = min(most, max(1, slots // 2))
            sglang = SglangSettings(slots, chunked_prefill_size=chunk, max_running_requests=most)
            return Started(Sglang(sglang), slots, 1)
        case PolicyName.STATIC:
            most, limit = seqs or 128, min(longest, int(requests.workload().max_final_tokens))
            count = blocks(limit, most)
            return Started(Static(StaticSettings(count, limit, size, most)), count, size)


def v1_settings(pricer: Pricer, requests: Requests, options: EngineOptions) -> VllmV1Settings:
    """Return what an engine of vLLM V1 is started with.

    Args:
        pricer: as in `start`.
        requests: as in `start`.
        options: as in `start`.

    Raises:
        CapacityError: as in `start`.
        InputError: as in `start`.
    """
    gpu = pricer.system.gpu
    large = gpu.memory_bytes >= LARGE_GPU_BYTES and not gpu.name.startswith("a100")
    budget = options.max_num_batched_tokens or (8192 if large else 2048)
    most = options.max_num_seqs or (1024 if large else 256)
    # One block is a placeholder.
    count = _blocks(pricer, requests, options, budget, most) + (options.kv_blocks is None)
    version = version_of(options.version)
    return VllmV1Settings(
        blocks=count,
        block_tokens=options.block_tokens,
        max_model_len=options.max_model_len or NO_LIMIT,
        max_num_batched_tokens=budget,
        max_num_seqs=most,
        prefix_caching=options.prefix_caching,
        asynchronous=version >= ASYNCHRONOUS_FROM,
        reserve_full_isl=version >= (0, 19),
    )


def _blocks(
    pricer: Pricer, requests: Requests, options: EngineOptions, step_tokens: int, at_once: int
) -> int:
    """Return the blocks that are asked for, or that fit beside steps of so many tokens."""
    if options.kv_blocks is not None:
        return options.kv_blocks
    need = pricer.need(requests.workload(), chunk_tokens=step_tokens, staggered=True)
    return pricer.most_tokens(need, at_once) // options.block_tokens
