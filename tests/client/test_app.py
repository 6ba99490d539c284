"""`tacit.client.app`: real messages through the in-process grid, and what it refuses."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from tacit.client import update
from tacit.client.app import make_app
from tacit.client.trainer import Trainer
from tacit.configs import wire
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError, DataError, ModelError, RoundError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from tacit.privacy.noise import Randomness
from tacit.server.legs import census
from tacit.simulations.grid import InProcessGrid
from tacit.tasks import vector
from tacit.tasks.task import Task
from tacit.tasks.task import plan as privacy_plan

SETTINGS = (
    "evaluation=federated",
    "evaluation.cap=8",
    "privacy.client=adaptive",
    "privacy.record.noise_multiplier=0.5",
    "privacy.record.sampling_rate=0.5",
)


def records(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Client k has k records."""
    generator = torch.Generator().manual_seed(client)
    return torch.randn(client, 5, generator=generator), torch.arange(client) % 3


def task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "model": lambda: nn.Linear(5, 3),
        "data": records,
        "examples_per_client": 10,
    }
    return Task(name="mine", **{**known, **fields})


class Side:
    """A grid of clients, and requests as a coordinator of the same configuration sends them."""

    def __init__(self, spec: RunSpec, own: Task) -> None:
        self.spec, self.config = spec, {"spec": json.dumps(spec.to_dict())}
        self.app: ClientApp = make_app(own)
        self.grid = InProcessGrid(self.app, spec.clients, self.config)
        self.trainer = Trainer(own, spec, privacy_plan(own, spec))
        self.parameters = vector.read(self.trainer.model)

    def request(self, kind: type = TrainRequest, **changes: Any) -> Any:
        fields = {
            "run": "r1",
            "round": 2,
            "attempt": 1,
            "plan": self.trainer.plan.digest(),
            "frozen": self.trainer.frozen,
            "clip": 0.05,
            "clients": 0,
            "members": b"",
            "parameters": self.parameters,
        }
        return kind(**{**fields, **changes})

    def message(self, request: Any, client: int) -> Message:
        kind = "train" if isinstance(request, TrainRequest) else "evaluate"
        node = self.grid.nodes[client]
        return Message(wire.pack(request), dst_node_id=node, message_type=kind)

    def ask(self, request: Any, client: int = 6) -> Message:
        (reply,) = self.grid.send_and_receive([self.message(request, client)])
        return reply


@pytest.fixture
def side(spec_of: Callable[..., RunSpec]) -> Callable[..., Side]:
    return lambda *overrides, **fields: Side(spec_of(*SETTINGS, *overrides), task(**fields))


def test_train_answers_with_the_trainers_bounded_update(side: Callable[..., Side]) -> None:
    made = side()
    reply = wire.unpack(TrainReply, made.ask(made.request(), client=6))
    local = made.trainer.train(made.parameters, *records(6), Randomness(0), "train", 2, 6)
    sent, vote = update.prepare(local, 6, 0.05, made.trainer.plan)
    np.testing.assert_array_equal(reply.update, sent)
    np.testing.assert_array_equal(reply.vote, vote)
    assert (reply.run, reply.round, reply.attempt) == ("r1", 2, 1)
    assert np.linalg.norm(reply.update) <= 0.05


def test_evaluate_answers_with_the_trainers_counts(side: Callable[..., Side]) -> None:
    made = side()
    reply = wire.unpack(EvaluateReply, made.ask(made.request(EvaluateRequest), client=6))
    source = Randomness(0).source("evaluate", 2, 6)
    want = made.trainer.counts(made.parameters, *records(6), source)
    np.testing.assert_array_equal(reply.counts, want)
    assert (reply.run, reply.round, reply.attempt) == ("r1", 2, 1)


def test_who_answers_with_the_clients_number(side: Callable[..., Side]) -> None:
    made = side()
    assert census(made.grid, made.spec.clients) == made.grid.nodes


def refused(reply: Message) -> str:
    """Why a client refused; nothing but the reason leaves it."""
    assert reply.has_error()
    return reply.error.reason or ""


def header(body: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", body, 4)
    found = json.loads(body[8 : 8 + length])
    floats = sum(a["length"] for a in found["arrays"])
    assert len(body) == 8 + length + 4 * floats
    return found


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [(TrainRequest, {"update": 18, "vote": 1}), (EvaluateRequest, {"counts": 3})],
)
def test_a_reply_is_one_record_with_one_value_and_only_the_messages_fields(
    side: Callable[..., Side], kind: type, arrays: dict[str, int]
) -> None:
    made = side()
    reply = made.ask(made.request(kind))
    (record,) = reply.content.values()
    assert isinstance(record, ConfigRecord)
    (body,) = record.values()
    assert isinstance(body, bytes)
    found = header(body)
    assert set(found) == {"kind", "fields", "arrays"}
    assert found["fields"] == {"run": "r1", "round": 2, "attempt": 1}
    assert {a["name"]: a["length"] for a in found["arrays"]} == arrays


