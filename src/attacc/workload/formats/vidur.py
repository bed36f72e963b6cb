"""Traces of Vidur (microsoft/vidur). Its traces of lengths have no column of arrivals."""

from __future__ import annotations

from typing import Final

from attacc.workload.formats.tables import SECONDS, TableFormat

VIDUR: Final = TableFormat(
    told="trace in Vidur's format",
    time="arrived_at",
    prompt="num_prefill_tokens",
    output="num_decode_tokens",
    read_time=SECONDS,
    needs_time=False,
    no_output="Vidur counts them as one token; ",
)
