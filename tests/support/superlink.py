"""A real deployment for tests: SuperLink, SuperExec, SuperNodes, made by `tacit deploy init`.

Everything binds to loopback and ends with the fixture: each process leads a group of its own,
and the groups are killed whatever a test did.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tacit.server.deploy import coordinator, scripts, silo
from tacit.server.deploy.coordinator import Settings
from tacit.server.deploy.silo import SiloFolder
from tacit.server.home import Home
from tacit.server.store import Store

T = TypeVar("T")

SUPPORT = Path(__file__).parent
# Three silos of a good 500 images each; the promise is the record's.
SILOS = (
    "experiment=digits clients=3 cohort=3 minimum_survivors=3 seed=null secure.protocol=full "
    "privacy/client=none privacy.record.noise_multiplier=1.0 privacy.record.sampling_rate=0.5 "
    "privacy.record.clip=1.0 local.steps=1 local.learning_rate=1.0 optimizer=fedavg "
    "optimizer.learning_rate=8.0"
)


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the kernel gives to clients."""
    found: list[int] = []
    for port in range(20000 + os.getpid() * 37 % 10000, 32000):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class Deployment:
    """One machine's coordinator and silos, and their processes.

    Args:
        folder: where all of it is made.
        overrides: the run's settings.
        silos: how many.
        deadline: of a leg, in seconds; a request is sent again after a sixth of it.
    """

    def __init__(
        self, folder: Path, overrides: str = SILOS, silos: int = 3, deadline: float = 60.0
    ) -> None:
        self.folder = folder
        self.silos = [f"silo-{k}" for k in range(silos)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        link, *runtimes = free_ports(silos + 1)
        self.port = link
        made = coordinator.make(
            folder / "coordinator", Settings("silos", "127.0.0.1", link, "127.0.0.1")
        )
        parts = [silo.make(folder / name, k, "silos") for k, name in enumerate(self.silos)]
        federation = coordinator.collect(made, parts)
        (made.root / "run.toml").write_text(
            f"overrides = {json.dumps(overrides)}\n"
            f"deadline = {deadline}\nresend = {deadline / 6}\nwait = 120.0\n"
        )
        scripts.coordinator(made)
        app = made.root / "app" / "pyproject.toml"
        app.write_text(app.read_text().replace("tacit.server.app:app", "telling:app"))
        for name, port in zip(self.silos, runtimes, strict=True):
            client = coordinator.join(folder / name, federation)
            scripts.silo(SiloFolder(folder / name), client, port)
        self.coordinator = made
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.steps = folder / "steps"
        self.steps.touch()

    # Processes

    def script(self, name: str) -> Path:
        """What starts a process: superlink, superexec, silo-K, or another script by its name."""
        if name in self.silos:
            return self.folder / name / "supernode.sh"
        return self.folder / "coordinator" / f"{name}.sh"

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a process in a group of its own; its output is added to its log."""
        with (self.logs / name).open("ab") as log:
            made = subprocess.Popen(
                [str(self.script(name)), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(SUPPORT), "TOLD": str(self.steps)},
            )
        self.processes[name] = made
        return made

    def call(self, name: str, *arguments: str) -> str:
        """Runs a script of the coordinator to its end; returns what it said."""
        done = subprocess.run(
            [str(self.script(name)), *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}\n{self.tail()}"
        return done.stdout

    def up(self) -> None:
        """Starts everything but a run, and lets the silos in."""
        self.start("superlink")
        self.start("superexec")
        self.wait(lambda: self.listens(), "the SuperLink to listen")
        self.call("register")
        for name in self.silos:
            self.start(name)

    def listens(self) -> bool:
        """Whether the SuperLink's port can be reached."""
        with socket.socket() as s:
            s.settimeout(1)
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self, name: str) -> None:
        """Kills one process as the kernel would; what it started is left to itself."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait(30)

    def app(self) -> psutil.Process | None:
        """The coordinator: the ServerApp's process."""
        top = self.processes.get("superexec")
        if top is None or top.poll() is not None:
            return None
        for child in psutil.Process(top.pid).children(recursive=True):
            # Those that ended before are zombies, which have no command line.
            with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                if any("flwr-serverapp" in word for word in child.cmdline()):
                    return child
        return None

    def kill_app(self, app: psutil.Process) -> None:
        """Kills the coordinator; its SuperExec leaves a zombie."""
        app.send_signal(signal.SIGKILL)

        def gone() -> bool:
            return not app.is_running() or app.status() == psutil.STATUS_ZOMBIE

        self.wait(gone, "the ServerApp to be gone", 30)

    def down(self) -> None:
        """Kills all groups."""
        for made in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)
            made.wait(30)

    # What happened

    def told(self) -> list[str]:
        """The coordinator's steps so far."""
        return self.steps.read_text().splitlines()

    def log(self, name: str) -> str:
        """A process's output so far, without colours."""
        path = self.logs / name
        text = path.read_text(errors="replace") if path.exists() else ""
        return re.sub(r"\x1b\[\d+m", "", text)

    def tail(self) -> str:
        """The ends of all logs, for a failure."""
        ends = [f"== {p.name}\n{self.log(p.name)[-1500:]}" for p in sorted(self.logs.iterdir())]
        return "\n".join([*ends, "== steps", *self.told()[-20:]])

    def rows(self) -> list[dict[str, Any]]:
        """The runs in the coordinator's home."""
        if not (self.coordinator.home / "tacit.db").exists():
            return []
        store = Store(Home(self.coordinator.home))
        try:
            return [dict(row) for row in store.runs()]
        finally:
            store.close()

    def ended(self) -> dict[str, Any] | None:
        """The newest run's row, if it isn't going on."""
        rows = self.rows()
        return rows[-1] if rows and rows[-1]["status"] not in ("running", "created") else None

    def wait(self, found: Callable[[], T | None], what: str, seconds: float = 240) -> T:
        """Waits until something is there and returns it."""
        end = time.monotonic() + seconds
        while True:
            value = found()
            if value:
                return value
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}\n{self.tail()}"
            time.sleep(0.05)

    def wait_for_step(self, line: str, count: int = 1, seconds: float = 240) -> None:
        """Waits until the coordinator has said a step ``count`` times."""
        self.wait(lambda: self.told().count(line) >= count, f"{count} x {line!r}", seconds)


