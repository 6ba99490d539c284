"""How a tacit message travels in a Flower message: one record of bytes, signed where asked.

A request has ``body``, the message's bytes, and where replies have to be signed ``nonce``, 16
fresh bytes. A reply has ``body`` and, if the request had a nonce, ``signature``: Ed25519 by the
client's identity over nonce, kind, client and body (`tacit.protocol.statements`). Who a reply
is from is what its signature says; Flower's word for it, ``src_node_id``, is the sender's own.
The question which client a node is has no message in it, and its reply has ``client``.
"""

from __future__ import annotations

from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage

from tacit.privacy.errors import MessageError
from tacit.privacy.messages import Message
from tacit.privacy.secagg.keys import Identity, verify
from tacit.protocol import statements

M = TypeVar("M", bound=Message)

_RECORD, _KEY, _NONCE, _SIGNATURE = "tacit", "body", "nonce", "signature"
_WHO, _CLIENT = "ask", "client"


def pack(message: Message, nonce: bytes | None = None) -> RecordDict:
    """The content of a Flower message that carries ``message``.

    Args:
        message: what is said.
        nonce: of a request whose reply has to be signed.
    """
    return content(message.encode(), nonce)


def content(body: bytes, nonce: bytes | None = None) -> RecordDict:
    """As `pack`, of a message in bytes."""
    return _content({_KEY: body}, nonce)


def body(message: FlowerMessage) -> bytes:
    """The bytes of the tacit message inside a Flower message.

    Raises:
        MessageError: there are none.
    """
    found = _record(message).get(_KEY)
    if not isinstance(found, bytes):
        raise MessageError(f"a Flower message without {_RECORD}.{_KEY}")
    return found


def unpack(kind: type[M], message: FlowerMessage) -> M:
    """The tacit message inside a Flower message.

    Raises:
        MessageError: there is none, or not of this kind.
    """
    return kind.decode(body(message))


def nonce(message: FlowerMessage) -> bytes | None:
    """A request's nonce, or None if its reply needn't be signed.

    Raises:
        MessageError: it isn't one.
    """
    found = _record(message).get(_NONCE)
    if found is not None and not (
        isinstance(found, bytes) and len(found) == statements.NONCE_BYTES
    ):
        raise MessageError(f"{_RECORD}.{_NONCE} should have {statements.NONCE_BYTES} bytes")
    return found


def reply(
    said: bytes, request: FlowerMessage, client: int, identity: Identity | None
) -> RecordDict:
    """The content of a reply.

    Args:
        said: the tacit message in bytes.
        request: what it answers.
        client: who answers.
        identity: its signing key; needed where the request has a nonce.

    Raises:
        MessageError: the request has a nonce that isn't one, or there is no identity for it.
    """
    return _content({_KEY: said, **_signed(said, request, client, identity)}, None)


def check(message: FlowerMessage, asked: tuple[bytes, str], client: int, public: bytes) -> None:
    """Refuses a reply that isn't this client's to this request.

    Args:
        message: the reply.
        asked: nonce and kind of the request.
        client: who was asked.
        public: its key.

    Raises:
        MessageError: it isn't signed by that client, or the signature is of something else.
    """
    _verify(message, asked, (client, public), body(message))


def ask_who(nonce: bytes | None = None) -> RecordDict:
    """The content of a question to a node: which client are you?"""
    # A query's content can't be empty, so it carries a word.
    return _content({_WHO: _CLIENT}, nonce)


def tell_who(request: FlowerMessage, client: int, identity: Identity | None) -> RecordDict:
    """The content of the reply to `ask_who`; arguments as of `reply`."""
    return _content({_CLIENT: client, **_signed(b"", request, client, identity)}, None)


def who(message: FlowerMessage) -> int:
    """Which client a node says that it is.

    Raises:
        MessageError: it doesn't say.
    """
    found = _record(message).get(_CLIENT)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise MessageError("a node that doesn't say which client it is")
    return found


def check_who(message: FlowerMessage, asked: tuple[bytes, str], client: int, public: bytes) -> None:
    """As `check`, of the reply to `ask_who`."""
    _verify(message, asked, (client, public), b"")


def _content(fields: dict[str, bytes | int | str], nonce: bytes | None) -> RecordDict:
    if nonce is not None:
        fields = {**fields, _NONCE: nonce}
    return RecordDict({_RECORD: ConfigRecord(fields)})  # type: ignore[arg-type]


def _record(message: FlowerMessage) -> ConfigRecord:
    found = message.content.get(_RECORD) if message.has_content() else None
    if not isinstance(found, ConfigRecord):
        raise MessageError(f"a Flower message without the record {_RECORD}")
    return found


def _signed(
    said: bytes, request: FlowerMessage, client: int, identity: Identity | None
) -> dict[str, bytes]:
    asked = nonce(request)
    if asked is None:
        return {}
    if identity is None:
        raise MessageError("a reply has to be signed, and this client has no key")
    kind = request.metadata.message_type
    return {_SIGNATURE: identity.sign(statements.reply(asked, kind, client, said))}


def _verify(
    message: FlowerMessage, asked: tuple[bytes, str], who: tuple[int, bytes], said: bytes
) -> None:
    client, public = who
    signature = _record(message).get(_SIGNATURE)
    if not isinstance(signature, bytes):
        raise MessageError("a reply that isn't signed")
    if not verify(public, signature, statements.reply(*asked, client, said)):
        raise MessageError("a reply that its client didn't sign, or not to this request")
