"""``attacc trace run`` and ``attacc trace build``."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.pim.program.program import Kind
from attacc.pim.program.trace import NAMES, parse_trace, read_trace
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import resolve_timing
from tests.cli.console import DEVICE_FILE, answer, check_refusal, document, invoke, refusal

DEVICE = DRAMS.load("hbm3-5.2-asplos24")
SHORT = "PIM_WR_GB 0x0\nPIM_MAC_AB 0x0\nPIM_MAC_AB 0x40000000\nPIM_BARRIER 0x0\nPIM_SFM 0x0\n"
RUN_KEYS = [
    "file",
    "device",
    "placement",
    "power_limited",
    "cycles",
    "time_ns",
    "requests",
    "commands",
    "parse_s",
    "simulate_s",
    "traffic",
]
REQUEST_KEYS = ["mac", "softmax", "mvgb", "mvsb", "wrgb", "barrier"]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    path = tmp_path / "short.trace"
    path.write_text(SHORT)
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the many examples of one property."""
    return tmp_path_factory.mktemp("traces")


def test_run_is_that_of_the_library(short: Path) -> None:
    """A figure taken from the wrong place, a key renamed, a unit slipped."""
    answers = document("trace", "run", short)
    timed = run(
        read_trace(short, DEVICE.organization),
        resolve_timing(DEVICE, Placement.BANK, power_limited=True),
    )
    assert len(answers) == 1
    got = answers[0]
    assert list(got) == RUN_KEYS
    assert got["file"] == str(short)
    assert got["device"] == DEVICE.name
    assert got["placement"] == "bank"
    assert got["power_limited"] is True
    assert got["cycles"] == timed.cycles
    assert got["time_ns"] == timed.time_ns
    assert got["requests"] == dict(zip(REQUEST_KEYS, (2, 1, 0, 0, 1, 1), strict=True))
    assert got["commands"] == {entry.command: entry.count for entry in timed.commands}
    assert got["parse_s"] > 0
    assert got["simulate_s"] > 0
    assert got["traffic"] is None


def test_power_limit_reaches_the_engine(tmp_path: Path) -> None:
    """The switch has to change the cadence of the multiplies: 6 cycles with, 4 without."""
    path = tmp_path / "row.trace"
    path.write_text("".join(f"PIM_MAC_AB {column * 32:#x}\n" for column in range(32)))
    limited, unlimited = (
        document("trace", "run", path, option)[0]
        for option in ("--power-limit", "--no-power-limit")
    )
    assert limited["power_limited"] is True
    assert unlimited["power_limited"] is False
    assert limited["cycles"] - unlimited["cycles"] == 31 * 2


def test_device_by_name_or_file(short: Path, tmp_path: Path) -> None:
    """A device file must be read, not a preset of the same name; clocks differ."""
    preset = document("trace", "run", short, "--device", "hbm3-6.4-asplos24")[0]
    assert preset["device"] == "hbm3-6.4-asplos24"
    path = tmp_path / "mine.toml"
    path.write_text(DEVICE_FILE.replace('"0.769 ns"', '"2 ns"'))
    mine = document("trace", "run", short, "--device", path)[0]
    assert mine["time_ns"] == 2 * mine["cycles"]


def test_many_traces_each_with_its_own_placement(short: Path, tmp_path: Path) -> None:
    """Tables of one placement used for a trace of another."""
    files = [short]
    for kind in ("PIM_MAC_SB", "PIM_MAC_PB"):
        path = tmp_path / f"{kind}.trace.gz"
        path.write_bytes(gzip.compress(SHORT.replace("PIM_MAC_AB", kind).encode()))
        files.append(path)
    files.append(short)
    answers = document("trace", "run", *files)
    assert [entry["file"] for entry in answers] == [str(file) for file in files]
    assert [entry["placement"] for entry in answers] == ["bank", "bankgroup", "buffer", "bank"]
    assert answers[0]["cycles"] == answers[3]["cycles"]


def test_details_of_one_trace(short: Path) -> None:
    """The table and the JSON must tell the same."""
    got = document("trace", "run", short)[0]
    text = answer("trace", "run", short, "--no-power-limit")
    assert "short.trace on hbm3-5.2-asplos24" in text
    assert "one GEMV unit per bank, cadence without a power limit" in text
    for label in (*REQUEST_KEYS, "ACTAB", "MACAB", "REFab", "simulated"):
        assert label in text
    assert f"{got['cycles']:,}" in answer("trace", "run", short)


