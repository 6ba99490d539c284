"""`tacit.configs.wire`: a message is one record with one value, and nothing else is read."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from tacit.configs import wire
from tacit.privacy.errors import MessageError
from tacit.privacy.messages import EvaluateReply, TrainReply
from tacit.privacy.secagg.keys import Identity

REPLY = TrainReply("run", 3, 0, np.arange(4, dtype=np.float32), np.zeros(0, dtype=np.float32))


def carried(content: RecordDict) -> Message:
    # Flower makes messages only inside one of its processes unless these are set.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1
    return Message(content, dst_node_id=5, message_type="train")


def test_what_is_packed_is_unpacked() -> None:
    back = wire.unpack(TrainReply, carried(wire.pack(REPLY)))
    assert (back.run, back.round, back.attempt) == ("run", 3, 0)
    np.testing.assert_array_equal(back.update, REPLY.update)


def test_a_packed_message_is_one_record_with_one_value_of_bytes() -> None:
    content = wire.pack(REPLY)
    assert list(content) == ["tacit"]
    assert [type(value) for value in content["tacit"].values()] == [bytes]


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"body": REPLY.encode()})}),
        RecordDict({"tacit": ConfigRecord({"text": REPLY.encode()})}),
        RecordDict({"tacit": ConfigRecord({"body": "words"})}),
        RecordDict({"tacit": ConfigRecord({"body": b"TCT1"})}),
    ],
)
def test_another_content_is_a_message_error(content: RecordDict) -> None:
    with pytest.raises(MessageError):
        wire.unpack(TrainReply, carried(content))


def test_another_kind_is_a_message_error() -> None:
    with pytest.raises(MessageError, match="train-reply"):
        wire.unpack(EvaluateReply, carried(wire.pack(REPLY)))


# Signed where asked


NONCE = bytes(range(16))
ME = Identity.generate()


def asked(nonce: bytes | None = NONCE) -> Message:
    return carried(wire.pack(REPLY, nonce))


def answered(request: Message, client: int = 3, identity: Identity | None = ME) -> Message:
    return Message(wire.reply(b"said", request, client, identity), reply_to=request)


def test_a_request_carries_its_nonce_and_the_same_body() -> None:
    assert wire.nonce(asked()) == NONCE
    assert wire.nonce(asked(None)) is None
    assert wire.body(asked()) == wire.body(asked(None)) == REPLY.encode()


@pytest.mark.parametrize("nonce", [b"", bytes(15), bytes(17), "words", 5])
def test_a_nonce_that_isnt_one_is_refused(nonce: object) -> None:
    content = wire.pack(REPLY)
    content["tacit.nonce"] = ConfigRecord({"nonce": nonce})  # type: ignore[dict-item]
    with pytest.raises(MessageError, match="16 bytes"):
        wire.nonce(carried(content))
    with pytest.raises(MessageError, match="16 bytes"):
        wire.reply(b"said", carried(content), 3, ME)


def test_requests_that_differ_in_the_nonce_alone_share_the_rest() -> None:
    """As objects and, for Flower's store of them, as what their ids are the digests of."""
    common = wire.pack(REPLY)
    one, other = (wire.with_nonce(common, bytes([k]) * 16) for k in range(2))
    assert one["tacit"] is other["tacit"] is common["tacit"]
    assert one["tacit"].object_id == other["tacit"].object_id
    assert one["tacit.nonce"].object_id != other["tacit.nonce"].object_id
    assert one.object_id == wire.pack(REPLY, bytes(16)).object_id
    assert list(common) == ["tacit"]


# Refusals


REFUSAL = wire.Refusal(4, "the plan's bits=16 is below this client's floor")


def declined(said: wire.Refusal = REFUSAL, client: int = 3) -> Message:
    content = wire.refuse(said, asked(), client, ME)
    assert content is not None
    return Message(content, reply_to=asked())


