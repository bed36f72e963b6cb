"""Writes docs/evidence/models.md: what is understood of every ``config.json`` of a folder.

python benchmarks/model_table.py FOLDER [--write]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import attacc as aa
from attacc.errors import InputError
from attacc.study.described import ModelDescription

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "models.md"
BEGIN, END = "<!-- begin -->", "<!-- end -->"
HEADER = (
    "file", "layers", "parameters", "active", "weights", "per token", "window", "state",
    "draft", "vision",
)  # fmt: skip


def files(folder: Path) -> Iterator[Path]:
    """Yield the configurations of a folder; statements of quantisation lie beside them."""
    for path in sorted(folder.glob("*config.json")):
        if "quant" not in path.name.removesuffix("_config.json")[-8:]:
            yield path


def kinds(model: ModelDescription) -> str:
    return "; ".join(f"{layer.layers} {layer.kind}" for layer in model.layers)


def count(number: int | None) -> str:
    return f"{number:,}" if number else "-"


def size(number: float) -> str:
    return f"{number:,.10g}" if number else "-"


def weights(model: ModelDescription) -> str:
    return ", ".join(f"{one.format} {one.bytes / 1e9:,.1f}" for one in model.weight_bytes)


def row(path: Path) -> tuple[str, ...]:
    name = path.name.removesuffix("_config.json").replace("--", "/", 1)
    try:
        model = aa.describe(path)
    except InputError as refusal:
        return (name, f"refused: {refusal.message}", *("" for _ in HEADER[2:]))
    return (
        name,
        kinds(model),
        count(model.parameters),
        count(model.active_parameters),
        weights(model),
        f"{size(model.kv_bytes_per_token)} ({model.kv})",
        size(model.window_bytes_per_request),
        size(model.state_bytes_per_request),
        count(model.draft_parameters),
        count(model.vision_parameters),
    )


def table(folder: Path) -> str:
    rows = [HEADER, tuple("---" for _ in HEADER), *(row(path) for path in files(folder))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def main() -> None:
    text = table(Path(sys.argv[1]))
    if "--write" not in sys.argv:
        print(text)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
