"""``attacc attention``."""

from dataclasses import asdict
from itertools import product
from pathlib import Path

import pytest

from attacc.errors import UnknownNameError
from attacc.hardware.dram import DRAMS
from attacc.hardware.placement import Placement
from attacc.hardware.system import Schedule
from attacc.models.precision import ElementType, Precision, kv_element
from attacc.pim.stack import Stack
from tests import share
from tests.cli.console import DEVICE_FILE, answer, document, refusal

SHAPE = ("--heads", "20", "--length", "300")
KEYS = [
    "device",
    "placement",
    "power_limited",
    "power_budget_w",
    "temperature_c",
    "schedule",
    "heads",
    "kv_heads",
    "query_tokens",
    "queries_per_read",
    "passes",
    "window",
    "length",
    "shortest_length",
    "longest_length",
    "keys",
    "head_dim",
    "value_dim",
    "key_slices",
    "one_copy",
    "dtype",
    "chunks",
    "cut_heads",
    "imbalance",
    "multiply_interval_cycles",
    "buffer_accesses",
    "cycles",
    "time_ns",
    "kv_bytes",
    "read_bytes",
    "achieved_bytes_per_s",
    "internal_peak_bytes_per_s",
    "external_peak_bytes_per_s",
    "achieved_over_internal_peak",
    "achieved_over_external_peak",
    "limited_by",
    "busy",
    "commands",
    "energy",
    "average_power_w",
    "power",
    "stacks",
]
PARTS = ["activate", "cell", "read_path", "multiply", "move", "softmax", "total"]


@pytest.mark.untraced  # of all schedules: it would take twice as long
@pytest.mark.parametrize("placement", list(Placement))
@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("power_limited", [True, False])
@pytest.mark.parametrize("element", [ElementType.FP16, ElementType.FP8])
def test_answer_is_that_of_the_library(
    placement: Placement, schedule: Schedule, power_limited: bool, element: ElementType
) -> None:
    """An option that does not reach the stack, a figure from the wrong place, a slipped unit."""
    name = "hbm3-4.8" if schedule is Schedule.INTERLEAVED else "hbm3-4.8-asplos24"
    device = DRAMS.load(name)
    stack = Stack(device, placement, power_limited=power_limited, schedule=schedule)
    expected = stack.attend(heads=20, length=300, head_dim=96, element=element, window_ns=1000)
    got = document(
        "attention", *SHAPE, "--head-dim", "96", "--dtype", element, "--placement", placement,
        "--device", name, "--schedule", schedule,
        "--power-limit" if power_limited else "--no-power-limit",
    )  # fmt: skip
    assert list(got) == KEYS
    for key in ("device", "placement", "power_limited", "schedule", "heads", "length", "head_dim"):
        assert got[key] == getattr(expected, key)
    for key in ("cycles", "time_ns", "kv_bytes", "read_bytes", "achieved_bytes_per_s", "keys"):
        assert got[key] == getattr(expected, key)
    for key in ("kv_heads", "queries_per_read", "passes", "power_budget_w", "temperature_c"):
        assert got[key] == getattr(expected, key)
    for key in ("chunks", "cut_heads", "imbalance"):
        assert got[key] == getattr(expected.dealt, key)
    assert (got["shortest_length"], got["longest_length"], got["stacks"]) == (300, 300, None)
    assert got["multiply_interval_cycles"] == expected.multiply_interval
    assert got["buffer_accesses"] == expected.buffer_words
    assert got["dtype"] == element
    assert got["internal_peak_bytes_per_s"] == expected.internal_bytes_per_s
    assert got["external_peak_bytes_per_s"] == expected.external_bytes_per_s
    assert got["limited_by"] == expected.limiter
    assert got["busy"] == asdict(expected.busy)
    assert got["commands"] == {entry.command: entry.count for entry in expected.commands}
    assert list(got["energy"]) == [f"{part}_pj" for part in PARTS]
    assert got["energy"] == {f"{part}_pj": getattr(expected.energy, f"{part}_pj") for part in PARTS}
    assert expected.power is not None
    assert got["power"]["windows_w"] == expected.power.power_w.tolist()
    assert got["power"]["mean_w"] == expected.power.mean_w
    assert got["power"]["peak_w"] == max(got["power"]["windows_w"])
    assert got["power"]["window_ns"] == pytest.approx(1000, rel=1e-3)
    assert (got["power"]["budget_w"], got["power"]["above_budget_share"]) == (None, None)


