"""Comparisons that several tests look at, and short ways to make others."""

import json
from functools import cache
from typing import Any

from attacc.gpu.models import GpuModel
from attacc.study.compare import Comparison, Performance, SystemResult, compare_study
from attacc.study.specification import StudySpec
from attacc.system.pricer import BatchChoice


@cache
def default_comparison() -> Comparison:
    """Decode of what ``attacc compare`` compares without arguments; made once for all tests."""
    return compare_study(StudySpec(decode_only=True))


@cache
def published_comparison() -> Comparison:
    """The same with the papers' model of GPUs; made once for all tests."""
    return compare_study(StudySpec(gpu_model=GpuModel.PUBLISHED, decode_only=True))


def study(**document: Any) -> StudySpec:
    """Return a study of decode from the keys that a document would have."""
    return StudySpec.model_validate_json(json.dumps({"decode_only": True} | document))


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
