"""Random workloads and settings for serving engines, and how long their steps take.

Pools are small, so that requests are preempted; prompts share beginnings; arrivals come in bursts;
some prompts are longer than the token budget, and a few are longer than the model allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.serving.golden_vectors import Asked

PRIVATE = 100
"""First of the contents that one request alone has."""


class StepLike(Protocol):
    """A step: its kind, and its rows of (request, new tokens, tokens with KV before them)."""

    @property
    def kind(self) -> str: ...
    @property
    def rows(self) -> Sequence[tuple[int, int, int]]: ...


@dataclass(frozen=True)
class Cost:
    """Times of a step, ps: integers that grow with what the step computes.

    Attributes:
        base: time of an empty step.
        token: time of each new token.
        past: time of each token before the new ones.
        host: time of the host for each row.
    """

    base: int
    token: int
    past: int
    host: int

    def duration_ps(self, step: StepLike) -> int:
        """Time on the device; prefills alone take a little more."""
        work = sum(self.token * new + self.past * known for _, new, known in step.rows)
        return self.base + work + (7 if step.kind == "P" else 0)

    def host_ps(self, step: StepLike) -> int:
        """Time on the host."""
        return self.host * len(step.rows)


def costs() -> SearchStrategy[Cost]:
    """Costs of steps, with a host that takes no time, less than the device, or more."""
    return st.builds(
        Cost,
        base=st.integers(50, 1000),
        token=st.integers(0, 20),
        past=st.integers(0, 2),
        host=st.sampled_from([0, 0, 3, 400]),
    )


@st.composite
def asked(draw: st.DrawFn) -> tuple[Asked, ...]:
    """Requests: shared and private prompts, arrivals at once, in a burst or far apart."""
    times = draw(st.lists(st.integers(0, 6000), min_size=1, max_size=3))
    requests: list[Asked] = []
    for index in range(draw(st.integers(1, 9))):
        prompt: list[tuple[int, int]] = []
        if draw(st.booleans()):
            prompt.append((draw(st.integers(0, 1)), draw(st.sampled_from([16, 31, 32, 33, 48]))))
        if not prompt or draw(st.booleans()):
            prompt.append((PRIVATE + index, draw(st.integers(1, 60))))
        outputs = draw(st.one_of(st.integers(1, 4), st.integers(1, 40)))
        requests.append(Asked(draw(st.sampled_from(times)), tuple(prompt), outputs))
    return tuple(requests)


def vllm_v1(**fixed: Any) -> SearchStrategy[dict[str, Any]]:
    """Settings of vLLM V1."""
    return st.fixed_dictionaries(
        {
            "blocks": st.integers(5, 20),
            "max_model_len": st.sampled_from([64, 96, 4096]),
            "max_num_batched_tokens": st.sampled_from([9, 16, 33, 64, 200]),
            "max_num_seqs": st.sampled_from([1, 2, 4, 64]),
            "prefix_caching": st.booleans(),
            "long_prefill_token_threshold": st.sampled_from([0, 0, 0, 20]),
            "asynchronous": st.booleans(),
            "reserve_full_isl": st.booleans(),
            "watermark": st.sampled_from([0.0, 0.0, 0.1]),
        }
        | {name: st.just(value) for name, value in fixed.items()}
    )


def vllm_v0() -> SearchStrategy[dict[str, Any]]:
    """Settings of vLLM V0; without chunked prefill the budget may be less than a prompt."""
    return st.fixed_dictionaries(
        {
            "blocks": st.integers(4, 20),
            "max_model_len": st.sampled_from([64, 96, 2048]),
            "max_num_batched_tokens": st.sampled_from([64, 96, 2048]),
            "max_num_seqs": st.sampled_from([1, 2, 4, 64]),
            "chunked_prefill": st.booleans(),
            "watermark": st.sampled_from([0.01, 0.1]),
        }
    )


def sarathi() -> SearchStrategy[dict[str, Any]]:
    """Settings of Sarathi."""
    return st.fixed_dictionaries(
        {
            "blocks": st.integers(4, 20),
            "batch_size_cap": st.sampled_from([1, 2, 4, 128]),
            "chunk_size": st.sampled_from([4, 16, 33, 512]),
            "watermark_blocks_fraction": st.sampled_from([0.01, 0.1]),
        }
    )


def sglang() -> SearchStrategy[dict[str, Any]]:
    """Settings of SGLang."""
    return st.fixed_dictionaries(
        {
            "pool_tokens": st.integers(40, 200),
            "chunked_prefill_size": st.sampled_from([8, 32, 8192]),
            "max_prefill_tokens": st.sampled_from([50, 16384]),
            "max_running_requests": st.sampled_from([1, 2, 4, 2048]),
            "conservativeness": st.sampled_from([0.0, 0.1, 0.3, 1.0]),
            "insert_outputs": st.booleans(),
        }
    )


def static() -> SearchStrategy[dict[str, Any]]:
    """Settings of static batching."""
    return st.fixed_dictionaries(
        {
            "blocks": st.integers(5, 30),
            "batch_size": st.sampled_from([1, 3, 8]),
            "max_tokens": st.sampled_from([64, 100]),
        }
    )
