"""Every number of a document has a physical range, so that no figure of an answer overflows."""

import importlib
import json
import math
import pkgutil
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import pytest
from pydantic import Field
from pydantic.fields import FieldInfo

import attacc
from attacc.documents import Presets, PresetSpec, Spec, parse_document, ranges_of
from attacc.errors import DocumentError
from attacc.hardware.cpu import CPUS
from attacc.hardware.dram import DRAMS
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.hardware.system import SYSTEMS
from attacc.study.specification import StudySpec
from attacc.units import RANGES, UNITS, Quantity, parse_quantity
from tests.cli.console import document, invoke, refusal


def specs() -> Iterator[type[Spec]]:
    """Yield every specification of the package."""
    for module in pkgutil.walk_packages(attacc.__path__, "attacc."):
        if not module.name.startswith(("attacc.integrations", "attacc.__main__")):
            importlib.import_module(module.name)
    left: list[type[Spec]] = [Spec]
    while left:
        spec = left.pop()
        left += spec.__subclasses__()
        if spec.__module__.startswith("attacc."):
            yield spec


def quantities_in(annotation: object, metadata: object = ()) -> Iterator[Quantity]:
    for condition in (*cast("list[object]", metadata), *getattr(annotation, "__metadata__", ())):
        if isinstance(condition, Quantity):
            yield condition
    for argument in get_args(annotation):
        yield from quantities_in(argument)


def fields() -> list[tuple[str, FieldInfo]]:
    return [
        (f"{spec.__name__}.{name}", info)
        for spec in specs()
        for name, info in spec.model_fields.items()
    ]


def test_every_number_of_every_document_has_a_lower_and_an_upper_end() -> None:
    """Catches a field that is added without a range."""
    numbers = [(name, numbers) for name, info in fields() for numbers in ranges_of(info)]
    assert [name for name, numbers in numbers if not numbers.bounded] == []
    assert len(numbers) > 100


def test_ranges_are_found_wherever_they_are_written() -> None:
    """Catches a search that sees no numbers, and so misses no range."""

    class Some(Spec):
        bare: int
        optional: float | None = None
        nested: dict[str, tuple[Annotated[int, Field(ge=1)], ...]]
        whole: Annotated[int, Field(gt=0, le=5)] | None = None
        outside: int | None = Field(default=None, ge=0, lt=7)
        flag: bool
        text: str

    found = {name: [str(r) for r in ranges_of(info)] for name, info in Some.model_fields.items()}
    assert found == {
        "bare": [""],
        "optional": [""],
        "nested": ["at least 1"],
        "whole": ["more than 0 and at most 5"],
        "outside": ["at least 0 and less than 7"],
        "flag": [],
        "text": [],
    }


def test_every_dimension_has_a_range_that_its_fields_keep_to() -> None:
    """Catches a dimension without a range, and a field whose range is wider or of nothing."""
    assert RANGES.keys() == UNITS.keys()
    page = (Path(__file__).parents[1] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for least, most in RANGES.values():
        assert f"| {least} | {most} |" in page
    found = [
        (name, quantity)
        for name, info in fields()
        for quantity in quantities_in(info.annotation, info.metadata)
    ]
    assert len(found) > 80
    for name, quantity in found:
        least, most = (
            parse_quantity(end, quantity.dimension) for end in RANGES[quantity.dimension]
        )
        assert quantity.low == 0 or 0 < least <= quantity.low, name
        assert quantity.low < quantity.high <= most < 1e30, name


KINDS = cast("list[Presets[PresetSpec]]", [GPUS, CPUS, LINKS, DRAMS])


def raw(presets: Presets[Any], name: str) -> dict[str, Any]:
    text = (files(presets.package) / presets.folder / f"{name}.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    del found["sources"]
    return found


@pytest.mark.parametrize(
    ("kind", "name", "where", "value", "message"),
    [
        (CPUS, "epyc-7742", "memory_energy", "1e307 pJ/b", "within 1e-6 pJ/B to 10 uJ/B"),
        (GPUS, "a100", "peak.fp16", "1e-300 TFLOPS", "within 1 MFLOPS to 1000 EFLOPS"),
        (GPUS, "a100", "board_power", "1e-320 W", "within 1 W to 1 MW"),
        (GPUS, "a100", "memory", "1e30 GB", "within 1 MB to 1 PB"),
        (DRAMS, "hbm3-5.2", "pipeline.softmax_clock", "1e-20 MHz", "within 1 MHz to 100 GHz"),
        (DRAMS, "hbm3-5.2", "clock", "1e9 s", "within 10 ps to 1 us"),
        (LINKS, "nvlink3", "bandwidth", "1e-9 GB/s", "within 1 kB/s to 1 EB/s"),
        (LINKS, "nvlink3", "collective.start", "1e30 ns", "within 0.001 ps to 1000 s"),
    ],
)
def test_what_is_out_of_range_is_refused_by_field_value_and_range(
    kind: Presets[Any], name: str, where: str, value: str, message: str
) -> None:
    """Before, these ended in inf or nan in a table, or in a traceback."""
    found = raw(kind, name)
    *tables, key = where.split(".")
    table = found
    for part in tables:
        table = table[part]
    table[key] = value
    with pytest.raises(DocumentError) as caught:
        parse_document(kind.spec, found, where="mine.toml")
    text = str(caught.value)
    assert text.startswith(f"mine.toml: {where}: {value!r} is not {message}")
    assert "check the number and its unit" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"slo_ms": 1e300},
            "slo_ms: 1e.300 is out of range .use at least 1e-06 and at most 1000000000",
        ),
        ({"slo_ms": math.inf}, "slo_ms: "),
        ({"slo_ms": math.nan}, "slo_ms: "),
        ({"workload": {"synthetic": "x", "seed": 2**64}}, r"workload\.seed: .*less than 18446"),
        ({"workload": {"prompt": 2**25}}, r"workload\.prompt: .*use at least 1 and at most 16777"),
    ],
)
def test_a_plain_number_out_of_range_is_told_its_range(
    changes: dict[str, object], message: str
) -> None:
    """Catches a message with one end of the range only, or none."""
    with pytest.raises(DocumentError, match=message):
        parse_document(StudySpec, changes, where="study.toml")


