"""Three pages for the operator's machines: ``/metrics``, ``/healthz``, ``/readyz``.

Plain HTTP without authentication: for the loopback interface, or a network that only the
operator's monitoring is on.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tacit.privacy.errors import ConfigError

log = logging.getLogger("tacit.telemetry")

# Seconds that an idle or slow caller may hold a thread, and connections at a time.
_PATIENCE, _CALLERS = 10.0, 16


class Serving:
    """The running server; calling it, or leaving its ``with`` block, stops it.

    Args:
        host: address to bind to.
        port: 0 takes a free one.
        registry: of the metrics.
        missing: names what isn't ready.
        stopped: called once, after the last answer.

    Attributes:
        address: host and port it listens at.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        missing: Callable[[], list[str]],
        stopped: Callable[[], None],
    ) -> None:
        try:
            self._server = _Server(host, port, registry, missing)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"telemetry can't listen at {host}:{port}: {error}", "choose another port"
            ) from error
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        self._stopped: Callable[[], None] | None = stopped
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="tacit-telemetry", daemon=True
        )
        self._thread.start()
        if not _loopback(self.address[0]):
            log.warning("metrics are served to others than this machine: they're the operator's")

    def __call__(self) -> None:
        """Stops: no more answers, the port is free."""
        if self._stopped is None:
            return
        stopped, self._stopped = self._stopped, None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        stopped()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _CALLERS

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        missing: Callable[[], list[str]],
    ) -> None:
        self.registry, self.missing = registry, missing
        self._free = threading.BoundedSemaphore(_CALLERS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each caller, up to a number; the others are hung up on."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Gives the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what failed, and not whom."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            log.exception("a request for telemetry failed")


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: _Server

    def do_GET(self) -> None:
        """One page."""
        page = self.path.partition("?")[0]
        if page == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.server.registry), kind)
        elif page == "/healthz":
            self._answer(200, b"ok\n")
        elif page == "/readyz":
            missing = self.server.missing()
            if missing:
                self._answer(503, f"not ready: {', '.join(missing)}\n".encode())
            else:
                self._answer(200, b"ready\n")
        else:
            self._answer(404, b"/metrics, /healthz or /readyz\n")

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Not which Python this is."""
        return "tacit"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: each line would have the caller's address."""


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
