"""A leg matches replies to requests, once each, and ends at its deadline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.configs import wire
from tacit.privacy.errors import MessageError, RoundError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest, TrainReply
from tacit.server.legs import Legs, census
from tacit.simulations.grid import InProcessGrid

REQUEST = EvaluateRequest(
    "run", 1, 0, "plan", "frozen", 0.0, 0, b"", np.arange(3, dtype=np.float32)
)


def clients() -> ClientApp:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        k = int(context.node_config["partition-id"])
        if k == 4:
            raise ValueError("four is broken")
        counts = np.full(3, k, np.float32)
        return Message(wire.pack(EvaluateReply("run", 1, 0, counts)), reply_to=message)

    return app


class DuplicatingGrid(InProcessGrid):
    """Delivers every reply twice, the second time from another sender."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in super().pull_messages(message_ids):
            yield reply
            reply.metadata.__dict__["_src_node_id"] = 1001
            yield reply


class LosingGrid(InProcessGrid):
    """Loses what client 2 says."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in super().pull_messages(message_ids):
            if reply.metadata.src_node_id != 1002:
                yield reply


def counts(legs: Legs, cohort: list[int]) -> dict[int, float | str]:
    found: dict[int, float | str] = {}
    for reply in legs.exchange("evaluate", dict.fromkeys(cohort, REQUEST)):
        assert reply.client not in found
        if reply.message is None:
            found[reply.client] = reply.problem
        else:
            found[reply.client] = float(wire.unpack(EvaluateReply, reply.message).counts[0])
    return found


def test_every_client_answers_once_and_an_exception_is_a_reply() -> None:
    grid = InProcessGrid(clients(), 6, {})
    assert counts(Legs(grid, grid.nodes), [0, 3, 4]) == {0: 0.0, 3: 3.0, 4: "error"}


def test_a_second_reply_is_dropped_whoever_it_says_it_is_from() -> None:
    grid = DuplicatingGrid(clients(), 6, {})
    assert counts(Legs(grid, grid.nodes), [0, 2, 3]) == {0: 0.0, 2: 2.0, 3: 3.0}


def test_a_lost_reply_ends_with_the_deadline() -> None:
    grid = LosingGrid(clients(), 6, {})
    legs = Legs(grid, grid.nodes, deadline=0.3, poll=0.05)
    assert counts(legs, [0, 2, 3]) == {0: 0.0, 2: "no reply", 3: 3.0}


def test_an_empty_cohort_asks_nobody() -> None:
    grid = InProcessGrid(clients(), 6, {})
    assert counts(Legs(grid, grid.nodes), []) == {}


def test_replies_come_one_at_a_time() -> None:
    """A coordinator that adds up as it goes never makes a second client wait in memory."""
    called: list[int] = []
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        called.append(int(context.node_config["partition-id"]))
        reply = EvaluateReply("run", 1, 0, np.zeros(3, np.float32))
        return Message(wire.pack(reply), reply_to=message)

    grid = InProcessGrid(app, 3, {})
    replies = Legs(grid, grid.nodes).exchange("evaluate", dict.fromkeys(range(3), REQUEST))
    for expected in range(3):
        next(replies)
        assert called == list(range(expected + 1))


def test_another_kind_of_message_is_refused() -> None:
    grid = InProcessGrid(clients(), 1, {})
    (reply,) = Legs(grid, grid.nodes).exchange("evaluate", {0: REQUEST})
    assert reply.message is not None
    with pytest.raises(MessageError, match="train-reply"):
        wire.unpack(TrainReply, reply.message)


def test_a_client_cannot_change_what_another_is_sent() -> None:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        request = wire.unpack(EvaluateRequest, message)
        with pytest.raises(ValueError, match="read-only"):
            request.parameters[0] = 99
        message.content.clear()
        reply = EvaluateReply("run", 1, 0, request.parameters)
        return Message(wire.pack(reply), reply_to=message)

    grid = InProcessGrid(app, 3, {})
    for reply in Legs(grid, grid.nodes).exchange("evaluate", dict.fromkeys(range(3), REQUEST)):
        assert reply.message is not None
        np.testing.assert_array_equal(
            wire.unpack(EvaluateReply, reply.message).counts, REQUEST.parameters
        )


def test_the_census_finds_which_node_is_which_client() -> None:
    from tacit.client.app import make_app

    grid = InProcessGrid(make_app(), 5, {})
    assert census(grid, 5) == grid.nodes == dict(enumerate(grid.get_node_ids()))
    assert 5 not in grid.nodes
    assert -1 not in grid.nodes
    with pytest.raises(RoundError, match="clients=6 but 5 of 5 nodes answered"):
        census(grid, 6, wait=0.1)


def test_two_nodes_that_claim_one_client_are_refused() -> None:
    from flwr.app import ConfigRecord, RecordDict

    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return Message(RecordDict({"tacit": ConfigRecord({"client": 0})}), reply_to=message)

    with pytest.raises(RoundError, match="two nodes"):
        census(InProcessGrid(app, 2, {}), 2)
