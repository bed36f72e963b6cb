import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import DocumentError
from attacc.hardware.dram import DRAMS
from attacc.pim.program.program import Kind, Program
from attacc.pim.program.trace import NAMES, format_trace, parse_trace, read_trace, write_trace

HBM3 = DRAMS.load("hbm3-5.2-asplos24").organization
TEXT = "PIM_WR_GB 0x00000020\nPIM_WR_GB 0x40000020\nPIM_SFM 0x00000000\n"


def parse(text: str) -> Program:
    return parse_trace(text.encode(), HBM3, where="mine.trace")


def steps(program: Program) -> list[tuple[Kind, int, int, int]]:
    columns = (program.kind, program.address, program.first_channel, program.channels)
    return [
        (Kind(kind), address, first, channels)
        for kind, address, first, channels in zip(*(c.tolist() for c in columns), strict=True)
    ]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Steps of any kind, address and channels, neighbours that could be one step included."""
    count = draw(st.integers(0, 12))
    first = [draw(st.integers(0, 15)) for _ in range(count)]
    return Program(
        HBM3,
        np.array([draw(st.sampled_from(list(Kind))) for _ in range(count)], dtype=np.uint8),
        np.array([draw(st.integers(0, 2**30 - 1)) for _ in range(count)], dtype=np.int64),
        np.array(first, dtype=np.int16),
        np.array([draw(st.integers(1, 16 - f)) for f in first], dtype=np.int16),
    )


@given(programs())
def test_any_program_survives_as_text(program: Program) -> None:
    """Catches a request, address or channel that is lost between a program and its text."""
    text = format_trace(program)
    assert text.count("\n") == program.requests
    again = parse(text)
    assert format_trace(again) == text
    assert again.counts() == program.counts()
    assert len(again) <= len(program)


def test_neighbouring_channels_become_one_step() -> None:
    """Catches steps that join what differs, and programs that grow with the channels."""
    text = "".join(f"PIM_MAC_AB {c << 30:#x}\n" for c in range(16))
    assert steps(parse(text)) == [(Kind.MACAB, 0, 0, 16)]
    assert steps(parse(text + text)) == [(Kind.MACAB, 0, 0, 16)] * 2
    assert steps(parse(TEXT)) == [(Kind.WRGB, 32, 0, 2), (Kind.SFM, 0, 0, 1)]
    apart = "PIM_SFM 0x0\nPIM_SFM 0x80000000\nPIM_SFM 0x40000000\nPIM_SFM 0x80000020\n"
    assert steps(parse(apart)) == [
        (Kind.SFM, 0, 0, 1),
        (Kind.SFM, 0, 2, 1),
        (Kind.SFM, 0, 1, 1),
        (Kind.SFM, 32, 2, 1),
    ]


def test_every_request_is_read() -> None:
    """Catches a request that is taken for another one; LD and ST are part of the format."""
    text = "".join(f"{name} 0x00000040\n" for name in NAMES)
    assert [kind for kind, *_ in steps(parse(text))] == list(NAMES.values())
    assert format_trace(parse(text)) == text
    assert set(NAMES.values()) == set(Kind)


def test_blank_lines_and_spaces_do_not_matter() -> None:
    """Catches files of other systems and editors that are refused or misread."""
    loose = "\r\n  PIM_WR_GB\t 0X20 \r\n\n\tPIM_WR_GB 0x40000020\r\n\nPIM_SFM 0x0"
    assert format_trace(parse(loose)) == TEXT


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("PIM_SMF 0x0", r"unknown request 'PIM_SMF' \(did you mean 'PIM_SFM'"),
        ("pim_sfm 0x0", r"unknown request 'pim_sfm' \(did you mean 'PIM_SFM'"),
        ("PIM_SFMX 0x0", r"unknown request 'PIM_SFMX'"),
        ("PIM_SF 0x0", r"unknown request 'PIM_SF'"),
        ("0x0", r"unknown request '0x0'.*choose from LD"),
        ("PIM_SFM", r"malformed line 'PIM_SFM' \(a line is a request and an address"),
        ("PIM_SFM ", r"malformed line 'PIM_SFM'"),
        ("PIM_SFM 16", r"malformed line 'PIM_SFM 16'"),
        ("PIM_SFM 0x", r"malformed line 'PIM_SFM 0x'"),
        ("PIM_SFM 0x1g", r"malformed line 'PIM_SFM 0x1g'"),
        ("PIM_SFM -0x10", r"malformed line 'PIM_SFM -0x10'"),
        ("PIM_SFM 0x10 0x20", r"malformed line 'PIM_SFM 0x10 0x20'"),
        ("PIM_SFM 0x10,", r"malformed line 'PIM_SFM 0x10,'"),
        ("PIM_SFM 0x400000000", r"'0x400000000' is beyond the stack.*device is 0x3ffffffff"),
        ("PIM_SFM 0x" + "f" * 99, r"'0xf+ is beyond the stack"),
        ("\x0c", r"malformed line ''"),
        ("\x00", r"unknown request '\\x00'"),
    ],
)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_malformed_line_is_named(line: str, message: str, ending: str) -> None:
    """Catches a fault that passes, or that is reported at another line."""
    with pytest.raises(DocumentError, match=message) as caught:
        parse("\nPIM_SFM 0x0\n\n" + line + ending)
    assert str(caught.value).startswith("mine.trace: line 4: ")
    with pytest.raises(DocumentError, match="line 4"):
        parse("\nPIM_SFM 0x0\n\n" + line + "\nPIM_NOT 0x0\n")


@given(
    st.one_of(
        st.binary(max_size=40),
        st.lists(
            st.sampled_from(
                ["PIM_SFM", "PIM_MAC_AB", "LD", " ", "\n", "0x", "0x10", "f", "\r", "\t", "\x0b"]
            ),
            max_size=12,
        ).map(lambda parts: "".join(parts).encode()),
    )
)
def test_any_bytes_are_a_trace_or_a_clear_error(data: bytes) -> None:
    """Catches another exception than DocumentError, and lines that vanish."""
    try:
        program = parse_trace(data, HBM3, where="mine.trace")
    except DocumentError as error:
        assert str(error).startswith("mine.trace: line ")  # noqa: PT017 - or nothing is raised
        return
    assert program.requests == sum(line.strip(b" \t\r") != b"" for line in data.split(b"\n"))


@pytest.mark.parametrize("name", ["a.trace", "a.trace.gz"])
def test_files_round_trip(tmp_path: Path, name: str) -> None:
    """Catches a compressed file that is not, and a temporary file that stays."""
    path = tmp_path / name
    write_trace(parse(TEXT), path)
    data = path.read_bytes()
    assert (gzip.decompress(data) if name.endswith(".gz") else data).decode() == TEXT
    assert format_trace(read_trace(path, HBM3)) == TEXT
    assert list(tmp_path.iterdir()) == [path]
    write_trace(parse(TEXT), path)
    assert path.read_bytes() == data, "the same program gives the same bytes"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_ends_of_lines_are_no_part_of_a_trace(tmp_path: Path, end: str) -> None:
    """Catches a byte-order mark or an end of line that is taken for a request."""
    path = tmp_path / "a.trace"
    path.write_bytes(b"\xef\xbb\xbf" + f"{TEXT}\n \n".replace("\n", end).encode())
    assert format_trace(read_trace(path, HBM3)) == TEXT
    for data, what in ((b"PK\x03\x04", "is a zip archive"), (b"PIM_SFM 0x0\n\0", "null bytes")):
        path.write_bytes(data)
        with pytest.raises(DocumentError, match=what):
            read_trace(path, HBM3)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Catches a traceback, or a message without the file."""
    plain, cut, corrupt = tmp_path / "plain.gz", tmp_path / "cut.gz", tmp_path / "corrupt.gz"
    plain.write_text(TEXT)
    data = gzip.compress(TEXT.encode() * 100)
    cut.write_bytes(data[:-12])
    corrupt.write_bytes(data[:20] + b"\xff\xff\xff" + data[23:])
    for path, fault in (
        (cut, "is a gzip file that was cut off"),
        (corrupt, "is a damaged gzip file"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(DocumentError, match=fault) as caught:
            read_trace(path, HBM3)
        assert str(caught.value).startswith(str(path))
    # What a file is is told by its first bytes.
    assert format_trace(read_trace(plain, HBM3)) == TEXT
    with pytest.raises(DocumentError, match=r"absent\.trace: no such file"):
        read_trace(tmp_path / "absent.trace", HBM3)


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    """Catches a traceback, and a half-written file."""
    with pytest.raises(DocumentError, match="cannot be written: No such file") as caught:
        write_trace(parse(TEXT), tmp_path / "absent" / "a.trace")
    assert str(tmp_path / "absent" / "a.trace") in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DocumentError, match="is a folder"):
        write_trace(parse(TEXT), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"], "a temporary file stayed"
