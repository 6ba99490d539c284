"""Who is who: pinned tables, a simulation's identities, enrolment."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.secagg.directory import (
    LocalDirectory,
    PinnedDirectory,
    enrol,
    everybody,
    key_path,
)
from tacit.privacy.secagg.keys import Identity, verify

KEYS = {0: bytes([1]) * 32, 5: bytes([2]) * 32, 70_000: bytes([3]) * 32}


def test_a_pinned_directory_is_what_it_was_made_of() -> None:
    given = dict(KEYS)
    made = PinnedDirectory(given)
    given[0] = bytes(32)
    given[9] = bytes([9]) * 32
    assert {k: made.public(k) for k in (0, 5, 70_000, 9)} == {**KEYS, 9: None}


def test_one_key_for_two_clients_is_refused() -> None:
    with pytest.raises(ConfigError, match="one key for two"):
        PinnedDirectory({0: bytes(32), 1: bytes(32)})


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        PinnedDirectory({0: bytes(size)})


def test_a_directory_comes_back(tmp_path: Path) -> None:
    made = PinnedDirectory(KEYS)
    made.save(tmp_path / "d.json")
    again = PinnedDirectory.load(tmp_path / "d.json")
    assert {k: again.public(k) for k in KEYS} == KEYS
    assert again.digest() == made.digest()
    # Not in the order in which it was made, nor in what it isn't.
    assert PinnedDirectory(dict(reversed(KEYS.items()))).digest() == made.digest()
    assert PinnedDirectory({**KEYS, 1: bytes(32)}).digest() != made.digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '"x"',
        '{"a": "00"}',
        '{"0": 3}',
        '{"0": "zz"}',
        '{"0": "00"}',
        json.dumps({"0": "00" * 32, "1": "00" * 32}),
        "\xff",
    ],
)
def test_files_that_are_no_directory(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match="isn't one"):
        PinnedDirectory.load(tmp_path / "d.json")


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be read"):
        PinnedDirectory.load(tmp_path / "no")
    with pytest.raises(StorageError, match="can't be written"):
        PinnedDirectory(KEYS).save(tmp_path / "no" / "d.json")


def test_identities_of_a_simulation() -> None:
    one, same, other = LocalDirectory(bytes(32)), LocalDirectory(bytes(32)), LocalDirectory()
    keys = [one.public(k) for k in range(50)]
    assert len(set(keys)) == 50
    assert keys == [same.public(k) for k in range(50)]
    assert not set(keys) & {other.public(k) for k in range(50)}
    assert not set(keys) & {LocalDirectory().public(k) for k in range(50)}
    assert one.identity(3).public == keys[3]
    assert verify(keys[3] or b"", one.identity(3).sign(b"x"), b"x")


def test_enrolment(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    before = os.umask(0)
    try:
        made = enrol(home, 4)
    finally:
        os.umask(before)
    assert home.stat().st_mode & 0o077 == 0
    for k in range(4):
        path = key_path(home, k)
        assert path.stat().st_mode & 0o777 == 0o600
        assert Identity.from_bytes(path.read_bytes()).public == made.public(k)
    assert made.public(4) is None


def test_enrolment_finds_what_it_made(tmp_path: Path) -> None:
    made = enrol(tmp_path, 4)
    for clients in (4, 2):
        assert enrol(tmp_path, clients).digest() == made.digest()
    with pytest.raises(StorageError, match="fewer than clients=5"):
        enrol(tmp_path, 5)


def test_enrolment_overwrites_no_key(tmp_path: Path) -> None:
    key_path(tmp_path, 1).write_bytes(b"precious")
    with pytest.raises(StorageError, match="isn't a signing key"):
        enrol(tmp_path, 3)
    assert key_path(tmp_path, 1).read_bytes() == b"precious"


def test_an_interrupted_enrolment_goes_on(tmp_path: Path) -> None:
    made = Identity.generate()
    key_path(tmp_path, 1).write_bytes(made.private)
    assert enrol(tmp_path, 3).public(1) == made.public
    assert not list(tmp_path.glob("*.part"))


def test_enrolment_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't be written"):
        enrol(tmp_path / "file" / "home", 2)


# Silos and devices


def test_a_folders_devices_are_known_beside_its_silos(tmp_path: Path) -> None:
    PinnedDirectory(KEYS).save(tmp_path / "directory.json")
    assert everybody(tmp_path).digest() == PinnedDirectory(KEYS).digest()
    # Silos may be in it too, since devices know them by the same list.
    devices = {5: KEYS[5], 6: bytes([6]) * 32}
    PinnedDirectory(devices).save(tmp_path / "devices.json")
    assert everybody(tmp_path).digest() == PinnedDirectory({**KEYS, **devices}).digest()


def test_a_device_file_takes_no_silos_place(tmp_path: Path) -> None:
    PinnedDirectory(KEYS).save(tmp_path / "directory.json")
    PinnedDirectory({5: bytes([6]) * 32}).save(tmp_path / "devices.json")
    with pytest.raises(StorageError, match="another key for client 5"):
        everybody(tmp_path)
    PinnedDirectory({6: KEYS[5]}).save(tmp_path / "devices.json")
    with pytest.raises(StorageError, match="for another client"):
        everybody(tmp_path)
    (tmp_path / "devices.json").write_text("[]")
    with pytest.raises(StorageError, match="isn't one"):
        everybody(tmp_path)
