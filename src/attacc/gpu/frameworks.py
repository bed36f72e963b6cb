"""Time to first token and time per output token of serving systems, from the times of steps.

A framework adds time to the calibrated operators. That time is described by a few coefficients for
each framework, version and element type, which are fitted to runs at constant concurrency
(docs/model/gpu-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacc.documents import Presets, PresetSpec, Spec
from attacc.gpu.calibrated.limits import Floats
from attacc.gpu.calibrated.records import Error, Points, Positive
from attacc.models.precision import ElementType, WeightType
from attacc.units import Nanoseconds


class TokenCoefficients(Spec):
    """The parts of the time per output token besides the operators.

    Attributes:
        graph_share: share of the kernels' launch times that graphs of kernels hide.
        layer_ns: time that every layer adds.
        step_ns: time that every step adds.
        request_ns: time that every request in a step adds.
        reduce_share: time of the framework's own all-reduce over the time of NCCL's.
        prefill_share: share of the prefills of other requests that a decoding request waits for.
    """

    graph_share: Annotated[float, Field(ge=1e-6, le=1)]
    layer_ns: Nanoseconds = Field(validation_alias="layer")
    step_ns: Nanoseconds = Field(validation_alias="step")
    request_ns: Nanoseconds = Field(validation_alias="request")
    reduce_share: Positive
    prefill_share: Positive


class FirstTokenCoefficients(Spec):
    """The parts of the time to the first token.

    Attributes:
        start_ns: time from the arrival of a request to its first step, and back to the client.
        own_prefills: prefills of its own length that a request takes.
        bunched_share: prefills that a request waits for, for each other request in flight. They
            belong to requests that arrive together.
        queued_share: prefills that a request waits for, for each other request without its first
            token.
        slot_share: share of the decoding of one request that another request waits for.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    own_prefills: Positive
    bunched_share: Positive
    queued_share: Positive
    slot_share: Positive


class FrontEndCoefficients(Spec):
    """The time of the processes around the engine: HTTP, tokenising, streaming.

    Attributes:
        request_ns: time of the front end for every request.
        token_ns: time of the front end for every output token.
        waiting_share: share of a request's wait for the front end that comes before its first
            token. The rest is spread over the tokens.
    """

    request_ns: Nanoseconds = Field(validation_alias="request")
    token_ns: Nanoseconds = Field(validation_alias="token")
    waiting_share: Annotated[float, Field(gt=0, lt=1)]


class ServingSeries(Spec):
    """The coefficients of one framework, version and element type.

    Attributes:
        version: version of the framework; empty where it was not recorded.
        dtype: element type of the weights.
        cache: element type of the key/value cache.
        points: number of runs that the series was fitted to.
        tpot_error: mean absolute relative error of the time per output token, on runs that were
            held back.
        ttft_error: mean absolute relative error of the time to the first token, on runs that were
            held back.
        token: coefficients of the time per output token.
        first: coefficients of the time to the first token.
        front_end: coefficients of both times, where requests come faster than the front end passes
            them on.
    """

    version: str = ""
    dtype: ElementType
    cache: ElementType
    points: Points
    tpot_error: Error
    ttft_error: Error
    token: TokenCoefficients
    first: FirstTokenCoefficients
    front_end: FrontEndCoefficients


class ServingSpec(PresetSpec):
    """A serving framework.

    Attributes:
        framework: the framework, as tables of runs call it.
        kernels: framework whose measured operators stand for those of this framework.
        series: the fitted series. The last one of an element type stands for versions that are not
            listed.
    """

    framework: str
    kernels: str
    series: tuple[ServingSeries, ...]


PRODUCTS_FROM: Final = {"TRTLLM": {"h200": "h100"}}
"""Framework -> GPU -> GPU whose products stand for it, scaled to the data sheet.

TensorRT-LLM's products were not measured on an H200, so those of an H100 stand for them."""

SERVING: Final = Presets("serving framework", ServingSpec, "attacc.gpu", "presets/serving")


