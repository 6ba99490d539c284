"""Silos and devices in one federation, through the functions that the ServerApp runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import agents
import pytest
from checking import check_exposures, check_log
from devices import POPULATION
from flwr.app import Context, Message, RecordDict
from superlink import free_ports

from tacit.client.app import make_app
from tacit.client.caps import Caps
from tacit.client.edge.home import Home as DeviceHome
from tacit.client.ledger import ClientLedger
from tacit.configs import build
from tacit.privacy.errors import ConfigError, RoundError
from tacit.privacy.secagg.directory import LocalDirectory, PinnedDirectory, everybody, key_path
from tacit.privacy.secagg.keys import Identity
from tacit.server import mixed
from tacit.server.app import main
from tacit.server.deployment import DeviceSettings, LegSettings
from tacit.server.gateway.authority import Authority
from tacit.server.gateway.devices import Devices
from tacit.server.gateway.grid import FIRST_NODE, opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid
from tacit.tasks.task import load

CLIENTS, SILOS = 4, 2
SETTINGS = (
    f"experiment=digits clients={CLIENTS} cohort={CLIENTS} minimum_survivors={CLIENTS} rounds=2 "
    f"population={POPULATION} seed=null attempts=1 secure.protocol=full privacy/client=none "
    "privacy.record.noise_multiplier=1.0 privacy.record.sampling_rate=0.5 "
    "privacy.record.clip=1.0 local.steps=1 local.learning_rate=1.0 optimizer=fedavg "
    "optimizer.learning_rate=8.0"
)


class Place:
    """A coordinator's home, two silos with folders of their own, and two enrolled devices."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, Home(str(root / "home"))
        self.gateway, self.enrol = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.task = load(build.compose(SETTINGS.split()))
        silos = {k: Identity.generate() for k in range(SILOS)}
        settings = Settings(POPULATION, CLIENTS + 1, self.gateway, self.enrol)
        with opened(self.home, settings) as grid:
            # As the operator does: silos are adopted, devices enrol, everybody's keys are written.
            for client, identity in silos.items():
                grid.devices.adopt(
                    client, identity.public, grid.authority.attest(client, identity.public)
                )
            numbers = range(SILOS, CLIENTS)
            self.paths = {k: agents.enrolled(grid, root, k, self.task) for k in numbers}
            keys = {d.client: d.identity for d in grid.devices.enrolled()}
        self.folders = {client: root / f"silo-{client}" for client in silos}
        for folder in (*self.folders.values(), self.home.root / "clients"):
            folder.mkdir(mode=0o700)
            PinnedDirectory({k: keys[k] for k in silos}).save(folder / "directory.json")
            PinnedDirectory(keys).save(folder / "devices.json")
        for client, folder in self.folders.items():
            key_path(folder, client).write_bytes(silos[client].private)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "overrides": SETTINGS,
            "home": str(self.home.root),
            "resume": "",
            "gateway": self.gateway,
            "devices-from": SILOS,
            "deadline": 60.0,
            "resend": 20.0,
            "wait": 60.0,
        }

    def silos(self) -> InProcessGrid:
        own = make_app()

        def call(message: Message, context: Context) -> Message:
            client = int(context.node_config["partition-id"])
            context.node_config["client-home"] = str(self.folders[client])
            return own(message, context)

        return InProcessGrid(call, SILOS, self.config)  # type: ignore[arg-type]

    def run(self) -> None:
        """What Flower does."""
        context = Context(
            run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=self.config
        )
        main(self.silos(), context)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("mixed"))


@pytest.mark.slow
def test_silos_and_devices_finish_a_run_together(place: Place) -> None:
    with agents.running(place.paths):
        place.run()
    store = Store(place.home)
    (row,) = store.runs()
    assert (row["status"], row["round"]) == ("finished", 2)
    assert [r["accepted"] for r in store.rounds(row["id"])] == [CLIENTS, CLIENTS]
    check_exposures(store, check_log(store))
    store.close()
    ledgers = [place.folders[k] / f"{k}.ledger" for k in range(SILOS)]
    ledgers += [DeviceHome(path).ledger for path in place.paths.values()]
    spent = [ClientLedger(path, Caps()).spent() for path in ledgers]
    assert [s.participations for s in spent] == [2] * CLIENTS
    # Silos and devices reckon the same for the same.
    assert len({round(s.record.epsilon, 9) for s in spent}) == 1
    # Silos never met the devices: they know them by the directory that they were given.
    assert not list(place.folders[0].glob("peers*"))


