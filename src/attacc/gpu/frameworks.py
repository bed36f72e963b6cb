"""Time to first token and time per output token of serving systems, from the times of steps.

What a framework adds to the calibrated operators is a handful of coefficients per framework,
version and element type, fitted to runs at constant concurrency (docs/model/gpu-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacc.documents import Presets, PresetSpec, Spec
from attacc.gpu.calibrated.coefficients import Error, Points, Positive
from attacc.gpu.calibrated.kernels import Floats
from attacc.models.precision import ElementType
from attacc.units import Nanoseconds


class TokenCoefficients(Spec):
    """What the time per output token adds to the operators.

    Attributes:
        graph_share: part of the kernels' launches that graphs of kernels hide.
        layer_ns: of every layer, besides the operators.
        step_ns: of every step.
        request_ns: of every request in a step.
        reduce_share: time of an all-reduce, of NCCL's (frameworks have their own).
        prefill_share: part of the prefills of other requests that a decoding request waits for.
    """

    graph_share: Annotated[float, Field(ge=1e-6, le=1)]
    layer_ns: Nanoseconds = Field(validation_alias="layer")
    step_ns: Nanoseconds = Field(validation_alias="step")
    request_ns: Nanoseconds = Field(validation_alias="request")
    reduce_share: Positive
    prefill_share: Positive


class FirstTokenCoefficients(Spec):
    """What the time to the first token consists of.

    Attributes:
        start_ns: from the arrival of a request to its first step, and back.
        own_prefills: prefills of its own length that a request takes.
        bunched_share: prefills that it waits for, per other request in flight: of requests that
            arrive together.
        queued_share: prefills that it waits for, per other request without its first token.
        slot_share: part of a request's decoding that one of all requests waits for.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    own_prefills: Positive
    bunched_share: Positive
    queued_share: Positive
    slot_share: Positive


class FrontEndCoefficients(Spec):
    """What the processes around the engine take: HTTP, tokenising, streaming.

    Attributes:
        request_ns: of the front end, for every request.
        token_ns: of the front end, for every output token.
        waiting_share: part of what a request waits for the front end before its first token; the
            rest is spread over the tokens.
    """

    request_ns: Nanoseconds = Field(validation_alias="request")
    token_ns: Nanoseconds = Field(validation_alias="token")
    waiting_share: Annotated[float, Field(gt=0, lt=1)]


class ServingSeries(Spec):
    """One framework, version and element type.

    Attributes:
        version: of the framework; empty where it was not recorded.
        dtype: element type of the weights.
        cache: element type of the key/value cache.
        points: runs that it was fitted to.
        tpot_error: mean absolute relative error of runs held back, of the time per output token.
        ttft_error: the same of the time to the first token.
        token: of the time per output token.
        first: of the time to the first token.
        front_end: of both, where requests come faster than the front end passes them on.
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
        framework: as tables of runs call it.
        kernels: framework whose measured operators stand for its own.
        series: the last one of an element type stands for versions that are not listed.
    """

    framework: str
    kernels: str
    series: tuple[ServingSeries, ...]


SERVING: Final = Presets("serving framework", ServingSpec, "attacc.gpu", "presets/serving")


def serving_series(
    spec: ServingSpec, version: str | None, dtype: ElementType
) -> ServingSeries | None:
    """Return the series of an element type; None if there is none.

    Args:
        spec: the framework.
        version: of the framework; where it has no series, or None, the one of the most runs.
        dtype: element type of the weights.
    """
    same = [series for series in spec.series if series.dtype is dtype]
    exact = [series for series in same if series.version == version]
    return (exact or same or [None])[-1]


@dataclass(frozen=True, slots=True)
class ServedSteps:
    """Steps of runs, arrays of one length; nanoseconds unless said otherwise.

    Attributes:
        concurrency: requests in flight.
        output: tokens of every output.
        operators_ns: of a decode step, all-reduces left out.
        launch_ns: part of these that is starting kernels.
        reduce_ns: all-reduces of a decode step.
        layers: of the model.
        prefill_ns: of one prompt.
    """

    concurrency: Floats
    output: Floats
    operators_ns: Floats
    launch_ns: Floats
    reduce_ns: Floats
    layers: Floats
    prefill_ns: Floats

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> ServedSteps:
        """Return some of them."""
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
    """Times of runs in nanoseconds, arrays of one length.

    Attributes:
        first_ns: to the first token.
        per_token_ns: per output token after it.
    """

    first_ns: Floats
    per_token_ns: Floats


SATURATION: Final = 4.0
"""How sharply a run changes from being bound by the engine to being bound by the front end: with
requests of random phase, both are busy together for a while."""


def latency(
    steps: ServedSteps,
    token: TokenCoefficients,
    first: FirstTokenCoefficients,
    front_end: FrontEndCoefficients,
) -> Latency:
    """Return times to the first and per output token.

    All requests and tokens pass the front end one after another. With c requests in flight, none
    stays for less than c times what the front end takes for one (Little's law): what the engine
    does not use of that time is waiting.
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

    A step, and the prefills that come between two steps: while one request decodes its output,
    each of the others has its prompt processed once.
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

    Of c requests in flight, those without their first token are c times the part of their stay
    that they wait for it (Little's law). Their number depends on the time, and the time on their
    number: T = alone + crowd T / (T + decoding) is a square equation.
    """
    others = steps.concurrency - 1
    alone = of.start_ns + (of.own_prefills + of.bunched_share * others) * steps.prefill_ns
    decoding = steps.output * time_per_token_ns
    alone = alone + of.slot_share * decoding / steps.concurrency
    crowd = of.queued_share * others * steps.prefill_ns
    half = (alone + crowd - decoding) / 2
    return half + np.sqrt(half**2 + alone * decoding)
