"""A session of secure aggregation between the real classes, one exchange at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.privacy.discrete.layers import LAWS, Shares
from tacit.privacy.discrete.table import table
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.directory import LocalDirectory
from tacit.privacy.secagg.messages import Answer, Invitation, Reveal, Roster, Survivors
from tacit.privacy.secagg.secrets import Noise
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.vault import Vault
from tacit.privacy.secagg.words import Words

RULES = Rules(4, 1000, 0.25, 1)
LAW, VARIANCE = "skellam", 40.0


class Session:
    """Clients 0, 1, ... and a server, in step.

    Args:
        size: how many clients are asked.
        length: of a vector.
        bits: of a word.
        rules: of the plan.
        noisy: whether vectors carry shares of noise.
        folder: where each client's vault is a file; None keeps all in memory.
        changes: of the invitation.
        earlier: a session whose clients take part in this one too.
    """

    def __init__(
        self,
        size: int,
        *,
        length: int = 8,
        bits: int = 16,
        rules: Rules = RULES,
        noisy: bool = False,
        folder: Path | None = None,
        earlier: Session | None = None,
        **changes: Any,
    ) -> None:
        self.rules, self.words, self.length, self.noisy = rules, Words(bits), length, noisy
        self.folder, self.size = folder, size
        said = {"run": "r", "round": 1, "attempt": 0, "purpose": "train", "plan": "p", "task": "t"}
        self.invitation = Invitation(**{**said, **changes})
        self.id = self.invitation.session()
        self.directory = earlier.directory if earlier else LocalDirectory()
        if earlier is not None:
            self.vaults = earlier.vaults
        else:
            shared = Vault(None)
            self.vaults = {k: self._file(k) if folder else shared for k in range(size)}
        self.clients = {k: self.client(k) for k in range(size)}
        self.server = AggregatingServer(
            self.invitation, rules, self.directory, self.words, length, list(range(size))
        )
        generator = np.random.default_rng(size + length)
        self.vectors = {k: generator.integers(-500, 501, length) for k in range(size)}
        self.noise: dict[int, Noise] = {}
        self.answers: dict[str, dict[int, Any]] = {}

    def _file(self, client: int) -> Vault:
        assert self.folder is not None
        return Vault(self.folder / f"{client}.vault")

    def client(self, k: int) -> MaskingClient:
        return MaskingClient(
            k, self.directory.identity(k), self.directory, self.rules, self.vaults[k]
        )

    def restart(self, k: int) -> None:
        """The process of a client ends and begins again."""
        if self.folder is not None:
            self.vaults[k].close()
            self.vaults[k] = self._file(k)
        self.clients[k] = self.client(k)

    # The exchanges. `gone` don't answer, or too late.

    def advertise(self, gone: Collection[int] = ()) -> Roster:
        made = {k: c.advertise(self.invitation) for k, c in self.clients.items()}
        self._taken("advertise", made, gone, self.server.advertised)
        self.roster = self.server.roster()
        return self.roster

    def share(self, gone: Collection[int] = ()) -> bytes:
        made = {
            k: self.clients[k].share(self.roster, SystemSource())
            for k in self.server.cohort.clients
        }
        self._taken("share", made, gone, self.server.shared)
        self.members = self.server.close_shares()
        return self.members

    def mask(self, gone: Collection[int] = ()) -> Survivors:
        made = {k: self.masked(k) for k in self.server.members}
        self._taken("mask", made, gone, self.server.masked)
        self.survivors = self.server.close_masked()
        return self.survivors

    def masked(self, k: int) -> Any:
        self.noise[k] = self.clients[k].join(self.id, self.members)
        vector = self.vectors[k].copy()
        if self.noisy:
            self.shares(self.noise[k]).add(vector, self.noise[k].base, self.noise[k].chain)
        made = self.words.from_integers(vector)
        return self.clients[k].mask(self.id, self.members, made, self.words)

    def confirm(self, gone: Collection[int] = ()) -> dict[int, Reveal]:
        made = {k: self.clients[k].confirm(self.survivors) for k in self.server.survivors}
        self._taken("confirm", made, gone, self.server.confirmed)
        self.requests = self.server.close_confirmed()
        return self.requests

    def reveal(self, gone: Collection[int] = ()) -> None:
        made = {k: self.clients[k].reveal(request) for k, request in self.requests.items()}
        self._taken("reveal", made, gone, self.server.revealed)

    def _taken(self, what: str, made: dict[int, Any], gone: Collection[int], take: Any) -> None:
        self.answers[what] = made
        for k, answer in made.items():
            if k not in gone:
                assert take(answer) in (None, 0)

    def until(self, phase: str) -> Session:
        """Runs what comes before a phase, with nobody gone."""
        steps = [self.advertise, self.share, self.mask, self.confirm, self.reveal]
        for name, step in zip(
            ("advertise", "share", "mask", "confirm", "reveal"), steps, strict=True
        ):
            if name == phase:
                break
            step()
        return self

    def signed(self, answer: Any, **changes: Any) -> Any:
        """An answer with other fields, signed anew by whom it says it is from."""
        changed = dataclasses.replace(answer, **changes)
        signature = self.directory.identity(changed.client).sign(changed.statement())
        return dataclasses.replace(changed, signature=signature)

    # What ought to come out

    def plain(self, clients: Iterable[int] | None = None) -> NDArray[np.int64]:
        who = self.server.survivors if clients is None else clients
        return np.sum([self.vectors[k] for k in who], axis=0)

    def shares(self, noise: Noise) -> Shares:
        return Shares(LAW, VARIANCE, noise.clients, noise.layers, self.length)

    def finish(self) -> None:
        """Checks the sum, as far as is known without the code under test."""
        total, first, seeds = self.server.total()
        survivors, members = self.server.survivors, len(self.server.members)
        dropped = members - len(survivors)
        assert first == dropped + 1
        count = self.rules.layers(members)
        assert len(seeds) == (len(survivors) if dropped < count else 0)
        for k, seed in zip(survivors, seeds, strict=False):
            assert seed == seed_of(self.noise[k].chain, first)
        if not self.noisy:
            assert (total == self.plain()).all()
            return
        kept = self.plain()
        for k in survivors:
            kept += share_of(self.noise[k].base, 0, members, self.length)
            for layer in range(1, dropped + 1):
                key = _hash(b"layer", seed_of(self.noise[k].chain, layer))
                kept += share_of(key, layer, members, self.length)
        surplus = Shares(LAW, VARIANCE, members, count, self.length).surplus(first, seeds)
        assert (self.words.centred(self.words.from_integers(total - surplus)) == kept).all()


def seed_of(seed: bytes, layer: int) -> bytes:
    """Of a layer, from the first one's; written anew."""
    for _ in range(layer - 1):
        seed = _hash(b"next", seed)[:16]
    return seed


def share_of(key: bytes, layer: int, members: int, length: int) -> NDArray[np.int32]:
    """One client's layer of noise, or its base share; written anew."""
    left = members - layer
    variance = VARIANCE / (members if layer == 0 else left * (left + 1))
    return table(LAWS[LAW](variance)).sample(length, key)


def _hash(word: bytes, seed: bytes) -> bytes:
    return hashlib.sha256(b"tacit noise " + word + b"\x00" + seed).digest()


def altered(data: bytes, at: int = 0) -> bytes:
    """The bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def forged(answer: Answer) -> Answer:
    """The answer with a bit of its signature changed."""
    return dataclasses.replace(answer, signature=altered(answer.signature))
