"""Reading the Azure and Mooncake formats, good and bad."""

import gc
import gzip
import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacc.errors import AttaccError, DocumentError, InputError
from attacc.workload.requests import Request, Requests, WorkloadKind
from attacc.workload.traces import load_workload

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
LINE = "2023-11-16 18:15:46.6805900,374,44"
RECORD = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}'

TEXT_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, data: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_azure(tmp_path: Path, end: str, compressed: bool) -> None:
    """Columns exchanged, a last line without its end lost, a line end taken for data."""
    data = end.join([HEADER, LINE, LINE.replace("374", "1"), "", LINE]).encode()
    workload = load_workload(written(tmp_path, gzip.compress(data) if compressed else data))
    assert workload.requests == (Request(1, 44), Request(374, 44))
    assert workload.counts.tolist() == [1, 2]
    assert workload.kind is WorkloadKind.TRACE
    assert workload.name == "trace.csv"


def test_azure_2024_and_other_orders_of_columns(tmp_path: Path) -> None:
    """A time with a zone refused, or columns read by position."""
    text = "\ufeffContextTokens,TIMESTAMP,GeneratedTokens\n2,2024-05-10 00:00:00.009930+00:00,3\n"
    assert load_workload(written(tmp_path, text)).requests == (Request(2, 3),)


@pytest.mark.parametrize("compressed", [False, True])
def test_mooncake(tmp_path: Path, compressed: bool) -> None:
    """Lengths exchanged, or the format told by the file's name."""
    data = f"{RECORD}\n\n{RECORD.replace('6955', '9')}\n".encode()
    path = written(tmp_path, gzip.compress(data) if compressed else data, "trace.txt")
    assert load_workload(path).requests == (Request(9, 52), Request(6955, 52))


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "requests", "prompt", "output"),
    [
        ("AzureLLMInferenceTrace_conv_2023.csv", 19366, 1154.6974, 211.1259),
        ("AzureLLMInferenceTrace_code_2023.csv", 8819, 2047.8483, 27.8825),
        ("mooncake_fast25_conversation_trace.jsonl.gz", 12031, 12035.0613, 342.6189),
        ("mooncake_fast25_synthetic_trace.jsonl.gz", 3993, 15325.4766, 149.1190),
    ],
)
def test_published_traces(
    reference: Path, name: str, requests: int, prompt: float, output: float
) -> None:
    """Lines skipped. The expected figures were taken with the csv and json modules alone."""
    workload = load_workload(reference / "data" / "traces" / name)
    assert workload.total_requests == requests
    assert abs(workload.mean_prompt_tokens - prompt) < 1e-4
    assert abs(workload.mean_output_tokens - output) < 1e-4


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([HEADER, LINE, "2023-11-16 18:15:46,0,4"], 3, "ContextTokens 0 is not a number"),
        ([HEADER, "2023-11-16 18:15:46,4,-1"], 2, "GeneratedTokens '-1' is not a number"),
        ([HEADER, "2023-11-16 18:15:46,4.0,1"], 2, "ContextTokens '4.0' .* whole number from 1"),
        ([HEADER, "2023-11-16 18:15:46,1_0,1"], 2, "ContextTokens '1_0'"),
        ([HEADER, "2023-11-16 18:15:46,٣,1"], 2, "ContextTokens '٣'"),
        ([HEADER, "2023-11-16 18:15:46,16777217,1"], 2, "ContextTokens 16777217 .* to 16777216"),
        ([HEADER, "2023-11-16 18:15:46," + "9" * 5000 + ",1"], 2, "ContextTokens '9999"),
        ([HEADER, "2023-11-16 18:15:46,4"], 2, "2 fields in .*expected 3: TIMESTAMP"),
        ([HEADER, LINE + ",5"], 2, "4 fields in"),
        ([HEADER, "yesterday,4,1"], 2, "TIMESTAMP 'yesterday' is not a date"),
        ([HEADER, '"2023-11-16 18:15:46,4,1'], 2, "is not valid CSV"),
        (["TIMESTAMP,ContextTokens", LINE], 1, "missing column 'GeneratedTokens'"),
        (["TIMESTAMP,contexttokens,GeneratedTokens"], 1, "missing column 'ContextTokens'"),
        (["a,b,c", "1,2,3"], 1, "unknown format: 'a,b,c' .expected the Azure CSV .* Mooncake"),
        (["", "hello"], 2, "unknown format: 'hello'"),
        ([RECORD, "{"], 2, "is not valid JSON"),
        ([RECORD, "[1]"], 2, "a list is not an object"),
        ([RECORD, "3"], 2, "3 is not an object"),
        ([RECORD, '{"a": ' + "1" * 5000 + "}"], 2, "is not valid JSON"),
        ([RECORD, '{"a": ' + "[" * 100_000], 2, "is not valid JSON"),
        ([RECORD.replace("output_length", "output")], 1, "missing key 'output_length'"),
        ([RECORD.replace("timestamp", "time")], 1, "missing key 'timestamp'"),
        ([RECORD.replace("6955", "0")], 1, "input_length 0 is not a number of tokens"),
        ([RECORD.replace("6955", "-4")], 1, "input_length -4 is not a number of tokens"),
        ([RECORD.replace("6955", "4.5")], 1, "input_length 4.5 is not a number of tokens"),
        ([RECORD.replace("6955", "true")], 1, "input_length True is not a number of tokens"),
        ([RECORD.replace("6955", '"4"')], 1, "input_length '4' is not a number of tokens"),
        ([RECORD.replace("6955", "{}")], 1, "input_length an object is not a number of tokens"),
        ([RECORD.replace("27482", "-1")], 1, "timestamp -1 is not a time"),
        ([RECORD.replace("27482", "NaN")], 1, "is not valid JSON: NaN is no number"),
        ([RECORD.replace("27482", "true")], 1, "timestamp True is not a time"),
        ([RECORD.replace("[46, 47]", "46")], 1, "hash_ids 46 is not a list"),
    ],
)
def test_malformed_line_is_refused(
    tmp_path: Path, lines: list[str], line: int, message: str
) -> None:
    """A fault that passes, or whose message does not name file, line, value and expectation."""
    path = written(tmp_path, "\n".join(lines))
    with pytest.raises(DocumentError, match=message) as error:
        load_workload(path)
    assert str(error.value).startswith(f"{path}:{line}: ")


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    """A mark at the start, quotes, spaces or empty rows taken for a fault, or for a request."""
    text = (
        '\ufeff\r\n,,\r\n"TIMESTAMP", "extra" ,ContextTokens, GeneratedTokens \r\n'
        '"2023-11-16 18:15:46","a,b", 374 ,"44"\r\n\r\n,,,\r\n'
        '2023-11-16 18:15:47,,1,2\r\n,,,\r\n"",,,\r\n   \r\n'
    )
    for end in ("\r\n", "\n", "\r"):
        path = written(tmp_path, text.replace('"extra"', "extra").replace("\r\n", end))
        assert load_workload(path).requests == (Request(1, 2), Request(374, 44))


