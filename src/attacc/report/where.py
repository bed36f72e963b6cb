"""Tables of the command ``where``."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from attacc.report.values import count, plain_table, titled
from attacc.study.where import Map, WhereRow
from attacc.system.sites import Site


def where_renderable(found: Map) -> RenderableType:
    """Return a table of lengths and batches for each kind of layers and number of queries."""
    parts: list[RenderableType] = [
        Text.assemble(
            (found.model, "bold"),
            f" on {found.system}: AttAccs read inside at {found.bandwidth_ratio:.1f} times the "
            "bandwidth of the GPUs",
        )
    ]
    for kind in dict.fromkeys(row.kind for row in found.rows):
        rows = [row for row in found.rows if row.kind == kind]
        if all(row.ratio is None for row in rows):
            parts.append(Text(f"\n{kind} layers: {rows[-1].reason}"))
            continue
        for queries in dict.fromkeys(row.queries for row in rows):
            own = [row for row in rows if row.queries == queries]
            tokens = "1 query token" if queries == 1 else f"{queries} query tokens"
            yields = own[0].tokens
            more = "" if queries == 1 or yields is None else f", {yields:.2f} tokens a step"
            parts.append(titled(f"{kind} layers, {tokens} a request{more}", _grid(own)))
            parts.append(Text(f"longest, largest batch: {own[-1].reason}", style="dim"))
    parts.append(
        Text(
            "\nStep with these mixers on the GPUs over that with them on AttAccs, all others on "
            "the GPUs: above 1, AttAccs win. Whether a batch fits is told by compare.",
            style="dim",
        )
    )
    if found.estimates:
        parts.append(Text("Scaled or assumed, beyond what was measured:", style="dim"))
        parts += [Text(f"- {note}", style="dim") for note in found.estimates]
    return Group(*parts)


def _grid(rows: list[WhereRow]) -> Table:
    """Return a row for each length, a column for each batch."""
    table = plain_table()
    table.add_column("keys", justify="right")
    batches = list(dict.fromkeys(row.batch for row in rows))
    for batch in batches:
        table.add_column(f"batch {count(batch)}", justify="right")
    for length in dict.fromkeys(row.length for row in rows):
        own = {row.batch: row for row in rows if row.length == length}
        table.add_row(count(length), *(_cell(own[batch]) for batch in batches))
    return table


def _cell(row: WhereRow) -> Text:
    if row.ratio is None:
        return Text("-")
    wins = row.site is Site.ATTACC
    return Text(f"{row.ratio:.2f} {'AttAcc' if wins else 'GPU'}", style="bold" if wins else "")
