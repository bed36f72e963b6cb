"""What users felt, and what the devices did: the results of a run under names that users know.

Names and definitions are those of ``vllm bench serve`` (0.16): TTFT is from arrival to the first
token; TPOT is the mean time of a request's further tokens, without requests of one token; ITL is
every time between two tokens of a request, pooled over all; E2EL is from arrival to the last token.
Percentiles are linear between ranks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attacc.errors import InputError
from attacc.results import Result
from attacc.serving.engines.policy import Ended, Ledger
from attacc.units import PS_PER_MS, PS_PER_S

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WAITING_SHARE = 0.05
"""Share of all requests that wait at the last arrival from which on a run counts as overloaded."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a latency is spread over requests, or over tokens.

    Attributes:
        mean: mean.
        median: 50th percentile.
        p90: 90th percentile.
        p99: 99th percentile.
    """

    mean: float
    median: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Floats, counts: Ints | None = None) -> Spread:
        """Return the spread of values, 0 where there are none.

        Args:
            values: (values,) values.
            counts: (values,) how often each occurs; None for once.
        """
        if not values.size:
            return cls(0.0, 0.0, 0.0, 0.0)
        order = np.argsort(values, kind="stable")
        values = values[order]
        counts = np.ones(values.size, dtype=np.int64) if counts is None else counts[order]
        ends = np.cumsum(counts)

        def percentile(share: float) -> float:
            rank = share * float(ends[-1] - 1)
            low = int(rank)
            below, above = np.searchsorted(ends, [low, min(low + 1, int(ends[-1]) - 1)], "right")
            return float(values[below] + (rank - low) * (values[above] - values[below]))

        mean = float(values @ counts) / float(ends[-1])
        return cls(mean, percentile(0.5), percentile(0.9), percentile(0.99))


@dataclass(frozen=True, slots=True)
class Targets:
    """Latencies that users accept.

    Attributes:
        ttft_ms: longest time to the first token; None for any.
        tpot_ms: longest mean time of further tokens; None for any.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.ttft_ms is not None or self.tpot_ms is not None


@dataclass(frozen=True, slots=True, eq=False)
class Requested:
    """Requests that ended, in the order of their numbers, as columns.

    Attributes:
        columns: (requests, fields) the numbers of `attacc.serving.engines.policy.Ended`.
    """

    columns: Ints

    @classmethod
    def of(cls, ledger: Ledger, later_ps: int = 0) -> Requested:
        """Return the requests that a policy has told.

        Args:
            ledger: what it told.
            later_ps: picoseconds after which users see a token.
        """
        columns = np.array(ledger.ended, dtype=np.int64).reshape(-1, len(Ended._fields))
        for name in ("first_ps", "end_ps"):
            columns[:, Ended._fields.index(name)] += later_ps
        return cls(columns[np.argsort(columns[:, 0], kind="stable")])

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.columns)

    def column(self, name: str) -> Ints:
        """Return one column by its name in `Ended`."""
        return self.columns[:, Ended._fields.index(name)]

    @property
    def ttft_ms(self) -> Floats:
        """(requests,) times to the first token."""
        return (self.column("first_ps") - self.column("arrival_ps")) / PS_PER_MS

    @property
    def e2el_ms(self) -> Floats:
        """(requests,) times to the last token."""
        return (self.column("end_ps") - self.column("arrival_ps")) / PS_PER_MS

    @property
    def tpot_ms(self) -> Floats:
        """(requests,) mean times of tokens after the first; 0 where there are none."""
        further = np.maximum(1, self.column("outputs") - 1)
        return (self.column("end_ps") - self.column("first_ps")) / further / PS_PER_MS

    def kept(self, targets: Targets) -> NDArray[np.bool_]:
        """Return which requests keep all targets; those of one token keep any TPOT."""
        found = np.ones(len(self), dtype=np.bool_)
        if targets.ttft_ms is not None:
            found &= self.ttft_ms <= targets.ttft_ms
        if targets.tpot_ms is not None:
            found &= self.tpot_ms <= targets.tpot_ms
        return found

    def frame(self) -> pl.DataFrame:
        """Return a row for each request."""
        import polars as pl

        times = {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "e2el_ms": self.e2el_ms}
        own = {name: self.column(name) for name in Ended._fields}
        return pl.DataFrame(own | times)


