"""Tables of the command ``model``."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.report.values import count, facts, plain_table, scaled, titled
from attacc.study.described import LayerKind, ModelDescription


def model_renderable(model: ModelDescription) -> RenderableType:
    """Return what was understood of a model."""
    return Group(
        Text.assemble((model.name, "bold"), f", family {model.family}"),
        "",
        facts(*_facts(model)),
        titled("Layers by kind, and what one of them holds", _layers(model)),
        titled("FLOPs per byte of decode attention or state, one request", _work(model)),
        titled("Parameters by part", _parts(model)),
        *(Text(f"\n{note}", style="dim") for note in model.notes),
    )


def _facts(model: ModelDescription) -> Iterator[tuple[str, str, str]]:
    """Yield the figures of the whole model."""
    yield "parameters", scaled(model.parameters, ""), "of the language part"
    if model.active_parameters != model.parameters:
        yield "active", scaled(model.active_parameters, ""), "that one token meets"
    for one in model.weight_bytes:
        yield f"weights in {one.format}", scaled(one.bytes, "B"), "with their scales"
    remark = f"keys and values in {model.kv}"
    yield "per token", scaled(model.kv_bytes_per_token, "B"), f"of the context, {remark}"
    if model.window_bytes_per_request:
        yield "per request", scaled(model.window_bytes_per_request, "B"), "at most, of windows"
    if model.state_bytes_per_request:
        yield "per request", scaled(model.state_bytes_per_request, "B"), "of recurrent state"
    if model.max_context is not None:
        yield "context", count(model.max_context), "tokens that it was made for"
    if model.draft_parameters:
        yield "draft layers", scaled(model.draft_parameters, ""), "parameters, counted apart"
    if model.vision_parameters:
        yield "vision", scaled(model.vision_parameters, ""), "parameters, counted apart"


def _layers(model: ModelDescription) -> Table:
    """Return a row for each kind of layer."""
    table = plain_table()
    table.add_column("layers", justify="right")
    table.add_column("kind", style="bold")
    for name in ("parameters", "active", "per token", "per request", "state"):
        table.add_column(name, justify="right")
    table.add_column("--site")
    for layer in model.layers:
        table.add_row(
            str(layer.layers),
            layer.kind,
            scaled(layer.parameters, ""),
            scaled(layer.active_parameters, ""),
            _bytes(layer.bytes_per_token),
            _bytes(layer.window_bytes_per_request),
            _bytes(layer.state_bytes_per_request),
            layer.site_kind or "-",
        )
    return table


def _bytes(value: float) -> str:
    return scaled(value, "B") if value else "-"


def _work(model: ModelDescription) -> Table:
    """Return how much computing a byte is worth, by kind of layer and length of the context."""
    table = plain_table()
    table.add_column("kind", style="bold")
    working = [layer for layer in model.layers if _reads(layer)]
    for one in working[0].decoding if working else ():
        table.add_column(f"{one.context:,} tokens", justify="right")
    for layer in working:
        ratios = (one.flops_per_byte for one in layer.decoding)
        table.add_row(layer.kind, *("-" if ratio is None else f"{ratio:,.2f}" for ratio in ratios))
    return table


def _reads(layer: LayerKind) -> bool:
    """Return whether a layer reads anything of a request."""
    return any(one.flops_per_byte is not None for one in layer.decoding)


def _parts(model: ModelDescription) -> Table:
    """Return the parameters of each part."""
    table = plain_table()
    table.add_column("part", style="bold")
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right")
    for part, numbers in model.parameters_by_part.items():
        share = f"{numbers / model.parameters:.1%}"
        table.add_row(part.replace("_", " "), count(numbers), share)
    return table
