"""Files of requests in many formats: valid ones to damage, and nonsense of the same form."""

from __future__ import annotations

import json
from random import Random
from typing import Final

TABLES: Final = (
    (
        b"TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
        b"2024-10-16T12:00:00.250Z,0,70,4\n2024-10-16T12:00:00.5Z,3,80,5\n"
    ),
    (
        b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens\n"
        b"19440001.5,s,3,GPT-4,70,4\n19440002.0,s,2,ChatGPT,80,5\n"
    ),
    b"arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,70,4\n2,80,5\n",
    b"arrival_s,prompt_tokens,output_tokens\n1,70,4\n1.5,80,5\n",
)
OBJECTS: Final = (
    (
        b'{"input_toks": 3, "output_toks": 4, "arrival_time_ns": 5, "input_tok_ids": [1, 2, 3]}\n'
        b'{"input_toks": 20, "output_toks": 4, "arrival_time_ns": 1700000000000000000}\n'
    ),
    b'{"request_id": "a", "input_toks": 20, "output_toks": 3, "arrival_time": 1700000000.25}\n',
    b'{"prompt_tokens": 70, "output_tokens": 4, "arrival_s": 1.5, "prefix_hashes": [1, -2]}\n',
    b'[{"id": "a", "conversations": [], "prompt_tokens": 70, "output_tokens": 4}]',
    b'{"num_prompts": 2, "input_lens": [7, 8], "output_lens": [2, 3], "start_times": [0.5, 1]}',
    b'{"delay": 5, "session_id": "a", "input_length": 7, "output_length": 2, "hash_ids": null}\n',
)
_TIMES: Final = ("0", "12.5", "1e3", "1700000000.0000001")
_TOKENS: Final = ("1", "70", "16777216", '"12"', " 8 ")
_WRONG: Final = ("0", "-1", "", "nan", "1e400", "9" * 30, "x", '"', "\u0663", "null", "[]")
_KEYS: Final = (
    "timestamp", "delay", "input_length", "output_length", "hash_ids", "input_toks", "output_toks",
    "arrival_time_ns", "input_tok_ids", "request_id", "arrival_time", "input_lens", "output_lens",
    "start_times", "prompt_tokens", "output_tokens", "arrival_s", "prefix_hashes",
)  # fmt: skip
_VALUES: Final[tuple[object, ...]] = (
    0,
    1,
    7,
    -1,
    2.5,
    2**63,
    None,
    True,
    "x",
    [],
    [1],
    [1, 2**64],
    {"a": 1},
)


def rows(random: Random) -> bytes:
    """Return a table whose cells are possible for the most part."""
    header = random.choice(TABLES).split(b"\n")[0].decode()
    count = header.count(",") + 1
    lines = [
        ",".join(
            random.choice(_WRONG)
            if random.random() < 0.05
            else random.choice(_TOKENS if place else _TIMES)
            for place in range(count)
        )
        for _ in range(random.choice((1, 2, 8)))
    ]
    return "\n".join([header, *lines]).encode()


def objects(random: Random) -> bytes:
    """Return objects with keys of all formats: those of the first are in all of them."""
    first = dict(_object(random))
    found = [first | dict(_object(random)) for _ in range(random.choice((0, 1, 3)))]
    lines = [json.dumps(one) for one in (first, *found)]
    if random.random() < 0.2:
        return f"[{', '.join(lines)}]".encode()
    return "\n".join(lines).encode()


def _object(random: Random) -> list[tuple[str, object]]:
    text = random.choice(OBJECTS).split(b"\n")[0]
    one: dict[str, object] = json.loads(text.removeprefix(b"[").removesuffix(b"]"))
    changes = [
        (random.choice(_KEYS), random.choice(_VALUES)) for _ in range(random.choice((0, 0, 1, 2)))
    ]
    return [*one.items(), *changes]
