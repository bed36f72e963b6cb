"""Traces of BurstGPT (HPMLL/BurstGPT), in both versions.

The second version has two more columns in the middle, so columns are found by their names.
"""

from __future__ import annotations

from typing import Final

from attacc.workload.formats.tables import SECONDS, TableFormat

BURSTGPT: Final = TableFormat(
    told="trace in the BurstGPT format",
    time="Timestamp",
    prompt="Request tokens",
    output="Response tokens",
    read_time=SECONDS,
    no_output="a request without response tokens failed; ",
)
