"""Files of others are read within bounds; our own appear whole or not at all."""

import gzip
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from attacc import files
from attacc.errors import DocumentError
from attacc.files import encoded_text_of, json_of, read_data, text_of, write_whole
from tests import unprivileged

CAT = "/bin/cat"


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert read_data(tmp_path / "f") == b"abc"


def test_an_absent_file_proposes_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "model.toml").touch()
    with pytest.raises(DocumentError, match=r"no such file.*model\.toml"):
        read_data(tmp_path / "modle.toml")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
def test_a_device_is_refused_also_behind_a_link(tmp_path: Path, device: str) -> None:
    """Reading one would never end."""
    link = tmp_path / "link.toml"
    link.symlink_to(device)
    with pytest.raises(DocumentError, match="is a device, not a file"):
        read_data(link)


def test_a_folder_and_a_socket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="is a folder"):
        read_data(tmp_path)
    # The name of a socket has little room.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as one:
        one.bind(f"{folder}/s")
        with pytest.raises(DocumentError, match="cannot be read"):
            read_data(Path(folder) / "s")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"x" * 300_000  # more than a pipe holds
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert read_data(pipe) == data
    writer.join()


def test_a_pipe_that_is_closed_is_empty() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    assert read_data(Path(f"/dev/fd/{reading}")) == b""
    os.close(reading)


def test_a_pipe_without_a_writer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait forever."""
    monkeypatch.setattr(files, "PIPE_PATIENCE_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="nobody writes to"):
        read_data(tmp_path / "pipe")


def test_a_pipe_that_never_ends_is_bounded(tmp_path: Path) -> None:
    with subprocess.Popen([CAT, "/dev/zero"], stdout=subprocess.PIPE) as endless:  # noqa: S603
        assert endless.stdout is not None
        with pytest.raises(DocumentError, match="holds more than 1 MiB"):
            read_data(Path(f"/dev/fd/{endless.stdout.fileno()}"), limit=2**20)
        endless.kill()


@pytest.mark.parametrize("size", [2**20, 2**20 + 1])
def test_a_size_at_the_limit_is_read_and_one_more_byte_is_not(tmp_path: Path, size: int) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(bytes(size))
    packed.write_bytes(gzip.compress(bytes(size)))
    for path, verb in ((plain, "holds"), (packed, "unpacks to")):
        if size > 2**20:
            with pytest.raises(DocumentError, match=f"{verb} more than 1 MiB"):
                read_data(path, limit=2**20)
        else:
            assert len(read_data(path, limit=2**20)) == size


def test_members_of_a_gzip_file_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "two.gz"
    path.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two") + bytes(512))
    assert read_data(path) == b"one two"


@pytest.mark.parametrize("cut", [3, 12, 30, -1])
def test_a_gzip_file_that_was_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(os.urandom(100))[:cut])
    with pytest.raises(DocumentError, match="gzip file that was cut off"):
        read_data(path)


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.gz"
    data = bytearray(gzip.compress(b"a" * 1000))
    data[-6] ^= 1  # of the check sum
    path.write_bytes(data)
    with pytest.raises(DocumentError, match="damaged gzip file"):
        read_data(path)


def test_text_says_what_else_a_file_is() -> None:
    for data, kind in (
        (b"PK\x03\x04...", "zip archive"),
        (b"GGUF...", "GGUF"),
        ("a".encode("utf-16"), "UTF-16"),
        (b"a\0b", "null bytes"),
    ):
        with pytest.raises(DocumentError, match=kind):
            text_of(data, where="f")
    with pytest.raises(DocumentError, match=r"f:2: is not UTF-8"):
        text_of(b"a\n\xff", where="f")
    assert text_of(b"\xef\xbb\xbfa\r\nb\rc\n", where="f") == "a\nb\nc\n"
    assert encoded_text_of(b"\xef\xbb\xbfa\r\nb\rc\n", where="f") == b"a\nb\nc\n"
    for data in (b"PK\x03\x04...", b"a\0b"):
        with pytest.raises(DocumentError):
            encoded_text_of(data, where="f")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' occurs twice"),
        ('{"a": NaN}', "no number of JSON"),
        ('{"a": 1e999}', "too large a number"),
        ("1" * 5000, "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": 1}{', "not valid JSON"),
    ],
)
def test_json_that_is_ambiguous_is_refused(text: str, fault: str) -> None:
    with pytest.raises(DocumentError, match=fault):
        json_of(text, where="f")


def test_a_written_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", b"a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path: Path, *, exists: bool) -> None:
    """A link was replaced by a file, and the file that it named stayed as it was."""
    target, link = tmp_path / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("target")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DocumentError, match="cannot be written"):
        write_whole(tmp_path / "a", b"x")


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    """Run as root, /dev/null itself was replaced by a file."""
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    write_whole(link, b"x")
    assert stat.S_ISCHR(link.stat().st_mode)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DocumentError, match="cannot be written: No space"):
        write_whole(tmp_path / "full", b"x")


def test_a_pipe_receives_what_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DocumentError, match="nobody reads"):
        write_whole(pipe, b"x")
    data = b"x" * 300_000
    received: list[bytes] = []
    with subprocess.Popen([CAT, str(pipe)], stdout=subprocess.PIPE) as reader:  # noqa: S603
        thread = threading.Thread(target=lambda: received.extend(reader.communicate()[:1]))
        thread.start()
        while True:
            try:
                write_whole(pipe, data)
            except DocumentError:
                continue  # cat has not opened it yet
            break
        thread.join()
    assert received == [data]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_standard_output_is_written_through(tmp_path: Path) -> None:
    """What a shell redirects to a file reaches this file, not another of the same name."""
    script = "from attacc.files import *; write_whole(Path('/dev/stdout'), b'data')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)  # noqa: S603
        assert os.fstat(out.fileno()).st_size == 4
    piped = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, check=True
    )
    assert piped.stdout == b"data"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other ones on Windows")
def test_permission_bits(tmp_path: Path) -> None:
    """A read-only file is replaced since its folder may be written; a traceback of PermissionError;
    a temporary file that stays in a folder.
    """
    fixed, secret, closed = (tmp_path / name for name in ("fixed", "secret", "closed"))
    fixed.write_bytes(b"old")
    fixed.chmod(0o444)
    secret.write_bytes(b"old")
    secret.chmod(0o200)
    closed.mkdir()
    closed.chmod(0o555)
    script = """
