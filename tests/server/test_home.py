"""The state folder: owner-only, explained when it can't be written, locked per run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.privacy.errors import StorageError
from tacit.server.home import Home, write_durably


def test_a_home_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't be written.*--home"):
        Home(tmp_path / "file" / "home")
    with pytest.raises(StorageError, match="can't be written"):
        Home("/proc/tacit")


def test_tacit_home_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_HOME", str(tmp_path / "env"))
    assert Home().root == tmp_path / "env"
    assert Home(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.delenv("TACIT_HOME")
    monkeypatch.chdir(tmp_path)
    assert Home().root == tmp_path / ".tacit"


def test_a_lock_excludes_another_process_and_dies_with_it(home: Home) -> None:
    script = (
        "import sys, time; from tacit.server.home import Home\n"
        "with Home(sys.argv[1]).lock('x'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(home.root)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StorageError, match="busy here"), home.lock("x", busy="busy here"):
        pass
    holder.kill()
    holder.wait()
    with home.lock("x", busy="busy here"):
        pass


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "folder-that-is-not-there" / "x"
    with pytest.raises(StorageError):
        write_durably(target, b"data")
    write_durably(tmp_path / "x", b"one")
    write_durably(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_forked_worker_holds_no_lock_of_its_parent(home: Home) -> None:
    reading, writing = os.pipe()
    up, says = os.pipe()
    with home.lock("x.lock", "busy"):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.write(says, b"x")
            os.read(reading, 1)
            os._exit(0)
        os.read(up, 1)
        # The parent holds it still, whatever its child closes.
        with pytest.raises(StorageError, match="busy"), home.lock("x.lock", "busy"):
            pass
    try:
        with home.lock("x.lock", "busy"):
            pass
    finally:
        for descriptor in (writing, reading, up, says):
            os.close(descriptor)
        os.waitpid(child, 0)
