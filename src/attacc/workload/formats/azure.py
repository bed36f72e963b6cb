"""Traces of Azure's inference services (Azure/AzurePublicDataset).

All years have the columns TIMESTAMP, ContextTokens and GeneratedTokens. Times of 2023 have seven
digits behind the point and no zone. Times of 2024 have an offset from UTC and any number of digits.
Times of 2025 have milliseconds and the letter Z, and the column NumImages counts the images of a
request.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from attacc.errors import DocumentError
from attacc.files import Rows
from attacc.workload.formats.columns import number, shown
from attacc.workload.formats.tables import DATES, TableFormat, counts_of

_IMAGES: Final = "NumImages"


def _notes(rows: Rows, where: str) -> tuple[str, ...]:
    """Tell how many requests have images, whose number is no length."""
    if _IMAGES not in rows.cells.columns:
        return ()
    images = counts_of(rows.cells[_IMAGES])
    wrong = np.flatnonzero(images < 0)
    if len(wrong):
        row = int(wrong[0])
        value: str = rows.cells[_IMAGES][row]
        raise DocumentError(
            f"{_IMAGES} {shown(value)} is not a number of images",
            where=f"{where}:{rows.lines[row]}",
            hint="expected a whole number, 0 or more",
        )
    found = int(np.count_nonzero(images))
    return (f"with images, which {_IMAGES} counts and no length does: {number(found)}",)


AZURE: Final = TableFormat(
    told="trace in the Azure format",
    time="TIMESTAMP",
    prompt="ContextTokens",
    output="GeneratedTokens",
    read_time=DATES,
    notes=_notes,
)