def test_table_of_many_traces(short: Path) -> None:
    """Totals over the wrong rows."""
    got = document("trace", "run", short)[0]
    text = answer("trace", "run", short, short)
    assert "2 traces on hbm3-5.2-asplos24, cadence of the power limit" in text
    rows = [line.split() for line in text.splitlines()]
    assert [row[2] for row in rows if row[:1] == ["short"]] == [str(got["cycles"])] * 2
    assert [row[1] for row in rows if row[:1] == ["all"]] == [str(2 * got["cycles"])]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_log_is_that_of_the_library(short: Path, tmp_path: Path, suffix: str) -> None:
    """Columns in another order, or a log of another cadence."""
    log = tmp_path / f"commands.log{suffix}"
    document("trace", "run", short, "--log", log, "--no-power-limit")
    data = gzip.decompress(log.read_bytes()) if suffix else log.read_bytes()
    entries = run(
        read_trace(short, DEVICE.organization),
        resolve_timing(DEVICE, Placement.BANK, power_limited=False),
        log=True,
    ).log
    assert entries is not None
    fields = ("cycle", "command", "channel", "pseudo_channel", "rank", "bank_group", "bank")
    assert data.decode().splitlines() == [
        ", ".join(str(getattr(entry, field)) for field in (*fields, "row", "column"))
        for entry in entries
    ]
    assert data.startswith(b"1, WRGB, 0, 0, 0, 0, 0, 0, 0\n")


def test_log_of_several_traces_is_refused(short: Path, tmp_path: Path) -> None:
    """A log of the last trace only, or of all in a heap."""
    log = tmp_path / "log"
    assert "2 traces do not go into one log" in refusal("trace", "run", short, short, "--log", log)
    assert not log.exists()


@pytest.mark.parametrize("command", ["run", "build"])
def test_targets_that_cannot_be_written(short: Path, tmp_path: Path, command: str) -> None:
    """A fault found only after the simulation, or an input overwritten."""
    before = sorted(tmp_path.iterdir())
    targets = {
        tmp_path: "is a folder",
        tmp_path / "absent" / "file": "there is no folder",
        tmp_path / ("x" * 300): "",
        tmp_path / ("x" * 300) / "file": "cannot be written",
    }
    for target, complaint in targets.items():
        if command == "run":
            message = refusal("trace", "run", short, "--log", target)
        else:
            message = refusal("trace", "build", target, "--heads", "1", "--length", "1")
        assert complaint in message
        assert str(target) in message
    assert sorted(tmp_path.iterdir()) == before


def test_log_over_its_own_trace_is_refused(short: Path) -> None:
    """The trace would be lost."""
    assert "is also read" in refusal("trace", "run", short, "--log", short)
    assert short.read_text() == SHORT


