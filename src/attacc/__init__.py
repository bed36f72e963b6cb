"""attacc: attention computed inside the memory, from a DRAM command to a user's latency.

The public face, ``import attacc as aa``. Names are loaded when they are first used.

- ``load_model``, ``load_system``, ``load_device``, ``presets``: what is modelled, by name, file or
  document.
- ``describe``: what a model consists of, layer by layer, what it stores and computes.
- ``Requests``: what is served.
- ``Pricer``, ``Chunk``, ``Batches``: what a step costs on a system, and what fits.
- ``compare``: systems with and without attention in memory, on one model and its requests.
- ``serve``: requests over time on one system or on several, and what their users felt.
- ``where``: whether attention should run on GPUs or on AttAccs, by kind of layers.
- ``Stack``, ``HostDevice``: one stack that attends; AttAccs as a host sees them.
- ``accuracy``, ``reproduce``, ``validate``: errors of attention by format; the papers' figures; the
  package's own claims.
- ``attach``: a model of transformers whose attention runs on AttAccs (with the torch extra).

Every answer has ``to_dict()`` (``to_dicts()`` where it is a list), the command line's JSON, and
``to_frame()``, a Polars table. Errors are those of ``attacc.errors``. Further public modules:

- ``attacc.attention``: several stacks, and queries that share reads of keys and values.
- ``attacc.comparison``: comparisons that a study file describes.
- ``attacc.service``: how engines are started, latencies that users accept, and what they felt.
- ``attacc.trace``: command traces and logs in text form.
- ``attacc.generation``: a language model writes text (with the torch extra).
- ``attacc.calibration``: the GPU models, fitted to measurements and checked against them.
- ``attacc.results``, ``attacc.errors``, ``attacc.units``, ``attacc.compiled``: what answers can do,
  what may be raised, quantities as text, and what is told of compilation.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what ``typing`` has: nothing is loaded before signals are watched
if TYPE_CHECKING:
    from typing import Final

    from attacc.hardware.dram import load_device
    from attacc.hardware.system import load_system
    from attacc.integrations.huggingface_attention import attach
    from attacc.models.huggingface import load_model
    from attacc.pim.host.device import HostDevice
    from attacc.pim.stack import Stack
    from attacc.serving.serve import serve
    from attacc.study.accuracy import accuracy
    from attacc.study.claims.registry import check_claims as validate
    from attacc.study.compare import compare
    from attacc.study.described import describe
    from attacc.study.papers.reproduce import reproduce_papers as reproduce
    from attacc.study.shipped import presets
    from attacc.study.where import where
    from attacc.system.batches import Batches, Chunk
    from attacc.system.pricer import Pricer
    from attacc.workload.requests import Requests

    __version__: str

__all__ = [
    "Batches",
    "Chunk",
    "HostDevice",
    "Pricer",
    "Requests",
    "Stack",
    "__version__",
    "accuracy",
    "attach",
    "compare",
    "describe",
    "load_device",
    "load_model",
    "load_system",
    "presets",
    "reproduce",
    "serve",
    "validate",
    "where",
]

_PLACES: Final = {
    "Batches": ("attacc.system.batches", "Batches"),
    "Chunk": ("attacc.system.batches", "Chunk"),
    "HostDevice": ("attacc.pim.host.device", "HostDevice"),
    "Pricer": ("attacc.system.pricer", "Pricer"),
    "Requests": ("attacc.workload.requests", "Requests"),
    "Stack": ("attacc.pim.stack", "Stack"),
    "accuracy": ("attacc.study.accuracy", "accuracy"),
    "attach": ("attacc.integrations.huggingface_attention", "attach"),
    "compare": ("attacc.study.compare", "compare"),
    "describe": ("attacc.study.described", "describe"),
    "load_device": ("attacc.hardware.dram", "load_device"),
    "load_model": ("attacc.models.huggingface", "load_model"),
    "load_system": ("attacc.hardware.system", "load_system"),
    "presets": ("attacc.study.shipped", "presets"),
    "reproduce": ("attacc.study.papers.reproduce", "reproduce_papers"),
    "serve": ("attacc.serving.serve", "serve"),
    "validate": ("attacc.study.claims.registry", "check_claims"),
    "where": ("attacc.study.where", "where"),
}
"""Where each public name lives: module and name."""


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("attacc")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, own = _PLACES[name]
    try:
        found = getattr(import_module(module), own)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "attacc":
            raise
        from attacc.errors import InputError

        raise InputError(
            f"attacc.{name} needs {error.name}, which is not installed",
            hint='pip install "attacc[torch]"',
        ) from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
