"""Programs of products: legal, free of hazards, and with the right results."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacc.errors import InputError
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.models.precision import ElementType
from attacc.pim.audit.hazards import Hazard, Violation, check_hazards
from attacc.pim.audit.legality import check
from attacc.pim.log import LoggedCommand
from attacc.pim.mapping.geometry import ChannelChunks
from attacc.pim.numerics.arithmetic import Arithmetic
from attacc.pim.numerics.execute import ChannelShape, ChannelState, Machine
from attacc.pim.numerics.issue import issued_steps
from attacc.pim.numerics.memory import BankMemory, store_head
from attacc.pim.numerics.quantize import quantize
from attacc.pim.program.interleaved import pipeline_of
from attacc.pim.program.product import ProductLayout, ProductShape, product_program
from attacc.pim.program.program import MULTIPLY, Dependences, Kind, Program
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import TimingTables, resolve_timing
from tests import share

I64 = npt.NDArray[np.int64]

FP16, INT8 = ElementType.FP16, ElementType.INT8
PLACEMENTS = pytest.mark.parametrize("placement", list(Placement))
CHANNELS = 2


def two_channels() -> DramDevice:
    """A narrow stack, whose buffer die has room for scores that never become probabilities."""
    device = DRAMS.load("hbm3-5.2")
    organization = device.organization.model_copy(update={"channels": CHANNELS})
    pipeline = pipeline_of(device).model_copy(update={"softmax_buffer_bytes": 2.0**40})
    return device.model_copy(update={"organization": organization, "pipeline": pipeline})


DEVICE = two_channels()


@dataclass(frozen=True)
class Built:
    layout: ProductLayout
    tables: TimingTables
    program: Program

    @classmethod
    def of(
        cls,
        placement: Placement,
        shape: ProductShape,
        *,
        inner_ways: int = 1,
        rows_per_read: int = 1,
        row_kept_open: bool = False,
    ) -> "Built":
        layout = ProductLayout.of(
            DEVICE, placement, shape, inner_ways=inner_ways, rows_per_read=rows_per_read,
            row_kept_open=row_kept_open,
        )  # fmt: skip
        tables = resolve_timing(
            DEVICE, placement, power_limited=True, queries_per_read=layout.passes.most
        )
        program = product_program(DEVICE, layout, multiply_interval=tables.multiply_interval)
        return cls(layout, tables, program)

    @property
    def chunks(self) -> ChannelChunks:
        """The weights of a channel, as the keys of chunks whose values are never used."""
        lengths = (self.layout.columns_per_channel,) * self.layout.segments
        return ChannelChunks(self.layout.segment, lengths, self.layout.regions)

    def hazards(self, log: Sequence[LoggedCommand]) -> list[Violation]:
        """Return what is wrong, but for softmaxes and contexts, which a product has none of."""
        report = check_hazards(
            log,
            DEVICE,
            [self.chunks] * CHANNELS,
            queries=self.layout.shape.rows,
            queries_per_read=self.layout.passes.most,
        )
        of_attention = ("probability accesses", "of the context of", "softmaxes")
        return [
            violation
            for violation in report.violations
            if violation.hazard is not Hazard.MISSING
            or not any(text in violation.needs for text in of_attention)
        ]

    def log(self, program: Program | None = None) -> tuple[LoggedCommand, ...]:
        log = run(program or self.program, self.tables, log=True).log
        assert log is not None
        return log


SHAPES = {
    "placement": st.sampled_from(list(Placement)),
    "shape": st.builds(
        ProductShape,
        rows=st.integers(1, 5),
        inner=st.integers(1, 900),
        columns=st.integers(1, 150),
        element=st.sampled_from([FP16, INT8]),
    ),
    "inner_ways": st.sampled_from([1, 2]),
    "rows_per_read": st.integers(1, 3),
    "row_kept_open": st.booleans(),
}


@pytest.mark.untraced
@settings(max_examples=share.examples(__name__, 25, 10))
@given(**SHAPES)
def test_products_are_legal_and_free_of_hazards(
    placement: Placement,
    shape: ProductShape,
    inner_ways: int,
    rows_per_read: int,
    row_kept_open: bool,
) -> None:
    """Catches data used before they are there, overwritten too soon, done twice or never."""
    built = Built.of(
        placement, shape, inner_ways=inner_ways, rows_per_read=rows_per_read,
        row_kept_open=row_kept_open,
    )  # fmt: skip
    log = built.log()
    report = check(
        log,
        DEVICE,
        placement=placement,
        power_limited=True,
        queries_per_read=built.layout.passes.most,
    )
    assert report.violations == ()
    assert built.hazards(log) == []


@pytest.mark.untraced
@PLACEMENTS
@pytest.mark.parametrize("row_kept_open", [False, True])
@pytest.mark.parametrize(("inner", "columns"), share.cases(__name__, [(1024, 40), (2048, 60)], 1))
def test_refresh_is_in_time_while_a_row_stays_open(
    placement: Placement, inner: int, columns: int, row_kept_open: bool
) -> None:
    """Catches row hits that hold a refresh back for longer than the standard allows."""
    # As many rows as take several intervals between two refreshes.
    rows = {Placement.BANK: 200, Placement.BANKGROUP: 60, Placement.BUFFER: 30}[placement]
    built = Built.of(
        placement, ProductShape(rows, inner, columns, FP16), inner_ways=2,
        row_kept_open=row_kept_open,
    )  # fmt: skip
    log = [command for command in built.log() if command.channel == 0]
    assert log[-1].cycle > 3 * DEVICE.timing["nREFI"]
    report = check(log, DEVICE, placement=placement, power_limited=True)
    assert report.violations == ()


def without_events(program: Program, kind: Kind) -> Program:
    """The program, whose steps of one kind wait for nothing."""
    dependences = program.dependences
    assert dependences is not None
    waits = np.where(program.kind == kind, 0, dependences.waits).astype(np.int32)
    return replace(
        program,
        dependences=Dependences(waits, dependences.signals, dependences.delays, dependences.events),
    )


@PLACEMENTS
@pytest.mark.parametrize("sort", ["fill", "multiply", "move"])
def test_hazards_are_found_in_a_product_that_does_not_wait(placement: Placement, sort: str) -> None:
    """Catches a check that would pass anything, and events that are of no use."""
    # With little to do per row, multiplies have no others to wait behind.
    inner, columns = (48, 8) if sort == "multiply" else (256, 40)
    built = Built.of(placement, ProductShape(6, inner, columns, FP16))
    kind = {"fill": Kind.WRGB, "multiply": MULTIPLY[placement], "move": Kind.MVSB}[sort]
    assert built.hazards(built.log(without_events(built.program, kind)))


def products_of(built: Built, seed: int) -> tuple[I64, I64]:
    """Execute the program on whole numbers; return its results, and those of NumPy.

    Both are of (channels that share columns, rows, columns): sums over segments, and over
    channels among which the inner dimension is cut, are those of the buffer die.
    """
    layout, shape = built.layout, built.layout.shape
    random = np.random.default_rng(seed)
    x = random.integers(-3, 4, (shape.rows, shape.inner))
    weights = random.integers(-3, 4, (shape.inner, shape.columns))
    arithmetic = Arithmetic.of(shape.element)
    words = pipeline_of(DEVICE).buffer_words
    machine = Machine.of(arithmetic, layout.segment, words)
    memory = BankMemory(layout.organization)
    channel_shape = ChannelShape.of(built.chunks, layout.passes, words, paired=True)
    chunk, query = channel_shape.query_of
    result = np.zeros((shape.rows, shape.columns))
    operand = arithmetic.operand
    inner, columns = layout.inner_per_channel, layout.columns_per_channel
    for steps in issued_steps(built.program, built.tables):
        for channel in range(steps.first_channel, steps.first_channel + steps.channels):
            block, part = divmod(channel, layout.inner_ways)
            own = np.zeros((inner, columns))
            taken = weights[
                part * inner : (part + 1) * inner, block * columns : (block + 1) * columns
            ]
            own[: taken.shape[0], : taken.shape[1]] = taken
            own_x = np.zeros((shape.rows, inner))
            own_x[:, : taken.shape[0]] = x[:, part * inner : (part + 1) * inner]
            rows: list[npt.NDArray[np.float64]] = []
            for segment in range(layout.segments):
                dim = layout.segment.head_dim
                keys, queries = np.zeros((columns, dim)), np.zeros((shape.rows, dim))
                cut = own[segment * dim : (segment + 1) * dim].T
                keys[:, : cut.shape[1]] = cut
                queries[:, : cut.shape[1]] = own_x[:, segment * dim : (segment + 1) * dim]
                codes = quantize(
                    keys, operand, name="weights", scale=np.ones((), dtype=np.float32)
                ).codes
                store_head(
                    memory, channel, layout.segment, int(layout.regions.keys[segment]),
                    int(layout.regions.values[segment]), codes, np.zeros_like(codes),
                )  # fmt: skip
                rows.append(queries)
            state = ChannelState.after(
                steps, channel_shape, machine, memory, channel,
                np.array(rows, dtype=np.float32),
                np.ones((layout.segments, shape.rows), dtype=np.float32),
            )  # fmt: skip
            for which, (begin, *_) in enumerate(channel_shape.softmaxes.tolist()):
                sums = state.scores[begin : begin + columns] * 2.0**machine.score_shift
                first = block * columns
                width = max(0, min(columns, shape.columns - first))
                result[query[which], first : first + width] += sums[:width]
    assert len(chunk) == layout.segments * shape.rows
    return result.astype(np.int64), (x @ weights).astype(np.int64)


@pytest.mark.untraced
@settings(max_examples=share.examples(__name__, 15, 6))
@given(seed=st.integers(0, 2**16), **SHAPES)
def test_products_are_those_of_numpy(
    seed: int,
    placement: Placement,
    shape: ProductShape,
    inner_ways: int,
    rows_per_read: int,
    row_kept_open: bool,
) -> None:
    """Catches a row multiplied with another's weights, a segment left out, columns mixed up.

    Whole numbers small enough for every sum to be exact in fp16, so that results are equal.
    """
    built = Built.of(
        placement, shape, inner_ways=inner_ways, rows_per_read=rows_per_read,
        row_kept_open=row_kept_open,
    )  # fmt: skip
    ours, numpys = products_of(built, seed)
    np.testing.assert_array_equal(ours, numpys)


@pytest.mark.parametrize(
    ("placement", "rows_per_read", "row_kept_open", "segments", "expected"),
    [
        # 300 of 600 to each channel; fp16: 4 banks x 16 elements, 5 accesses of each bank.
        # 100 columns of 16 parts: 7 of the fullest, 35 multiplies, more than a row of 32.
        (Placement.BANK, 1, False, 1, {"WRGB": 5 * 20, "MACAB": 5 * 35, "MVSB": 5 * 8}),
        (Placement.BANK, 2, False, 1, {"WRGB": 5 * 20, "MACAB": 3 * 35, "MVSB": 5 * 8}),
        # Two segments of 3 accesses: 7 x 3 in a row.
        (Placement.BANK, 1, True, 2, {"WRGB": 10 * 12, "MACAB": 10 * 21, "MVSB": 10 * 8}),
        # 19 accesses of 16 elements, of which half a buffer holds 16: two segments of 10.
        (Placement.BANKGROUP, 1, False, 2, {"WRGB": 10 * 10, "MACSB": 10 * 70, "MVSB": 10 * 8}),
        # 50 columns of 2 parts, 16 of which move together: 4 moves.
        (Placement.BUFFER, 1, False, 2, {"WRGB": 10 * 10, "MACPB": 10 * 500, "MVSB": 10 * 4}),
    ],
)
def test_commands_of_a_product_by_hand(
    placement: Placement,
    rows_per_read: int,
    row_kept_open: bool,
    segments: int,
    expected: dict[str, int],
) -> None:
    """Catches a command too many or too few on a channel: 5 rows, 600 inner, 100 columns."""
    built = Built.of(
        placement, ProductShape(5, 600, 100, FP16), inner_ways=2, rows_per_read=rows_per_read,
        row_kept_open=row_kept_open,
    )  # fmt: skip
    assert built.layout.segments == segments
    counts = Counter(Kind(kind).name for kind in built.program.kind.tolist())
    assert counts == expected
    assert built.program.requests == CHANNELS * sum(expected.values())


def test_share_of_useful_multiplications() -> None:
    """Catches padding that is not counted: 112 columns of 320 for 100 of 300."""
    layout = Built.of(Placement.BANK, ProductShape(1, 600, 100, FP16), inner_ways=2).layout
    assert layout.useful_share == pytest.approx(600 * 100 / (2 * 112 * 320))


@pytest.mark.parametrize("name", ["rows", "inner", "columns"])
def test_sizes_below_one_are_refused(name: str) -> None:
    """Catches an empty product that is timed as if it were one."""
    sizes = {"rows": 1, "inner": 1, "columns": 1, name: 0}
    with pytest.raises(InputError, match=f"{name} = 0"):
        ProductShape(sizes["rows"], sizes["inner"], sizes["columns"], FP16)


def test_what_does_not_fit_is_refused() -> None:
    """Catches weights laid over each other, and rows that overrun a vector buffer."""
    with pytest.raises(InputError, match="rows of every bank, which has 16384"):
        Built.of(Placement.BANK, ProductShape(1, 2**17, 2**17, FP16))
    with pytest.raises(InputError, match="half a vector buffer holds 16 accesses"):
        Built.of(Placement.BANK, ProductShape(17, 64, 64, FP16), rows_per_read=17)
    with pytest.raises(InputError, match="inner_ways = 3 does not divide the 2 channels"):
        Built.of(Placement.BANK, ProductShape(1, 64, 64, FP16), inner_ways=3)
    plain = DRAMS.load("hbm3-5.2-asplos24")
    with pytest.raises(InputError, match="models no latencies"):
        ProductLayout.of(plain, Placement.BANK, ProductShape(1, 64, 64, FP16), inner_ways=1)
