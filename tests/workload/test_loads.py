"""Synthetic loads: lengths as text, and requests that are drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from attacc.errors import InputError
from attacc.workload.generated import Fixed, LogNormal, Resampled, Uniform
from attacc.workload.loads import lengths_of, lengths_source, synthetic_load
from attacc.workload.requests import Requests
from tests.cli.console import answer, refusal


def test_lengths_are_read() -> None:
    """Catches a bound that is lost, and a spread that is taken in tokens."""
    assert lengths_of("1024", where="--prompt") == Fixed(1024)
    assert lengths_of(" 512..2048 ", where="--prompt") == Uniform(512, 2048)
    assert lengths_of("1024~0.5", where="--prompt") == LogNormal(1024.0, 512.0)
    assert lengths_of("1e3~2..8192", where="--prompt") == LogNormal(1000.0, 2000.0, 1, 8192)


@pytest.mark.parametrize(
    "text", ["", "many", "-5", "1.5", "0", "5..3", "0..3", "100~-1", "~1", "100~", "1~1~1", "١٢"]
)
def test_what_is_no_length_is_refused(text: str) -> None:
    """Catches a text that is read as something else, or that fails with a traceback."""
    with pytest.raises(InputError):
        lengths_of(text, where="--prompt")


def test_a_load_has_the_lengths_and_the_rate_that_were_asked_for() -> None:
    """Catches a mean of logarithms, and arrivals of another rate or burstiness.

    20,000 draws have a mean within 3 %, and a standard deviation within 6 %: four times the
    standard errors of a lognormal distribution with this spread.
    """
    load = synthetic_load(
        20_000, ("1000~1.0", "64..192"), requests_per_s=50.0, burstiness=0.25, seed=3
    )
    assert load.arrival_s is not None
    assert load.prompt_tokens.mean() == pytest.approx(1000, rel=0.03)
    assert load.prompt_tokens.std() == pytest.approx(1000, rel=0.06)
    assert (load.output_tokens.min(), load.output_tokens.max()) == (64, 192)
    assert load.arrival_s[-1] == pytest.approx(20_000 / 50.0)
    gaps = np.diff(load.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.06)


def test_arrivals_tell_nothing_of_lengths() -> None:
    """Catches one stream of random numbers for both: then gaps and lengths rise together."""
    load = synthetic_load(20_000, ("1000~1.0", "1000~1.0"), requests_per_s=1.0, seed=0)
    assert load.arrival_s is not None
    gaps = np.diff(load.arrival_s, prepend=0.0)
    ranks = [one.argsort().argsort() for one in (gaps, load.prompt_tokens, load.output_tokens)]
    # The standard error of a correlation is 0.007 here.
    assert np.abs(np.corrcoef(ranks) - np.eye(3)).max() < 0.03


def test_equal_seeds_give_equal_loads() -> None:
    """Catches chance that the seed does not rule."""
    one, same, other = (
        synthetic_load(50, ("100~0.5", "20"), requests_per_s=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert one.prompt_tokens.tolist() == same.prompt_tokens.tolist()
    assert one.arrival_s is not None
    assert same.arrival_s is not None
    assert one.arrival_s.tolist() == same.arrival_s.tolist()
    assert one.source == same.source
    assert one.prompt_tokens.tolist() != other.prompt_tokens.tolist()
    assert synthetic_load(3, ("5", "6")).arrival_s is None


def test_lengths_of_other_requests(tmp_path: Path) -> None:
    """Catches prompts and outputs that are drawn apart."""
    trace = tmp_path / "requests.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,1\n1,20,2\n2,30,3\n")
    load = synthetic_load(100, Resampled(lengths_source(trace)))
    pairs = {*zip(load.prompt_tokens.tolist(), load.output_tokens.tolist(), strict=True)}
    assert pairs == {(10, 1), (20, 2), (30, 3)}
    assert isinstance(lengths_source("azure-conv-2023"), Requests)


ASKED = ("serve", "--model", "llama-3.1-8b", "--set", "gpus=1")


def test_the_command_draws_what_the_library_draws() -> None:
    """Catches an option that is dropped on its way."""
    drawn = ("--synthetic", "30", "--prompt", "200~0.5", "--output", "4..8", "--seed", "7")
    first = json.loads(answer(*ASKED, *drawn, "--rate", "40", "--burstiness", "0.5", "--json"))
    load = synthetic_load(30, ("200~0.5", "4..8"), requests_per_s=40.0, burstiness=0.5, seed=7)
    assert first["completed"] == 30
    assert load.arrival_s is not None
    tokens = int(load.output_tokens.sum())
    assert first["output_throughput"] * first["duration_s"] == pytest.approx(tokens)
    assert first["duration_s"] > load.arrival_s[-1]
    closed = json.loads(answer(*ASKED, *drawn, "--closed-loop", "2", "--json"))
    assert closed["mean_running"] <= 2
    again = answer(*ASKED, *drawn, "--rate", "40", "--burstiness", "0.5", "--json")
    assert json.loads(again) == first


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "no requests are given"),
        (("a.csv", "--synthetic", "5", "--prompt", "9", "--output", "9"), "REQUESTS: --synthetic"),
        (("a.csv", "--prompt", "9"), "--prompt: --synthetic N"),
        (("--synthetic", "5", "--prompt", "9"), "--output: the lengths"),
        (("--synthetic", "5", "--prompt", "9", "--lengths-from", "a.csv"), "--prompt: --lengths-"),
        (("--synthetic", "5", "--prompt", "9", "--output", "x"), "--output: 'x' is no"),
        (
            ("--synthetic", "5", "--prompt", "9", "--output", "9", "--burstiness", "2"),
            "--burstiness: requests without a rate",
        ),
        (
            ("--synthetic", "5", "--prompt", "9", "--output", "9", "--requests", "2"),
            "--requests: --synthetic",
        ),
        (
            ("--synthetic", "5", "--prompt", "9", "--output", "9", "--find-rate"),
            "--find-rate: drawn requests have no rate",
        ),
        (("a.csv", "--rate", "2", "--closed-loop", "2"), "--rate: clients"),
    ],
)
def test_what_does_not_go_together_is_refused(options: tuple[str, ...], told: str) -> None:
    """Catches an option that is dropped in silence, and an error without its option."""
    assert told in " ".join(refusal("serve", *options).split())
