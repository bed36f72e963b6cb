"""``attacc attention``: decode attention on one stack, or on several that share the heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from attacc.cli import options
from attacc.cli.options import (
    DEFAULT_DEVICE,
    Device,
    DType,
    HeadDim,
    Json,
    PlacementName,
    PowerLimit,
    ScheduleName,
    Settings,
    changes,
)
from attacc.cli.output import print_answer
from attacc.errors import InputError

if TYPE_CHECKING:
    from attacc.attention import AttentionOfStacks

ALL: Final = "all"
"""Value of ``--queries-per-read`` that compares every choice."""


def attention(
    heads: Annotated[
        int | None,
        typer.Option(parser=options.size("--heads"), metavar="N", help="Query heads, in all."),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--length"), metavar="N", help="Keys (and values) of every head."
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="N,NxM,...",
            help="Keys of each key/value head in place of --length, as in 512,1024x8.",
        ),
    ] = None,
    lengths_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The same from a file, one length a line."),
    ] = None,
    kv_heads: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--kv-heads"),
            metavar="N",
            help="Heads of keys and values; as many as query heads by default.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--window"),
            metavar="N",
            help="Keys that a token sees at most; only so many are stored. All by default.",
        ),
    ] = None,
    query_tokens: Annotated[
        int,
        typer.Option(
            parser=options.size("--query-tokens"),
            metavar="N",
            help="New tokens of a step, each of which sees the keys up to its own.",
        ),
    ] = 1,
    draft_tokens: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--draft-tokens", least=0),
            metavar="N",
            help="Drafts that the step verifies beside one new token.",
        ),
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(
            metavar="A",
            help="Probability that a draft is accepted if those before it were, or one for each.",
        ),
    ] = None,
    queries_per_kv_head: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--queries-per-kv-head"),
            metavar="N",
            help="Query heads that share each head of keys and values; 1 by default.",
        ),
    ] = None,
    queries_per_read: Annotated[
        str,
        typer.Option(
            metavar="N|all",
            help="Of these, and of all new tokens, how many queries each read of keys and values "
            "serves, at most; all compares the choices.",
        ),
    ] = "1",
    head_dim: HeadDim = 128,
    value_dim: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--value-dim"),
            metavar="N",
            help="Elements of a value; as many as a key has by default.",
        ),
    ] = None,
    key_slices: Annotated[
        int | None,
        typer.Option(
            parser=options.size("--key-slices"),
            metavar="N",
            help="Slices of elements into which every key is cut; as few as long keys need by "
            "default.",
        ),
    ] = None,
    one_copy: Annotated[
        bool,
        typer.Option(
            "--one-copy",
            help="The first elements of a key serve as its value, so that values are not stored.",
        ),
    ] = False,
    dtype: DType = "fp16",
    placement: PlacementName = "bank",
    device: Device = DEFAULT_DEVICE,
    stacks: Annotated[
        int,
        typer.Option(
            parser=options.size("--stacks", most=options.MAX_STACKS),
            metavar="N",
            help="Stacks to which the heads are dealt out.",
        ),
    ] = 1,
    power_limit: PowerLimit = True,
    power_budget: Annotated[
        float | None,
        typer.Option(
            parser=options.number("--power-budget"),
            metavar="W",
            help="Watts of a stack, from which the cadence of the multiplies is worked out in "
            "place of the device's own.",
        ),
    ] = None,
    power_window: Annotated[
        float,
        typer.Option(
            parser=options.number("--power-window"),
            metavar="US",
            help="Microseconds over which power is averaged.",
        ),
    ] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            parser=options.number("--temperature"),
            metavar="C",
            help="Of the stack, in degrees Celsius: a hot one refreshes more often.",
        ),
    ] = None,
    schedule: ScheduleName = "interleaved",
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Tell time, bandwidth, energy and power of decode attention on one stack, or on several.

    One new query for each query head, or as many as there are new tokens. --heads and --length are
    needed, or --lengths.
    """
    import attacc
    from attacc.attention import DraftedAttention, Speculation, attend_over, compare_reads
    from attacc.report.attention import (
        attention_renderable,
        drafted_renderable,
        reads_renderable,
    )

    asked, sharing = _heads(heads, length, lengths, lengths_file, kv_heads, queries_per_kv_head)
    together = _queries_per_read(queries_per_read)
    drafts = Speculation.of(draft_tokens, options.probabilities(acceptance))
    if drafts.draft_tokens and query_tokens != 1:
        raise InputError(
            "--query-tokens and --draft-tokens are given at once",
            where="--query-tokens",
            hint="N drafts are N + 1 query tokens: give one of them",
        )
    tokens = max(query_tokens, drafts.queries)
    stack = attacc.Stack(
        attacc.load_device(device, **changes(settings)),
        placement,
        power_limited=power_limit,
        schedule=schedule,
        power_budget_w=power_budget,
        temperature_c=temperature,
    )

    def attend(queries_per_read: int) -> AttentionOfStacks:
        return attend_over(
            stack,
            asked,
            stacks=stacks,
            head_dim=head_dim,
            element=dtype,
            value_dim=value_dim,
            key_slices=key_slices,
            one_copy=one_copy,
            window=window,
            query_tokens=tokens,
            queries_per_kv_head=sharing,
            queries_per_read=queries_per_read,
            window_ns=1e3 * power_window,
        )

    if together is None:
        print_answer(compare_reads(attend, sharing * tokens), reads_renderable, as_json=json)
    elif drafts.draft_tokens:
        found = DraftedAttention(attend(together), drafts)
        print_answer(found, drafted_renderable, as_json=json)
    else:
        print_answer(attend(together), attention_renderable, as_json=json)


