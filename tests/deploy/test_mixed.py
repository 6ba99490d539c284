"""Two silos on a real SuperLink and two real agents at the ServerApp's own gateway: one run."""

from __future__ import annotations

import json
from pathlib import Path

import agents
import pytest
from checking import check_exposures, check_log
from devices import POPULATION
from superlink import Deployment, check_books, free_ports

from tacit.client.caps import Caps
from tacit.client.edge.home import Home as DeviceHome
from tacit.client.ledger import ClientLedger
from tacit.configs import build
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.server.gateway.grid import opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.tasks.task import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SILOS, CLIENTS = 2, 4
SETTINGS = (
    f"experiment=digits clients={CLIENTS} cohort={CLIENTS} minimum_survivors={CLIENTS} rounds=1 "
    f"population={POPULATION} seed=null secure.protocol=full privacy/client=none "
    "privacy.record.noise_multiplier=1.0 privacy.record.sampling_rate=0.5 "
    "privacy.record.clip=1.0 local.steps=1 local.learning_rate=1.0 optimizer=fedavg "
    "optimizer.learning_rate=8.0"
)


def enrolled(made: Deployment, gateway: str, enrol: str) -> dict[int, Path]:
    """What the operator does before the run: adopts silos, enrols devices, hands their keys out."""
    home = Home(str(made.coordinator.home))
    silos = PinnedDirectory.load(made.coordinator.directory)
    task = load(build.compose(SETTINGS.split()))
    with opened(home, Settings(POPULATION, CLIENTS, gateway, enrol)) as grid:
        for client in range(SILOS):
            public = silos.public(client) or b""
            grid.devices.adopt(client, public, grid.authority.attest(client, public))
        numbers = range(SILOS, CLIENTS)
        paths = {k: agents.enrolled(grid, made.folder, k, task) for k in numbers}
        keys = PinnedDirectory({d.client: d.identity for d in grid.devices.enrolled()})
    keys.save(made.coordinator.directory.with_name("devices.json"))
    for name in made.silos:
        keys.save(made.folder / name / "client" / "devices.json")
    return paths


def test_silos_and_devices_finish_a_run_of_a_real_superlink(tmp_path: Path) -> None:
    made = Deployment(tmp_path / "all", SETTINGS, SILOS, 120.0)
    gateway, enrol = (f"127.0.0.1:{port}" for port in free_ports(SILOS + 3)[-2:])
    paths = enrolled(made, gateway, enrol)
    settings = made.coordinator.root / "run.toml"
    more = f"gateway = {json.dumps(gateway)}\ndevices-from = {SILOS}\n"
    settings.write_text(settings.read_text() + more)
    try:
        made.up()
        with agents.running(paths):
            made.start("run")
            row = made.wait(made.ended, "the run to end", 400)
        assert (row["status"], row["round"], row["message"]) == ("finished", 1, ""), made.tail()
        check_books(made)
        store = Store(Home(str(made.coordinator.home)))
        assert [r["accepted"] for r in store.rounds(row["id"])] == [CLIENTS]
        check_exposures(store, check_log(store))
        store.close()
        ledgers = [made.folder / f"silo-{k}" / "client" / f"{k}.ledger" for k in range(SILOS)]
        ledgers += [DeviceHome(path).ledger for path in paths.values()]
        spent = [ClientLedger(path, Caps()).spent() for path in ledgers]
        assert [s.participations for s in spent] == [1] * CLIENTS
    finally:
        made.down()
