"""Devices of the tests: real members with real graphs, on a run that is made for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny import TINY_SECURE, make_tiny

from tacit import Task
from tacit.client.edge.data import Records
from tacit.client.edge.member import Member, Parts
from tacit.client.edge.peers import Entry, Peers
from tacit.client.edge.steps import LocalTrainer
from tacit.client.floors import Floors
from tacit.client.ledger import ClientLedger
from tacit.configs.build import compose
from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.rotation import public_seed
from tacit.privacy.messages import EvaluateRequest, TrainRequest
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.messages import (
    Advertisement,
    Confirmation,
    Invitation,
    Masked,
    Revealed,
    Shares,
)
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.vault import Vault
from tacit.privacy.secagg.words import Words
from tacit.privacy.units import Evaluation
from tacit.protocol import statements
from tacit.protocol.document import RunDocument, Training
from tacit.tasks import vector
from tacit.tasks.device.bundle import DeviceBundle, build
from tacit.tasks.task import make_model, plan

POPULATION, RUN = "tests", "run-1"
# Six devices, all asked, a record in a batch with a chance of a half.
SETTINGS = (
    *TINY_SECURE,
    "clients=6",
    "cohort=6",
    "minimum_survivors=4",
    "secure.collusion=1",
    "privacy.record.sampling_rate=0.5",
    "secure.dropout=0.2",
    "seed=null",
)


def settings(*more: str) -> list[str]:
    """`SETTINGS` with others, which take the place of those of the same name."""
    names = {item.partition("=")[0] for item in more}
    # Of a unit that is turned off nothing else may be set.
    gone = tuple(item.partition("=")[0] + "." for item in more if item.endswith("=none"))
    kept = [x for x in SETTINGS if x.partition("=")[0] not in names]
    return [*(x for x in kept if not (gone and x.startswith(gone))), *more]


@functools.cache
def _exported() -> tuple[Task, DeviceBundle]:
    """Both graphs of a tiny task, exported once a process: no setting below changes them."""
    task = make_tiny()
    return task, build(task, compose(settings("evaluation=federated")), RUN, POPULATION)


def exported(*more: str, run: str = RUN) -> tuple[Task, RunDocument, Mapping[str, bytes]]:
    """A tiny task, the document of a run with these settings, and its graphs."""
    (task, bundle), spec = _exported(), compose(settings(*more))
    promised, evaluates = plan(task, spec), spec.evaluation.kind == "federated"
    record = spec.privacy.record
    document = dataclasses.replace(
        bundle.document,
        run=run,
        plan=promised,
        training=Training(
            learning_rate=spec.local.learning_rate,
            proximal=spec.local.proximal,
            steps=None if promised.record else 1,
            sampling_rate=None if promised.record else record.sampling_rate,
        ),
        evaluation=bundle.document.evaluation if evaluates else None,
    )
    return task, document, bundle.blobs


class Fleet:
    """Keys of an operator, a run document, and a member for each device.

    Args:
        more: settings of the run.
        folder: where devices keep their files; None keeps all in memory.
        floors: of each device.
        size: how many devices.
        changes: of the document.
    """

    def __init__(
        self,
        *more: str,
        folder: Path | None = None,
        floors: Floors | None = None,
        size: int = 6,
        **changes: Any,
    ) -> None:
        self.task, document, self.blobs = exported(*more)
        self.folder, self.floors = folder, floors or Floors(secure=False, seeded=False)
        self.authority, self.coordinator = Identity.generate(), Identity.generate()
        self.document: RunDocument = dataclasses.replace(document, **changes)
        self.signed = self.document.encode(self.coordinator)
        self.identities = {k: Identity.generate() for k in range(size)}
        self.members = {k: self.member(k) for k in range(size)}

    def entry(self, client: int, identity: Identity | None = None) -> Entry:
        """What the authority says of a client."""
        public = (identity or self.identities[client]).public
        said = statements.attestation(POPULATION, client, public)
        return Entry(client, public, self.authority.sign(said))

    def records(self, client: int) -> Records:
        """A client's, of the task."""
        inputs, targets = self.task.data(client)
        return Records(np.asarray(inputs), np.asarray(targets))

    def parts(self, client: int, **changes: Any) -> Parts:
        """What a device's member is made of."""
        home = self.folder / str(client) if self.folder else None
        if home is not None:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        peers = Peers(home / "peers" if home else None, POPULATION, self.authority.public)
        peers.pin(self.entry(k) for k in self.identities)
        made = {
            "client": client,
            "population": POPULATION,
            "identity": self.identities[client],
            "coordinator": self.coordinator.public,
            "peers": peers,
            "vault": Vault(home / "vault" if home else None),
            "ledger": ClientLedger(home / "ledger" if home else None, self.floors.caps()),
            "floors": self.floors,
            "trainer": LocalTrainer(lambda: self.records(client), self.graph),
        }
        return Parts(**{**made, **changes})

    def member(self, client: int, **changes: Any) -> Member:
        """A device's member, as after a restart."""
        return Member(self.parts(client, **changes))

    def vault(self, client: int) -> Vault:
        """Of a device, as it is."""
        return self.members[client]._is.vault

    def graph(self, digest: bytes) -> bytes:
        """A graph of the run."""
        return self.blobs[digest.hex()]

    def request(self, kind: type[TrainRequest] | Any = TrainRequest, **changes: Any) -> Any:
        """What the coordinator asks in the third leg."""
        about = self.document
        unit = about.plan.client
        made: dict[str, Any] = {
            "run": about.run,
            "round": 1,
            "attempt": 0,
            "plan": about.plan.digest(),
            "frozen": about.frozen,
            "clip": unit.clip if unit else about.plan.projection or 0.0,
            "clients": 0,
            "members": b"",
            "parameters": vector.read(make_model(self.task, None)),
        }
        return kind(**{**made, **changes})

    def ask(self, client: int, kind: str, body: bytes, **more: Any) -> bytes:
        """One leg of one device."""
        return self.members[client].answer(kind, body, self.signed, **more)

    def all(self, kind: str, bodies: Mapping[int, bytes]) -> dict[int, bytes]:
        """One leg of some devices."""
        return {k: self.ask(k, kind, body) for k, body in bodies.items()}


