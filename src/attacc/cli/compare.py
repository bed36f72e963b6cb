"""``attacc compare``: systems with and without AttAcc, on one model and one workload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from attacc.cli.options import (
    Settings,
    changes,
    names,
    number,
    pairs,
    probabilities,
    size,
)
from attacc.cli.options import seed as parse_seed
from attacc.cli.output import print_answer, progress_bar
from attacc.errors import InputError

MAX: Final = "max"
"""Value of ``--batch`` that takes the largest batch."""


def compare(
    study: Annotated[
        Path | None,
        typer.Argument(help="Study file (TOML); options given beside it take its place."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model preset, TOML file, or Hugging Face config.json."),
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option(parser=size("--prompt"), metavar="N", help="Prompt tokens of every request."),
    ] = None,
    output: Annotated[
        int | None,
        typer.Option(parser=size("--output"), metavar="N", help="Output tokens of every request."),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(help="File of requests for the lengths (CSV, JSON or Parquet)."),
    ] = None,
    workload: Annotated[
        str | None, typer.Option(help="Workload preset, as in azure-conv-2023.")
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            help="System preset or file; repeat it. Decode is compared with the first; whole "
            "requests of AttAccs with the same GPUs alone."
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            help='Requests in flight, or "max": the best batch of whole requests, and as many as '
            "fit in decode alone."
        ),
    ] = None,
    slo_ms: Annotated[
        float | None,
        typer.Option(
            parser=number("--slo-ms"),
            metavar="MS",
            help="Longest mean time per output token, in milliseconds.",
        ),
    ] = None,
    slo_tpot_ms: Annotated[
        float | None,
        typer.Option(
            parser=number("--slo-tpot-ms"), metavar="MS", help="Another name of --slo-ms."
        ),
    ] = None,
    slo_ttft_ms: Annotated[
        float | None,
        typer.Option(
            parser=number("--slo-ttft-ms"),
            metavar="MS",
            help="Longest time to the first token without queueing, in milliseconds.",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="tp=N,replicas=N",
            help="Layout of whole requests over the GPUs; what is not named (ep, dp) is searched. "
            "By default the layout that serves most requests.",
        ),
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(
            help="How the GPUs prefill in whole requests: mixed with decode (the default), serial, "
            "or disaggregated."
        ),
    ] = None,
    prefill_gpus: Annotated[
        int | None,
        typer.Option(
            parser=size("--prefill-gpus"),
            metavar="N",
            help="GPUs that prefill, with --prefill disaggregated.",
        ),
    ] = None,
    token_budget: Annotated[
        int | None,
        typer.Option(
            parser=size("--token-budget"),
            metavar="N",
            help="Tokens of a step at most, with --prefill mixed.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine that prices whole requests: vllm or trtllm; by default the better one."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Element type of the weights.")] = None,
    activations: Annotated[str | None, typer.Option(help="Element type of activations.")] = None,
    kv: Annotated[str | None, typer.Option(help="Element type of the KV cache.")] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=WHERE",
            help="Where layers of a kind run their mixers, as in window=gpu: gpu, attacc, or auto; "
            "repeat it. `attacc model` tells the kinds.",
        ),
    ] = None,
    draft_tokens: Annotated[
        int | None,
        typer.Option(
            parser=size("--draft-tokens", least=0),
            metavar="N",
            help="Drafts that every decode step verifies.",
        ),
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(
            metavar="A",
            help="Probability that a draft is accepted if those before it were, or one for each: "
            "0.8,0.7.",
        ),
    ] = None,
    shared_prefix: Annotated[
        int | None,
        typer.Option(
            parser=size("--shared-prefix", least=0),
            metavar="N",
            help="Tokens that all prompts begin with: stored and read once.",
        ),
    ] = None,
    gpu_model: Annotated[
        str | None,
        typer.Option(
            help="What prices the GPUs: calibrated (fitted to measured GPUs), the default, or "
            "published (comparable with the papers)."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(parser=parse_seed, metavar="N", help="Seed of a workload preset."),
    ] = None,
    decode_only: Annotated[
        bool,
        typer.Option(
            "--decode-only", help="Leave out whole requests, with the search of their layouts."
        ),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw whole requests to a figure: .svg, .png or .pdf."),
    ] = None,
    settings: Settings = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare systems on one model and workload.

    Without arguments: Llama 3.1 70B with 8k tokens in and 1k out on 8 H100, H200 and B200, with and
    without AttAccs. `attacc compare asplos2024` compares the platforms of the AttAcc papers.
    """
    from attacc.comparison import compare_study, load_study
    from attacc.report.charts.comparison import write_comparison_figure
    from attacc.report.compare import comparison_tables
    from attacc.report.figures import check_figure

    asked = load_study(
        study,
        model=model,
        prompt=prompt,
        output=output,
        trace=trace,
        synthetic=workload,
        seed=seed,
        systems=names(system, "--system") or None,
        batch=None if batch is None else _batch(batch),
        slo_ms=_one_target(slo_ms, slo_tpot_ms),
        slo_ttft_ms=slo_ttft_ms,
        layout=layout,
        prefill=prefill,
        prefill_gpus=prefill_gpus,
        token_budget=token_budget,
        engine=engine,
        weights=weights,
        activations=activations,
        kv=kv,
        gpu_model=gpu_model,
        sites=pairs(site, "--site") or None,
        draft_tokens=draft_tokens,
        acceptance=probabilities(acceptance),
        shared_prefix=shared_prefix,
        decode_only=decode_only or None,
    )
    if figure is not None:
        check_figure(figure)
    with progress_bar("comparing") as progress:
        comparison = compare_study(asked, progress, changes=changes(settings))
    if figure is not None:
        write_comparison_figure(comparison, figure)
    print_answer(comparison, comparison_tables, as_json=json)


def _batch(text: str) -> int | str:
    return MAX if text == MAX else size("--batch", word=MAX)(text)


def _one_target(slo_ms: float | None, slo_tpot_ms: float | None) -> float | None:
    """Return the target for a token, which has two names."""
    if slo_ms is not None and slo_tpot_ms is not None:
        raise InputError(
            "the target for a token is given twice",
            where="--slo-tpot-ms",
            hint="leave out --slo-ms, which is the same option",
        )
    return slo_tpot_ms if slo_ms is None else slo_ms
