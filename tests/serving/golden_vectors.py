"""Event logs of the engines' own schedulers, executed without a GPU, as the project's page states.

Source: the project's page of serving engines, section 10: vLLM 0.16.0 and 0.19.1 (V1), vLLM 0.6.6
(V0), Vidur's Sarathi, SGLang 0.5.8. Block size is 16. Requests a, b, c, ... are 0, 1, 2, ... here.

A vector states jobs, the settings by name, and expected lines. A line has the form of the event log
without the time, and with the stated fields alone: `S 3 run 0:1 1:8 wait 2`, `U 3 emit 0 free 61`.
A field without values states that the field is empty. Each step takes `STEP_PS`, and the host takes
no time, so that what arrives `@3` arrives at 3 * STEP_PS. Steps are numbered as in the event log:
an idle call, which the page numbers, has no number here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

STEP_PS = 1000


class Asked(NamedTuple):
    """A request: when it arrives, runs of (content, tokens), and how many outputs it asks for."""

    arrival_ps: int
    prompt: tuple[tuple[int, int], ...]
    outputs: int


@dataclass(frozen=True)
class Vector:
    """A vector.

    Attributes:
        name: as on the page.
        policy: name of the policy's module.
        jobs: requests 0, 1, 2, ...
        settings: what differs from the policy's defaults.
        lines: the events that are expected.
    """

    name: str
    policy: str
    jobs: tuple[Asked, ...]
    settings: dict[str, object] = field(default_factory=dict[str, object])
    lines: tuple[str, ...] = ()


FIELDS = ("run", "hit", "preempt", "wait", "emit", "finish", "free", "reason")


class Event(NamedTuple):
    """A line of a log: "S", "U" or "reject", a number, and the fields."""

    kind: str
    number: int
    fields: dict[str, list[str]]


def event(line: str) -> Event:
    """Read a line of a log, with or without a time."""
    kind, number, *words = line.replace("=", " ").split()
    fields: dict[str, list[str]] = {}
    last: list[str] = []
    for word in words:
        if word in FIELDS:
            last = fields[word] = []
        elif word.startswith("@"):
            fields["@"] = [word[1:]]
        else:
            last.append(word)
    return Event(kind, int(number), fields)


def differences(vector: Vector, log: str) -> list[str]:
    """Where a log differs from what the vector states: nothing where it agrees."""
    actual = [event(line) for line in log.splitlines()]
    expected = [event(line) for line in vector.lines]
    found = [(e.kind, e.number) for e in actual]
    stated = [(e.kind, e.number) for e in expected]
    if found != stated:
        return [f"{vector.name}: events {found}, not {stated}"]
    return [
        f"{vector.name}: {one.kind} {one.number}: {name} {one.fields.get(name, [])}, not {values}"
        for one, other in zip(actual, expected, strict=True)
        for name, values in other.fields.items()
        if one.fields.get(name, []) != values
    ]


def steps(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines of a synchronous run: what a schedule call tells, "->", and what its update tells.

    A line without "->" is a call that runs nothing.
    """
    events: list[str] = []
    for number, line in enumerate(lines):
        call, arrow, update = line.partition("->")
        events.append(f"S {number} {call}".strip())
        if arrow:
            events.append(f"U {number} {update}".strip())
    return tuple(events)


def plain(*asked: tuple[int, int, int]) -> tuple[Asked, ...]:
    """Requests with different prompts from (prompt tokens, outputs, step of arrival)."""
    return tuple(
        Asked(step * STEP_PS, ((index, tokens),), outputs)
        for index, (tokens, outputs, step) in enumerate(asked)
    )


def synchronous(**settings: object) -> dict[str, object]:
    """Settings of vLLM V1 without steps that overlap."""
    return {"asynchronous": False, "max_num_batched_tokens": 64, **settings}


LOAD_A = plain((40, 3, 0), (10, 3, 0), (100, 2, 1))
LOAD_C = (
    Asked(0, ((0, 64),), 2),
    Asked(0, ((0, 64),), 2),
    Asked(3 * STEP_PS, ((0, 64),), 2),
    Asked(3 * STEP_PS, ((0, 33), (1, 20)), 2),
)
LOAD_J = plain((31, 4, 0), (15, 6, 0), (15, 6, 0), (15, 6, 0))

V1_A = Vector(
    "V1-A",
    "vllm_v1",
    LOAD_A,
    synchronous(blocks=64, max_num_batched_tokens=32),
    steps(
        [
            "run 0:32 wait 1 -> emit free 61",
            "run 0:8 1:10 2:14 -> emit 0 1 finish free 58",
            "run 0:1 1:1 2:30 -> emit 0 1 finish free 56",
            "run 0:1 1:1 2:30 -> emit 0 1 finish 0 1 free 58",
            "run 2:26 -> emit 2 finish free 56",
            "run 2:1 -> emit 2 finish 2 free 63",
        ]
    ),
)

