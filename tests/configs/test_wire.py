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
