"""Damage to valid input: of bytes, of lines, of numbers and words, and of the tree of a document.

Everything is drawn from one `random.Random`, so that a seed gives the same input again.
"""

from __future__ import annotations

import gzip
import json
import pickle
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, cast

NUMBERS: Final = (
    *(b"0", b"-0", b"-1", b"1", b"2", b"0.1", b"1.0", b"1.5", b"1e308", b"-1e308", b"1e-308"),
    *(b"5e-324", b"1e400", b"1e-400", b"2147483648", b"9223372036854775807", b"16777217"),
    *(b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"nan", b"NaN"),
    *(b"Infinity", b"-Infinity", b"inf", b"-inf", b"0x7fffffffffffffff", b"1_000", b"+1", b"007"),
    *(b"9" * 30, b"9" * 5000, b"0." + b"0" * 400 + b"1", b"1e", b".5", b"5.", b"true", b"null"),
    *(
        "\u0663".encode(),
        "\uff11\uff16".encode(),
        "\xb2".encode(),
        "\u0967\u0968".encode(),
        "\u22121".encode(),
        "1\xa0000".encode(),
    ),
    *(b'"1"', b"[]", b"{}", b"0b1", b"1e9999999999", b"-9223372036854775808", b"1048577"),
)
"""What stands in place of a number: ends of ranges, other scripts' digits, other types."""
WORDS: Final = (
    *(b"", b" ", b"\x00", b"\x1b[31m", b"\x1b]0;x\x07", "\u202e".encode(), b"\xff", b"[/x]"),
    *(b"../../etc/passwd", b"/dev/zero", b"/dev/full", b"a" * 5000, "😀".encode(), b"\r", b"\n"),
    *(b"%s%n", b"{0}", b"$(x)", b"__proto__", b"null", b"nan", b"\xed\xa0\x80", b"\xc0\x80"),
    *(
        "\uff46\uff50\uff11\uff16".encode(),
        "\u212a".encode(),
        "\u017f".encode(),
        b"\\ud800",
        b"\\u0000",
        b'"',
        b"\\",
        b",",
    ),
)
"""What stands in place of a word."""
_NUMBER: Final = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_.-]*")
_MAGIC: Final = (
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"GGUF"),
    *(b"\x28\xb5\x2f\xfd", b"BZh", b"#!/bin/sh\n", b"\x00", b"<!DOCTYPE html>", b"---\n"),
)


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    length = min(int(random.expovariate(1 / 8)) + 1, len(data) - start)
    return start, start + length


def _flip(data: bytes, random: Random) -> bytes:
    if not data:
        return b"\x01"
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


