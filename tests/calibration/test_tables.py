"""Tables from outside: what cannot be a table is refused, and what is one is read alike."""

import gzip
import os
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from attacc import parquet_process
from attacc.calibration import tables
from attacc.calibration.check import accuracy, check
from attacc.calibration.measured import read_measurements, read_table
from attacc.calibration.series import MeasuredTable, Messages, Unusable
from attacc.calibration.serving import check_serving, read_runs
from attacc.errors import DocumentError

HEADER: str = "gpu,framework,version,dtype,m,n,k,latency_ms,power_w"
ROW: str = "h100-sxm-80gb,VLLM,0.10,bfloat16,128,256,512,0.01,"


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parquet(folder: Path, **changed: object) -> Path:
    """Write one product, with other columns or other values in them."""
    columns: dict[str, object] = dict(zip(HEADER.split(","), ROW.split(","), strict=True))
    columns |= {"m": 128, "n": 256, "k": 512, "latency_ms": 0.01, "power_w": None} | changed
    frame = pl.DataFrame({name: [value] for name, value in columns.items()})
    frame.write_parquet(folder / "t.parquet")
    return folder / "t.parquet"


def reasons(table: MeasuredTable) -> dict[str, int]:
    found: dict[str, int] = {}
    for left in table.unusable:
        found[left.reason] = found.get(left.reason, 0) + left.rows
    return found


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{ROW}\n",
        f"\ufeff{HEADER}\r\n{ROW}\r\n\r\n \r\n",
        f"{HEADER}\r{ROW}",
        '"' + HEADER.replace(",", '","') + f'"\n{ROW}\n',
        f" {HEADER}\n{ROW}\n".replace(",", " , "),
        f"\n{HEADER},,\n{ROW},,\n,,,,,,,,,,\n",
        gzip.compress(f"{HEADER}\n{ROW}\n".encode()),
    ],
    ids=["plain", "mark and CRLF", "CR", "quoted header", "blanks", "spreadsheet", "gzip"],
)
def test_the_same_table_in_other_clothes(text: str | bytes, tmp_path: Path) -> None:
    """Catches a way of writing CSV that is refused, adds rows, or turns version 0.10 into 0.1."""
    table = read_table(written(tmp_path, text))
    assert not table.unusable
    assert [(data.key.version, data.count) for data in table.series] == [("0.10", 1)]


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """Catches a table that is opened twice, once to see what it holds: a pipe is empty then."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(f"{HEADER}\n{ROW}\n"))
    writer.start()
    assert read_measurements(pipe)[0].count == 1
    writer.join()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER},m\n{ROW},1\n", "has 2 columns called 'm'"),
        (f"{HEADER}, m\n{ROW},1\n", "has 2 columns called 'm'"),
        (f"{HEADER}\n{ROW}\n{ROW[:40]}", r"t\.csv:3: 6 fields in .*expected 9: gpu"),
        (f"{HEADER},\n{ROW},7\n", r"t\.csv:2: '7' is in a column without a name"),
        (f"{HEADER}\n{ROW},7\n", r"t\.csv:2: 10 fields in .*expected 9: gpu"),
        ("gpu\nh200\n", "has one column, 'gpu', and no other"),
        (f"{HEADER}\n{ROW}\n".replace(",", ";"), "separate fields by commas"),
        (f'{HEADER}\n"{ROW}\n', "is not valid CSV"),
        ("", "is empty"),
        (b"PK\x03\x04", "is a zip archive"),
        (HEADER.encode("utf-16"), "is text in UTF-16"),
        (b"PAR1PAR", "was cut off"),
    ],
)
def test_what_is_no_table(text: str | bytes, message: str, tmp_path: Path) -> None:
    """Catches a column or a row that disappears, and a traceback."""
    with pytest.raises(DocumentError, match=message):
        read_table(written(tmp_path, text))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("latency_ms", "1e308", "latency_ms is above 1e+08"),
        ("latency_ms", "1e-300", "latency_ms is below 1e-06"),
        ("latency_ms", "5e-324", "latency_ms is below 1e-06"),
        ("latency_ms", "-1", "latency_ms is not positive"),
        ("latency_ms", "1" + 400 * "0", "latency_ms is no number"),
        ("m", "1e300", "m is above 2.14748e+09"),
        ("m", "9223372036854775808", "m is above 2.14748e+09"),
        ("m", "128.5", "m is no whole number"),
        ("m", "1_0", "m is no number"),
        ("m", "\u0661\u0662", "m is no number"),
        ("m", "0x10", "m is no number"),
        ("m", "", "m is no number"),
        ("power_w", "-1", "power_w is not positive"),
        ("power_w", "fast", "power_w is no number"),
        ("gpu", "", "gpu is empty"),
        ("framework", "", "framework is empty"),
    ],
)
def test_impossible_figures_are_counted(
    column: str, value: str, reason: str, tmp_path: Path
) -> None:
    """Catches a figure out of all proportion that is fitted, 12 that is read for Arabic digits,
    and the fraction of a row.
    """
    names: list[str] = HEADER.split(",")
    fields: list[str] = ROW.split(",")
    fields[names.index(column)] = value
    table = read_table(written(tmp_path, f"{HEADER}\n{','.join(fields)}\n{ROW}\n"))
    assert reasons(table) == {reason: 1}
    assert [data.count for data in table.series] == [1]


ATTENTION = {
    "gpu": "h100-sxm-80gb",
    "framework": "VLLM",
    "version": "0.24.0",
    "kv_cache_dtype": "bfloat16",
    "batch_size": "4",
    "num_heads": "32",
    "num_key_value_heads": "8",
    "head_dim": "128",
    "latency_ms": "0.02",
}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"prompt_length": "1024", "window_size": "128", "past_length": "64"},
            "(window_size) is modelled only without earlier tokens",
        ),
        ({"prompt_length": "1024", "past_length": "64"}, "(past_length) is not modelled"),
        ({"kv_length": "1024", "attn_dtype": "fp8"}, "attn_dtype 'fp8' is not modelled"),
        ({"kv_length": "1024", "op_name": "generation_mla"}, "op_name 'generation_mla'"),
        ({"kv_length": "1024", "window_size": "wide"}, "window_size is no number"),
        ({"kv_length": "1024", "num_heads": "30"}, "num_heads is no multiple"),
        ({"kv_length": "1024", "window_size": "0"}, None),
        ({"kv_length": "1024", "window_size": "-1"}, None),
        ({"kv_length": "1024", "window_size": ""}, None),
        ({"prompt_length": "1024", "past_length": "0", "attn_dtype": "bfloat16"}, None),
        ({"kv_length": "1024", "op_name": "generation_attention", "kernel_source": "x"}, None),
    ],
)
def test_other_attention_is_not_read_as_full_attention(
    changed: dict[str, str], reason: str | None, tmp_path: Path
) -> None:
    """Catches attention within a window, or behind cached tokens, that is checked as if every
    query saw every key: 100 to 190 % too long, without a word.
    """
    row = ATTENTION | changed
    table = read_table(written(tmp_path, f"{','.join(row)}\n{','.join(row.values())}\n"))
    assert len(table.series) == (reason is None)
    assert [left.rows for left in table.unusable] == [1] * (reason is not None)
    assert all(reason is not None and reason in left.reason for left in table.unusable)


def test_unknown_columns_are_refused_by_name(tmp_path: Path) -> None:
    """Catches a column that changes what was measured, and is passed over."""
    row = ATTENTION | {"kv_length": "1024", "v_head_dim": "64"}
    with pytest.raises(DocumentError, match="has the column 'v_head_dim'"):
        read_table(written(tmp_path, f"{','.join(row)}\n{','.join(row.values())}\n"))
    with pytest.raises(DocumentError, match="the column 'version' holds Float64, and not text"):
        read_table(parquet(tmp_path, version=0.1))
    with pytest.raises(DocumentError, match=r"the column 'm' holds List\(Int64\), and not numbers"):
        read_table(parquet(tmp_path, m=[128]))
    with pytest.raises(DocumentError, match="measures moe, which is not modelled"):
        read_table(written(tmp_path, "gpu,op_name,num_tokens,latency_ms\nh100,moe,1,1.0\n"))


def collectives(folder: Path, header: str, *rows: str) -> MeasuredTable:
    lines = [f"gpu,op_name,num_gpus,message_elements,latency_ms,{header}"]
    lines += [f"h100-sxm-80gb,all_reduce,8,1024,0.02,{row}" for row in rows]
    return read_table(written(folder, "\n".join(lines) + "\n"))


def test_formats_in_blocks_are_of_products_only(tmp_path: Path) -> None:
    """Catches products in fp8_block that are counted as fp8, and a cache of four bits that is read
    as if it had been measured.
    """
    rows = [f"b200,VLLM,0.24.0,{dtype},8,64,128,0.01," for dtype in ("fp8", "fp8_block", "nvfp4")]
    table = read_table(written(tmp_path, "\n".join([HEADER, *rows]) + "\n"))
    found = [(str(data.key.dtype), data.key.dtype.bytes) for data in table.series]
    assert found == [("fp8", 1.0), ("fp8_block", 1.0), ("nvfp4", 0.5625)]
    messages = collectives(tmp_path, "dtype", "nvfp4")
    assert list(reasons(messages)) == [
        "element type 'nvfp4' is none of bfloat16, float16, fp8, int8"
    ]


def test_messages_count_the_bytes_of_their_type(tmp_path: Path) -> None:
    """Catches int8 messages of two bytes an element: 57 % off on average on a B200."""
    table = collectives(tmp_path, "dtype", "half", "int8", "bfloat16", "float64")
    sizes = {
        data.key.dtype.value: data.shapes.message_bytes.tolist()
        for data in table.series
        if isinstance(data.shapes, Messages)
    }
    assert sizes == {"bf16": [2048.0], "fp16": [2048.0], "int8": [1024.0]}
    assert list(reasons(table)) == [
        "element type 'float64' is none of bfloat16, float16, fp8, int8"
    ]


def test_other_libraries_collectives_are_not_nccls(tmp_path: Path) -> None:
    """Catches vLLM's own all-reduce that is checked as NCCL's: 48 to 75 % off."""
    header = "framework,version,kernel_source,backend"
    own, nccl = "vLLM,0.24.0,vLLM_custom_graph,vllm_graph", "TRTLLM,2.29.2,NCCL,"
    table = collectives(tmp_path, header, own, nccl, "NCCL,2.29.2,,")
    assert [(data.key.framework, data.count) for data in table.series] == [("NCCL", 2)]
    assert table.unusable == [
        Unusable(
            table.series[0].key.operator,
            "h100-sxm-80gb",
            "vLLM_custom_graph",
            "0.24.0",
            "float16",
            "all_reduce",
            1,
            "run by 'vLLM_custom_graph': only NCCL's collectives are modelled",
        )
    ]


RUNS = (
    "backend,backend_version,model_path,system,isl,osl,gemm_quant_mode,batch_size,tp_size,ttft_ms,"
    "tpot_ms"
)
RUN = "vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,1024,128,,16.0,4.0,400.0,14.0"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("400.0", "1e308", "ttft_ms is above 1e+09"),
        ("400.0", "", "ttft_ms is no number"),
        ("14.0", "5e-324", "tpot_ms is below 0.001"),
        ("16.0", "16.5", "batch_size is no whole number"),
        ("1024", "1e300", "isl is above 2.14748e+09"),
        (",128,", ",-1,", "osl is below 1"),
    ],
)
def test_impossible_serving_runs_are_counted(
    old: str, new: str, reason: str, tmp_path: Path
) -> None:
    """Catches a run whose time overflows, or whose fraction of a request is cut off."""
    path = written(tmp_path, f"{RUNS}\n{RUN.replace(old, new)}\n{RUN}\n")
    row = check_serving(read_runs(path))[0]
    assert (row.points, [entry.reason for entry in row.outside]) == (1, [reason])


def test_columns_of_serving_runs(tmp_path: Path) -> None:
    """Catches a run in 8 bits that is predicted in 16, and a column that is passed over."""
    path = written(tmp_path, f"id,{RUNS},precision\na,{RUN},fp8\nb,{RUN},\n")
    row = check_serving(read_runs(path))[0]
    assert (row.points, row.outside[0].reason) == (
        1,
        "gemm_quant_mode and precision contradict each other",
    )
    with pytest.raises(DocumentError, match="has the column 'dp_size'"):
        read_runs(written(tmp_path, f"{RUNS},dp_size\n{RUN},2\n"))


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    """Catches what is lost between the process that reads Parquet and this one."""
    from_csv = read_measurements(written(tmp_path, f"{HEADER}\n{ROW}\n"))
    packed = written(tmp_path, gzip.compress(parquet(tmp_path).read_bytes()), "t.parquet.gz")
    for path in (parquet(tmp_path), packed):
        found = read_measurements(path)
        assert [data.key for data in found] == [data.key for data in from_csv]
        np.testing.assert_array_equal(found[0].time_ns, from_csv[0].time_ns)
    assert accuracy(check(read_measurements(parquet(tmp_path))))[0].points == 1


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    """Catches a panic of Polars, which is no Exception, that ends the program: indices of a
    dictionary that are 255 bits wide; and a footer as long as the file is not.
    """
    data = parquet(tmp_path).read_bytes()
    width = b"\x02\x00\x00\x00\x02\x01\x00"
    assert width in data
    panics = data.replace(width, width[:-1] + b"\xff")
    with pytest.raises(DocumentError, match="which its reader did not survive"):
        read_table(written(tmp_path, panics, "broken.parquet"))
    longer = data[:-8] + b"\xff\xff\xff\x7f" + data[-4:]
    with pytest.raises(DocumentError, match="cannot be read: "):
        read_table(written(tmp_path, longer, "broken.parquet"))


@pytest.mark.parametrize(
    "crash",
    ["os.abort()", "sys.stdout.write('half'); sys.exit(7)", "bytearray(2**60)"],
)
def test_a_reader_that_crashes_takes_nothing_along(
    crash: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an abort of the reader that ends the program, or half a table that is believed."""
    program = tmp_path / "reader.py"
    program.write_text(f"import os, sys\n{crash}\n")
    monkeypatch.setattr(parquet_process, "__file__", str(program))
    with pytest.raises(DocumentError, match="damaged Parquet file"):
        read_table(parquet(tmp_path))


def test_a_small_file_of_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file of some kilobytes that fills the memory with zeros."""
    program = tmp_path / "reader.py"
    program.write_text(
        "import sys\nfrom attacc import parquet_process as process\n"
        "process.MAX_UNPACKED_BYTES = 2**20\nsys.exit(process.main())\n"
    )
    path = tmp_path / "zeros.parquet"
    pl.DataFrame({"m": pl.zeros(10**6, dtype=pl.Int64, eager=True)}).write_parquet(path)
    assert path.stat().st_size < 2**14
    monkeypatch.setattr(parquet_process, "__file__", str(program))
    with pytest.raises(DocumentError, match="unpacks to more than"):
        read_table(path)


def test_too_large_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file without end that fills the memory."""
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 100)
    with pytest.raises(DocumentError, match="the most that is read"):
        read_table(written(tmp_path, f"{HEADER}\n{ROW}\n"))


def test_a_long_header_is_quoted_in_part(tmp_path: Path) -> None:
    """Catches a message that fills the terminal with the names of columns."""
    with pytest.raises(DocumentError) as caught:
        read_table(written(tmp_path, f"gpu,{'x' * 10_000}\nh200\n"))
    assert len(str(caught.value)) < 1000
