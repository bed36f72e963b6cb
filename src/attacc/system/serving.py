"""Time to first token and time per output token of serving systems, from the times of steps.

What a framework adds to the calibrated operators is a handful of coefficients per framework,
version and element type, fitted to runs at constant concurrency (docs/gpu-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attacc.documents import Presets, PresetSpec, Spec
from attacc.models.precision import ElementType
from attacc.system.calibrated import Floats
from attacc.units import Nanoseconds

Positive = Annotated[float, Field(gt=0)]


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

    graph_share: Annotated[float, Field(gt=0, le=1)]
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
        queued_share: prefills that it waits for, per other request in flight.
        queue_limit: other requests beyond which half of that is added.
        slot_share: part of a request's decoding that one of all requests waits for.
    """

    start_ns: Nanoseconds = Field(validation_alias="start")
    own_prefills: Positive
    queued_share: Positive
    queue_limit: Positive
    slot_share: Positive


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
    """

    version: str = ""
    dtype: ElementType
    cache: ElementType
    points: int = Field(ge=0)
    tpot_error: float = Field(ge=0)
    ttft_error: float = Field(ge=0)
    token: TokenCoefficients
    first: FirstTokenCoefficients


class ServingSpec(PresetSpec):
    """A serving framework.

    Attributes:
        kernels: framework whose measured operators stand for its own.
        series: the last one of an element type stands for versions that are not listed.
    """

    kernels: str
    series: tuple[ServingSeries, ...]


SERVING: Final = Presets("serving framework", ServingSpec, "attacc.system", "presets/serving")


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


def token_ns(steps: ServedSteps, of: TokenCoefficients) -> Floats:
    """Return the time per output token.

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
    """Return the time to the first token."""
    others = steps.concurrency - 1
    queued = of.queued_share * others * of.queue_limit / (others + of.queue_limit)
    slot = of.slot_share * steps.output * time_per_token_ns / steps.concurrency
    return of.start_ns + (of.own_prefills + queued) * steps.prefill_ns + slot