V1_B = Vector(
    "V1-B",
    "vllm_v1",
    plain((32, 20, 0), (32, 20, 0), (30, 4, 0)),
    synchronous(blocks=8),
    steps(
        [
            "run 0:32 1:32 wait 2 -> emit 0 1 free 3",
            *["run 0:1 1:1 -> free 1"] * 16,
            "run 0:1 preempt 1 wait 1 2 -> free 3",
            "run 0:1 ->",
            "run 0:1 -> finish 0 free 7",
            "run 1:1 2:30 hit 1:48 -> emit 1 2 free 1",
            "run 1:1 2:1 ->",
            "run 1:1 2:1 -> finish 1 free 5",
            "run 2:1 -> finish 2 free 7",
        ]
    ),
)

V1_C = Vector(
    "V1-C",
    "vllm_v1",
    (*LOAD_C, Asked(3 * STEP_PS, ((0, 32),), 2)),
    synchronous(blocks=64, max_num_batched_tokens=200),
    steps(
        [
            "run 0:64 1:16 hit 1:48 ->",
            "run 0:1 1:1 -> finish 0 1 free 63",
            "run 2:16 3:21 4:16 hit 2:48 3:32 4:16 -> free 56",
            "run 2:1 3:1 4:1 -> finish 2 3 4",
        ]
    ),
)

V1_D = Vector(
    "V1-D",
    "vllm_v1",
    plain((33, 2, 0), (33, 3, 0)),
    synchronous(blocks=7),
    steps(
        [
            "run 0:33 1:31 ->",
            "run 0:1 1:2 -> finish 0",
            "run 1:1 ->",
            "run 1:1 -> finish 1",
        ]
    ),
)
V1_D_QUEUE = (3, 2, 1, 6, 5, 4)
"""Free blocks after V1-D, front first."""
V1_D_PLAIN = (3, 6)
"""Those of them that carry no hash."""
V1_D_AGAIN = Asked(9 * STEP_PS, ((0, 33),), 2)
"""A request after V1-D with the prompt of its first."""
V1_D_QUEUES_AGAIN = ((6, 5, 4), (6, 5, 4, 3, 2, 1))
"""Free blocks while that request runs, and after it has finished."""

LOAD_G = plain((64, 4, 0), (64, 4, 0))
V1_G = Vector(
    "V1-G (0.16)",
    "vllm_v1",
    LOAD_G,
    synchronous(blocks=8, max_num_batched_tokens=32),
    steps(
        [
            "run 0:32 ->",
            "run 0:32 -> emit 0 free 3",
            "run 0:1 1:31 -> free 0",
            "run 0:1 preempt 1 -> free 2",
            "run 0:1 -> finish 0 free 7",
            "run 1:32 hit 1:16 ->",
            "run 1:16 -> emit 1",
            *["run 1:1 ->"] * 2,
            "run 1:1 -> finish 1",
        ]
    ),
)
V1_G_GATE = Vector(
    "V1-G (0.19.1)",
    "vllm_v1",
    LOAD_G,
    synchronous(blocks=8, max_num_batched_tokens=32, reserve_full_isl=True),
    steps(
        [
            "run 0:32 ->",
            "run 0:32 ->",
            *["run 0:1 ->"] * 3,
            "run 1:32 ->",
            "run 1:32 -> emit 1",
            *["run 1:1 ->"] * 2,
            "run 1:1 -> finish 1",
        ]
    ),
)

V1_H = Vector(
    "V1-H",
    "vllm_v1",
    plain((70, 2, 0), (50, 2, 0), (8, 2, 1)),
    synchronous(blocks=64, max_num_batched_tokens=48, long_prefill_token_threshold=20),
    steps(
        [
            "run 0:20 1:20 ->",
            "run 0:20 1:20 2:8 -> emit 2",
            "run 0:20 1:10 2:1 -> emit 1 2 finish 2",
            "run 0:10 1:1 -> emit 0 1 finish 1",
            "run 0:1 -> finish 0",
        ]
    ),
)

V1_I = Vector(
    "V1-I",
    "vllm_v1",
    plain((3, 4, 0), (5, 3, 1), (2, 2, 2)),
    synchronous(blocks=64, max_num_batched_tokens=3),
    steps(
        [
            "run 0:3 ->",
            "run 0:1 1:2 ->",
            "run 0:1 1:2 ->",
            "run 0:1 1:1 2:1 -> emit 0 1 finish 0",
            "run 1:1 2:1 -> emit 1 2",
            "run 1:1 2:1 -> finish 1 2",
        ]
    ),
)

