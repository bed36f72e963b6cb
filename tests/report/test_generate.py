"""What stands below a text that was written."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from attacc.hardware.placement import Placement
from attacc.report.generate import generated_renderable
from attacc.study.generated import Generated, GeneratedPrefill, GeneratedStep

STEP = GeneratedStep(
    token=7,
    text="so",
    keys=40,
    cycles=11_550,
    time_ns=8882.0,
    energy_pj=25.91e6,
    link_ns=307.2,
    link_pj=958_464.0,
    bytes_in=57_600,
    bytes_out=34_560,
    bank_read_bytes=3_317_760,
    read_over_link=36.0,
    saturated=0,
    host_wall_s=0.05,
)
ANSWER = Generated(
    model="a-model-with-a-long-name-as-they-have-135M-Instruct.Q4_1.gguf",
    host_dtype="fp16",
    device="hbm3-5.2-asplos24",
    placement=Placement.BUFFER,
    devices=2,
    stacks_per_device=5,
    link="nvlink3",
    power_limited=True,
    queries_per_read=1,
    kv="fp8-e4m3",
    accumulate="fp32",
    temperature=0.0,
    seed=0,
    prompt="Why?",
    text="so",
    tokens=3,
    ended=True,
    prefill=GeneratedPrefill(37, 852_480, 1.0, 0, 1.25),
    steps=(STEP, replace(STEP, keys=41, bank_read_bytes=6_635_520, read_over_link=72.0)),
)


def rendered(answer: Generated) -> str:
    text = StringIO()
    Console(width=80, file=text, highlight=False).print(generated_renderable(answer))
    assert max(map(len, text.getvalue().splitlines())) <= 80
    assert "…" not in text.getvalue()
    return text.getvalue()


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("keys attended to", "40 41 40 81"),
        ("cycles", "11,550 11,550 11,550 23,100"),
        ("time in stacks", "8.882 µs 8.882 µs 8.882 µs 17.76 µs"),
        ("energy of link", "958.5 nJ 958.5 nJ 958.5 nJ 1.917 µJ"),
        ("read in banks", "3.318 MB 6.636 MB 4.977 MB 9.953 MB"),
        ("read / on link", "36.0 72.0 54.0 54.0"),
        ("wall time here", "50.00 ms 50.00 ms 50.00 ms 100.0 ms"),
    ],
)
def test_first_last_mean_and_all(row: str, cells: str) -> None:
    """A figure under the wrong heading, a mean over other tokens, a slipped unit."""
    (line,) = [line for line in rendered(ANSWER).splitlines() if line.startswith(row)]
    assert line.removeprefix(row).split() == cells.split()


def test_what_it_ran_on() -> None:
    text = rendered(ANSWER)
    assert "on 10 stacks of hbm3-5.2-asplos24" in text
    assert "written: 3 tokens, the end, at 20 tokens/s" in text
    assert "on 1 stack of" in rendered(replace(ANSWER, devices=1, stacks_per_device=1))


def test_no_steps() -> None:
    """A mean of nothing."""
    assert "none was attended from" in rendered(replace(ANSWER, steps=(), ended=False))


def test_a_table_has_a_row_for_each_token() -> None:
    """Catches a notebook that shows the text's parameters and none of its costs."""
    frame = ANSWER.to_frame()
    assert frame["keys"].to_list() == [40, 41]
    assert ANSWER.to_dict()["prefill"]["bytes_in"] == 852_480
