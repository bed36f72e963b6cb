"""Formats of files of requests: one hand-made file for each format and quirk, and all refusals."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacc.errors import AttaccError, DocumentError, UnknownNameError
from attacc.workload.formats import registry
from attacc.workload.requests import Requests
from attacc.workload.traces import read_requests

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
LMM = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
BURST_2 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens"
PLAIN = "arrival_s,prompt_tokens,output_tokens"


def lines(*rows: object) -> str:
    """Rows of text, or objects in JSON, one in each line."""
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"


def written(folder: Path, data: str | bytes, name: str = "r.txt") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def parquet(folder: Path, **columns: object) -> Path:
    pl.DataFrame(columns).write_parquet(folder / "r.parquet")
    return folder / "r.parquet"


def times(requests: Requests) -> list[float]:
    assert requests.arrival_s is not None
    return requests.arrival_s.tolist()


def sim(**more: object) -> dict[str, object]:
    return {"input_toks": 20, "output_toks": 3, "arrival_time_ns": 5} | more


def run(**more: object) -> dict[str, object]:
    return {"request_id": "a", "input_toks": 20, "output_toks": 3, "arrival_time": 7.5} | more


def result(**more: object) -> dict[str, object]:
    return {"date": "x", "input_lens": [7, 8], "output_lens": [2, 3]} | more


FORMATS: dict[str, tuple[str, list[int], list[int], list[float] | None, str]] = {
    "azure 2023": (
        lines(AZURE, "2023-11-16 18:15:46.1000001,70,4", "2023-11-16 18:15:46.1000003,80,5"),
        [70, 80], [4, 5], [0, 2e-7], "trace in the Azure format",
    ),
    "azure 2024, offsets and mixed digits": (
        lines(
            AZURE, "2024-05-12 00:00:00+00:00,70,4", "2024-05-12 00:00:00.25+00:00,80,5",
            "2024-05-12 01:00:00.500001+01:00,90,6",
        ),
        [70, 80, 90], [4, 5, 6], [0, 0.25, 0.500001], "trace in the Azure format",
    ),
    "azure 2025": (
        lines(LMM, "2024-10-16T12:00:00.250Z,0,70,4", "2024-10-16T12:00:00.500Z,3,80,5"),
        [70, 80], [4, 5], [0, 0.25],
        "Azure format, r.txt; with images, which NumImages counts and no length does: 1 request",
    ),
    "burstgpt": (
        lines(BURST, "5,GPT-4,70,4,74,API log", "45,ChatGPT,80,5,85,Conversation log"),
        [70, 80], [4, 5], [0, 40], "trace in the BurstGPT format",
    ),
    "burstgpt, second version": (
        lines(
            BURST_2, "19440001.0,s,3,GPT-4,70,4,74,API log",
            "19440001.5,s,2,ChatGPT,80,5,85,Conversation log",
        ),
        [70, 80], [4, 5], [0, 0.5], "trace in the BurstGPT format",
    ),
    "vidur": (
        lines(VIDUR, "0.5,70,4", "2,80,5"), [70, 80], [4, 5], [0, 1.5], "trace in Vidur's format",
    ),
    "vidur, lengths only": (
        lines("num_prefill_tokens,num_decode_tokens,pd_ratio", "70,4,17.5", "80,5,16"),
        [70, 80], [4, 5], None, "trace in Vidur's format",
    ),
    "plain csv": (
        # Seconds since 1970, whose tenths of a microsecond a binary number does not hold.
        lines(PLAIN, "1700000000.0000001,70,4", "1700000000.0000003,80,5"),
        [70, 80], [4, 5], [0, 2e-7], "requests, r.txt",
    ),
    "plain csv, no times": (
        lines("output_tokens,prompt_tokens", "4,70", "5,80"),
        [70, 80], [4, 5], None, "requests, r.txt",
    ),
    "plain json lines": (
        lines(
            {"prompt_tokens": 70, "output_tokens": 4, "arrival_s": 1},
            {"prompt_tokens": 80, "output_tokens": 5, "arrival_s": 1.5, "more": None},
        ),
        [70, 80], [4, 5], [0, 0.5], "requests, r.txt",
    ),
    "prompts for vllm with counts": (
        lines({"prompt": "Hello", "prompt_tokens": 70, "output_tokens": 4}),
        [70], [4], None, "requests, r.txt",
    ),
    "sharegpt with counts": (
        json.dumps(
            [
                {"id": "a", "conversations": [], "prompt_tokens": 70, "output_tokens": 4},
                {"id": "b", "conversations": [], "prompt_tokens": 80, "output_tokens": 5},
            ],
            indent=1,
        ),
        [70, 80], [4, 5], None, "requests, r.txt",
    ),
    "mooncake": (
        lines({"timestamp": 27000, "input_length": 70, "output_length": 4, "hash_ids": [1]}),
        [70], [4], [0], "trace in the Mooncake format",
    ),
    "aiperf, sessions": (
        lines(
            {"timestamp": 1000, "session_id": "a", "input_length": 70, "output_length": 4,
             "hash_ids": None},
            {"timestamp": 1250.5, "session_id": "a", "input_length": 80, "output_length": 5,
             "text_input": "x"},
        ),
        [70, 80], [4, 5], [0, 0.2505],
        "later turns of sessions, whose prompts are taken without the turns before them: 1 request",
    ),
    "aiperf, delays": (
        lines(
            {"timestamp": 1000, "session_id": "a", "input_length": 70, "output_length": 4},
            {"delay": 250, "session_id": "a", "input_length": 80, "output_length": 5},
        ),
        [70, 80], [4, 5], None,
        "without times of arrival, since a delay counts from the answer before it: 1 request",
    ),
    "llmservingsim": (
        # Nanoseconds since 1970 that differ by one.
        lines(
            sim(arrival_time_ns=1_700_000_000_000_000_001),
            sim(input_toks=30, arrival_time_ns=1_700_000_000_000_000_002),
        ),
        [20, 30], [3, 3], [0, 1e-9], "workload in LLMServingSim's format",
    ),
    "recorded run": (
        lines(run(), run(request_id="b", arrival_time=8, first_token_ts=3)),
        [20, 20], [3, 3], [0, 0.5], "recorded run of vLLM",
    ),
    "result of vllm": (
        lines(result(start_times=[100.5, 101.0])), [7, 8], [2, 3], [0, 0.5],
        "result of vLLM's benchmark",
    ),
    "result of vllm over several lines, no times": (
        json.dumps(result(), indent=2), [7, 8], [2, 3], None, "result of vLLM's benchmark",
    ),
}  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_known_by_its_content(tmp_path: Path, name: str, compressed: bool) -> None:
    """Catches columns exchanged, units of time mixed up, and a format told by the file's name."""
    text, prompts, outputs, arrivals, source = FORMATS[name]
    data = gzip.compress(text.encode()) if compressed else text.encode()
    requests = read_requests(written(tmp_path, data))
    assert requests.prompt_tokens.tolist() == prompts
    assert requests.output_tokens.tolist() == outputs
    assert source in requests.source
    if arrivals is None:
        assert requests.arrival_s is None
    else:
        # Differences are exact in the file's unit, then rounded once to binary.
        np.testing.assert_allclose(times(requests), arrivals, rtol=1e-12)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_in_other_clothes(tmp_path: Path, name: str) -> None:
    """Catches a mark at the start, line ends of another system, or blank last rows that matter."""
    text, prompts, outputs, *_ = FORMATS[name]
    dressed = "\ufeff" + text.replace("\n", "\r\n") + "\r\n \r\n"
    requests = read_requests(written(tmp_path, dressed))
    assert requests.prompt_tokens.tolist() == prompts
    assert requests.output_tokens.tolist() == outputs


