"""``attacc serve``: requests over time on a system, and what their users would feel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from attacc.cli.entry import SIGNALS
from attacc.cli.options import Json, Settings, changes, names, number, size
from attacc.cli.options import seed as parse_seed
from attacc.cli.output import print_answer, progress_bar
from attacc.errors import InputError

if TYPE_CHECKING:
    from attacc import Requests
    from attacc.service import FoundRate

ONE_RUN: Final = "serve the requests at one rate, given by --rate"
"""The way out where a file of one run is asked for."""
ONE_SOURCE: Final = "name a file, or draw requests: --synthetic 1000 --prompt 1024 --output 256"


def _refuse(reason: str, given: Mapping[str, object], hint: str = ONE_SOURCE) -> None:
    """Refuse options that another one rules out.

    Args:
        reason: why, in words.
        given: the options and their values; None where one is not given.
        hint: the way out.

    Raises:
        InputError: one is given.
    """
    for option, value in given.items():
        if value is not None:
            raise InputError(reason, where=option, hint=hint)


def _read(
    source: Path | None, requests: int | None, rate: float | None, zero_output: str
) -> Requests:
    """Return the requests of a file.

    Raises:
        InputError: no file is given, it cannot be read, or an option is out of range.
    """
    import attacc

    if source is None:
        raise InputError("no requests are given", where="REQUESTS", hint=ONE_SOURCE)
    given = attacc.Requests.from_trace(source, zero_output=zero_output)
    if requests is not None:
        given = given.first(requests)
    return given if rate is None else given.at_rate(rate)


def _drawn(
    count: int,
    prompt: str | None,
    output: str | None,
    lengths_from: str | None,
    zero_output: str,
    rate: float | None,
    burstiness: float | None,
    seed: int,
) -> Requests:
    """Return the requests that ``--synthetic`` draws.

    Raises:
        InputError: their lengths are not given, or given twice, or an option is out of range.
    """
    from attacc.service import (
        Independent,
        Resampled,
        lengths_of,
        lengths_source,
        synthetic_load,
    )

    if burstiness is not None and rate is None:
        raise InputError(
            "requests without a rate have no gaps", where="--burstiness", hint="give --rate"
        )
    if lengths_from is not None:
        _refuse("--lengths-from gives the lengths", {"--prompt": prompt, "--output": output})
        lengths = Resampled(lengths_source(lengths_from, zero_output=zero_output))
    elif prompt is None or output is None:
        raise InputError(
            "the lengths of the requests are not given",
            where="--output" if output is None else "--prompt",
            hint=ONE_SOURCE,
        )
    else:
        lengths = Independent(
            lengths_of(prompt, where="--prompt"), lengths_of(output, where="--output")
        )
    return synthetic_load(
        count,
        lengths,
        requests_per_s=rate,
        burstiness=1.0 if burstiness is None else burstiness,
        seed=seed,
    )


def serve(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REQUESTS]",
            help="File of requests with arrivals: a trace, CSV, JSON or Parquet; or --synthetic.",
        ),
    ] = None,
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
    synthetic: Annotated[
        int | None,
        typer.Option(
            parser=size("--synthetic"),
            metavar="N",
            help="Draw N requests, with --prompt and --output or --lengths-from, in place of a "
            "file.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTHS",
            help="Prompt tokens of drawn requests: 1024; 512..2048, all equally likely; or "
            "1024~0.8, lognormal with a standard deviation of 0.8 times the mean.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="LENGTHS", help="Output tokens of drawn requests, likewise."),
    ] = None,
    lengths_from: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Draw prompt and output together from the requests of a file, or of a workload "
            "preset.",
        ),
    ] = None,
    burstiness: Annotated[
        float | None,
        typer.Option(
            parser=number("--burstiness"),
            metavar="B",
            help="Shape of the gaps between drawn arrivals: 1 (Poisson) by default; less is "
            "burstier.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            parser=number("--rate"),
            metavar="X",
            help="Mean requests in a second: of drawn requests, or in place of the file's.",
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
            help="Most tokens of a request; longer prompts are rejected. No limit by default.",
        ),
    ] = None,
    residence: Annotated[
        str,
        typer.Option(
            help="Where keys go in the channels of AttAccs: resident, head-first, request-channel "
            "or token-parallel."
        ),
    ] = "resident",
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
        int,
        typer.Option(
            parser=parse_seed,
            metavar="N",
            help="Seed of drawn requests, and of the sample of exact steps.",
        ),
    ] = 0,
    write_requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a row for each request to a .parquet or .csv file."
        ),
    ] = None,
    write_steps: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a row for each step to a .parquet or .csv file."),
    ] = None,
    follow: Annotated[
        int | None,
        typer.Option(
            parser=size("--follow", least=0),
            metavar="N",
            help="Tell what happens to request N, counted from 0, from its arrival to its end.",
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a timeline of requests, steps and devices, which ui.perfetto.dev opens.",
        ),
    ] = None,
    timeline_requests: Annotated[
        str | None,
        typer.Option(
            metavar="N|A..B",
            help="Requests of the timeline: the first N, or A to B; 32 by default.",
        ),
    ] = None,
    timeline_step: Annotated[
        int | None,
        typer.Option(
            parser=size("--timeline-step", least=0),
            metavar="N",
            help="Step that the timeline draws layer by layer.",
        ),
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Play requests over time on a system, and tell the latencies that users would feel."""
    from attacc.report.serve import rates_renderable, service_renderable
    from attacc.results import Listing
    from attacc.service import (
        EngineOptions,
        Fleet,
        Server,
        Targets,
        TimelineWindow,
        check_outputs,
        policy_of,
        residence_of,
    )
    from attacc.service import find_rate as rate_of

    tables = {"--write-requests": write_requests, "--write-steps": write_steps}
    check_outputs(tables, {"--timeline": timeline}, [] if source is None else [source])
    if find_rate:
        one = {**tables, "--follow": follow, "--timeline": timeline}
        _refuse("--find-rate plays many runs", one, ONE_RUN)
    draw = None
    if timeline is None:
        only = {"--timeline-requests": timeline_requests, "--timeline-step": timeline_step}
        _refuse("no timeline is written", only, "give --timeline FILE")
    else:
        draw = TimelineWindow.parse(timeline_requests, timeline_step, where="--timeline-requests")
    if closed_loop is not None and rate is not None:
        raise InputError(
            "clients that wait for answers have no rate",
            where="--rate",
            hint="leave out --rate or --closed-loop",
        )
    lengths = {"--prompt": prompt, "--output": output, "--lengths-from": lengths_from}
    if synthetic is None:
        others = {**lengths, "--burstiness": burstiness}
        _refuse("--synthetic N draws requests, and is not given", others)
        given = _read(source, requests, rate, zero_output)
    else:
        _refuse("--synthetic draws the requests", {"REQUESTS": source, "--requests": requests})
        if find_rate and rate is None:
            raise InputError(
                "drawn requests have no rate to begin with",
                where="--find-rate",
                hint="give any --rate; the gaps are made shorter or longer",
            )
        given = _drawn(synthetic, prompt, output, lengths_from, zero_output, rate, burstiness, seed)
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
        residence=residence_of(residence),
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
        found = fleet.serve(
            given,
            targets,
            concurrency=closed_loop,
            interrupted=SIGNALS.keep,
            follow=follow,
            draw=draw,
        )
    if write_requests is not None:
        found.write_requests(write_requests)
    if write_steps is not None:
        found.write_steps(write_steps)
    if timeline is not None and found.timeline is not None:
        found.timeline.write(timeline)
    print_answer(found, service_renderable, as_json=json)
