"""Tables of the command ``presets``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.report.values import plain_table
from attacc.study.shipped import Preset, PresetKind


def kinds_renderable(kinds: Sequence[PresetKind]) -> RenderableType:
    """Return a table of all kinds."""
    table = plain_table()
    table.add_column("kind", style="bold")
    table.add_column("it describes", max_width=24)
    table.add_column("", justify="right")
    table.add_column("names")
    for kind in kinds:
        names = ", ".join(preset.name for preset in kind.presets)
        table.add_row(kind.kind, kind.description, str(len(kind.presets)), names)
    return Group(
        Text("Presets shipped with attacc\n", style="bold"),
        table,
        "",
        "attacc presets KIND tells more of one kind, attacc presets KIND NAME shows one preset",
    )


def presets_renderable(kind: PresetKind) -> RenderableType:
    """Return a table of the presets of one kind."""
    table = plain_table()
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("description")
    for preset in kind.presets:
        table.add_row(preset.name, Text(preset.description))
    return Group(
        Text.assemble((f"Presets of kind {kind.kind}", "bold"), f": {kind.description}\n"),
        table,
        "",
        f"attacc presets {kind.kind} NAME shows one with the source of every number",
    )


def preset_renderable(preset: Preset) -> RenderableType:
    """Return every field of a preset with the number of its source, and a list of the sources."""
    sources = list(dict.fromkeys(f.source for f in preset.fields if f.source is not None))
    table = plain_table()
    table.add_column("field", style="bold", no_wrap=True)
    table.add_column("value")
    table.add_column("source", justify="right", style="dim")
    for field in preset.fields:
        if field.is_default:
            source = "default"
        else:
            source = "" if field.source is None else f"[{sources.index(field.source) + 1}]"
        table.add_row(Text(field.field), _value(field.value), Text(source))
    listed = Table.grid(padding=(0, 1))
    listed.add_column(justify="right", style="dim")
    listed.add_column()
    for number, source in enumerate(sources, start=1):
        listed.add_row(Text(f"[{number}]"), Text(source))
    return Group(
        Text.assemble((preset.name, "bold"), f": {preset.description}\n"),
        table,
        Text("\nSources", style="bold"),
        listed,
    )


def _value(value: object) -> RenderableType:
    match value:
        case None:
            return Text("none")
        case bool():
            return Text("yes" if value else "no")
        case list():
            items = cast("list[object]", value)
            if items and isinstance(items[0], (dict, list)):
                return Group(*(_row(item) for item in items))
            return Text(", ".join(map(str, items)))
        case _:
            return Text(str(value))


def _row(item: object) -> Text:
    """Return the text of one entry of a list of tables, or of one row of a matrix."""
    if isinstance(item, dict):
        entries = cast("dict[str, object]", item).items()
        return Text("; ".join(f"{key} {_words(entry)}" for key, entry in entries))
    return Text(_words(item))


def _words(value: object) -> str:
    return (
        " ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)
    )