def at_an_end(kind: Presets[Any], name: str, low: bool) -> dict[str, Any]:
    """Return a preset all of whose top-level quantities are at one end of their ranges."""
    found = raw(kind, name)
    for field, info in cast("type[Spec]", kind.spec).model_fields.items():
        key = str(info.validation_alias or field)
        ends = [q.text.split(" to ") for q in quantities_in(info.annotation, info.metadata)]
        if ends and key in found:
            end = ends[0][0 if low else 1]
            found[key] = dict.fromkeys(found[key], end) if isinstance(found[key], dict) else end
    return found


@pytest.mark.parametrize("gpu_model", ["published", "calibrated"])
@pytest.mark.parametrize("gpu_low", [False, True])
@pytest.mark.parametrize("host_low", [False, True])
def test_documents_at_the_ends_of_their_ranges_give_finite_figures(
    tmp_path: Path,
    gpu_model: str,
    gpu_low: bool,
    host_low: bool,
) -> None:
    """Catches a range so wide that a figure overflows, in a table and in JSON alike."""
    system = raw(SYSTEMS, "dgx-cpu") | {"gpu": "gpu.json", "link": "link.json"}
    system["cpu"] = {"preset": "cpu.json", "count": 2, "link": "link.json"}
    system["memory_per_gpu"] = "1 PB"
    documents = {
        "system": system,
        "gpu": at_an_end(GPUS, "a100", gpu_low),
        "cpu": at_an_end(CPUS, "epyc-7742", host_low) | {"memory": "1 EB"},
        "link": at_an_end(LINKS, "nvlink3", host_low),
    }
    for name, content in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    options = ("--system", tmp_path / "system.json", "--gpu-model", gpu_model, "--batch", "3")
    result = document("compare", *options, "--prompt", "64", "--output", "4")
    (row,) = result["systems"]
    assert row["status"] == "ok"
    figures = [figure for figure in row["performance"].values() if isinstance(figure, float)]
    assert len(figures) > 3
    assert all(math.isfinite(figure) for figure in figures)
    table = invoke("compare", *options, "--prompt", "64", "--output", "4")
    assert table.exit_code == 0
    assert not {"inf", "nan"} & set(table.stdout.split())


def test_a_table_and_json_refuse_the_same_energy(tmp_path: Path) -> None:
    """Before, the table of this comparison said inf where JSON refused."""
    cpu = raw(CPUS, "epyc-7742") | {"memory_energy": "1e307 pJ/b"}
    system = raw(SYSTEMS, "dgx-cpu")
    system["cpu"]["preset"] = "cpu.json"
    (tmp_path / "cpu.json").write_text(json.dumps(cpu))
    (tmp_path / "system.json").write_text(json.dumps(system))
    options = ("compare", "--system", tmp_path / "system.json")
    assert refusal(*options) == refusal(*options, "--json")
