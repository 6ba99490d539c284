"""Signed notes and checkpoints, as C2SP has them: text that names who vouches for it.

Guarantees: `open_note` returns a text only if a key that the caller named signed exactly these
bytes, and no signature by such a key is wrong (https://c2sp.org/signed-note, with Ed25519 of
RFC 8032). A key, a signature and a checkpoint (https://c2sp.org/tlog-checkpoint) have one
encoding each: base64 that could be written otherwise is refused, where the specification
would let it pass. Whatever is malformed is a `MessageError`. No object here prints its secret.

It doesn't say that a note is recent, or that the signer signed nothing that contradicts it.
Signatures by keys that the caller didn't name are parsed and otherwise ignored; anyone can
add and remove them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.privacy.errors import MessageError
from tacit.privacy.log.merkle import DIGEST_BYTES
from tacit.privacy.secagg.keys import KEY_BYTES, SIGNATURE_BYTES, Identity

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100  # The specification wants at least 16.
MAX_SIZE = 2**63 - 1  # Other implementations keep the number of leaves in an int64.
_ED25519 = b"\x01"
_ID_BYTES = 4
_SECRET = "PRIVATE+KEY+"  # noqa: S105 - the prefix, not a secret
_DASH = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Who may have signed: a name and an Ed25519 public key.

    Attributes:
        name: not empty, without "+", white space and control characters.
        public: 32 bytes.

    Raises:
        MessageError: name or key are otherwise.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public) != KEY_BYTES:
            raise MessageError(f"public={self.public.hex()} must have {KEY_BYTES} bytes")

    @property
    def id(self) -> bytes:
        """SHA-256(name || newline || 0x01 || public key), its first 4 bytes."""
        hashed = hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public)
        return hashed.digest()[:_ID_BYTES]

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key of "<name>+<id, 8 hex digits>+<base64(0x01 || public key)>".

        Raises:
            MessageError: that isn't what ``text`` is, or the id is another key's.
        """
        name, identifier, public = _parse_key("verifier", text)
        key = cls(name, public)
        _check_id(key, identifier)
        return key

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is this key's of ``data``; False on a wrong length."""
        # Not `keys.verify`, which would remember each note, and they can be long.
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_encode(_ED25519 + self.public)}"


