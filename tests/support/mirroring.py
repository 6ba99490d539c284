"""A real MLflow server for tests, on loopback, and mirrors that die."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from crashing import Killer

ENVIRONMENT = Path(__file__).parents[2] / "build" / "ecosystem"


class MlflowServer:
    """An MLflow server with SQLite, of the environment that ``make test`` makes.

    Args:
        folder: for its database and artifacts.
    """

    def __init__(self, folder: Path) -> None:
        program = ENVIRONMENT / "bin" / "mlflow"
        if not program.exists():
            pytest.fail("make build/ecosystem/.ready installs an MLflow server")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._program = folder, program
        self.start()

    def start(self) -> None:
        """Starts it on its port and waits until it answers."""
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        # Else it starts a dozen processes for jobs that nobody has.
        quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        command = [
            *(str(self._program), "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **quiet, "PYTHONPATH": ""},
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            assert self._process.poll() is None, "the MLflow server ended"
            time.sleep(0.1)
        raise AssertionError("the MLflow server doesn't answer")

    def stop(self) -> None:
        """Ends it and its workers."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def dying(home: str, uri: str, line: str, count: int, places: tuple[str, str]) -> None:
    """Mirrors, to be killed when ``line`` comes for that time."""
    logger = logging.getLogger("tacit.mirror")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Killer(line, count))
    once(home, uri, places)


def once(home: str, uri: str, places: tuple[str, str], artifacts: bool = False) -> int:
    """Mirrors into an experiment, with a prefix of models' names."""
    from tacit.server.home import Home
    from tacit.server.mirror.deliver import Mirror
    from tacit.server.mirror.mlflow import Server
    from tacit.server.mirror.outbox import Outbox
    from tacit.server.store import Store

    store = Store(Home(home))
    try:
        outbox = Outbox(store, f"{uri} {places}")
        with outbox.alone():
            server = Server(uri, outbox.origin, *places)
            return Mirror(store, server, outbox, artifacts).once()
    finally:
        store.close()
