"""Fit the operators of attacc.calibration.fused, and put their series into the presets.

python benchmarks/gpu_fused.py [SHARED] [--gpu a100 ...] [--operator moe ...] [--write]

Errors are those of cross-validation by shape. Without --write, presets stay as they are. A series
of an operator that is not asked for stays in any case.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

import attacc
from attacc.calibration.check import ALL, accuracy
from attacc.calibration.document import write_document
from attacc.calibration.fit import fit_calibration, held_back_rows
from attacc.calibration.fused.registry import KINDS
from attacc.calibration.measured import read_table
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.hardware.gpu import GPUS
from attacc.report.gpu import accuracy_tables

FILES = {"sparse_decode": "sparse_decode_module"}
"""Operator -> name of its table, where the names differ."""
PRESETS = Path(attacc.__file__).parent / "gpu" / "presets" / "calibration"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", nargs="?", type=Path, default=Path("../shared"))
    parser.add_argument("--gpu", nargs="+", default=["a100", "h100", "h200", "b200"])
    parser.add_argument("--operator", nargs="+", default=[kind.value for kind in KINDS])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    tables = {
        operator: read_table(arguments.shared / "data" / "silicon" / f"{operator}.parquet").series
        for operator in arguments.operator
    }
    for name in arguments.gpu:
        calibration = CalibratedGpu.load(name).calibration
        changes: dict[str, object] = {}
        for operator, series in tables.items():
            began = time.perf_counter()
            mine = [data for data in series if data.key.gpu in calibration.measured_as]
            if not mine:
                continue
            fitted, held_back = fit_calibration(
                name,
                GPUS.load(name),
                mine,
                reference=None,
                source="aiconfigurator",
                folds=arguments.folds,
            )
            changes[operator] = getattr(fitted, operator)
            rows = [
                row for row in accuracy(held_back_rows(held_back, fitted)) if row.size_class == ALL
            ]
            Console().print(accuracy_tables(rows), f"{time.perf_counter() - began:.0f} s")
        if arguments.write:
            write_document(calibration.model_copy(update=changes), PRESETS / f"{name}.toml")


if __name__ == "__main__":
    main()
