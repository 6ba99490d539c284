"""An agent put together from a device's folder."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tacit.client.edge import certificates, config, data, enrol
from tacit.client.edge.blobs import Blobs
from tacit.client.edge.home import Enrolled, Home
from tacit.client.edge.member import Member, Parts
from tacit.client.edge.peers import Peers
from tacit.client.edge.steps import LocalTrainer
from tacit.client.edge.wiring import Setup
from tacit.client.ledger import ClientLedger
from tacit.privacy.errors import DataError
from tacit.privacy.secagg.vault import Vault
from tacit.protocol.edge_pb2_grpc import GatewayStub


@contextlib.contextmanager
def assembled(path: Path, records: Path | None = None) -> Iterator[Setup]:
    """The agent of a folder.

    Args:
        path: of the folder; the device is enrolled.
        records: instead of those that the settings name.

    Raises:
        StorageError: a file can't be read.
        ConfigError: a setting is wrong.
    """
    home = Home(path)
    who, settings = home.enrolled(), config.load(home.config)
    blobs = Blobs(home.blobs, settings.largest, settings.cache)
    where = records or settings.data
    # SQLite's connections stay in the thread that opened them.
    with ThreadPoolExecutor(1, "tacit-member") as thread:
        yield Setup(
            client=who.client,
            identity=home.identity(),
            member=lambda: _member(home, who, settings, blobs, where),
            gateway=settings.gateway or who.gateway,
            credentials=lambda: certificates.credentials(home.certificate(), who.ca),
            blobs=blobs,
            eligibility=settings.eligibility,
            renew=lambda stub: _renewed(home, who, stub),
            executor=thread,
        )


def _member(
    home: Home, who: Enrolled, settings: config.Config, blobs: Blobs, where: Path | None
) -> Member:
    def records() -> data.Records:
        if where is None:
            raise DataError("no data is set", "data = 'FILE.npz' in agent.toml, or --data")
        return data.load(where)

    return Member(
        Parts(
            client=who.client,
            population=who.population,
            identity=home.identity(),
            coordinator=bytes.fromhex(who.coordinator),
            peers=Peers(home.peers, who.population, bytes.fromhex(who.authority)),
            vault=Vault(home.vault),
            ledger=ClientLedger(home.ledger, settings.limits.caps()),
            floors=settings.limits,
            trainer=LocalTrainer(records, blobs.read, settings.threads),
        )
    )


async def _renewed(home: Home, who: Enrolled, stub: GatewayStub) -> None:
    """Renews the certificate once less than a third of its life is left."""
    if certificates.due(home.certificate(), dt.datetime.now(dt.UTC)):
        await enrol.renew(home, who, stub)
