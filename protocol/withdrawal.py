"""A withdrawal: a file by which a client says, with its own key, that it takes part no more.

A JSON object that its client makes without a network and hands to the operator. Guarantees: it
names population, number, ledger and time, so that it is good for nothing else; whoever has the
client's public key can check it. It isn't secret, but names who withdraws.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.secagg.keys import SIGNATURE_BYTES, Identity, verify
from tacit.protocol import statements

VERSION = 1
LARGEST, MOST = 16 * 1024, 200
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """A signed statement.

    Attributes:
        population: the client withdraws from.
        client: its number there.
        ledger: origin of the ledger that is to note it.
        at: when it was signed, in UTC to the second.
        nonce: of 16 random bytes, in hex.
        signature: of `tacit.protocol.statements.withdrawal`, Ed25519, in hex.
    """

    population: str
    client: int
    ledger: str
    at: str
    nonce: str
    signature: str

    def __post_init__(self) -> None:
        texts = (self.population, self.ledger, self.at, self.nonce, self.signature)
        if not all(isinstance(x, str) and 0 < len(x) <= MOST and x.isprintable() for x in texts):
            raise MessageError(f"a withdrawal's texts have 1 to {MOST} printable signs")
        if type(self.client) is not int or not 0 <= self.client < 2**32:
            raise MessageError(f"client={self.client!r:.40} isn't a client's number")
        _hex("nonce", self.nonce, statements.NONCE_BYTES)
        _hex("signature", self.signature, SIGNATURE_BYTES)
        self.time()

    @classmethod
    def signed(
        cls, identity: Identity, population: str, client: int, ledger: str, at: datetime
    ) -> Withdrawal:
        """A new one, with a fresh nonce.

        Args:
            identity: the client's.
            population: it withdraws from.
            client: its number.
            ledger: origin of the ledger.
            at: now.
        """
        nonce, time = secrets.token_bytes(statements.NONCE_BYTES), at.astimezone(UTC)
        said = time.strftime(_TIME)
        statement = statements.withdrawal(population, client, ledger, said, nonce)
        return cls(
            population=population,
            client=client,
            ledger=ledger,
            at=said,
            nonce=nonce.hex(),
            signature=identity.sign(statement).hex(),
        )

    def by(self, public: bytes) -> bool:
        """Whether the holder of this key signed it."""
        nonce = bytes.fromhex(self.nonce)
        statement = statements.withdrawal(self.population, self.client, self.ledger, self.at, nonce)
        return verify(public, bytes.fromhex(self.signature), statement)

    def time(self) -> datetime:
        """When it was signed, as it says."""
        try:
            return datetime.strptime(self.at, _TIME).replace(tzinfo=UTC)
        except ValueError as error:
            raise MessageError(f"at={self.at!r:.40} isn't a time") from error

    def to_json(self) -> dict[str, Any]:
        """The file's object."""
        return {"tacit": "withdrawal", "version": VERSION, **asdict(self)}


def parse(found: Any) -> Withdrawal:
    """A withdrawal from its object.

    Raises:
        MessageError: it isn't one.
    """
    if not isinstance(found, Mapping) or found.get("tacit") != "withdrawal":
        raise MessageError("this isn't a withdrawal")
    if found.get("version") != VERSION:
        raise MessageError(f"version={found.get('version')!r:.20} of a withdrawal is unknown")
    names = {"population", "client", "ledger", "at", "nonce", "signature"}
    if set(found) != names | {"tacit", "version"}:
        raise MessageError("a withdrawal has other fields")
    return Withdrawal(**{name: found[name] for name in names})


def load(path: Path) -> Withdrawal:
    """A withdrawal from its file.

    Raises:
        StorageError: it can't be read.
        MessageError: it isn't one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise MessageError(f"{path} has more than {LARGEST} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{path} isn't JSON") from error
    return parse(found)


def _hex(name: str, text: str, length: int) -> None:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != length or found.hex() != text:
        raise MessageError(f"{name} of a withdrawal must be {length} bytes in hex")
