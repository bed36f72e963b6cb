import gzip
import json
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from attacc import documents
from attacc.documents import (
    Presets,
    PresetSpec,
    Spec,
    keys_of,
    load_document,
    parse_document,
    read_document,
)
from attacc.errors import DocumentError, InputError, UnknownNameError
from attacc.files import MAX_TOML_BYTES
from attacc.hardware.dram import DRAMS
from attacc.hardware.gpu import GPUS
from attacc.hardware.placement import Placement
from attacc.hardware.system import SYSTEMS
from attacc.units import Bytes


class Inner(Spec):
    """A nested table."""

    size: int = Field(gt=0)
    share: float = 0.5


class Outer(PresetSpec):
    """A document with everything that a document may hold."""

    memory: Bytes = Field(validation_alias="mem")
    inner: Inner
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict[str, Inner])
    placement: Placement | None = None
    maybe: Inner | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.inner.size == 13:
            raise ValueError("13 is not a size")
        return self


GOOD: dict[str, object] = {"name": "mine", "mem": "1 GiB", "inner": {"size": 1}}
GOOD_TOML = 'name = "mine"\nmem = "1 GiB"\n[inner]\nsize = 1\n'


def parse(**changes: object) -> Outer:
    return parse_document(Outer, GOOD | changes, where="mine.toml")


def message(**changes: object) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(**changes)
    return str(caught.value)


def test_a_good_document() -> None:
    """Catches values that change on their way in."""
    found = parse(many=[{"size": 2}], placement="bank", named={"a": {"size": 3, "share": 1}})
    assert found.memory == 2**30
    assert (found.inner.size, found.inner.share) == (1, 0.5)
    assert [inner.size for inner in found.many] == [2]
    assert found.placement is Placement.BANK
    assert (found.named["a"].size, found.named["a"].share) == (3, 1.0)


def test_a_document_is_frozen() -> None:
    """Catches a specification that changes after it was checked."""
    with pytest.raises(ValidationError, match="frozen"):
        parse().name = "other"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"inner": {"sise": 1}}, "mine.toml: inner.sise: unknown key 'sise'; 1 more fault in"),
        ({"inner": {"sise": 1}}, "(did you mean 'size'? choose from share, size)"),
        ({"memory": "1 GiB"}, "did you mean 'mem'"),
        ({"nmae": "x"}, "mine.toml: nmae: unknown key 'nmae' (did you mean 'name' or"),
        ({"inner": {}}, "mine.toml: inner.size: missing key 'size' (add size = ...)"),
        ({"inner": {"size": 0}}, "inner.size: 0 is out of range"),
        ({"inner": {"size": 1.5}}, "inner.size: "),
        ({"inner": {"size": "1"}}, "inner.size: '1' is no whole number"),
        ({"inner": {"size": True}}, "inner.size: True is no whole number"),
        ({"inner": 5}, "mine.toml: inner: "),
        ({"inner": {"size": 13}}, "mine.toml: 13 is not a size"),
        ({"many": [{"size": 1}, {"size": 0}]}, "mine.toml: many.1.size: "),
        ({"many": [{"szie": 1}]}, "many.0.szie: unknown key 'szie'"),
        ({"many": [{"szie": 1}]}, "did you mean 'size'"),
        ({"named": {"a": {"size": -1}}}, "mine.toml: named.a.size: "),
        ({"maybe": {"share": 0.1, "sizes": 3}}, "maybe.sizes: unknown key 'sizes'"),
        ({"maybe": {"share": 0.1, "sizes": 3}}, "did you mean 'size'"),
        ({"placement": "bnak"}, "placement: 'bnak' is unknown"),
        ({"placement": "bnak"}, "'bnak' is unknown"),
        ({"mem": 5}, "mine.toml: mem: bytes must be text with a unit"),
        ({"mem": "5 GHz"}, "mem: unknown unit 'GHz' for bytes"),
        ({"name": ""}, "mine.toml: name: '' is too short"),
        ({"inner": {"size": 1, "share": float("nan")}}, "mine.toml: inner.share: "),
        ({"inner": {"size": 2**70 * 10**4400}}, "mine.toml: "),
    ],
)
def test_a_fault_names_document_field_value_and_choice(
    changes: dict[str, object], expected: str
) -> None:
    """Catches a fault that passes, or a message without its place, value or way out."""
    assert expected in message(**changes)