def test_the_first_bad_row_is_named(tmp_path: Path) -> None:
    """A fault of a later row that is told first, since columns are checked one by one."""
    good, bad_time = "2023-11-16 18:15:46,4,4", "noon,4,4"
    for rows, line, message in (
        ([good, bad_time, "2023-11-16 18:15:46,0,4"], 3, "TIMESTAMP 'noon'"),
        ([good, "2023-11-16 18:15:46,4,0", bad_time], 3, "GeneratedTokens 0"),
        ([good, "2023-11-16 18:15:46,x,0", bad_time], 3, "ContextTokens 'x'"),
        (["", ",,", good, "", '"2023-11-16 18:15:46",,4'], 6, "ContextTokens ''"),
        ([good] * 70_000 + [bad_time], 70_002, "TIMESTAMP 'noon'"),
        ([good, f'"{good}', good, f'{good}"'], 3, "is not valid CSV"),
        ([good, "2023-11-16 18:15:46,4,+4"], 3, "GeneratedTokens '.4'"),
    ):
        path = written(tmp_path, "\n".join([HEADER, *rows]))
        with pytest.raises(DocumentError, match=message) as error:
            load_workload(path)
        assert str(error.value).startswith(f"{path}:{line}: ")


def test_a_row_is_not_completed(tmp_path: Path) -> None:
    """A row with too few cells read as one whose last cells are empty."""
    header, row = f"{HEADER},a,b", "2023-11-16 18:15:46,4,4,1,2"
    for short in ("2023-11-16 18:15:46,4,4", "2023-11-16 18:15:46,4,4,", '2023,4,4,"5,6"'):
        # An empty row with as many cells too few or too many must not make up for it.
        path = written(tmp_path, "\n".join([header, row, short, ",,,,", ",,"]))
        with pytest.raises(DocumentError, match=r":3: . fields in .* .expected 5"):
            load_workload(path)