TABLES = [name for name, (text, *_) in FORMATS.items() if not text.startswith(("{", "["))]


@pytest.mark.parametrize("name", TABLES)
def test_tables_with_quotes_and_empty_rows(tmp_path: Path, name: str) -> None:
    """Catches a quoted header that is unknown, and empty rows of a spreadsheet as requests."""
    text, prompts, *_ = FORMATS[name]
    rows = [",".join(f'"{cell}"' for cell in row.split(",")) for row in text.splitlines()]
    empty = "," * text.partition("\n")[0].count(",")
    requests = read_requests(written(tmp_path, lines(*rows, empty, "", empty)))
    assert requests.prompt_tokens.tolist() == prompts


@pytest.mark.parametrize("compressed", [False, True])
def test_parquet(tmp_path: Path, compressed: bool) -> None:
    """Catches ids of blocks at the wrong request, and a type of number that is not known."""
    path = parquet(
        tmp_path,
        arrival_s=[1.0, 3.5, 2.5, 9.0],
        prompt_tokens=pl.Series([600, 700, 5, 6], dtype=pl.UInt16),
        output_tokens=[1, 2, 3, 4],
        prefix_hashes=pl.Series([[7, 8], [7], None, []], dtype=pl.List(pl.Int32)),
        other=["a", "b", "c", "d"],
    )
    if compressed:
        path = written(tmp_path, gzip.compress(path.read_bytes()), "r.parquet.gz")
    requests = Requests.of(path)
    assert requests.prompt_tokens.tolist() == [600, 5, 700, 6]
    assert requests.output_tokens.tolist() == [1, 3, 2, 4]
    assert times(requests) == [0, 1.5, 2.5, 8]
    assert requests.prefix_hashes is not None
    assert [requests.prefix_hashes.of(one) for one in range(4)] == [(7, 8), (), (7,), ()]
    runs = requests.prompt_runs()
    assert runs.of(0) == ((7, 512), (8, 88))
    assert runs.of(1) == ((-2, 5),)
    assert runs.of(2) == ((7, 512), (-3, 188))
    plain = parquet(tmp_path, prompt_tokens=[3], output_tokens=[4])
    assert read_requests(plain).arrival_s is None
    ids: list[list[int]] = [[]]
    empty = parquet(tmp_path, prompt_tokens=[3], output_tokens=[4], prefix_hashes=ids)
    assert read_requests(empty).prefix_hashes is None


