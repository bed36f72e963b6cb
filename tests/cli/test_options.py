"""Numbers on the command line: every option that is one takes the same forms."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.models import OptionInfo

from attacc.attention import read_lengths
from attacc.cli import options
from attacc.cli.main import app
from attacc.errors import InputError
from tests.cli.console import refusal

TAKEN_BY_PYTHON = ["1_0", "\u0661\u0660", "\uff11\uff10", " 10", "10 ", "+10", "1e1_0"]
"""Texts that ``int`` or ``float`` take for 10, or for about that, and that nobody documents."""
NO_NUMBERS = ["", "-", "ten", "0x10", "1,5", "--1", "\u00bd", "\u00b2", "nan", "inf", "Infinity"]


def commands(group: typer.Typer) -> Iterator[Callable[..., Any]]:
    """Give what every command calls."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance)


def numbers() -> Iterator[tuple[str, str, OptionInfo]]:
    """Give every option that is a number: its command, its name, and what typer knows of it."""
    for command in commands(app):
        for name, annotation in get_type_hints(command, include_extras=True).items():
            kind, *extras = get_args(annotation) or (annotation,)
            if {int, float} & {kind, *get_args(kind)}:
                (option,) = extras
                assert isinstance(option, OptionInfo)
                yield command.__name__, "--" + name.replace("_", "-"), option


NUMBERS = [
    pytest.param(name, option, id=f"{command} {name}") for command, name, option in numbers()
]


def test_every_number_of_every_command_is_found() -> None:
    """Catches tests below that pass because they look at nothing."""
    names = {parameter.id for parameter in NUMBERS}
    assert len(NUMBERS) > 25
    assert names >= {"compare --seed", "fit --folds", "extrapolate --rows", "check --temperature"}


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_an_option_takes_ascii_digits_only(name: str, option: OptionInfo) -> None:
    """Catches an option left to typer's int, or a parser of its own, which takes 1_0 for 10."""
    assert option.parser is not None
    for text in (*TAKEN_BY_PYTHON, *NO_NUMBERS):
        with pytest.raises(InputError, match=r"is no (whole )?number") as caught:
            option.parser(text)
        assert str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("compare", "--batch", "1_0"), "--batch: '1_0' is no whole number"),
        (("attention", "--heads", "8", "--lengths", "1_0,2"), "--lengths: '1_0' is no whole"),
        (("attention", "--heads", "8", "--lengths", "10x\u0662"), "--lengths: '"),
        (("attention", "--heads", "8", "--length", "8", "--queries-per-read", "1_0"), "or all"),
        (("accuracy", "--length", "1_0"), "--length: '1_0' is no whole number"),
        (("gpu", "fit", "t.csv", "-o", "o.toml", "--folds", "1_0"), "--folds: '1_0' is no whole"),
        (("gpu", "extrapolate", "t.csv", "--rows", "1_0"), "--rows: '1_0' is no whole number"),
    ],
)
def test_numbers_inside_texts_take_the_same_forms(args: tuple[str, ...], named: str) -> None:
    """Catches a list, or a number that a word may replace, that is parsed apart."""
    assert named in refusal(*args)


def test_what_is_taken() -> None:
    """Catches a form that is documented and refused, and a bound that is off by one."""
    count = options.size("--x", most=20, least=0)
    assert [count(text) for text in ("0", "20", "007")] == [0, 20, 7]
    assert options.size("--x")(5) == 5, "a default comes as a number"
    for text in ("-1", "21", "9" * 5000):
        with pytest.raises(InputError, match="is out of range"):
            count(text)
    written = ("20", "-1", "0.5", ".5", "5.", "1.5e3", "1E-3")
    assert [options.number("--x")(text) for text in written] == [20, -1, 0.5, 0.5, 5, 1500, 0.001]
    with pytest.raises(InputError, match="'1e999' is no number"):
        options.number("--x")("1e999")
    assert options.seed("0") == 0
    assert options.seed(str(options.MAX_SEED)) == options.MAX_SEED == 2**63 - 1
    for text in ("-1", str(2**63)):
        with pytest.raises(InputError, match=r"--seed: .* is out of range"):
            options.seed(text)


def test_a_file_of_lengths_takes_the_same_forms(tmp_path: Path) -> None:
    """Catches lines that are parsed apart."""
    path = tmp_path / "lengths.txt"
    path.write_text("8\n\n 9 \n", encoding="utf-8")
    assert read_lengths(path) == [8, 9]
    path.write_text("8\n1_0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"lengths\.txt:2: '1_0' is no whole number"):
        read_lengths(path)


def test_a_list_may_be_longer_than_a_path() -> None:
    """Catches a list of names that is taken for the path of a file, which may have 255 letters."""
    assert (
        options.names([",".join(["8xh100-attacc-hbm3-shared"] * 20)], "--system")
        == ["8xh100-attacc-hbm3-shared"] * 20
    )
