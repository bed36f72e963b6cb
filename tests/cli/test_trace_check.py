import gzip
import json
from pathlib import Path

import pytest

from tests.cli.console import answer, document, invoke, refusal


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The command log of a small attention, as the engine issues it."""
    trace, log = tmp_path / "a.trace", tmp_path / "a.log"
    answer("trace", "build", trace, "--heads", "20", "--length", "700", "--head-dim", "128")
    answer("trace", "run", trace, "--log", log)
    return log


def test_the_engines_log_is_legal(log: Path) -> None:
    """Catches an engine that breaks a rule, and an audit that looks at nothing."""
    checked = document("trace", "check", log)
    assert checked["legal"] is True
    assert checked["violations"] == []
    assert checked["placement"] == "bank"
    assert checked["commands"] == len(log.read_text().splitlines())
    assert checked["channels"] == list(range(16))
    assert "legal" in answer("trace", "check", log)


def test_another_cadence_is_a_violation_and_exits_with_3(log: Path, tmp_path: Path) -> None:
    """Catches an audit that ignores the cadence, and one whose verdict scripts cannot see."""
    fast = tmp_path / "fast.log"
    trace = tmp_path / "a.trace"
    answer("trace", "run", trace, "--no-power-limit", "--log", fast)
    result = invoke("trace", "check", fast, "--json")
    assert result.exit_code == 3
    checked = json.loads(result.stdout)
    assert checked["legal"] is False
    first = checked["violations"][0]
    assert first["rule"] == "MACAB -> MACAB: nCCDAB = 6 at channel"
    assert first["slack_cycles"] == -2
    assert first["after"]["cycle"] - first["before"]["cycle"] == first["actual_cycles"] == 4
    table = invoke("trace", "check", fast)
    assert table.exit_code == 3
    assert "nCCDAB = 6" in table.stdout
    assert checked["total"] == sum(rule["count"] for rule in checked["broken"])
    assert checked["total"] > len(checked["violations"]) >= 100
    shown = " ".join(table.stdout.split())  # the file's name may wrap the line
    assert f"and {checked['total'] - 20:,} more: --json lists the first 100" in shown
    assert f"breaks rules {checked['total']:,} times" in shown
    legal = document("trace", "check", fast, "--no-power-limit")
    assert legal["legal"] is True


def test_a_refresh_that_never_comes_has_no_command(tmp_path: Path) -> None:
    """Catches a table that fails on a violation without a command."""
    log = tmp_path / "late.log"
    log.write_text("1, ACTAB, 0, 0, 0, 0, 0, 0, 0\n20000, MACAB, 0, 0, 0, 0, 0, 0, 0\n")
    result = invoke("trace", "check", log)
    assert result.exit_code == 3
    assert "-" in result.stdout


def test_commands_far_apart_are_audited_at_once(tmp_path: Path) -> None:
    """Catches a record for every refresh that was missed in between: memory without end."""
    log = tmp_path / "far.log"
    log.write_text("1, ACTAB, 0, 0, 0, 0, 0, 0, 0\n1000000000000, MACAB, 0, 0, 0, 0, 0, 0, 0\n")
    result = invoke("trace", "check", log, "--json")
    assert result.exit_code == 3
    checked = json.loads(result.stdout)
    missed = 2 * (10**12 // 5070 - 1)
    assert checked["broken"] == [{"check": "late_refresh", "rule": None, "count": missed}]
    assert (checked["total"], len(checked["violations"])) == (missed, 100)
    table = invoke("trace", "check", log).stdout
    assert f"and {missed - 20:,} more" in table
    assert f"{missed:,}" in table.splitlines()[-1]


def test_placement_can_be_said_and_must_be_where_nothing_tells(tmp_path: Path) -> None:
    """Catches a guess where a log has no multiplies or those of two placements."""
    log = tmp_path / "moves.log.gz"
    log.write_bytes(gzip.compress(b"1, WRGB, 0, 0, 0, 0, 0, 0, 0\n"))
    message = refusal("trace", "check", log)
    assert "no placement" in message
    assert "say which placement is meant" in message
    assert document("trace", "check", log, "--placement", "buffer")["placement"] == "buffer"
    log = tmp_path / "mixed.log"
    log.write_text("1, ACTAB, 0, 0, 0, 0, 0, 0, 0\n9, MACSB, 0, 0, 0, 0, 0, 0, 0\n")
    assert "several placements" in refusal("trace", "check", log)
    assert "'bank'" in refusal("trace", "check", log, "--placement", "bnak")


def test_bad_logs_are_refused(tmp_path: Path) -> None:
    """Catches a malformed line that is skipped, and a file that is not there."""
    log = tmp_path / "bad.log"
    log.write_text("1, ACTAB, 0, 0, 0, 0, 0, 0, 0\n2, MACAB, zero\n")
    assert f"{log}:2: 3 fields" in refusal("trace", "check", log)
    assert "no such file" in refusal("trace", "check", tmp_path / "none.log")


def test_a_hot_stack_owes_refreshes(tmp_path: Path) -> None:
    """Catches an audit that ignores the temperature, or refreshes that may be postponed."""
    trace, log = tmp_path / "long.trace", tmp_path / "long.log"
    answer("trace", "build", trace, "--heads", "17", "--length", "3000", "--head-dim", "128")
    answer("trace", "run", trace, "--log", log)
    result = invoke("trace", "check", log, "--device", "hbm3-5.2", "--temperature", "95", "--json")
    assert result.exit_code == 3
    checks = {violation["check"] for violation in json.loads(result.stdout)["violations"]}
    assert "late_refresh" in checks
    hot = ["--device", "hbm3-5.2", "--temperature", "95", "--postponed-refreshes", "8"]
    assert document("trace", "check", log, *hot)["legal"] is True
    message = refusal("trace", "check", log, "--postponed-refreshes", "9")
    assert "postponed_refreshes = 9" in message


def test_a_multiply_for_several_queries_keeps_its_own_cadence(log: Path) -> None:
    """Catches an audit at the cadence of one query."""
    shared = ["--device", "hbm3-5.2", "--queries-per-read", "8"]
    result = invoke("trace", "check", log, *shared, "--json")
    assert result.exit_code == 3
    rules = {violation["rule"] for violation in json.loads(result.stdout)["violations"]}
    assert any("nCCDAB = 16" in rule for rule in rules)
