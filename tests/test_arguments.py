"""Arguments of the public face that are of another kind than it takes."""

# pyright: basic, reportArgumentType=false

from collections.abc import Callable

import numpy as np
import pytest

import attacc as aa
from attacc.errors import InputError


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: p.step(decode=5), "decode: 5 is no list of whole numbers"),
        (lambda p: p.step(decode=[1.5]), "decode: 1.5 is no whole number"),
        (lambda p: p.step(decode=np.array([1.5])), "decode: an array of float64"),
        (lambda p: p.step(decode=np.array([5, 0])), "decode: 0 is out of range"),
        (lambda p: p.step(prefill=[512]), "prefill: .512. is no list of chunks"),
        (lambda p: p.step(prefill=aa.Chunk(5)), "prefill: Chunk.* is no list of chunks"),
        (lambda p: p.step(), "step 0 has no requests"),
        (lambda p: p.steps([3]), "batches: .3. is no batches"),
        (lambda _: aa.Batches.of([1]), "steps: step 0 is 1"),
        (lambda _: aa.Batches.equal([1, 2], [3, 4, 5]), "2 numbers of requests, but 3 lengths"),
        (lambda _: aa.Chunk(-3), "new: -3 is out of range"),
        (lambda _: aa.Chunk(1, past=2, cached=3), "3 tokens are cached, of 2 past tokens"),
        (lambda p: p.largest_batch((2048,)), "requests: .* is no requests"),
        (lambda p: p.largest_batch((64, 4), slo_ms=-1), "slo_ms: -1.0 is out of range"),
        (lambda p: p.fits((64, 4), "a"), "batch: 'a' is no whole number"),
        (lambda _: aa.compare("llama-3.1-8b", 2048), "requests: 2048 is no requests"),
        (lambda _: aa.Requests.fixed(2048.5, 5), "prompt: 2048.5 is no whole number"),
        (lambda _: aa.Stack().attend(heads=3, length=4.5), "length: 4.5 is no whole number"),
        (lambda _: aa.Stack().attend(heads=3, length=4, head_dim="a"), "head_dim: 'a'"),
        (lambda _: aa.Stack().attend(heads=3, length=4, window_ns="a"), "window_ns: 'a'"),
        (lambda _: aa.Stack().attend_to([1.5]), "lengths: 1.5 is no whole number"),
        (lambda _: aa.Stack().attend(heads=1, length=9, element="int4"), "unknown element type"),
        (lambda _: aa.Stack(temperature_c="hot"), "temperature_c: 'hot' is no number"),
        (lambda _: aa.Stack(temperature_c=-500), "temperature_c: -500.0 is out of range"),
        (lambda _: aa.Stack(power_budget_w=float("nan")), "power_budget_w: nan is out of range"),
        (lambda _: aa.presets(3), "kind: 3 is no text"),
        (lambda _: aa.HostDevice("foo"), "use HostDevice.of"),
        (lambda _: aa.reproduce(3), "papers: 3 is no paper"),
        (lambda _: aa.load_system(None), "None is no system"),
        (lambda _: aa.load_system("dgx-attacc-bank", placement="bank"), "'attacc.placement'"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    ask: Callable[[aa.Pricer], object], message: str
) -> None:
    """Before, these were Python's own errors, or numbers that were cut off without a word."""
    with pytest.raises(InputError, match=message):
        ask(aa.Pricer("llama-3.1-8b", "dgx-attacc-bank"))
