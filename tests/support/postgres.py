"""A PostgreSQL of the tests' own: real, durable, reachable by nobody else, and killable.

Runs as the tests' user, or as `postgres` where that is root, for whom it won't start.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

PATIENCE = 60.0

# A fixture `url` (tests/conftest.py) of each engine, and with it `home` and `store`.
BOTH = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


def binaries() -> Path:
    """The newest PostgreSQL's programs.

    Raises:
        RuntimeError: there is none: the tests fail, as without it they'd prove half.
    """
    found = list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve())
    found = [path for path in found if (path.parent / "initdb").exists()]
    if not found:
        raise RuntimeError("these tests need PostgreSQL's server: apt-get install postgresql")
    return max(found, key=lambda path: [int(p) for p in path.parts if p.isdigit()]).parent


class Postgres:
    """A cluster in a short folder, as a socket's path must be; `start` it first."""

    def __init__(self) -> None:
        self._bin = binaries()
        self._user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._data, self._log = self.folder / "data", self.folder / "log"
        self._server: psutil.Popen | None = None
        self._count, self._free = 0, list[str]()
        init = ["--username=tacit", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        # Not synced: a machine that goes down here takes the tests with it.
        init += ["--data-checksums", "--no-sync", "--pgdata", str(self._data)]
        self._popen(self._bin / "initdb", *init).wait(PATIENCE)
        if not (self._data / "postgresql.conf").exists():
            raise RuntimeError(f"initdb failed: {self._log.read_text()}")
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{self.folder}'",
            "unix_socket_permissions": "0700",
            "fsync": "on",
            "shared_buffers": "16MB",
            "shared_memory_type": "mmap",
            "dynamic_shared_memory_type": "mmap",
            "max_connections": "40",
            "autovacuum": "off",
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start(self) -> None:
        """Starts the server, and waits until it has recovered and answers."""
        self._server = self._popen(self._bin / "postgres", "-D", str(self._data))
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > limit:
                    said = self._log.read_text()[-4000:]
                    raise RuntimeError(f"PostgreSQL doesn't start: {said}") from error
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the server and every process of it, as if all crashed at once."""
        server = self._server
        assert server is not None
        server.suspend()  # So that it doesn't fork meanwhile.
        family = [*server.children(recursive=True), server]
        for process in family:
            process.kill()
        server.wait(PATIENCE)
        # Nobody may have noticed yet that the others died, but dead they must be.
        limit = time.monotonic() + PATIENCE
        while any(_lives(process) for process in family) and time.monotonic() < limit:
            time.sleep(0.005)
        self._server = None

    def stop(self) -> None:
        """Ends the server, at once, and removes what it kept."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(PATIENCE)
            self._server = None
        shutil.rmtree(self.folder)

    def fresh(self) -> str:
        """The URL of an empty database."""
        if self._free:
            return self._free.pop()
        self._count += 1
        name = f"t{self._count}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def recycle(self, url: str) -> None:
        """Takes a database back, for `fresh` to give out again."""
        self.empty(url)
        self._free.append(url)

    def empty(self, url: str) -> None:
        """Ends a database's connections and removes all that is in it, where DROP is slow."""
        name = url.split("?")[0].rsplit("/", 1)[1]
        query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        with self._connect() as connection:
            connection.execute(query, [name])
        with self._connect(name) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
            connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")

    def url(self, name: str, user: str = "tacit") -> str:
        """The URL of a database, whether or not there is one."""
        return f"postgresql+psycopg://{user}@/{name}?host={self.folder}"

    def _connect(self, name: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.folder), user="tacit", dbname=name, autocommit=True)

    def _popen(self, *command: str | Path) -> psutil.Popen:
        with self._log.open("a") as log:
            return psutil.Popen(
                [str(part) for part in command],
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            )


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