V1_J = Vector(
    "V1-J",
    "vllm_v1",
    (*LOAD_J, Asked(4 * STEP_PS, ((4, 4),), 2)),
    synchronous(blocks=7),
    steps(
        [
            "run 0:31 1:15 2:15 3:3 -> emit 0 1 2 free 1",
            "run 0:1 1:1 2:1 3:12 -> emit 0 1 2 3 free 1",
            "run 0:1 1:1 preempt 3 2 wait 2 3 -> free 1",
            "run 0:1 1:1 -> finish 0 free 4",
            "run 1:1 2:1 3:16 4:4 -> emit 1 2 3 4 free 0",
            "run 1:1 2:1 3:1 preempt 4 -> finish 1 free 2",
            "run 2:1 3:1 4:5 -> finish 4 free 2",
            "run 2:1 3:1 -> finish 2 free 4",
            "run 3:1 -> finish 3 free 6",
        ]
    ),
)
V1_K = Vector(
    "V1-K",
    "vllm_v1",
    LOAD_J,
    synchronous(blocks=7, prefix_caching=False),
    steps(
        [
            "run 0:31 1:15 2:15 3:3 -> emit 0 1 2 free 1",
            "run 0:1 1:1 2:1 3:12 -> emit 0 1 2 3 free 1",
            "run 0:1 1:1 preempt 3 2 wait 2 3 -> free 1",
            "run 0:1 1:1 -> finish 0 free 4",
            "run 1:1 2:17 3:16 -> emit 1 2 3 free 1",
            "run 1:1 2:1 3:1 -> finish 1 free 2",
            "run 2:1 3:1 ->",
            "run 2:1 3:1 -> finish 2 free 4",
            "run 3:1 -> finish 3 free 6",
        ]
    ),
)

