"""How a tacit message travels in a Flower message: a record of bytes, signed where asked.

A request's record ``tacit`` has ``body``, the message's bytes. Where replies have to be signed
it has another record, ``tacit.nonce``, of 16 fresh bytes: apart, since Flower uploads equal
records once, and a cohort's requests differ in nothing else. A reply has ``body`` and, if the
request had a nonce, ``signature``: Ed25519 by the client's identity over nonce, kind, client and
body (`tacit.protocol.statements`). Who a reply is from is what its signature says; Flower's word
for it, ``src_node_id``, is the sender's own. A client that refuses, and was given a nonce, says
``reason`` (a number of ``Refusal.Reason`` in `tacit.edge.v1`) and ``text`` instead of a body,
signed likewise. The question which client a node is has no message in it, and its reply has
``client``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage

from tacit.privacy.errors import MessageError
from tacit.privacy.messages import Message
from tacit.privacy.secagg.keys import Identity, verify
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements

M = TypeVar("M", bound=Message)

_RECORD, _KEY, _SIGNATURE = "tacit", "body", "signature"
_NONCE_RECORD, _NONCE = "tacit.nonce", "nonce"
_WHO, _CLIENT = "ask", "client"
_REASON, _TEXT = "reason", "text"
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client says that doesn't answer.

    Attributes:
        reason: a number of ``Refusal.Reason`` in `tacit.edge.v1`.
        text: of at most `MAX_TEXT` bytes; names settings, never data.
    """

    reason: int
    text: str

    def __str__(self) -> str:
        text = "".join(c if c.isprintable() else "?" for c in self.text)
        return f"{self.name}: {text}"

    @property
    def name(self) -> str:
        """The reason's name; of a later version's, its number."""
        try:
            return str(pb.Refusal.Reason.Name(self.reason))
        except ValueError:
            return f"REASON_{self.reason}"


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


def with_nonce(content: RecordDict, nonce: bytes) -> RecordDict:
    """A request of the same records, as objects too, and a nonce of its own.

    Args:
        content: of a request without one.
        nonce: 16 fresh bytes.
    """
    return RecordDict({**content, _NONCE_RECORD: ConfigRecord({_NONCE: nonce})})


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
    record = message.content.get(_NONCE_RECORD) if message.has_content() else None
    if record is None:
        return None
    found = record.get(_NONCE) if isinstance(record, ConfigRecord) else None
    if not isinstance(found, bytes) or len(found) != statements.NONCE_BYTES:
        raise MessageError(f"{_NONCE_RECORD} should have {statements.NONCE_BYTES} bytes")
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


def refuse(
    said: Refusal, request: FlowerMessage, client: int, identity: Identity
) -> RecordDict | None:
    """The content of a refusal, or None if the request has no nonce to sign it over.

    Args:
        said: the refusal.
        request: what isn't answered.
        client: who refuses.
        identity: its signing key.

    Raises:
        MessageError: the request has a nonce that isn't one.
    """
    asked = nonce(request)
    if asked is None:
        return None
    kind = request.metadata.message_type
    statement = statements.refusal(asked, kind, client, said.reason, said.text)
    return refused(said, identity.sign(statement))


def refused(said: Refusal, signature: bytes) -> RecordDict:
    """The content of a refusal that was signed elsewhere, as a device's is."""
    return _content({_REASON: said.reason, _TEXT: said.text, _SIGNATURE: signature}, None)


def refusal(
    message: FlowerMessage, asked: tuple[bytes, str], client: int, public: bytes
) -> Refusal | None:
    """A client's refusal, if the reply is one; arguments as of `check`.

    Raises:
        MessageError: it is one that the client didn't sign, or not to this request, or that
            breaks the rules.
    """
    record = _record(message)
    reason, text = record.get(_REASON), record.get(_TEXT)
    if reason is None and text is None:
        return None
    number = isinstance(reason, int) and not isinstance(reason, bool)
    if not number or not isinstance(text, str) or len(text.encode()) > MAX_TEXT:
        raise MessageError("a refusal without a reason, or with too long a text")
    said = Refusal(int(reason), text)  # type: ignore[arg-type]  # checked above
    _verify_signature(record, public, statements.refusal(*asked, client, said.reason, text))
    return said


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


def _content(fields: Mapping[str, bytes | int | str], nonce: bytes | None) -> RecordDict:
    made = RecordDict({_RECORD: ConfigRecord(dict(fields))})
    return made if nonce is None else with_nonce(made, nonce)


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
    _verify_signature(_record(message), public, statements.reply(*asked, client, said))


def _verify_signature(record: ConfigRecord, public: bytes, statement: bytes) -> None:
    signature = record.get(_SIGNATURE)
    if not isinstance(signature, bytes):
        raise MessageError("a reply that isn't signed")
    if not verify(public, signature, statement):
        raise MessageError("a reply that its client didn't sign, or not to this request")