def test_derived_figures() -> None:
    """Ratios the wrong way round; watts that are milliwatts (1 pJ/ns is 1 mW)."""
    got = document("attention", *SHAPE)
    achieved = got["achieved_bytes_per_s"]
    assert achieved == pytest.approx(got["kv_bytes"] / got["time_ns"] * 1e9)
    assert got["achieved_over_internal_peak"] == achieved / got["internal_peak_bytes_per_s"] < 1
    assert got["achieved_over_external_peak"] == achieved / got["external_peak_bytes_per_s"]
    assert got["average_power_w"] == pytest.approx(
        got["energy"]["total_pj"] / got["time_ns"] / 1000
    )


def test_defaults() -> None:
    """A default that changes without notice changes what everybody's figures mean."""
    got = document("attention", *SHAPE)
    assert got["device"] == "hbm3-5.2"
    assert (got["placement"], got["power_limited"]) == ("bank", True)
    assert got["schedule"] == "interleaved"
    assert (got["head_dim"], got["dtype"]) == (128, "fp16")
    assert (got["kv_heads"], got["queries_per_read"]) == (20, 1)
    assert (got["power_budget_w"], got["temperature_c"], got["stacks"]) == (None, None, None)


@pytest.mark.parametrize("placement", list(Placement))
def test_tables(placement: Placement) -> None:
    """A table that fails for a placement, or tells other figures than the JSON."""
    got = document("attention", *SHAPE, "--placement", placement)
    text = answer("attention", *SHAPE, "--placement", placement)
    assert f"{got['cycles']:,} cycles" in text
    assert f"achieved {got['achieved_over_internal_peak']:.1%}" in text
    (waits,) = [line.split() for line in text.splitlines() if line.startswith("waits for")]
    busy = f"{got['limited_by']} busy: rows {got['busy']['rows']:.0%}"
    assert " ".join(waits[2:]).startswith(busy)
    for name, issued in got["commands"].items():
        assert [name, f"{issued:,}"] in [line.split() for line in text.splitlines()]
    for part in PARTS:
        assert part.replace("_", " ") in text


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--placement", "banks", ["'banks'", "'bank'", "bankgroup", "buffer"]),
        ("--placement", "BANK", ["'BANK'", "'bank'"]),
        ("--schedule", "complet", ["'complet'", "'complete'"]),
        ("--dtype", "fp17", ["'fp17'", "'fp16'", "bf16"]),
        ("--dtype", "int4", ["'int4'", "'int8'"]),
        ("--device", "hbm3-5.2-asplos", ["'hbm3-5.2-asplos'", "'hbm3-5.2-asplos24'"]),
        ("--heads", "0", ["0", "1 to"]),
        ("--heads", "-3", ["-3"]),
        ("--length", "0", ["0"]),
        ("--length", "1.5", ["'1.5'", "whole number"]),
        ("--length", "", ["''"]),
        ("--head-dim", "-1", ["-1"]),
        ("--head-dim", "9" * 5000, ["whole number"]),
        ("--heads", "9" * 30, ["out of range"]),
        ("--kv-heads", "0", ["0", "1 to"]),
        ("--queries-per-kv-head", "two", ["'two'", "whole number"]),
        ("--queries-per-read", "0", ["0", "1 to", "or all"]),
        ("--queries-per-read", "al", ["'al'", "or all"]),
        ("--stacks", "1025", ["1025", "1 to 1024"]),
        ("--power-budget", "much", ["'much'", "no number"]),
        ("--power-window", "inf", ["'inf'", "no number"]),
        ("--temperature", "nan", ["'nan'", "no number"]),
    ],
)
def test_bad_options(option: str, value: str, parts: list[str]) -> None:
    """A message without the option, the value or the way out."""
    given = dict(zip(SHAPE[::2], SHAPE[1::2], strict=True)) | {option: value}
    message = refusal("attention", *(word for pair in given.items() for word in pair))
    for part in (f"{option}: ", *parts):
        assert part in message


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), ["--length: no length is given", "--lengths-file FILE"]),
        (("--heads", "3"), ["--length: no length is given"]),
        (("--length", "3"), ["--heads: no number of heads is given", "--kv-heads"]),
        (("--length", "3", "--lengths", "3"), ["--length and --lengths are given at once"]),
        (("--lengths", "3", "--lengths-file", "x"), ["--lengths and --lengths-file are given"]),
        (("--lengths", "3,x"), ["--lengths: ", "''", "whole number"]),
        (("--lengths", "3,4x"), ["--lengths: ", "''"]),
        (("--lengths", "3,4x0"), ["--lengths: ", "0"]),
        (("--lengths", "3,-4"), ["--lengths: ", "-4"]),
        (("--lengths", "3x9999999"), ["--lengths: ", "more than 1048576 heads"]),
        (("--lengths-file", "nowhere.txt"), ["nowhere.txt: no such file"]),
        (("--heads", "2097152", "--length", "1"), ["--heads: ", "more than 1048576"]),
        (
            ("--lengths", "3,4", "--kv-heads", "3"),
            ["--kv-heads: 3 heads of keys and values, but 2 lengths"],
        ),
        (
            ("--heads", "10", "--queries-per-kv-head", "3", "--length", "5"),
            ["--heads: 10 query heads do not divide by the 3 of --queries-per-kv-head"],
        ),
        (
            ("--heads", "10", "--kv-heads", "4", "--length", "5"),
            ["--heads: 10 query heads do not divide by the 4 of --kv-heads"],
        ),
        (
            ("--heads", "10", "--kv-heads", "5", "--queries-per-kv-head", "3", "--length", "5"),
            ["--heads: 10 query heads, but 5 heads", "3 query heads share each", "leave one"],
        ),
    ],
)
def test_heads_that_make_no_sense(options: tuple[str, ...], parts: list[str]) -> None:
    """A contradiction that is settled in silence, or a message without the options concerned."""
    message = refusal("attention", *options)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            ("--device", "hbm3-5.2-asplos24"),
            ["interleaved schedule needs a device with a [pipeline]", "complete schedule"],
        ),
        (
            ("--schedule", "complete", "--kv-heads", "10"),
            ["complete schedule cannot deal out 10", "2 query heads share", "interleaved"],
        ),
        (
            ("--schedule", "published", "--kv-heads", "10", "--queries-per-read", "2"),
            ["queries_per_read = 2: the published schedule", "interleaved"],
        ),
        (
            ("--schedule", "complete", "--kv-heads", "2", "--queries-per-read", "all"),
            ["the complete schedule", "interleaved"],
        ),
        (("--power-budget", "1"), ["power budget of 1 W", "give more than"]),
        (("--power-budget", "-5"), ["--power-budget: -5.0 is out of range"]),
        (("--power-budget", "30", "--no-power-limit"), ["30 W, but multiplies without a limit"]),
        (("--power-window", "0"), ["a window of 0 ns", "at least 0.769 ns"]),
        (("--kv-heads", "1", "--queries-per-read", "20"), ["20 queries", "at most 8 queries"]),
    ],
)
def test_combinations_that_are_impossible(options: tuple[str, ...], parts: list[str]) -> None:
    """Something impossible that is answered, or refused without its name and the way out."""
    message = refusal("attention", *SHAPE, *options)
    for part in parts:
        assert part in message