ZEROS = {
    "azure": lines(AZURE, "2023-11-16 18:15:46,9,4", "2023-11-16 18:15:47,8,0"),
    "burstgpt": lines(BURST, "5,a,9,4,13,b", "6,a,8,0,8,b"),
    "vidur": lines(VIDUR, "0,9,4", "1,8,0"),
    "plain csv": lines(PLAIN, "0,9,4", "1,8,0"),
    "plain json": lines(
        {"prompt_tokens": 9, "output_tokens": 4}, {"prompt_tokens": 8, "output_tokens": 0}
    ),
    "mooncake": lines(
        {"timestamp": 0, "input_length": 9, "output_length": 4, "hash_ids": [1]},
        {"timestamp": 1, "input_length": 8, "output_length": 0, "hash_ids": [1]},
    ),
    "llmservingsim": lines(sim(input_toks=9, output_toks=4), sim(input_toks=8, output_toks=0)),
    "recorded run": lines(
        run(input_toks=9, output_toks=4), run(request_id=2, input_toks=8, output_toks=0)
    ),
    "result of vllm": lines(result(input_lens=[9, 8], output_lens=[4, 0])),
}


@pytest.mark.parametrize("name", ZEROS)
def test_requests_without_output(tmp_path: Path, name: str) -> None:
    """Catches failed requests that are served, or dropped without a word."""
    path = written(tmp_path, ZEROS[name])
    check_zero_output(path)
    # What is left out may have no prompt, either. Digits of times change, too.
    promptless = written(tmp_path, ZEROS[name].replace("8", "0"), "promptless")
    assert len(read_requests(promptless, zero_output="skip")) == 1
    with pytest.raises(DocumentError, match=" 0 is not a number of tokens"):
        read_requests(promptless, zero_output="one")


def test_requests_without_output_in_parquet(tmp_path: Path) -> None:
    """Catches the same in the table of numbers."""
    check_zero_output(parquet(tmp_path, prompt_tokens=[9, 8], output_tokens=[4, 0]))
    promptless = parquet(tmp_path, prompt_tokens=[9, 0], output_tokens=[4, 0])
    assert len(read_requests(promptless, zero_output="skip")) == 1
    with pytest.raises(DocumentError, match=r"row 2: prompt_tokens 0 is not a number of tokens"):
        read_requests(promptless, zero_output="one")


