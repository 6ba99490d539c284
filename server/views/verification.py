"""Whether a ledger holds, checked in a process of its own, so that nobody waits for it.

Guarantees: one check of a home at a time in this process, at the lowest priority; what it found is
kept with the size and root that it is of and the time that it was made, until a newer one is. What
is said was true of that state: leaves appended since weren't looked at, and what somebody changed
since wasn't seen.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from tacit.privacy.errors import TacitError
from tacit.server import check
from tacit.server.home import Home
from tacit.server.store import Store

log = logging.getLogger("tacit.api")
Status = dict[str, Any]


class Verification:
    """Checks a home now and then.

    Args:
        store: of the home.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._found: Status | None = None
        self._failed: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def status(self) -> Status:
        """The newest report, and whether another is being made.

        Returns:
            ``state``: "never", "running" or "done"; ``failed``: why the last one came to nothing;
            ``report``: as `Report.to_json`, with ``at``, or None.
        """
        with self._lock:
            running = self._thread is not None and self._thread.is_alive()
            state = "running" if running else "never" if self._found is None else "done"
            return {"state": state, "failed": self._failed, "report": self._found}

    def ask(self, size: int | None = None) -> Status:
        """Begins a check unless one is under way.

        Args:
            size: of the ledger as it is; nothing is begun if that was checked. None always checks.
        """
        with self._lock:
            alive = self._thread is not None and self._thread.is_alive()
            same = size is not None and self._found is not None and self._found["size"] == size
            if not (alive or same or self._stopped):
                self._thread = threading.Thread(target=self._run, name="tacit-verify", daemon=True)
                self._thread.start()
        return self.status()

    def wait(self, seconds: float) -> Status:
        """The status once the check under way has ended, or after so long."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return self.status()

    def stop(self) -> None:
        """Ends a check that is under way."""
        with self._lock:
            self._stopped, thread = True, self._thread
            if self._process is not None:
                self._process.kill()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        try:
            found = self._checked()
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("the ledger couldn't be verified: %s", error)
            with self._lock:
                self._failed = "it couldn't be checked; the operator's log says why"
            return
        with self._lock:
            self._found, self._failed = found, None

    def _checked(self) -> Status:
        home = self._store.home
        # Its environment has the one database that this store is in, and no other.
        environment = {k: v for k, v in os.environ.items() if k != "TACIT_DATABASE"}
        command = [sys.executable, "-m", __name__]
        with self._lock:
            if self._stopped:
                raise OSError("it was stopped")
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        asked = json.dumps({"root": str(home.root), "url": home.url}).encode()
        try:
            out, err = self._process.communicate(asked)
        finally:
            process, self._process = self._process, None
        if process.returncode:
            said = err.decode(errors="replace").strip().splitlines()
            raise OSError(said[-1] if said else f"exit status {process.returncode}")
        found: Status = json.loads(out)
        return found


def main() -> None:
    """Checks the home that stdin names, and prints the report."""
    with contextlib.suppress(OSError):
        os.nice(19)
    asked = json.load(sys.stdin)
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    store = Store(Home(asked["root"], asked["url"]))
    try:
        report = check.verify(store)
    finally:
        store.close()
    json.dump({**report.to_json(), "at": at}, sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except TacitError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