Ask = Callable[[str, Mapping[int, bytes]], Mapping[int, bytes]]


class Coordinator:
    """The coordinator's side of one session, leg by leg, in bytes.

    Args:
        fleet: of the devices.
        purpose: "train" or "evaluate".
        changes: of the request.
    """

    def __init__(self, fleet: Fleet, purpose: str = "train", **changes: Any) -> None:
        self.fleet, self.purpose = fleet, purpose
        kind = TrainRequest if purpose == "train" else EvaluateRequest
        self.request = fleet.request(kind, **changes)
        self.invitation = Invitation.to(self.request, purpose)
        plan = fleet.document.plan
        lattice = plan.updates if purpose == "train" else plan.counts
        assert lattice is not None
        assert plan.rules is not None
        keys = PinnedDirectory({k: i.public for k, i in fleet.identities.items()})
        self.server = AggregatingServer(
            self.invitation,
            plan.rules,
            keys,
            Words(lattice.bits),
            lattice.length,
            list(fleet.identities),
        )
        self.said: dict[str, dict[int, tuple[bytes, bytes]]] = {}

    def leg(self, kind: str, gone: Collection[int] = (), ask: Ask | None = None) -> None:
        """Asks, and takes the answers of those who aren't gone."""
        bodies = {k: body for k, body in self._bodies(kind).items() if k not in gone}
        found = (ask or self.fleet.all)(kind, bodies)
        self.said[kind] = {k: (bodies[k], answer) for k, answer in found.items()}
        takes: dict[str, tuple[Any, Any]] = {
            "query.advertise": (Advertisement, self.server.advertised),
            "query.share": (Shares, self.server.shared),
            self.purpose: (Masked, self.server.masked),
            "query.confirm": (Confirmation, self.server.confirmed),
            "query.reveal": (Revealed, self.server.revealed),
        }
        of, take = takes[kind]
        for answer in found.values():
            take(of.decode(answer))

    def _bodies(self, kind: str) -> dict[int, bytes]:
        server = self.server
        if kind == "query.advertise":
            return dict.fromkeys(self.fleet.identities, self.invitation.encode())
        if kind == "query.share":
            roster = server.roster().encode()
            return dict.fromkeys(server.cohort.clients, roster)
        if kind == self.purpose:
            asked = dataclasses.replace(self.request, members=server.close_shares()).encode()
            return dict.fromkeys(server.members, asked)
        if kind == "query.confirm":
            survivors = server.close_masked().encode()
            return dict.fromkeys(server.survivors, survivors)
        return {k: request.encode() for k, request in server.close_confirmed().items()}

    @property
    def legs(self) -> tuple[str, ...]:
        """The kinds, in order."""
        return ("query.advertise", "query.share", self.purpose, "query.confirm", "query.reveal")

    def run(self, ask: Ask | None = None) -> NDArray[np.float64]:
        """All legs; the decoded sum of the vectors."""
        for kind in self.legs:
            self.leg(kind, ask=ask)
        return self.total()

    def total(self) -> NDArray[np.float64]:
        """The decoded sum."""
        plan = self.fleet.document.plan
        train = self.purpose == "train"
        lattice = plan.updates if train else plan.counts
        assert lattice is not None
        total, _, _ = self.server.total()
        bound = self.request.clip if train else Evaluation.SENSITIVITY
        signs = public_seed(self.purpose, self.request.round)
        return encoder.decode(total, bound, lattice, signs)[0]
