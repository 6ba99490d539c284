"""30% of the devices go off at each leg, over the real gateway, and come back for the next."""

from __future__ import annotations

from pathlib import Path

import crowd
import pytest
from checking import check_exposures, check_log
from tiny import make_tiny

from tacit.privacy.errors import RoundError
from tacit.privacy.secagg.keys import Identity
from tacit.server.gateway.grid import GatewayGrid
from tacit.server.home import Home

DEVICES, LOST = 20, range(6)
SETTINGS = crowd.settings(DEVICES, minimum=10, rounds=2, collusion=2)


@pytest.mark.slow
@pytest.mark.parametrize("leg", crowd.LEGS)
def test_a_round_does_without_those_who_vanish(
    leg: str, grid: GatewayGrid, home: Home, tmp_path: Path
) -> None:
    task = make_tiny(DEVICES)
    with crowd.Crowd(grid, task, DEVICES, tmp_path) as devices:
        devices.vanish = {leg: LOST}
        devices.on()

        def again(number: int) -> None:
            devices.vanish = {}
            devices.on(list(LOST))

        store, _, results = crowd.rounds(devices, SETTINGS, home, between=again)
        assert sorted(devices.vanished) == list(LOST)
        first, second = results
        # Who had sent its vector is in the sum, whatever became of it later.
        early = leg in crowd.LEGS[:3]
        assert first.accepted == DEVICES - (len(LOST) if early else 0)
        assert (second.accepted, second.rejected) == (DEVICES, {})
        check_exposures(store, check_log(store))
        for client in range(DEVICES):
            spent = devices.ledger(client).spent()
            # Charged before the vector is made: never less than what the coordinator got. Who
            # came back may have found the task of the round that it had missed.
            missed = client in LOST and early
            assert 2 - missed <= spent.participations <= 2
            assert spent.refused == {}
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("leg", ["train", "query.reveal"])
def test_half_is_too_many_and_the_charge_stands(
    leg: str, grid: GatewayGrid, home: Home, tmp_path: Path
) -> None:
    task = make_tiny(DEVICES)
    with crowd.Crowd(grid, task, DEVICES, tmp_path) as devices:
        devices.vanish = {leg: range(10)}
        devices.on()
        with pytest.raises(RoundError):
            crowd.rounds(devices, SETTINGS, home)
        store = crowd.Store(home)
        bodies = check_log(store)
        kinds = [body["kind"] for body in bodies if body["run"]]
        assert kinds.count("CHARGE") == 1
        assert kinds.count("ABANDON") == 1
        assert "RELEASE" not in kinds
        assert store.versions() == []
        store.close()
        trained = [k for k in range(DEVICES) if devices.ledger(k).spent().participations]
        assert len(trained) == (10 if leg == "train" else DEVICES)


@pytest.mark.slow
def test_devices_that_are_strangers_change_nothing(
    grid: GatewayGrid, home: Home, tmp_path: Path
) -> None:
    # Two devices sign with keys of their own: their answers aren't theirs.
    task = make_tiny(DEVICES)
    with crowd.Crowd(grid, task, DEVICES, tmp_path) as devices:
        for client in (3, 4):
            devices.devices[client].identity = Identity.generate()
        devices.on()
        devices.away |= {3, 4}  # Nobody waits for them; what they send is waited past.
        settings = [*SETTINGS, "rounds=1"]
        store, _, (result,) = crowd.rounds(devices, settings, home)
        assert result.accepted == DEVICES - 2
        assert sum(result.rejected.values()) == 2
        check_exposures(store, check_log(store))
        store.close()
