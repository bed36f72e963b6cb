"""Random damage to documents of hardware: a clear error or a valid document, nothing else."""

import copy
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacc.documents import Presets, PresetSpec, parse_document
from attacc.errors import DocumentError
from attacc.hardware.cpu import CPUS
from attacc.hardware.gpu import GPUS
from attacc.hardware.link import LINKS
from attacc.hardware.system import SYSTEMS

KINDS = cast(list[Presets[PresetSpec]], [GPUS, LINKS, CPUS, SYSTEMS])
DOCUMENTS = [(kind, kind.preset_document(name)) for kind in KINDS for name in kind.names()]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0 B", "-1 GB/s", "1e400 TB/s", "5", "GB/s", "1 GiB", "inf GB/s", "1 pJ/b"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def tables(document: dict[str, object]) -> list[dict[str, object]]:
    values = document.values()
    return [document, *(cast(dict[str, object], v) for v in values if isinstance(v, dict))]


def fault_of(kind: Presets[PresetSpec], document: dict[str, object]) -> str | None:
    try:
        parse_document(kind.spec, document, where="mine.toml")
    except DocumentError as error:
        return str(error)
    return None


@given(
    case=st.sampled_from(DOCUMENTS),
    action=st.sampled_from(["replace", "remove", "add"]),
    junk=JUNK,
    key=st.text(min_size=1, max_size=8),
    data=st.data(),
)
def test_damage_is_reported_or_harmless(
    case: tuple[Presets[PresetSpec], dict[str, object]],
    action: str,
    junk: object,
    key: str,
    data: st.DataObject,
) -> None:
    """Catches other exceptions than DocumentError, and messages that do not name the document."""
    kind, document = case
    damaged = copy.deepcopy(document)
    table = data.draw(st.sampled_from(tables(damaged)))
    victim = data.draw(st.sampled_from(sorted(table)))
    if action == "replace":
        table[victim] = junk
    elif action == "remove":
        del table[victim]
    else:
        table[key] = junk
    message = fault_of(kind, damaged)
    assert message is None or message.startswith("mine.toml: ")


@pytest.mark.parametrize(("kind", "document"), DOCUMENTS)
def test_an_unknown_key_is_named(kind: Presets[PresetSpec], document: dict[str, object]) -> None:
    """Catches a specification that is open to keys that nobody reads."""
    with pytest.raises(DocumentError, match=r"mine\.toml: colour: unknown key 'colour'"):
        parse_document(kind.spec, {**document, "colour": "red"}, where="mine.toml")