def check_zero_output(path: Path) -> None:
    with pytest.raises(DocumentError, match=r" 0 is not a number.*zero_output='skip'.*'one'"):
        read_requests(path)
    skipped = read_requests(path, zero_output="skip")
    assert skipped.output_tokens.tolist() == [4]
    assert skipped.source.endswith("left out, for lack of output tokens: 1 request")
    if skipped.prefix_hashes is not None:
        assert skipped.prefix_hashes.of(0) == (1,)
        assert len(skipped.prefix_hashes) == 1
    one = read_requests(path, zero_output="one")
    assert one.prompt_tokens.tolist() == [9, 8]
    assert one.output_tokens.tolist() == [4, 1]
    assert one.source.endswith("counted as one output token, for lack of any: 1 request")


def test_only_requests_without_output(tmp_path: Path) -> None:
    """Catches a workload of nothing, and a word that means nothing."""
    path = written(tmp_path, lines(VIDUR, "0,9,0"))
    with pytest.raises(DocumentError, match="holds no requests with output tokens"):
        read_requests(path, zero_output="skip")
    with pytest.raises(UnknownNameError, match=r"unknown zero output 'drop'.*error, one, skip"):
        read_requests(path, zero_output="drop")


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """Catches a sort by length, or one that exchanges requests of equal times."""
    rows = [
        f"{time},{prompt},1" for time, prompt in ((2, 9), (1, 8), (2, 7), (1, 6), (1, 8), (0, 5))
    ]
    requests = read_requests(written(tmp_path, lines(PLAIN, *rows)))
    assert requests.prompt_tokens.tolist() == [5, 8, 6, 8, 9, 7]
    assert times(requests) == [0, 1, 1, 1, 2, 2]
    assert requests.source.endswith(
        "sorted by arrival; in the file, behind a later one: 3 requests"
    )
    in_order = read_requests(written(tmp_path, lines(PLAIN, "0,1,1", "0,2,1", "1,1,1")))
    assert in_order.source == "requests, r.txt"


def test_tokens_tell_what_prompts_share(tmp_path: Path) -> None:
    """Catches equal blocks behind different ones that count as shared, and partial blocks."""
    text = list(range(40))
    other = [99, *text[1:]]
    rows = [sim(input_toks=len(ids), input_tok_ids=ids) for ids in (text, text[:36], other)]
    requests = read_requests(written(tmp_path, lines(*rows, sim(), sim(input_tok_ids=None))))
    runs = requests.prompt_runs()
    assert runs.of(0) == ((0, 16), (1, 16), (2, 8))
    assert runs.of(1) == ((0, 16), (1, 16), (3, 4))
    assert runs.of(2) == ((4, 16), (5, 16), (6, 8))
    assert runs.of(3) == ((-4, 20),)
    assert runs.of(4) == ((-5, 20),)


