"""Scheduling alone, apart from costs: recorded runs of an engine, played again.

A recorded run tells for every request when it arrived, when its first and its last token came. Here
the same requests are played on the simulated engine. A step's time is a line of four terms, fitted
to the requests with odd numbers; the others test what the scheduler decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from attacc.errors import DocumentError
from attacc.files import json_of, read_data, text_of
from attacc.serving.engines.policy import Request
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings
from attacc.serving.results import Requested
from attacc.serving.simulator import Run, play
from attacc.serving.work import Work
from attacc.units import MS_PER_S, PS_PER_MS, PS_PER_S
from attacc.workload.formats.lines import lines_of, record_of

Floats = NDArray[np.float64]

FIELDS: Final = (
    "input_toks",
    "output_toks",
    "arrival_time",
    "queued_ts",
    "first_token_ts",
    "last_token_ts",
)
"""What a line tells: lengths, the client's clock at arrival, and the engine's clock, in seconds."""
KEYS_PER_TERM: Final = 1000
"""Keys that one unit of a coefficient stands for."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A recorded run.

    Attributes:
        prompt: (requests,) tokens of the prompts.
        outputs: (requests,) tokens that were generated.
        arrival_s: (requests,) arrivals, from the first one.
        ttft_ms: (requests,) times to the first token.
        e2el_ms: (requests,) times to the last token.
    """

    prompt: NDArray[np.int64]
    outputs: NDArray[np.int64]
    arrival_s: Floats
    ttft_ms: Floats
    e2el_ms: Floats

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.prompt)


@dataclass(frozen=True, slots=True)
class StepLine:
    """The time of a step as a line.

    Attributes:
        step_ms: of every step.
        prefill_token_ms: of every token that is prefilled.
        decoding_ms: of every request that decodes.
        keys_ms: of every thousand keys that these attend to.
        host_ms: time of the host before a step.
    """

    step_ms: float
    prefill_token_ms: float
    decoding_ms: float
    keys_ms: float
    host_ms: float

    def device_ps(self, work: Work) -> int:
        """Return the time of a step on the device."""
        time_ms = (
            self.step_ms
            + self.prefill_token_ms * (work.new_tokens - work.decoding)
            + self.decoding_ms * work.decoding
            + self.keys_ms * work.keys / KEYS_PER_TERM
        )
        return round(time_ms * PS_PER_MS)

    def host_ps(self, work: Work) -> int:
        """Return the time of the host before a step."""
        del work
        return round(self.host_ms * PS_PER_MS)


def read_recorded(path: Path) -> Recorded:
    """Read a recorded run: one JSON object for each request.

    The two clocks of a line are brought together where a request is queued soonest after its
    arrival.

    Args:
        path: the file.

    Raises:
        DocumentError: the file is absent or malformed, or a field is missing.
    """
    where = str(path)
    columns: list[list[float]] = []
    expected = f"expected an object with {', '.join(FIELDS)}"
    for number, line in lines_of(text_of(read_data(path), where=where)):
        at = f"{where}:{number}"
        row: dict[str, Any] = record_of(json_of(line, where=at), at, expected)
        try:
            columns.append([float(row[name]) for name in FIELDS])
        except (ValueError, TypeError, KeyError) as error:
            raise DocumentError(
                f"no line of a recorded run: {error}", where=at, hint=expected
            ) from None
    if not columns:
        raise DocumentError("holds no requests", where=where, hint="give a recorded run")
    prompt, outputs, arrival, queued, first, last = np.array(columns).T
    between = (queued - arrival).min()
    return Recorded(
        prompt.astype(np.int64),
        outputs.astype(np.int64),
        arrival - arrival.min(),
        (first - between - arrival) * MS_PER_S,
        (last - between - arrival) * MS_PER_S,
    )


def replay(recorded: Recorded, line: StepLine, settings: VllmV1Settings) -> Run:
    """Play the requests of a recorded run again.

    Args:
        recorded: the run.
        line: times of steps.
        settings: what the engine was started with.
    """
    order = np.argsort(recorded.arrival_s, kind="stable").tolist()
    requests = (
        Request(
            number,
            round(float(recorded.arrival_s[number]) * PS_PER_S),
            int(recorded.prompt[number]),
            int(recorded.outputs[number]),
        )
        for number in order
    )
    return play(VllmV1(settings), requests, line.device_ps, line.host_ps)


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far simulated latencies are from recorded ones.

    Attributes:
        requests: how many.
        ttft: mean of the relative deviations of TTFT, without signs.
        e2el: the same of E2EL.
        mean_ttft: relative deviation of the mean TTFT.
        mean_e2el: the same of E2EL.
    """

    requests: int
    ttft: float
    e2el: float
    mean_ttft: float
    mean_e2el: float


def deviation(recorded: Recorded, run: Run, chosen: Sequence[int]) -> Deviation:
    """Compare a run with the recorded one.

    Args:
        recorded: the recorded run.
        run: the simulated one.
        chosen: numbers of the requests that count.
    """
    found, these = Requested.of(run.policy.ledger), np.asarray(chosen)
    ttft, e2el = found.ttft_ms[these], found.e2el_ms[these]
    told_ttft, told_e2el = recorded.ttft_ms[these], recorded.e2el_ms[these]
    return Deviation(
        requests=these.size,
        ttft=float(np.abs(ttft / told_ttft - 1).mean()),
        e2el=float(np.abs(e2el / told_e2el - 1).mean()),
        mean_ttft=float(ttft.mean() / told_ttft.mean() - 1),
        mean_e2el=float(e2el.mean() / told_e2el.mean() - 1),
    )