def test_a_refusal_is_signed_like_an_answer() -> None:
    found = wire.refusal(declined(), (NONCE, "train"), 3, ME.public)
    assert found == REFUSAL
    assert str(found) == f"FLOOR: {REFUSAL.text}"
    assert wire.refusal(answered(asked()), (NONCE, "train"), 3, ME.public) is None
    assert wire.refuse(REFUSAL, asked(None), 3, ME) is None
    for nonce, kind, client, key in (
        (bytes(16), "train", 3, ME.public),
        (NONCE, "evaluate", 3, ME.public),
        (NONCE, "train", 4, ME.public),
        (NONCE, "train", 3, Identity.generate().public),
    ):
        with pytest.raises(MessageError, match="didn't sign"):
            wire.refusal(declined(), (nonce, kind), client, key)
    # It is no answer, and an answer's signature is none of it.
    with pytest.raises(MessageError, match="body"):
        wire.check(declined(), (NONCE, "train"), 3, ME.public)


@pytest.mark.parametrize("change", [("reason", 5), ("text", "no"), ("signature", bytes(64))])
def test_a_changed_refusal_is_none(change: tuple[str, object]) -> None:
    reply = declined()
    reply.content["tacit"][change[0]] = change[1]  # type: ignore[index,assignment]
    with pytest.raises(MessageError, match="didn't sign"):
        wire.refusal(reply, (NONCE, "train"), 3, ME.public)


@pytest.mark.parametrize("change", [("reason", "4"), ("reason", 1.5), ("text", 3), ("text", None)])
def test_a_malformed_refusal_is_none(change: tuple[str, object]) -> None:
    reply = declined()
    record = reply.content["tacit"]
    assert isinstance(record, ConfigRecord)
    del record[change[0]]
    if change[1] is not None:
        record[change[0]] = change[1]  # type: ignore[assignment]
    with pytest.raises(MessageError, match="without a reason"):
        wire.refusal(reply, (NONCE, "train"), 3, ME.public)


def test_a_refusals_text_is_short_and_printed_safely() -> None:
    with pytest.raises(MessageError, match="too long"):
        wire.refusal(declined(wire.Refusal(4, "é" * 101)), (NONCE, "train"), 3, ME.public)
    assert str(wire.Refusal(2, "one\ntwo\x1b[31m")) == "EPSILON: one?two?[31m"
    assert str(wire.Refusal(77, "of a later version")) == "REASON_77: of a later version"


def test_a_signature_is_of_this_request_kind_client_and_body() -> None:
    reply = answered(asked())
    wire.check(reply, (NONCE, "train"), 3, ME.public)
    assert len(reply.content["tacit"]["signature"]) == 64  # type: ignore[index,arg-type]
    for nonce, kind, client, key in (
        (bytes(16), "train", 3, ME.public),
        (NONCE, "evaluate", 3, ME.public),
        (NONCE, "train", 4, ME.public),
        (NONCE, "train", 3, Identity.generate().public),
    ):
        with pytest.raises(MessageError, match="didn't sign"):
            wire.check(reply, (nonce, kind), client, key)
    reply.content["tacit"]["body"] = b"Said"  # type: ignore[index]
    with pytest.raises(MessageError, match="didn't sign"):
        wire.check(reply, (NONCE, "train"), 3, ME.public)


@pytest.mark.parametrize("signature", [None, b"", bytes(64), "words"])
def test_what_isnt_signed_is_refused(signature: object) -> None:
    reply = answered(asked())
    if signature is None:
        del reply.content["tacit"]["signature"]  # type: ignore[union-attr]
    else:
        reply.content["tacit"]["signature"] = signature  # type: ignore[index,assignment]
    with pytest.raises(MessageError, match="sign"):
        wire.check(reply, (NONCE, "train"), 3, ME.public)


def test_a_reply_is_signed_only_where_it_is_asked_for() -> None:
    assert list(answered(asked(None)).content["tacit"]) == ["body"]  # type: ignore[arg-type]
    with pytest.raises(MessageError, match="no key"):
        answered(asked(), identity=None)


def test_the_question_which_client_a_node_is_is_signed_too() -> None:
    request = Message(wire.ask_who(NONCE), dst_node_id=5, message_type="query")
    reply = Message(wire.tell_who(request, 7, ME), reply_to=request)
    assert wire.who(reply) == 7
    wire.check_who(reply, (NONCE, "query"), 7, ME.public)
    for client, nonce in ((6, NONCE), (7, bytes(16))):
        with pytest.raises(MessageError, match="didn't sign"):
            wire.check_who(reply, (nonce, "query"), client, ME.public)
    with pytest.raises(MessageError, match="which client"):
        wire.who(answered(asked()))
