"""Key files: rights, races, and what is in them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.log import keyfile
from tacit.privacy.log.keyfile import create, load
from tacit.privacy.log.notes import SignerKey

NAME = "example.org/log"
RACER = """
import pathlib, sys
from tacit.privacy.errors import StorageError
from tacit.privacy.log.keyfile import create
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    try:
        print(create(pathlib.Path(sys.argv[1], str(i)), "example.org/log").verifier)
    except StorageError:
        print()
"""


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_is_its_owners_and_comes_back(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "key"
    before = os.umask(umask)
    try:
        made = create(path, NAME)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_nlink == 1
    assert os.listdir(tmp_path) == ["key"]
    assert path.read_text() == made.text() + "\n"
    found = load(path)
    assert (found.text(), found.verifier) == (made.text(), made.verifier)
    assert made.name == NAME


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = create(path, NAME)
    for name in (NAME, "other"):
        with pytest.raises(StorageError, match=r"exists \(.*never overwritten"):
            create(path, name)
    assert load(path).text() == made.text()
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        create(tmp_path / "dangling", NAME)
    write(tmp_path / "empty", b"")
    with pytest.raises(StorageError):
        create(tmp_path / "empty", NAME)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "empty", "key"]
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_a_name_unfit_for_a_key_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name="):
        create(tmp_path / "key", name)
    assert os.listdir(tmp_path) == []


# Rights


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777])
def test_a_file_that_others_have_rights_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my key"
    made = create(path, NAME)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"the rights {mode:o}") as refused:
        load(path)
    assert refused.value.hint == f"chmod 600 '{path}'"
    assert made.text() not in str(refused.value)
    subprocess.run(["sh", "-c", refused.value.hint], check=True)
    assert load(path).text() == made.text()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_the_owners_rights_are_the_owners(tmp_path: Path, mode: int) -> None:
    made = create(tmp_path / "key", NAME)
    (tmp_path / "key").chmod(mode)
    assert load(tmp_path / "key").text() == made.text()


def test_anothers_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    create(path, NAME)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ConfigError, match=f"user {me}'s, not user {me + 1}'s") as refused:
        load(path)
    assert f"chown {me + 1} {path}" in refused.value.hint


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="isn't a file"):
            load(path)


def test_a_link_is_followed_to_the_files_rights(tmp_path: Path) -> None:
    made = create(tmp_path / "key", NAME)
    (tmp_path / "link").symlink_to("key")
    assert load(tmp_path / "link").text() == made.text()
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="the rights 644"):
        load(tmp_path / "link")


# Content


def spoilt(key: SignerKey) -> list[bytes]:
    line = f"{key.text()}\n".encode()
    return [
        b"",
        b"\n",
        line[:-1],
        line[:-2],
        line + b"\n",
        line * 2,
        b" " + line,
        line.replace(b"\n", b"\r\n"),
        line.replace(b"PRIVATE", b"private"),
        f"{key.verifier}\n".encode(),
        line[:40] + b"\xff" + line[40:],
        line[:-1] + b"\x00\n",
        line + b"x" * 100_000,
        b"\xef\xbb\xbf" + line,
    ]


def test_anything_but_one_key_is_refused(tmp_path: Path) -> None:
    key = SignerKey.generate(NAME)
    secret = key.text().split("+", 4)[4][:20]
    for content in spoilt(key):
        path = write(tmp_path / "key", content)
        with pytest.raises(StorageError, match=r"isn't one .*restore it from a backup") as refused:
            load(path)
        assert secret not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None
        assert path.read_bytes() == content


# Failures


def test_a_missing_file_or_folder_is_explained(tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "key"
    calls: list[Callable[[], object]] = [
        lambda: load(tmp_path / "key"),
        lambda: load(nowhere),
        lambda: create(nowhere, NAME),
        lambda: create(tmp_path / ("x" * 250), NAME),
        lambda: create(Path("/"), NAME),
    ]
    for call in calls:
        with pytest.raises(StorageError) as refused:
            call()
        assert refused.value.hint
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", ["fsync", "link"])
def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, full)
        with pytest.raises(StorageError, match="No space left on device"):
            create(tmp_path / "key", NAME)
    assert os.listdir(tmp_path) == []
    assert create(tmp_path / "key", NAME).name == NAME


def test_a_key_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        done.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        fsync(descriptor)

    def linked(source: Path, target: Path) -> None:
        done.append("link")
        assert load(source).name == NAME
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    create(tmp_path / "key", NAME)
    assert done == ["sync file", "link", "sync folder"]


# Races


def test_another_that_comes_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first = tmp_path / "key", SignerKey.generate(NAME)
    link = os.link

    def beaten(source: Path, target: Path) -> None:
        write(path, f"{first.text()}\n".encode())
        link(source, target)

    monkeypatch.setattr(os, "link", beaten)
    with pytest.raises(StorageError, match="exists"):
        create(path, NAME)
    assert load(path).text() == first.text()
    assert os.listdir(tmp_path) == ["key"]


def test_of_threads_at_once_one_makes_the_key(tmp_path: Path) -> None:
    for i in range(20):
        found: list[str] = []
        gate = threading.Barrier(4)

        def one(path: Path, gate: threading.Barrier, found: list[str]) -> None:
            gate.wait()
            try:
                found.append(create(path, NAME).text())
            except StorageError:
                found.append("")

        threads = [
            threading.Thread(target=one, args=(tmp_path / str(i), gate, found)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == ["", "", "", load(tmp_path / str(i)).text()]
    assert len(os.listdir(tmp_path)) == 20


def test_of_processes_at_once_one_makes_the_key(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    found = [racer.communicate(timeout=60)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    for i, made in enumerate(zip(*found, strict=True)):
        assert sorted(made) == ["", "", str(load(tmp_path / str(i)).verifier)]
    assert sorted(os.listdir(tmp_path), key=int) == [str(i) for i in range(40)]


def test_a_key_file_is_bounded() -> None:
    assert len(SignerKey.generate("n" * 3000).text()) + 1 < keyfile._MAX_BYTES
