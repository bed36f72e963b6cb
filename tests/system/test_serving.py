"""Time per token of serving systems, from the times of steps."""

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.models.architecture import MODELS
from attacc.system.calibrated import CalibratedGpu
from attacc.system.calibrated_costs import Kernels
from attacc.system.calibrated_step import decode_time, prefill_time
from attacc.system.serving import (
    FirstTokenCoefficients,
    ServedSteps,
    TokenCoefficients,
    first_token_ns,
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
    """Catches a request that waits for itself, or a queue without an end."""
    of = FirstTokenCoefficients(
        start_ns=500.0, own_prefills=1.5, queued_share=0.2, queue_limit=4.0, slot_share=0.1
    )
    expected = 500 + (1.5 + 0.2 * 4 * 4 / 8) * 2000 + 0.1 * 100 * 7 / 5
    np.testing.assert_allclose(first_token_ns(STEPS, of, np.array([7.0])), expected)


def test_a_step_of_a_dense_model() -> None:
    """Catches weights read at more than the memory's bandwidth, or sums over a single GPU."""
    model, kernels = MODELS.load("llama-3.1-8b"), Kernels(CalibratedGpu.load("h100"))
    one = decode_time(model, kernels, batch=1, kv_length=1000, tensor_parallel=1)
    four = decode_time(model, kernels, batch=1, kv_length=1000, tensor_parallel=4)
    assert one.reduce_ns == 0 < four.reduce_ns
    assert one.products_ns > 15e9 / 3352e9 * 1e9
    assert one.products_ns / 4 < four.products_ns < one.products_ns
    prompt = prefill_time(model, kernels, prompts=1, prompt_length=2000, tensor_parallel=1)
    assert prompt.products_ns > 2 * 7e9 * 2000 / 989.4e12 * 1e9


def test_experts_are_refused() -> None:
    """Catches a mixture of experts priced as a dense model."""
    kernels = Kernels(CalibratedGpu.load("h100"))
    with pytest.raises(InputError, match="use a dense model"):
        decode_time(MODELS.load("mixtral-8x7b"), kernels, batch=1, kv_length=10, tensor_parallel=1)
