"""Noise in shares on the client's side: what it sends, and which requests it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from torch import nn

from tacit.client import update
from tacit.client.app import make_app
from tacit.client.party import FolderParty, LocalParty, folder_party
from tacit.client.trainer import Trainer
from tacit.configs import build, wire
from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.layers import SEED_BYTES, Shares
from tacit.privacy.discrete.rotation import public_seed
from tacit.privacy.errors import ConfigError, RoundError, StorageError
from tacit.privacy.messages import EncodedReply, EvaluateRequest, TrainRequest
from tacit.privacy.messages import Message as Body
from tacit.privacy.noise import Randomness
from tacit.privacy.secagg.directory import LocalDirectory, PinnedDirectory, enrol, key_path
from tacit.privacy.secagg.messages import (
    Advertisement,
    Confirmation,
    Invitation,
    Masked,
    Revealed,
    pack_members,
)
from tacit.privacy.secagg.messages import Shares as Dealt
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.words import Words
from tacit.privacy.units import Evaluation
from tacit.simulations.grid import InProcessGrid
from tacit.tasks import vector
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan

CLIENTS = 6
SETTINGS = [
    "experiment=none",
    f"clients={CLIENTS}",
    f"cohort={CLIENTS}",
    "minimum_survivors=4",
    "rounds=3",
    "evaluation=federated",
    "evaluation.cap=8",
    "privacy.client=flat",
    "privacy.client.clip=0.05",
    "privacy.record.noise_multiplier=0.5",
    "privacy.record.sampling_rate=0.5",
    "mechanism=skellam",
    "aggregation=secure",
]
PLAIN, NOISELESS = "aggregation=plain", "privacy.client.noise_multiplier=0"
RECORDS = ["privacy.client=none", "local.steps=1"]


def data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(client)
    return torch.randn(4, 5, generator=generator), torch.arange(4) % 3


class Side:
    """Clients under a plan, and a coordinator's requests to them."""

    def __init__(self, *overrides: str, home: Path | None = None, party: Any = None) -> None:
        self.read: list[int] = []

        def noted(client: int) -> Any:
            self.read.append(client)
            return data(client)

        self.spec = build.compose([*SETTINGS, *overrides])
        own = Task(name="mine", model=lambda: nn.Linear(5, 3), data=noted, examples_per_client=4)
        self.directory: Any = LocalDirectory()
        if home is None and party is None:
            party = LocalParty(self.directory)
        self.config = {"spec": json.dumps(self.spec.to_dict())}
        if home is not None:
            self.config["home"] = str(home)
        self.grid = InProcessGrid(make_app(own, party), CLIENTS, self.config)
        self.plan = privacy_plan(own, self.spec)
        self.trainer = Trainer(own, self.spec, self.plan)

    def request(self, kind: type = TrainRequest, **changes: Any) -> Any:
        clip = self.plan.client.clip if self.plan.client else self.plan.projection
        fields: dict[str, Any] = {
            "run": "r1",
            "round": 2,
            "attempt": 1,
            "plan": self.plan.digest(),
            "frozen": self.trainer.frozen,
            "clip": clip if kind is TrainRequest else 0.0,
            "clients": 0,
            "members": b"",
            "parameters": vector.read(self.trainer.model),
        }
        return kind(**{**fields, **changes})

    def ask(self, kind: str, body: Body, client: int) -> Message:
        node = self.grid.nodes[client]
        message = Message(wire.pack(body), dst_node_id=node, message_type=kind)
        (reply,) = self.grid.send_and_receive([message])
        return reply

    def refusal(self, kind: str, body: Body, client: int = 0) -> str:
        reply = self.ask(kind, body, client)
        assert reply.has_error()
        return reply.error.reason or ""

    def invitation(self, request: Any, purpose: str = "train", **changes: Any) -> Invitation:
        return dataclasses.replace(Invitation.to(request, purpose), **changes)

    def until_members(self, request: Any, purpose: str = "train") -> AggregatingServer:
        """The session up to the third exchange; everybody takes part."""
        lattice = self.plan.updates if purpose == "train" else self.plan.counts
        assert lattice is not None
        assert self.plan.rules is not None
        self.server = AggregatingServer(
            self.invitation(request, purpose),
            self.plan.rules,
            self.directory,
            Words(lattice.bits),
            lattice.length,
            list(range(CLIENTS)),
        )
        for k in range(CLIENTS):
            reply = self.ask("query.advertise", self.server.invitation, k)
            self.server.advertised(wire.unpack(Advertisement, reply))
        roster = self.server.roster()
        for k in range(CLIENTS):
            self.server.shared(wire.unpack(Dealt, self.ask("query.share", roster, k)))
        self.members = self.server.close_shares()
        return self.server

    def to_the_end(self, request: Any, purpose: str = "train") -> np.ndarray:
        """The decoded sum."""
        server = self.until_members(request, purpose)
        asked = dataclasses.replace(request, members=self.members)
        for k in range(CLIENTS):
            server.masked(wire.unpack(Masked, self.ask(purpose, asked, k)))
        survivors = server.close_masked()
        for k in range(CLIENTS):
            server.confirmed(wire.unpack(Confirmation, self.ask("query.confirm", survivors, k)))
        for k, asked_of in server.close_confirmed().items():
            server.revealed(wire.unpack(Revealed, self.ask("query.reveal", asked_of, k)))
        total, _, seeds = server.total()
        lattice = self.plan.updates if purpose == "train" else self.plan.counts
        assert lattice is not None
        assert self.plan.rules is not None
        layers = self.plan.rules.layers(CLIENTS)
        assert bool(seeds) == (layers > 0)
        shares = Shares("skellam", lattice.variance, CLIENTS, layers, lattice.length)
        total = total - shares.surplus(1, seeds)
        bound = request.clip if purpose == "train" else Evaluation.SENSITIVITY
        signs = public_seed(purpose, request.round)
        return encoder.decode(total, bound, lattice, signs)[0]


