"""``attacc serve``: requests over time on a system, and what their users would feel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attacc.cli.options import Json, Settings, changes, names, number, size
from attacc.cli.options import seed as parse_seed
from attacc.cli.output import print_answer, progress_bar

if TYPE_CHECKING:
    from attacc.service import FoundRate


def serve(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="REQUESTS",
            help="File of requests with arrivals: a trace, CSV, JSON or Parquet.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Model preset, TOML file, or Hugging Face config.json.")
    ] = "llama-3.1-70b",
    system: Annotated[
        list[str] | None,
        typer.Option(
            help="System preset or file; repeat it for systems that serve together, or whose rates "
            "are found one by one. 8xh100 by default."
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            parser=size("--replicas"), metavar="N", help="Copies of each system, behind a router."
        ),
    ] = 1,
    router: Annotated[
        str,
        typer.Option(
            help="What sends a request to one of several systems: round-robin, least-loaded or "
            "prefix."
        ),
    ] = "round-robin",
    policy: Annotated[
        str,
        typer.Option(
            help="Batching policy: vllm-v1, vllm-v0, sarathi, sglang, static or disaggregated."
        ),
    ] = "vllm-v1",
    prefill_gpus: Annotated[
        int | None,
        typer.Option(
            parser=size("--prefill-gpus"),
            metavar="N",
            help="GPUs of each system that prefill, with --policy disaggregated.",
        ),
    ] = None,
    engine_version: Annotated[
        str | None,
        typer.Option(metavar="V", help="Version of the engine whose rules are played, as 0.16."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="tp=N", help="Layout over the GPUs; by default tp over all of them."),
    ] = None,
    prefill_layout: Annotated[
        str | None,
        typer.Option(
            metavar="tp=N", help="Layout over the GPUs that only prefill; by default tp over all."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            parser=number("--rate"),
            metavar="X",
            help="Mean requests in a second, in place of the file's.",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(parser=number("--scale"), metavar="X", help="Divide the arrival times."),
    ] = None,
    closed_loop: Annotated[
        int | None,
        typer.Option(
            parser=size("--closed-loop"),
            metavar="N",
            help="N clients that each wait for an answer, in place of arrivals.",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            parser=size("--requests"),
            metavar="N",
            help="Serve the first N requests of the file.",
        ),
    ] = None,
    zero_output: Annotated[
        str,
        typer.Option(help="What becomes of requests without output: error, skip, or one token."),
    ] = "error",
    max_num_seqs: Annotated[
        int | None,
        typer.Option(parser=size("--max-num-seqs"), metavar="N", help="Most running requests."),
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None,
        typer.Option(
            parser=size("--max-num-batched-tokens"), metavar="N", help="Most tokens of a step."
        ),
    ] = None,
    block_tokens: Annotated[
        int,
        typer.Option(parser=size("--block-tokens"), metavar="N", help="Tokens of a memory block."),
    ] = 16,
    kv_blocks: Annotated[
        int | None,
        typer.Option(parser=size("--kv-blocks"), metavar="N", help="Blocks of memory."),
    ] = None,
    kv_memory_fraction: Annotated[
        float,
        typer.Option(
            parser=number("--kv-memory-fraction"),
            metavar="F",
            help="Share of each GPU's memory for the engine (vLLM's gpu_memory_utilization).",
        ),
    ] = 0.9,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            parser=size("--max-model-len"),
            metavar="N",
            help="Most tokens of a request; the model's context by default.",
        ),
    ] = None,
    slo_ttft_ms: Annotated[
        float | None,
        typer.Option(
            parser=number("--slo-ttft-ms"), metavar="MS", help="Longest time to the first token."
        ),
    ] = None,
    slo_tpot_ms: Annotated[
        float | None,
        typer.Option(
            parser=number("--slo-tpot-ms"), metavar="MS", help="Longest mean time of a token."
        ),
    ] = None,
    find_rate: Annotated[
        bool,
        typer.Option(
            "--find-rate",
            help="Find the highest rate at which most requests keep the targets.",
        ),
    ] = False,
    share: Annotated[
        float,
        typer.Option(
            parser=number("--share"),
            metavar="F",
            help="Share of the requests that have to keep the targets, with --find-rate.",
        ),
    ] = 0.9,
    gpu_model: Annotated[
        str, typer.Option(help="What prices the GPUs: calibrated or published.")
    ] = "calibrated",
    exact: Annotated[bool, typer.Option("--exact", help="Price every step exactly.")] = False,
    seed: Annotated[
        int, typer.Option(parser=parse_seed, metavar="N", help="Seed of the sample of exact steps.")
    ] = 0,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Play requests over time on a system, and tell the latencies that users would feel."""
    import attacc
    from attacc.report.serve import rates_renderable, service_renderable
    from attacc.results import Listing
    from attacc.service import EngineOptions, Fleet, Server, Targets, policy_of
    from attacc.service import find_rate as rate_of

    given = attacc.Requests.from_trace(source, zero_output=zero_output)
    if requests is not None:
        given = given.first(requests)
    if rate is not None:
        given = given.at_rate(rate)
    if scale is not None:
        given = given.scaled(scale)
    options = EngineOptions(
        policy=policy_of(policy),
        engine_version=engine_version,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        block_tokens=block_tokens,
        kv_blocks=kv_blocks,
        kv_memory_fraction=kv_memory_fraction,
        max_model_len=max_model_len,
        prefill_gpus=prefill_gpus,
    )
    targets = Targets(slo_ttft_ms, slo_tpot_ms)
    systems = names(system, "--system") or ["8xh100"]
    servers = [
        Server(
            model,
            name,
            options=options,
            layout=layout,
            prefill_layout=prefill_layout,
            gpu_model=gpu_model,
            changes=changes(settings),
            exact=exact,
            seed=seed,
        )
        for name in systems
    ]
    if find_rate:
        with progress_bar("serving") as progress:
            rates: list[FoundRate] = []
            for name, server in zip(systems, servers, strict=True):
                progress(name, len(servers))
                fleet = Fleet([server], replicas=replicas, router=router)
                rates.append(rate_of(fleet, given, targets, share=share))
        print_answer(Listing(rates), rates_renderable, as_json=json)
        return
    fleet = Fleet(servers, replicas=replicas, router=router)
    with progress_bar("serving") as progress:
        progress(", ".join(systems), 1)
        found = fleet.serve(given, targets, concurrency=closed_loop)
    print_answer(found, service_renderable, as_json=json)
