"""How far a device's attention is from exact attention, by length and number format.

The program of a head is executed on data (`attacc.pim.numerics.plan`). Its contexts are compared
with attention in float64, both of the given inputs and of the stored inputs. So the error of
rounding keys, values and queries is separate from the error of computing. A head has a channel to
itself, as on a stack with at least as many heads as channels.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from attacc.documents import Spec, parse_document
from attacc.errors import DocumentError, InputError
from attacc.files import check_source
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.placement import Placement
from attacc.models.huggingface import load_model
from attacc.models.precision import ElementType
from attacc.pim.mapping.geometry import HeadLayout, KeyLayout
from attacc.pim.numerics.arithmetic import Arithmetic, Normalization, Order
from attacc.pim.numerics.formats import Floats, Format
from attacc.pim.numerics.plan import AttentionPlan
from attacc.pim.numerics.quantize import Quantized, check_finite, quantize
from attacc.pim.program.interleaved import SCORE_BYTES, longest_chunk, pipeline_of
from attacc.results import Result, flat
from attacc.units import MAX_SIZE

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

DEFAULT_LENGTHS: Final = tuple(2**exponent for exponent in range(7, 18))
DEFAULT_MODEL: Final = "gpt3-175b"
DEFAULT_DEVICE: Final = "hbm3-5.2"
YARDSTICK: Final = Format.BF16
"""An arithmetic is good enough if its error is no larger than that of exact attention of keys,
values and queries in this format. Models are trained and served in it, so they have such errors
anyway."""
PEAKED_SPREAD: Final = 4.0
"""Standard deviation of the scores of peaked attention."""

_BLOCK: Final = 4096
"""Keys that exact attention goes through at a time, so that float64 copies stay small."""

Progress = Callable[[int, int], None]
"""A function that is called with the keys done so far in each distribution, and their total."""


class Data(StrEnum):
    """Where keys, values and queries come from."""

    GAUSSIAN = "gaussian"
    """All elements are standard normal, so scores are standard normal, too, and of L keys about
    L / e count. This is the worst case for sums: many terms of one size with a small sum."""
    PEAKED = "peaked"
    """As `GAUSSIAN`, with queries four times as large. Scores have a standard deviation of 4, and
    few keys have most of the weight. This is the worst case for scores."""
    RECORDED = "recorded"
    """Keys, values and queries of a model that has run, from a file."""


class AccuracySpec(Spec):
    """A question about the accuracy of a device.

    Attributes:
        model: a preset's name or a file, for the size of a head and the queries that share it;
            None for `DEFAULT_MODEL`, or for the sizes of the recorded data.
        lengths: keys of a head; None for the powers of two from 128 to 131,072, as far as recorded
            data go.
        data: distributions.
        recorded: file of recorded data (`RecordedHeads`), in place of ``data``.
        device: the stack; its channels have equal shares of the softmax buffer.
        placements: where its units are.
        kv: formats of keys and values.
        accumulate: formats of accumulators for keys and values in fp16; all other formats have
            products and sums in fp32.
        probability: format of probabilities, for keys and values of the same width; None for the
            format of the keys and values.
        heads: heads of keys and values at each length; None for one, or all recorded ones.
        steps: how often new queries attend to each head.
        seed: seed of the drawn data.
        queries_per_read: queries of a head that each read serves at most.
        normalization: when exponentials are divided by their sum; None for the default of the
            format.
        tree: order of the adder tree.
        chunk_keys: most keys of a chunk; None for as many as the softmax buffer holds.
        sum_keys: keys over which one accumulator sums; None for as many probabilities as half a
            vector buffer holds. The buffer must still hold the queries of a read.
    """

    model: str | None = None
    lengths: (
        Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_SIZE)], ...], Field(min_length=1)] | None
    ) = None
    data: Annotated[tuple[Data, ...], Field(min_length=1)] = (Data.GAUSSIAN, Data.PEAKED)
    recorded: Path | None = None
    device: str = DEFAULT_DEVICE
    placements: Annotated[tuple[Placement, ...], Field(min_length=1)] = (Placement.BANK,)
    kv: Annotated[tuple[Format, ...], Field(min_length=1)] = (
        Format.FP16, Format.BF16, Format.INT8, Format.E4M3, Format.E5M2,
    )  # fmt: skip
    accumulate: Annotated[tuple[Format, ...], Field(min_length=1)] = (Format.FP16, Format.FP32)
    probability: Format | None = None
    heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    steps: Annotated[int, Field(ge=1, le=1024)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    queries_per_read: Annotated[int, Field(ge=1, le=1024)] = 1
    normalization: Normalization | None = None
    tree: Order = Order.PAIRWISE
    chunk_keys: Annotated[int, Field(ge=1, le=MAX_SIZE)] | None = None
    sum_keys: Annotated[int, Field(ge=1, le=2**20)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("lengths", "data", "placements", "kv", "accumulate"):
            entries: tuple[object, ...] = getattr(self, name) or ()
            for entry in entries:
                if entries.count(entry) > 1:
                    raise ValueError(f"{name} names {entry} twice")
        if Format.FP32 in self.kv:
            raise ValueError("keys and values in fp32 are not stored: use fp16, bf16, int8 or fp8")
        for one in self.accumulate:
            if one not in (Format.FP16, Format.FP32):
                raise ValueError(f"accumulate {one}: choose fp16 or fp32")
        if self.probability is not None and self.probability.bits not in {
            kv.bits for kv in self.kv
        }:
            raise ValueError(
                f"probabilities in {self.probability} are as wide as none of the keys and values"
            )
        if Format.FP16 not in self.kv and Format.FP32 not in self.accumulate:
            raise ValueError(
                "only keys and values in fp16 have sums in fp16, all others in fp32: add fp16 to "
                "kv, or fp32 to accumulate"
            )
        if (Data.RECORDED in self.data) != (self.recorded is not None):
            raise ValueError("recorded data need a file, and a file is of recorded data")
        return self

    @property
    def arithmetics(self) -> tuple[tuple[Format, Format], ...]:
        """Formats of keys and values, with those of the accumulators."""
        return tuple(
            (kv, accumulate)
            for kv in self.kv
            for accumulate in (self.accumulate if kv is Format.FP16 else (Format.FP32,))
        )

    def arithmetic(self, kv: Format, accumulate: Format) -> Arithmetic:
        """Return the arithmetic of one of them."""
        base = Arithmetic.of(_ELEMENTS[kv], fp8=kv if kv.bits == 8 else Format.E4M3)
        probability = base.probability
        if self.probability is not None and self.probability.bits == kv.bits:
            probability = self.probability
        changes = {
            "probability": probability,
            "accumulator": accumulate,
            "tree": self.tree,
            "normalization": self.normalization or base.normalization,
        }
        return Arithmetic.model_validate(dict(base) | changes)


@dataclass(frozen=True, eq=False)
class RecordedHeads:
    """Keys, values and queries of a model that has run, as in a NumPy ``.npz`` file.

    The query of position n attends to keys 0 to n, as in the decode step of its token.

    Attributes:
        keys: (heads, length, head_dim), after rotary embedding, if the model has it.
        values: (heads, length, head_dim).
        queries: (heads, queries that share a head, length, head_dim), one for every position.
    """

    keys: F32
    values: F32
    queries: F32

    @classmethod
    def load(cls, path: Path) -> RecordedHeads:
        """Read a file.

        Raises:
            DocumentError: the file is absent or of another kind, or an array is missing, has a
                wrong shape, or holds a number that is not finite; says which.
        """
        where = str(path)
        try:
            # For a file of a single array, NumPy would return the array itself.
            with (
                warnings.catch_warnings(action="error"),
                zipfile.ZipFile(path),
                np.load(path, allow_pickle=False) as file,
            ):
                arrays = {name: np.asarray(file[name]) for name in file.files}
        except Exception as error:
            # For a damaged file the readers of archives and arrays warn, or raise errors of many
            # kinds: from zlib, for a size beyond the memory, for a header that is no shape.
            reason = getattr(error, "strerror", None) or "is no .npz file of plain arrays"
            raise DocumentError(
                f"cannot be read: {reason}", where=where, hint="numpy.savez writes such files"
            ) from None
        read: list[F32] = []
        for name, dimensions in (("keys", 3), ("values", 3), ("queries", 4)):
            array = arrays.get(name)
            if array is None:
                held = ", ".join(sorted(arrays)) or "nothing"
                raise DocumentError(
                    f"holds no array {name!r}, but {held}",
                    where=where,
                    hint="save keys, values (heads, length, head_dim) and queries (heads, "
                    "queries that share a head, length, head_dim)",
                )
            if array.ndim != dimensions or array.dtype.kind != "f" or not array.size:
                raise DocumentError(
                    f"{name} are {array.dtype} of shape {array.shape}: they must be floating-point "
                    f"numbers with {dimensions} dimensions",
                    where=where,
                )
            with np.errstate(over="ignore"):  # a number that is too large becomes infinite
                single: F32 = array.astype(np.float32)
            try:
                check_finite(single, name)
            except InputError as error:
                raise DocumentError(error.message, where=where, hint=error.hint) from None
            read.append(single)
        keys, values, queries = read
        if values.shape != keys.shape or (queries.shape[0], *queries.shape[2:]) != keys.shape:
            raise DocumentError(
                f"keys {keys.shape}, values {values.shape} and queries {queries.shape} do not "
                "belong together",
                where=where,
                hint="heads, length and head_dim must be the same in all three",
            )
        return cls(keys, values, queries)


@dataclass(frozen=True, slots=True)
class Error:
    """How far contexts are from exact ones; each context counts alike.

    Attributes:
        rms: root mean square of the difference, over that of the exact context.
        max: largest difference of an element, over the root mean square of its exact context.
        cosine: least cosine of the angle between a context and the exact one.
    """

    rms: float
    max: float
    cosine: float


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """Heads of one length, in one format.

    Attributes:
        data: distribution.
        length: keys of a head.
        placement: placement of the units.
        kv: format of keys and values.
        accumulate: format of the accumulators.
        contexts: number of compared contexts.
        effective_keys: number of keys over which attention spreads: the mean of 1 over the sum of
            squared probabilities.
        overflowed: number of contexts with an element that is no finite number.
        total: error against exact attention of the inputs; None if a context overflowed.
        rounding: error from rounding the inputs: exact attention of keys, values and queries as
            they are stored, against exact attention of the inputs.
        computing: error against exact attention of keys, values and queries as they are stored;
            None if a context overflowed.
        limit_rms: RMS error of exact attention of the inputs rounded to bf16.
        good_enough: whether the RMS error of computing is at most `limit_rms`.
    """

    data: Data
    length: int
    placement: Placement
    kv: Format
    accumulate: Format
    contexts: int
    effective_keys: float
    overflowed: int
    total: Error | None
    rounding: Error
    computing: Error | None
    limit_rms: float
    good_enough: bool


@dataclass(frozen=True, slots=True)
class AccuracyReach:
    """Up to which length an arithmetic is good enough.

    Attributes:
        data: distribution.
        placement: placement of the units.
        kv: format of keys and values.
        accumulate: format of the accumulators.
        good_up_to: the longest length up to which all lengths are good enough; None if even the
            shortest is not.
        all_good: whether all lengths are good enough.
        worst_share: largest RMS error of computing over its limit; None if a context overflowed.
        worst_length: length at which `worst_share` occurs.
    """

    data: Data
    placement: Placement
    kv: Format
    accumulate: Format
    good_up_to: int | None
    all_good: bool
    worst_share: float | None
    worst_length: int


@dataclass(frozen=True, slots=True)
class AccuracyResult(Result):
    """What `measure_accuracy` found.

    Attributes:
        model: name, or the file of recorded data.
        device: the stack.
        head_dim: elements of a key.
        queries_per_kv_head: queries that share a head.
        heads: heads of keys and values at each length.
        steps: how often new queries attended to each head.
        seed: seed of the data; None for recorded data.
        rows: by data, length, placement, format and accumulator.
        reach: by data, placement, format and accumulator.
    """

    model: str
    device: str
    head_dim: int
    queries_per_kv_head: int
    heads: int
    steps: int
    seed: int | None
    rows: tuple[AccuracyRow, ...]
    reach: tuple[AccuracyReach, ...]

    def table_rows(self) -> list[dict[str, Any]]:
        """Return a row for each distribution, length, placement, format and accumulator."""
        return [flat(asdict(row)) for row in self.rows]


def exact_attention(queries: F64, keys: Floats, values: Floats, scale: float) -> tuple[F64, F64]:
    """Attend in float64.

    Args:
        queries: (queries, head_dim).
        keys: (length, head_dim), float32 or float64.
        values: (length, head_dim).
        scale: factor of the scores.

    Returns:
        (queries, head_dim) contexts, and (queries,) 1 over the sum of squared probabilities.
    """
    blocks = [slice(first, first + _BLOCK) for first in range(0, len(keys), _BLOCK)]
    scores = np.concatenate([queries @ keys[at].T.astype(np.float64) for at in blocks], axis=1)
    scores *= scale
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    context = np.zeros((len(queries), values.shape[1]))
    for at in blocks:
        context += weights[:, at] @ values[at].astype(np.float64)
    return context, 1 / np.square(weights).sum(axis=1)


def accuracy(*, progress: Progress | None = None, **asked: object) -> AccuracyResult:
    """Tell the error of attention on a device against exact attention, by length and format.

    Args:
        progress: told how far it is.
        asked: fields of `AccuracySpec`, as in ``lengths=[1024], kv=["fp16"]``; the others have
            their defaults.

    Raises:
        InputError: a field is unknown or out of range, or as in `measure_accuracy`.
    """
    return measure_accuracy(parse_document(AccuracySpec, asked, where="accuracy"), progress)


def measure_accuracy(spec: AccuracySpec, progress: Progress | None = None) -> AccuracyResult:
    """Execute attention on a device, and compare it with exact attention.

    Args:
        spec: what is asked.
        progress: told how far it is.

    Raises:
        InputError: there is no such model or device, it models no pipeline, a length exceeds a
            channel or the recorded data, or queries or sums do not fit the units' buffers.
    """
    if spec.recorded is not None:
        check_source(spec.recorded)
    heads = _Heads.of(spec)
    device = _one_channel(DRAMS.load_name_or_file(spec.device, where="device"), spec)
    for length in heads.lengths:
        _check_length(device, spec, length, heads)
    rows: list[AccuracyRow] = []
    done, keys = 0, len(spec.data) * sum(heads.lengths)
    for data in spec.data:
        for length in heads.lengths:
            if progress is not None:
                progress(done, keys)
            rows += _rows_of(spec, device, heads, data, length)
            done += length
    return AccuracyResult(
        model=heads.name,
        device=device.name,
        head_dim=heads.head_dim,
        queries_per_kv_head=heads.queries,
        heads=heads.count,
        steps=heads.steps,
        seed=spec.seed if heads.recorded is None else None,
        rows=tuple(rows),
        reach=tuple(_reach(spec, rows)),
    )


_ELEMENTS: Final = {
    Format.FP16: ElementType.FP16,
    Format.BF16: ElementType.BF16,
    Format.INT8: ElementType.INT8,
    Format.E4M3: ElementType.FP8,
    Format.E5M2: ElementType.FP8,
}


@dataclass(frozen=True, eq=False)
class _Heads:
    """Where keys, values and queries come from."""

    name: str
    head_dim: int
    queries: int
    count: int
    steps: int
    lengths: tuple[int, ...]
    seed: int
    recorded: RecordedHeads | None

    @classmethod
    def of(cls, spec: AccuracySpec) -> _Heads:
        model = None
        if spec.model is not None or spec.recorded is None:
            model = load_model(spec.model or DEFAULT_MODEL, where="model")
        if spec.recorded is None:
            assert model is not None  # noqa: S101 - told by the condition above
            mixer = model.full_attention()
            shared = mixer.heads // mixer.kv_heads
            return cls(
                model.name, mixer.head_dim, shared, spec.heads or 1, spec.steps,
                spec.lengths or DEFAULT_LENGTHS, spec.seed, None,
            )  # fmt: skip
        recorded = RecordedHeads.load(spec.recorded)
        count, queries, length, head_dim = recorded.queries.shape
        if model is not None:
            mixer = model.full_attention()
            own = mixer.head_dim, mixer.heads // mixer.kv_heads
            if own != (head_dim, queries):
                raise InputError(
                    f"the file has heads of {head_dim} elements that {queries} queries share, "
                    f"{model.name} of {own[0]} that {own[1]} share",
                    where=str(spec.recorded),
                    hint="leave the model out",
                )
        if spec.heads is not None and spec.heads > count:
            raise InputError(
                f"heads = {spec.heads}, but the file has {count}", where=str(spec.recorded)
            )
        lengths = spec.lengths
        if lengths is None:
            lengths = tuple(one for one in DEFAULT_LENGTHS if one <= length) or (length,)
        if max(lengths) > length:
            raise InputError(
                f"length {max(lengths)} exceeds the {length} keys of the file",
                where=str(spec.recorded),
                hint=f"ask for lengths of at most {length}",
            )
        # Each position has its own query, which may not see later keys.
        return cls(
            str(spec.recorded), head_dim, queries, spec.heads or count, 1, lengths, spec.seed,
            recorded,
        )  # fmt: skip

    def draw(self, data: Data, length: int, head: int) -> tuple[F32, F32, F32]:
        """Return keys and values (length, head_dim), and queries (steps, queries, head_dim)."""
        if self.recorded is not None:
            own = self.recorded
            queries = own.queries[head, :, length - 1][np.newaxis]
            return own.keys[head, :length], own.values[head, :length], queries
        random = np.random.default_rng([self.seed, list(Data).index(data), length, head])
        shape = (length, self.head_dim)
        keys = random.standard_normal(shape, dtype=np.float32)
        values = random.standard_normal(shape, dtype=np.float32)
        asked = (self.steps, self.queries, self.head_dim)
        queries = random.standard_normal(asked, dtype=np.float32)
        return keys, values, queries * np.float32(PEAKED_SPREAD if data is Data.PEAKED else 1)


@dataclass(eq=False)
class _Errors:
    """Errors of contexts that come one after the other."""

    squares: list[float] = field(default_factory=list[float])
    largest: list[float] = field(default_factory=list[float])
    cosines: list[float] = field(default_factory=list[float])

    def add(self, contexts: F64, exact: F64) -> None:
        """Compare (queries, head_dim) contexts with exact ones."""
        for ours, theirs in zip(contexts, exact, strict=True):
            squared = float(theirs @ theirs)
            size = math.sqrt(squared / len(theirs))
            if size == 0:
                raise InputError(
                    "an exact context is zero: no error is relative to that",
                    hint="look at the values of the recorded heads",
                )
            apart = np.abs(ours - theirs)
            self.squares.append(float(apart @ apart) / squared)
            self.largest.append(float(apart.max()) / size)
            lengths = math.sqrt(float(ours @ ours) * squared)
            self.cosines.append(min(1.0, float(ours @ theirs) / lengths) if lengths else 0.0)

    def error(self) -> Error:
        """Return the error of all."""
        return Error(
            rms=math.sqrt(sum(self.squares) / len(self.squares)),
            max=max(self.largest),
            cosine=min(self.cosines),
        )


@dataclass(eq=False)
class _Compared:
    """Contexts of one row."""

    total: _Errors = field(default_factory=_Errors)
    computing: _Errors = field(default_factory=_Errors)
    contexts: int = 0
    overflowed: int = 0

    def add(self, contexts: F64, exact: F64, rounded: F64) -> None:
        finite = np.isfinite(contexts).all(axis=1)
        self.contexts += len(contexts)
        self.overflowed += int(np.count_nonzero(~finite))
        self.total.add(contexts[finite], exact[finite])
        self.computing.add(contexts[finite], rounded[finite])


def _one_channel(device: DramDevice, spec: AccuracySpec) -> DramDevice:
    """Return a stack of a single channel, with its share of the buffer die."""
    pipeline, o = pipeline_of(device), device.organization
    buffer_bytes = pipeline.softmax_buffer_bytes / o.channels
    if spec.chunk_keys is not None:
        buffer_bytes = float(2 * SCORE_BYTES * spec.queries_per_read * spec.chunk_keys)
    changes = {
        "softmax_lanes": max(1, pipeline.softmax_lanes // o.channels),
        "softmax_buffer_bytes": buffer_bytes,
    }
    return device.model_copy(
        update={
            "organization": o.model_copy(update={"channels": 1}),
            "pipeline": pipeline.model_copy(update=changes),
        }
    )


def _with_sums(device: DramDevice, spec: AccuracySpec, layout: KeyLayout) -> DramDevice:
    """Return the device with vector buffers for sums over `sum_keys` keys."""
    if spec.sum_keys is None:
        return device
    width = layout.elements_per_column
    if spec.sum_keys % width:
        raise InputError(
            f"sums over {spec.sum_keys} keys do not fill whole accesses of {width} probabilities",
            where="sum_keys",
            hint=f"use a multiple of {width}",
        )
    words = spec.sum_keys // width * spec.queries_per_read
    pipeline = pipeline_of(device).model_copy(update={"buffer_words": words})
    return device.model_copy(update={"pipeline": pipeline})


def _check_length(device: DramDevice, spec: AccuracySpec, length: int, heads: _Heads) -> None:
    """Refuse a head that its channel does not hold."""
    o = device.organization
    for placement in spec.placements:
        for kv in spec.kv:
            layout = KeyLayout(o, placement, heads.head_dim, _ELEMENTS[kv])
            chunk = longest_chunk(device, layout, min(spec.queries_per_read, heads.queries))
            # Keys and values of every chunk begin in rows of their own.
            rows = 2 * HeadLayout(o, placement, heads.head_dim, _ELEMENTS[kv], chunk).rows
            most = o.rows // rows * chunk
            if length > most:
                raise InputError(
                    f"length {length} exceeds a channel, which holds a head of {most} keys of "
                    f"{heads.head_dim} elements in {kv} at {placement}",
                    where="lengths",
                    hint=f"ask for lengths of at most {most}",
                )


def _rows_of(
    spec: AccuracySpec, device: DramDevice, heads: _Heads, data: Data, length: int
) -> Iterator[AccuracyRow]:
    plans: dict[tuple[Placement, ElementType], AttentionPlan] = {}
    for placement in spec.placements:
        for kv in spec.kv:
            element = _ELEMENTS[kv]
            layout = KeyLayout(device.organization, placement, heads.head_dim, element)
            if (placement, element) not in plans:
                plans[placement, element] = AttentionPlan.of(
                    _with_sums(device, spec, layout), placement, [length], heads.head_dim, element,
                    queries=heads.queries,
                    queries_per_read=min(spec.queries_per_read, heads.queries),
                )  # fmt: skip
    compared = {
        (placement, kv, accumulate): _Compared()
        for placement in spec.placements
        for kv, accumulate in spec.arithmetics
    }
    roundings = {kv: _Errors() for kv in (*spec.kv, YARDSTICK)}
    effective: list[float] = []
    for head in range(heads.count):
        keys, values, queries = heads.draw(data, length, head)
        scale = 1 / math.sqrt(heads.head_dim)
        together = queries.reshape(-1, heads.head_dim)
        exact, spread = exact_attention(together.astype(np.float64), keys, values, scale)
        effective += spread.tolist()
        for kv in roundings:
            k, v = quantize(keys, kv, name="keys"), quantize(values, kv, name="values")
            rounded = _rounded(k, v, quantize(together, kv, name="queries", own=1), scale)
            roundings[kv].add(rounded, exact)
            for placement in spec.placements if kv in spec.kv else ():
                plan = plans[placement, _ELEMENTS[kv]]
                stored = plan.write([k], [v])
                for of, accumulate in spec.arithmetics:
                    if of is not kv:
                        continue
                    arithmetic = spec.arithmetic(kv, accumulate)
                    answers = [
                        plan.attend(stored, asked[np.newaxis], arithmetic).context[0]
                        for asked in queries
                    ]
                    contexts = np.concatenate(answers).astype(np.float64)
                    compared[placement, kv, accumulate].add(contexts, exact, rounded)
    limit = roundings[YARDSTICK].error().rms
    if limit == 0:
        raise InputError(
            f"the recorded heads are rounded to {YARDSTICK} already: what that costs, with which "
            "errors are compared, cannot be told from them",
            where=heads.name,
            hint="record them from the model in float32",
        )
    for (placement, kv, accumulate), one in compared.items():
        finite = one.overflowed == 0
        computing = one.computing.error() if finite else None
        yield AccuracyRow(
            data=data,
            length=length,
            placement=placement,
            kv=kv,
            accumulate=accumulate,
            contexts=one.contexts,
            effective_keys=sum(effective) / len(effective),
            overflowed=one.overflowed,
            total=one.total.error() if finite else None,
            rounding=roundings[kv].error(),
            computing=computing,
            limit_rms=limit,
            good_enough=computing is not None and computing.rms <= limit,
        )


def _rounded(keys: Quantized, values: Quantized, queries: Quantized, scale: float) -> F64:
    """Return exact attention of the stored keys, values and queries."""
    k, v = keys.format.from_bits(keys.codes), values.format.from_bits(values.codes)
    context, _ = exact_attention(queries.values, k, v, scale * float(keys.scale))
    return context * float(values.scale)


def _reach(spec: AccuracySpec, rows: Sequence[AccuracyRow]) -> Iterator[AccuracyReach]:
    for data in spec.data:
        for placement in spec.placements:
            for kv, accumulate in spec.arithmetics:
                own = sorted(
                    (
                        row
                        for row in rows
                        if (row.data, row.placement, row.kv, row.accumulate)
                        == (data, placement, kv, accumulate)
                    ),
                    key=lambda row: row.length,
                )
                bad = next((i for i, row in enumerate(own) if not row.good_enough), len(own))
                worst = max(own, key=_share)
                yield AccuracyReach(
                    data=data,
                    placement=placement,
                    kv=kv,
                    accumulate=accumulate,
                    good_up_to=own[bad - 1].length if bad else None,
                    all_good=bad == len(own),
                    worst_share=None if worst.computing is None else _share(worst),
                    worst_length=worst.length,
                )


def _share(row: AccuracyRow) -> float:
    """Return the RMS error of computing over its limit."""
    if row.computing is None:
        return math.inf
    return row.computing.rms / row.limit_rms
