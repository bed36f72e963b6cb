"""Damaged files: random changes of the ``config.json`` files of models that people serve.

A change removes a key, adds one from a file of another family, or changes a value. Whatever comes
of it is refused by a key of the file, or counted as the transformers library counts the same file.
Families that the library does not know are counted here by the formulas of
reference/model-architectures.md, sections 1 and 4.1.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from attacc.errors import InputError
from attacc.models.layers import LayeredModel
from attacc.models.readers.registry import TEXT, families, read_layers, wrappers
from tests import share

Config = Mapping[str, Any]
Place = tuple[str | int, ...]

SEED = 20_261_130
EVERY, FEW = 1000, 60
FEW_BUILT = 24
"""Files that the library builds by default, for the sake of time."""
CONFIG = Path("config.json")
ASIDE = ("quantization_config", "auto_map", "generation_config", "id2label", "label2id")
"""Tables that other tests are about, or that no reader looks into."""
TEXTS = ("", "none", "1", "full_attention")
LARGE = (2**24, 10**9, 10**30)


class Mutation(NamedTuple):
    """A damaged file.

    Attributes:
        name: the published file.
        what: removed, added or changed.
        place: keys on the way to the one that it is about, that one included.
        document: the damaged file.
    """

    name: str
    what: str
    place: Place
    document: dict[str, Any]

    def __str__(self) -> str:
        value: Any = self.document
        try:
            for step in self.place:
                value = value[step]
        except (KeyError, IndexError, TypeError):
            value = "(none)"
        return f"{self.name}: {self.what} {'.'.join(map(str, self.place))} = {value!r:.90}"


def tables(value: object, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The tables of a file, with the way to each of them."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        yield place, table
        for key, inner in table.items():
            if key not in ASIDE:
                yield from tables(inner, (*place, key))
    elif isinstance(value, list):
        for i, inner in enumerate(cast("list[object]", value)):
            yield from tables(inner, (*place, i))


def text_of(document: Config) -> Config:
    """The language part of a file."""
    inner = document.get(TEXT)
    return cast("Config", inner) if isinstance(inner, dict) else document


def changed(value: Any, rng: random.Random, others: Sequence[Any]) -> Any:
    """Another value in place of one.

    Args:
        value: the one of the file.
        rng: chooses.
        others: the values of the same key in other files.
    """
    same = [other for other in others if other != value]
    found: list[Callable[[], Any]] = [lambda: None, lambda: rng.choice(TEXTS)]
    if same:
        found.append(lambda: rng.choice(same))
    if isinstance(value, bool):
        found += [lambda: not value] * 4 + [lambda: int(value), lambda: str(value).lower()]
    elif isinstance(value, int):
        found += [
            lambda: 0, lambda: -1, lambda: rng.choice(LARGE), lambda: value + 1, lambda: value - 1,
            lambda: 2 * value, lambda: value // 2, lambda: float(value), lambda: value + 0.5,
            lambda: str(value), lambda: True, lambda: [value], lambda: {}, lambda: 1,
        ]  # fmt: skip
    elif isinstance(value, float):
        found += [lambda: 0, lambda: -value, lambda: 1e300, lambda: 2 * value, lambda: float("inf")]
    elif isinstance(value, str):
        found += [lambda: value[:-1], lambda: value + "2", lambda: value.upper(), lambda: 7]
        if value:
            found.append(lambda: value[: (i := rng.randrange(len(value)))] + value[i + 1 :])
    elif isinstance(value, list):
        entries = cast("list[Any]", value)
        found += [lambda: [], lambda: entries[:-1], lambda: [*entries, *entries[-1:]], lambda: 1]
        if entries:
            found += [lambda: one_changed(entries, rng)] * 3
    elif isinstance(value, dict):
        found += [lambda: {}, lambda: [], lambda: [value], lambda: 1]
    else:
        found += [lambda: 0, lambda: 1, lambda: 2, lambda: True, lambda: False, lambda: [], dict]
    return rng.choice(found)()


def one_changed(entries: list[Any], rng: random.Random) -> list[Any]:
    """A list with another value, or that of another entry, in place of one."""
    i = rng.randrange(len(entries))
    kinds = [other for other in entries if other != entries[i]]
    entry = rng.choice(kinds) if kinds and rng.random() < 0.5 else changed(entries[i], rng, kinds)
    return [*entries[:i], entry, *entries[i + 1 :]]


def mutate(name: str, documents: Mapping[str, Config], rng: random.Random) -> Mutation:
    """A damaged copy of one of the files; two draws in three are of its language part."""
    document = cast("dict[str, Any]", copy.deepcopy(documents[name]))
    found = dict(tables(document))
    text: Place = (TEXT,) if (TEXT,) in found else ()
    place = text if rng.random() < 0.67 else rng.choice(list(found))
    table = found[place] or document
    place = place if found[place] else ()
    kind = rng.choice(("removed", "added", "changed", "changed"))
    if kind == "added":
        family = document.get("model_type")
        other = rng.choice([d for d in documents.values() if d.get("model_type") != family])
        source: Config = text_of(other)
        if not place and text:
            source = other
        elif place not in ((), text):
            source = rng.choice(list(dict(tables(other)).values())) or source
        keys = [key for key in source if key not in table] or list(source)
        key = rng.choice(keys)
        table[key] = copy.deepcopy(source[key])
        return Mutation(name, kind, (*place, key), document)
    key = rng.choice(list(table))
    if kind == "removed":
        del table[key]
        return Mutation(name, kind, (*place, key), document)
    others = [
        one[key]
        for document in documents.values()
        for one in (document, text_of(document))
        if key in one
    ]
    table[key] = copy.deepcopy(changed(table[key], rng, others))
    return Mutation(name, kind, (*place, key), document)


def mutations(documents: Mapping[str, Config], count: int, seed: int = SEED) -> list[Mutation]:
    """So many damaged files; each file has its turn."""
    rng = random.Random(seed)
    names: list[str] = []
    found: list[Mutation] = []
    while len(found) < count:
        if not names:
            names = sorted(documents)
            rng.shuffle(names)
        found.append(mutate(names.pop(), documents, rng))
    return found