@pytest.mark.parametrize(
    ("text", "what", "way_out"),
    [
        ('[\n{"id": "a", "conversations": [{"value": "x"}]}]', "is ShareGPT", "tokenizer"),
        ('{"date": "1", "num_prompts": 1, "total_input_tokens": 2}', "of vLLM", "save-detailed"),
        (f"[{RECORD}]", "is a JSON list, not an object in each line", "jq -c '.[]'"),
        (json.dumps(json.loads(RECORD), indent=2), "JSON object over several lines", "jq -c ."),
        (f"{HEADER},ContextTokens\n", "column 'ContextTokens' is there twice", "first line"),
        (RECORD.replace("{", '{"timestamp": 0, '), "key 'timestamp' occurs twice", "remove one"),
        ("PK\x03\x04", "is a zip archive", "unpack it"),
    ],
)
def test_a_file_that_is_known_but_not_read_is_named(
    tmp_path: Path, text: str, what: str, way_out: str
) -> None:
    """A message that names no way out, or a key of which one value is dropped silently."""
    with pytest.raises(DocumentError) as error:
        load_workload(written(tmp_path, text))
    assert what in str(error.value)
    assert way_out in (error.value.hint or "")


def test_a_large_trace_makes_no_object_for_each_row(tmp_path: Path) -> None:
    """Requests kept as objects, by which a million rows took hundreds of MB and a minute."""
    rows = "".join(f"2023-11-16 18:15:46,{n},2\n" for n in range(1, 50_001))
    workload = load_workload(written(tmp_path, f"{HEADER}\n{rows}"))
    held = sum(type(one) is Request for one in gc.get_objects())
    assert held < 1000
    assert len(workload) == workload.total_requests == 50_000


@pytest.mark.parametrize("data", [b"", b"\n \n", HEADER.encode(), gzip.compress(b"", mtime=0)])
def test_trace_without_requests_is_refused(tmp_path: Path, data: bytes) -> None:
    """A workload of nothing."""
    with pytest.raises(DocumentError, match="holds no requests"):
        load_workload(written(tmp_path, data))


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A traceback of the operating system."""
    written(tmp_path, LINE, "trace.csv")
    with pytest.raises(DocumentError, match=r"no such file .*did you mean 'trace.csv'"):
        load_workload(tmp_path / "trase.csv")
    with pytest.raises(DocumentError, match="no such file"):
        load_workload(tmp_path / "absent" / "trace.csv")
    with pytest.raises(DocumentError, match="is a folder"):
        load_workload(tmp_path)
    with pytest.raises(DocumentError, match="null byte"):
        load_workload(tmp_path / "a\0b")


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    """A traceback of the decompressor."""
    data = gzip.compress(f"{HEADER}\n{LINE}\n".encode())
    for damaged in (data[:-4], data[:20], b"\x1f\x8b", data[:12] + b"\xff\xff" + data[14:]):
        with pytest.raises(DocumentError, match="gzip file"):
            load_workload(written(tmp_path, damaged))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A traceback of the decoder, or a line that cannot be found."""
    path = written(tmp_path, f"{HEADER}\n".encode() + b"\xff\n")
    with pytest.raises(DocumentError, match=rf"{path.name}:2: is not UTF-8 text"):
        load_workload(path)


@TEXT_FIXTURE
@given(data=st.binary(max_size=80))
def test_random_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    """Bytes whose reading raises something other than an error of this project."""
    for content in (data, b"\x1f\x8b" + data, gzip.compress(data)):
        with pytest.raises(AttaccError):
            load_workload(written(tmp_path, content))


