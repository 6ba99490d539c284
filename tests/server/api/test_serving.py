"""``tacit api`` as processes: two on one home, a slow verifier, an export while it trains."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from tiny import TINY, make_tiny

from tacit import simulate
from tacit.privacy.errors import ConfigError, StorageError
from tacit.privacy.log import command
from tacit.server.access.tokens import Tokens
from tacit.server.api.app import make_app
from tacit.server.api.serving import Address, serve
from tacit.server.api.settings import Limits, Settings
from tacit.server.check import verify
from tacit.server.home import Home
from tacit.server.store import Store
from tacit.server.views import verification

DOCS = Path(__file__).parents[3] / "docs"
MANY = Limits(rate=1e6, burst=1e6)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two versions."""
    simulate([*TINY, "rounds=2"], task=make_tiny(), home=tmp_path / "home")
    return tmp_path / "home"


def token(home: Path, name: str, role: str = "operator") -> str:
    tokens = Tokens(home)
    text, _ = tokens.issue(name, role, tenant="default", lifetime=timedelta(days=1))
    tokens.close()
    return text


@contextlib.contextmanager
def serving(home: Path, *more: str) -> Iterator[str]:
    """A process that serves a home; it ends in order."""
    words = [sys.executable, "-c", "from tacit.cli import main; main()"]
    words += ["api", "--home", str(home), "--port", "0", "--json", *more]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_two_operators_promote_at_once(home: Path) -> None:
    """Through two processes: one wins, the other gets the new state, and the leaves say so."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(serving(home)) for _ in range(2)]
        path = "/v1/models/tiny/aliases/champion"
        clients = [
            stack.enter_context(
                httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token(home, name)}"})
            )
            for url, name in zip(urls, ("olga", "omar"), strict=True)
        ]
        assert [c.get("/healthz").status_code for c in clients] == [200, 200]
        assert [c.get("/readyz").status_code for c in clients] == [200, 200]
        expected, together = None, threading.Barrier(2)
        for turn in range(5):

            def promote(client: httpx.Client, number: int, seen: int | None = expected) -> Any:
                body = {"number": number, "expected": seen, "reason": "it is better"}
                together.wait(30)
                return client.put(path, json=body)

            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(promote, clients, (1, 2)))
            assert sorted(f.status_code for f in found) == [200, 409], turn
            won, lost = sorted(found, key=lambda f: f.status_code)
            expected = won.json()["expected"]
            assert lost.json()["current"]["leaf"] == expected
            assert lost.json()["current"]["number"] == won.json()["number"]
            assert {c.get(path).json()["expected"] for c in clients} == {expected}
    store = Store(Home(home))
    assert len(store.leaves(kinds=["DEPLOY"])) == 5
    assert verify(store).findings == []
    reads = store.leaves(kinds=["ACCESS"])
    assert sum(leaf["body"]["count"] for leaf in reads) == 10
    store.close()


def test_a_slow_verification_holds_nobody_up(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(home, Settings(limits=MANY))
    going = tmp_path / "going"
    os.mkfifo(going)
    checked = verification.Verification._checked

    def slow(self: verification.Verification) -> Any:
        going.read_text()  # Until somebody writes.
        return checked(self)

    monkeypatch.setattr(verification.Verification, "_checked", slow)
    headers = {"Authorization": f"Bearer {token(home, 'vera', 'viewer')}"}
    with TestClient(app, headers=headers) as client:
        assert client.get("/v1/ledger/verification").json()["state"] == "never"
        assert client.post("/v1/ledger/verification").json()["state"] == "running"
        assert client.post("/v1/ledger/verification").json()["state"] == "running"
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/ledger/export").status_code == 200
        assert client.get("/v1/ledger/verification").json()["state"] == "running"
        going.write_text("go")
        place = app.state.places.open("default")
        status = place.shared("verification", lambda: None).wait(60)
        assert status["state"] == "done"
        said = client.get("/v1/ledger/verification").json()["report"]
        assert said["holds"]
        assert said["findings"] == []
        # It has not grown since: nothing is begun.
        grown = client.get("/v1/ledger/checkpoint").json()["size"]
        assert said["size"] == grown
        assert client.post("/v1/ledger/verification").json()["state"] == "done"


def test_a_verification_is_ended_with_the_place(home: Path) -> None:
    app = make_app(home, Settings(limits=MANY))
    headers = {"Authorization": f"Bearer {token(home, 'vera', 'viewer')}"}
    with TestClient(app, headers=headers) as client:
        assert client.post("/v1/ledger/verification").json()["state"] == "running"
        found = app.state.places.open("default").shared("verification", lambda: None)
    assert found.status()["state"] != "running"


@pytest.mark.slow
def test_an_export_while_it_trains_is_one_state(home: Path, tmp_path: Path) -> None:
    app = make_app(home, Settings(limits=MANY))
    headers = {"Authorization": f"Bearer {token(home, 'vera', 'viewer')}"}
    training = threading.Thread(
        target=simulate, args=([*TINY, "rounds=12"],), kwargs={"task": make_tiny(), "home": home}
    )
    sizes, path = [], tmp_path / "bundle"
    with TestClient(app, headers=headers) as client:
        training.start()
        try:
            while training.is_alive() or not sizes:
                found = client.get("/v1/ledger/export", params={"artifacts": "newest"})
                assert found.status_code == 200
                path.write_bytes(found.content)
                report = command.verify(path)
                assert report.findings == []
                sizes.append(report.size)
        finally:
            training.join()
    assert sizes == sorted(sizes)
    assert not [p for p in home.iterdir() if p.name.startswith("tmp")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "example.org"},
        {"certificate": Path("c")},
        {"port": 70_000},
    ],
)
def test_what_is_open_to_a_network_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Address(**wrong)


def test_what_was_asked_for_by_name_isnt() -> None:
    assert not Address("0.0.0.0", plain=True).tls
    assert Address("0.0.0.0", proxied=True).tls
    assert Address("127.0.0.2").url(1) == "http://127.0.0.2:1"
    assert Address("::1").url(1) == "http://[::1]:1"


@pytest.mark.slow
def test_the_examples_of_the_docs_run(home: Path, tmp_path: Path) -> None:
    """Each curl of docs/api.md, in order, with a real server and curl."""
    text = (DOCS / "api.md").read_text()
    (examples,) = re.findall(r"```sh\n(# every example.*?)```", text, re.DOTALL)
    with serving(home) as url:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {"URL": url, "TOKEN": token(home, "ada", "admin"), "PATH": programs}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", examples],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert '"holds": true' in done.stdout


def test_with_tls_a_token_goes_over_it(home: Path, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    words += " -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*words.split(), *files], check=True, capture_output=True)
    headers = {"Authorization": f"Bearer {token(home, 'vera', 'viewer')}"}
    with serving(home, "--tls-cert", certificate, "--tls-key", key) as url:
        assert url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=certificate)
        found = httpx.get(f"{url}/v1/whoami", headers=headers, verify=context)
        assert found.json()["role"] == "viewer"
        assert "Strict-Transport-Security" in found.headers
        assert "server" not in found.headers


def test_what_cant_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no tenant"):
        serve(tmp_path / "nothing", Address(port=0), print)
    assert not (tmp_path / "nothing").exists()
    Store(Home(tmp_path / "home")).close()
    (tmp_path / "bad.pem").write_text("no certificate")
    bad = tmp_path / "bad.pem"
    with pytest.raises(ConfigError, match="can't be used"):
        serve(tmp_path / "home", Address(port=0, certificate=bad, key=bad), print)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match="can't be listened on"):
            serve(tmp_path / "home", Address(port=port), print)
