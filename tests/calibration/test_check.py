"""Predicted against measured: tables read, rows counted, errors told."""

from pathlib import Path

import pytest

from attacc.calibration.check import accuracy, check
from attacc.calibration.measured import read_measurements, read_table
from attacc.errors import DocumentError, InputError
from attacc.gpu.calibrated.kernels import CalibratedGpu
from tests.calibration.gpu_tables import attention_csv, gemm_csv, nccl_csv


def test_the_presets_own_times_have_no_error(tmp_path: Path) -> None:
    """Catches times in the wrong unit, columns mixed up, or another series than the table's."""
    paths = (
        gemm_csv(tmp_path / "gemm.csv"),
        attention_csv(tmp_path / "decode.csv", decode=True),
        attention_csv(tmp_path / "prefill.csv", decode=False),
        nccl_csv(tmp_path / "nccl.csv"),
    )
    rows = accuracy(check([series for path in paths for series in read_measurements(path)]))
    whole = [row for row in rows if row.size_class == "all"]
    assert [row.operator for row in whole] == [
        "gemm",
        "decode_attention",
        "prefill_attention",
        "all_reduce",
    ]
    for row in whole:
        assert row.out_of_range == 0
        assert row.mape is not None
        assert row.mape < 1e-5  # the table's digits
        classes = [other for other in rows if other.operator == row.operator][1:]
        assert sum(other.points for other in classes) == row.points


def test_rows_outside_are_counted(tmp_path: Path) -> None:
    """Catches a row that is dropped, or predicted although the series is not stated for it."""
    path = gemm_csv(tmp_path / "gemm.csv", rows=20)
    with path.open("a") as file:
        file.write("h100-sxm-80gb,VLLM,0.24.0,bfloat16,100000,128,128,1.0,\n")
        file.write("h100-sxm-80gb,VLLM,0.24.0,int8,128,128,128,1.0,\n")
    rows = [row for row in accuracy(check(read_measurements(path))) if row.size_class == "all"]
    counts = {row.dtype: (row.points, row.out_of_range) for row in rows}
    assert counts == {"bfloat16": (20, 1), "int8": (0, 1)}
    int8 = next(row for row in rows if row.dtype == "int8")
    assert (int8.mape, int8.bias, int8.predicted_by) == (None, None, "nothing")


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    """Catches a row without a time, of an unknown GPU or element type that is dropped, or that
    takes the others with it; and a file whose first rows hide what the columns hold.
    """
    path = gemm_csv(tmp_path / "gemm.csv", rows=20)
    with path.open("a") as file:
        file.write("h100-sxm-80gb,VLLM,0.24.0,bfloat16,128,128,128,nan,\n")
        file.write("h100-sxm-80gb,VLLM,0.24.0,bfloat16,128,128,128,0.0,\n")
        file.write("h100-sxm-80gb,VLLM,0.24.0,bfloat16,,128,128,1.0,\n")
        file.write("h100-sxm-80gb,VLLM,0.24.0,fp4,128,128,128,1.0,\n")
        file.write("mi300x,VLLM,0.24.0,bfloat16,128,128,128,1.0,\n")
    table = read_table(path)
    rows = [r for r in accuracy(check(table.series), table.unusable) if r.size_class == "all"]
    counts = {(row.gpu[:4], row.dtype): (row.points, row.out_of_range) for row in rows}
    assert counts == {
        ("h100", "bfloat16"): (20, 3),
        ("h100", "fp4"): (0, 1),
        ("mi30", "bfloat16"): (0, 1),
    }
    reasons = {entry.reason: entry.rows for row in rows for entry in row.outside}
    assert reasons == {
        "latency_ms is no number": 1,
        "latency_ms is not positive": 1,
        "m is no number": 1,
        "element type 'fp4' is none of bfloat16, float16, fp8, int8, fp8_block, nvfp4": 1,
        "no calibration for 'mi300x'": 1,
    }
    shuffled = path.read_text().splitlines()
    path.write_text("\n".join([shuffled[0], *reversed(shuffled[1:])]) + "\n")
    again = read_table(path)
    errors = [
        {(r.gpu, r.dtype, r.size_class, round(1e9 * (r.mape or 0.0))) for r in found}
        for found in (
            accuracy(check(table.series), table.unusable),
            accuracy(check(again.series), again.unusable),
        )
    ]
    assert errors[0] == errors[1]