def joined(place: Place, keys: dict[int, bytes], **changes: Any) -> Any:
    spec = build.compose([*SETTINGS.split(), *changes.pop("more", [])])
    settings = DeviceSettings(**{"gateway": "127.0.0.1:0", "devices_from": SILOS, **changes})
    where = place.home, PinnedDirectory(keys)
    return mixed.joined(place.silos(), (spec, place.task), where, settings)


def pinned(place: Place) -> dict[int, bytes]:
    known = everybody(place.home.root / "clients")
    return {k: known.public(k) or b"" for k in range(CLIENTS)}


def test_a_device_that_silos_dont_know_has_no_part(place: Place) -> None:
    """It enrolled after their directories were made, or was revoked."""
    keys = pinned(place)
    del keys[3]
    with joined(place, keys) as made:
        assert [made.directory.public(k) for k in range(CLIENTS)] == [*keys.values(), None]
        assert made._devices() == {2: FIRST_NODE + 2}
        # Another key than the one that the gateway knows the device by is nobody's.
        made.directory._pinned = PinnedDirectory({**keys, 2: Identity.generate().public})
        assert made.directory.public(2) is None
        assert made._devices() == {}


def test_a_run_waits_for_enough_and_says_who_is_there(place: Place) -> None:
    with (
        joined(place, pinned(place)) as made,
        pytest.raises(RoundError, match=r"2 of 2 silos and 0 devices of the directory are there"),
    ):
        made.legs(LegSettings(wait=0.1))
    # Silos may be enough.
    with joined(place, pinned(place), more=["minimum_survivors=2"]) as made:
        legs = made.legs(LegSettings(wait=0.1))
        assert sorted(legs._nodes) == list(range(CLIENTS))


def test_a_silos_key_is_the_pinned_one_and_its_number_no_devices(place: Place) -> None:
    keys = pinned(place)
    with (
        pytest.raises(ConfigError, match="client=1 is a silo and isn't in the directory"),
        joined(place, {k: v for k, v in keys.items() if k != 1}),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="client=1 or its identity is enrolled already"),
        joined(place, {**keys, 1: LocalDirectory(bytes(32)).public(1) or b""}),
    ):
        pass


def test_devices_can_look_silos_up(place: Place) -> None:
    """What a device is told of a silo is what it verifies by the key of its bundle."""
    from tacit.client.edge.peers import Entry, Peers

    store = Store(place.home)
    authority = Authority(place.home, POPULATION)
    found = Devices(store.database, POPULATION).some(range(SILOS))
    store.close()
    peers = Peers(None, POPULATION, authority.public)
    peers.pin(Entry(d.client, d.identity, d.attestation) for d in found.values())
    assert [peers.public(k) for k in range(SILOS)] == [pinned(place)[k] for k in range(SILOS)]
    peers.close()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"gateway": "nowhere"}, "gateway=nowhere isn't host:port"),
        ({"gateway": 9443}, "gateway=9443"),
        ({"enrol": "127.0.0.1:1"}, "enrol=127.0.0.1:1 needs a gateway"),
        ({"devices-from": 2}, "devices-from=2 needs a gateway"),
        ({"gateway": "127.0.0.1:1", "devices-from": True}, "devices-from=True"),
        ({"gateway": "127.0.0.1:1", "devices-from": "2"}, "devices-from='2'"),
        ({"gateway": "127.0.0.1:1", "advertised": "x"}, "advertised=x isn't host:port"),
    ],
)
def test_a_gateway_that_is_none_is_refused_by_name(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DeviceSettings.from_config(config)


def test_a_gateway_is_for_some_devices_beside_some_silos() -> None:
    spec = build.compose(SETTINGS.split())
    DeviceSettings().check(spec, True)
    DeviceSettings("127.0.0.1:1", devices_from=3).check(spec, False)
    for first in (-1, 0, CLIENTS):
        with pytest.raises(ConfigError, match=f"devices-from={first} must be in"):
            DeviceSettings("127.0.0.1:1", devices_from=first).check(spec, False)
    with pytest.raises(ConfigError, match="a simulation has no devices"):
        DeviceSettings("127.0.0.1:1", devices_from=3).check(spec, True)


def test_threads_end_with_the_gateway(place: Place) -> None:
    before = threading.active_count()
    with joined(place, pinned(place)):
        assert threading.active_count() > before
    assert threading.active_count() <= before + 1
