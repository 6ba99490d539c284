"""A server that runs: a token ends in it at once, and what it was asked is sealed when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tacit.server import check
from tacit.server.access.records import Recorder, Sealer
from tacit.server.access.tenants import Tenants
from tacit.server.access.tokens import Tokens
from tacit.server.store import Store


@contextmanager
def served(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``tacit api`` on a free port of the loopback interface."""
    program = str(Path(sys.executable).with_name("tacit"))
    command = [program, "api", "--port", "0", "--home", str(root), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["url"]
        finally:
            process.kill()


@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_server_that_runs(tmp_path: Path, how: signal.Signals) -> None:
    Tenants(tmp_path).create("acme")
    tokens = Tokens(tmp_path)
    text, row = tokens.issue("ann", "viewer", tenant="acme", lifetime=timedelta(days=1))
    headers = {"Authorization": f"Bearer {text}"}
    with served(tmp_path) as (process, url), httpx.Client(base_url=url, headers=headers) as client:
        found = client.get("/v1/models")
        assert found.status_code == 200
        assert "server" not in found.headers
        tokens.revoke(row["id"])
        assert client.get("/v1/models").status_code == 401
        # An address that is forwarded isn't believed: a stranger would be another each time.
        assert any(
            client.get("/v1/models", headers={"X-Forwarded-For": f"10.0.0.{k}"}).status_code == 429
            for k in range(1000)
        )
        process.send_signal(how)
        assert process.wait(60) in (0, -signal.SIGKILL)
    store = Store(Tenants(tmp_path).home("acme"))
    recorder, request = Recorder(store), found.headers["X-Request-Id"]
    assert recorder.find(request) is not None
    if how == signal.SIGKILL:
        Sealer(recorder).stop()
    assert recorder.unsealed() == 0
    assert recorder.find(request)["leaf"] == 1  # type: ignore[index]
    assert check.verify(store).findings == []
    store.close()
