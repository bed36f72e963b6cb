"""Documents made from their specifications: the fields as declared, with values at their ends."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from enum import Enum
from random import Random
from typing import Any, Final, Literal, Union, cast, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from attacc import units
from attacc.documents import Spec
from tests.campaign.mutations import LEAVES

_EXTREMES: Final = ("0", "-1", "1e300", "1e-300", "5e-324", "nan", "inf", "1_0", "9" * 400, "1e")


def _quantity(quantity: units.Quantity, random: Random) -> str:
    """Return text with a unit: mostly within the field's range, often at its ends."""
    known = units.UNITS[quantity.dimension]
    if random.random() < 0.1:
        other = random.choice([*units.UNITS]) if random.random() < 0.5 else quantity.dimension
        return f"{random.choice(_EXTREMES)} {random.choice([*units.UNITS[other]])}"
    # A range from zero on is searched over twelve powers of ten.
    low, high = math.log(quantity.low or quantity.high * 1e-12), math.log(quantity.high)
    number = math.exp(random.choice((low, high, (low + high) / 2, random.uniform(low, high))))
    number *= random.choice((1, 1, 1, 1, 1 - 1e-9, 1 + 1e-9, 0.5, 2))
    unit = random.choice([*known])
    return f"{number / known[unit]!r} {unit}"


def _bounds(metadata: list[Any]) -> tuple[float | None, float | None, bool]:
    low = high = None
    for entry in metadata:
        match entry:
            case annotated_types.Gt(gt=bound):
                low = cast(float, bound) + (1 if isinstance(bound, int) else 0)
            case annotated_types.Ge(ge=bound):
                low = cast(float, bound)
            case annotated_types.Lt(lt=bound):
                high = cast(float, bound)
            case annotated_types.Le(le=bound):
                high = cast(float, bound)
            case _:
                continue
    return low, high, low is not None or high is not None


def value_of(annotation: Any, metadata: list[Any], random: Random) -> object:
    """Return a value of a field, mostly a possible one, as a document would write it."""
    for entry in metadata:
        if isinstance(entry, units.Quantity):
            return _quantity(entry, random)
    if random.random() < 0.03:
        return random.choice(LEAVES)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated
        return value_of(annotation.__origin__, [*metadata, *annotation.__metadata__], random)
    if origin in (Union, types.UnionType):
        return value_of(random.choice(arguments), metadata, random)
    if origin is Literal:
        return random.choice(arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            count = random.choice((0, 1, 1, 2, 3, 8, 33))
            return [value_of(arguments[0], [], random) for _ in range(count)]
        return [value_of(argument, [], random) for argument in arguments]
    if origin is dict:
        keys = [value_of(arguments[0], [], random) for _ in range(random.choice((0, 1, 2, 5)))]
        return {str(key): value_of(arguments[1], [], random) for key in keys}
    return _plain(annotation, metadata, random)


def _plain(annotation: Any, metadata: list[Any], random: Random) -> object:
    low, high, bounded = _bounds(metadata)
    if annotation is type(None):
        return None
    if annotation is bool:
        return random.random() < 0.5
    if annotation is int:
        least, most = int(low or 0), int(high if high is not None else 2**24)
        near = (least, most, least + 1, most - 1, (least + most) // 2, random.randint(1, 300))
        out = (least - 1, most + 1, 2**63, -(2**63))
        return random.choice(near if bounded and random.random() < 0.9 else near + out)
    if annotation is float:
        least, most = low or 0.0, high if high is not None else 1e3
        near = (least, most, least + (most - least) / 3, 0.5, 1.0, 1e-9, 1)
        return random.choice((*near, 1e308, 1e-308, 5e-324) if random.random() < 0.3 else near)
    if annotation is str:
        return random.choice(("a", "fp16", "h100", "nvlink3", "VLLM", "all_reduce", "x\x1b[0m", ""))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return random.choice([member.value for member in annotation])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return document_of(annotation, random)
    return random.choice(LEAVES)


def document_of(spec: type[BaseModel], random: Random) -> dict[str, object]:
    """Return a document of a specification: what it must have, and some of what it may have."""
    document: dict[str, object] = {}
    for name, info in spec.model_fields.items():
        if random.random() < (0.995 if info.is_required() else 0.5):
            document[_key(name, info)] = value_of(info.annotation, info.metadata, random)
    return document


def _key(name: str, info: FieldInfo) -> str:
    return str(info.validation_alias or name)


def respecified(
    spec: type[BaseModel], document: Mapping[str, object], share: float, random: Random
) -> dict[str, object]:
    """Return a valid document in which some leaves are drawn anew from their fields."""
    made = dict(document)
    for name, info in spec.model_fields.items():
        key = _key(name, info)
        nested = _nested(info.annotation)
        held = made.get(key)
        if nested is not None and isinstance(held, dict) and random.random() > share / 4:
            made[key] = respecified(nested, cast(dict[str, object], held), share, random)
        elif nested is not None and isinstance(held, list) and random.random() > share / 4:
            made[key] = [
                respecified(nested, cast(dict[str, object], item), share, random)
                if isinstance(item, dict)
                else item
                for item in cast(list[object], held)
            ]
        elif random.random() < (share if key in made else share / 3):
            made[key] = value_of(info.annotation, info.metadata, random)
    return made


def _nested(annotation: Any) -> type[Spec] | None:
    """Return the specification that a field holds one or more documents of."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    found = (_nested(argument) for argument in get_args(annotation))
    return next((spec for spec in found if spec is not None), None)
