"""Measured serving runs at constant concurrency, served again by the simulator.

`attacc.calibration.serving` predicts such runs by a formula with coefficients for queues. Here the
simulator plays the queues: so many clients each send a request, wait for its end, and send the next
one. No coefficient is fitted anew: the host's are those of the formula, and the time of a request
outside the engine is that of the runs under open-loop load. One number was chosen by the measured
TTFT, `REQUESTS_PER_CLIENT`.

The table tells neither the tokens of a step nor the requests of a client. The former are the rule
of the collection's generator of engine options (ai-dynamo/aiconfigurator): requests in flight, a
prompt and 1,500 tokens, rounded up to a block. All requests count, also those that all clients send
at once at the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from attacc.calibration.serving import Run, served
from attacc.models.precision import ElementType
from attacc.serving.results import Targets
from attacc.serving.serve import Server
from attacc.serving.started import EngineOptions
from attacc.workload.requests import Requests

SYSTEMS: Final = {"h100_sxm": "8xh100", "h200_sxm": "8xh200"}
REQUESTS_PER_CLIENT: Final = 8
"""Requests that a client sends. The formula's coefficient for requests that start together is that
of 8 to 9. Of 6, 8 and 10, 8 is nearest to the measured TTFT."""
SPARE_TOKENS: Final = 1500
"""Tokens of a step beyond one prompt and the requests in flight."""
BLOCK_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A measured run, and its simulation.

    Attributes:
        run: the run.
        ttft_ms: simulated mean time to the first token.
        tpot_ms: simulated mean time per further token.
    """

    run: Run
    ttft_ms: float
    tpot_ms: float

    @property
    def ttft_off(self) -> float:
        """How far TTFT is from the measured one, as a signed share of it."""
        return self.ttft_ms / self.run.ttft_ms - 1

    @property
    def tpot_off(self) -> float:
        """How far TPOT is from the measured one, as a signed share of it."""
        return self.tpot_ms / self.run.tpot_ms - 1


def playable(runs: Iterable[Run]) -> list[Run]:
    """Return the runs whose engine is known: vLLM of a known version, in 16 bits.

    Those of models without a preset, and those whose requests do not fit in memory together, are
    left out, as the formula leaves them out.

    Args:
        runs: of any framework.
    """
    vllm = [run for run in runs if run.framework == "vllm" and run.version]
    return [
        run for run in served(vllm).runs if run.dtype is ElementType.BF16 and run.gpu in SYSTEMS
    ]


def step_tokens(run: Run) -> int:
    """Return the most tokens of a step.

    Args:
        run: the run.
    """
    tokens = run.concurrency + run.prompt + SPARE_TOKENS
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


@lru_cache(maxsize=64)
def _server(model: str, gpu: str, tensor_parallel: int, version: str, tokens: int) -> Server:
    options = EngineOptions(engine_version=version, max_num_batched_tokens=tokens)
    return Server(model, SYSTEMS[gpu], options=options, layout=f"tp={tensor_parallel}")


def simulated(runs: Sequence[Run]) -> list[ClosedLoop]:
    """Serve runs again.

    Args:
        runs: as from `playable`.
    """
    return [_simulated(run) for run in runs]


def _simulated(run: Run) -> ClosedLoop:
    assert run.model is not None  # noqa: S101 - `playable` leaves others out
    server = _server(run.model, run.gpu, run.tensor_parallel, run.version, step_tokens(run))
    requests = Requests.fixed(run.prompt, run.output, run.concurrency * REQUESTS_PER_CLIENT)
    found = server.latencies(requests, Targets(), concurrency=run.concurrency)
    return ClosedLoop(run, found.ttft_ms.mean, found.tpot_ms.mean)
