"""The product against figures that the published system model printed."""

from math import isclose

import pytest

from tests.gpu.published_columns import energies_nj, times_ms
from tests.gpu.published_figures import ENERGIES, FIGURES, TIMES, Figures

COPIED = 1e-8
"""The figures carry nine digits."""


OF_GPUS = [figures for figures in FIGURES if not figures.run.placement]


@pytest.mark.parametrize("figures", FIGURES, ids=lambda f: f"{f.run.model}-{f.run.placement}")
def test_times_are_those_published(figures: Figures) -> None:
    """Catches any departure from the published formulas for time."""
    run = figures.run
    lengths = range(run.prompt + 1, run.prompt + run.output)
    computed = times_ms(run, dict.fromkeys(lengths, figures.attention_cycles))
    for column, printed in zip(TIMES, figures.times_ms, strict=True):
        assert isclose(computed[column], printed, rel_tol=COPIED), column


@pytest.mark.parametrize("figures", OF_GPUS, ids=lambda f: f.run.model)
def test_energies_are_those_published(figures: Figures) -> None:
    """Catches any departure from the published accounting of energy."""
    computed = energies_nj(figures.run)
    for column, printed in zip(ENERGIES, figures.energies_nj, strict=True):
        assert isclose(computed[column], printed, rel_tol=COPIED), column
