"""``tacit mirror``: the ledger shown in other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, recorded

if TYPE_CHECKING:
    from tacit.server.mirror.deliver import Mirror

app = typer.Typer(
    help="Mirror runs, versions and aliases into other tools, which are never asked.",
    no_args_is_help=True,
)


@app.callback()
def group() -> None:
    """A group, though it has one command."""


@app.command()
def mlflow(
    to: Annotated[
        str, typer.Option("--to", metavar="URI", help="The MLflow server: http://HOST:PORT.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow/--once", help="Go on until it is interrupted.")
    ] = False,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Upload versions' files too.")
    ] = False,
    experiment: Annotated[str, typer.Option(help="Where runs go there.")] = "tacit",
    prefix: Annotated[str, typer.Option(help="Of models' names there.")] = "",
    anew: Annotated[
        bool, typer.Option("--anew", help="Deliver everything again; puts aliases back.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Tell an MLflow server what the ledger says; report what was changed there by hand."""
    from tacit.server.mirror.deliver import Mirror, differences
    from tacit.server.mirror.mlflow import Server, check_uri
    from tacit.server.mirror.outbox import Outbox

    check_uri(to)
    store = open_store(home)
    outbox = Outbox(store, "\n".join(("mlflow", to, experiment, prefix)))
    if artifacts:
        recorded(store, "export", f"all versions, to {to}")
    with outbox.alone():
        server = Server(to, outbox.origin, experiment, prefix)
        if anew:
            outbox.forget()
        mirror = Mirror(store, server, outbox, artifacts)
        if follow:
            _follow(mirror)
            return
        count = mirror.once()
        changed = differences(store, server)
        position = outbox.position()
    if as_json:
        print_json({"leaves": count, "position": position, "changed": changed})
        return
    print(f"{count} leaves mirrored to {to}; it has those before leaf {position}")
    for line in changed:
        print(f"changed there: {line}")
    if changed:
        print("the ledger holds: nothing is read back; --anew delivers everything again")


def _follow(mirror: Mirror) -> None:
    import logging
    import signal
    import threading

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("tacit.mirror").setLevel(logging.INFO)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    mirror.follow(ended)