def test_a_misspelt_key_is_told_before_the_missing_one() -> None:
    """Catches "missing key" where the key is there, misspelt."""
    document = {key: value for key, value in GOOD.items() if key != "inner"}
    with pytest.raises(DocumentError, match=r"innre: unknown key 'innre'; 1 more fault in this"):
        parse_document(Outer, document | {"innre": {"size": 1}}, where="mine.toml")


def test_keys_are_listed_as_they_are_written() -> None:
    """Catches a proposal that is not a key of the document."""
    expected = ["name", "description", "sources", "mem", "inner", "many", "named", "placement"]
    assert keys_of(Outer) == [*expected, "maybe"]


def test_toml_and_json_are_read_alike(tmp_path: Path) -> None:
    """Catches a file kind that is read by other rules."""
    toml, text = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('name = "mine"\nmem = "1 GiB"\n[inner]\nsize = 1\n')
    text.write_text(json.dumps(GOOD))
    assert load_document(Outer, toml) == load_document(Outer, text) == parse()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.yaml", b"", "unknown file kind '.yaml' (use a .toml or .json file)"),
        ("a", b"", "unknown file kind ''"),
        ("a.toml", b"x = ", "is not valid TOML: "),
        ("a.toml", b"x = 1\nx = 2", "is not valid TOML: "),
        ("a.toml", b"x = " + b"9" * 5000, "is not valid TOML: "),
        ("a.json", b"{", "is not valid JSON: "),
        ("a.json", b"[" * 100_000, "is not valid JSON: "),
        ("a.json", b"[1, 2]", "holds [1, 2], not a table of named fields"),
        ("a.json", b"null", "holds None, not a table"),
        ("a.toml", b"\xff\xfe", "is text in UTF-16 (save it as UTF-8)"),
        ("a.json", b"\xff\xfe", "is text in UTF-16 (save it as UTF-8)"),
    ],
)
def test_an_unusable_file_is_named(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    """Catches a traceback, or a message without the file."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_an_absent_file_proposes_its_neighbours(tmp_path: Path) -> None:
    """Catches a misspelt file name without a way out, and a traceback where nothing is."""
    (tmp_path / "study.toml").write_text("")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DocumentError, match=r"no such file \(did you mean 'study.toml'\?"):
        read_document(tmp_path / "studdy.toml")
    with pytest.raises(DocumentError, match=r"no such file \(there are none\)"):
        read_document(tmp_path / "absent" / "study.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(DocumentError, match="is a folder, not a file"):
        read_document(tmp_path / "folder.toml")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b'{"name": "a", "name": "b"}', "the key 'name' occurs twice in one object"),
        ("a.json", b'{"x": {"k": 1, "k": 1}}', "the key 'k' occurs twice in one object"),
        ("a.json", b'{"x": NaN}', "is not valid JSON: NaN is no number of JSON"),
        ("a.json", b'{"x": 1e999}', "is not valid JSON: 1e999 is too large a number"),
        ("a.toml", b"PK\x03\x04 rest", "is a zip archive"),
        ("a.json", b"GGUF rest", "is a GGUF file of weights"),
        ("a.toml", b"\x1f\x8b\x08 rest", "is a damaged gzip file"),
    ],
)
def test_what_a_file_holds_is_named(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    """Before, the last of two equal keys won without a word, and archives were "not UTF-8"."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        read_document(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfx = 1\n", b"x = 1\r\n", b"x = 1"])
def test_marks_and_line_ends_of_editors_are_accepted(tmp_path: Path, content: bytes) -> None:
    """Before, the byte-order mark of an editor was no valid TOML."""
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    assert read_document(path) == {"x": 1}
    path = tmp_path / "a.json"
    path.write_bytes(content.replace(b"x = 1", b'{"x": 1}'))
    assert read_document(path) == {"x": 1}


