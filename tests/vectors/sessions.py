"""A whole session of secure aggregation with fixed secrets, message by message.

Five clients, of whom one drops after its shares; noise of one layer, which is then surplus
nowhere. The other session loses nobody, and its surplus layer is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from tacit.privacy.discrete.layers import Shares as NoiseShares
from tacit.privacy.messages import Message, TrainRequest
from tacit.privacy.noise import KeyedStream
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.directory import PinnedDirectory
from tacit.privacy.secagg.keys import Identity, KeyPair, derive
from tacit.privacy.secagg.messages import Invitation
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.vault import Vault
from tacit.privacy.secagg.words import Words

CLIENTS = (2, 3, 7, 11, 4_000_000_000)
RULES = Rules(4, 9, 0.3, 1)
LENGTH, BITS, VARIANCE = 16, 20, 40.0
DRAWS = (("channel", 32), ("mask", 32), ("self_seed", 32), ("base", 32), ("chain", 16), ("key", 32))


def drawn(label: str, size: int = 32) -> bytes:
    """Fixed bytes that look random."""
    return KeyedStream(derive("vectors", label.encode())).read(size).tobytes()


class Given:
    """A source whose keys are given."""

    name = "given"

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = iter(keys)

    def key(self) -> bytes:
        """The next."""
        return next(self._keys)


class Client:
    """One client with given randomness, and what it was asked and said."""

    def __init__(self, label: str, number: int, directory: PinnedDirectory) -> None:
        self.number, self.identity = number, Identity(drawn(f"identity {number}"))
        self.draws = {n: drawn(f"{label} {number} {n}", size) for n, size in DRAWS}
        self.legs: list[dict[str, str]] = []
        self.masking = MaskingClient(number, self.identity, directory, RULES, Vault(None))

    def noted(self, kind: str, request: Message, answer: Message) -> Any:
        """Writes an exchange down."""
        said = {"kind": kind, "request": request.encode().hex(), "answer": answer.encode().hex()}
        self.legs.append(said)
        return answer

    def advertise(self, invitation: Invitation) -> Any:
        """With its keys."""
        pairs = [KeyPair(self.draws[name]) for name in ("channel", "mask")]
        with (
            mock.patch.object(KeyPair, "generate", side_effect=pairs),
            mock.patch("os.urandom", return_value=self.draws["self_seed"]),
        ):
            answer = self.masking.advertise(invitation)
        return self.noted("query.advertise", invitation, answer)

    def share(self, roster: Any) -> Any:
        """With its seeds and polynomials."""
        source: Any = Given([self.draws["base"], self.draws["chain"] + bytes(16)])
        with mock.patch("os.urandom", return_value=self.draws["key"]):
            answer = self.masking.share(roster, source)
        return self.noted("query.share", roster, answer)

    def train(self, session: str, request: TrainRequest) -> Any:
        """A vector of its own with its noise."""
        seeds = self.masking.join(session, request.members)
        whole = self.vector()
        law = NoiseShares("skellam", VARIANCE, seeds.clients, seeds.layers, LENGTH)
        law.add(whole, seeds.base, seeds.chain)
        words = Words(BITS)
        answer = self.masking.mask(session, request.members, words.from_integers(whole), words)
        return self.noted("train", request, answer)

    def vector(self) -> np.ndarray:
        """What this client would add without noise."""
        return np.arange(LENGTH, dtype=np.int64) * (-1) ** self.number * (self.number % 13)


def _session(label: str, dropping: tuple[int, ...]) -> dict[str, Any]:
    numbers = {k: Identity(drawn(f"identity {k}")).public for k in CLIENTS}
    directory = PinnedDirectory(numbers)
    clients = [Client(label, k, directory) for k in CLIENTS]
    vector = np.linspace(-1, 1, 5).astype(np.float32)
    place = (f"run {label}", 2, 0)
    request = TrainRequest(*place, "p" * 64, "f" * 64, 0.5, 0, b"", vector)
    invitation = Invitation.to(request, "train")
    words = Words(BITS)
    server = AggregatingServer(invitation, RULES, directory, words, LENGTH, list(CLIENTS))
    for client in clients:
        server.advertised(client.advertise(invitation))
    roster = server.roster()
    for client in clients:
        server.shared(client.share(roster))
    members = server.close_shares()
    asked = TrainRequest(*place, "p" * 64, "f" * 64, 0.5, 0, members, vector)
    for client in _staying(clients, dropping):
        server.masked(client.train(invitation.session(), asked))
    survivors = server.close_masked()
    for client in _staying(clients, dropping):
        server.confirmed(
            client.noted("query.confirm", survivors, client.masking.confirm(survivors))
        )
    reveals = server.close_confirmed()
    for client in _staying(clients, dropping):
        reveal = reveals[client.number]
        server.revealed(client.noted("query.reveal", reveal, client.masking.reveal(reveal)))
    total, surplus, seeds = server.total()
    law = NoiseShares("skellam", VARIANCE, len(CLIENTS), RULES.layers(len(CLIENTS)), LENGTH)
    return {
        "session": invitation.session(),
        "dropped": list(dropping),
        "rules": [RULES.minimum, RULES.largest, RULES.dropout, RULES.collusion],
        "bits": BITS,
        "law": "skellam",
        "variance": VARIANCE,
        "directory": {str(k): key.hex() for k, key in numbers.items()},
        "clients": [
            {
                "client": c.number,
                "seed": c.identity.private.hex(),
                "draws": {name: value.hex() for name, value in c.draws.items()},
                "vector": c.vector().tolist(),
                "legs": c.legs,
            }
            for c in clients
        ],
        "sum": total.tolist(),
        "surplus_from": surplus,
        "surplus_seeds": [seed.hex() for seed in seeds],
        "released": (total - law.surplus(surplus, seeds)).tolist() if seeds else total.tolist(),
    }


def _staying(clients: list[Client], dropping: tuple[int, ...]) -> Iterator[Client]:
    return (client for client in clients if client.number not in dropping)


def whole() -> dict[str, Any]:
    """Both sessions."""
    return {"sessions": [_session("nobody", ()), _session("one", (7,))]}
