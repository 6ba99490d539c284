"""Several Grids as one: each message to its part, each reply to its message."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.configs import wire
from tacit.privacy.errors import ConfigError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest
from tacit.server.joint import JointGrid
from tacit.server.legs import Legs
from tacit.simulations.grid import InProcessGrid

REQUEST = EvaluateRequest(
    "run", 1, 0, "plan", "frozen", 0.0, 0, b"", np.arange(3, dtype=np.float32)
)


def part(offset: int, clients: int) -> InProcessGrid:
    """Clients that answer with their number in the federation."""
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        k = offset + int(context.node_config["partition-id"])
        reply = EvaluateReply("run", 1, 0, np.full(3, k, np.float32))
        return Message(wire.pack(reply), reply_to=message)

    return InProcessGrid(app, clients, {})


class Shifted(InProcessGrid):
    """A part whose nodes' ids are another's plus a million."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        for message in messages:
            message.metadata.dst_node_id -= 10**6
        return super().push_messages(messages)

    def get_node_ids(self) -> Iterable[int]:
        return [node + 10**6 for node in super().get_node_ids()]


def shifted(offset: int, clients: int) -> tuple[Shifted, dict[int, int]]:
    made = Shifted(part(offset, clients)._app, clients, {})
    return made, {offset + k: 1000 + 10**6 + k for k in range(clients)}


def test_both_parts_answer_and_the_same_ids_are_told_apart() -> None:
    first, (second, nodes) = part(0, 3), shifted(3, 2)
    joint = JointGrid((first, first.nodes), (second, nodes))
    found = {}
    legs = Legs(joint, joint.nodes, deadline=30.0, poll=0.01)
    for reply in legs.exchange("evaluate", dict.fromkeys([0, 2, 3, 4], REQUEST)):
        assert reply.message is not None
        found[reply.client] = float(wire.unpack(EvaluateReply, reply.message).counts[0])
    # Both parts call their first messages "m1" and "m2".
    assert found == {0: 0.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert sorted(joint.get_node_ids()) == sorted(joint.nodes.values())


def test_a_node_of_no_part_is_not_accepted() -> None:
    first = part(0, 1)
    joint = JointGrid((first, first.nodes))
    stray = Message(wire.pack(REQUEST), 77, "evaluate")
    mine = Message(wire.pack(REQUEST), 1000, "evaluate")
    identifiers = list(joint.push_messages([stray, mine]))
    assert identifiers[0] == ""
    assert len(list(joint.pull_messages(identifiers[1:]))) == 1
    assert len(list(joint.send_and_receive([Message(wire.pack(REQUEST), 1000, "evaluate")]))) == 1


def test_what_a_part_doesnt_take_at_once_is_pushed_one_by_one() -> None:
    class Narrow(InProcessGrid):
        """As Flower's, which takes nothing of what is too much."""

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            messages = list(messages)
            return super().push_messages(messages) if len(messages) == 1 else []

    first, (second, nodes) = Narrow(part(0, 3)._app, 3, {}), shifted(3, 1)
    joint = JointGrid((first, first.nodes), (second, nodes))
    asked = [Message(wire.pack(REQUEST), node, "evaluate") for node in joint.nodes.values()]
    assert len(list(joint.send_and_receive(asked))) == 4


def test_a_part_that_grows_has_nodes_that_arent_known_yet() -> None:
    first, (second, nodes) = part(0, 2), shifted(2, 2)
    del nodes[3]
    joint = JointGrid((first, {0: 1000}), (second, nodes), growing=first)
    stray = Message(wire.pack(REQUEST), 1001, "evaluate")
    assert list(joint.push_messages([stray])) == [""]
    # The other part's nodes are known as they were given, and no more.
    assert sorted(joint.get_node_ids()) == [1000, 1001, 1000 + 10**6]
    (identifier,) = joint.push_messages([stray])
    assert identifier.startswith("0:")


def test_parts_have_no_client_and_no_node_in_common() -> None:
    first, second = part(0, 2), part(2, 2)
    with pytest.raises(ConfigError, match="client=0"):
        JointGrid((first, first.nodes), (second, second.nodes))
    with pytest.raises(ConfigError, match="node=1000"):
        JointGrid((first, first.nodes), (second, {2: 1000}))
    with pytest.raises(ConfigError, match="parts"):
        JointGrid()
