"""Legs over a network that loses, repeats and forges: whose reply it is, and until when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from tacit.configs import wire
from tacit.privacy.errors import RoundError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest
from tacit.privacy.secagg.directory import LocalDirectory, PinnedDirectory
from tacit.server.legs import Legs, census
from tacit.simulations.grid import InProcessGrid

CLIENTS = 6
REQUEST = EvaluateRequest(
    "run", 1, 0, "plan", "frozen", 0.0, 0, b"", np.arange(3, dtype=np.float32)
)
KEYS = LocalDirectory(bytes(32))
# Quick, and long enough for a machine that is busy.
QUICK: dict[str, Any] = {"deadline": 20.0, "poll": 0.001, "resend": 0.02}
Reply = Callable[[Message, int], Message]


def honest(message: Message, k: int) -> Message:
    """What client k says, signed."""
    identity = KEYS.identity(k)
    if message.metadata.message_type == "query":
        return Message(wire.tell_who(message, k, identity), reply_to=message)
    body = EvaluateReply("run", 1, 0, np.full(3, k, np.float32)).encode()
    return Message(wire.reply(body, message, k, identity), reply_to=message)


def app(**others: Reply) -> ClientApp:
    """Clients that are honest but for some, ``c3`` for example."""
    made = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        k = int(context.node_config["partition-id"])
        return others.get(f"c{k}", honest)(message, k)

    made.evaluate()(answer)
    made.query()(answer)
    return made


class Network(InProcessGrid):
    """A Grid that can be made to misbehave.

    Attributes:
        fate: of the n-th message (from 0) to a client: "ok", "lost", "twice", or an error's code.
        sent: the messages to each client, in order.
    """

    def __init__(self, clients: ClientApp | None = None, **fates: Any) -> None:
        super().__init__(clients or app(), CLIENTS, {})
        self.fates = fates
        self.sent: dict[int, list[Message]] = {k: [] for k in range(CLIENTS)}
        self.fate_of: dict[str, Any] = {}
        self.moved: dict[int, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        made = []
        for message in messages:
            (identifier,) = super().push_messages([message])
            made.append(identifier)
            if message.metadata.message_type == "query":
                continue
            k = message.metadata.dst_node_id - 1000
            fates = self.fates.get(f"c{k}", ["ok"])
            self.fate_of[identifier] = fates[min(len(self.sent[k]), len(fates) - 1)]
            self.sent[k].append(message)
        return made

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for identifier in list(message_ids):
            fate = self.fate_of.get(identifier, "ok")
            if fate == "lost":
                continue
            message = self._pending.get(identifier)
            if isinstance(fate, int) and message is not None:
                del self._pending[identifier]
                # As a SuperLink does: from itself, not from the node.
                reply = Message(Error(code=fate, reason="no"), reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1
                yield reply
                continue
            for reply in super().pull_messages([identifier]):
                yield reply
                if fate == "twice":
                    yield reply


def counts(legs: Legs, cohort: Iterable[int] = range(CLIENTS)) -> dict[int, float | str]:
    found: dict[int, float | str] = {}
    for reply in legs.exchange("evaluate", dict.fromkeys(cohort, REQUEST)):
        assert reply.client not in found
        if reply.message is None:
            found[reply.client] = reply.problem
        else:
            found[reply.client] = float(wire.unpack(EvaluateReply, reply.message).counts[0])
    return found


ALL = {k: float(k) for k in range(CLIENTS)}


# Whose reply it is


def test_signed_replies_are_taken_and_every_client_has_a_nonce_of_its_own() -> None:
    grid = Network()
    assert counts(Legs(grid, grid.nodes, directory=KEYS)) == ALL
    nonces = {wire.nonce(sent) for (sent,) in grid.sent.values()}
    assert len(nonces) == CLIENTS
    assert None not in nonces
    # One body for all of them, whatever is beside it.
    assert len({id(wire.body(sent)) for (sent,) in grid.sent.values()}) == 1


def test_without_a_directory_nothing_is_signed() -> None:
    grid = Network()
    assert counts(Legs(grid, grid.nodes)) == ALL
    assert {wire.nonce(sent) for (sent,) in grid.sent.values()} == {None}


def unsigned(message: Message, k: int) -> Message:
    reply = honest(message, k)
    del reply.content["tacit"]["signature"]
    return reply


def for_another(message: Message, k: int) -> Message:
    """Client k has got hold of what client 2 was asked, and answers it as itself."""
    return honest(message, 5)


def of_before() -> Reply:
    kept: list[RecordDict] = []

    def reply(message: Message, k: int) -> Message:
        kept.append(honest(message, k).content)
        return Message(kept[0], reply_to=message)

    return reply


def changed(message: Message, k: int) -> Message:
    reply = honest(message, k)
    record = reply.content["tacit"]
    assert isinstance(record, ConfigRecord)
    record["body"] = EvaluateReply("run", 1, 0, np.full(3, 99, np.float32)).encode()
    return reply


def nothing(message: Message, k: int) -> Message:
    return Message(RecordDict(), reply_to=message)


@pytest.mark.parametrize("lie", [unsigned, for_another, changed, nothing])
def test_what_its_client_didnt_sign_is_no_answer(lie: Reply) -> None:
    grid = Network(app(c2=lie))
    # In one process nothing else will come, and nobody waits for it.
    assert counts(Legs(grid, grid.nodes, directory=KEYS)) == {**ALL, 2: "refused"}
    legs = Legs(grid, grid.nodes, deadline=0.05, poll=0.001, directory=KEYS)
    assert counts(legs) == {**ALL, 2: "refused"}


def test_the_reply_to_an_earlier_leg_is_none_to_this() -> None:
    grid = Network(app(c2=of_before()))
    legs = Legs(grid, grid.nodes, directory=KEYS)
    assert counts(legs) == ALL
    assert counts(legs) == {**ALL, 2: "refused"}


def test_whoever_answers_for_another_is_waited_past() -> None:
    """A node that pulls what another is sent can't answer it, and the other still can."""

    class Stolen(Network):
        """The first message to client 2 reaches client 5's node, which replies as node 2."""

        def _call(self, message: Message) -> Message:
            if message.metadata.dst_node_id != 1002 or len(self.sent[2]) > 1:
                return super()._call(message)
            reply = honest(message, 5)
            assert reply.metadata.src_node_id == 1002
            return reply

    grid = Stolen()
    assert counts(Legs(grid, grid.nodes, directory=KEYS, **QUICK)) == ALL
    assert len(grid.sent[2]) == 2