def prepared(side: Side, request: Any, client: int) -> np.ndarray:
    local = side.trainer.train(
        request.parameters, *data(client), Randomness(0), "train", request.round, client
    )
    return update.prepare(local, 4, request.clip, side.plan)[0]


# What is sent


def test_without_noise_the_sum_is_that_of_the_updates() -> None:
    side = Side(NOISELESS)
    request = side.request()
    total = side.to_the_end(request)
    expected = np.sum([prepared(side, request, k) for k in range(CLIENTS)], axis=0)
    assert side.plan.updates is not None
    # Each coordinate of each client is rounded by less than one unit of the lattice.
    step = request.clip / side.plan.updates.norm
    assert np.linalg.norm(total - expected) < CLIENTS * np.sqrt(32) * step
    assert np.linalg.norm(expected) > 20 * np.sqrt(32) * step


def test_without_noise_the_sum_of_counts_is_that_of_the_counts() -> None:
    side = Side(NOISELESS, "evaluation.noise_multiplier=0", "privacy.record=none")
    request = side.request(EvaluateRequest)
    total = side.to_the_end(request, "evaluate")
    counts = [
        side.trainer.counts(
            request.parameters, *data(k), Randomness(0).source("evaluate", request.round, k)
        )
        for k in range(CLIENTS)
    ]
    np.testing.assert_allclose(total, np.sum(counts, axis=0), atol=1e-4)
    assert total[1] == pytest.approx(CLIENTS * 4 / 8, abs=1e-4)