def test_bad_second_trace_leaves_nothing(short: Path, tmp_path: Path) -> None:
    """Half an answer, or a log of what was read so far."""
    bad = tmp_path / "bad.trace"
    bad.write_text(SHORT + "\nPIM_MAC_XB 0x0\n")
    message = refusal("trace", "run", short, bad, "--json")
    assert f"{bad}: line 7: unknown request 'PIM_MAC_XB'" in message
    assert "did you mean 'PIM_MAC_" in message
    log = tmp_path / "log"
    refusal("trace", "run", bad, "--log", log)
    assert not log.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("PIM_MAC_AB\n", ["line 1", "malformed line 'PIM_MAC_AB'"]),
        ("PIM_SFM 0x0\nPIM_SFM 16\n", ["line 2", "'PIM_SFM 16'", "0x40000000"]),
        ("PIM_SFM 0x0 0x0\n", ["line 1", "'PIM_SFM 0x0 0x0'"]),
        ("PIM_SFM 0xfffffffffff\n", ["line 1", "0xfffffffffff", "beyond the stack"]),
        ("\n \n", ["holds no requests"]),
        ("", ["holds no requests"]),
        ("LD 0x0\n", ["LD"]),
        ("PIM_MAC_AB 0x0\nPIM_MAC_SB 0x0\n", ["mixes MACAB and MACSB"]),
    ],
)
def test_bad_trace_names_file_and_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    """A message that leaves the user to search the file."""
    path = tmp_path / "bad.trace"
    path.write_text(text)
    message = refusal("trace", "run", path)
    for part in (str(path), *parts):
        assert part in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Operating-system errors and broken compression must not surface as tracebacks."""
    whole = gzip.compress(SHORT.encode() * 100)
    contents = {
        "truncated.gz": whole[:-9],
        "cut.gz": whole[:12],
        "broken.gz": whole[:15] + b"\xff\xff\xff\xff" + whole[19:],
        "empty.gz": b"",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    for name in (*contents, "absent.trace", "absent/a.trace", "x" * 300, "."):
        assert str(tmp_path / name) in refusal("trace", "run", tmp_path / name)
    # A file is compressed if its first bytes say so, whatever its name says.
    (tmp_path / "plain.gz").write_text(SHORT)
    (tmp_path / "packed.trace").write_bytes(gzip.compress(SHORT.encode()))
    plain, packed = document("trace", "run", tmp_path / "plain.gz", tmp_path / "packed.trace")
    assert plain["cycles"] == packed["cycles"]


def test_misspelt_file_proposes_the_nearest(short: Path) -> None:
    """A misspelt name in a folder of hundreds; the list of all of them would not help."""
    message = refusal("trace", "run", short, short.parent / "shrot.trace")
    assert f"{short.parent / 'shrot.trace'}: no such file" in message
    assert "hint: did you mean 'short.trace'?" in message
    assert "hint" not in refusal("trace", "run", short.parent / "quite-another")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("nRCD", "nRDC"), ["nRDC", "nRCD"]),
        (("columns = 32", "columns = 32\nbanq = 4"), ["organization.banq", "'banks'"]),
        (("columns = 32", ""), ["organization.columns", "missing"]),
        (("columns = 32", "columns = 33"), ["columns = 33", "power of two"]),
        (("columns = 32", "columns = 0"), ["organization.columns", "0"]),
        (("columns = 32", "columns = -32"), ["organization.columns", "-32"]),
        (("columns = 32", 'columns = "32"'), ["organization.columns", "'32'"]),
        (('"0.769 ns"', '"0.769 GB"'), ["clock", "'GB'", "ns"]),
        (('"0.769 ns"', '"0.769"'), ["clock", "'0.769'"]),
        (('"0.769 ns"', "0.769"), ["clock", "0.769"]),
        (('"0.769 ns"', '"-1 ns"'), ["clock", "'-1 ns'"]),
        (("attacc-pim", "attac-pim"), ["attac-pim", "'attacc-pim'"]),
        (("[timing]", "[timing"), ["TOML"]),
    ],
)
def test_bad_device_file(
    short: Path, tmp_path: Path, change: tuple[str, str], parts: list[str]
) -> None:
    """A fault in a device that is ignored, or told without its place and the way out."""
    path = tmp_path / "mine.toml"
    text = DEVICE_FILE
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    message = refusal("trace", "run", short, "--device", path)
    for part in (str(path), *parts):
        assert part in message


def test_several_faults_give_one_message(short: Path, tmp_path: Path) -> None:
    """A list of every fault, or one for each, buries the first."""
    path = tmp_path / "mine.toml"
    path.write_text(
        DEVICE_FILE.replace("columns = 32", "columns = 0\nrwos = 1").replace("19", "-1")
    )
    assert "more fault" in refusal("trace", "run", short, "--device", path)
    refusal("trace", "run", short, tmp_path / "absent", "--device", path, "--log", tmp_path)


@pytest.mark.parametrize(
    "name", ["hbm3-5.3", "absent.toml", "folder/absent.toml", "mine.yaml/", ""]
)
def test_unknown_device(short: Path, name: str) -> None:
    """A default taken in place of the device that was asked for."""
    refusal("trace", "run", short, "--device", name)


def test_misspelt_device_proposes_the_nearest(short: Path) -> None:
    """The nearest choice is the way out."""
    message = refusal("trace", "run", short, "--device", "hbm3-5.2-asplos23")
    assert "--device: unknown device preset 'hbm3-5.2-asplos23'" in message
    assert "did you mean 'hbm3-5.2-asplos24'" in message


@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("schedule", ["complete", "published"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_built_trace_is_read_back(
    tmp_path: Path, placement: Placement, schedule: str, suffix: str
) -> None:
    """A text form that loses or reorders requests times otherwise than the program itself."""
    path = tmp_path / f"built.trace{suffix}"
    shape = ("--heads", "20", "--length", "150", "--head-dim", "64", "--dtype", "fp8")
    order = ("--placement", placement, "--schedule", schedule)
    built = document("trace", "build", path, *shape, *order)
    attended = document("attention", *shape, *order, "--device", built["device"])
    played = document("trace", "run", path)[0]
    assert list(built) == [
        "file",
        "device",
        "placement",
        "schedule",
        "heads",
        "length",
        "head_dim",
        "dtype",
        "requests",
    ]
    assert built["file"] == str(path)
    assert (built["placement"], built["schedule"]) == (placement, schedule)
    assert (built["heads"], built["length"], built["head_dim"]) == (20, 150, 64)
    assert built["requests"] == played["requests"]
    assert played["cycles"] == attended["cycles"]
    assert played["commands"] == attended["commands"]


def test_built_table(tmp_path: Path) -> None:
    """The table and the JSON must tell the same."""
    path = tmp_path / "built.trace"
    text = answer("trace", "build", path, "--heads", "2", "--length", "40", "--placement", "buffer")
    assert "Attention of 2 heads with 40 keys and values of 128 fp16 elements each" in text
    assert f"{len(path.read_text().splitlines()):,}  " in text


def test_build_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """Addresses beyond the bank would alias, or memory run out, in either schedule."""
    path = tmp_path / "built.trace"
    for schedule in ("complete", "published"):
        for heads, length in ((10_000_000, 4096), (1, 16_000_000)):
            message = refusal(
                "trace", "build", path, "--heads", str(heads), "--length", str(length),
                "--schedule", schedule,
            )  # fmt: skip
            assert "rows of every bank" in message
    assert not path.exists()


@pytest.mark.untraced  # of many files alike
@given(
    # Without an address there is no request, whatever Hypothesis finds in the sources.
    data=st.binary(max_size=200).filter(lambda data: b"0x" not in data.lower()),
    compressed=st.booleans(),
)
def test_random_bytes_are_refused(shared: Path, data: bytes, compressed: bool) -> None:
    """Any bytes that end in a traceback, or in an answer."""
    path = shared / ("random.trace.gz" if compressed else "random.trace")
    path.write_bytes(data)
    log = shared / "log"
    refusal("trace", "run", path, "--log", log)
    refusal("trace", "run", path, "--json")
    assert not log.exists()


WORDS = st.one_of(
    st.sampled_from([*NAMES, "0x0", "0x40000000", "0X1f", "0x", "0xg", "0x800000000", "16"]),
    st.text(max_size=5),
)


@pytest.mark.untraced  # of many files alike
@given(
    lines=st.lists(
        st.one_of(
            st.lists(WORDS, max_size=3).map(" ".join),
            st.builds("{} {:#x}".format, st.sampled_from(list(NAMES)), st.integers(0, 2**34 - 1)),
        ),
        max_size=12,
    )
)
def test_nearly_valid_traces(shared: Path, lines: list[str]) -> None:
    """A trace is either answered in full or refused in one message; nothing lies between."""
    path = shared / "lines.trace"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    result = invoke("trace", "run", path, "--json")
    if result.exit_code == 0:
        requests = json.loads(result.stdout)[0]["requests"]
        program = parse_trace(path.read_bytes(), DEVICE.organization, where="")
        assert sum(requests.values()) == program.requests
        assert not {Kind.LD, Kind.ST} & program.counts().keys()
    else:
        assert result.exit_code == 2
        check_refusal(result.stdout, result.stderr)


@pytest.mark.reference
def test_golden_traces(reference: Path) -> None:
    """All 220 golden traces, those of each power setting in one call."""
    with (reference / "reference/golden/timing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 220
    for flag, option in (("1", "--power-limit"), ("0", "--no-power-limit")):
        chosen = [row for row in rows if row["power_limited"] == flag]
        files = [reference / "reference/golden/traces" / row["trace"] for row in chosen]
        answers = document("trace", "run", *files, option)
        figures = ("mac", "softmax", "mvgb", "mvsb", "wrgb")
        assert [
            (Path(entry["file"]).name, entry["cycles"], *(entry["requests"][f] for f in figures))
            for entry in answers
        ] == [
            (row["trace"], int(row["cycles"]), *(int(row[figure]) for figure in figures))
            for row in chosen
        ]


@pytest.mark.untraced  # of long logs
@pytest.mark.reference
def test_golden_command_logs(reference: Path, tmp_path: Path) -> None:
    """Every command of channels 0 and 15 of the ten logged traces, line by line."""
    folder = reference / "reference/golden/command_logs"
    traces = sorted(folder.glob("*.trace.gz"))
    assert len(traces) == 10
    for trace in traces:
        stem = trace.name.removesuffix(".trace.gz")
        option = "--no-power-limit" if stem.endswith("_npc") else "--power-limit"
        log = tmp_path / f"{stem}.log"
        document("trace", "run", trace, option, "--log", log)
        lines = log.read_text().splitlines()
        for channel in (0, 15):
            golden = gzip.decompress((folder / f"{stem}.ch{channel}.log.gz").read_bytes())
            own = [line for line in lines if line.split(", ")[2] == str(channel)]
            assert own == golden.decode().splitlines(), (stem, channel)