def test_a_client_that_isnt_in_the_directory_is_refused() -> None:
    known = PinnedDirectory({k: KEYS.identity(k).public for k in range(CLIENTS - 1)})
    grid = Network()
    assert counts(Legs(grid, grid.nodes, directory=known)) == {**ALL, 5: "refused"}


# What is sent again


def test_what_is_lost_is_sent_again_under_the_same_nonce() -> None:
    grid = Network(c1=["lost", "lost", "ok"], c4=["lost", "ok"])
    assert counts(Legs(grid, grid.nodes, directory=KEYS, **QUICK)) == ALL
    for k, least in ((1, 3), (4, 2)):
        assert len(grid.sent[k]) >= least
        assert len({wire.nonce(sent) for sent in grid.sent[k]}) == 1
        assert len({wire.body(sent) for sent in grid.sent[k]}) == 1


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ],
)
def test_an_error_on_the_way_is_no_answer_while_there_is_time(code: int) -> None:
    grid = Network(c1=[code, code, "ok"])
    assert counts(Legs(grid, grid.nodes, directory=KEYS, **QUICK)) == ALL
    grid = Network(c1=[code])
    legs = Legs(grid, grid.nodes, deadline=0.1, poll=0.001, directory=KEYS, resend=0.02)
    assert counts(legs) == {**ALL, 1: "no reply"}
    assert len(grid.sent[1]) > 1
    # Where nothing is sent again there is nothing to wait for.
    grid = Network(c1=[code])
    assert counts(Legs(grid, grid.nodes, directory=KEYS)) == {**ALL, 1: "error"}


def refusing(message: Message, k: int) -> Message:
    if message.metadata.message_type == "evaluate":
        said = wire.Refusal(4, "this is below my floor")
        content = wire.refuse(said, message, k, KEYS.identity(k))
        assert content is not None
        return Message(content, reply_to=message)
    return honest(message, k)


