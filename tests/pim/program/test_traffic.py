"""Ordinary traffic: what is valid, what the generators ask for, and its text form."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.errors import DocumentError, InputError
from attacc.hardware.dram import DRAMS, Organization
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout, allocate_chunks
from attacc.pim.program.program import AddressLayout, Dependences, Kind, Program
from attacc.pim.program.trace import write_trace
from attacc.pim.program.traffic import (
    MAX_ARRIVAL_CYCLES,
    Traffic,
    TrafficPolicy,
    kv_writes,
    mixed,
    read_traffic,
    streaming,
    token_writes,
)

HBM3 = DRAMS.load("hbm3-5.2").organization
SMALL = Organization(
    channels=2, pseudo_channels=2, ranks=1, bank_groups=2, banks=2, rows=4, columns=4,
    access_bytes=32,
)  # fmt: skip


def requests(
    *steps: tuple[Kind, int, int, int],
    organization: Organization = HBM3,
    dependences: Dependences | None = None,
) -> Program:
    """Steps of kind, address, first channel and number of channels."""
    kind, address, first, channels = zip(*steps, strict=True) if steps else ((), (), (), ())
    return Program(
        organization,
        np.array(kind, dtype=np.uint8),
        np.array(address, dtype=np.int64),
        np.array(first, dtype=np.int16),
        np.array(channels, dtype=np.int16),
        dependences,
    )


def traffic(*arrival: int, steps: Program | None = None) -> Traffic:
    if steps is None:
        steps = requests(*[(Kind.LD, 32 * i, 0, 1) for i in range(len(arrival))])
    return Traffic(steps, np.array(arrival, dtype=np.int64))


def test_bytes_count_every_channel() -> None:
    """Catches a request of several channels that counts once."""
    assert traffic(0, 5, steps=requests((Kind.LD, 0, 0, 16), (Kind.ST, 0, 3, 2))).bytes == 18 * 32
    assert traffic().bytes == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: traffic(0, 1, steps=requests((Kind.LD, 0, 0, 1))), "2 arrivals for 1 requests"),
        (lambda: traffic(3, 2), "2 is not at or after the arrival before it"),
        (lambda: traffic(-1), "-1 is not an arrival of 0"),
        (lambda: traffic(MAX_ARRIVAL_CYCLES + 1), "is not an arrival of 0"),
        (lambda: traffic(0, steps=requests((Kind.MACAB, 0, 0, 1))), "1 MACAB requests"),
        (lambda: traffic(0, steps=requests((Kind.LD, 1 << 30, 0, 1))), "not an address below"),
        (lambda: traffic(0, steps=requests((Kind.LD, -1, 0, 1))), "-1 is not an address below"),
        (lambda: traffic(0, steps=requests((Kind.LD, 0, 15, 2))), "15 is not the first of some"),
        (lambda: traffic(0, steps=requests((Kind.LD, 0, 0, 0))), "0 is not the first of some"),
    ],
)
def test_what_is_no_traffic_is_refused(wrong: object, message: str) -> None:
    """Catches arrays that a kernel would read beyond, and time that goes back."""
    assert callable(wrong)
    with pytest.raises(InputError, match=message):
        wrong()


def test_traffic_with_dependences_is_refused() -> None:
    """Catches dependences that nobody would look at."""
    none = np.zeros((1, 0), dtype=np.int32)
    waiting = Dependences(np.zeros(1, np.int32), none, none, 0)
    with pytest.raises(InputError, match="no dependences"):
        traffic(0, steps=requests((Kind.LD, 0, 0, 1), dependences=waiting))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": 65}, "queue = 65 do not fit"),
        ({"write_high": 16}, "do not fit"),
        ({"write_low": 0}, "write_low = 0"),
        ({"queue": 40}, "queue = 40"),
        ({"patience": 0}, "patience = 0"),
        ({"turn": -1}, "turn = -1"),
    ],
)
def test_policies_that_contradict_themselves_are_refused(
    changes: dict[str, int], message: str
) -> None:
    """Catches queues larger than the kernel's, and writes that never begin or never end."""
    with pytest.raises(InputError, match=message):
        TrafficPolicy(**changes)


def fields(program: Program) -> list[tuple[int, ...]]:
    """Pseudo-channel, rank, bank group, bank, row and column of each step."""
    o, at = program.organization, AddressLayout.of(program.organization)
    return [
        (
            address >> at.pseudo_channel & (o.pseudo_channels - 1),
            address >> at.rank & (o.ranks - 1),
            address >> at.bank_group & (o.bank_groups - 1),
            address >> at.bank & (o.banks - 1),
            address >> at.row & (o.rows - 1),
            address >> at.column & (o.columns - 1),
        )
        for address in program.address.tolist()
    ]


