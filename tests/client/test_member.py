"""What a client does beside its protocol: signs, answers again, charges itself, refuses seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.server.superlink.fleet.vce.vce_api import _register_node_info_stores
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from tacit.client.app import make_app
from tacit.client.caps import Caps
from tacit.client.ledger import ClientLedger
from tacit.client.party import folder_party
from tacit.client.refusing import Declined
from tacit.client.trainer import Trainer
from tacit.configs import build, wire
from tacit.privacy.errors import ConfigError, MessageError, RoundError
from tacit.privacy.messages import EncodedReply, EvaluateRequest, TrainReply, TrainRequest
from tacit.privacy.messages import Message as Body
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.directory import PinnedDirectory, enrol
from tacit.privacy.secagg.messages import Advertisement, Invitation
from tacit.protocol import statements
from tacit.simulations.grid import InProcessGrid
from tacit.tasks import vector
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan

CLIENTS = 6
NONCE = bytes(range(statements.NONCE_BYTES))
BASE = [
    "experiment=none",
    f"clients={CLIENTS}",
    f"cohort={CLIENTS}",
    "minimum_survivors=4",
    "evaluation=federated",
    "evaluation.cap=8",
    "privacy.client=flat",
    "privacy.client.clip=0.05",
    "privacy.record.noise_multiplier=0.5",
    "seed=null",
]
CENTRAL = ("mechanism=central", "aggregation=plain")
ENCODED = ("mechanism=skellam", "aggregation=plain")
SECURE = ("mechanism=skellam", "aggregation=secure")


class Deployed:
    """Client 0 on a node that says where its files are."""

    def __init__(self, home: Path, *overrides: str, **node: Any) -> None:
        self.home, self.read = home, 0
        enrol(home, CLIENTS)
        self.directory = PinnedDirectory.load(home / "directory.json")

        def data(client: int) -> Any:
            self.read += 1
            return torch.ones(4, 5), torch.arange(4) % 3

        self.spec = build.compose([*BASE, *overrides])
        own = Task(name="mine", model=lambda: nn.Linear(5, 3), data=data, examples_per_client=4)
        self.plan = privacy_plan(own, self.spec)
        self.trainer = Trainer(own, self.spec, self.plan)
        self.app = make_app(own)
        # Sets what Flower needs to make messages.
        InProcessGrid(self.app, 1, {})
        self.place, self.node = 5, {"partition-id": 0, "client-home": str(home), **node}

    def request(self, kind: type = TrainRequest, **changes: Any) -> Any:
        clients = CLIENTS if self.plan.rules and self.plan.aggregation == "plain" else 0
        fields = {
            "run": "r1",
            "round": 1,
            "attempt": 0,
            "plan": self.plan.digest(),
            "frozen": self.trainer.frozen,
            "clip": 0.05 if kind is TrainRequest else 0.0,
            "clients": clients,
            "members": b"",
            "parameters": vector.read(self.trainer.model),
        }
        return kind(**{**fields, **changes})

    def ask(self, kind: str, body: Body | None, nonce: bytes | None = NONCE) -> Message:
        """The reply; a refusal is raised, verified if it is signed."""
        content = wire.ask_who(nonce) if body is None else wire.pack(body, nonce)
        message = Message(content, dst_node_id=5, message_type=kind)
        message.metadata.__dict__["_message_id"] = "m"
        context = Context(
            run_id=1,
            node_id=self.place,
            node_config=self.node,
            state=RecordDict(),
            run_config={"spec": json.dumps(self.spec.to_dict())},
        )
        reply = self.app(message, context)
        if nonce is not None and reply.has_content():
            said = wire.refusal(reply, (nonce, kind), int(self.node["partition-id"]), self.key)
            if said is not None:
                raise Declined(said.name, said.text)
        return reply

    @property
    def key(self) -> bytes:
        found = self.directory.public(0)
        assert found is not None
        return found


Make = Callable[..., Deployed]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(*overrides: str, **node: Any) -> Deployed:
        # As in a new process.
        folder_party.cache_clear()
        return Deployed(tmp_path / "home", *overrides, **node)

    return made


# Signatures


@pytest.mark.parametrize("how", [CENTRAL, ENCODED], ids=["central", "encoded"])
@pytest.mark.parametrize(("kind", "of"), [("train", TrainRequest), ("evaluate", EvaluateRequest)])
def test_a_reply_is_signed_over_request_client_and_body(
    make: Make, how: tuple[str, ...], kind: str, of: type
) -> None:
    side = make(*how)
    reply = side.ask(kind, side.request(of))
    wire.check(reply, (NONCE, kind), 0, side.key)
    other = side.directory.public(1)
    assert other is not None
    for asked, client, key in (
        ((bytes(16), kind), 0, side.key),
        ((NONCE, "query.share"), 0, side.key),
        ((NONCE, kind), 1, side.key),
        ((NONCE, kind), 0, other),
    ):
        with pytest.raises(MessageError, match="didn't sign"):
            wire.check(reply, asked, client, key)
    record = reply.content["tacit"]
    assert isinstance(record, ConfigRecord)
    record["body"] = wire.body(reply)[:-1] + b"\x00"
    with pytest.raises(MessageError, match="didn't sign"):
        wire.check(reply, (NONCE, kind), 0, side.key)


def test_a_session_and_the_census_are_signed_too(make: Make) -> None:
    side = make(*SECURE)
    invitation = Invitation.to(side.request(), "train")
    reply = side.ask("query.advertise", invitation)
    wire.check(reply, (NONCE, "query.advertise"), 0, side.key)
    assert wire.unpack(Advertisement, reply).client == 0
    who = side.ask("query", None)
    wire.check_who(who, (NONCE, "query"), wire.who(who), side.key)
    with pytest.raises(MessageError, match="didn't sign"):
        wire.check_who(who, (bytes(16), "query"), 0, side.key)


def test_without_a_nonce_nothing_is_signed(make: Make) -> None:
    side = make(*CENTRAL)
    for reply in (side.ask("train", side.request(), None), side.ask("query", None, None)):
        assert "signature" not in reply.content["tacit"]
        with pytest.raises(MessageError, match="isn't signed"):
            wire._verify(reply, (NONCE, "train"), (0, side.key), b"")


def test_a_node_without_a_key_cant_answer_where_signatures_are_asked_for(make: Make) -> None:
    side = make(*CENTRAL)
    del side.node["client-home"]
    side.node["num-partitions"] = CLIENTS
    with pytest.raises(ConfigError, match="client-home"):
        side.ask("train", side.request())
    with pytest.raises(MessageError, match="no key"):
        side.ask("query", None)
    assert not side.ask("train", side.request(), None).has_error()


LEGS = ["train", "evaluate", "query.advertise", "query.share", "query.confirm", "query.reveal"]


@pytest.mark.parametrize("kind", ["query", *LEGS])
@pytest.mark.parametrize("nonce", [None, NONCE])
def test_a_supernode_without_a_folder_is_no_simulations(
    make: Make, kind: str, nonce: bytes | None
) -> None:
    """A coordinator can't have it train without floors, ledger and key by asking for no nonce."""
    side = make(*CENTRAL)
    del side.node["client-home"]
    body = None if kind == "query" else side.request()
    with pytest.raises(RoundError, match="isn't a simulation's") as caught:
        side.ask(kind, body, nonce)
    assert "client-home='FOLDER'" in caught.value.hint
    # Nor if its operator wrote what Flower's tutorials write, since its process is a SuperNode's.
    side.node["num-partitions"] = CLIENTS
    side.place = TaskIdentity.node_id
    with pytest.raises(RoundError, match="isn't a simulation's"):
        side.ask(kind, body, nonce)
    assert side.read == 0


