"""`tacit serve` killed in every leg, and again once all shares are given; its devices live on.

Real processes, streams and agents. It shows what `docs/operate.md` says of a killed coordinator:
the run goes on, the books close, and nobody's device said two things in one session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agents
import devices
import pytest
from checking import check_exposures, check_log

from tacit.client.edge.home import Home as DeviceHome
from tacit.client.edge.link import Answer as Sent
from tacit.client.edge.link import Link
from tacit.client.edge.member import Member
from tacit.client.edge.wiring import Backoff
from tacit.privacy.messages import Message, Request
from tacit.privacy.secagg import messages as m
from tacit.server import check
from tacit.server.gateway.grid import opened
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home
from tacit.server.store import Store

CLIENTS, FEWEST = 6, 4
SOME = 2
# The leg, and after how many answers to it have been sent: one kill in each round.
PLACES = (
    ("query.advertise", SOME),
    ("query.share", SOME),
    ("train", SOME),
    ("query.confirm", SOME),
    ("query.reveal", SOME),
    ("query.reveal", CLIENTS),
)
ROUNDS = len(PLACES) + 1
# The command line, with the coordinator's steps in a file.
SERVE = """
import logging, os
steps = logging.getLogger("tacit.round")
steps.setLevel(logging.DEBUG)
steps.addHandler(logging.FileHandler(os.environ["TOLD"]))
from tacit.cli import main
main()
"""
Place = tuple[str, int, int, str]


@dataclass(frozen=True)
class Said:
    """An answer that a device made.

    Attributes:
        kind: of the leg.
        client: whose.
        session: its digest.
        place: run, round, attempt, purpose.
        request: what it answers.
    """

    kind: str
    client: int
    session: str
    place: Place
    request: Message


class Watched:
    """What leaves the devices; kills the server once enough did.

    Attributes:
        said: answers that were sent, by leg, client and session, in bytes.
        vectors: of clients, what those that were sent are for.
        agreed: lists of survivors that a client confirmed in a session.
        doomed: the process, its leg, its round and the answers after which it dies.
    """

    def __init__(self) -> None:
        self.said: dict[tuple[str, int, str], set[bytes]] = defaultdict(set)
        self.vectors: dict[int, set[Place]] = defaultdict(set)
        self.agreed: dict[tuple[int, str], set[bytes]] = defaultdict(set)
        self.doomed: tuple[int, str, int, int] | None = None
        self._made: dict[bytes, Said] = {}
        self._lock = threading.Lock()

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Looks over the shoulders of all agents in this process."""
        answer, send = Member.answer, Link.answer

        def answering(member: Member, kind: str, body: bytes, *rest: Any) -> bytes:
            made = answer(member, kind, body, *rest)
            self._note(made, kind, m.LEGS[kind].decode(body), member._is.client)
            return made

        async def sending(link: Link, sent: Sent) -> None:
            # What is begun to be sent counts as having left.
            self._leaves(sent)
            await send(link, sent)
            self._strike(sent)

        patch.setattr(Member, "answer", answering)
        patch.setattr(Link, "answer", sending)

    def _note(self, made: bytes, kind: str, request: Message, client: int) -> None:
        if isinstance(request, m.SessionMessage):
            session, purpose = request.session, "train"
        elif isinstance(request, m.Invitation):
            session, purpose = request.session(), request.purpose
        else:
            assert isinstance(request, Request)
            session, purpose = m.Invitation.to(request, kind).session(), kind
        place = (request.run, request.round, request.attempt, purpose)
        with self._lock:
            self._made[made] = Said(kind, client, session, place, request)

    def _leaves(self, sent: Sent) -> None:
        if sent.body is None:
            return
        with self._lock:
            found = self._made[sent.body]
            self.said[found.kind, found.client, found.session].add(sent.body)
            if found.kind == "train":
                self.vectors[found.client].add(found.place)
            if isinstance(found.request, m.Survivors):
                self.agreed[found.client, found.session].add(found.request.members)

    def _strike(self, sent: Sent) -> None:
        with self._lock:
            if self.doomed is None or sent.body is None:
                return
            pid, leg, number, after = self.doomed
            found = self._made[sent.body]
            who = [c for kind, c, session in self.said if (kind, session) == (leg, found.session)]
            if found.kind == leg and found.place[1] == number and len(who) >= after:
                self.doomed = None
                os.kill(pid, signal.SIGKILL)

    def check(self) -> None:
        """Nobody said two things at one point of a session, or gave both shares of a peer."""
        assert sum(kind == "query.reveal" for kind, _, _ in self.said) >= ROUNDS * FEWEST
        for (kind, client, session), bodies in self.said.items():
            about = f"client {client}, {kind} in {session[:12]}"
            assert len(bodies) == 1, f"{about}: two answers"
            if kind != "query.reveal":
                continue
            # The survivors decide which share of a peer is given: of its seed, or of its key.
            given: dict[int, set[bool]] = defaultdict(set)
            assert self.agreed[client, session], f"{about}: nothing was confirmed"
            for packed in self.agreed[client, session]:
                survivors = m.unpack_members(packed)
                for peer in range(CLIENTS):
                    given[peer].add(peer in survivors)
            assert all(len(kinds) == 1 for kinds in given.values()), f"{about}: both shares"