@dataclass(frozen=True, slots=True)
class StepSurrogate:
    """How far fast prices of steps are from exact ones.

    Attributes:
        bound: bound of the relative error of a step's time; 0 where every step was priced exactly.
        sampled_steps: steps of the run that were priced exactly, too.
        max_deviation: largest relative deviation among them.
    """

    bound: float
    sampled_steps: int
    max_deviation: float


@dataclass(frozen=True, slots=True)
class Latencies(Result):
    """Latencies and rates of a run.

    Attributes:
        completed: requests that ended.
        rejected: requests that could never run.
        duration_s: from the first arrival to the last token.
        request_throughput: requests that ended in a second.
        output_throughput: output tokens in a second.
        total_token_throughput: tokens of prompts and outputs in a second.
        request_goodput: requests in a second that keep all targets, as vLLM counts; None without
            targets.
        slo_attainment: share of the requests that keep all targets, as DistServe counts.
        ttft_ms: time to the first token.
        tpot_ms: mean time of further tokens of a request.
        itl_ms: time between two tokens, over all tokens.
        e2el_ms: time to the last token.
        overloaded: whether more requests came than were served (`overloaded_by`): latencies then
            grow with the length of the trace, and tell nothing else.
        preemptions: how often a request lost its memory.
        prefix_hit_share: share of the prompts' tokens that were found in the prefix cache.
    """

    completed: int
    rejected: int
    duration_s: float
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    request_goodput: float | None
    slo_attainment: float | None
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2el_ms: Spread
    overloaded: bool
    preemptions: int
    prefix_hit_share: float
    requests: Requested = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, without the requests one by one."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__ if name != "requests"}

    def table_rows(self) -> list[dict[str, Any]]:
        """Return one row."""
        return [self.to_dict()]


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, Spread) else value


def latencies(
    ledger: Ledger, rejected: int, targets: Targets, *, until_ps: int = 0, later_ps: int = 0
) -> Latencies:
    """Return the latencies and rates of a run.

    Args:
        ledger: what the policy told.
        rejected: requests that could never run.
        targets: latencies that users accept.
        until_ps: when a run was cut off; it lasts until then, or until the last token.
        later_ps: picoseconds after which users see a token.

    Raises:
        InputError: no request ended.
    """
    requests = Requested.of(ledger, later_ps)
    if not len(requests):
        raise InputError(
            f"none of the {rejected} requests can run",
            where="requests",
            hint="use shorter requests, more memory, or a longer max_model_len",
        )
    seconds = float(max(until_ps, requests.column("end_ps").max())) / PS_PER_S
    outputs, prompts = requests.column("outputs"), requests.column("prompt")
    kept = requests.kept(targets)
    gaps, times = ledger.gap_columns()
    return Latencies(
        completed=len(requests),
        rejected=rejected,
        duration_s=seconds,
        request_throughput=len(requests) / seconds,
        output_throughput=int(outputs.sum()) / seconds,
        total_token_throughput=int((outputs + prompts).sum()) / seconds,
        request_goodput=float(kept.sum()) / seconds if targets.given else None,
        slo_attainment=float(kept.mean()) if targets.given else None,
        ttft_ms=Spread.of(requests.ttft_ms),
        tpot_ms=Spread.of(requests.tpot_ms[outputs > 1]),
        itl_ms=Spread.of(gaps / PS_PER_MS, times),
        e2el_ms=Spread.of(requests.e2el_ms),
        overloaded=overloaded_by(requests),
        preemptions=int(requests.column("preemptions").sum()),
        prefix_hit_share=float(requests.column("hits").sum()) / float(prompts.sum()),
        requests=requests,
    )


def overloaded_by(requests: Requested) -> bool:
    """Return whether more requests came than were served.

    A run is overloaded if at the last arrival many requests still wait for their first token, and
    more of them than at half of the time. Requests that all arrive at once overload nothing.

    Args:
        requests: those that ended.
    """
    arrivals, firsts = requests.column("arrival_ps"), np.sort(requests.column("first_ps"))
    last, first = int(arrivals.max()), int(arrivals.min())
    if last == first:
        return False

    def waiting(at_ps: int) -> int:
        came = int(np.count_nonzero(arrivals <= at_ps))
        return came - int(np.searchsorted(firsts, at_ps, "right"))

    late = waiting(last)
    return late > WAITING_SHARE * len(requests) and late > waiting((first + last) // 2)