def test_flowers_simulation_says_that_it_is_one(make: Make) -> None:
    """As its own code makes the nodes that it gives to Ray."""
    stores = _register_node_info_stores({71: 0, 72: 1}, Run.create_empty(1))
    for place, made in stores.items():
        side = make(*CENTRAL)
        side.place, side.node = place, dict(made.retrieve_context(1).node_config)
        assert wire.who(side.ask("query", None, None)) == side.node["partition-id"]


# Refusals


def test_a_refusal_says_why_under_the_clients_signature(make: Make) -> None:
    side = make(*SECURE)
    (side.home / "floors.json").write_text('{"bits": 32, "rounds": 0}')
    cases = [
        ("query.advertise", Invitation.to(side.request(plan="0" * 64), "train"), "PLAN"),
        ("query.advertise", Invitation.to(side.request(), "train"), "FLOOR"),
        ("train", side.request(frozen="0" * 64), "FLOOR"),
        ("train", side.request(EvaluateRequest), "MALFORMED"),
    ]
    for kind, body, reason in cases:
        with pytest.raises(Declined) as caught:
            side.ask(kind, body)
        assert caught.value.reason == reason
    (side.home / "floors.json").write_text("{}")
    side = make(*SECURE)
    with pytest.raises(Declined, match="session") as caught:
        side.ask("train", side.request())
    assert caught.value.reason == "PROTOCOL"