def failing(message: Message, k: int) -> Message:
    if message.metadata.message_type == "evaluate":
        raise RoundError("this is below my floor")
    return honest(message, k)


def test_a_clients_refusal_is_its_answer() -> None:
    grid = Network(app(c1=refusing))
    legs = Legs(grid, grid.nodes, directory=KEYS, **QUICK)
    (found,) = legs.exchange("evaluate", {1: REQUEST})
    assert (found.message, found.problem) == (None, "error")
    assert found.detail == "FLOOR: this is below my floor"
    assert len(grid.sent[1]) == 1


def once(lie: Reply) -> Reply:
    """A lie, and then the truth."""
    lies = [lie]
    return lambda message, k: (lies.pop() if lies else honest)(message, k)


def refusing_for_another(message: Message, k: int) -> Message:
    """Client 5 has got hold of what client k is asked, and refuses it."""
    return refusing(message, 5)


def reworded(message: Message, k: int) -> Message:
    reply = refusing(message, k)
    record = reply.content["tacit"]
    assert isinstance(record, ConfigRecord)
    record["reason"] = 10
    return reply


@pytest.mark.parametrize("lie", [failing, refusing_for_another, reworded])
def test_what_a_client_didnt_refuse_itself_costs_it_time_and_no_more(lie: Reply) -> None:
    grid = Network(app(c1=once(lie)))
    assert counts(Legs(grid, grid.nodes, directory=KEYS, **QUICK)) == ALL
    assert len(grid.sent[1]) >= 2
    # Who can do so each time has its way in the end.
    grid = Network(app(c1=lie))
    legs = Legs(grid, grid.nodes, deadline=0.1, poll=0.001, directory=KEYS, resend=0.02)
    assert counts(legs)[1] in ("no reply", "refused")


def test_where_nothing_is_sent_again_an_error_is_the_end() -> None:
    grid = Network(app(c1=failing))
    assert counts(Legs(grid, grid.nodes, directory=KEYS)) == {**ALL, 1: "error"}
    # Nor is anything signed in a simulation.
    assert counts(Legs(grid, grid.nodes)) == {**ALL, 1: "error"}


def test_the_first_valid_reply_wins_and_others_are_dropped() -> None:
    grid = Network(c0=["twice"], c1=["lost", "twice"], c2=["twice"])
    assert counts(Legs(grid, grid.nodes, directory=KEYS, **QUICK)) == ALL


def test_what_comes_after_the_deadline_is_nobodys_answer() -> None:
    class Late(Network):
        """Client 1's reply to a leg comes in the next one, besides that one's."""

        kept: list[Message]

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            late, self.kept = list(getattr(self, "kept", [])), []
            yield from late
            for reply in super().pull_messages(message_ids):
                if reply.metadata.src_node_id == 1001 and not late:
                    self.kept.append(reply)
                else:
                    yield reply

    grid = Late()
    legs = Legs(grid, grid.nodes, deadline=0.0, poll=0.0, directory=KEYS)
    assert counts(legs) == {**ALL, 1: "no reply"}
    assert counts(legs) == ALL


def test_messages_last_as_long_as_their_leg() -> None:
    grid = Network(c1=["lost", "ok"])
    counts(Legs(grid, grid.nodes, directory=KEYS, **QUICK))
    assert {m.metadata.ttl for sent in grid.sent.values() for m in sent} == {20.0}


# Who is where


def test_a_client_that_comes_up_on_another_node_is_found_there() -> None:
    class Moved(Network):
        """Client 1's node is gone; node 1001 is back with another id, 1007."""

        def get_node_ids(self) -> Iterable[int]:
            return [n for n in super().get_node_ids() if n != 1001] + [1007]

        def _call(self, message: Message) -> Message:
            if message.metadata.dst_node_id == 1007:
                return honest(message, 1)
            return super()._call(message)

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return [self._one(m) for m in messages]

        def _one(self, message: Message) -> str:
            node = message.metadata.dst_node_id
            if node == 1001:
                return "gone"
            if node == 1007:
                (identifier,) = InProcessGrid.push_messages(self, [message])
                return identifier
            (identifier,) = Network.push_messages(self, [message])
            return identifier

    grid = Moved()
    assert counts(Legs(grid, dict(grid.nodes), directory=KEYS, **QUICK)) == ALL