from pathlib import Path
from attacc.errors import DocumentError
from attacc.files import read_data, write_whole
for use in (
    lambda: Path("closed/probe").touch(),
    lambda: write_whole(Path("fixed"), b"new"),
    lambda: write_whole(Path("closed/file"), b"new"),
    lambda: read_data(Path("secret")),
):
    try:
        use()
    except (DocumentError, PermissionError) as error:
        print(error)
    else:
        print("allowed")
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", unprivileged.PRELUDE + script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines() == [
        "[Errno 13] Permission denied: 'closed/probe'",
        "fixed: cannot be written: Permission denied",
        "closed/file: cannot be written: Permission denied",
        "secret: cannot be read: Permission denied",
    ]
    assert (fixed.read_bytes(), list(closed.iterdir())) == (b"old", [])


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="is a folder"):
        write_whole(tmp_path, b"x")
    with pytest.raises(DocumentError, match="cannot be written"):
        write_whole(tmp_path / "absent" / "f", b"x")


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    script = f"""
import resource, signal
from pathlib import Path
from attacc.files import write_whole
from attacc.errors import DocumentError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    write_whole(Path({str(tmp_path / "f")!r}), bytes(5000))
except DocumentError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]


@pytest.mark.parametrize("call", ["open", "chmod", "replace"])
def test_an_interrupt_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A file is opened, written, given its permissions, renamed: any of it can be interrupted."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    owner = os if call == "open" else Path
    original = getattr(owner, call)

    def interrupted(*given: object, **named: object) -> object:
        if call == "open":
            original(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]
