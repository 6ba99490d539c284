"""Devices whose certificates aren't good any more, or never were, among others in a round.

What each of them is told, alone, is in `tests/server/gateway/test_enrolment.py`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import crowd
import edge
import pytest
from checking import check_exposures, check_log
from tiny import make_tiny

from tacit.client.floors import Floors
from tacit.server.gateway.authority import Authority, request
from tacit.server.gateway.grid import GatewayGrid
from tacit.server.home import Home

DEVICES = 8
SETTINGS = crowd.settings(DEVICES, minimum=5, rounds=2)


def certified(
    device: edge.Credentials, authority: Authority, lifetime: float
) -> tuple[bytes, bytes]:
    """Another certificate for a device's key: PEM, and its fingerprint's number."""
    issued = authority.issue(request(edge.csr(device.private)), device.client, lifetime)
    loaded = edge.x509.load_der_x509_certificate(issued.der)
    return loaded.public_bytes(edge.serialization.Encoding.PEM), issued.der


@pytest.mark.slow
def test_a_round_does_without_the_revoked_the_expired_and_the_foreign(
    grid: GatewayGrid, home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = Authority(Home(str(tmp_path / "elsewhere")), crowd.POPULATION)
    with crowd.Crowd(grid, make_tiny(DEVICES), DEVICES, tmp_path / "devices") as devices:
        # Client 0 is certified by another authority, client 1 was until a moment ago.
        devices.devices[0].certificate, _ = certified(devices.devices[0], foreign, 600.0)
        devices.devices[1].certificate, _ = certified(devices.devices[1], grid.authority, 0.5)
        time.sleep(1.1)
        devices.away |= {0, 1}
        devices.on(range(2), wait=False)
        devices.on(range(2, DEVICES))
        devices.away |= {0, 1}

        def revoke(number: int) -> None:
            if number == 1:
                grid.devices.revoke(2)
                devices.away.add(2)
                edge.until(lambda: 2 not in grid._service.hall.connected)

        with caplog.at_level(logging.WARNING, "tacit.gateway"):
            store, _, results = crowd.rounds(devices, SETTINGS, home, between=revoke)
        assert [r.accepted for r in results] == [DEVICES - 2, DEVICES - 3]
        check_exposures(store, check_log(store))
        store.close()
        reasons = [r.__dict__["reason"] for r in caplog.records if "refused" in r.message]
        assert "REVOKED" in reasons
        for client in (0, 1):
            assert not (tmp_path / "devices" / str(client) / "ledger").exists()


@pytest.mark.slow
def test_refusals_by_the_devices_themselves_are_shown_with_their_reason(
    grid: GatewayGrid, home: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    easy = Floors(seeded=False)
    strict = {
        0: replace(easy, rounds=0),
        1: replace(easy, epsilon=0.01, delta=1e-6),
        2: replace(easy, noise_multiplier=50.0),
    }
    with crowd.Crowd(grid, make_tiny(DEVICES), DEVICES, tmp_path, easy, strict) as devices:
        devices.on()
        told: list[str] = []
        honest = grid._desk.refuse

        def noted(*said: Any) -> bool:
            told.append(str(said[1]))
            return honest(*said)

        grid._desk.refuse = noted  # type: ignore[method-assign]
        settings = [*SETTINGS, "rounds=1"]
        store, _, (result,) = crowd.rounds(devices, settings, home)
        store.close()
    assert result.accepted == DEVICES - 3
    assert sorted(reason.split(":")[0] for reason in told) == ["EPSILON", "FLOOR", "ROUNDS"]
    assert sum(result.rejected.values()) == 3