def test_a_client_that_was_missing_is_asked_once_it_is_there() -> None:
    grid = Network()
    nodes = {k: node for k, node in grid.nodes.items() if k != 3}
    assert counts(Legs(grid, nodes, directory=KEYS, **QUICK)) == ALL
    # Who never comes costs itself its place.
    legs = Legs(grid, nodes, directory=KEYS)
    assert counts(legs) == {**ALL, 3: "error"}


def claiming(message: Message, k: int) -> Message:
    """Client k says that it is client 5, and signs with what key it has."""
    return Message(wire.tell_who(message, 5, KEYS.identity(k)), reply_to=message)


def unknown(message: Message, k: int) -> Message:
    return Message(wire.tell_who(message, CLIENTS, KEYS.identity(CLIENTS)), reply_to=message)


@pytest.mark.parametrize("lie", [unsigned, claiming, unknown, nothing])
def test_a_node_that_says_it_is_another_costs_itself_only(lie: Reply) -> None:
    grid = Network(app(c2=lie))
    found = census(grid, CLIENTS, 0.05, KEYS, fewest=3)
    assert found == {k: node for k, node in grid.nodes.items() if k != 2}
    with pytest.raises(RoundError, match=r"5 of 6 nodes answered; one was refused"):
        census(grid, CLIENTS, 0.05, KEYS)


def test_two_nodes_with_one_key_dont_end_the_run() -> None:
    grid = Network(app(c2=lambda message, k: honest(message, 5)))
    found = census(grid, CLIENTS, 0.05, KEYS, fewest=3)
    assert sorted(found) == [0, 1, 3, 4, 5]


def test_the_census_waits_for_those_who_come_late() -> None:
    class Filling(Network):
        """One node more at each look."""

        def get_node_ids(self) -> Iterable[int]:
            self.there = getattr(self, "there", 3) + 1
            return list(super().get_node_ids())[: self.there]

    grid = Filling()
    assert census(grid, CLIENTS, 60.0, KEYS) == grid.nodes


def test_a_leg_says_what_happened_without_naming_anybody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tacit.server import telemetry

    said: Counter[Any] = Counter()
    monkeypatch.setattr(telemetry, "reply", lambda kind, outcome: said.update([outcome]))
    monkeypatch.setattr(telemetry, "resent", lambda kind, count: said.update({"resent": count}))
    monkeypatch.setattr(
        telemetry, "leg", lambda kind, seconds, asked, answered: said.update([(asked, answered)])
    )
    monkeypatch.setattr(telemetry, "refusal", lambda reason: said.update([reason]))
    grid = Network(app(c2=unsigned, c3=refusing), c1=["lost", "ok"])
    legs = Legs(grid, grid.nodes, deadline=0.2, poll=0.001, directory=KEYS, resend=0.05)
    with caplog.at_level("INFO", "tacit.legs"):
        counts(legs)
    assert (said["answered"], said["error"], said["refused"]) == (4, 1, 1)
    assert said["forged"] >= 1
    assert said["FLOOR"] == 1
    assert any("a client refused: FLOOR: this is below my floor" in m for m in caplog.messages)
    assert said["resent"] >= 2
    assert said[6, 4] == 1
    assert any("a reply was refused" in line for line in caplog.messages)
    assert not any("client 2" in line or "1002" in line for line in caplog.messages)


def test_a_client_that_is_at_work_is_asked_less_and_less_often() -> None:
    from tacit.server.legs import _Asked

    asked, now, gaps = _Asked(b""), 0.0, []
    for _ in range(4):
        asked.sent(now, 30.0)
        gaps.append(asked.due - now)
        now = asked.due
    assert gaps == [30, 60, 120, 240]
    # Where nobody works on it any more, it is sent at the next time that it may be.
    asked.lost("the node is gone")
    assert asked.due == now - 240 + 30
    asked.sent(now, 30.0)
    assert asked.due == now + 30