def _overwrite(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + random.randbytes(end - start) + data[end:]


def _delete(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + data[end:]


def _insert(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + random.randbytes(end - start + 1) + data[start:]


def _duplicate(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 20)) + data[end:]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _replace_match(data: bytes, random: Random, pattern: re.Pattern[bytes], by: bytes) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return by
    match = random.choice(found)
    return data[: match.start()] + by + data[match.end() :]


def _number(data: bytes, random: Random) -> bytes:
    return _replace_match(data, random, _NUMBER, random.choice(NUMBERS))


def _word(data: bytes, random: Random) -> bytes:
    return _replace_match(data, random, _WORD, random.choice(WORDS))


def _typo(data: bytes, random: Random) -> bytes:
    """Replace one word by another of the same file."""
    words = _WORD.findall(data) or [b"x"]
    return _replace_match(data, random, _WORD, random.choice(words) + random.choice((b"", b"s")))


def _lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            lines[one], lines[other] = lines[other], lines[one]
        case 1:
            del lines[one]
        case 2:
            lines.insert(other, lines[one])
        case _:
            lines[one] = b" " * random.randrange(3) + lines[one] + b"\t"
    return b"\n".join(lines)


def _encode(data: bytes, random: Random) -> bytes:
    match random.randrange(6):
        case 0:
            return data.replace(b"\n", b"\r\n")
        case 1:
            return data.replace(b"\n", b"\r")
        case 2:
            return b"\xef\xbb\xbf" + data
        case 3:
            return data.decode("latin-1").encode(random.choice(("utf-16", "utf-16-le", "utf-32")))
        case 4:
            return random.choice(_MAGIC) + data
        case _:
            return data.replace(b"\n", random.choice((b"\x0b", b"\x1c", b"\xc2\x85", b"\n\n")))


def _pack(data: bytes, random: Random) -> bytes:
    packed = gzip.compress(data, compresslevel=1, mtime=0)
    match random.randrange(6):
        case 0:
            return _truncate(packed, random)
        case 1:
            return _flip(packed, random)
        case 2:
            return packed + packed
        case 3:
            return packed + random.randbytes(4)
        case 4:
            return gzip.compress(packed, compresslevel=1, mtime=0)
        case _:
            return packed


def _nest(data: bytes, random: Random) -> bytes:
    depth = random.choice((1, 2, 100, 2000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")")))
    if random.random() < 0.5:
        return opening * depth + data + closing * depth
    found = list(_NUMBER.finditer(data)) or list(_WORD.finditer(data))
    if not found:
        return opening * depth
    match = random.choice(found)
    inner = opening * depth + match[0] + closing * depth
    return data[: match.start()] + inner + data[match.end() :]


_OF_BYTES: Final[tuple[tuple[int, Callable[[bytes, Random], bytes]], ...]] = (
    *((6, _number), (4, _word), (4, _typo), (4, _lines), (3, _flip), (2, _overwrite)),
    *((3, _delete), (2, _insert), (2, _duplicate), (2, _truncate), (1, _encode), (1, _pack)),
    *((1, _nest),),
)
_WEIGHTS: Final = [weight for weight, _ in _OF_BYTES]
_KINDS: Final = [mutate for _, mutate in _OF_BYTES]


def damaged(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    """Return a seed after one to about six changes, or two seeds spliced."""
    if random.random() < 0.05:
        other = random.choice(seeds)
        return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]
    for mutate in random.choices(_KINDS, _WEIGHTS, k=min(1 + int(random.expovariate(1)), 6)):
        data = mutate(data, random)
    return data


_NOTHING: Final[dict[str, object]] = {}
_NONE_OF: Final[list[object]] = []
LEAVES: Final[tuple[object, ...]] = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**24, 2**24 + 1, 2**31, 2**53 + 1, 2**63, -(2**63)),
    *(10**30, 0.0, -0.0, 0.5, 1.0, 1e308, 1e-308, 5e-324, float("inf"), float("nan"), 1e400),
    *("", " ", "0", "1", "max", "fp16", "bank", "a100", "0 B", "1 B", "-1 GB/s", "1e300 TB/s"),
    *("1e-300 pJ", "1 GiB", "\u0661 GB", "1 ns", "1e22 GHz", "1 FLOPS", "1e-9 s", "x" * 5000),
    *("\x1b[31m", "\ud800", "\u202e", "[/x]", "../a.toml", "/dev/zero", "a/b.json", "\0"),
    *(_NONE_OF, _NOTHING, [0], [_NONE_OF], {"": 0}, [None], [1, 2], {"a": {"b": _NOTHING}}),
    [1] * 500,
)
"""What stands in place of a leaf of a document."""


def _copy(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - several times as fast as deepcopy


def _nodes(tree: object) -> list[tuple[dict[str, object] | list[object], str | int]]:
    """Return every place of a tree, by what holds it and its key there."""
    found: list[tuple[dict[str, object] | list[object], str | int]] = []
    if isinstance(tree, dict):
        table = cast(dict[str, object], tree)
        for key, value in table.items():
            found.append((table, key))
            found += _nodes(value)
    elif isinstance(tree, list):
        items = cast(list[object], tree)
        for number, value in enumerate(items):
            found.append((items, number))
            found += _nodes(value)
    return found


def damaged_tree(document: dict[str, object], random: Random) -> dict[str, object]:
    """Return a copy of a document after one to about four changes of its keys and values."""
    tree: dict[str, object] = _copy(document)
    for _ in range(min(1 + int(random.expovariate(1)), 4)):
        places = _nodes(tree)
        if not places:
            break
        holder, key = random.choice(places)
        value: object = cast(dict[str | int, object], holder)[key]
        match random.randrange(8):
            case 0 | 1 | 2:
                value = _copy(random.choice(LEAVES))
            case 3:
                other, there = random.choice(places)
                value = _copy(cast(dict[str | int, object], other)[there])
            case 4:
                value = random.choice(([value], {"a": value}, [value, value], str(value)))
            case 5:
                del cast(dict[str | int, object], holder)[key]
                continue
            case 6 if isinstance(holder, dict):
                del holder[str(key)]
                holder[random.choice((f"{key}s", str(key).upper(), f"{key}\x1b", ""))] = value
                continue
            case _:
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    value *= random.choice((0, -1, 2, 0.5, 1024, 1 + 1e-15))
        cast(dict[str | int, object], holder)[key] = value
    return tree


def as_json(document: object, random: Random) -> bytes:
    """Return a document as JSON, at times with a key twice, or spelt with escapes."""
    text = json.dumps(document, ensure_ascii=random.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.02 and data.startswith(b'{"'):
        data = b'{"' + data[2:].split(b'"', 1)[0] + b'": 1, ' + data[1:]
    return data
