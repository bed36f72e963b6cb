"""One step of a dense model on GPUs, from the calibrated operators of one library.

The operators alone, as `attacc.gpu.calibrated.costs` prices them: what a serving framework
makes of them is in `attacc.gpu.frameworks`.
"""

from __future__ import annotations

from dataclasses import dataclass

from attacc.errors import InputError
from attacc.gpu.calibrated.costs import Kernels, Priced, as_run
from attacc.models.architecture import ModelSpec
from attacc.models.operators import AllReduce, Attention, MatMul, Operator, Pointwise, Step
from attacc.models.steps import decode_step, prefill_step


@dataclass(frozen=True, slots=True)
class StepTime:
    """Where the time of a step goes, in nanoseconds.

    Attributes:
        products_ns: products with weights.
        attention_ns: attention.
        pointwise_ns: norms, activations and the embedding.
        reduce_ns: all-reduces.
        launch_ns: part of the products and attention that is starting kernels.
        layers: layers of the model.
    """

    products_ns: float
    attention_ns: float
    pointwise_ns: float
    reduce_ns: float
    launch_ns: float
    layers: int


def decode_time(
    model: ModelSpec, kernels: Kernels, *, batch: int, kv_length: int, tensor_parallel: int
) -> StepTime:
    """Return the time of decoding one token of every request.

    Args:
        model: a dense model, with the element types that it runs in.
        kernels: the operators.
        batch: requests.
        kv_length: keys that every request attends to.
        tensor_parallel: GPUs that share every layer.

    Raises:
        InputError: the model is a mixture of experts, cannot be split so, or one of its operators
            was not measured.
    """
    step = decode_step(model, batch=batch, kv_length=kv_length, tensor_parallel=tensor_parallel)
    return _time(model, step, kernels)


def prefill_time(
    model: ModelSpec, kernels: Kernels, *, prompts: int, prompt_length: int, tensor_parallel: int
) -> StepTime:
    """Return the time of processing whole prompts in one step.

    Args:
        model: a dense model, with the element types that it runs in.
        kernels: the operators.
        prompts: how many.
        prompt_length: tokens of each.
        tensor_parallel: GPUs that share every layer.

    Raises:
        InputError: as in `decode_time`.
    """
    step = prefill_step(
        model, batch=prompts, prompt_length=prompt_length, tensor_parallel=tensor_parallel
    )
    return _time(model, step, kernels)


def _time(model: ModelSpec, step: Step, kernels: Kernels) -> StepTime:
    if model.experts is not None:
        raise InputError(
            "products of experts were not measured", where=model.name, hint="use a dense model"
        )
    step = as_run(step)
    operators = [(op, step.layers) for op in step.layer] + [(op, 1) for op in step.outside]
    priced = [(op, runs, _price(op, kernels, step.tensor_parallel)) for op, runs in operators]

    def total(kind: type[Operator]) -> float:
        return sum(runs * price.time_ns for op, runs, price in priced if isinstance(op, kind))

    return StepTime(
        products_ns=total(MatMul),
        attention_ns=total(Attention),
        pointwise_ns=total(Pointwise),
        reduce_ns=total(AllReduce),
        launch_ns=sum(runs * price.launch_ns for _, runs, price in priced),
        layers=step.layers,
    )


def _price(op: Operator, kernels: Kernels, gpus: int) -> Priced:
    match op:
        case MatMul():
            return kernels.product(op)
        case Attention():
            return kernels.attention(op)
        case Pointwise():
            return kernels.pointwise(op)
        case AllReduce():
            return kernels.all_reduce(op, gpus)
