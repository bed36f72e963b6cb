"""The policy of the how-to: one class, played like any other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

import attacc
from attacc.errors import InputError
from attacc.service import EngineOptions, Limits, Policy
from attacc.workload.requests import Requests

pytestmark = pytest.mark.untraced  # other tests reach these lines, too

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/howto/policies.md").read_text(encoding="utf-8")


def of_the_page() -> Callable[[Limits], Policy]:
    code = PAGE.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(code.split("service = ")[0], names)  # noqa: S102 - the project's own page
    found = names["ShortestFirst"]
    assert isinstance(found, type)
    assert issubclass(found, Policy)
    return cast("Callable[[Limits], Policy]", found)


def test_the_policy_of_the_page_serves() -> None:
    """Catches a page whose class does not run, and a policy that is not the one that was given."""
    requests = Requests.from_trace(ROOT / "examples/requests.csv")
    options = EngineOptions(own=of_the_page(), max_num_seqs=4)
    found = attacc.serve("llama-3.1-8b", "8xh100", requests, options=options)
    assert (found.policy, found.latencies.completed) == ("shortest-first", len(requests))
    assert found.latencies.preemptions == 0
    assert found.run.policy.free == found.kv_blocks
    steps = found.run.steps
    assert int(steps.column("running").max()) == 4
    # All outputs but the first of each request are decoded, one in each step.
    outputs = int(requests.output_tokens.sum())
    assert int(steps.column("decoding").sum()) == outputs - len(requests)
    together = replace(requests, arrival_s=None)
    found = attacc.serve("llama-3.1-8b", "8xh100", together, options=options)
    firsts = found.requests_frame().sort("prompt")["first_ps"].to_list()
    assert firsts == sorted(firsts)


def test_the_policy_of_the_page_serves_with_attaccs() -> None:
    """Catches calls that do not tell which requests begin to decode."""
    requests = Requests.from_trace(ROOT / "examples/requests.csv")
    options = EngineOptions(own=of_the_page())
    found = attacc.serve("llama-3.1-70b", "8xh100-attacc-hbm3", requests, options=options)
    assert found.imbalance is not None
    some = found.run.steps.column("decoding") > 0
    assert (found.run.steps.column("channel_keys")[some] > 0).all()


def test_limits_are_those_that_were_given() -> None:
    """Catches limits that do not reach the policy, and options that do not fit it."""
    seen: list[Limits] = []

    def make(limits: Limits) -> Policy:
        seen.append(limits)
        return of_the_page()(limits)

    options = EngineOptions(
        own=make, kv_blocks=300, block_tokens=32, max_num_seqs=5, max_model_len=4096
    )
    attacc.serve("llama-3.1-8b", "8xh100", Requests.fixed(100, 5, 3), options=options)
    assert seen == [Limits(300, 32, 5, 8192, 4096)]
    with pytest.raises(InputError, match="in place of an engine's"):
        EngineOptions(own=make, engine_version="0.16")
