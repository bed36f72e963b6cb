"""Results of vLLM's benchmark (``vllm bench serve``), as one JSON object for all requests.

Only results that were saved with --save-detailed hold the requests: input_lens, output_lens and
start_times (seconds), a list each. A request that failed has an output length of 0.
"""

from __future__ import annotations

from typing import Final

from attacc.errors import DocumentError
from attacc.workload.formats.columns import (
    Columns,
    RequestRows,
    Source,
    output_tokens,
    prompt_of,
    time_of,
)
from attacc.workload.formats.lines import Record, list_of

TOLD: Final = "result of vLLM's benchmark"
_LISTS: Final = ("input_lens", "output_lens")
_TIMES: Final = "start_times"
_TOTALS: Final = {"total_input_tokens", "total_output_tokens", "num_prompts"}


def is_result(record: Record) -> bool:
    """Return whether an object is a result of the benchmark, with its requests or without."""
    return bool(record.keys() & set(_LISTS)) or len(record.keys() & _TOTALS) > 1


def read_result(record: Record, source: Source) -> Columns:
    """Return the requests of a result.

    Args:
        record: the result.
        source: its file.

    Raises:
        DocumentError: it holds no requests, its lists differ in length, or an entry is malformed;
            names the list and the entry, counted from 0.
    """
    where = source.where
    for name in _LISTS:
        if name not in record:
            raise DocumentError(
                f"is a {TOLD} without {name}",
                where=where,
                hint="run the benchmark with --save-result --save-detailed",
            )
    names = [*_LISTS, *([_TIMES] if record.get(_TIMES) is not None else [])]
    lists = [list_of(record[name], name, where, "expected a list") for name in names]
    if len({len(one) for one in lists}) > 1:
        told = ", ".join(f"{name} {len(one)}" for name, one in zip(names, lists, strict=True))
        raise DocumentError(
            f"its lists have different numbers of entries: {told}",
            where=where,
            hint="save the result of one run, unchanged",
        )
    rows = RequestRows(source)
    inputs, outputs = lists[:2]
    for place, (prompt, output) in enumerate(zip(inputs, outputs, strict=True)):
        generated = output_tokens(
            output,
            f"output_lens[{place}]",
            where,
            source,
            hint="a request without output failed; ",
        )
        rows.add(
            prompt_of(prompt, generated, f"input_lens[{place}]", where, source),
            generated,
            time_of(lists[2][place], f"{_TIMES}[{place}]", "s", where) if lists[2:] else None,
        )
    return rows.columns()
