"""The short form of the campaign: a share of its inputs, the same ones every time.

An input that fails here is played again with ``python -m tests.campaign --reader NAME --replay
NUMBER``, which shows it.
"""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from attacc.errors import DocumentError
from tests.campaign.readers import READERS, WARM
from tests.campaign.runner import Reader, input_of, play

INPUTS = 150
"""Of each reader; the long form plays 100,000."""


@pytest.mark.untraced
@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_nothing_but_refusals_comes_out(reader: Reader, tmp_path: Path) -> None:
    """Another exception than a refusal, a warning, an input that takes seconds, a message that
    does not name the file, and values that cannot be."""
    if reader.name in WARM:
        WARM[reader.name]()
    outcome = play(reader, tmp_path, seed=0, first=0, count=INPUTS)
    assert [(fault.kind, fault.number, fault.detail) for fault in outcome.faults] == []
    # Both ways are taken: inputs that are all refused would test the first check only.
    assert outcome.accepted >= INPUTS // 50
    assert outcome.refused >= INPUTS // 50
    assert outcome.accepted + outcome.refused == INPUTS


def test_an_input_is_made_again_by_its_number() -> None:
    """A fault of the campaign that cannot be replayed."""
    for reader in READERS:
        assert input_of(reader, 3, 17) == input_of(reader, 3, 17)


def broken(path: Path) -> object:
    """Read text as a careless reader does."""
    match path.read_bytes()[:1]:
        case b"0":
            raise KeyError("no refusal")
        case b"1":
            while True:
                pass
        case b"2":
            return float("nan")
        case b"3":
            raise DocumentError("is bad", where="another file")
        case b"4":
            raise DocumentError("x" * 10_000, where=str(path))
        case _:
            raise DocumentError("is bad", where=str(path))


def test_the_campaign_finds_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign that finds nothing because it looks at nothing."""
    monkeypatch.setattr("tests.campaign.runner.MOST_SECONDS", 0.05)

    def make(random: Random) -> Mapping[str, bytes]:
        return {"a.txt": b"%d" % random.randrange(6)}

    outcome = play(Reader("broken", make, broken), tmp_path, seed=0, first=0, count=25)
    assert len(outcome.faults) == 5
    kinds = " ".join(outcome.times)
    for word in ("KeyError", "TooSlow", "is nan", "without the file's name", "of ##### char"):
        assert word in kinds