@pytest.mark.untraced  # of many heads
@pytest.mark.parametrize(
    ("schedule", "placement"), share.cases(__name__, list(product(Schedule, Placement)), 4)
)
def test_heads_that_do_not_fit(schedule: Schedule, placement: Placement) -> None:
    """Any schedule would compute with addresses beyond the bank, or run out of memory."""
    message = refusal(
        "attention", "--heads", "100000", "--length", "32768",
        "--schedule", schedule, "--placement", placement,
    )  # fmt: skip
    assert "rows of every bank, which has 16384" in message
    assert "such heads fit" in message


@pytest.mark.parametrize("length", ["1", "32768", "1048576"])
def test_long_sequences(length: str) -> None:
    """The command must take every length up to 1,048,576, one key included."""
    got = document("attention", "--heads", "1", "--length", length)
    assert got["kv_bytes"] == 2 * int(length) * 128 * 2
    assert got["cut_heads"] == int(length != "1")


def test_long_heads_behind_barriers_are_told_the_way_out() -> None:
    """A head that only cutting makes fit, refused as if nothing could be done."""
    shape = ("--heads", "1", "--length", "4194304")
    document("attention", *shape)
    message = refusal("attention", *shape, "--schedule", "complete")
    assert "the interleaved schedule cuts long heads over channels" in message


