"""The store of devices, on both engines: tokens once, numbers once, certificates in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from postgres import BOTH

from tacit.privacy.errors import ConfigError
from tacit.server import check
from tacit.server.gateway.devices import Device, Devices, EnrolledDirectory, Issued
from tacit.server.gateway.refused import RefusedError
from tacit.server.store import Store


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def devices(store: Store, clock: Clock) -> Devices:
    return Devices(store.database, "people", clock)


def issuing(clock: Clock, lifetime: int = 1000) -> Callable[[int], Issued]:
    count = iter(range(1000))

    def issue(client: int) -> Issued:
        k = next(count)
        return Issued(b"der", f"{client:032x}{k:032x}", f"{k:x}", int(clock.now) + lifetime)

    return issue


def enrol(devices: Devices, clock: Clock, token: str, who: bytes, **more: Any) -> Any:
    issue = more.get("issue") or issuing(clock)
    return devices.enrol(token, who, more.get("clients"), issue, lambda _: b"a" * 64)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.reason


@BOTH
def test_numbers_are_given_in_turn_and_kept(devices: Devices, clock: Clock) -> None:
    tokens = [devices.invite(60) for _ in range(3)]
    bound = devices.invite(60, client=1)
    given = [enrol(devices, clock, t, bytes([k]) * 32)[0].client for k, t in enumerate(tokens)]
    assert given == [0, 2, 3]
    assert enrol(devices, clock, bound, b"x" * 32)[0].client == 1
    assert [d.client for d in devices.enrolled()] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="client=1"):
        devices.invite(60, client=1)
    full = devices.invite(60)
    assert reason(lambda: enrol(devices, clock, full, b"y" * 32, clients=4)) == "FULL"
    # Not used up: it's good where there is room.
    assert enrol(devices, clock, full, b"y" * 32, clients=5)[0].client == 4


@BOTH
def test_a_token_enrols_one_identity(devices: Devices, clock: Clock) -> None:
    token = devices.invite(60)
    device, first = enrol(devices, clock, token, b"1" * 32)
    assert reason(lambda: enrol(devices, clock, token, b"2" * 32)) == "TOKEN_USED"
    # The same again, whose reply was lost, is the same device with another certificate.
    again, second = enrol(devices, clock, token, b"1" * 32, issue=issuing(clock, 2000))
    assert again == device
    assert second.not_after != first.not_after
    assert reason(lambda: enrol(devices, clock, "guess", b"3" * 32)) == "TOKEN_UNKNOWN"
    assert reason(lambda: enrol(devices, clock, devices.invite(60), b"1" * 32)) == "IDENTITY"
    late = devices.invite(60)
    clock.now += 60
    assert reason(lambda: enrol(devices, clock, late, b"4" * 32)) == "TOKEN_EXPIRED"


@BOTH
def test_a_token_is_used_once_by_whoever_is_first(devices: Devices, clock: Clock) -> None:
    token, gate = devices.invite(60), threading.Barrier(8)
    won: list[int] = []
    lost: list[str] = []
    issue = issuing(clock)

    def race(k: int) -> None:
        gate.wait(30)
        try:
            won.append(enrol(devices, clock, token, bytes([k]) * 32, issue=issue)[0].client)
        except RefusedError as error:
            lost.append(error.reason)

    threads = [threading.Thread(target=race, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert won == [0]
    assert lost == ["TOKEN_USED"] * 7
    assert len(devices.enrolled()) == 1


@BOTH
def test_a_token_of_another_population_is_none(store: Store, clock: Clock) -> None:
    token = Devices(store.database, "others", clock).invite(60)
    mine = Devices(store.database, "people", clock)
    assert reason(lambda: enrol(mine, clock, token, b"1" * 32)) == "TOKEN_UNKNOWN"


@BOTH
def test_the_database_has_no_token_and_still_verifies(store: Store, clock: Clock) -> None:
    devices = Devices(store.database, "people", clock)
    token = devices.invite(60)
    enrol(devices, clock, token, b"1" * 32)
    with store.database.reading() as c:
        rows = c.exec_driver_sql("SELECT * FROM tokens").all()
    assert len(rows) == 1
    assert token not in repr(rows)
    assert check.verify(store).findings == []


@BOTH
def test_a_renewed_certificate_takes_over_when_it_is_used(devices: Devices, clock: Clock) -> None:
    issue = issuing(clock)
    device, old = enrol(devices, clock, devices.invite(60), b"1" * 32, issue=issue)
    new = devices.renew(0, 0.5, issue)
    assert devices.admit(old.fingerprint).client == 0  # it may never have got the new one
    assert devices.admit(new.fingerprint).client == 0
    assert reason(lambda: devices.admit(old.fingerprint)) == "SUPERSEDED"
    assert devices.admit(new.fingerprint) == Device(0, b"1" * 32, b"a" * 64, new.not_after, False)
    assert reason(lambda: devices.renew(0, 60, issue)) == "TOO_SOON"
    clock.now += 1001
    assert reason(lambda: devices.admit(new.fingerprint)) == "EXPIRED"
    assert reason(lambda: devices.admit("f" * 64)) == "SUPERSEDED"
    assert device.client == 0


@BOTH
def test_a_revoked_device_is_refused_for_good(devices: Devices, clock: Clock) -> None:
    issue, token = issuing(clock), devices.invite(60)
    _, issued = enrol(devices, clock, token, b"1" * 32, issue=issue)
    enrol(devices, clock, devices.invite(60), b"2" * 32, issue=issue)
    devices.revoke(0)
    devices.revoke(0)
    assert devices.revoked() == {0}
    assert sorted(devices.some([0, 1, 2])) == [1]
    assert reason(lambda: devices.admit(issued.fingerprint)) == "REVOKED"
    assert reason(lambda: devices.renew(0, 1, issue)) == "REVOKED"
    assert reason(lambda: enrol(devices, clock, token, b"1" * 32, issue=issue)) == "REVOKED"
    # Nor is its number anybody else's.
    assert enrol(devices, clock, devices.invite(60), b"3" * 32, issue=issue)[0].client == 2
    with pytest.raises(ConfigError, match="client=7"):
        devices.revoke(7)
    assert [row["revoked_at"] is not None for row in devices.rows()] == [True, False, False]
    assert devices.invited() == 0


@BOTH
def test_a_silo_is_attested_and_calls_nothing(devices: Devices, clock: Clock) -> None:
    enrol(devices, clock, devices.invite(60), b"1" * 32)
    devices.adopt(7, b"7" * 32, b"s" * 64)
    devices.adopt(7, b"7" * 32, b"s" * 64)
    assert devices.some([7])[7].identity == b"7" * 32
    assert devices.count() == 1
    for client, identity in ((7, b"8" * 32), (8, b"7" * 32), (0, b"9" * 32)):
        with pytest.raises(ConfigError, match="enrolled already"):
            devices.adopt(client, identity, b"s" * 64)
    assert reason(lambda: enrol(devices, clock, devices.invite(60), b"7" * 32)) == "IDENTITY"


def test_the_coordinator_knows_who_is_enrolled(devices: Devices, clock: Clock) -> None:
    enrol(devices, clock, devices.invite(60), b"1" * 32)
    directory = EnrolledDirectory(devices, seconds=0.0)
    assert directory.public(0) == b"1" * 32
    assert directory.public(1) is None
    enrol(devices, clock, devices.invite(60), b"2" * 32)
    devices.revoke(0)
    assert (directory.public(0), directory.public(1)) == (None, b"2" * 32)
