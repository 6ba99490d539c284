"""What a deployment refuses, how long it waits, and that it goes on after a kill."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deploying import CLIENTS, SETTINGS, deployed, killed
from flwr.app import ConfigRecord, Message

from tacit.client.caps import Caps
from tacit.client.ledger import ClientLedger
from tacit.configs import build
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.secagg.directory import PinnedDirectory, enrol, key_path
from tacit.privacy.secagg.keys import Identity
from tacit.server import deployment
from tacit.server.deployment import DeviceSettings, LegSettings
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["deploying"])


# What is refused


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["seed=3"], "seed=3 is for simulations"),
        (["seed=null", "faults.drop=0.1"], "faults are for"),
        (["seed=null", "secure.protocol=shortcut"], "secure.protocol=shortcut"),
    ],
)
def test_what_only_a_simulation_may_have_is_refused(settings: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        deployment.check(build.compose(["experiment=digits", *settings]))
    assert caught.value.hint
    deployment.check(build.compose(["experiment=digits", "seed=null"]))


def test_flowers_own_simulation_may_have_a_seed_and_nothing_else() -> None:
    deployment.check(build.compose(["experiment=digits", "seed=3"]), simulated=True)
    with pytest.raises(ConfigError, match="faults"):
        deployment.check(build.compose(["experiment=digits", "faults.drop=0.1"]), True)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"deadline": 0}, "deadline=0"),
        ({"deadline": float("inf")}, "deadline=inf"),
        ({"resend": -1.0}, "resend=-1"),
        ({"wait": "soon"}, "wait='soon'"),
        ({"resend": True}, "resend=True"),
    ],
)
def test_a_wait_that_is_none_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LegSettings.from_config(config)


def test_waits_have_defaults_and_come_from_the_run_config() -> None:
    assert LegSettings.from_config({"home": "x"}) == LegSettings(600.0, 30.0, 120.0)
    found = LegSettings.from_config({"deadline": 60, "resend": 5.0, "wait": 10, "overrides": ""})
    assert found == LegSettings(60, 5.0, 10)


def test_the_app_declares_what_its_run_config_may_override() -> None:
    import tomllib

    root = Path(__file__).parents[2]
    for path in ("docs/flower/pyproject.toml", "server/deploy/templates/app.toml"):
        config = tomllib.loads((root / path).read_text())["tool"]["flwr"]["app"]["config"]
        assert LegSettings.from_config(config) == LegSettings()
        assert {"deadline", "resend", "wait"} <= set(config)
    # A deployment's may have devices as well; none is the default.
    assert DeviceSettings.from_config(config) == DeviceSettings()
    keys = {field.name.replace("_", "-") for field in dataclasses.fields(DeviceSettings)}
    assert keys <= set(config)


# Who signs


@pytest.mark.parametrize("how", ["", "aggregation=plain", "mechanism=central aggregation=plain"])
def test_deployed_clients_sign_and_keep_ledgers(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = tmp_path / "clients"
    enrol(clients, CLIENTS)
    seen: list[bool] = []
    honest = InProcessGrid._call

    def noting(self: InProcessGrid, message: Message) -> Message:
        reply = honest(self, message)
        record = reply.content["tacit"]
        assert isinstance(record, ConfigRecord)
        seen.append("signature" in record)
        return reply

    monkeypatch.setattr(InProcessGrid, "_call", noting)
    deployed(tmp_path, f"{SETTINGS} {how} rounds=1")
    assert len(seen) >= 2 * CLIENTS
    assert all(seen)
    for k in range(CLIENTS):
        assert ClientLedger(clients / f"{k}.ledger", Caps()).spent().participations == 1


def test_a_client_whose_key_isnt_the_coordinators_costs_itself(tmp_path: Path) -> None:
    """The directory that the client has says so, and the coordinator's doesn't."""
    clients = tmp_path / "clients"
    enrol(clients, CLIENTS)
    directory = PinnedDirectory.load(clients / "directory.json")
    other = Identity.generate()
    keys = {k: directory.public(k) or b"" for k in range(CLIENTS)}
    key_path(clients, 2).write_bytes(other.private)
    grid = Signing(clients, {**keys, 2: other.public})
    spec = build.compose([*SETTINGS.split(), "minimum_survivors=3"])
    made = deployment.legs(grid, spec, LegSettings(wait=0.1), directory)
    assert sorted(made._nodes) == [0, 1, 3]
    whole = build.compose([*SETTINGS.split(), "minimum_survivors=4"])
    with pytest.raises(RoundError, match=r"3 of 4 nodes answered; one was refused"):
        deployment.legs(grid, whole, LegSettings(wait=0.1), directory)


class Signing(InProcessGrid):
    """Clients that have a directory of their own.

    Args:
        folder: of their keys.
        keys: what their directory has.
    """

    def __init__(self, folder: Path, keys: dict[int, bytes]) -> None:
        from tacit.client.app import make_app
        from tacit.client.party import FolderParty

        PinnedDirectory(keys).save(folder / "directory.json")
        super().__init__(make_app(party=FolderParty(folder, True)), CLIENTS, {})


# Killed


def run(target: Callable[..., None], *args: str) -> int | None:
    process = _FORKS.Process(target=target, args=args)
    process.start()
    process.join(300)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("leg", ["query.share", "train", "query.reveal"])
def test_a_serverapp_that_is_killed_in_a_leg_goes_on(tmp_path: Path, leg: str) -> None:
    enrol(tmp_path / "clients", CLIENTS)
    # The round before it is released; clients and coordinator die together.
    assert run(killed, str(tmp_path), f"round 2: {leg}") == -signal.SIGKILL
    store = Store(Home(tmp_path))
    (row,) = store.runs()
    assert row["round"] == 1
    assert run(killed, str(tmp_path), "never", "last") == 0
    (row,) = store.runs()
    assert (row["status"], row["round"]) == ("finished", 3)
    bodies = [leaf["body"] for leaf in store.spending()]
    charged = [(b["round"], b["attempt"]) for b in bodies if b["kind"] == "CHARGE"]
    # The interrupted attempt was charged, and its charge stands.
    assert charged == [(1, 0), (2, 0), (2, 1), (3, 0)]
    kinds = [(b["kind"], b["round"]) for b in bodies if b["kind"] != "CHARGE"]
    assert sorted(kinds) == [("ABANDON", 2), ("RELEASE", 1), ("RELEASE", 2), ("RELEASE", 3)]
    for k in range(CLIENTS):
        spent = ClientLedger(tmp_path / "clients" / f"{k}.ledger", Caps()).spent()
        # Whether the interrupted attempt's vector was made depends on where it was killed.
        assert spent.participations == (4 if leg == "query.reveal" else 3)