def test_lengths_of_their_own(tmp_path: Path) -> None:
    """Lengths that are lost, repeated wrongly, or read otherwise from a file."""
    listed = document("attention", "--lengths", "512, 1024x3,7")
    assert (listed["heads"], listed["keys"]) == (5, 512 + 3 * 1024 + 7)
    assert (listed["length"], listed["shortest_length"], listed["longest_length"]) == (
        None, 7, 1024,
    )  # fmt: skip
    path = tmp_path / "lengths.txt"
    path.write_text("512\n1024\n\n1024\n 1024 \n7\n")
    assert document("attention", "--lengths-file", path) == listed
    assert document("attention", "--lengths", "300x20") == document("attention", *SHAPE)
    # Spreadsheets and other systems' editors write a byte-order mark and other ends of lines.
    path.write_bytes(b"\xef\xbb\xbf512\r\n1024\r\n\r\n1024\r\n1024\r\n7\r\n\r\n")
    assert document("attention", "--lengths-file", path) == listed
    text = answer("attention", "--lengths", "512,1024x3,7")
    assert "5 heads with 7 to 1,024 keys" in text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "holds 0 lengths"),
        (b"5\nsix\n", ":2: 'six' is no whole number"),
        (b"5\n\n0\n", ":3: 0 is out of range"),
        (b"\xff\xfe5\0", "is text in UTF-16"),
        (b"PK\x03\x04 and so on", "is a zip archive"),
    ],
)
def test_bad_lengths_files(tmp_path: Path, content: bytes, part: str) -> None:
    """A message without the file and the line, or a line that is skipped."""
    path = tmp_path / "lengths.txt"
    path.write_bytes(content)
    message = refusal("attention", "--lengths-file", path)
    assert str(path) in message
    assert part in message
    assert "is a folder" in refusal("attention", "--lengths-file", tmp_path)


def test_ways_to_say_how_heads_share_keys() -> None:
    """Options that mean the same and answer differently."""
    same = [
        document("attention", *options, "--queries-per-read", "2")
        for options in (
            ("--heads", "32", "--kv-heads", "8", "--length", "500"),
            ("--heads", "32", "--queries-per-kv-head", "4", "--length", "500"),
            ("--kv-heads", "8", "--queries-per-kv-head", "4", "--length", "500"),
            ("--lengths", "500x8", "--queries-per-kv-head", "4"),
            ("--lengths", "500x8", "--heads", "32"),
        )
    ]
    assert all(got == same[0] for got in same)
    assert (same[0]["heads"], same[0]["kv_heads"], same[0]["passes"]) == (32, 8, 2)
    text = answer("attention", "--heads", "32", "--kv-heads", "8", "--length", "500")
    assert "32 query heads sharing 8 heads with 500 keys" in text
    assert "in 4 passes" in text


