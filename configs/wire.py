"""How a tacit message travels in a Flower message: one record, one value, its bytes."""

from __future__ import annotations

from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage

from tacit.privacy.errors import MessageError
from tacit.privacy.messages import Message

M = TypeVar("M", bound=Message)

_RECORD, _KEY = "tacit", "body"


def pack(message: Message) -> RecordDict:
    """The content of a Flower message that carries ``message``."""
    return RecordDict({_RECORD: ConfigRecord({_KEY: message.encode()})})


def unpack(kind: type[M], message: FlowerMessage) -> M:
    """The tacit message inside a Flower message.

    Raises:
        MessageError: there is none, or not of this kind.
    """
    record = message.content.get(_RECORD) if message.has_content() else None
    body = record.get(_KEY) if isinstance(record, ConfigRecord) else None
    if not isinstance(body, bytes):
        raise MessageError(f"a Flower message without {_RECORD}.{_KEY}")
    return kind.decode(body)
