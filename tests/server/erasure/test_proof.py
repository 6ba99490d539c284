"""Proof of a client's own key: real key files, of devices and of silos, and every forgery."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from erasing import train
from postgres import BOTH

from tacit.client import withdrawing
from tacit.client.edge import command as edge
from tacit.client.edge.home import Enrolled
from tacit.client.edge.home import Home as Device
from tacit.privacy.errors import ConfigError, ConflictError, MessageError, StorageError
from tacit.privacy.secagg.directory import PinnedDirectory, enrol
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import withdrawal
from tacit.protocol.withdrawal import Withdrawal
from tacit.server import check
from tacit.server import log as logs
from tacit.server.erasure import proof
from tacit.server.erasure.cases import Cases
from tacit.server.gateway.devices import Devices, Issued
from tacit.server.gateway.refused import RefusedError
from tacit.server.home import Home
from tacit.server.store import Store

ATTEST = lambda _: b"a" * 64  # noqa: E731
NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)


def origin(store: Store) -> str:
    with store.database.reading() as c:
        return str(logs.first_key(c)["origin"])


@pytest.fixture
def silos(home: Home, store: Store) -> Path:
    """The folder of the clients of a population of silos; the operator has their directory."""
    train(home, "population=silos", "rounds=1")
    folder = home.root.parent / "silos"
    enrol(folder, 20)
    (home.root / "clients").mkdir()
    directory = (folder / "directory.json").read_bytes()
    (home.root / "clients" / "directory.json").write_bytes(directory)
    return folder


def signed(store: Store, silos: Path, client: int, **more: Any) -> Withdrawal:
    identity = Identity.from_bytes((silos / f"{more.pop('key', client)}.key").read_bytes())
    said = {"population": "silos", "ledger": origin(store), "at": NOW, **more}
    return Withdrawal.signed(identity, said["population"], client, said["ledger"], said["at"])


@BOTH
def test_a_silo_withdraws_with_its_own_key_file(store: Store, silos: Path, tmp_path: Path) -> None:
    note = tmp_path / "kept"
    note.write_text(store.checkpoint())
    made = withdrawing.from_folder(silos, "silos", 3, withdrawing.origin(None, note))
    withdrawing.write(made, tmp_path / "file")
    found = proof.by_key(store, withdrawal.load(tmp_path / "file"))
    assert (found.population, found.client, found.kind) == ("silos", 3, "key")
    case = Cases(store).open(found, "me")
    assert case.body["opened"]["asked"]["statement"] == made.to_json()
    # Shown again, it does nothing more, whether the case is open or closed.
    with pytest.raises(ConflictError, match="withdrawn already"):
        Cases(store).open(proof.by_key(store, made), "me")
    Cases(store).choose(case.id, "keep", "little", "me")
    left = Cases(store).close(case.id, "me")
    with pytest.raises(ConflictError, match="withdrawn already"):
        Cases(store).open(proof.by_key(store, made), "me")
    assert made.signature not in json.dumps(left.body)
    assert check.verify(store).holds


def test_forgeries_are_refused(store: Store, silos: Path) -> None:
    honest = signed(store, silos, 3)
    assert proof.by_key(store, honest, NOW).client == 3
    elsewhere = "tacit.ledger/" + "0" * 16
    refused = {
        "another's key": signed(store, silos, 3, key=4),
        "another's number": dataclasses.replace(honest, client=4),
        "another time": dataclasses.replace(honest, at="2026-11-28T12:00:01Z"),
        "another nonce": dataclasses.replace(honest, nonce="0" * 32),
        "another ledger": signed(store, silos, 3, ledger=elsewhere),
        "said to be of this ledger": dataclasses.replace(
            signed(store, silos, 3, ledger=elsewhere), ledger=origin(store)
        ),
        "of the future": signed(store, silos, 3, at=NOW + timedelta(days=2)),
        "too old": signed(store, silos, 3, at=NOW - timedelta(days=91)),
        "no signature": dataclasses.replace(honest, signature="0" * 128),
    }
    taken = []
    for what, made in refused.items():
        with contextlib.suppress(MessageError):
            proof.by_key(store, made, NOW)
            taken.append(what)
    assert not taken
    assert not Cases(store).list()


def test_another_populations_statement_is_refused(store: Store, silos: Path, home: Home) -> None:
    train(home, "population=others", "rounds=1")
    other = signed(store, silos, 3, population="others")
    with pytest.raises(MessageError, match="isn't signed"):
        proof.by_key(store, dataclasses.replace(other, population="silos"), NOW)
    with pytest.raises(ConfigError, match="is no population"):
        proof.by_key(store, signed(store, silos, 3, population="nobody"), NOW)
    with pytest.raises(ConfigError, match="clients 0 to 19"):
        proof.by_key(store, signed(store, silos, 20, key=3), NOW)


def test_with_no_key_there_is_no_proof(store: Store, home: Home) -> None:
    train(home, "rounds=1")
    made = Withdrawal.signed(Identity.generate(), "tiny", 3, origin(store), NOW)
    with pytest.raises(ConfigError, match="no key"):
        proof.by_key(store, made, NOW)
    assert proof.simulated(store, "tiny", 3).kind == "simulated"
    with pytest.raises(ConfigError, match="reason="):
        proof.without(store, "tiny", 3, "")
    found = proof.without(store, "tiny", 3, "by letter")
    case = Cases(store).open(found, "me")
    assert case.body["opened"]["asked"] == {
        "kind": "none",
        "reason": "by letter",
        "statement": None,
    }


def test_who_has_a_key_isnt_simulated(store: Store, silos: Path) -> None:
    with pytest.raises(ConfigError, match="have keys"):
        proof.simulated(store, "silos", 3)


@pytest.mark.parametrize("text", ["tiny", ":3", "tiny:", "tiny:-1", "tiny:x"])
def test_clients_are_named_by_population_and_number(text: str) -> None:
    with pytest.raises(ConfigError, match="POPULATION:CLIENT"):
        proof.named(text)
    assert proof.named("a:b:7") == ("a:b", 7)


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"tacit": "withdrawal"},
        {"tacit": "withdrawal", "version": 2},
        {"client": -1},
        {"client": True},
        {"client": "3"},
        {"client": 2**32},
        {"nonce": "00"},
        {"nonce": "G" * 32},
        {"nonce": "AB" * 16},
        {"signature": ""},
        {"at": "yesterday"},
        {"at": 7},
        {"population": ""},
        {"population": "a\x00"},
        {"population": "\ud800"},
        {"population": "p" * 201},
        {"more": 1},
    ],
)
def test_what_isnt_a_withdrawal_is_an_error(found: Any) -> None:
    made = Withdrawal.signed(Identity.generate(), "p", 3, "l", NOW).to_json()
    assert withdrawal.parse(made).to_json() == made
    wrong = found
    if isinstance(found, dict) and found and "tacit" not in found:
        wrong = {**made, **found}
    with pytest.raises(MessageError):
        withdrawal.parse(wrong)


def test_files_that_arent_withdrawals(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(StorageError, match="can't be read"):
        withdrawal.load(path)
    for data in (b"", b"{", b"\xff", b"[" * 5000, b" " * 20_000, b"[]"):
        path.write_bytes(data)
        with pytest.raises(MessageError):
            withdrawal.load(path)


def test_a_folder_with_several_keys_has_to_be_told_which(silos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="20 clients' keys"):
        withdrawing.from_folder(silos, "silos", None, "l")
    one = tmp_path / "one"
    one.mkdir()
    for name in ("directory.json", "7.key"):
        (one / name).write_bytes((silos / name).read_bytes())
    assert withdrawing.from_folder(one, "silos", None, "l").client == 7
    (one / "7.key").write_bytes((silos / "8.key").read_bytes())
    with pytest.raises(StorageError, match="isn't the one"):
        withdrawing.from_folder(one, "silos", None, "l")
    with pytest.raises(ConfigError, match="which ledger"):
        withdrawing.origin(None, None)
    (one / "note").write_text("not a checkpoint")
    with pytest.raises(StorageError, match="isn't a checkpoint"):
        withdrawing.origin(None, one / "note")
    withdrawing.write(made := withdrawing.from_folder(silos, "silos", 7, "l"), one / "file")
    with pytest.raises(StorageError, match="there already"):
        withdrawing.write(made, one / "file")


# Devices


@pytest.fixture
def device(store: Store, tmp_path: Path) -> Device:
    """An enrolled device, as its agent and the operator have it."""
    made = Device(tmp_path / "device")
    devices = Devices(store.database, "phones")
    found, _ = devices.enrol(
        devices.invite(3600.0),
        made.identity(make=True).public,
        None,
        lambda client: Issued(b"der", f"{client:064x}", "1", 2**31),
        lambda _: b"a" * 64,
    )
    made.enrol(
        Enrolled(
            client=found.client,
            population="phones",
            gateway="127.0.0.1:1",
            ca="",
            authority="00" * 32,
            coordinator="00" * 32,
        )
    )
    return made


@BOTH
def test_a_device_withdraws_and_is_revoked_and_nobody(
    store: Store, home: Home, device: Device, tmp_path: Path
) -> None:
    train(home, "population=phones", "cohort=20", "rounds=1")
    devices, public = Devices(store.database, "phones"), device.identity().public
    to = tmp_path / "file"
    asked = ["withdraw", "--home", str(device.path), "--ledger", origin(store), "--to", str(to)]
    assert edge.run(asked) == 0
    case = Cases(store).open(proof.by_key(store, withdrawal.load(to)), "me")
    (row,) = devices.rows()
    assert row["revoked_at"] is not None
    assert case.body["opened"]["found"]["versions"]
    Cases(store).choose(case.id, "keep", "little", "me")
    Cases(store).close(case.id, "me")
    (row,) = devices.rows()
    assert row["identity"] != public.hex()
    # Still revoked, and not at a time that a case would have too.
    assert row["revoked_at"] == 0
    assert devices.revoked() == {0}
    assert proof.public(store, "phones", 0) is None
    for path in home.root.glob("tacit.db*"):
        assert public not in path.read_bytes()
    # The number is nobody's again; the same device may come back, as another.
    with pytest.raises(ConfigError, match="enrolled already"):
        devices.invite(60.0, 0)
    again, _ = devices.enrol(
        devices.invite(60.0), public, None, lambda k: Issued(b"d", f"{k:064x}", "2", 2**31), ATTEST
    )
    assert again.client == 1
    assert check.verify(store).holds


def test_the_token_that_an_erased_device_used_is_gone(store: Store, home: Home) -> None:
    devices, identity = Devices(store.database, "phones"), Identity.generate()
    token = devices.invite(3600.0)
    made = [token, identity.public, None, lambda k: Issued(b"", f"{k:064x}", "1", 2**31), ATTEST]
    devices.enrol(*made)  # type: ignore[arg-type]
    said = Withdrawal.signed(identity, "phones", 0, origin(store), NOW)
    case = Cases(store).open(proof.by_key(store, said, NOW), "me").id
    with pytest.raises(RefusedError, match="revoked"):
        devices.enrol(*made)  # type: ignore[arg-type]
    Cases(store).choose(case, "keep", "never drawn", "me")
    Cases(store).close(case, "me")
    with pytest.raises(RefusedError, match="no such token"):
        devices.enrol(*made)  # type: ignore[arg-type]


@BOTH
def test_no_device_gets_the_number_of_a_client_that_withdrew(store: Store, home: Home) -> None:
    train(home, "population=mixed", "rounds=1")
    Cases(store).open(proof.without(store, "mixed", 0, "by letter"), "me")
    devices = Devices(store.database, "mixed")

    def enrolled(client: int | None) -> int:
        token = devices.invite(60.0, client)
        who = Identity.generate().public
        issue = lambda k: Issued(b"", f"{k:064x}", "1", 2**31)  # noqa: E731
        return devices.enrol(token, who, None, issue, ATTEST)[0].client

    with pytest.raises(RefusedError, match="has withdrawn"):
        enrolled(0)
    assert [enrolled(None), enrolled(None), enrolled(5), enrolled(None)] == [1, 2, 5, 3]


def test_a_device_that_is_pinned_with_another_key(store: Store, device: Device) -> None:
    (store.home.root / "clients").mkdir()
    keys = {0: Identity.generate().public}
    PinnedDirectory(keys).save(store.home.root / "clients" / "directory.json")
    said = withdrawing.from_identity(device.identity(), "phones", 0, origin(store))
    with pytest.raises(StorageError, match="another key"):
        proof.by_key(store, said)
