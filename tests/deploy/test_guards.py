"""A SuperLink whose control is closed to the network; a SuperNode that runs no foreign code."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.run import RunNotRunningException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tacit.client import supernode
from tacit.client.superexec import WarmExecutor
from tacit.privacy.errors import ConfigError
from tacit.server.deploy.superlink import FleetOnly

APP = Path(__file__).parents[2] / "docs" / "flower"


# SuperLink


@pytest.mark.parametrize(
    ("peer", "path", "status"),
    [
        ("127.0.0.1", "/v1/control/start-run", 200),
        ("127.0.0.2", "/v1/runtime/acquire-task", 200),
        ("::1", "/v1/control/start-run", 200),
        ("::ffff:127.0.0.1", "/v1/control/start-run", 200),
        ("192.0.2.7", "/v1/fleet/pull-messages", 200),
        ("192.0.2.7", "/v1/control/start-run", 403),
        ("192.0.2.7", "/v1/control/register-node", 403),
        ("192.0.2.7", "/v1/runtime/acquire-task", 403),
        ("192.0.2.7", "/v1/fleet/../control/start-run", 403),
        ("192.0.2.7", "/docs", 403),
        ("::ffff:192.0.2.7", "/v1/control/start-run", 403),
        ("testclient", "/v1/control/start-run", 403),
    ],
)
def test_other_machines_reach_the_silos_part_alone(peer: str, path: str, status: int) -> None:
    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("yes")

    served = FleetOnly(Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])]))
    client = TestClient(served, client=(peer, 5), base_url="http://x")
    assert client.post(path).status_code == status


def test_flowers_superlink_is_the_one_that_is_guarded() -> None:
    # The name that is replaced, and what it is asked for.
    from flwr.superlink import main

    names = [m.cls.__name__ for m in main._get_middleware()]  # type: ignore[attr-defined]
    assert "NodeAuthMiddleware" in names


# SuperNode


def bundle(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
    return made.getvalue()


PROJECT = (APP / "pyproject.toml").read_bytes()


def test_the_documented_app_is_taken() -> None:
    supernode.check_app(build_fab_from_disk(APP))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no", "isn't a Flower App Bundle"),
        (bundle({}), "holds"),
        (bundle({"pyproject.toml": b"[", ".info/CONTENT": b""}), "isn't a Flower App Bundle"),
        (bundle({"pyproject.toml": b"", ".info/CONTENT": b""}), "isn't a Flower App Bundle"),
        (
            bundle({"pyproject.toml": PROJECT, ".info/CONTENT": b"", "tacit/__init__.py": b"1"}),
            "the app holds tacit/__init__.py",
        ),
        (
            bundle(
                {
                    "pyproject.toml": PROJECT.replace(b"tacit.client.app:app", b"evil:app"),
                    ".info/CONTENT": b"",
                }
            ),
            "clientapp=evil:app isn't",
        ),
        (
            bundle(
                {
                    "pyproject.toml": PROJECT.replace(b"dependencies = []", b"dependencies=['x']"),
                    ".info/CONTENT": b"",
                }
            ),
            "wants to install",
        ),
        (
            bundle({"pyproject.toml": PROJECT + b"#" * 70000, ".info/CONTENT": b""}),
            "more than 65536 bytes",
        ),
    ],
)
def test_an_app_that_brings_code_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        supernode.check_app(content)


def test_a_refused_apps_run_is_one_that_isnt_running() -> None:
    import contextlib
    from collections.abc import Iterator

    evil = bundle({"pyproject.toml": PROJECT, ".info/CONTENT": b"", "x.py": b""})
    fabs = {"good": build_fab_from_disk(APP), "evil": evil}

    @contextlib.contextmanager
    def connect() -> Iterator[tuple[Any, ...]]:
        yield (*range(4), lambda name, _: Fab(name, fabs[name], {}), *range(5, 8))

    with supernode._guarded(connect)() as made:
        assert made[:4] == (0, 1, 2, 3)
        assert made[5:] == (5, 6, 7)
        assert made[4]("good", 1).content == fabs["good"]
        with pytest.raises(RunNotRunningException):
            made[4]("evil", 1)


def test_flowers_supernode_is_the_one_that_is_guarded() -> None:
    # If Flower moves what is replaced here, its apps would be taken unseen.
    import inspect

    from flwr.supernode import start_client_internal as flower

    source = inspect.getsource(flower.start_client_internal)
    assert "with _init_connection(" in source
    names = inspect.signature(flower._pull_and_store_message).parameters
    assert list(names)[3:6] == ["receive", "get_run", "get_fab"]
    body = inspect.getsource(flower._init_connection)
    assert body.count("Callable[[str, int], Fab]") == 1


def test_the_superexec_beside_a_supernode() -> None:
    assert supernode._beside(supernode._options(["--superlink", "x:1"])) is None
    words = ["--isolation", "process", "--port", "7", "--superexec-auth-secret-file", "s"]
    made = supernode._beside(supernode._options(words))
    assert made is not None
    assert made[-2:] == ["--superexec-auth-secret-file", "s"]
    assert "127.0.0.1:7" in made


def test_a_silo_runs_clientapps_alone() -> None:
    executor = WarmExecutor()
    everything = {TaskType.CLIENT_APP, TaskType.SERVER_APP, TaskType.AGENT_APP}
    assert executor.get_eligible_capacity(everything) == ({TaskType.CLIENT_APP}, set())


def test_modules_start_as_flowers_commands() -> None:
    import sys

    for module in ("tacit.client.supernode", "tacit.client.superexec"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
        )
        assert "--superexec-auth-secret-file" in done.stdout