V1_ASYNC = Vector(
    "V1-async (1 slot)",
    "vllm_v1",
    plain((20, 3, 0), (10, 2, 0)),
    {"blocks": 64, "max_num_seqs": 1, "asynchronous": True},
    (
        "S 0 run 0:20 wait 1",
        "S 1 run 0:1",
        "U 0 emit 0",
        "S 2 run 0:1",
        "U 1 emit 0",
        "S 3 run",
        "U 2 emit 0 finish 0 free 63",
        "S 4 run 1:10",
        "S 5 run 1:1",
        "U 4 emit 1",
        "S 6 run",
        "U 5 emit 1 finish 1",
    ),
)
V1_ASYNC_SLOTS = Vector(
    "V1-async (4 slots)",
    "vllm_v1",
    # b arrives while step 0 runs, so that call 2 is the first that sees it.
    (Asked(0, ((0, 20),), 3), Asked(STEP_PS // 2, ((1, 10),), 2)),
    {"blocks": 64, "max_num_seqs": 4, "asynchronous": True},
    (
        "S 0 run 0:20",
        "S 1 run 0:1",
        "U 0 emit 0",
        "S 2 run 0:1 1:10",
        "U 1 emit 0",
        "S 3 run 1:1",
        "U 2 emit 0 1 finish 0",
        "S 4 run",
        "U 3 emit 1 finish 1",
    ),
)

V1 = (V1_A, V1_B, V1_C, V1_D, V1_G, V1_G_GATE, V1_H, V1_I, V1_J, V1_K, V1_ASYNC, V1_ASYNC_SLOTS)

V0_1 = Vector(
    "v0-1",
    "vllm_v0",
    (*LOAD_J, Asked(4 * STEP_PS, ((4, 4),), 2)),
    {"blocks": 6},
    steps(
        [
            "run 0:31 1:15 2:15 3:15 -> emit 0 1 2 3 free 1",
            "run 0:1 1:1 2:1 3:1 -> free 1",
            "run 0:1 1:1 preempt 3 2 -> free 1",
            "run 0:1 1:1 -> finish 0 free 4",
            "run 2:17 3:17 wait 4 -> emit 2 3 free 0",
            "run 1:1 2:1 preempt 3 wait 3 4 -> free 2",
            "run 3:18 -> emit 3 free 0",
            "run 1:1 2:1 preempt 3 -> finish 1 free 4",
            "run 3:19 4:4 -> emit 3 4 free 1",
            "run 2:1 3:1 4:1 -> finish 2 3 4 free 6",
        ]
    ),
)
V0_2 = Vector(
    "v0-2",
    "vllm_v0",
    LOAD_A,
    {"blocks": 64, "chunked_prefill": True, "max_num_batched_tokens": 32},
    steps(
        [
            "run 0:32 -> free 61",
            "run 0:8 1:10 2:14 -> free 53",
            "run 0:1 1:1 2:30 -> free 53",
            "run 0:1 1:1 2:30 -> free 57",
            "run 2:26 -> free 57",
            "run 2:1 -> free 64",
        ]
    ),
)
V0_3 = Vector(
    "v0-3",
    "vllm_v0",
    plain((40, 3, 0), (10, 3, 0), (60, 2, 1), (10, 2, 1)),
    {"blocks": 64, "max_num_batched_tokens": 64},
    steps(
        [
            "run 0:40 1:10 ->",
            "run 2:60 ->",
            "run 3:10 ->",
            "run 0:1 1:1 2:1 3:1 -> finish 2 3",
            "run 0:1 1:1 -> finish 0 1",
        ]
    ),
)

V0 = (V0_1, V0_2, V0_3)

SARATHI_A = Vector(
    "sarathi",
    "sarathi",
    LOAD_A,
    {"blocks": 64, "chunk_size": 32},
    # Blocks held: a 3, then a 3, b 1, c 7 until a and b finish in step 3, then c 7.
    steps(
        [
            "run 0:32 free 61 -> free 61",
            "run 0:8 1:10 2:14 free 53 -> free 53",
            "run 0:1 1:1 2:30 free 53 -> free 53",
            "run 0:1 1:1 2:30 free 53 -> finish 0 1 free 57",
            "run 2:26 free 57 -> free 57",
            "run 2:1 free 57 -> finish 2 free 64",
        ]
    ),
)

SARATHI = (SARATHI_A,)

SG_A = Vector(
    "SG-A",
    "sglang",
    LOAD_A,
    {"pool_tokens": 1000, "chunked_prefill_size": 32, "insert_outputs": False},
    steps(
        [
            "run 0:32 -> free 968",
            "run 0:8 1:10 2:14 -> emit 0 1 free 936",
            "run 2:32 ->",
            "run 2:32 ->",
            "run 2:22 -> emit 2 free 850",
            "run 0:1 1:1 2:1 -> finish 2 free 848",
            "run 0:1 1:1 -> finish 0 1 free 850",
        ]
    ),
)
SG_B = Vector(
    "SG-B",
    "sglang",
    plain((20, 16, 0), (10, 16, 0), (12, 16, 0)),
    {"pool_tokens": 60, "chunked_prefill_size": 512, "insert_outputs": False},
    steps(
        [
            "run 0:20 wait 1 2 ->",
            "run 1:10 wait 2 ->",
            *["run 0:1 1:1 wait 2 -> finish"] * 14,
            "run 0:1 1:1 wait 2 -> finish 0 1",
            "run wait 2",
            "run 2:12 ->",
            *["run 2:1 -> finish"] * 14,
            "run 2:1 -> finish 2",
        ]
    ),
)
SG_B_RATIO = (16, 0.6849)
"""After which step, and `new_token_ratio` then; the page cuts it to four digits."""
SG_C = Vector(
    "SG-C",
    "sglang",
    LOAD_C,
    {"pool_tokens": 1000, "insert_outputs": False},
    steps(
        [
            "run 0:64 1:64 -> free 936",
            "run 0:1 1:1 -> finish 0 1",
            "run 2:1 3:20 hit 2:63 3:33 ->",
            "run 2:1 3:1 -> finish 2 3",
        ]
    ),
)
SG_F = Vector(
    "SG-F",
    "sglang",
    plain((12, 14, 0), (10, 14, 1), (8, 14, 2), (4, 3, 3)),
    {"pool_tokens": 48, "conservativeness": 0.1, "insert_outputs": False},
    steps(
        [
            "run 0:12 ->",
            "run 1:10 ->",
            "run 2:8 ->",
            "run 3:4 -> free 14",
            "run 0:1 1:1 2:1 3:1 -> free 10",
            "run 0:1 1:1 2:1 3:1 -> finish 3 free 8",
            "run 0:1 1:1 2:1 -> free 5",
            "run 0:1 1:1 2:1 -> free 2",
            "run 0:1 1:1 2:1 -> free 3",
            "run 0:1 1:1 2:1 -> free 0",
            "run 2:1 1:1 preempt 0 -> free 16",
            *["run 2:1 1:1 -> finish"] * 5,
            "run 2:1 1:1 -> finish 2 1",
            "run wait 0",
            "run 0:19 ->",
            *["run 0:1 -> finish"] * 5,
            "run 0:1 -> finish 0",
        ]
    ),
)
SG_F_RATIO = (10, 1.0)
"""After which step, and `new_token_ratio` then."""

SGLANG = (SG_A, SG_B, SG_C, SG_F)