class Server:
    """`tacit serve` of one home, each start on the same port.

    Args:
        folder: of the home, and of what it tells.
        port: of the gateway.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.home, self._told, self._log = Home(folder / "home"), folder / "told", folder / "log"
        self._told.touch()
        self._at = ("--listen", f"127.0.0.1:{port}", "--enrol", "127.0.0.1:0")

    def start(self, *how: str) -> subprocess.Popen[bytes]:
        """Starts it."""
        more = ("--devices", str(CLIENTS), "--deadline", "60", "--home", str(self.home.root))
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", SERVE, "serve", *how, *self._at, *more],
                stdout=log,
                stderr=log,
                env={**os.environ, "TOLD": str(self._told)},
            )

    def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for its end, whatever that is."""
        try:
            return process.wait(120)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._log.read_text()[-4000:]) from None
        finally:
            process.kill()
            process.wait()

    @property
    def step(self) -> str:
        """The last one that it told."""
        return (self._told.read_text().splitlines() or ["nothing"])[-1]

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text()[-4000:]


@pytest.fixture
def port() -> int:
    """Free just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def folders(tmp_path: Path, port: int) -> Mapping[int, Path]:
    """Of devices that are enrolled."""
    home, task = Home(tmp_path / "home"), devices.exported()[0]
    with opened(home, Settings(devices.POPULATION, listen=f"127.0.0.1:{port}")) as grid:
        return {k: agents.enrolled(grid, tmp_path / "devices", k, task) for k in range(CLIENTS)}


def closed(store: Store) -> dict[int, list[str]]:
    """How each charge of a round ended; each did, once."""
    spending = [leaf["body"] for leaf in store.spending()]

    def places(kind: str) -> list[Place]:
        return [place(b) for b in spending if b["kind"] == kind]

    charges, releases, abandoned = (places(k) for k in ("CHARGE", "RELEASE", "ABANDON"))
    assert len(set(charges)) == len(charges)
    assert sorted(releases + abandoned) == sorted(charges), "a charge came to one end"
    assert [number for _, number, _, _ in releases] == list(range(1, ROUNDS + 1))
    ends: dict[int, list[str]] = defaultdict(list)
    for body in spending:
        if body["kind"] != "CHARGE":
            ends[body["round"]].append(body["kind"])
    return ends


def place(body: Mapping[str, Any]) -> Place:
    return (body["run"], body["round"], body["attempt"], body["purpose"])


def participations(folder: Path) -> set[Place]:
    """What a device's own ledger says it took part in."""
    with contextlib.closing(sqlite3.connect(DeviceHome(folder).ledger)) as db:
        rows = db.execute(
            "SELECT run, round, attempt, purpose FROM entries WHERE outcome = 'charged'"
        )
        return {(str(r), int(n), int(a), str(p)) for r, n, a, p in rows}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_every_leg_it_goes_on_and_the_books_close(
    folders: Mapping[int, Path],
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Devices try again every half second, so that the test doesn't wait for them.
    monkeypatch.setattr(Backoff, "after", lambda self, failures: 0.5)
    watched, server = Watched(), Server(tmp_path, port)
    watched.watch(monkeypatch)
    settings = devices.settings(f"rounds={ROUNDS}", f"population={devices.POPULATION}")
    how, steps = [*settings, "task=served:task"], []
    with agents.running(folders):
        for number, (leg, after) in enumerate(PLACES, 1):
            process = server.start(*how)
            watched.doomed = (process.pid, leg, number, after)
            assert server.ended(process) == -signal.SIGKILL, server.log
            steps.append(server.step)
            if after < CLIENTS:
                # Not all have answered, and the coordinator waits for all: it is in the leg.
                assert server.step == f"round {number}: {leg}"
            how = ["--resume", "last"]
        assert server.ended(server.start(*how)) == 0, server.log

    store = Store(server.home)
    (run,) = store.runs()
    assert (run["status"], run["round"]) == ("finished", ROUNDS)
    assert check.verify(store).holds
    check_exposures(store, check_log(store))
    ends, accepted = closed(store), [row["accepted"] for row in store.rounds(run["id"])]
    charged = {place(leaf["body"]) for leaf in store.spending() if leaf["kind"] == "CHARGE"}
    store.close()
    for number, (_, after) in enumerate(PLACES, 1):
        cut = ["ABANDON", "RELEASE"]
        # Once all shares are there the release may have been faster than the kill.
        assert ends[number] in ([cut] if after < CLIENTS else [cut, ["RELEASE"]])
    assert ends[ROUNDS] == ["RELEASE"]
    assert min(accepted) >= FEWEST
    for client, folder in folders.items():
        own = participations(folder)
        assert watched.vectors[client] <= own, "a vector left uncharged by its device"
        assert own <= charged, "a device took part in what the coordinator didn't charge"
    watched.check()
    with capsys.disabled():
        for number, (leg, after) in enumerate(PLACES, 1):
            row = (f"{leg}, {after} of {CLIENTS} answers sent", steps[number - 1])
            cells = (*row, ", then ".join(ends[number]), str(accepted[number - 1]))
            print("\n| " + " | ".join(cells) + " |", end="")
