"""Claims about models, and about the published system model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attacc.errors import EngineError
from attacc.models.architecture import MODELS
from attacc.models.parameters import count_parameters
from attacc.study.validation import Check, Claim, Figure, Measured, Needs, Room, Tolerance, Unit


@dataclass(frozen=True, slots=True)
class PublishedSize:
    """How many parameters a model has, as published.

    Attributes:
        model: preset.
        parameters: as published, in as many digits.
        source: where.
        exact: whether to the last parameter.
    """

    model: str
    parameters: float
    source: str
    exact: bool = False


HUB: Final = "metadata of the safetensors on the Hugging Face Hub"
SIZES: Final = (
    PublishedSize("gpt3-13b", 12.850e9, "arXiv 2005.14165, table D.1"),
    PublishedSize("gpt3-175b", 174.600e9, "arXiv 2005.14165, table D.1"),
    PublishedSize("llama-65b", 65.2e9, "arXiv 2302.13971, table 2"),
    PublishedSize("mt-nlg-530b", 530e9, "arXiv 2201.11990, section 3.2"),
    PublishedSize("opt-66b", 66e9, "arXiv 2205.01068, table 1"),
    PublishedSize("llama-2-7b", 6_738_415_616, HUB, exact=True),
    PublishedSize("llama-2-70b", 68.977e9, HUB),
    PublishedSize("llama-3.1-8b", 8_030_261_248, HUB, exact=True),
    PublishedSize("llama-3.1-70b", 70_553_706_496, HUB, exact=True),
    PublishedSize("llama-3.1-405b", 405.853e9, HUB),
    PublishedSize("qwen3-32b", 32_762_123_264, HUB, exact=True),
    PublishedSize("mixtral-8x7b", 46_702_792_704, HUB, exact=True),
)


def parameters_are_published() -> Measured:
    """Return the largest deviation of a preset's parameters from what was published."""
    missing = set(MODELS.names()) - {size.model for size in SIZES}
    if missing:
        raise EngineError(f"no published size is known of {', '.join(sorted(missing))}")
    errors = {
        size.model: abs(count_parameters(MODELS.load(size.model)).total / size.parameters - 1)
        for size in SIZES
    }
    worst = max(errors, key=lambda name: errors[name])
    return Measured(errors[worst], len(errors), (Figure(f"worst: {worst}", errors[worst]),))


def exact_parameters() -> Measured:
    """Count the presets whose parameters differ, where the exact number is published."""
    exact = [size for size in SIZES if size.exact]
    other = [
        size for size in exact if count_parameters(MODELS.load(size.model)).total != size.parameters
    ]
    return Measured(len(other), len(exact))


def _checks() -> Iterable[Check]:
    papers = dict.fromkeys(size.source for size in SIZES)
    yield Check(
        Claim(
            id="system-parameters",
            room=Room.SYSTEM,
            statement="Every model preset has as many parameters as its model is published to "
            "have.",
            data=f"12 models ({'; '.join(papers)})",
            tolerance=Tolerance(
                0.01, Unit.SHARE, "papers round: 530 B stands for anything from 525 to 535"
            ),
            limits="Counts, not shapes: two errors could cancel. Where the exact number is known, "
            "see below.",
            tests=("tests/models/test_parameters.py",),
        ),
        measure=parameters_are_published,
    )
    yield Check(
        Claim(
            id="system-exact-parameters",
            room=Room.SYSTEM,
            statement="Where the exact number of parameters is published, it is the preset's.",
            data=f"{sum(size.exact for size in SIZES)} models ({HUB})",
            tolerance=Tolerance(0, Unit.CASES, "a count is right or wrong"),
            limits="Says nothing about the memory that scales of quantised weights take.",
            tests=("tests/models/test_parameters.py", "tests/models/test_huggingface.py"),
        ),
        measure=exact_parameters,
    )
    yield Check(
        Claim(
            id="system-steps",
            room=Room.SYSTEM,
            statement="Operators of a step, transfers, overlaps and capacities are those worked "
            "out by hand.",
            data="small cases by hand; a tile search over both sides of both tiles as witness of "
            "the compiled one",
            tolerance=Tolerance(
                0, Unit.CASES, "the equations are stated (docs/system-model.md): equal, or wrong"
            ),
            limits="Shows that the stated equations are computed, not that they are a machine's.",
            needs=Needs.TESTS,
            tests=(
                "tests/system/test_step.py",
                "tests/system/test_overlap.py",
                "tests/system/test_capacity.py",
                "tests/system/test_published_tiles.py",
            ),
        )
    )


CHECKS: Final = tuple(_checks())
