"""Flower's SuperNode, for a silo that runs installed code and nothing that it is sent.

A SuperNode runs whatever app its SuperLink hands it. This one takes an app that holds a
``pyproject.toml`` and nothing else, naming tacit's own ClientApp: what runs is the tacit that is
installed at the silo, and the app only says so. Messages of a run with another app are left
unanswered, and the log says why.

It doesn't stop a run's configuration from naming, as its task, another module that is installed
at the silo.

A SuperNode that was killed is taken for alive for a minute, and the SuperLink doesn't let another
one with its key in. This one writes its node's number beside its key, and begins by saying that
the one of before is gone.

With ``--isolation process`` it starts a `tacit.client.superexec` beside itself, and again
whenever that ends. The two share ``--superexec-auth-secret-file``, without which any account of
the machine could take this silo's messages.

    python -m tacit.client.supernode --help      # the options are flower-supernode's
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
)
from flwr.supercore.fab import Fab
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection as fleet
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from tacit.privacy.errors import ConfigError

APP = "tacit.client.app:app"
HOLDS = frozenset({"pyproject.toml", ".info/CONTENT"})
LARGEST = 65536
# Where a connection has the call that fetches an app.
_GET_FAB = 4

log = logging.getLogger("flwr")


def check_app(content: bytes) -> None:
    """Refuses an app that brings code, or names another's.

    Args:
        content: a Flower App Bundle: a zip file.

    Raises:
        ConfigError: it does.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            listed = bundle.infolist()
            extra = sorted({entry.filename for entry in listed} - HOLDS)
            if extra or len(listed) != len(HOLDS):
                raise ConfigError(f"the app holds {', '.join(extra) or 'a file twice'}")
            if any(entry.file_size > LARGEST for entry in listed):
                raise ConfigError(f"the app has a file of more than {LARGEST} bytes")
            project = tomllib.loads(bundle.read("pyproject.toml").decode())
        flower_app = project["tool"]["flwr"]["app"]
        named = flower_app["components"]["clientapp"]
        needs = project["project"].get("dependencies", [])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"the app isn't a Flower App Bundle: {error!r}") from error
    if named != APP:
        raise ConfigError(f"the app's clientapp={named} isn't {APP}")
    if needs:
        raise ConfigError(f"the app wants to install {needs}")


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    @contextlib.contextmanager
    def connection(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*args, **kwargs) as made:
            fetch = made[_GET_FAB]

            def get_fab(fab_hash: str, run_id: int) -> Fab:
                fab: Fab = fetch(fab_hash, run_id)
                try:
                    check_app(fab.content)
                except ConfigError as error:
                    log.error("run %d is refused: %s", run_id, error.message)
                    raise RunNotRunningException from error
                return fab

            yield (*made[:_GET_FAB], get_fab, *made[_GET_FAB + 1 :])

    return connection


class Returning(FleetHttpClient):
    """Flower's connection to the SuperLink, of a node that may have been there before.

    Attributes:
        number: file of the node's number; None remembers nothing.
    """

    number: Path | None = None

    def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802
        """Comes online, in the place of what was killed."""
        before = self._before()
        if before is not None:
            # Refused where the node is offline, or another's: then there is nothing to end.
            with contextlib.suppress(httpx.HTTPStatusError):
                self.DeactivateNode(DeactivateNodeRequest(node_id=before))
        made = super().ActivateNode(request)
        if self.number is not None:
            self.number.write_text(f"{made.node_id}\n")
        return made

    def _before(self) -> int | None:
        if self.number is None or not self.number.is_file():
            return None
        found = self.number.read_text().strip()
        return int(found) if found.isdecimal() and int(found) < 2**64 else None


def _options(arguments: list[str]) -> argparse.Namespace:
    """Those of Flower's options that matter here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--isolation", default="subprocess")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="9094")
    parser.add_argument("--superexec-auth-secret-file")
    parser.add_argument("--auth-supernode-private-key", type=Path)
    return parser.parse_known_args(arguments)[0]


def _beside(known: argparse.Namespace) -> list[str] | None:
    """The command of the SuperExec that belongs to a SuperNode, if it is to be started."""
    if known.isolation != "process":
        return None
    command = [sys.executable, "-m", "tacit.client.superexec", "--insecure"]
    command += ["--runtime-api-address", f"{known.host}:{known.port}"]
    command += ["--parent-pid", str(os.getpid())]
    if known.superexec_auth_secret_file is not None:
        command += ["--superexec-auth-secret-file", known.superexec_auth_secret_file]
    return command


def _keep_up(command: list[str]) -> None:
    while True:
        ended = subprocess.run(command, check=False)  # noqa: S603
        log.error("the SuperExec ended with status %d; it is started again", ended.returncode)
        time.sleep(2)


def main() -> None:
    """Runs the SuperNode until it is told to stop."""
    known = _options(sys.argv[1:])
    flower._init_connection = _guarded(flower._init_connection)
    if known.auth_supernode_private_key is not None:
        Returning.number = known.auth_supernode_private_key.expanduser().with_suffix(".id")
        # By name, since it is that module's by an import.
        setattr(fleet, "FleetHttpClient", Returning)  # noqa: B010
    command = _beside(known)
    if command is not None:
        threading.Thread(target=_keep_up, args=(command,), daemon=True).start()
    flower_supernode()


if __name__ == "__main__":
    main()