@pytest.mark.parametrize("kind", [TrainRequest, EvaluateRequest])
def test_the_size_of_a_reply_doesnt_show_how_many_records_a_client_has(
    side: Callable[..., Side], kind: type
) -> None:
    made = side()
    bodies = [made.ask(made.request(kind), client=k).content["tacit"]["body"] for k in (0, 1, 19)]
    assert len({len(body) for body in bodies}) == 1
    assert len(set(bodies)) == 3


def test_clients_leave_nothing_in_flowers_state(side: Callable[..., Side]) -> None:
    made = side()
    for kind in (TrainRequest, EvaluateRequest):
        made.ask(made.request(kind))
    assert made.grid._states == {}


@pytest.mark.parametrize("kind", [TrainRequest, EvaluateRequest])
def test_another_plan_is_refused_before_any_data_is_read(
    side: Callable[..., Side], kind: type
) -> None:
    read: list[int] = []

    def data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(client)
        return records(client)

    made = side(data=data)
    assert "plan digest" in refused(made.ask(made.request(kind, plan="0" * 64)))
    assert "isn't trained" in refused(made.ask(made.request(kind, frozen="0" * 64)))
    with pytest.raises(RoundError, match="isn't trained") as caught:
        directly(made, SIMULATED | {"partition-id": 6}, made.request(kind, frozen="0" * 64))
    assert "outside state" in caught.value.hint
    assert read == []
    made.ask(made.request(kind))
    assert read == [6]


@pytest.mark.parametrize("kind", [TrainRequest, EvaluateRequest])
@pytest.mark.parametrize("size", [0, 17, 19])
def test_a_model_of_another_size_is_refused(
    side: Callable[..., Side], kind: type, size: int
) -> None:
    made = side()
    with pytest.raises(ModelError, match=r"should be \(18,\)"):
        made.ask(made.request(kind, parameters=np.zeros(size, dtype=np.float32)))


def test_a_request_of_the_other_kind_is_refused(side: Callable[..., Side]) -> None:
    made = side()
    node = made.grid.nodes[3]
    content = wire.pack(made.request(EvaluateRequest))
    message = Message(content, dst_node_id=node, message_type="train")
    (reply,) = made.grid.send_and_receive([message])
    assert "train-request" in refused(reply)


def test_malformed_data_is_named_by_its_client(side: Callable[..., Side]) -> None:
    made = side(data=lambda k: (np.zeros((3, 5)), np.zeros(2)))
    with pytest.raises(DataError, match="client 6"):
        made.ask(made.request(), client=6)


def test_a_clients_own_failure_is_an_error_reply(side: Callable[..., Side]) -> None:
    def data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise OSError("the disk is gone")

    reply = side(data=data)
    answer = reply.ask(reply.request())
    assert answer.has_error()
    assert "the disk is gone" in (answer.error.reason or "")


# What Flower's simulation gives each of its nodes beside its number.
SIMULATED = {"num-partitions": 20}


def directly(made: Side, node_config: dict[str, Any], request: Any = None) -> Message:
    context = Context(
        run_id=1,
        node_id=5,
        node_config=node_config,
        state=RecordDict(),
        run_config=dict(made.config),
    )
    return made.app(made.message(request or made.request(), 6), context)


def test_a_node_without_a_partition_id_says_how_to_give_it_one(side: Callable[..., Side]) -> None:
    with pytest.raises(RoundError, match="partition-id") as caught:
        directly(side(), {})
    assert "--node-config" in caught.value.hint


@pytest.mark.parametrize("odd", [-1, 20, "six"])
def test_a_partition_id_that_is_no_clients_number_is_refused(
    side: Callable[..., Side], odd: int | str
) -> None:
    config = SIMULATED | {"partition-id": odd}
    with pytest.raises(RoundError, match="partition-id"):
        directly(side(data=lambda k: [records(j) for j in range(20)][k]), config)


def test_a_partition_id_in_words_of_the_command_line_is_read(side: Callable[..., Side]) -> None:
    reply = directly(side(), SIMULATED | {"partition-id": "6"})
    assert not reply.has_error()


def test_a_task_that_doesnt_fit_the_configuration_is_refused(side: Callable[..., Side]) -> None:
    made = side(clients=19)
    with pytest.raises(ConfigError, match="clients=20 must be at most 19"):
        made.ask(made.request())


def test_clients_on_flowers_own_engines_find_the_task_by_its_name(
    spec_of: Callable[..., RunSpec],
) -> None:
    from tacit.client.app import app
    from tacit.tasks.task import load

    spec = spec_of("task=digits", "partition=iid")
    own = load(spec)
    made = Side(spec, own)
    made.grid = InProcessGrid(app, spec.clients, made.config)
    reply = wire.unpack(TrainReply, made.ask(made.request(), client=3))
    local = made.trainer.train(made.parameters, *own.data(3), Randomness(0), "train", 2, 3)
    np.testing.assert_array_equal(reply.update, local)
