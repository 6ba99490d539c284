"""Serving the API: uvicorn on one address, until it is told to stop.

Guarantees: without TLS it listens on this machine only, unless that was asked for by name. SIGTERM
and SIGINT end it in order: no new connections, requests under way are answered (for `DRAIN` seconds
at most), records are sealed, and the process ends with status 0. What callers say in headers about
where they come from isn't believed.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from tacit.privacy.errors import ConfigError, StorageError
from tacit.server.access.tenants import Tenants
from tacit.server.api.app import make_app
from tacit.server.api.settings import Settings
from tacit.server.api.wire import Wire
from tacit.server.scoring.settings import Settings as Scoring

DRAIN = 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, and how it is protected.

    Attributes:
        host: a name or address.
        port: 0 takes a free one.
        certificate, key: files of TLS, in PEM; both or neither.
        proxied: whether a proxy in front of it has TLS.
        plain: whether others than this machine may come without TLS.

    Raises:
        ConfigError: that would be open to a network, or isn't whole.
    """

    host: str = "127.0.0.1"
    port: int = 8470
    certificate: Path | None = None
    key: Path | None = None
    proxied: bool = False
    plain: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} must be 0 to 65535")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--tls-cert and --tls-key go together")
        if not (self.tls or self.plain or is_loopback(self.host)):
            raise ConfigError(
                f"host={self.host} is open to a network, and tokens would go over it in the clear",
                "--tls-cert and --tls-key; or --tls-proxy, if a proxy has TLS; or --without-tls",
            )

    @property
    def tls(self) -> bool:
        """Whether callers reach it by TLS."""
        return self.certificate is not None or self.proxied

    def url(self, port: int) -> str:
        """Where it can be reached from here, at the port that it got."""
        scheme = "https" if self.certificate is not None else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of names only localhost is one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    root: Path, address: Address, ready: Callable[[str], None], scoring: Scoring | None = None
) -> None:
    """Serves the tenants of a root until the process is told to stop.

    Args:
        root: of the tenants, or one home.
        address: where.
        ready: called with the URL once it answers.
        scoring: how it answers for records; None takes the defaults.

    Raises:
        StorageError: there is nothing to serve, or the address can't be had.
        ConfigError: the certificate can't be used.
    """
    if not Tenants(root).list():
        raise StorageError(
            f"home={root} holds no tenant and no ledger",
            "tacit access tenant add makes one, tacit simulate a home",
        )
    listener = _listener(address)
    with listener:
        app = make_app(root, Settings(tls=address.tls, scoring=scoring or Scoring()))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            http=Wire,
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN,
            ssl_certfile=address.certificate,
            ssl_keyfile=address.key,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"certificate={address.certificate} can't be used: {error}"
            ) from error
        url = address.url(listener.getsockname()[1])
        server = _Server(config, lambda: ready(url))
        # uvicorn raises a signal again once it has stopped in order; that is what was asked for.
        before = {sig: signal.signal(sig, _heard) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            server.run(sockets=[listener])
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


class _Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to answer."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def _heard(_: int, __: object) -> None:
    """A signal that was followed already."""


def _listener(address: Address) -> socket.socket:
    """A socket that is bound."""
    what = f"{address.host}:{address.port} can't be listened on"
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(place)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}", "choose another port") from error
    return made
