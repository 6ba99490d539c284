"""Flower's SuperLink, with all but the silos' part closed to the network.

Since flwr 1.40 one port serves three APIs: *fleet*, which SuperNodes use and sign; *control*,
by which `flwr run` starts any code on the SuperNodes and `flwr supernode register` lets nodes
in; *runtime*, which SuperExec and the ServerApp use. Without an account system, which isn't
part of the open distribution, control asks nobody for anything: whoever reaches the port is
the operator. Here a request that doesn't come from this machine reaches fleet and nothing else.

Guarantees: as far as the peer's address can be believed. Behind a proxy on the same machine
everybody comes from this machine: let such a proxy pass ``/v1/fleet/`` alone. Whoever has an
account on the machine is the operator too.

    python -m tacit.server.deploy.superlink --help      # the options are flower-superlink's
"""

from __future__ import annotations

import ipaddress

from flwr.superlink import main as flower
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = "/v1/fleet/"


class FleetOnly:
    """Refuses requests from other machines, but for the silos' API.

    Args:
        app: what answers the rest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan" or local(scope) or str(scope["path"]).startswith(OPEN):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("for this machine only", 403)(scope, receive, send)


def local(scope: Scope) -> bool:
    """Whether a request comes from the loopback interface."""
    peer = scope.get("client")
    try:
        address = ipaddress.ip_address(peer[0]) if peer else None
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


def main() -> None:
    """Runs the SuperLink until it is told to stop."""
    theirs = flower._get_middleware
    flower._get_middleware = lambda: [Middleware(FleetOnly), *theirs()]
    flower_superlink()


if __name__ == "__main__":
    main()
