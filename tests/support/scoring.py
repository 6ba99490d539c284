"""A real API on loopback that scores, and who asks it, each a process of its own.

``python scoring.py serve ROOT`` prints its port; ``python scoring.py load ...`` asks.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "tiny"
# Bounded, whatever happens.
MOST, SECONDS = 20_000, 60.0


@dataclass
class Serving:
    """A server process."""

    port: int
    token: str
    process: subprocess.Popen[str]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any], Any]:
        """Status, headers and body of one answer."""
        return asked(self.port, self.token, method, path, body)

    def score(self, inputs: Any, alias: str = "champion", **more: Any) -> tuple[int, Any]:
        """Asks until the version is loaded."""
        body = {"inputs": inputs, **more}
        for _ in range(300):
            status, _, found = self.ask("POST", f"/v1/models/{MODEL}/{alias}/score", body)
            if status != 503:
                break
            time.sleep(0.1)
        return status, found


def token_of(root: Path, role: str = "viewer", models: Sequence[str] = ("*",)) -> str:
    """A token for a home."""
    from tacit.server.access.tenants import DEFAULT
    from tacit.server.access.tokens import Tokens

    tokens = Tokens(root)
    text, _ = tokens.issue(
        "tests", role, tenant=DEFAULT, models=list(models), lifetime=timedelta(days=1)
    )
    tokens.close()
    return text


@contextlib.contextmanager
def serving(root: Path, **options: Any) -> Iterator[Serving]:
    """A server of a home.

    Args:
        root: the home.
        options: ``slow``, seconds by which a shadow is late; those of the router's settings.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, "serve", str(root), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Serving(port, token_of(root), process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def loading(at: Serving, to: Path, seconds: float, threads: int = 4) -> Iterator[None]:
    """Asks from another process while the block runs, for so long; answers go to a file."""
    arguments = [str(at.port), at.token, str(to), str(seconds), str(threads)]
    process = subprocess.Popen([sys.executable, __file__, "load", *arguments])
    try:
        yield
        assert process.wait(2 * SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def answers(path: Path) -> list[dict[str, Any]]:
    """What came back; a last line that was cut off is left out."""
    found = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def asked(
    port: int, token: str, method: str, path: str, body: Any = None, connection: Any = None
) -> tuple[int, dict[str, Any], Any]:
    """One request on a connection of its own, or on a given one."""
    c = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        c.request(method, path, None if body is None else json.dumps(body), headers)
        answer = c.getresponse()
        data = answer.read()
        return answer.status, dict(answer.getheaders()), json.loads(data) if data else None
    finally:
        if connection is None:
            c.close()


def _serve(root: str, options: dict[str, Any]) -> None:
    import uvicorn

    from tacit.server.api.app import make_app
    from tacit.server.api.context import Place
    from tacit.server.api.settings import Limits, Settings
    from tacit.server.scoring.model import Loader, Served
    from tacit.server.scoring.router import Router
    from tacit.server.scoring.settings import Settings as Scoring

    slow = options.pop("slow", 0.0)
    slowed = options.pop("slowed", None)
    seal = options.pop("seal", 60.0)

    class Slow(Served):
        """A version that takes its time."""

        def run(self, inputs: Any, options: Any = None) -> np.ndarray:
            time.sleep(slow)
            return super().run(inputs, options)

    class Slowing(Loader):
        def load(self, row: Any) -> Served:
            served = super().load(row)
            return Slow(**vars_of(served)) if row["number"] == slowed else served

    def scorer(place: Place, settings: Scoring) -> Router:
        loader = Slowing(place.store, place.registry, apart=True)
        return Router(
            place.store, place.registry, place.lifecycle, place.recorder, settings, loader
        )

    limits = Limits(rate=1e6, burst=1e6, seal=seal)
    app = make_app(Path(root), Settings(limits=limits, scoring=Scoring(**options)))
    app.state.scorer = scorer
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    _announced(server)
    server.run()


def vars_of(served: Any) -> dict[str, Any]:
    """A dataclass's fields, not copied."""
    return {name: getattr(served, name) for name in served.__dataclass_fields__}


def _announced(server: Any) -> None:
    """Has a server print its port once it listens."""

    def wait() -> None:
        while not server.started:
            time.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)

    threading.Thread(target=wait, daemon=True).start()


def _load(port: int, token: str, to: str, seconds: float, threads: int) -> None:
    """Asks; a line for each answer, written before the next question."""
    ends = time.monotonic() + min(seconds, SECONDS)
    lock = threading.Lock()
    with open(to, "w", buffering=1) as file:

        def ask(which: int) -> None:
            drawn = np.random.default_rng(which)
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for _ in range(MOST // threads):
                if time.monotonic() > ends:
                    return
                inputs = drawn.normal(size=(1, 4)).round(3).tolist()
                began, clock = time.time(), time.perf_counter()
                try:
                    status, _, found = asked(
                        port, token, "POST", PATH, {"inputs": inputs}, connection=c
                    )
                except (OSError, http.client.HTTPException) as error:
                    status, found = 0, {"error": repr(error)}
                line = {
                    "status": status,
                    "began": began,
                    "ended": time.time(),
                    "seconds": time.perf_counter() - clock,
                    "inputs": inputs,
                    "found": found,
                }
                with lock:
                    file.write(json.dumps(line) + "\n")
                if status == 0:
                    return

        workers = [threading.Thread(target=ask, args=(k,)) for k in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


PATH = f"/v1/models/{MODEL}/champion/score"

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1] == "serve":
        _serve(sys.argv[2], json.loads(sys.argv[3]))
    else:
        _load(int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]), int(sys.argv[6]))