def test_a_document_that_never_ends_is_refused(tmp_path: Path) -> None:
    """Before, reading these took all memory, or waited forever."""
    (tmp_path / "device.toml").symlink_to("/dev/zero")
    with pytest.raises(DocumentError, match="is a device, not a file"):
        read_document(tmp_path / "device.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (MAX_TOML_BYTES + 1))
    with pytest.raises(DocumentError, match="holds more than 1 MiB"):
        read_document(tmp_path / "large.toml")
    (tmp_path / "bomb.toml").write_bytes(gzip.compress(b"#" * (MAX_TOML_BYTES + 1)))
    with pytest.raises(DocumentError, match="unpacks to more than 1 MiB"):
        read_document(tmp_path / "bomb.toml")


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 9) + " = 1",
        " . ".join(["a", '"b c"', "'d'"] * 3) + " = 1",
        "[" + ".".join("a" * 9) + "]",
        "x = {" + ".".join("a" * 9) + " = 1}",
        'x = """a""""' + "\n" + ".".join("a" * 9) + ' = "b"',
        'x = ["""a"""", {' + ".".join("a" * 9) + ' = 1}, "b"]',
        "a" + ".a" * 500_000 + " = 1",
        "a" + ".a" * 9 + ' = 1\n"' + '\\"' * 500_000,
    ],
)
def test_a_key_of_many_parts_never_reaches_the_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The parser's time grows with the square of a key's parts: a megabyte would take hours."""

    def parse_it(text: str) -> object:
        raise AssertionError(text[:20])

    monkeypatch.setattr(documents.tomllib, "loads", parse_it)
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(DocumentError, match="a key has more than 8 parts"):
        read_document(tmp_path / "a.toml")


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 8) + " = 1",
        'x = "a.b.c.d.e.f.g.h.i.j"',
        "x = 'a.b.c.d.e.f.g.h.i.j'",
        'x = """\na.b.c.d.e.f.g.h.i.j = 1"""',
        "x = '''\na.b.c.d.e.f.g.h.i.j = 1'''",
        'x = "\\".a.b.c.d.e.f.g.h.i.j"',
        "# a.b.c.d.e.f.g.h.i.j ....................\nx = 1",
        "x = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]",
    ],
)
def test_points_elsewhere_than_in_keys_are_free(tmp_path: Path, text: str) -> None:
    """Catches a sentence, a comment or a list of numbers that is taken for a key."""
    (tmp_path / "a.toml").write_text(text)
    assert read_document(tmp_path / "a.toml")


def test_half_a_character_is_named() -> None:
    """The message showed the checked text in JSON, and a column of it that nobody wrote."""
    with pytest.raises(DocumentError, match=r"mine\.toml: holds '\\ud83d', which is no character"):
        parse(description="smile \ud83d")
    assert parse(description="smile \U0001f600").description == "smile \U0001f600"


def test_messages_do_not_repeat_a_megabyte(tmp_path: Path) -> None:
    """Before, an unknown key was repeated in full, twice."""
    path = tmp_path / "a.toml"
    path.write_text("k" * 500_000 + " = 1\n" + GOOD_TOML)
    with pytest.raises(DocumentError, match="unknown key") as caught:
        load_document(Outer, path)
    assert len(str(caught.value)) < 500
    path.write_text(GOOD_TOML.replace("1 GiB", "9" * 500_000))
    with pytest.raises(DocumentError, match="not a number and a unit") as caught:
        load_document(Outer, path)
    assert len(str(caught.value)) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(keys_of(Outer)), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5) | st.sampled_from(keys_of(Outer)), JSON, max_size=6))
def test_any_document_is_good_or_a_clear_error(document: dict[str, object]) -> None:
    """Catches another exception than DocumentError, and messages that do not name the document."""
    try:
        parse_document(Outer, GOOD | document, where="mine.toml")
    except DocumentError as error:
        assert str(error).startswith("mine.toml: ")  # noqa: PT017 - or nothing is raised


@given(st.binary(max_size=60), st.sampled_from([".toml", ".json"]))
def test_any_file_is_a_document_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    """Catches bytes on which a parser ends in another exception."""
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        read_document(path)
    except DocumentError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - or nothing is raised


def test_presets_by_name_or_file(tmp_path: Path) -> None:
    """Catches a path that is taken for a name, a name for a path, and silent fallbacks."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nmemory_bandwidth = "1 TB/s"\nmemory = "16 GiB"\ncores = 10\n'
        'l1 = "128 KiB"\nl2 = "6 MiB"\n[peak]\nfp16 = "100 TFLOPS"\n'
    )
    assert GPUS.load_name_or_file(str(path)).name == "mine"
    assert GPUS.load_name_or_file("a100") is GPUS.load("a100")
    with pytest.raises(UnknownNameError, match=r"--gpu: unknown GPU preset 'a10' \(did you mean"):
        GPUS.load_name_or_file("a10", where="--gpu")
    with pytest.raises(DocumentError, match="unknown file kind"):
        GPUS.load_name_or_file("folder/a100")
    with pytest.raises(DocumentError, match="no such file"):
        GPUS.load_name_or_file("a100.toml")


