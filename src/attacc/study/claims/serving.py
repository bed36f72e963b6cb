"""Claims about serving, end to end: time per output token, and to the first one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from attacc.calibration.check import ALL, Accuracy
from attacc.calibration.serving import check_serving, read_runs
from attacc.gpu.frameworks import SERVING
from attacc.study.claims.validation import (
    Check,
    Claim,
    Figure,
    Measured,
    Needs,
    ReferenceData,
    Room,
    Tolerance,
    Unit,
)

TABLE: Final = "end_to_end.csv"


def recorded(operator: str) -> Measured:
    """Return the mean error that the presets record; each series has the weight of its runs."""
    total, points = 0.0, 0
    told: list[Figure] = []
    for name in SERVING.names():
        for series in SERVING.load(name).series:
            error = series.tpot_error if operator == "tpot" else series.ttft_error
            total, points = total + series.points * error, points + series.points
            words = filter(None, (name, series.version, series.dtype))
            told.append(Figure(" ".join(words), error, group="in cross-validation"))
    return Measured(total / points, points, tuple(told))


def predicted(operator: str, reference: ReferenceData) -> Measured:
    """Predict the runs of dense models, and return the mean absolute error."""
    rows = [
        row
        for row in check_serving(read_runs(reference.silicon / TABLE), by_version=True)
        if row.size_class == ALL and row.operator == operator
    ]
    known = [(row, row.mape) for row in rows if row.mape is not None]
    points = sum(row.points for row, _ in known)
    outside = sum(row.out_of_range for row in rows)
    worst, most = max(known, key=lambda pair: pair[1])
    return Measured(
        sum(row.points * mape for row, mape in known) / points,
        points,
        (
            Figure("error", most, group=f"worst, {_named(worst)}"),
            Figure("runs", worst.points, Unit.COUNT, f"worst, {_named(worst)}"),
            Figure("runs outside the model's range", outside, Unit.COUNT),
            *recorded(operator).figures,
        ),
    )


def _named(row: Accuracy) -> str:
    return " ".join(filter(None, (row.framework, row.version, row.dtype, "on", row.gpu)))


def _checks() -> Iterable[Check]:
    for operator, name, most in (
        ("tpot", "The time per output token", 0.15),
        ("ttft", "The time to the first token", 0.25),
    ):
        yield Check(
            Claim(
                id=f"serving-{operator}",
                room=Room.SERVING,
                statement=f"{name} of dense models that vLLM, SGLang and TensorRT-LLM serve on 1 "
                "to 8 GPUs, as predicted, is that measured, on average over all runs.",
                data=f"data/silicon/{TABLE}: published runs at constant concurrency "
                "(ai-dynamo/aiconfigurator, Apache-2.0)",
                tolerance=Tolerance(
                    most,
                    Unit.SHARE,
                    "the project's goal; arrivals and schedulers of the runs are not known",
                ),
                limits="14 coefficients per framework, version and element type were fitted "
                "to these runs. No experts, and no requests beyond what the memory holds: those "
                "runs are counted as outside.",
                needs=Needs.REFERENCE,
                tests=("tests/calibration/test_reference.py",),
            ),
            measure=partial(recorded, operator),
            with_data=partial(predicted, operator),
            files=(f"data/silicon/{TABLE}",),
            libraries=("polars",),
        )


CHECKS: Final = tuple(_checks())