@pytest.mark.parametrize("extra", [[], RECORDS, ["privacy.client=adaptive"]])
def test_where_vectors_are_seen_they_carry_the_clients_share_of_the_noise(
    extra: list[str],
) -> None:
    side = Side(PLAIN, *extra)
    request = side.request(clients=5)
    reply = wire.unpack(EncodedReply, side.ask("train", request, 3))
    assert (reply.run, reply.round, reply.attempt) == ("r1", 2, 1)
    assert len(reply.chain) == SEED_BYTES
    lattice = side.plan.updates
    assert lattice is not None
    noise = update.own_noise(side.plan, 5, Randomness(0), "train", 2, 3)
    assert reply.chain == noise.chain
    words = Words(lattice.bits)
    sent = words.centred(words.unpack(reply.words, lattice.length))
    shares = Shares("skellam", lattice.variance, 5, noise.layers, lattice.length)
    added = np.zeros(lattice.length, dtype=np.int64)
    shares.add(added, noise.base, noise.chain)
    assert np.any(added)
    bare = words.centred(words.from_integers(sent - added))
    signs = public_seed("train", 2)
    found, vote = encoder.decode(bare, request.clip, lattice, signs)
    local = prepared(side, request, 3)
    bound = min(1.0, request.clip / max(np.linalg.norm(local), 1e-30))
    step = request.clip / lattice.norm
    assert np.linalg.norm(found - bound * local) < np.sqrt(lattice.coordinates) * step
    assert abs(vote) == (0.5 if extra == ["privacy.client=adaptive"] else 0.0)


def test_two_rounds_have_neither_noise_nor_dither_in_common() -> None:
    side = Side(PLAIN)
    replies = [
        wire.unpack(EncodedReply, side.ask("train", side.request(clients=5, round=n), k))
        for n, k in ((1, 3), (2, 3), (2, 4))
    ]
    assert len({r.words for r in replies}) == len({r.chain for r in replies}) == 3


# What is refused


def test_a_model_it_wasnt_invited_to_is_refused_before_any_data_is_read() -> None:
    side = Side("privacy.client=adaptive")
    request = side.request()
    side.until_members(request)
    good = dataclasses.replace(request, members=side.members)
    others = {
        "parameters": request.parameters + np.float32(1e-6),
        "clip": request.clip * 1.01,
        "round": 3,
        "attempt": 2,
        "run": "r2",
    }
    for name, value in others.items():
        bad = dataclasses.replace(good, **{name: value})
        assert Invitation.to(bad, "train").session() != Invitation.to(good, "train").session()
        assert "session" in side.refusal("train", bad)
    # Nor as an evaluation.
    as_evaluation = side.request(EvaluateRequest, members=side.members)
    assert "session" in side.refusal("evaluate", as_evaluation)
    assert side.read == []
    # Its session is as it was.
    assert not side.ask("train", good, 0).has_error()
    assert side.read == [0]


def test_a_vector_outside_any_session_is_refused() -> None:
    side = Side()
    everybody = pack_members(range(CLIENTS))
    for kind, name in ((TrainRequest, "train"), (EvaluateRequest, "evaluate")):
        assert "session" in side.refusal(name, side.request(kind, members=everybody))
    # Nor before the shares are dealt.
    request = side.request()
    side.ask("query.advertise", side.invitation(request), 0)
    refused = side.refusal("train", dataclasses.replace(request, members=everybody))
    assert "phase 'advertised'" in refused
    assert side.read == []


def test_a_second_vector_in_one_session_is_refused() -> None:
    side = Side()
    request = side.request()
    side.until_members(request)
    asked = dataclasses.replace(request, members=side.members)
    assert not side.ask("train", asked, 0).has_error()
    assert "phase 'masked'" in side.refusal("train", asked)
    assert side.read == [0]


@pytest.mark.parametrize(
    "members", [(1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 6), (0, 1, 2), ()], ids=lambda m: str(len(m))
)
def test_members_that_arent_the_rosters_are_refused(members: tuple[int, ...]) -> None:
    side = Side()
    request = side.request()
    side.until_members(request)
    asked = dataclasses.replace(request, members=pack_members(members))
    assert "members" in side.refusal("train", asked)
    assert side.read == []