def test_versions_are_put_together_and_each_predicted_by_its_own(tmp_path: Path) -> None:
    """Catches two answers for one framework, or one that forgets a version; and the reference
    library that is not named.
    """
    path = gemm_csv(tmp_path / "gemm.csv", gpu="h200-sxm-141gb", rows=20)
    rows = path.read_text().splitlines()
    older = [row.replace("VLLM,0.24.0", "VLLM,0.22.0") for row in rows[1:11]]
    path.write_text("\n".join(rows + older) + "\n")
    tables = read_measurements(path)
    whole = [row for row in accuracy(check(tables)) if row.size_class == "all"]
    assert [(row.version, row.points, row.reference) for row in whole] == [
        ("0.22.0, 0.24.0", 30, True)
    ]
    assert whole[0].predicted_by == "VLLM 0.22.0 bf16, VLLM 0.24.0 bf16"
    apart = [r for r in accuracy(check(tables), by_version=True) if r.size_class == "all"]
    assert [(row.version, row.points) for row in apart] == [("0.22.0", 10), ("0.24.0", 20)]
    assert whole[0].mape == pytest.approx(sum(row.points * (row.mape or 0.0) for row in apart) / 30)


def test_an_unknown_collective_is_counted(tmp_path: Path) -> None:
    """Catches one operation, or number of GPUs, without coefficients that stops the others."""
    path = nccl_csv(tmp_path / "nccl.csv")
    with path.open("a") as file:
        file.write("h100-sxm-80gb,broadcast,8,1024,1.0\nh100-sxm-80gb,all_reduce,16,1024,1.0\n")
    rows = {r.operator: r for r in accuracy(check(read_measurements(path)))[::4]}
    assert (rows["all_reduce"].points, rows["all_reduce"].out_of_range) == (63, 1)
    assert (rows["broadcast"].points, rows["broadcast"].out_of_range) == (0, 1)
    assert rows["all_reduce"].outside[0].reason == "only stated where GPUs are one of 2, 4, 8"


def test_another_library_is_predicted_by_the_reference_and_says_so(tmp_path: Path) -> None:
    """Catches a stand-in that the answer does not name."""
    path = gemm_csv(tmp_path / "gemm.csv", rows=5)
    path.write_text(path.read_text().replace("VLLM,0.24.0", "SGLANG,1.0"))
    row = accuracy(check(read_measurements(path)))[0]
    assert (row.framework, row.predicted_by) == ("SGLANG", "VLLM 0.24.0 bf16")


def test_a_gpu_without_a_preset(tmp_path: Path) -> None:
    """Catches rows of an unknown GPU that are predicted as one that is known."""
    tables = read_measurements(gemm_csv(tmp_path / "gemm.csv", gpu="mi300x", rows=3))
    with pytest.raises(InputError, match=r"no calibration for 'mi300x'.*name one"):
        check(tables)
    assert accuracy(check(tables, CalibratedGpu.load("a100a")))[0].scaled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"has the columns a, b; .* are missing .*needed are gpu, framework"),
        (
            "gpu,framework,version,dtype,m,n,k,latency_ms\nx,y,1,fp4,1,1,1,1.0\n",
            "'fp4' is none of bfloat16",
        ),
        ("gpu,framework,version,dtype,m,n,k,latency_ms\nx,y,1,fp8,1,1,1,0.0\n", "not positive"),
        ("gpu,framework,version,dtype,m,n,k,latency_ms\n", "has no rows"),
        ("gpu,framework,dtype,m,n,k,latency_ms\nx,y,fp8,1,1,1,1.0\n", "for gemm, version are"),
        ("gpu,framework,version,dtype,m,n,k,latency_ms\nx,y,1,fp8,0,1,1,1.0\n", "m is below 1"),
        ("gpu,framework,version,dtype,m,n,k,latency_ms\nx,y,1,fp8,,1,1,1.0\n", "m is no number"),
    ],
)
def test_tables_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    """Catches a table that is half understood."""
    path = tmp_path / "measured.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_measurements(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Catches a traceback of the reader."""
    with pytest.raises(DocumentError, match=r"use .parquet or .csv"):
        read_measurements(tmp_path / "measured.txt")
    with pytest.raises(DocumentError, match="no such file"):
        read_measurements(tmp_path / "measured.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_measurements(broken)
