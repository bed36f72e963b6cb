"""The how-to that asks whether AttAcc pays for traffic, and the script that makes its figures."""

import json
import re
import shlex
from pathlib import Path

import pytest

from attacc.hardware.system import load_system
from attacc.models.huggingface import load_model
from attacc.service import Targets
from attacc.workload.arrivals import poisson
from attacc.workload.requests import Requests
from benchmarks import traffic
from tests.cli.console import invoke

pytestmark = pytest.mark.untraced  # other tests reach these lines, too

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "traffic.md"
TRACES = ROOT.parent / "shared" / "data" / "traces"


STREAM = Requests.fixed(500, 40, 30).with_arrivals(poisson(30, 1.0, seed=3))


@pytest.fixture(scope="module")
def solved() -> traffic.Solved:
    """Thirty requests on GPUs alone, with AttAccs, with plain HBM, and with too little memory."""
    names = ("8xh200", "8xh200-attacc-hbm3-shared")
    systems = traffic.beside(*names)
    systems["small"] = load_system("8xh100", name="small", gpus=1)
    case = traffic.Case(
        "Llama 3.1 70B",
        load_model("llama-3.1-70b"),
        traffic.Traffic("tiny", STREAM, Targets(500, 30)),
        systems,
        ("tp=8", "tp=4"),
        drawn=True,
    )
    return [(case, traffic.solved(case))]


def test_rates_are_those_of_all_replicas(solved: traffic.Solved) -> None:
    """Catches a rate of one replica that is told as that of the system."""
    outcome = solved[0][1]["8xh200"]
    assert isinstance(outcome, traffic.Outcome)
    assert outcome.requests_per_s == outcome.replicas * outcome.found.requests_per_s
    assert outcome.found.attainment >= traffic.SHARE
    assert 0 < outcome.shares.prefill < 1
    assert outcome.shares.attention is not None
    assert 0 < outcome.shares.attention < 1


def test_tables_have_a_row_for_each_system(solved: traffic.Solved) -> None:
    """Catches a system that does not fit and vanishes, and a baseline that gains over itself."""
    rows = traffic.rates_table(solved)[2:]
    assert [row.split(" | ")[3] for row in rows] == list(solved[0][1])
    assert " | 1 | " in rows[0]
    assert rows[2].endswith("| - |"), "stacks as plain HBM have no price"
    assert rows[3].endswith("| - | - | - | - | - |")
    assert len(traffic.reasons_table(solved)) == 2 + 3
    width = {row.count(" | ") for row in traffic.reasons_table(solved)[2:]}
    assert len(width) == 1


def test_the_page_gets_tables_sentences_and_a_figure(
    solved: traffic.Solved, tmp_path: Path
) -> None:
    """Catches a writer that eats the text around its markers, and a burst that is given a gain."""
    pytest.importorskip("matplotlib")
    page, figure = tmp_path / "page.md", tmp_path / "figure.svg"
    page.write_text(f"before\n{traffic.START}\nold\n{traffic.END}\nafter\n", encoding="utf-8")
    traffic.write(solved, page, figure)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    burst = "**Llama 3.1 70B, tiny, 8xh200.** The run of the GPUs alone is too short for this load."
    assert burst in text, "thirty requests that come within a second are a burst"
    assert "tiny, Llama 3.1 70B" in figure.read_text(encoding="utf-8")


def test_the_reasoning_load_has_short_prompts_and_long_outputs() -> None:
    """Catches lengths that are swapped."""
    requests = traffic.reasoning(400)
    assert 800 < requests.prompt_tokens.mean() < 1200
    assert 7000 < requests.output_tokens.mean() < 9000


def test_the_traces_are_read() -> None:
    """Catches a trace that is called otherwise, and counts that are ignored."""
    if not TRACES.exists():
        pytest.skip("the traces of Azure and Mooncake are not here")
    kinds = traffic.kinds_of_traffic(TRACES, 20)
    assert {len(kind.requests) for kind in kinds.values()} == {20}
    assert kinds["mooncake"].requests.prefix_hashes is not None


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an option that is called otherwise."""
    monkeypatch.chdir(tmp_path)
    # All at once they miss the targets: prompts of 600,000 tokens take more than two seconds.
    rows = [f"2023-11-16 18:15:{at:02d}.0000000,12000,9" for at in range(50)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    (tmp_path / "traffic.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    commands = re.findall(r"^attacc (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        result = invoke(*shlex.split(command))
        assert result.exit_code == 0, result.output
        if "--json" in command:
            assert json.loads(result.stdout)