def test_a_preset_without_its_file_name_suffix_is_no_preset() -> None:
    """Catches other files of the package that are listed as presets."""
    presets = Presets("GPU", GPUS.spec, GPUS.package, GPUS.folder)
    assert presets.names() == sorted(presets.names())
    assert all(presets.load(name).name == name for name in presets.names())


def test_a_document_changes_a_preset_key_by_key(tmp_path: Path) -> None:
    """Catches a table that is replaced whole, and a number whose source is still the preset's."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "DGX-attacc-bank"\ngpus = 4\n[attacc]\nstacks_per_device = 8\n', encoding="utf-8"
    )
    preset, mine = SYSTEMS.load("dgx-attacc-bank"), SYSTEMS.load_name_or_file(str(path))
    assert preset.attacc is not None
    attacc = preset.attacc.model_copy(update={"stacks_per_device": 8})
    told = {
        "name": "mine",
        "description": "dgx-attacc-bank, changed by mine.toml",
        "sources": preset.sources | {"gpus": "mine.toml", "attacc.stacks_per_device": "mine.toml"},
    }
    assert mine == preset.model_copy(update={"gpus": 4, "attacc": attacc, **told})
    path.write_text('base = "h200"\nname = "fat"\nmemory = "200 GB"\n', encoding="utf-8")
    assert (GPUS.load_file(path).name, GPUS.load_file(path).memory_bytes) == ("fat", 200e9)


def test_what_is_derived_follows_what_is_changed(tmp_path: Path) -> None:
    """Catches a device whose rules keep the cycles of the preset."""
    path = tmp_path / "fast.json"
    path.write_text('{"base": "hbm3-5.2", "timing": {"nRCDRD": 9}}', encoding="utf-8")
    assert DRAMS.load_file(path).timing == DRAMS.load("hbm3-5.2").timing | {"nRCDRD": 9}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = 3", r"mine\.toml: base: 3 is no name of a preset \(choose from 2xdgx"),
        ('base = "dgx-bass"', r"mine\.toml: base: unknown system preset 'dgx-bass' \(did you mean"),
        ('base = "dgx-base"\ngpu_count = 3', r"mine\.toml: gpu_count: unknown key 'gpu_count'"),
    ],
)
def test_what_changes_no_preset(text: str, message: str, tmp_path: Path) -> None:
    """Catches a base that is ignored, and a message without the file's name."""
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        SYSTEMS.load_file(path)
