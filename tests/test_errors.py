import pytest

from attacc.errors import (
    AttaccError,
    CapacityError,
    DocumentError,
    EngineError,
    InputError,
    Shortfall,
    UnknownNameError,
    nearest_hint,
)


def test_the_tree() -> None:
    """Catches an error that the command line would not report, or report with the wrong code."""
    for error in (DocumentError, UnknownNameError, CapacityError):
        assert issubclass(error, InputError)
    assert issubclass(InputError, AttaccError)
    assert issubclass(EngineError, AttaccError)
    assert not issubclass(EngineError, InputError)


@pytest.mark.parametrize(
    ("where", "hint", "text"),
    [
        (None, None, "what"),
        ("a.toml: x", None, "a.toml: x: what"),
        (None, "do", "what (do)"),
        ("a", "do", "a: what (do)"),
    ],
)
def test_messages_name_place_and_way_out(where: str | None, hint: str | None, text: str) -> None:
    """Catches a message that loses one of its parts."""
    error = InputError("what", where=where, hint=hint)
    assert str(error) == text
    assert (error.message, error.where, error.hint) == ("what", where, hint)


@pytest.mark.parametrize(
    ("name", "choices", "hint"),
    [
        ("gtp3", ["gpt3", "opt"], "did you mean 'gpt3'? choose from gpt3, opt"),
        ("GPT3", ["gpt3"], "did you mean 'gpt3'? choose from gpt3"),
        ("nrcd", ["nRAS", "nRCD"], "did you mean 'nRCD'? choose from nRAS, nRCD"),
        ("Macab", ["MACAB", "SFM"], "did you mean 'MACAB'? choose from MACAB, SFM"),
        ("mw", ["W", "mW", "MW"], "did you mean 'MW' or 'mW'? choose from MW, W, mW"),
        ("xyz", ["b", "a"], "choose from a, b"),
        ("xyz", [], "there are none"),
    ],
)
def test_the_nearest_choices(name: str, choices: list[str], hint: str) -> None:
    """Catches proposals that depend on upper and lower case, and lists that are not sorted."""
    assert nearest_hint(name, choices) == hint


def test_a_name_that_shares_its_beginning_only_is_not_proposed() -> None:
    """Catches a model of one architecture that is proposed for one of another."""
    message = str(UnknownNameError("model preset", "qwen3_moe", ["qwen3-32b"]))
    assert message == "unknown model preset 'qwen3_moe' (choose from qwen3-32b)"


def test_a_long_name_is_not_quoted_whole() -> None:
    """Catches a document that was given for a name, and fills the terminal."""
    assert len(str(UnknownNameError("GPU model", "x" * 10_000, ["published"]))) < 200


def test_an_unknown_name() -> None:
    """Catches a message without the kind of thing that is unknown."""
    error = UnknownNameError("model preset", "gtp3", iter(["gpt3"]), where="--model")
    assert str(error) == (
        "--model: unknown model preset 'gtp3' (did you mean 'gpt3'? choose from gpt3)"
    )
    assert (error.kind, error.name) == ("model preset", "gtp3")


def test_a_shortfall_is_told_in_bytes() -> None:
    """Catches a shortfall whose size or remedy the user has to work out."""
    shortfall = Shortfall("memory of the GPUs", 350e9, 80e9)
    assert shortfall.missing_bytes == 270e9
    error = CapacityError(shortfall, where="dgx", hint="take 5 GPUs")
    assert str(error) == (
        "dgx: memory of the GPUs: 350.00 GB needed, 80.00 GB available, 270.00 GB too little "
        "(take 5 GPUs)"
    )
    assert error.shortfall is shortfall