MALFORMED: list[tuple[Sequence[object], str, str]] = [
    ([LMM, "2024-10-16T12:00:00Z,-1,7,4"], ":2", "NumImages '-1' is not a number of images"),
    ([BURST, "x,a,7,4,11,b"], ":2", "Timestamp 'x' is not a number of seconds .*12.5"),
    ([BURST, "-1,a,7,4,11,b"], ":2", "Timestamp '-1' is not a number of seconds"),
    ([BURST, "nan,a,7,4,11,b"], ":2", "Timestamp 'nan' is not a number of seconds"),
    ([BURST, "1e300,a,7,4,11,b"], ":2", "Timestamp '1e300' is not a number of seconds"),
    ([BURST, "1e99999999999999999999,a,7,4,11,b"], ":2", "Timestamp '1e999"),
    ([BURST, "5,a,7.5,4,11,b"], ":2", "Request tokens '7.5' is not a number of tokens"),
    ([BURST, "5,a,7,-4,11,b"], ":2", "Response tokens '-4' is not a number of tokens"),
    ([BURST, "5,a,7,0,7,b"], ":2", "Response tokens 0 .*a request without response tokens f"),
    ([BURST.replace("Request", "Requests")], ":1", "missing column 'Request tokens'"),
    ([VIDUR, "0,7,4", "1,,4"], ":3", "num_prefill_tokens '' is not a number of tokens"),
    ([VIDUR, "0,7,0"], ":2", "num_decode_tokens 0 .*Vidur counts them as one token"),
    (["arrived_at,num_decode_tokens", "1,2"], ":1", "missing column 'num_prefill_tokens'"),
    ([PLAIN, "0,7"], ":2", "2 fields in"),
    ([PLAIN + ",arrival_s", "0,7,1,0"], ":1", "column 'arrival_s' is there twice"),
    ([{"arrival": 1, "tokens": 2}], ":1", "unknown format: an object with arrival, tokens"),
    (["{}"], ":1", "unknown format: an object with no key"),
    ([{"timestamp": 1, "text_input": "x", "output_length": 4}], ":1", "tokenizer.*input_len"),
    ([{"delay": -1, "input_length": 7, "output_length": 4}], ":1", "delay -1 is not a time"),
    ([{"input_length": 7, "output_length": 4}], ":1", "missing key 'timestamp'"),
    ([{"timestamp": 10**400, "input_length": 7, "output_length": 4}], ":1", "is not a time"),
    ([sim(), {"input_toks": 7}], ":2", "missing key 'output_toks'"),
    ([sim(arrival_time_ns="5")], ":1", "arrival_time_ns '5' is not a time .expected ns"),
    ([sim(input_tok_ids=[1, 2])], ":1", "input_tok_ids has 2 tokens, and input_toks is 20"),
    ([sim(input_toks=1, input_tok_ids=[-1])], ":1", "input_tok_ids has -1, which is no token"),
    ([sim(input_toks=1, input_tok_ids=7)], ":1", "input_tok_ids 7 is not a list"),
    ([{"session_id": 1, "sub_requests": [1]}], ":1", "is a session: .*sub_requests in a line"),
    ([run(), run()], ":2", "request_id 'a' is there twice, first at .*:1 "),
    ([run(), run(request_id="b", arrival_time=None)], ":2", "arrival_time None is not a time"),
    ([run(input_toks=0)], ":1", "input_toks 0 is not a number of tokens"),
    ([run(), "[]"], ":2", "a list is not an object"),
    ([result(input_lens=[7])], "", "different numbers of entries: input_lens 1, output_lens 2"),
    ([result(input_lens=7)], "", "input_lens 7 is not a list"),
    ([result(input_lens=[7, "8"])], "", r"input_lens\[1\] '8' is not a number of tokens"),
    ([result(output_lens=[0, 3])], "", r"output_lens\[0\] 0 .*a request without output failed"),
    ([result(start_times=[1, -1])], "", r"start_times\[1\] -1 is not a time"),
    ([result(start_times=[1])], "", "input_lens 2, output_lens 2, start_times 1"),
    ([result(), result()], "", "holds more than one result of vLLM's benchmark"),
    (['{"input_lens": [1]}'], "", "result of vLLM's benchmark without output_lens"),
    ([{"prompt": "Hello", "output_tokens": 4}], ":1", "is a prompt for vLLM's .*prompt_tokens"),
    ([{"conversations": [1]}], ":1", "is ShareGPT conversations.*tokenizer"),
    ([{"prompt_tokens": 7}], ":1", "missing key 'output_tokens'"),
    ([{"prompt_tokens": 7, "output_tokens": -1}], ":1", "output_tokens -1 is not a number"),
    (['[{"prompt_tokens": 7, "output_tokens": 1}, 5]'], ", entry 2", "5 is not an object"),
    (['[{"prompt_tokens": 7, "output_tokens": ""}]'], ", entry 1", "output_tokens '' is not"),
    (['[{"prompt_tokens": 7, "output_tokens": 1}'], "", "is not valid JSON"),
    (
        [{"prompt_tokens": 7, "output_tokens": 1, "prefix_hashes": [None]}], ":1",
        "prefix_hashes has None, which is no id of a block",
    ),
    (
        [{"prompt_tokens": 7, "output_tokens": 1, "id": 3}] * 2, ":2",
        "id 3 is there twice, first at",
    ),
    (
        [
            {"prompt_tokens": 7, "output_tokens": 1, "arrival_s": 1},
            {"prompt_tokens": 7, "output_tokens": 1},
        ],
        ":2", "arrival_s is in some requests and missing in others",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "place", "message"), MALFORMED)