def test_sizes_of_heads_windows_and_new_tokens() -> None:
    """Options that do not reach the stack, or reach another argument."""
    stack = Stack("hbm3-5.2", Placement.BANKGROUP)
    expected = stack.attend(
        heads=8, length=700, head_dim=576, value_dim=512, key_slices=9, one_copy=True, window=300,
        query_tokens=3, queries_per_kv_head=4, queries_per_read=4,
    )  # fmt: skip
    options = (
        "--heads", "8", "--length", "700", "--head-dim", "576", "--value-dim", "512",
        "--key-slices", "9", "--one-copy", "--window", "300", "--query-tokens", "3",
        "--queries-per-kv-head", "4", "--queries-per-read", "4", "--placement", "bankgroup",
    )  # fmt: skip
    got = document("attention", *options)
    assert (got["cycles"], got["keys"], got["passes"]) == (expected.cycles, 2 * 302, 3)
    for key in ("value_dim", "key_slices", "one_copy", "window", "query_tokens", "kv_bytes"):
        assert got[key] == getattr(expected, key)
    text = answer("attention", *options)
    assert "for 3 new tokens" in text
    assert "576 and 512 fp16 elements" in " ".join(text.split())
    compared = document("attention", *options[:-4], "--queries-per-read", "all")
    assert [row["queries_per_read"] for row in compared["rows"]][-1] == 12
    assert "window: 0" in refusal("attention", *SHAPE, "--window", "0").replace(
        "--window", "window"
    )


def test_both_ends_of_the_trade() -> None:
    """A choice that is left out, or figures other than those of that choice alone."""
    shape = ("--kv-heads", "4", "--queries-per-kv-head", "12", "--length", "700")
    got = document("attention", *shape, "--queries-per-read", "all")
    assert [row["queries_per_read"] for row in got["rows"]] == [1, 2, 4, 6]
    assert [(one["queries_per_read"]) for one in got["refused"]] == [12]
    assert "at most 8 queries at a time" in got["refused"][0]["reason"]
    for row in got["rows"]:
        one = document("attention", *shape, "--queries-per-read", str(row["queries_per_read"]))
        for key in ("passes", "buffer_accesses", "cycles", "time_ns", "read_bytes"):
            assert row[key] == one[key]
        assert row["multiply_interval_cycles"] == one["multiply_interval_cycles"]
        assert row["energy_pj"] == one["energy"]["total_pj"]
        assert row["mean_power_w"] == one["power"]["mean_w"]
        assert row["peak_power_w"] == one["power"]["peak_w"]
    text = answer("attention", *shape, "--queries-per-read", "all")
    for row in got["rows"]:
        assert f"{row['cycles']:,}" in text
    assert "12: 12 queries of head_dim 128 take" in text
    alone = document("attention", *SHAPE, "--queries-per-read", "all")
    assert [row["queries_per_read"] for row in alone["rows"]] == [1]


def test_several_stacks() -> None:
    """Heads that are lost between stacks, or a stack that others do not wait for."""
    got = document("attention", "--lengths", "4000x5,100x20", "--stacks", "4")
    stacks = got["stacks"]
    assert (stacks["count"], len(stacks["each"])) == (4, 4)
    assert sum(one["keys"] for one in stacks["each"]) == 5 * 4000 + 20 * 100
    assert stacks["energy_pj"] == pytest.approx(sum(one["energy_pj"] for one in stacks["each"]))
    slowest = stacks["each"][stacks["slowest"]]
    assert slowest["cycles"] == got["cycles"] == max(one["cycles"] for one in stacks["each"])
    assert slowest["keys"] == got["keys"]
    text = answer("attention", "--lengths", "4000x5,100x20", "--stacks", "4")
    assert "on the slowest of 4 stacks of hbm3-5.2" in text
    assert f"{stacks['imbalance']:.3f} times the mean" in text


