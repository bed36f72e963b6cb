"""Requests of LLMServingSim (casys-kaist/LLMServingSim), and the runs that it records of vLLM.

Its workloads have input_toks, output_toks and arrival_time_ns, and may have the ids of the prompt's
tokens (input_tok_ids). Its recorded runs have request_id, input_toks, output_toks and arrival_time
(s).
"""

from __future__ import annotations

from array import array
from typing import Final, cast

from attacc.errors import DocumentError
from attacc.units import NS_PER_S
from attacc.workload.formats.columns import (
    Columns,
    RequestRows,
    Source,
    output_tokens,
    prompt_of,
    shown,
    time_of,
)
from attacc.workload.formats.lines import Ids, LineReader, Record, list_of, need

BLOCK_TOKENS: Final = 16
"""Tokens of the blocks into which prompts with known tokens are cut: those of vLLM's cache."""
_LENGTHS: Final = ("input_toks", "output_toks")


class LlmServingSim(LineReader):
    """Workloads of LLMServingSim."""

    told = "workload in LLMServingSim's format"
    keys: Final = (*_LENGTHS, "arrival_time_ns")

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._rows = RequestRows(source, per_s=NS_PER_S, block_tokens=BLOCK_TOKENS)
        self._blocks: dict[tuple[int, bytes], int] = {}

    @classmethod
    def knows(cls, record: Record) -> bool:
        """Return whether an object has a key of the format."""
        return bool(record.keys() & {*cls.keys, "sub_requests"})

    def add(self, record: Record, at: str) -> None:
        """Read a request."""
        if "sub_requests" in record:
            raise DocumentError(
                "is a session: its requests wait for the answers before them",
                where=at,
                hint="write each of its sub_requests in a line, with an arrival_time_ns",
            )
        need(record, self.keys, at)
        time = time_of(record["arrival_time_ns"], "arrival_time_ns", "ns", at)
        prompt, output = _lengths(record, at, self.source)
        ids = record.get("input_tok_ids")
        self._rows.add(prompt, output, time, [] if ids is None else self._ids(ids, prompt, at))

    def _ids(self, value: object, prompt: int, at: str) -> list[int]:
        """Return an id for each block of a prompt: equal where the prompt is equal up to its end.

        The last block may be partial. It is equal to another partial block of the same tokens only.
        """
        listed = list_of(value, "input_tok_ids", at, "leave it out, or list the prompt's tokens")
        for token in listed:
            if type(token) is not int or not 0 <= token < 2**63:
                raise DocumentError(
                    f"input_tok_ids has {shown(token)}, which is no token",
                    where=at,
                    hint="expected whole numbers, 0 or more",
                )
        if len(listed) != prompt:
            raise DocumentError(
                f"input_tok_ids has {len(listed)} tokens, and input_toks is {prompt}",
                where=at,
                hint="leave input_tok_ids out, or list all tokens of the prompt",
            )
        ids: list[int] = []
        block = -1
        for start in range(0, prompt, BLOCK_TOKENS):
            text = array("q", cast(list[int], listed[start : start + BLOCK_TOKENS])).tobytes()
            block = self._blocks.setdefault((block, text), len(self._blocks))
            ids.append(block)
        return ids

    def columns(self) -> Columns:
        """Return the requests so far."""
        return self._rows.columns()


class RecordedRun(LineReader):
    """Requests of a run of vLLM, as LLMServingSim's benchmark records it."""

    told = "recorded run of vLLM"
    keys: Final = (*_LENGTHS, "arrival_time")

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._rows = RequestRows(source)
        self._seen = Ids("request_id")

    @classmethod
    def knows(cls, record: Record) -> bool:
        """Return whether an object has the keys of a recorded run."""
        return "arrival_time" in record and bool(record.keys() & set(_LENGTHS))

    def add(self, record: Record, at: str) -> None:
        """Read a request."""
        need(record, self.keys, at)
        self._seen.check(record, at)
        time = time_of(record["arrival_time"], "arrival_time", "s", at)
        prompt, output = _lengths(record, at, self.source)
        self._rows.add(prompt, output, time)

    def columns(self) -> Columns:
        """Return the requests so far."""
        return self._rows.columns()


def _lengths(record: Record, at: str, source: Source) -> tuple[int, int]:
    """Return the tokens of a request's prompt and output."""
    output = output_tokens(record["output_toks"], "output_toks", at, source)
    return prompt_of(record["input_toks"], output, "input_toks", at, source), output
