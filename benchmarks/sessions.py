"""Sessions of tacit's secure aggregation, timed step by step; for `secagg.py`."""

from __future__ import annotations

import dataclasses
import pickle
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tacit.privacy.discrete import encoder
from tacit.privacy.discrete.lattice import Lattice, Need, sized
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import keys
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.cohort import Rules, cohort
from tacit.privacy.secagg.directory import LocalDirectory, PinnedDirectory
from tacit.privacy.secagg.messages import Answer, Invitation
from tacit.privacy.secagg.server import AggregatingServer
from tacit.privacy.secagg.vault import Vault
from tacit.privacy.secagg.words import Words

BITS, SEED = 16, 0
LEGS = ("advertise", "share", "mask", "confirm", "reveal")
SIGNS = bytes(32)
SHARED = (32, 100, 300, 1000)
Seconds = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One session's size; ``lost`` clients drop after shares were dealt, before their vectors."""

    clients: int
    parameters: int
    lost: int
    dropout: float = 0.25

    @property
    def rules(self) -> Rules:
        """What the plan fixes."""
        return Rules(max(4, self.clients // 2), self.clients, self.dropout, 0)

    @property
    def lattice(self) -> Lattice:
        """On which updates are encoded."""
        need = Need(
            dimension=self.parameters,
            rotated=True,
            clients=self.clients,
            noise_multiplier=1.0,
            conditional=True,
        )
        return sized(need, BITS)

    @property
    def dropped(self) -> set[int]:
        """Who drops out."""
        chosen = np.random.default_rng(SEED).choice(self.clients, self.lost, replace=False)
        return {int(k) for k in chosen}

    def server(self, directory: PinnedDirectory) -> AggregatingServer:
        """A server at the beginning of the session."""
        invitation = Invitation("benchmark", 1, 0, "train", "plan", "task")
        everybody = list(range(self.clients))
        length = self.lattice.length
        return AggregatingServer(invitation, self.rules, directory, Words(BITS), length, everybody)


class Spool:
    """Clients' answers in files, one a leg, and who is in the directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, list[int]] = defaultdict(list)

    def put(self, leg: str, answer: Answer) -> None:
        """Appends an answer."""
        self.sizes[leg].append(len(answer.encode()))
        with open(self.folder / leg, "ab") as file:
            pickle.dump(answer, file)

    def read(self, leg: str) -> Iterator[Answer]:
        """One answer after the other."""
        with open(self.folder / leg, "rb") as file:
            while True:
                try:
                    yield pickle.load(file)
                except EOFError:
                    return

    def sent(self) -> dict[str, float]:
        """Bytes that a client sends, by leg; the median client that sends."""
        return {leg: statistics.median(self.sizes[leg]) for leg in LEGS}


def forget() -> None:
    """Clears what one process remembers for all clients, and a lone client wouldn't know."""
    keys.verify.cache_clear()
    cohort.cache_clear()


def takes(server: AggregatingServer, leg: str) -> Callable[[Any], Any]:
    """The server's method for a leg's answers."""
    return {
        "advertise": server.advertised,
        "share": server.shared,
        "mask": server.masked,
        "confirm": server.confirmed,
        "reveal": server.revealed,
    }[leg]


def closes(server: AggregatingServer, leg: str) -> Callable[[], Any]:
    """The server's method that ends a leg."""
    return {
        "advertise": server.roster,
        "share": server.close_shares,
        "mask": server.close_masked,
        "confirm": server.close_confirmed,
        "reveal": server.total,
    }[leg]


class Crowd:
    """Real clients of one process, and the integers that they sent.

    Args:
        setting: of the session.
        local: their identities.
        directory: everybody's keys.
        vector: makes a client's integers.
    """

    def __init__(
        self,
        setting: Setting,
        local: LocalDirectory,
        directory: PinnedDirectory,
        vector: Callable[[int], np.ndarray],
    ) -> None:
        vault, rules = Vault(None), setting.rules
        self.clients = {
            k: MaskingClient(k, local.identity(k), directory, rules, vault)
            for k in range(setting.clients)
        }
        self._vector, self.sent = vector, {}

    def answer(self, leg: str, k: int, said: Any, session: str) -> Any:
        """A client's answer to what the server said."""
        client = self.clients[k]
        if leg == "advertise":
            return client.advertise(said)
        if leg == "share":
            return client.share(said, SystemSource())
        if leg == "confirm":
            return client.confirm(said)
        if leg == "reveal":
            return client.reveal(said[k])
        client.join(session, said)
        self.sent[k], words = self._vector(k), Words(BITS)
        return client.mask(session, said, words.from_integers(self.sent[k]), words)


def answers(
    setting: Setting, vector: Callable[[int], np.ndarray], spool: Spool, measured: int
) -> tuple[list[Seconds], int]:
    """Runs a session of real clients and keeps their answers.

    Args:
        setting: its size.
        vector: makes a client's integers; inside the time of the mask leg.
        spool: where answers go.
        measured: how many clients pay for all that they check.

    Returns:
        Seconds by leg of those measured that didn't drop out, and the layers of noise.
    """
    local = LocalDirectory(bytes(32))
    table = {k: local.public(k) or b"" for k in range(setting.clients)}
    directory = PinnedDirectory(table)
    server, crowd = setting.server(directory), Crowd(setting, local, directory, vector)
    (spool.folder / "setting").write_bytes(pickle.dumps((setting, table)))
    dropped, session = setting.dropped, server.session
    seconds: dict[int, Seconds] = {k: {} for k in sorted(crowd.clients.keys() - dropped)[:measured]}
    expected = np.zeros(setting.lattice.length, dtype=np.int64)
    said: Any = server.invitation
    for leg in LEGS:
        for k in sorted(crowd.clients.keys() - (set() if leg in LEGS[:2] else dropped)):
            if k in seconds:
                keys.verify.cache_clear()
                if leg == "share":
                    cohort.cache_clear()
            began = time.process_time()
            answer = crowd.answer(leg, k, said, session)
            if k in seconds:
                seconds[k][leg] = time.process_time() - began
            if leg == "mask":
                expected += crowd.sent.pop(k)
            spool.put(leg, answer)
            takes(server, leg)(answer)
        said = closes(server, leg)()
    assert np.array_equal(said[0], expected)
    np.save(spool.folder / "expected.npy", expected)
    return list(seconds.values()), server.cohort.layers


def serve(spool: Spool) -> tuple[Seconds, dict[str, float]]:
    """A server alone on answers that were kept: its seconds by step, and its memory in MB."""
    setting, table = pickle.loads((spool.folder / "setting").read_bytes())
    server = setting.server(PinnedDirectory(table))
    seconds: Seconds = defaultdict(float)
    lattice = setting.lattice
    shared, before = 0, resident()
    forget()
    for leg in LEGS:
        for answer in spool.read(leg):
            began = time.process_time()
            takes(server, leg)(answer)
            seconds[f"{leg}: answers"] += time.process_time() - began
            if leg == "share":
                shared += len(answer.ciphertexts) + len(answer.commitments)
        answer = None
        began = time.process_time()
        # The questions are kept, as they are while they are sent.
        said = closes(server, leg)()
        seconds[f"{leg}: close"] += time.process_time() - began
    began = time.process_time()
    encoder.decode(said[0], 1.0, lattice, SIGNS)
    seconds["decode"] = time.process_time() - began
    peak = resident()
    assert np.array_equal(said[0], np.load(spool.folder / "expected.npy"))
    memory = {
        "peak_mb": peak["VmHWM"] - before["VmRSS"],
        "shares_mb": shared / 2**20,
        "vector_mb": said[0].nbytes / 2**20,
        "degree": float(server.cohort.choice.degree),
        "surplus": float(len(server.survivors) * (server.cohort.layers - said[1] + 1)),
    }
    return dict(seconds), memory


def resident() -> dict[str, float]:
    """MB that this process holds (VmRSS), and at most held (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}