def _heads(
    heads: int | None,
    length: int | None,
    lengths: str | None,
    lengths_file: Path | None,
    kv_heads: int | None,
    queries_per_kv_head: int | None,
) -> tuple[list[int], int]:
    """Return the keys of each key/value head, and the number of query heads that share a head.

    Raises:
        InputError: something is missing, or the options contradict each other.
    """
    from attacc.attention import MAX_HEADS, parse_lengths, read_lengths

    given = {"--length": length, "--lengths": lengths, "--lengths-file": lengths_file}
    named = [option for option, value in given.items() if value is not None]
    if len(named) != 1:
        raise InputError(
            f"{' and '.join(named)} are given at once" if named else "no length is given",
            where="--length",
            hint="give --length N with --heads N, or --lengths N,NxM,..., or --lengths-file FILE",
        )
    listed = None
    if lengths is not None:
        listed = parse_lengths(lengths)
    elif lengths_file is not None:
        listed = read_lengths(lengths_file)
    stored = kv_heads if listed is None else len(listed)
    if kv_heads is not None and kv_heads != stored:
        raise InputError(
            f"{kv_heads} heads of keys and values, but {stored} lengths",
            where="--kv-heads",
            hint="give a length for each of them, or leave --kv-heads out",
        )
    if stored is None:
        if heads is None:
            raise InputError(
                "no number of heads is given", where="--heads", hint="give --heads or --kv-heads"
            )
        stored = _share(heads, "--queries-per-kv-head", queries_per_kv_head or 1)
    queries = queries_per_kv_head
    if queries is None:
        queries = 1 if heads is None else _share(heads, "--kv-heads or lengths", stored)
    if heads is not None and heads != stored * queries:
        raise InputError(
            f"{heads} query heads, but {stored} heads of keys and values that {queries} query "
            "heads share each",
            where="--heads",
            hint="leave one of --heads, --kv-heads and --queries-per-kv-head out",
        )
    if listed is not None:
        return listed, queries
    if length is None or stored > MAX_HEADS:
        raise InputError(
            f"{stored} heads of keys and values are more than {MAX_HEADS}",
            where="--heads",
            hint="take several stacks apart",
        )
    return [length] * stored, queries


def _share(heads: int, option: str, number: int) -> int:
    if heads % number:
        raise InputError(
            f"{heads} query heads do not divide by the {number} of {option}",
            where="--heads",
            hint="every head of keys and values serves equally many query heads",
        )
    return heads // number


def _queries_per_read(text: str) -> int | None:
    if text == ALL:
        return None
    return options.size("--queries-per-read", word=ALL)(text)