@pytest.mark.parametrize("accesses", [1, 3, 8, 9, 32])
def test_streams_cover_their_region_once_and_take_turns(accesses: int) -> None:
    """Catches gaps, repeats, and neighbours in one pseudo-channel or bank group."""
    stream = streaming(SMALL, Kind.ST, accesses * 2 * 2 * 32)
    assert stream.requests.counts() == {Kind.ST: accesses * 2 * 2 * 2}
    assert stream.bytes == 2 * accesses * 2 * 2 * 32
    assert not stream.arrival.any()
    places = fields(stream.requests)
    assert len(set(places)) == len(places)
    linear = {(p, g, row * 8 + bank * 4 + column) for p, _, g, bank, row, column in places}
    assert linear == {(p, g, i) for p in (0, 1) for g in (0, 1) for i in range(accesses)}
    assert [(p, g) for p, _, g, *_ in places] == [(0, 0), (1, 0), (0, 1), (1, 1)] * accesses


@pytest.mark.parametrize("bytes_per_channel", [0, 32, 129, SMALL.stack_bytes])
def test_streams_that_do_not_fit_are_refused(bytes_per_channel: int) -> None:
    """Catches a silent rounding, and addresses of the next channel."""
    with pytest.raises(InputError, match="bytes_per_channel"):
        streaming(SMALL, Kind.LD, bytes_per_channel)


def test_streams_of_commands_of_the_units_are_refused() -> None:
    """Catches a kind that passes through."""
    with pytest.raises(InputError, match="MACAB"):
        streaming(SMALL, Kind.MACAB, 256)


@pytest.mark.parametrize("placement", list(Placement))
def test_prefill_writes_what_the_multiplies_read(placement: Placement) -> None:
    """Catches a bank that one multiply reads and nobody writes, a column twice, a wrong row."""
    layout = HeadLayout(HBM3, placement, 128, ElementType.FP16, 300)
    regions = allocate_chunks(layout, [300, 300])
    written = kv_writes(
        layout, keys=int(regions.keys[1]), values=int(regions.values[1]), first_channel=3
    ).requests
    device = DRAMS.load("hbm3-5.2")
    accesses = device.banks_per_command(placement) * layout.score_multiplies
    assert written.counts() == {Kind.ST: 2 * accesses}
    assert set(written.first_channel.tolist()) == {3}
    places = fields(written)
    assert len(set(places)) == len(places)
    # Of each bank that a multiply's own address names, the very columns that it reads.
    for start, half in ((regions.keys, places[:accesses]), (regions.values, places[accesses:])):
        reads = requests(
            *[
                (Kind.MACAB, int(start[1]) + address, 0, 1)
                for address in layout.multiply_addresses(layout.score_multiplies).tolist()
            ]
        )
        assert set(fields(reads)) <= set(half)
        rows = {row for *_, row, _ in half}
        assert rows == set(range(min(rows), min(rows) + layout.rows))
    banks = {place[:4] for place in places}
    assert len(banks) == (64 if accesses >= 64 else accesses)


@pytest.mark.parametrize("one_copy", [False, True])
@pytest.mark.parametrize("key_slices", [1, 2])
@pytest.mark.parametrize("placement", list(Placement))
def test_all_tokens_of_a_head_together_are_its_prefill(
    placement: Placement, key_slices: int, one_copy: bool
) -> None:
    """Catches a token in another part than the next one, a bank or a slice that is left out."""
    layout = HeadLayout(
        HBM3, placement, 128, ElementType.FP16, 96, key_slices=key_slices, one_copy=one_copy
    )
    regions = allocate_chunks(layout, [96, 96])
    keys, values = int(regions.keys[1]), int(regions.values[1])
    whole = kv_writes(layout, keys=keys, values=values).requests.address
    each = token_writes(layout, regions, [[], range(96)]).requests.address
    assert len(each) == len(whole)
    assert set(each.tolist()) == set(whole.tolist())


def test_neighbouring_tokens_lie_in_different_parts() -> None:
    """Catches keys of one part that follow each other, against the memory of the numerics."""
    layout = HeadLayout(HBM3, Placement.BANK, 128, ElementType.FP16, 96)
    regions = allocate_chunks(layout, [96])
    banks = [
        {place[:3] for place in fields(token_writes(layout, regions, [[token]]).requests)}
        for token in range(17)
    ]
    assert all(len(own) == 1 for own in banks)
    assert len(set[object]().union(*banks[:16])) == 16
    assert banks[16] == banks[0]


def test_tokens_beyond_a_head_are_refused() -> None:
    """Catches writes into the rows of the next head."""
    layout = HeadLayout(HBM3, Placement.BANK, 128, ElementType.FP16, 96)
    with pytest.raises(InputError, match="token 96 is beyond"):
        token_writes(layout, allocate_chunks(layout, [96]), [[96]])


