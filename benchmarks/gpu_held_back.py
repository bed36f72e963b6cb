"""Errors of the calibrated GPU model on shapes that its coefficients have not seen.

python benchmarks/gpu_held_back.py [SHARED] [--gpu a100 ...] [--part 0.3] [--seed 0]

A part of the shapes, the same for every library and GPU, is held back from the fits.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import astuple
from pathlib import Path

import numpy as np
from rich.console import Console

from attacc.calibration.check import ALL, accuracy, check
from attacc.calibration.fit import fit_calibration, fitted_tables
from attacc.calibration.measured import read_measurements
from attacc.calibration.series import Measurements
from attacc.gpu.calibrated.kernels import CalibratedGpu
from attacc.hardware.gpu import GPUS
from attacc.report.gpu import accuracy_tables

TABLES = ("gemm", "decode_attention", "prefill_attention", "nccl")
ENDINGS = ("", "_b200")


def held_back(data: Measurements, part: float, seed: int) -> np.ndarray:
    """Return which shapes are held back: a hash of the sizes decides, whoever measured them."""
    columns = [column for column in astuple(data.shapes) if column is not None]
    sizes = np.stack(columns, axis=1).astype(np.int64)
    salt = seed.to_bytes(8, "little")
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=4, salt=salt).digest() for row in sizes]
    return np.array([int.from_bytes(value, "little") < part * 2**32 for value in hashes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", nargs="?", type=Path, default=Path("../shared"))
    parser.add_argument("--gpu", nargs="+", default=["a100", "h100", "h200", "b200"])
    parser.add_argument("--part", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.shared / "data" / "silicon"
    files = [f"{name}{ending}.parquet" for ending in ENDINGS for name in TABLES]
    tables = [data for file in files for data in read_measurements(folder / file)]
    for name in arguments.gpu:
        mine = fitted_tables(tables, GPUS.load(name), None)
        hidden = [held_back(data, arguments.part, arguments.seed) for data in mine]
        seen = [data.take(~hide) for data, hide in zip(mine, hidden, strict=True)]
        reference = CalibratedGpu.load(name).calibration.reference
        spec, _ = fit_calibration(
            name, GPUS.load(name), seen, reference=reference, source="a part", folds=0
        )
        rest = [data.take(hide) for data, hide in zip(mine, hidden, strict=True)]
        rows = accuracy(check(rest, CalibratedGpu.of(spec)))
        Console().print(accuracy_tables([row for row in rows if row.size_class == ALL]))


if __name__ == "__main__":
    main()