def deployed(folder: Path, **options: Any) -> Iterator[Deployment]:
    """A deployment that is up, for a fixture."""
    made = Deployment(folder, **options)
    try:
        made.up()
        yield made
    finally:
        made.down()
        # A failure keeps the logs; keys and databases aren't needed.
        shutil.rmtree(made.coordinator.state, ignore_errors=True)


# What must hold, whatever was killed


def answers(made: Deployment) -> dict[tuple[str, int, str], set[str]]:
    """What clients said under their signature: by kind, client and session."""
    found: dict[tuple[str, int, str], set[str]] = {}
    for line in made.told():
        if line.startswith("said "):
            _, kind, client, session, digest = line.split()
            found.setdefault((kind, int(client), session), set()).add(digest)
    return found


def participations(made: Deployment) -> set[tuple[str, int, int, str]]:
    """What the silos' own ledgers say they took part in: run, round, attempt, purpose."""
    found = set()
    for k, name in enumerate(made.silos):
        path = made.folder / name / "client" / f"{k}.ledger"
        if path.exists():
            with contextlib.closing(sqlite3.connect(path)) as db:
                rows = db.execute(
                    "SELECT run, round, attempt, purpose FROM entries WHERE outcome = 'charged'"
                )
                found |= {(r, n, a, p) for r, n, a, p in rows}
    return found


def check_books(made: Deployment) -> None:
    """Nothing was released or answered that isn't charged, and nobody answered twice."""
    store = Store(Home(made.coordinator.home))
    try:
        leaves = store.spending()
    finally:
        store.close()

    def places(kind: str) -> list[tuple[str, int, int, str]]:
        bodies = [leaf["body"] for leaf in leaves if leaf["kind"] == kind]
        return [(b["run"], b["round"], b["attempt"], b["purpose"]) for b in bodies]

    charges, releases, abandoned = places("CHARGE"), places("RELEASE"), places("ABANDON")
    assert len(set(charges)) == len(charges)
    assert sorted(releases + abandoned) == sorted(charges), "a charge came to one end"
    assert participations(made) <= set(charges), "a client took part in what isn't charged"
    # A round is released once.
    rounds = [(run, number, purpose) for run, number, _, purpose in releases]
    assert len(set(rounds)) == len(rounds)
    for (kind, client, session), digests in answers(made).items():
        assert len(digests) == 1, f"client {client} gave two answers to {kind} in {session[:12]}"
    for k, name in enumerate(made.silos):
        path = made.folder / name / "client" / f"{k}.vault"
        with contextlib.closing(sqlite3.connect(path)) as db:
            # One session at a time, in one phase, of one attempt at a round.
            assert (
                db.execute("SELECT count(*) FROM sessions").fetchone()[0]
                <= db.execute("SELECT count(*) FROM latest").fetchone()[0]
            )