def test_paced_traffic_arrives_at_an_even_rate() -> None:
    """Catches arrivals that are cumulated twice, and requests that are lost."""
    paced = traffic(0, 0, 7).paced(2.5)
    assert paced.arrival.tolist() == [0, 2, 5]
    assert len(paced.requests) == 3


def test_mixed_traffic_keeps_its_shares() -> None:
    """Catches shares that are swapped, a seed without effect, arrivals out of order."""
    one = mixed(HBM3, 4000, seed=1, writes=0.25, locality=0.75, cycles_per_request=10)
    again = mixed(HBM3, 4000, seed=1, writes=0.25, locality=0.75, cycles_per_request=10)
    other = mixed(HBM3, 4000, seed=2, writes=0.25, locality=0.75, cycles_per_request=10)
    assert np.array_equal(one.requests.address, again.requests.address)
    assert not np.array_equal(one.requests.address, other.requests.address)
    assert abs(one.requests.count(Kind.ST) / 4000 - 0.25) < 0.03
    assert abs(one.arrival[-1] / 4000 - 10) < 1
    places = fields(one.requests)
    channels = one.requests.first_channel.tolist()
    same_row = sum(
        channels[i] == channels[i - 1] and places[i][:5] == places[i - 1][:5]
        for i in range(1, 4000)
    )
    assert abs(same_row / 4000 - 0.75) < 0.03
    assert set(channels) == set(range(16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"writes": 1.5}, "writes = 1.5"),
        ({"locality": -0.1}, "locality = -0.1"),
        ({"requests": -1}, "requests = -1"),
        ({"cycles_per_request": float("nan")}, "cycles_per_request = nan"),
    ],
)
def test_mixed_traffic_that_makes_no_sense_is_refused(
    changes: dict[str, float], message: str
) -> None:
    """Catches numbers that NumPy would refuse with words of its own, or not at all."""
    with pytest.raises(InputError, match=message):
        mixed(**({"organization": HBM3, "requests": 10, "seed": 0} | changes))  # pyright: ignore[reportArgumentType]


def test_mixed_traffic_may_be_empty() -> None:
    """Catches an index into nothing."""
    assert mixed(HBM3, 0, seed=0).bytes == 0


def test_text_with_arrivals_is_read(tmp_path: Path) -> None:
    """Catches an arrival of the wrong line, which joined channels would hide."""
    path = tmp_path / "host.trace.gz"
    text = "LD 0x0\n\nLD 0x40000000 7\r\n  ST 0x80000000\t7\nST 0x20\nLD 0xc0000000 100\n"
    path.write_bytes(gzip.compress(text.encode()))
    read = read_traffic(path, HBM3)
    assert read.arrival.tolist() == [0, 7, 7, 7, 100]
    kinds = [Kind.LD, Kind.LD, Kind.ST, Kind.ST, Kind.LD]
    assert read.requests.kind.tolist() == kinds
    assert read.requests.address.tolist() == [0, 0, 0, 0x20, 0]
    assert read.requests.first_channel.tolist() == [0, 1, 2, 0, 3]
    assert read.requests.channels.tolist() == [1] * 5


@given(count=st.integers(0, 30), seed=st.integers(0, 100))
def test_text_of_a_program_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int
) -> None:
    """Catches requests that are lost or reordered on the way through a file."""
    path = tmp_path_factory.mktemp("traffic") / "host.trace"
    written = mixed(SMALL, count, seed=seed).requests
    write_trace(written, path)
    read = read_traffic(path, SMALL)
    assert not read.arrival.any()
    for column in ("kind", "address", "first_channel", "channels"):
        assert np.array_equal(getattr(read.requests, column), getattr(written, column))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LD 0x0\n\nPIM_SFM 0x0 5\n", "line 3: SFM is no ordinary request"),
        ("LD 0x0 5\nLD 0x0 4\n", "line 2: arrival 4 is not 5 to"),
        ("LD 0x0 1e3\n", "line 1: arrival '1e3' is no cycle"),
        ("LD 0x0 -1\n", "line 1: arrival '-1' is no cycle"),
        ("LD 0x0 99999999999\n", "line 1: arrival 99999999999 is not 0 to 10000000000"),
        ("LD 0x0 " + "9" * 30, "line 1: arrival '9999999"),
        ("LD 0x0 1 2\n", "line 1: malformed line"),
        ("\nLDD 0x0 1\n", "line 2: unknown request 'LDD'"),
        ("LD 0x0\nST 0x400000000 8\n", "line 2: address '0x400000000' is beyond the stack"),
    ],
)
def test_malformed_text_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    """Catches a message without the place to look at."""
    path = tmp_path / "host.trace"
    path.write_text(text)
    with pytest.raises(DocumentError) as raised:
        read_traffic(path, HBM3)
    assert message in str(raised.value)
