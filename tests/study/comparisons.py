"""Comparisons that several tests look at, and short ways to make others."""

import json
from functools import cache
from typing import Any

from attacc.study.compare import Comparison, Performance, SystemResult, compare_study
from attacc.study.specification import StudySpec
from attacc.system.pricer import BatchChoice

PAPERS = (
    "dgx-base",
    "dgx-large",
    "2xdgx",
    "dgx-cpu",
    "dgx-attacc-bank",
    "dgx-attacc-bankgroup",
    "dgx-attacc-buffer",
)
"""The platforms of the papers."""


@cache
def default_comparison() -> Comparison:
    """Decode of what ``attacc compare asplos2024`` compares; made once for all tests."""
    return compare_study(study())


@cache
def published_comparison() -> Comparison:
    """The same with the papers' model of GPUs; made once for all tests."""
    return compare_study(study(gpu_model="published"))


def study(**document: Any) -> StudySpec:
    """Return a study of decode from the keys that a document would have, by default the papers'."""
    papers: dict[str, Any] = {"model": "gpt3-175b", "systems": PAPERS, "decode_only": True}
    asked = papers | document
    lengths = asked.get("workload", {})
    if not lengths.keys() & {"trace", "synthetic"}:
        asked["workload"] = {"prompt": 2048, "output": 2048} | lengths
    return StudySpec.model_validate_json(json.dumps(asked))


def rows(**document: Any) -> tuple[SystemResult, ...]:
    """Return the systems of a comparison."""
    return compare_study(study(**document)).systems


def served(result: SystemResult) -> tuple[BatchChoice, Performance]:
    """Return the batch and the performance of a system that does what is asked."""
    assert result.status == "ok", result.reason
    assert result.reason is None
    assert result.batch is not None
    assert result.performance is not None
    return result.batch, result.performance
