"""Time per token of serving systems, from the times of steps."""

import numpy as np

from attacc.gpu.frameworks import (
    FirstTokenCoefficients,
    FrontEndCoefficients,
    ServedSteps,
    TokenCoefficients,
    first_token_ns,
    latency,
    token_ns,
)

VALUES = (5.0, 100.0, 1000.0, 400.0, 50.0, 4.0, 2000.0)
STEPS = ServedSteps(*(np.array([value]) for value in VALUES))


def test_time_per_token() -> None:
    """Catches a term of the equation that is left out or has the wrong sign."""
    of = TokenCoefficients(
        graph_share=0.5,
        layer_ns=10.0,
        step_ns=100.0,
        request_ns=3.0,
        reduce_share=0.8,
        prefill_share=0.9,
    )
    expected = 1000 - 200 + 40 + 40 + 100 + 15 + 0.9 * 4 / 100 * 2000
    np.testing.assert_allclose(token_ns(STEPS, of), expected)


def test_time_to_first_token() -> None:
    """Catches a request that waits for itself, or a queue that is not that of Little's law."""
    of = FirstTokenCoefficients(
        start_ns=500.0,
        own_prefills=1.5,
        bunched_share=0.25,
        queued_share=0.5,
        slot_share=0.1,
    )
    time = first_token_ns(STEPS, of, np.array([7.0]))
    waiting = 4 * time / (time + 100 * 7)
    expected = 500 + (1.5 + 0.25 * 4 + 0.5 * waiting) * 2000 + 0.1 * 100 * 7 / 5
    np.testing.assert_allclose(time, expected)


def test_requests_wait_for_the_front_end() -> None:
    """Catches a front end that no one waits for, tokens that pass it for nothing, or a wait that
    is not shared out in full: a request in flight stays as long as Little's law says.
    """
    token = TokenCoefficients(
        graph_share=0.5,
        layer_ns=10.0,
        step_ns=100.0,
        request_ns=3.0,
        reduce_share=0.8,
        prefill_share=0.9,
    )
    first = FirstTokenCoefficients(
        start_ns=500.0, own_prefills=1.5, bunched_share=0.25, queued_share=0.5, slot_share=0.1
    )
    engine = token_ns(STEPS, token)
    alone = first_token_ns(STEPS, first, engine)

    def of(request_ns: float) -> tuple[float, float]:
        front = FrontEndCoefficients(request_ns=request_ns, token_ns=2.0, waiting_share=0.25)
        got = latency(STEPS, token, first, front)
        return float(got.first_ns[0]), float(got.per_token_ns[0])

    np.testing.assert_allclose(of(1.0), (alone[0], engine[0]), rtol=1e-4)
    slow, per_token = of(1e9)
    np.testing.assert_allclose(slow + 100 * per_token, 5 * (1e9 + 2 * 100), rtol=1e-6)
    np.testing.assert_allclose((slow - alone[0]) * 3, 100 * (per_token - engine[0]))