class SignerKey:
    """A named Ed25519 key that signs.

    Attributes:
        verifier: what others need to verify; holds no secret.

    Args:
        name: as of `VerifierKey`.
        seed: of RFC 8032, 32 bytes; a secret.

    Raises:
        MessageError: name or seed are otherwise.
    """

    __slots__ = ("_identity", "verifier")

    def __init__(self, name: str, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise MessageError(f"a seed has {len(seed)} bytes, not {KEY_BYTES}")
        self._identity = Identity(seed)
        self.verifier = VerifierKey(name, self._identity.public)

    @classmethod
    def generate(cls, name: str) -> SignerKey:
        """A new key from the operating system's randomness.

        Raises:
            MessageError: ``name`` isn't fit for a key.
        """
        return cls(name, Identity.generate().private)

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """The key of "PRIVATE+KEY+<name>+<id, 8 hex digits>+<base64(0x01 || seed)>".

        Raises:
            MessageError: that isn't what ``text`` is, or the id is another key's; the
                message doesn't quote the secret.
        """
        if not text.startswith(_SECRET):
            raise MessageError(f"a signer key doesn't begin with {_SECRET}")
        name, identifier, seed = _parse_key("signer", text.removeprefix(_SECRET))
        key = cls(name, seed)
        _check_id(key.verifier, identifier)
        return key

    @property
    def name(self) -> str:
        """The name in this key's signature lines."""
        return self.verifier.name

    def text(self) -> str:
        """What `parse` reads; a secret."""
        encoded = _encode(_ED25519 + self._identity.private)
        return f"{_SECRET}{self.name}+{self.verifier.id.hex()}+{encoded}"

    def sign(self, data: bytes) -> bytes:
        """The signature of ``data``, 64 bytes, deterministic."""
        return self._identity.sign(data)

    def __repr__(self) -> str:
        return f"SignerKey({self.verifier})"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The text of a log's signed statement about its tree.

    Attributes:
        origin: which log, one line, not empty.
        size: number of leaves, from 0 to `MAX_SIZE`.
        root: Merkle tree hash of these leaves, 32 bytes.
        extensions: further lines, none of them empty.

    Raises:
        MessageError: a value is otherwise.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            _utf8("a checkpoint's line", line)
            if not line or "\n" in line:
                raise MessageError(f"a checkpoint's line {line!r} must be one line, and not empty")
        if not 0 <= self.size <= MAX_SIZE:
            raise MessageError(f"size={self.size} must be from 0 to {MAX_SIZE}")
        if len(self.root) != DIGEST_BYTES:
            raise MessageError(f"root={self.root.hex()} must have {DIGEST_BYTES} bytes")

    def text(self) -> str:
        """What is signed: origin, decimal size, base64 root and extensions, a line each."""
        lines = (self.origin, str(self.size), _encode(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint that has this text.

        Raises:
            MessageError: none has.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise MessageError("a checkpoint has fewer than three lines, or an unfinished one")
        origin, size, root, *extensions = lines[:-1]
        if not _DECIMAL.fullmatch(size):
            raise MessageError(f"a checkpoint's size {size[:40]!r} isn't a canonical decimal")
        return cls(origin, int(size), _decode("a checkpoint's root", root), tuple(extensions))


def signed(note: str) -> Checkpoint:
    """What a signed note says, whoever signed it: for looking up whose signature it needs."""
    return Checkpoint.parse(note.partition("\n\n")[0] + "\n")


def sign_note(text: str, *signers: SignerKey) -> str:
    """The note of ``text`` with a signature by each signer, in their order.

    Raises:
        MessageError: `open_note` wouldn't take it: the text doesn't end in a newline, has
            other control characters or no UTF-8 encoding, or is too long; there is no
            signer, one is there twice, or they are too many.
    """
    data = _utf8("a note", text)
    if not text.endswith("\n"):
        raise MessageError("a note's text doesn't end in a newline")
    if not 1 <= len(signers) <= MAX_SIGNATURES:
        raise MessageError(f"a note has {len(signers)} signers, not 1 to {MAX_SIGNATURES}")
    if len({(s.name, s.verifier.id) for s in signers}) < len(signers):
        raise MessageError("a note is signed twice by one key")
    lines = (f"{_DASH}{s.name} {_encode(s.verifier.id + s.sign(data))}\n" for s in signers)
    note = f"{text}\n{''.join(lines)}"
    _utf8("a note", note)
    return note


def open_note(note: str, *keys: VerifierKey) -> str:
    """The text of a note, verified.

    Args:
        note: text, an empty line, and signature lines, the last of which is finished.
        keys: whose signatures count; one is enough, and a wrong one by any of them too much.

    Raises:
        MessageError: the note is malformed or beyond `MAX_NOTE_BYTES` or `MAX_SIGNATURES`,
            none of ``keys`` signed it, or a signature by one of them is wrong; also if two
            of ``keys`` have one name and id.
    """
    known = {(key.name, key.id): key for key in keys}
    if len(known) < len(set(keys)):
        raise MessageError("two verifier keys have one name and id")
    _utf8("a note", note)
    split = note.rfind("\n\n")
    if split < 0:
        raise MessageError("a note has no empty line before its signatures")
    text = note[: split + 1]
    data, verified = text.encode(), False
    for name, identifier, signature in _signatures(note[split + 2 :]):
        key = known.get((name, identifier))
        if key is None:
            continue
        if not key.verify(signature, data):
            raise MessageError(
                f"the signature by {name}+{identifier.hex()} is wrong",
                "the text was altered, or it isn't by whom it names",
            )
        verified = True
    if not verified:
        names = ", ".join(f"{k.name}+{k.id.hex()}" for k in keys) or "none"
        raise MessageError(f"a note isn't signed by a known key; known: {names}")
    return text


def _signatures(block: str) -> Iterator[tuple[str, bytes, bytes]]:
    """Name, key id and signature of each line."""
    lines = block.split("\n")
    if len(lines) < 2 or lines.pop():
        raise MessageError("a note doesn't end in a finished signature line")
    if len(lines) > MAX_SIGNATURES:
        raise MessageError(f"a note has {len(lines)} signatures, above {MAX_SIGNATURES}")
    for line in lines:
        if not line.startswith(_DASH):
            raise MessageError(f"a note's signature line begins with {line[:2]!r}, not an em dash")
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        _check_name(name)
        raw = _decode("a note's signature", encoded)
        if len(raw) <= _ID_BYTES:
            raise MessageError(f"a note's signature has only {len(raw)} bytes")
        yield name, raw[:_ID_BYTES], raw[_ID_BYTES:]


def _parse_key(what: str, text: str) -> tuple[str, str, bytes]:
    """Name, hex id and 32 bytes of a key."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise MessageError(f"a {what} key isn't <name>+<id>+<key>")
    raw = _decode(f"a {what} key", parts[2])
    if raw[:1] != _ED25519 or len(raw) != 1 + KEY_BYTES:
        raise MessageError(f"a {what} key isn't of {KEY_BYTES} bytes for Ed25519")
    return parts[0], parts[1], raw[1:]


def _check_id(key: VerifierKey, identifier: str) -> None:
    if identifier != key.id.hex():
        raise MessageError(
            f"the key of {key.name!r} has the id {key.id.hex()}, not the one beside it",
            "was it copied whole?",
        )


def _check_name(name: str) -> None:
    _utf8("a key's name", name)
    if not name or "+" in name or any(c.isspace() for c in name):
        raise MessageError(f"name={name[:80]!r} must be without white space and +, and not empty")


def _utf8(what: str, text: str) -> bytes:
    """The encoding of a text without control characters other than newlines."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"{what} has a lone surrogate: it wasn't UTF-8") from error
    if len(data) > MAX_NOTE_BYTES:
        raise MessageError(f"{what} has {len(data)} bytes, above {MAX_NOTE_BYTES}")
    if found := _CONTROL.search(text):
        raise MessageError(f"{what} has the control character {found[0]!r}")
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(what: str, text: str) -> bytes:
    """The bytes that have exactly this base64 (RFC 4648, section 4)."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MessageError(f"{what} isn't base64") from error
    if _encode(data) != text:
        raise MessageError(f"{what} isn't in the one base64 that its bytes have")
    return data
