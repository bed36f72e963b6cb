"""The text form of a program: one request a line, ``PIM_MAC_AB 0x40000000``.

The address is that of a byte: offset, column, row, bank, bank group, rank, pseudo-channel and
channel from the low bits up (reference/controller.md, input). Blank lines are ignored. A
file may be compressed with gzip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from attacc.errors import DocumentError, nearest_hint
from attacc.files import encoded_text_of, read_data, write_whole
from attacc.hardware.dram import Organization
from attacc.pim.program.program import AddressLayout, Kind, Program

NAMES: Final = {
    "PIM_WR_GB": Kind.WRGB,
    "PIM_MAC_AB": Kind.MACAB,
    "PIM_MAC_SB": Kind.MACSB,
    "PIM_MAC_PB": Kind.MACPB,
    "PIM_MV_SB": Kind.MVSB,
    "PIM_MV_GB": Kind.MVGB,
    "PIM_SFM": Kind.SFM,
    "PIM_BARRIER": Kind.BARRIER,
    "LD": Kind.LD,
    "ST": Kind.ST,
}
"""Names of the requests in a text trace."""


def read_trace(path: Path, organization: Organization) -> Program:
    """Read a text trace.

    Args:
        path: the file, plain or compressed with gzip.
        organization: the stack that its addresses refer to.

    Raises:
        DocumentError: the file is absent, unreadable, or malformed at a line.
    """
    where = str(path)
    data = encoded_text_of(read_data(path), where=where)
    return parse_trace(data, organization, where=where)


def parse_trace(data: bytes, organization: Organization, *, where: str) -> Program:
    """Parse the bytes of a text trace.

    Args:
        data: ASCII text.
        organization: the stack that its addresses refer to.
        where: the file's name, for messages.

    Raises:
        DocumentError: a line is malformed.
    """
    from attacc.pim.program import trace_kernel  # loads Numba

    layout = AddressLayout.of(organization)
    text = np.frombuffer(data, dtype=np.uint8)
    lines = int(np.count_nonzero(text == trace_kernel.NEWLINE)) + 1
    kind = np.empty(lines, dtype=np.uint8)
    address = np.empty(lines, dtype=np.int64)
    first_channel = np.empty(lines, dtype=np.int16)
    channels = np.empty(lines, dtype=np.int16)
    width = max(map(len, NAMES))
    names = np.frombuffer(b"".join(n.encode().ljust(width, b"\0") for n in NAMES), dtype=np.uint8)
    status, steps, line = trace_kernel.parse_lines(
        text,
        names.reshape(len(NAMES), width),
        np.array([len(name) for name in NAMES], dtype=np.int64),
        np.array(list(NAMES.values()), dtype=np.uint8),
        layout.channel,
        layout.end,
        kind,
        address,
        first_channel,
        channels,
    )
    if status != trace_kernel.OK:
        raise _line_error(status, line, data, layout, where)
    return Program(
        organization,
        kind[:steps].copy(),
        address[:steps].copy(),
        first_channel[:steps].copy(),
        channels[:steps].copy(),
    )


def _line_error(
    status: int, line: int, data: bytes, layout: AddressLayout, where: str
) -> DocumentError:
    from attacc.pim.program import trace_kernel

    text = data.split(b"\n")[line - 1].decode("ascii", "replace").strip()
    words = text.split()
    if status == trace_kernel.UNKNOWN_KIND and words:
        message, hint = f"unknown request {words[0]!r:.60}", nearest_hint(words[0][:40], NAMES)
    elif status == trace_kernel.ADDRESS_TOO_LARGE:
        message = f"address {words[1]!r:.60} is beyond the stack"
        hint = f"the last byte of this device is {(1 << layout.end) - 1:#x}"
    else:
        message = f"malformed line {text!r:.80}"
        hint = "a line is a request and an address, as in PIM_MAC_AB 0x40000000"
    return DocumentError(message, where=f"{where}: line {line}", hint=hint)


def format_trace(program: Program) -> str:
    """Return the text form of a program: one line per request, channels ascending."""
    layout = AddressLayout.of(program.organization)
    names = {kind: name for name, kind in NAMES.items()}
    steps = np.repeat(np.arange(len(program)), program.channels)
    starts = np.cumsum(program.channels, dtype=np.int64) - program.channels
    channel = np.arange(len(steps)) - starts[steps] + program.first_channel[steps]
    address = program.address[steps] | (channel << layout.channel)
    labels = [names[Kind(kind)] for kind in program.kind.tolist()]
    return "".join(
        f"{labels[step]} 0x{value:08x}\n"
        for step, value in zip(steps.tolist(), address.tolist(), strict=True)
    )


def write_trace(program: Program, path: Path) -> None:
    """Write the text form of a program; compressed if the name ends in ``.gz``.

    The file appears complete or not at all.
    """
    write_whole(path, format_trace(program).encode("ascii"))