def test_a_power_budget_and_a_hot_stack() -> None:
    """Options that do not reach the stack."""
    free = document("attention", *SHAPE, "--no-power-limit")
    tight = document(
        "attention", *SHAPE, "--power-budget", "30", "--power-window", "0.2", "--temperature", "95"
    )
    assert (tight["power_budget_w"], tight["temperature_c"]) == (30, 95)
    assert tight["multiply_interval_cycles"] > free["multiply_interval_cycles"]
    assert tight["power"]["budget_w"] == 30
    assert tight["power"]["window_ns"] == pytest.approx(200, rel=0.01)
    above = [watts > 30 for watts in tight["power"]["windows_w"]]
    assert tight["power"]["above_budget_share"] == pytest.approx(
        sum(above) / len(above), abs=1.5 / len(above)
    )
    text = answer("attention", *SHAPE, "--power-budget", "30", "--temperature", "95")
    assert "W on average of 30.00 W, at 95 degrees Celsius" in " ".join(text.split())
    assert "% of the" in text


def test_device_file_with_an_unknown_key(tmp_path: Path) -> None:
    """The same checks as for traces; the key and its nearest."""
    path = tmp_path / "mine.json"
    path.write_text('{"name": "mine", "clok": "1 ns"}')
    message = refusal("attention", *SHAPE, "--device", path)
    assert f"{path}: clok: unknown key 'clok'" in message
    assert "did you mean 'clock'" in message


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_a_quantity_beyond_its_range(tmp_path: Path, option: tuple[str, ...]) -> None:
    """Infinity is no bandwidth, and no JSON: what would lead there is refused where it stands."""
    path = tmp_path / "mine.toml"
    path.write_text(DEVICE_FILE.replace('"0.769 ns"', '"1e-300 ns"'))
    assert "clock: '1e-300 ns' is not within 10 ps to 1 us" in refusal(
        "attention", *SHAPE, "--schedule", "complete", "--device", path, *option
    )


def test_element_types_are_those_of_the_kv_cache() -> None:
    """The option must take just what a model's ``precision.kv`` takes."""
    for element in ElementType:
        try:
            Precision(kv=element)
        except ValueError:
            with pytest.raises(UnknownNameError):
                kv_element(element)
        else:
            assert kv_element(element) is element


def test_help_names_all_choices() -> None:
    """Choices are text in the help, and must not be left behind."""
    text = answer("attention", "--help")
    assert "|".join(Placement) in text
    words = " ".join(text.replace("│", " ").split())
    for schedule in Schedule:
        assert f"{schedule} (" in words
    assert "|".join(element for element in ElementType if element != "int4") in text


def test_drafts_are_new_tokens_of_a_step() -> None:
    """Catches drafts that are not attended with, and figures of a token that are of a step."""
    sizes = ("--heads", "16", "--length", "600", "--queries-per-kv-head", "4")
    drafts = ("--draft-tokens", "3", "--acceptance", "0.5")
    told, plain = (
        document("attention", *sizes, *more) for more in (drafts, ("--query-tokens", "4"))
    )
    assert told | plain == told
    assert told["tokens_per_step"] == 1.875
    assert told["time_per_token_ns"] == pytest.approx(told["time_ns"] / 1.875)
    assert "3 drafts, accepted with 0.5: 1.88 tokens a step" in answer("attention", *sizes, *drafts)
    twice = refusal("attention", *sizes, *drafts, "--query-tokens", "2")
    assert "--query-tokens and --draft-tokens are given at once" in twice
    assert "--acceptance" in refusal("attention", *sizes, "--draft-tokens", "3")
