"""Legs over the SuperLink's own store of messages: what it says of nodes that die or lie.

Flower's LinkState and Grid are real, the network between them and the nodes isn't there.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.grid.inmemory_grid import InMemoryGrid
from flwr.superlink.servicer.runtime import runtime_handlers

from tacit.configs import wire
from tacit.privacy.messages import EvaluateReply, EvaluateRequest
from tacit.privacy.secagg.directory import LocalDirectory
from tacit.server.legs import Legs, census
from tacit.simulations.grid import InProcessGrid

CLIENTS = 4
REQUEST = EvaluateRequest("r", 1, 0, "plan", "frozen", 0.0, 0, b"", np.zeros(3, np.float32))
KEYS = LocalDirectory(bytes(32))
ALL = {k: float(k) for k in range(CLIENTS)}
Answer = Callable[[Message, int], Message | None]


def honest(message: Message, k: int) -> Message:
    identity = KEYS.identity(k)
    if message.metadata.message_type == "query":
        return Message(wire.tell_who(message, k, identity), reply_to=message)
    body = EvaluateReply("r", 1, 0, np.full(3, k, np.float32)).encode()
    return Message(wire.reply(body, message, k, identity), reply_to=message)


class Link:
    """A run on a SuperLink, and a thread that is all of its nodes.

    Attributes:
        answers: what a node makes of a message, if it isn't honest; None is no answer.
        pulled: how many messages each client's node has taken.
    """

    def __init__(self) -> None:
        InProcessGrid(lambda m, c: m, 1, {})  # type: ignore[arg-type]  # for TaskIdentity
        factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
        )
        self.state: Any = factory.state()
        run = Run.create_empty(1)
        run.federation_id, run.primary_task_id = NOOP_FEDERATION_ID, 1
        self.state.run_ids[1] = RunRecord(run=run)
        self.state.task_store[1] = Task(task_id=1, run_id=1)
        self.nodes = {}
        for k in range(CLIENTS):
            node = self.state.create_node("nobody", "", secrets.token_bytes(32), 1e6)
            self.state.acknowledge_node_heartbeat(node, 1e6)
            self.nodes[k] = node
        self.grid = InMemoryGrid(factory)
        self.grid._run = run
        self.answers: dict[int, Answer] = {}
        self.pulled = dict.fromkeys(range(CLIENTS), 0)
        self.over = threading.Event()

    def work(self) -> None:
        while not self.over.wait(0.002):
            for k, node in self.nodes.items():
                for message in self.state.get_message_ins(node, 1):
                    self.pulled[k] += 1
                    reply = self.answers.get(k, honest)(message, k)
                    if reply is not None:
                        reply.metadata.__dict__["_message_id"] = secrets.token_hex(8)
                        self.state.store_message_res(reply)

    def counts(self, **how: Any) -> dict[int, float | str]:
        settings = {"deadline": 30.0, "poll": 0.005, "resend": 0.05, **how}
        legs = Legs(self.grid, self.nodes, directory=KEYS, **settings)
        found: dict[int, float | str] = {}
        for reply in legs.exchange("evaluate", dict.fromkeys(range(CLIENTS), REQUEST)):
            assert reply.client not in found
            if reply.message is None:
                found[reply.client] = reply.problem
            else:
                found[reply.client] = float(wire.unpack(EvaluateReply, reply.message).counts[0])
        return found


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    thread = threading.Thread(target=made.work, daemon=True)
    thread.start()
    yield made
    made.over.set()
    thread.join(30)


def test_everybody_answers_and_is_counted(link: Link) -> None:
    assert census(link.grid, CLIENTS, 30.0, KEYS) == link.nodes
    assert link.counts() == ALL


def once(first: Answer) -> Answer:
    """What a node does with its first message; then it is honest."""
    done: list[bool] = []

    def answer(message: Message, k: int) -> Message | None:
        if done:
            return honest(message, k)
        done.append(True)
        return first(message, k)

    return answer


def test_a_node_that_died_with_a_message_is_sent_another(link: Link) -> None:
    """Messages count as delivered when they are pulled; the SuperLink never sends one twice."""
    link.answers[1] = once(lambda message, k: None)
    assert link.counts() == ALL
    assert link.pulled[1] >= 2


def test_a_node_that_answers_as_another_is_believed_by_flower_alone(link: Link) -> None:
    def stolen(message: Message, k: int) -> Message:
        reply = honest(message, 3)
        assert reply.metadata.src_node_id == link.nodes[k]
        return reply

    link.answers[2] = once(stolen)
    assert link.counts() == ALL
    assert link.pulled[2] >= 2
    link.answers[2] = stolen
    assert link.counts(deadline=0.5) == {**ALL, 2: "refused"}


def test_a_node_that_is_offline_is_waited_for_and_comes_back(link: Link) -> None:
    asleep = threading.Event()

    def silent(message: Message, k: int) -> Message | None:
        # It takes the message and is gone; the SuperLink finds out, and says so.
        link.state.deactivate_node(link.nodes[k])
        asleep.set()
        return None

    def wake() -> None:
        asleep.wait(30)
        link.over.wait(0.2)
        link.state.activate_node(link.nodes[0], 1e6)

    link.answers[0] = once(silent)
    waker = threading.Thread(target=wake, daemon=True)
    waker.start()
    assert link.counts() == ALL
    waker.join(30)
    # One that stays away costs the leg its time, and itself its place.
    link.answers[0] = once(silent)
    assert link.counts(deadline=0.5) == {**ALL, 0: "no reply"}


class Uploads:
    """The SuperLink's own handlers, called; counts what is uploaded to them."""

    def __init__(self, state: Any) -> None:
        self._state, self._task = state, Task(task_id=1, run_id=1)
        self.objects: list[int] = []

    def PushMessages(self, request: Any) -> Any:
        return runtime_handlers.push_messages(request, self._state, self._task)

    def PushObject(self, request: Any) -> Any:
        self.objects.append(len(request.object_content))
        return runtime_handlers.push_object(request, self._state, self._task)

    def PullMessages(self, request: Any) -> Any:
        return runtime_handlers.pull_messages(request, self._state, self._task)


def test_a_model_is_uploaded_once_however_many_silos_are_asked() -> None:
    """Flower keeps records by their digests, and is told only those that it hasn't got."""
    link = Link()
    uploads = Uploads(link.state)
    grid: Any = HttpGrid(token="t", insecure=True)
    grid._client, grid._run = uploads, link.grid._run
    big = EvaluateRequest("r", 1, 0, "plan", "frozen", 0.0, 0, b"", np.zeros(50_000, np.float32))
    size = len(big.encode())
    legs = Legs(grid, link.nodes, 0.0, 0.0, KEYS, resend=60.0)
    legs._census = None
    assert len(list(legs.exchange("evaluate", dict.fromkeys(range(CLIENTS), big)))) == CLIENTS
    assert size < sum(uploads.objects) < 1.05 * size
    # A message, its contents and its nonce for each; the body for all of them.
    assert len(uploads.objects) == 3 * CLIENTS + 1
    # Sent again, even in another leg, it is there already.
    before = sum(uploads.objects)
    assert len(list(legs.exchange("evaluate", dict.fromkeys(range(CLIENTS), big)))) == CLIENTS
    assert sum(uploads.objects) - before < 0.05 * size
