"""Writing text with a model whose attention runs on a device, token by token.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import torch
from transformers import TextStreamer

from attacc.errors import InputError
from attacc.integrations.huggingface_attention import attach
from attacc.integrations.huggingface_models import LanguageModel
from attacc.integrations.huggingface_session import Session, Step
from attacc.pim.host.device import HostDevice
from attacc.pim.numerics.arithmetic import kv_format
from attacc.study.generated import Generated, GeneratedPrefill, GeneratedStep, Sampling


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was written.

    Attributes:
        number: number of the token in the vocabulary.
        step: the decode step that gave the token; None for the first token, which prefill gives.
        wall_s: wall time of that step, or of prefill, on this machine.
    """

    number: int
    step: Step | None
    wall_s: float


@contextmanager
def threads_of_host(number: int | None) -> Generator[None]:
    """Set the number of torch's threads for the block; None leaves it unchanged."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def generate(
    language_model: LanguageModel,
    session: Session,
    prompt: list[int],
    *,
    tokens: int,
    sampling: Sampling,
) -> Iterator[Token]:
    """Write tokens after a prompt, until the model ends its text or all tokens are written.

    Args:
        language_model: the model, which the session has attached.
        session: the session, which must be entered.
        prompt: tokens of the prompt, at least one.
        tokens: most tokens to write.
        sampling: how tokens are chosen.

    Yields:
        Each token when it is known, and also the token that ends the text.

    Raises:
        InputError: the model has fewer positions than prompt and tokens need.
        CapacityError: the keys and values of prompt and tokens may not fit into the device.
    """
    positions = language_model.positions
    if positions is not None and len(prompt) + tokens > positions:
        raise InputError(
            f"{len(prompt)} tokens of the prompt and {tokens} more are beyond the {positions} "
            "positions of the model",
            where="max_tokens",
            hint="ask for less, or shorten the prompt",
        )
    choose = _chooser(sampling)
    cache = session.cache()

    def next_after(given: list[int]) -> Token:
        begin = perf_counter()
        steps_before = len(session.steps)
        # The block must not contain the yields: it would then apply to the caller's code, too.
        with torch.inference_mode():
            output = session.forward(torch.tensor([given]), cache, logits_to_keep=1)
            number = choose(output.logits[0, -1])
        # A prompt of several tokens is a prefill. A prompt of a single token is a decode step.
        step = session.steps[-1] if len(session.steps) > steps_before else None
        return Token(number, step, perf_counter() - begin)

    try:
        token = next_after(prompt)
        session.check_room(tokens - 1)
        yield token
        for _ in range(tokens - 1):
            if token.number in language_model.ends:
                break
            token = next_after([token.number])
            yield token
    finally:
        cache.free()


class Pieces(TextStreamer):
    """Turns tokens into pieces of text that consist of whole words.

    Args:
        language_model: the model that the tokens belong to.
        take: function that is called with each piece.
    """

    def __init__(self, language_model: LanguageModel, take: Callable[[str], None]) -> None:
        super().__init__(language_model.tokenizer, skip_special_tokens=True)
        self._take = take

    def put(self, value: int) -> None:
        """Take the next token."""
        cast("Any", super()).put(torch.tensor([value]))

    # transformers decides the name and the signature.
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002, FBT001
        """Pass a piece on. transformers calls this method."""
        if text:
            self._take(text)


def write_text(
    language_model: LanguageModel,
    device: HostDevice,
    prompt: str,
    *,
    tokens: int,
    sampling: Sampling,
    kv: str = "fp16",
    chat: bool = True,
    threads: int | None = None,
    take: Callable[[str], None] | None = None,
) -> Generated:
    """Write text with a model whose attention runs on a device, and return the costs.

    Args:
        language_model: the loaded model.
        device: the device. All its requests are freed first.
        prompt: the text that the model answers or continues.
        tokens: most tokens to write.
        sampling: how tokens are chosen.
        kv: name of the format of keys and values (`kv_format`).
        chat: whether the prompt goes into the model's template for conversations.
        threads: number of torch's threads; None leaves it unchanged.
        take: function that is called with each piece of the text as it is written.

    Raises:
        InputError: the device cannot compute the model's attention.
        CapacityError: keys and values do not fit into the device.
    """
    pieces: list[str] = []

    def keep(piece: str) -> None:
        pieces.append(piece)
        if take is not None:
            take(piece)

    element, _ = kv_format(kv)
    given = language_model.prompt(prompt, chat=chat)
    session = attach(language_model.model, device, element=element)
    with threads_of_host(threads), session:
        text = Pieces(language_model, keep)
        written: list[Token] = []
        for token in generate(language_model, session, given, tokens=tokens, sampling=sampling):
            written.append(token)
            text.put(token.number)
        text.end()
        prefill = session.prefills[0].appended if session.prefills else None
    hardware = device.hardware
    return Generated(
        model=language_model.name,
        host_dtype=language_model.host_type,
        device=hardware.device.name,
        placement=hardware.placement,
        devices=hardware.devices,
        stacks_per_device=hardware.stacks_per_device,
        link=hardware.link.name,
        power_limited=hardware.power_limited,
        queries_per_read=hardware.queries_per_read,
        kv=kv,
        accumulate=device.arithmetic.accumulator,
        temperature=sampling.temperature,
        seed=sampling.seed,
        prompt=prompt,
        text="".join(pieces),
        tokens=len(written),
        ended=written[-1].number in language_model.ends,
        prefill=GeneratedPrefill(
            tokens=len(given),
            bytes_in=0 if prefill is None else prefill.link.inward,
            link_ns=0.0 if prefill is None else prefill.link_ns,
            saturated=0 if prefill is None else prefill.saturated,
            host_wall_s=written[0].wall_s,
        ),
        steps=tuple(_steps(language_model, given, written)),
    )


def _steps(
    language_model: LanguageModel, given: list[int], tokens: list[Token]
) -> Iterator[GeneratedStep]:
    """Yield the costs of the attention of each token."""
    # The query of a step belongs to the token before the token that the step gives.
    attending = [given[-1], *(token.number for token in tokens)]
    for number, token in zip(attending, tokens, strict=False):
        step = token.step
        if step is not None:
            cost, link = step.attention, step.link
            yield GeneratedStep(
                token=number,
                text=language_model.text_of(number),
                keys=step.keys,
                cycles=cost.cycles,
                time_ns=cost.time_ns,
                energy_pj=cost.energy_pj,
                link_ns=step.link_ns,
                link_pj=step.link_pj,
                bytes_in=link.inward,
                bytes_out=link.outward,
                bank_read_bytes=cost.bank_read_bytes,
                read_over_link=cost.bank_read_bytes / link.total,
                saturated=step.appended.saturated,
                host_wall_s=token.wall_s,
            )


def _chooser(sampling: Sampling) -> Callable[[torch.Tensor], int]:
    """Return a function that chooses a token from the scores of all tokens."""
    if sampling.temperature == 0:
        return lambda scores: int(scores.argmax())
    generator = torch.Generator().manual_seed(sampling.seed)

    def draw(scores: torch.Tensor) -> int:
        shares = torch.softmax(scores.double() / sampling.temperature, dim=-1)
        return int(torch.multinomial(shares, 1, generator=generator))

    return draw
