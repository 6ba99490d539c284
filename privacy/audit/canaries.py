"""What is planted in a run to audit it, derived from one secret and committed to beforehand.

Guarantees: coins, places and directions are functions of the 32-byte secret alone, so that an
auditor who published `Canaries.commitment` before the run, as a leaf of its ledger, can't
choose them after it; the commitment hides the secret and binds to it (SHA-256 over a domain
tag, the secret and the parameters in canonical JSON). The coins are bits of AES-256-CTR.
It doesn't guarantee that what was committed to is what was planted; who has the secret, once
it is published, can run the audit again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import rfc8785
from numpy.typing import NDArray

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.privacy.noise import Floats, KeyedStream
from tacit.privacy.units import Unit

Method = Literal["one-run", "one-shot"]
_TAG = b"tacit canary commitment v1"


@dataclass(frozen=True, slots=True)
class Canaries:
    """Canaries of one audit.

    Attributes:
        unit: what one canary is: "client", a whole client's update, or "record".
        method: "one-run", where a fair coin decides about each, or "one-shot", where all are in.
        count: m, how many.
        secret: 32 bytes; whoever has them before the run ends can make it look better.
    """

    unit: Unit
    method: Method
    count: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        validate.one_of("unit", self.unit, ("client", "record"))
        validate.one_of("method", self.method, ("one-run", "one-shot"))
        validate.at_least("canaries", self.count, 2)
        if len(self.secret) != 32:
            raise ConfigError(f"a secret of {len(self.secret)} bytes must have 32")

    @classmethod
    def drawn(cls, unit: Unit, method: Method, count: int) -> Canaries:
        """Canaries with a secret from the operating system."""
        return cls(unit, method, count, os.urandom(32))

    def to_json(self) -> dict[str, Any]:
        """The parameters, without the secret."""
        return {"unit": self.unit, "method": self.method, "count": self.count}

    def commitment(self) -> str:
        """SHA-256 over tag, secret and parameters, in hex; to be logged before the run."""
        return hashlib.sha256(_TAG + self.secret + rfc8785.dumps(self.to_json())).hexdigest()

    def opens(self, commitment: str) -> bool:
        """Whether these are the canaries that ``commitment`` was made to."""
        return hmac.compare_digest(self.commitment().encode(), commitment.encode())

    def included(self) -> NDArray[np.bool_]:
        """Which canaries are in the run, shape [m]: fair coins; all with "one-shot"."""
        if self.method == "one-shot":
            return np.ones(self.count, dtype=np.bool_)
        drawn = KeyedStream(self._key("coins")).read((self.count + 7) // 8)
        return np.unpackbits(drawn)[: self.count].astype(np.bool_)

    def places(self, population: int) -> NDArray[np.int64]:
        """The client that each canary is, or whose records it joins, shape [m].

        Raises:
            ConfigError: there are fewer clients than canaries that are clients.
        """
        if self.unit == "client" and self.count > population:
            raise ConfigError(
                f"canaries={self.count} must be at most clients={population}",
                "each canary takes the place of a client",
            )
        shuffled = self.generator("places").permutation(population)
        return np.resize(shuffled, self.count)

    def directions(self, dimension: int, label: str = "planted") -> Floats:
        """Independent uniform unit vectors, shape [m, dimension].

        Args:
            dimension: of the space.
            label: another label gives other directions, independent of these.
        """
        drawn = self.generator(f"directions {label}").standard_normal((self.count, dimension))
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))

    def separate(self, dimension: int) -> Floats:
        """Unit vectors that disturb each other least, shape [m, dimension].

        A random orthonormal family where the space has room for one, so that one canary's
        coin doesn't move another's score; else `directions`.
        """
        drawn = self.directions(dimension)
        if self.count > dimension:
            return drawn
        return np.ascontiguousarray(np.linalg.qr(drawn.T)[0].T)

    def generator(self, label: str) -> np.random.Generator:
        """Seeded from the secret; for what is planted, never for coins."""
        key = np.frombuffer(self._key(label)[:16], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _key(self, label: str) -> bytes:
        return hashlib.sha256(b"tacit canary " + label.encode() + b"\x00" + self.secret).digest()