FIELD = st.one_of(
    st.integers(-2, 2**25).map(str),
    st.text(alphabet=string.printable, max_size=6),
    st.sampled_from(["2023-11-16 18:15:46", "1e3", "nan", '"', "", "٣"]),
)
VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**25), st.floats(), st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@TEXT_FIXTURE
@given(rows=st.lists(st.lists(FIELD, min_size=2, max_size=4), max_size=3))
def test_random_rows_are_read_or_refused(tmp_path: Path, rows: list[list[str]]) -> None:
    """A row that leads to a traceback, or to a request of no tokens."""
    text = "\n".join([HEADER, LINE, *(",".join(row) for row in rows)])
    check_read_or_refused(written(tmp_path, text))


@TEXT_FIXTURE
@given(
    record=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("timestamp", "input_length", "output_length", "hash_ids"), VALUE),
    )
)
def test_random_records_are_read_or_refused(tmp_path: Path, record: dict[str, object]) -> None:
    """A record that leads to a traceback, or to a request of no tokens."""
    check_read_or_refused(written(tmp_path, f"{RECORD}\n{json.dumps(record)}\n"))


def check_read_or_refused(path: Path) -> None:
    refusal = ""
    requests: tuple[Request, ...] = ()
    try:
        requests = load_workload(path).requests
    except AttaccError as error:
        refusal = str(error)
    assert refusal.startswith(f"{path}:") != bool(requests)
    assert all(r.prompt_tokens > 0 and r.output_tokens > 0 for r in requests)


# Arrivals, order and shared prefixes.


def test_requests_come_in_the_order_of_their_arrivals(tmp_path: Path) -> None:
    """Catches requests that are sorted by length, and times that lose their fractions or zones."""
    lines = [
        "2023-11-16 18:15:46.6805907,20,3",
        "2023-11-16 18:15:46.1805900,5,7",
        "2023-11-16 19:15:46.1805900+01:00,2,1",
        "2023-11-17 18:15:46.6805900,1,1",
    ]
    path = written(tmp_path, "\n".join([HEADER, *lines]).encode())
    requests = Requests.from_trace(path)
    assert requests.prompt_tokens.tolist() == [5, 2, 20, 1]
    assert requests.output_tokens.tolist() == [7, 1, 3, 1]
    assert requests.arrival_s is not None
    # Of a day in binary seconds, a ten-millionth is kept to 1e-11.
    np.testing.assert_allclose(requests.arrival_s, [0.0, 0.0, 0.5000007, 86400.5], atol=2e-11)
    assert requests.source.endswith("sorted by arrival; in the file, behind a later one: 1 request")
    assert requests.prefix_hashes is None
    assert requests.workload().prompt_tokens.tolist() == [1, 2, 5, 20]


def test_requests_keep_shared_prefixes(tmp_path: Path) -> None:
    """Catches blocks of another request, and milliseconds that are taken for seconds."""
    lines = [
        '{"timestamp": 1500, "input_length": 600, "output_length": 2, "hash_ids": [7, 8]}',
        '{"timestamp": 500, "input_length": 700, "output_length": 3, "hash_ids": [7, 9]}',
        '{"timestamp": 500, "input_length": 1, "output_length": 1}',
    ]
    requests = Requests.from_trace(written(tmp_path, "\n".join(lines).encode(), "t.jsonl"))
    assert requests.prefix_hashes is not None
    assert [requests.prefix_hashes.of(one) for one in range(3)] == [(7, 9), (), (7, 8)]
    assert requests.arrival_s is not None
    assert requests.arrival_s.tolist() == [0.0, 0.0, 1.0]
    bad = lines[0].replace("8]", '"8"]')
    with pytest.raises(DocumentError, match="hash_ids has '8', which is no id of a block"):
        Requests.from_trace(written(tmp_path, bad.encode(), "u.jsonl"))


def test_requests_that_are_made() -> None:
    """Catches a sample that is sorted, or another one for the same seed."""
    fixed = Requests.fixed(100, 7, count=3)
    assert len(fixed) == 3
    assert fixed.workload().total_requests == 3
    one, same, other = (
        Requests.synthetic("azure-conv-2023", count=50, seed=seed) for seed in (1, 1, 2)
    )
    assert one.prompt_tokens.tolist() == same.prompt_tokens.tolist()
    assert one.prompt_tokens.tolist() != other.prompt_tokens.tolist()
    assert one.prompt_tokens.tolist() != sorted(one.prompt_tokens.tolist())
    with pytest.raises(InputError, match="count: 0 is out of range"):
        Requests.fixed(1, 1, count=0)
