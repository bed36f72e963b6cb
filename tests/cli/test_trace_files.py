"""Unusual files given to, and asked of, ``attacc trace`` and ``attacc compare --trace``."""

import gzip
import os
import threading
from pathlib import Path

import pytest

from attacc.errors import InputError
from attacc.files import check_target, read_data
from tests.cli.console import answer, refusal

TRACE = "PIM_WR_GB 0x0\nPIM_MAC_AB 0x0\n"
READERS = [("trace", "run"), ("trace", "check"), ("compare", "--trace")]


@pytest.mark.parametrize("command", READERS)
def test_a_pipe_is_read_and_a_device_is_not(tmp_path: Path, command: tuple[str, str]) -> None:
    """A reader that waits for ever, or that opens a file by itself and not through its door."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("\nhello\n"))
    writer.start()
    message = refusal(*command, pipe)
    writer.join(10)
    assert "hello" in message  # the fault of its second line
    assert "2" in message.split(str(pipe))[1][:12]
    assert "/dev/zero: is a device" in refusal(*command, "/dev/zero")


@pytest.mark.parametrize("command", READERS)
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, str]
) -> None:
    """A reader that unpacks without a bound."""
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(3 * 2**20)))
    defaults = read_data.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "limit", 2**20)
    assert "unpacks to more than 1 MiB" in refusal(*command, bomb)


def test_targets_of_every_kind_are_written(tmp_path: Path) -> None:
    """A check that refuses a pipe, a device or a link, or that allows what cannot be written."""
    pipe, dangling, link, file = (tmp_path / name for name in ("pipe", "dangling", "link", "file"))
    os.mkfifo(pipe)
    dangling.symlink_to(tmp_path / "new")
    file.write_text("old")
    link.symlink_to(file)
    for target in (pipe, dangling, link, file, tmp_path / "absent", Path("/dev/null")):
        check_target(target, "FILE")
    check_target(Path("/dev/stdout"), "FILE")
    astray, folder = tmp_path / "astray", tmp_path / "folder"
    astray.symlink_to(tmp_path / "nowhere" / "new")
    folder.symlink_to(tmp_path)
    for target, fault in (
        (astray, f"there is no folder {tmp_path / 'nowhere'}"),
        (folder, "is a folder"),
    ):
        with pytest.raises(InputError, match=fault):
            check_target(target, "FILE")


def test_an_input_is_not_overwritten_by_another_name(tmp_path: Path) -> None:
    """A trace lost, since the log has its name by a link, hard or symbolic, or through a folder."""
    trace = tmp_path / "a.trace"
    trace.write_text(TRACE)
    hard, soft, chain, folder = (tmp_path / name for name in ("hard", "soft", "chain", "folder"))
    os.link(trace, hard)
    soft.symlink_to(trace)
    chain.symlink_to(soft)
    folder.symlink_to(tmp_path)
    for name in (trace, hard, soft, chain, folder / "a.trace", tmp_path / ".." / tmp_path / "hard"):
        assert "is also read" in refusal("trace", "run", trace, "--log", name)
        assert "is also read" in refusal("trace", "run", name, "--log", trace)
    assert trace.read_text() == TRACE


def test_a_log_goes_through_a_dangling_link_and_to_a_device(tmp_path: Path) -> None:
    """A link that is replaced, or a device that becomes a file."""
    trace, link, new = tmp_path / "a.trace", tmp_path / "link", tmp_path / "new.log"
    trace.write_text(TRACE)
    link.symlink_to(new)
    answer("trace", "run", trace, "--log", link)
    assert link.is_symlink()
    assert "MACAB" in new.read_text()
    answer("trace", "run", trace, "--log", "/dev/null")
    assert Path("/dev/null").is_char_device()