@pytest.mark.parametrize("clients", [0, 3, CLIENTS + 1, 10**6])
def test_noise_shared_among_too_few_or_too_many_is_refused(clients: int) -> None:
    side = Side(PLAIN)
    for kind, name in ((TrainRequest, "train"), (EvaluateRequest, "evaluate")):
        refused = side.refusal(name, side.request(kind, clients=clients))
        assert f"clients={clients}" in refused
    assert side.read == []


@pytest.mark.parametrize("clients", [4, CLIENTS])
def test_noise_shared_among_as_many_as_planned_is_not(clients: int) -> None:
    assert not Side(PLAIN).ask("train", Side(PLAIN).request(clients=clients), 0).has_error()


@pytest.mark.parametrize("extra", [[], RECORDS])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.01, -1.0, 1e300])
def test_another_clip_than_the_plans_is_refused(extra: list[str], factor: float) -> None:
    side = Side(PLAIN, *extra)
    request = side.request(clients=5)
    bad = dataclasses.replace(request, clip=request.clip * factor)
    assert "clip=" in side.refusal("train", bad)
    assert side.read == []
    assert not side.ask("train", request, 0).has_error()


def test_an_invitation_under_another_plan_is_refused() -> None:
    side = Side()
    invitation = side.invitation(side.request(), plan="0" * 64)
    assert "plan digest" in side.refusal("query.advertise", invitation)


def test_an_old_invitation_is_refused() -> None:
    side = Side()
    for number, attempt, fits in ((2, 1, True), (2, 1, False), (2, 0, False), (1, 9, False)):
        request = side.request(round=number, attempt=attempt)
        reply = side.ask("query.advertise", side.invitation(request), 0)
        assert reply.has_error() != fits


@pytest.mark.parametrize(
    "settings", [["mechanism=central", PLAIN], [PLAIN]], ids=["central", "shares"]
)
def test_a_plan_without_secure_aggregation_enters_no_session(settings: list[str]) -> None:
    side = Side(*settings)
    invitation = side.invitation(side.request())
    assert "no secure aggregation" in side.refusal("query.advertise", invitation)


# Who a client is


def test_a_node_without_a_home_says_how_to_give_it_one() -> None:
    side = Side()
    side.grid = InProcessGrid(make_app(side.trainer.task), CLIENTS, side.config)
    with pytest.raises(ConfigError, match="client-home") as caught:
        side.ask("query.advertise", side.invitation(side.request()), 0)
    assert "--node-config" in caught.value.hint


def test_clients_with_keys_in_files_make_the_same_sum(tmp_path: Path) -> None:
    directory = enrol(tmp_path / "clients", CLIENTS)
    here, there = Side(), Side(home=tmp_path)
    there.directory = directory
    request = here.request()
    np.testing.assert_array_equal(there.to_the_end(request), here.to_the_end(request))
    vaults = sorted(p.name for p in (tmp_path / "clients").glob("*.vault"))
    assert vaults == [f"{k}.vault" for k in range(CLIENTS)]


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    enrol(tmp_path / "clients", CLIENTS)
    return tmp_path / "clients"


def test_a_folders_key_is_the_directorys(clients: Path) -> None:
    rules = Side().plan.rules
    assert rules is not None
    assert FolderParty(clients).masking(3, rules).client == 3


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "can't be read"),
        (lambda path: path.write_bytes(key_path(path.parent, 4).read_bytes()), "isn't the one"),
        (lambda path: path.write_bytes(bytes(range(32))), "isn't the one"),
    ],
    ids=["missing", "another's", "unknown"],
)
def test_a_missing_or_foreign_key_is_refused(
    clients: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    spoil(key_path(clients, 3))
    rules = Side().plan.rules
    assert rules is not None
    party = FolderParty(clients)
    with pytest.raises(StorageError, match=says):
        party.masking(3, rules)
    assert party.masking(4, rules).client == 4


def test_a_client_that_isnt_in_the_directory_is_refused(clients: Path) -> None:
    keys = {k: PinnedDirectory.load(clients / "directory.json").public(k) for k in range(3)}
    PinnedDirectory({k: key for k, key in keys.items() if key}).save(clients / "directory.json")
    rules = Side().plan.rules
    assert rules is not None
    with pytest.raises(StorageError, match="isn't the one"):
        FolderParty(clients).masking(3, rules)


def test_a_folder_without_a_directory_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="directory") as caught:
        folder_party(tmp_path / "nowhere")
    assert "public keys" in caught.value.hint


