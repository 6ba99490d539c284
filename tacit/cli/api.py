"""``tacit api``: serves models, ledger and dashboard over HTTP, and describes itself."""

from __future__ import annotations

from typing import Annotated

import typer

from tacit.cli.access import RootOption
from tacit.cli.common import JsonOption, print_json

app = typer.Typer(help="The REST API and the dashboard.", invoke_without_command=True)


@app.callback()
def api(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8470,
    tls_cert: Annotated[
        str | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option("--tls-key", metavar="FILE", help="Its key, PEM.")
    ] = None,
    tls_proxy: Annotated[
        bool, typer.Option("--tls-proxy", help="A proxy in front of it has TLS.")
    ] = False,
    without_tls: Annotated[
        bool, typer.Option("--without-tls", help="Let others come in the clear.")
    ] = False,
    canary: Annotated[
        float, typer.Option(help="Share of a champion's requests that its challenger answers.")
    ] = 0.0,
    budget: Annotated[
        float, typer.Option("--budget", metavar="SECONDS", help="For a score, then it is 503.")
    ] = 0.1,
    as_json: JsonOption = False,
    home: RootOption = None,
) -> None:
    """Serve the tenants of a root, or one home, until it is told to stop."""
    if context.invoked_subcommand is not None:
        return
    import logging
    import sys
    from pathlib import Path

    from tacit.cli.access import root_of
    from tacit.server import telemetry
    from tacit.server.api.serving import Address, serve
    from tacit.server.scoring.settings import Settings

    root = root_of(home)
    certificate, key = (Path(p) if p is not None else None for p in (tls_cert, tls_key))
    address = Address(host, port, certificate, key, proxied=tls_proxy, plain=without_tls)
    telemetry.setup_logs(json=as_json)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url, "openapi": f"{url}/v1/openapi.json"})
        else:
            print(f"serving {root} at {url}; its description is {url}/v1/openapi.json")
            print(
                f"a first token: tacit access token issue NAME --role admin --days 30 --home {root}"
            )
        sys.stdout.flush()

    serve(root, address, ready, Settings(budget=budget, canary=canary))


@app.command()
def openapi(
    to: Annotated[
        str | None, typer.Option("--to", metavar="FILE", help="Where to write it.")
    ] = None,
) -> None:
    """Write the API's description, which needs no server and no home (JSON)."""
    from tacit.cli.common import written
    from tacit.server.api.describe import document

    text = document()
    if to is None:
        print(text, end="")
    else:
        written(to, text.encode())