def test_a_failure_says_nothing_of_what_failed(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    side = make(*CENTRAL)

    def broken(*_: Any) -> Any:
        raise ValueError("could not convert string to float: 'Jane Doe, 1970-01-01'")

    monkeypatch.setattr(Trainer, "train", broken)
    with pytest.raises(Declined) as caught:
        side.ask("train", side.request())
    assert (caught.value.reason, caught.value.message) == (
        "FAILED",
        "the client failed; its own log says why",
    )
    assert "Jane Doe" in caplog.text
    # Where nothing is signed it is Flower's to tell, as it is.
    with pytest.raises(ValueError, match="Jane Doe"):
        side.ask("train", side.request(round=2), None)


def test_a_nonce_that_isnt_one_gets_no_signature(make: Make) -> None:
    side = make(*CENTRAL)
    with pytest.raises(MessageError, match="16 bytes"):
        side.ask("train", side.request(), bytes(15))


# Answers again


@pytest.mark.parametrize("how", [CENTRAL, ENCODED], ids=["central", "encoded"])
def test_a_vector_that_is_seen_leaves_once_in_a_round(make: Make, how: tuple[str, ...]) -> None:
    side = make(*how)
    first = side.ask("train", side.request())
    # A new process, which has the files alone, and another nonce.
    again = make(*how)
    second = again.ask("train", again.request(), bytes(16))
    assert wire.body(second) == wire.body(first)
    assert again.read == 0
    wire.check(second, (bytes(16), "train"), 0, side.key)
    changed = again.request(parameters=np.zeros(18, dtype=np.float32))
    with pytest.raises(RoundError, match="seen before"):
        again.ask("train", changed)
    kind = TrainReply if how == CENTRAL else EncodedReply
    wire.unpack(kind, again.ask("train", again.request(attempt=1)))
    with pytest.raises(RoundError, match="seen before"):
        again.ask("train", again.request())
    wire.unpack(kind, again.ask("train", again.request(round=2)))


def test_an_invitation_that_comes_again_gets_the_same_keys(make: Make) -> None:
    side = make(*SECURE)
    invitation = Invitation.to(side.request(), "train")
    first = wire.body(side.ask("query.advertise", invitation))
    assert wire.body(make(*SECURE).ask("query.advertise", invitation)) == first
    with pytest.raises(RoundError, match="seen before"):
        side.ask("query.advertise", dataclasses.replace(invitation, task="another"))


def test_who_loses_a_race_against_itself_says_what_the_winner_said(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both processes of a client found nothing said yet, and one of them wrote first."""
    side, twin = make(*SECURE), make(*SECURE)
    invitation = Invitation.to(side.request(), "train")
    won: list[bytes] = []
    honest = MaskingClient.advertise

    def slower(self: MaskingClient, asked: Invitation) -> Advertisement:
        monkeypatch.setattr(MaskingClient, "advertise", honest)
        won.append(wire.body(twin.ask("query.advertise", asked)))
        return honest(self, asked)

    monkeypatch.setattr(MaskingClient, "advertise", slower)
    assert wire.body(side.ask("query.advertise", invitation)) == won[0]


# Its own ledger


def participations(side: Deployed) -> int:
    return ClientLedger(side.home / "0.ledger", Caps()).spent().participations


@pytest.mark.parametrize("how", [CENTRAL, ENCODED], ids=["central", "encoded"])
def test_each_vector_is_charged_once(make: Make, how: tuple[str, ...]) -> None:
    side = make(*how)
    for request in (side.request(), side.request(), side.request(round=2)):
        side.ask("train", request)
    side.ask("evaluate", side.request(EvaluateRequest, round=2))
    assert participations(side) == 3


def test_a_cap_is_held_before_any_data_is_read(make: Make) -> None:
    side = make(*CENTRAL)
    (side.home / "floors.json").write_text('{"rounds": 1}')
    side.ask("train", side.request())
    assert side.read == 1
    with pytest.raises(RoundError, match="rounds=1") as caught:
        side.ask("train", side.request(round=2))
    assert getattr(caught.value, "reason", None) == "ROUNDS"
    assert side.read == 1
    # What was said already is said again.
    assert not side.ask("train", side.request()).has_error()


def test_a_cap_is_held_when_a_session_begins(make: Make) -> None:
    side = make(*SECURE)
    (side.home / "floors.json").write_text('{"rounds": 0}')
    with pytest.raises(RoundError, match="rounds=0"):
        side.ask("query.advertise", Invitation.to(side.request(), "train"))


# Seeds


@pytest.mark.parametrize("how", [CENTRAL, ENCODED, SECURE], ids=["central", "encoded", "secure"])
def test_a_deployed_client_refuses_noise_from_a_seed(make: Make, how: tuple[str, ...]) -> None:
    side = make(*how, "seed=3")
    kind, body = ("train", side.request())
    if how == SECURE:
        kind, body = "query.advertise", Invitation.to(body, "train")
    with pytest.raises(RoundError, match="noise_source=seeded-simulation"):
        side.ask(kind, body)
    assert side.read == 0


def test_a_deployed_client_takes_a_seed_if_its_file_says_so(make: Make) -> None:
    side = make(*CENTRAL, "seed=3")
    (side.home / "floors.json").write_text('{"seeded": true}')
    assert not side.ask("train", side.request()).has_error()
