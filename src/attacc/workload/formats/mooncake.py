"""Mooncake's traces (kvcache-ai/Mooncake, FAST'25), and AIPerf's mooncake_trace (ai-dynamo/aiperf).

An object has timestamp (ms), input_length, output_length and, where given, hash_ids: an id for each
block of 512 tokens of the prompt. The last block may be partial.

AIPerf adds two keys. A delay in place of timestamp is the time (ms) between the answer before and
this request. Requests of one session_id are turns of a conversation. AIPerf replays a turn behind
the turns before it, and input_length counts the new turn alone; lengths stay those of the file.
"""

from __future__ import annotations

from typing import Final, cast

from attacc.errors import DocumentError
from attacc.units import MS_PER_S
from attacc.workload.formats.columns import (
    Columns,
    RequestRows,
    Source,
    number,
    output_tokens,
    prompt_of,
    shown,
    time_of,
)
from attacc.workload.formats.lines import LineReader, Record, list_of, need

KEYS: Final = ("timestamp", "input_length", "output_length", "hash_ids")
_TEXTS: Final = ("text_input", "messages", "payload")
"""Keys under which AIPerf has a prompt as text."""


class Mooncake(LineReader):
    """Mooncake's format, with AIPerf's variants."""

    told = "trace in the Mooncake format"

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._rows = RequestRows(source, per_s=MS_PER_S)
        self._waiting = 0
        self._sessions = set[str]()
        self._later_turns = 0

    @classmethod
    def knows(cls, record: Record) -> bool:
        """Return whether an object has a key of the format other than that of the time."""
        return bool(record.keys() & {*KEYS[1:], _TEXTS[0]})

    def add(self, record: Record, at: str) -> None:
        """Read a request."""
        if "input_length" not in record and record.keys() & set(_TEXTS):
            key = next(key for key in _TEXTS if key in record)
            raise DocumentError(
                f"has {key} and no input_length: the length of its prompt is not known",
                where=at,
                hint="count the tokens of the prompt with the model's tokenizer, and write them "
                "as input_length",
            )
        time = self._time(record, at)
        need(record, KEYS[1:3], at, listed=KEYS[:3])
        session = record.get("session_id")
        if session is not None:
            self._later_turns += repr(session) in self._sessions
            self._sessions.add(repr(session))
        ids = record.get("hash_ids")
        blocks = [] if ids is None else block_ids(ids, KEYS[3], at)
        output = output_tokens(record["output_length"], "output_length", at, self.source)
        prompt = prompt_of(record["input_length"], output, "input_length", at, self.source)
        self._rows.add(prompt, output, time, blocks)

    def _time(self, record: Record, at: str) -> float | None:
        if record.get("timestamp") is None and record.get("delay") is not None:
            time_of(record["delay"], "delay", "ms", at)
            self._waiting += 1
            return None
        need(record, KEYS[:1], at, listed=KEYS[:3])
        return time_of(record["timestamp"], "timestamp", "ms", at)

    def columns(self) -> Columns:
        """Return the requests so far."""
        notes: list[str] = []
        if self._waiting:
            notes.append(
                "without times of arrival, since a delay counts from the answer before it: "
                f"{number(self._waiting)}"
            )
        if self._later_turns:
            notes.append(
                "later turns of sessions, whose prompts are taken without the turns before them: "
                f"{number(self._later_turns)}"
            )
        return self._rows.columns(*notes)


def block_ids(value: object, name: str, at: str) -> list[int]:
    """Return the ids of a prompt's blocks.

    Args:
        value: a value of a JSON text.
        name: its key.
        at: its file and place, for messages.

    Raises:
        DocumentError: it is no list of whole numbers of 64 bits.
    """
    blocks = list_of(value, name, at, "leave it out, or list the ids of the prompt's blocks")
    for block in blocks:
        if type(block) is not int or not -(2**63) <= block < 2**63:
            raise DocumentError(
                f"{name} has {shown(block)}, which is no id of a block",
                where=at,
                hint="expected whole numbers of 64 bits",
            )
    return cast(list[int], blocks)