def test_a_restarted_client_keeps_its_promises(clients: Path) -> None:
    side = Side(party=FolderParty(clients))
    side.directory = PinnedDirectory.load(clients / "directory.json")
    request = side.request()
    side.until_members(request)
    asked = dataclasses.replace(request, members=side.members)
    first = side.ask("train", asked, 0)
    # The same clients in a new process: their files are all they have.
    again = Side(party=FolderParty(clients))
    assert "seen before" in again.refusal("query.advertise", side.server.invitation)
    fewer = dataclasses.replace(asked, members=pack_members(range(CLIENTS - 1)))
    assert "phase 'masked'" in again.refusal("train", fewer, 0)
    assert wire.body(again.ask("train", asked, 0)) == wire.body(first)
    assert again.read == []
    assert not again.ask("train", asked, 1).has_error()


# What becomes integers


@pytest.mark.parametrize("bits", [16, 20, 32])
@pytest.mark.parametrize("adaptive", [False, True])
def test_encoded_vectors_add_up_to_the_sum_of_the_vectors(bits: int, adaptive: bool) -> None:
    kind = ["privacy.client=adaptive", "privacy.client.count_noise=2"] if adaptive else []
    plan = Side(PLAIN, f"secure.bits={bits}", *kind).plan
    assert plan.updates is not None
    lattice = dataclasses.replace(plan.updates, variance=0.0)
    rng = np.random.default_rng(bits)
    signs, total, votes = b"s" * 32, np.zeros(lattice.length, dtype=np.int64), 0.0
    whole = np.zeros(lattice.dimension)
    for k in range(CLIENTS):
        values = rng.normal(size=lattice.dimension).astype(np.float32)
        values /= np.linalg.norm(values) * (1 + k)
        vote = np.array([0.5 if k % 3 else -0.5] if adaptive else [], dtype=np.float32)
        noise = ("skellam", update.own_noise(plan, CLIENTS, Randomness(0), "train", 1, k))
        key = bytes([k]) * 32
        one = update.encoded((values, vote), 1.0, lattice, signs, noise, key)
        assert np.linalg.norm(one) <= lattice.l2
        total, whole, votes = total + one, whole + values, votes + float(vote.sum())
    found, counted = encoder.decode(total, 1.0, lattice, signs)
    assert counted == votes
    error = CLIENTS * np.sqrt(lattice.coordinates) / lattice.norm
    assert np.linalg.norm(found - whole) < error + 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_isnt_finite_counts_as_zero(bad: float) -> None:
    plan = Side(PLAIN).plan
    assert plan.updates is not None
    lattice = dataclasses.replace(plan.updates, variance=0.0)
    values = np.zeros(lattice.dimension, dtype=np.float32)
    values[2] = bad
    vector, vote = update.prepare(values, 4, 0.05, plan)
    noise = ("skellam", update.own_noise(plan, CLIENTS, Randomness(0), "train", 1, 0))
    whole = update.encoded((vector, vote), 0.05, lattice, b"s" * 32, noise, b"k" * 32)
    assert not np.any(whole)


def test_a_central_plan_has_no_noise_of_its_own() -> None:
    plan = Side("mechanism=central", PLAIN).plan
    with pytest.raises(RuntimeError, match="no noise in shares"):
        update.own_noise(plan, CLIENTS, Randomness(0), "train", 1, 0)


def test_what_a_client_says_of_its_refusal_is_the_reason_alone() -> None:
    side = Side()
    reason = side.refusal("train", side.request(members=pack_members(range(CLIENTS))))
    assert "Traceback" not in reason
    assert issubclass(RoundError, Exception)
