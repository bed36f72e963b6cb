"""Documents of calibrations: what is shipped, and what is written."""

from pathlib import Path

import pytest

from attacc.calibration.document import write_document
from attacc.documents import load_document
from attacc.gpu.calibrated.coefficients import CALIBRATIONS, CalibrationSpec
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.gpu.frameworks import SERVING
from attacc.hardware.gpu import GPUS


@pytest.mark.parametrize("name", CALIBRATIONS.names())
def test_every_calibration_names_its_source(name: str) -> None:
    """Catches a preset without a source, of no GPU, or scaled without saying so."""
    spec = CALIBRATIONS.load(name)
    assert spec.name == name
    assert spec.gpu in GPUS.names()
    assert spec.sources["default"]
    assert bool(spec.gemm) == (spec.scaled_from is None)
    assert ("scaled, not measured" in spec.description) == (spec.scaled_from is not None)
    reference = CalibratedGpu.load(name).calibration
    assert reference.reference in {series.framework for series in reference.gemm}


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "b200"])
def test_the_reference_library_keeps_to_the_goals(name: str) -> None:
    """Catches a refitted preset whose error on shapes held back exceeds the project's goals."""
    spec = CALIBRATIONS.load(name)
    for kind, goal in (("gemm", 0.10), ("decode", 0.12), ("prefill", 0.12)):
        errors = [s.error for s in getattr(spec, kind) if s.framework == spec.reference]
        assert errors
        assert max(errors) <= goal
    assert {s.operation: s.error for s in spec.collectives}["all_reduce"] <= 0.10


@pytest.mark.parametrize("name", SERVING.names())
def test_every_framework_has_series(name: str) -> None:
    """Catches a framework without coefficients or sources."""
    spec = SERVING.load(name)
    assert spec.series
    assert spec.sources["default"]


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Catches a unit, a table or an optional field that is lost on the way to a file."""
    spec = CALIBRATIONS.load("h200")
    path = tmp_path / "h200.toml"
    write_document(spec, path)
    assert load_document(CalibrationSpec, path) == spec