def test_what_is_malformed(
    tmp_path: Path, rows: Sequence[object], place: str, message: str
) -> None:
    """Catches a fault that passes, or whose message does not name file, line, column and value."""
    path = written(tmp_path, lines(*rows))
    with pytest.raises(DocumentError, match=message) as error:
        read_requests(path)
    assert str(error.value).startswith(f"{path}{place}: ")
    assert error.value.hint or "not valid JSON" in message or "not an object" in message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt_tokens": [7]}, "has no column 'output_tokens'"),
        ({"prompt_tokens": [7.5], "output_tokens": [1]}, "'prompt_tokens' holds Float64, and"),
        ({"prompt_tokens": [7, None], "output_tokens": [1, 1]}, "row 2: prompt_tokens None is not"),
        ({"prompt_tokens": [2**25], "output_tokens": [1]}, "row 1: prompt_tokens 33554432 is not"),
        ({"prompt_tokens": [7], "output_tokens": [-3]}, "row 1: output_tokens -3 is not a number"),
        (
            {"prompt_tokens": [7], "output_tokens": [1], "arrival_s": ["1"]},
            "'arrival_s' holds String, and not seconds",
        ),
        (
            {"prompt_tokens": [7, 7], "output_tokens": [1, 1], "arrival_s": [1.0, None]},
            "row 2: arrival_s None is not a time",
        ),
        (
            {"prompt_tokens": [7, 7], "output_tokens": [1, 1], "arrival_s": [1.0, -1.0]},
            "row 2: arrival_s -1.0 is not a time",
        ),
        (
            {"prompt_tokens": [7], "output_tokens": [1], "prefix_hashes": ["a"]},
            "'prefix_hashes' holds String, and not lists of whole numbers",
        ),
        (
            {"prompt_tokens": [7], "output_tokens": [1], "prefix_hashes": [[0.5]]},
            "and not lists of whole numbers",
        ),
        (
            {"prompt_tokens": [7] * 3, "output_tokens": [1] * 3,
             "prefix_hashes": [[], [1], [2, None]]},
            "row 3: prefix_hashes has None, which is no id of a block",
        ),
        (
            {"prompt_tokens": [7], "output_tokens": [1],
             "prefix_hashes": pl.Series([[2**63]], dtype=pl.List(pl.UInt64))},
            "row 1: prefix_hashes has 9223372036854775808, which is no id",
        ),
    ],
)  # fmt: skip
def test_what_is_malformed_in_parquet(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    """Catches a fault that passes, or whose message does not name row, column and value."""
    with pytest.raises(DocumentError, match=message):
        read_requests(parquet(tmp_path, **columns))


def test_parquet_without_rows_or_damaged(tmp_path: Path) -> None:
    """Catches a workload of nothing, and a traceback of the reader."""
    path = parquet(
        tmp_path,
        prompt_tokens=pl.Series([], dtype=pl.Int64),
        output_tokens=pl.Series([], dtype=pl.Int64),
        arrival_s=pl.Series([], dtype=pl.Float64),
    )
    with pytest.raises(DocumentError, match="holds no requests"):
        read_requests(path)
    with pytest.raises(DocumentError, match="Parquet file that was cut off"):
        read_requests(written(tmp_path, path.read_bytes()[:-4]))


def test_a_long_list_of_conversations_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    """Catches a list of text that fills the memory: what follows the first keys is no JSON."""
    text = '[{"id": "a", "conversations": [{"from": "human", "value": "x"}]}, ' + "?" * 2**17
    with pytest.raises(DocumentError, match="is ShareGPT conversations"):
        read_requests(written(tmp_path, text))


def test_too_long_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a list that fills the memory, since it is parsed as a whole."""
    monkeypatch.setattr(registry, "MAX_LIST_BYTES", 40)
    path = written(tmp_path, json.dumps([{"prompt_tokens": 70, "output_tokens": 4}] * 2))
    with pytest.raises(DocumentError, match=r"is a JSON list of more than 0 MiB .*jq -c"):
        read_requests(path)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "span_s"),
    [
        ("rtx4090_llama-3.1-8b.requests.jsonl", 29.1005),
        ("rtxpro6000_llama-3.1-8b.requests.jsonl", 29.1212),
    ],
)
def test_recorded_runs(reference: Path, name: str, span_s: float) -> None:
    """Catches requests lost: 300 of mean lengths 857 and 653 over 29.1 s, by the json module.

    The figures are in reference/serving-engines.md, section 7. Lengths are rounded to a token and
    times to a tenth of a millisecond there, or here.
    """
    requests = read_requests(reference / "data" / "serving" / name)
    assert len(requests) == 300
    assert abs(requests.prompt_tokens.mean() - 857) < 0.5
    assert abs(requests.output_tokens.mean() - 652.5) < 0.5
    assert abs(times(requests)[-1] - span_s) < 5e-5


@pytest.mark.reference
def test_published_traces_keep_each_tenth_of_a_microsecond(reference: Path) -> None:
    """Catches times that are cut to microseconds: the trace has seven digits."""
    folder = reference / "data" / "traces"
    path = folder / "AzureLLMInferenceTrace_code_2023.csv"
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    ticks = [
        (int(row[11:13]) * 3600 + int(row[14:16]) * 60 + int(row[17:19])) * 10**7 + int(row[20:27])
        for row in rows
    ]
    expected = (np.array(ticks) - ticks[0]) / 1e7
    # An hour in binary seconds has steps of 5e-13 s.
    np.testing.assert_allclose(times(read_requests(path)), expected, atol=1e-12, rtol=0)


VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**66), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-1, 2**64), max_size=2),
)  # fmt: skip
KEY = st.sampled_from(
    [
        *("timestamp", "delay", "input_length", "output_length", "hash_ids", "text_input"),
        *("input_toks", "output_toks", "arrival_time_ns", "input_tok_ids", "sub_requests"),
        *("request_id", "arrival_time", "input_lens", "output_lens", "start_times"),
        *("num_prompts", "total_input_tokens", "prompt_tokens", "output_tokens", "arrival_s"),
        *("prefix_hashes", "prompt", "conversations", "id"),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(st.dictionaries(KEY, VALUE, max_size=6), min_size=1, max_size=3),
    is_list=st.booleans(),
    zero=st.sampled_from(["error", "skip", "one"]),
)
def test_random_objects_are_read_or_refused(
    tmp_path: Path, records: list[dict[str, object]], is_list: bool, zero: str
) -> None:
    """Catches a traceback, and a request of no tokens or of no time."""
    path = written(tmp_path, json.dumps(records) if is_list else lines(*records))
    check_read_or_refused(path, zero)


CELL = st.one_of(
    st.integers(-2, 2**25).map(str),
    st.sampled_from(["2023-11-16 18:15:46", "1e3", "nan", "inf", "1e99", "", ".5", "٣", "0", "7"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.sampled_from([AZURE, VIDUR, PLAIN]),
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=3),
    zero=st.sampled_from(["error", "skip", "one"]),
)
def test_random_rows_are_read_or_refused(
    tmp_path: Path, header: str, rows: list[list[str]], zero: str
) -> None:
    """Catches a traceback, and a request of no tokens or of no time."""
    check_read_or_refused(written(tmp_path, lines(header, *map(",".join, rows))), zero)


def check_read_or_refused(path: Path, zero: str) -> None:
    refusal = ""
    requests: Requests | None = None
    try:
        requests = read_requests(path, zero_output=zero)
    except AttaccError as error:
        refusal = str(error)
    assert refusal.startswith(str(path)) == (requests is None)
    if requests is None:
        return
    assert len(requests) > 0
    assert requests.prompt_tokens.min() > 0
    assert requests.output_tokens.min() > 0
    assert requests.prompt_tokens.shape == requests.output_tokens.shape
    if requests.arrival_s is not None:
        assert times(requests)[0] == 0
        assert np.isfinite(requests.arrival_s).all()
        assert (np.diff(requests.arrival_s) >= 0).all()
    if requests.prefix_hashes is not None:
        assert len(requests.prefix_hashes) == len(requests)