def serving_series(
    spec: ServingSpec, version: str | None, dtype: WeightType
) -> ServingSeries | None:
    """Return the series of an element type; None if there is none.

    Args:
        spec: the framework.
        version: version of the framework. For None, or a version without a series, the result is
            the series with the most runs.
        dtype: element type of the weights.
    """
    same = [series for series in spec.series if series.dtype is dtype]
    exact = [series for series in same if series.version == version]
    return (exact or same or [None])[-1]


@dataclass(frozen=True, slots=True)
class ServedSteps:
    """The steps of runs, as arrays with one element for each run.

    Attributes:
        concurrency: requests in flight.
        output: tokens of every output.
        operators_ns: time of the operators of a decode step, without all-reduces.
        launch_ns: part of ``operators_ns`` that starts kernels.
        reduce_ns: time of the all-reduces of a decode step.
        layers: layers of the model.
        prefill_ns: time of the prefill of one prompt.
    """

    concurrency: Floats
    output: Floats
    operators_ns: Floats
    launch_ns: Floats
    reduce_ns: Floats
    layers: Floats
    prefill_ns: Floats

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> ServedSteps:
        """Return the steps of some of the runs."""
        return ServedSteps(
            self.concurrency[chosen],
            self.output[chosen],
            self.operators_ns[chosen],
            self.launch_ns[chosen],
            self.reduce_ns[chosen],
            self.layers[chosen],
            self.prefill_ns[chosen],
        )


@dataclass(frozen=True, slots=True)
class Latency:
    """The latencies of runs in nanoseconds, as arrays with one element for each run.

    Attributes:
        first_ns: time to the first token.
        per_token_ns: time per output token after the first.
    """

    first_ns: Floats
    per_token_ns: Floats


SATURATION: Final = 4.0
"""How sharply the bound of a run changes from the engine to the front end. Requests have random
phases, so both are busy together for a while."""


def latency(
    steps: ServedSteps,
    token: TokenCoefficients,
    first: FirstTokenCoefficients,
    front_end: FrontEndCoefficients,
) -> Latency:
    """Return times to the first and per output token.

    All requests and tokens pass the front end one after another. With c requests in flight, each
    request stays for at least c times the front end's time for one request (Little's law). The part
    of that stay that the engine does not use is waiting time.
    """
    per_token = token_ns(steps, token)
    first_token = first_token_ns(steps, first, per_token)
    engine = first_token + steps.output * per_token
    passing = steps.concurrency * (front_end.request_ns + front_end.token_ns * steps.output)
    stay = engine * (1 + (passing / engine) ** SATURATION) ** (1 / SATURATION)
    waiting = stay - engine
    share = front_end.waiting_share
    return Latency(first_token + share * waiting, per_token + (1 - share) * waiting / steps.output)


def token_ns(steps: ServedSteps, of: TokenCoefficients) -> Floats:
    """Return the time per output token that the engine needs.

    It consists of a step, and of the prefills between two steps. While one request decodes its
    output, the prompt of each other request is processed once.
    """
    step = (
        steps.operators_ns
        - of.graph_share * steps.launch_ns
        + of.reduce_share * steps.reduce_ns
        + of.layer_ns * steps.layers
        + of.step_ns
        + of.request_ns * steps.concurrency
    )
    others = steps.concurrency - 1
    return step + of.prefill_share * others / steps.output * steps.prefill_ns


def first_token_ns(
    steps: ServedSteps, of: FirstTokenCoefficients, time_per_token_ns: Floats
) -> Floats:
    """Return the time to the first token that the engine needs.

    Of c requests in flight, some have no first token yet. Their number is c times the share of a
    request's stay that it waits for its first token (Little's law). That number depends on the time
    T to the first token, and T depends on the number: T = alone + crowd T / (T + decoding). This is
    a quadratic equation.
    """
    others = steps.concurrency - 1
    alone = of.start_ns + (of.own_prefills + of.bunched_share * others) * steps.prefill_ns
    decoding = steps.output * time_per_token_ns
    alone = alone + of.slot_share * decoding / steps.concurrency
    crowd = of.queued_share * others * steps.prefill_ns
    half = (alone + crowd - decoding) / 2
    return half + np.sqrt(half**2 + alone * decoding)
